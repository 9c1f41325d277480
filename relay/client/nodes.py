"""At which relay of a cluster a call begins: a signed node list, and one order of nodes for all in the call.

    document --keys, cluster, time (relay/region/nodelist.py)--> NodeBook
    NodeBook, call --order--> nodes --connect--> a session at the first of them that can be reached

People of one call have to come to the same node, so what each of them measures may not decide alone. By rank:
the node that the product names; the region that it or the token names (`rgn`), there by rendezvous of the
call's id; else the nearest region, which is for who begins a call, while its product tells the others where
that was. Lists for clients do not say how nodes are, so all who have one of the same revision find the same
order. Must never live here: what makes a list good, how far a region is (probing.py).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from relay.client.errors import RefusedError, SessionError
from relay.client.probing import TRY_S, round_trips
from relay.client.session import Session, connect
from relay.errors import ErrorCode, RelayError
from relay.protocol import token as capability
from relay.protocol.ids import CallId
from relay.protocol.signed import kid_of
from relay.region.directory import Directory
from relay.region.nodelist import MAX_SIZE, Keeper, Node, NodeList

PATH: Final = "/v1/nodes"
FETCH_S: Final = 5.0
USABLE: Final = ("quic", "wss", "tls")
"""Schemes of addresses that this SDK speaks; the first is the one on UDP."""
_UNREACHABLE: Final = frozenset({ErrorCode.GENERAL, ErrorCode.IDLE_TIMEOUT, ErrorCode.DRAINING})
"""Of a node that is not there, or takes nobody: the next one may be."""


class NoNode(StrEnum):
    """Why there is no node to go to."""

    NO_LIST = "no_list"  # none was taken
    UNKNOWN_NODE = "unknown_node"  # the one that the product named is not on the list
    NONE_FITS = "none_fits"  # of this variant, or within the rules of the region
    NO_ANSWER = "no_answer"  # no list where one was asked for


class NodesError(RelayError):
    """There is no node to go to. `reason` is for programs."""

    def __init__(self, reason: NoNode, message: str) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason


class NodeBook:
    """The newest node list that counts. `keys` are Ed25519 public keys, pinned by the application."""

    def __init__(
        self, keys: Iterable[bytes], cluster: str = "relay", wall: Callable[[], float] = time.time
    ) -> None:
        self._keeper = Keeper(cluster, {kid_of(key): key for key in keys})
        self._wall = wall

    @property
    def listed(self) -> NodeList | None:
        """What counts; None: nothing was taken yet. Past its time it still says where nodes were."""
        return self._keeper.list

    def take(self, raw: bytes) -> bool:
        """A document, from wherever; whether it says anything new.

        relay.region.nodelist.ListError, with `reason`: it does not count, and what was taken before does.
        """
        return self._keeper.on_document(raw, self._wall())

    async def fetch(self, url: str) -> bool:
        """Take what a host hands out: "https://host", or a whole address. NodesError, ListError."""
        import aiohttp  # half of what this package takes to import, for who fetches only

        address = url if urlsplit(url).path.strip("/") else url.rstrip("/") + PATH
        timeout = aiohttp.ClientTimeout(total=FETCH_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(address) as answer:
                raw = await answer.content.read(MAX_SIZE + 1) if answer.status == 200 else None
                while raw is not None and len(raw) <= MAX_SIZE and not answer.content.at_eof():
                    raw += await answer.content.read(MAX_SIZE + 1)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NodesError(NoNode.NO_ANSWER, type(error).__name__) from None
        if raw is None:
            raise NodesError(NoNode.NO_ANSWER, f"HTTP status {answer.status}")
        return self.take(raw)

    async def measure(self, variant: str = "control", try_s: float = TRY_S) -> dict[str, float]:
        """Seconds to each region that answers within `try_s`, for `order`."""
        found: dict[str, str] = {}
        for node in self._known().nodes:
            urls = usable(node)
            if node.variant == variant and not node.draining and urls:
                found.setdefault(node.region, urls[0])
        return await round_trips(found, try_s)

    def order(
        self,
        call: CallId,
        *,
        node: str = "",
        region: str = "",
        variant: str = "control",
        measured: Mapping[str, float] | None = None,
    ) -> list[Node]:
        """The node for a call, and at most two to try if it cannot be reached, first to last. NodesError.

        `node` is the id that the product names, `region` the one that it or the token does, `measured`
        seconds to regions. What stands first decides.
        """
        listed = self._known()
        directory = Directory()
        directory.on_list(listed, 0.0, listed.issued_at)
        if node:
            named = next((each for each in listed.nodes if each.id == node), None)
            if named is None:
                raise NodesError(NoNode.UNKNOWN_NODE, "the list has no such node")
            return [named, *directory.standbys(call.hex(), node, {named.region: 0.0}, 0.0)]
        far = {region: 0.0} if region else dict(measured or {})
        placement = directory.place(call.hex(), variant, far, 0.0, region)
        if placement is None:
            raise NodesError(NoNode.NONE_FITS, "no listed node takes the call")
        return [placement.home, *placement.standby]

    @asynccontextmanager
    async def connect(
        self, *, token: bytes, node: str = "", region: str = "", variant: str = "control", **options: Any
    ) -> AsyncIterator[Session]:
        """As `relay.client.connect` with its `options`, to the node that the list has for the token's call.

        Two who are to meet need the same `node` or `region`, if their tokens name no region. A node that
        cannot be reached, or leaves, is passed over for the next; one that refuses us for another reason is
        not. NodesError, SessionError of the last, RefusedError.
        """
        claims = capability.decode_claims(capability.parse(token).body)
        region = region or claims.rgn or ""
        measured = None if node or region else await self.measure(variant)
        order = self.order(claims.cid, node=node, region=region, variant=variant, measured=measured)
        async with AsyncExitStack() as stack:
            tcp = bool(claims.net & capability.NET_TCP_LEGS)
            yield await _enter(stack, [usable(each, tcp=tcp) for each in order], token, options)

    def _known(self) -> NodeList:
        if self.listed is None:
            raise NodesError(NoNode.NO_LIST, "no node list was taken")
        return self.listed


def usable(node: Node, *, tcp: bool = True) -> list[str]:
    """Its addresses that this SDK can go to, best first; `tcp`: whether the token allows legs on TCP."""
    schemes = USABLE if tcp else USABLE[:1]
    return [url for url in node.urls if urlsplit(url).scheme in schemes]


async def _enter(
    stack: AsyncExitStack, order: list[list[str]], token: bytes, options: Mapping[str, Any]
) -> Session:
    """A session at the first that can be reached."""
    error: SessionError | RefusedError | None = None
    for urls in order:
        if not urls:
            continue
        try:
            return await stack.enter_async_context(
                connect(urls[0], token=token, fallbacks=urls[1:], **options)
            )
        except (SessionError, RefusedError) as failed:
            if failed.code not in _UNREACHABLE:
                raise
            error = failed
    if error is None:
        raise NodesError(NoNode.NONE_FITS, "none of them has an address that this client speaks")
    raise error
