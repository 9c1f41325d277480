"""Trunks' connections: whom this node dials and by which of its sockets, and who it is to those who dial it.

    the engine wants one  -> `Endpoint.dial`  -> a connection on the node's own socket, with an id of ours
    somebody offers vrl-t/1 -> `apart`        -> answered by the node's own key; who it is, the engine learns

A trunk's connection is a leg of the endpoint as others are: its keys are lent to the lane, its packets found
by their id. It is not kept for the process after a crash, which dials anew. Whom we dialed is known by
its pin before the engine hears that the connection is there. Must never live here: when to dial, which of two
connections stays, what is said (relay/core/trunk.py and its neighbours).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from aioquic.quic.connection import NetworkAddress

from relay import __version__
from relay.config import Config
from relay.config_addresses import split_address
from relay.config_trunks import TrunksConfig
from relay.core.trunk_greeting import PATIENCE_S, Identity, Pins
from relay.edge.peer import Peer
from relay.protocol.address import Address
from relay.quic import trunk
from relay.quic.connection import IssuedId, RelayQuic
from relay.quic.space import PathState


@dataclass(frozen=True, slots=True)
class Far:
    """Another node: where it is, and the pins by which it is known, 32 bytes each.

    `second`: where another path leads to it, if one does.
    """

    address: Address
    pins: frozenset[bytes]
    second: Address | None = None


class Trunks:
    """The nodes that we may dial, and our own key. `seed`: 32 bytes."""

    def __init__(self, seed: bytes, nodes: Mapping[str, Far]) -> None:
        self.apart = trunk.served(seed)
        """By protocol, with which certificate who dials us is answered."""
        self._configuration = trunk.dialing()
        self._nodes = nodes
        self._under_way: set[tuple[str, bool]] = set()

    @classmethod
    def of(cls, config: TrunksConfig, own: str, seed: bytes) -> Trunks:
        """As configured; `own`: our node's id, which may stand there and is not dialed."""
        pins = pins_of(config)
        nodes: dict[str, Far] = {}
        for row in config.nodes:
            if row.node != own:
                place = Address.parse(split_address(row.address, "trunks.nodes"))
                second = Address.parse(split_address(row.second, "trunks.nodes")) if row.second else None
                nodes[row.node] = Far(place, frozenset(pins[row.node]), second)
        return cls(seed, nodes)

    def begin(
        self, node: str, sockets: Sequence[socket.socket], *, second: bool = False
    ) -> tuple[int, NetworkAddress] | None:
        """Dial this node: number of the socket, and the address as that socket spells it.

        By the `second` path from the last socket that gets there: where a node listens on an address of each
        carrier's, that is another one. Until `done` it is not dialed again by that path. None: it is under
        way, unknown, or no socket gets there.
        """
        far = self._nodes.get(node)
        address = None if far is None else far.second if second else far.address
        if address is None or (node, second) in self._under_way:
            return None
        way = way_to(address, sockets, from_last=second)
        if way is not None:
            self._under_way.add((node, second))
        return way

    def dial(
        self,
        node: str,
        way: tuple[int, NetworkAddress],
        leg: int,
        path: PathState,
        issue: Callable[[], IssuedId],
        now: float,
        *,
        second: bool = False,
    ) -> Peer:
        """The connection to this node by this way, which has five seconds for its handshake."""
        quic = RelayQuic(configuration=self._configuration, path=path, issue=issue)
        quic.sock, address = way
        quic.connect(address, now)
        peer = Peer(leg, quic, address, now + PATIENCE_S)
        peer.node, peer.second, peer.is_trunk, peer.control_stream = node, second, True, 0
        return peer

    def done(self, node: str, *, second: bool = False) -> None:
        """The handshake is: it worked, or nothing comes of it."""
        self._under_way.discard((node, second))

    def admits(self, peer: Peer) -> bool:
        """Whether whom we dialed has shown a key of its pins. Who dialed us has nothing to show yet."""
        if not peer.node:
            return True
        far, shown = self._nodes.get(peer.node), peer.quic.peer_certificate
        return far is not None and shown is not None and trunk.pin_of(shown) in far.pins


def way_to(
    address: Address, sockets: Sequence[socket.socket], *, from_last: bool = False
) -> tuple[int, NetworkAddress] | None:
    """Number of the first socket from which packets get to this address, and how it spells it; None: none.

    `from_last`: of the last one. What comes back bears the same spelling: QUIC takes another one for a
    stranger's.
    """
    wanted = ip_address(address.host)
    numbered = list(enumerate(sockets))
    for number, sock in reversed(numbered) if from_last else numbered:
        bound = ip_address(sock.getsockname()[0])
        if bound.is_loopback and not wanted.is_loopback:
            continue
        if bound.version == wanted.version:
            return number, (*address, 0, 0) if wanted.version == 6 else (*address,)
        is_dual = bound.is_unspecified and bound.version == 6
        if is_dual and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            return number, (f"::ffff:{address.host}", address.port, 0, 0)
    return None


def identity_of(config: Config, seed: bytes, boot: bytes) -> Identity:
    """What this node says of itself to others. `seed`: of its key; `boot`: 8 bytes, random per process."""
    return Identity(
        node=config.node.id,
        cluster=config.node.cluster,
        region=config.node.region,
        version=__version__,
        variants=(config.state.variant,),
        boot=boot,
        seed=seed,
    )


def pins_of(config: TrunksConfig) -> Pins:
    """By which pins the configured nodes are known."""
    return {row.node: tuple(bytes.fromhex(pin) for pin in row.pins) for row in config.nodes}
