"""The node list: which nodes there are and how they were, signed, so that any host may hand it out.

    {"kid":"16 hex digits","list":{...},"sig":"base64 of 64 bytes"}          canonical JSON, at most 1 MiB

Canonical: keys sorted, no spaces, UTF-8, whole numbers; any other spelling is refused, so the bytes decide.
The signature is Ed25519 over "vrl-nodes-v1\\0" || kid || the bytes of `list`. Keys that are not known are
ignored. Vectors: tests/vectors/nodelist.json. Must never live here: clock, files, how it is fetched.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from relay.errors import LocalError, RelayError
from relay.protocol import signed
from relay.protocol.ids import Kid

DOMAIN: Final = b"vrl-nodes-v1\0"
MAX_SIZE: Final = 1 << 20
MAX_NODES: Final = 4096
EARLY_S: Final = 3_600
"""A list from further in the future than this says that one of two clocks is wrong."""


class Refusal(StrEnum):
    """Why a list was not taken."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"  # no JSON, not canonical, or a field does not fit
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    OTHER_CLUSTER = "other_cluster"
    TOO_EARLY = "too_early"
    EXPIRED = "expired"
    OLDER = "older"
    CONTRADICTS = "contradicts"  # the revision we have, with other bytes


class ListError(RelayError):
    """A node list that does not count. `reason` for metrics and logs; the text quotes nothing of the list."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason


Name = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,64}\Z")]
Word = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._+-]{1,32}\Z")]
Url = Annotated[str, Meta(pattern=r"^(?:quic|https|wss|tls)://[^\s|]{1,248}\Z")]
Seconds = Annotated[int, Meta(ge=0, le=2**53 - 1)]
State = Literal["ok", "degraded", "bad", "unknown"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a node was when the list was made."""

    state: State
    score: Annotated[int, Meta(ge=0, le=100)] | None = None
    """Of its worst indicator; absent: nothing could be judged."""
    stress: Annotated[int, Meta(ge=0, le=1_000)]
    """Per cent of what it can do that is in use; may be above 100."""
    age_s: Seconds
    """How old its report was at `issued_at`."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    id: Name
    region: Name
    urls: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=8)]
    """Where clients reach it, best rung first."""
    variant: Word = "control"
    """Of the rollout whose calls it takes."""
    version: Word
    draining: bool = False
    """Takes no new calls."""
    health: Health | None = None
    """In the list for products only."""


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    """A list that holds."""

    v: Literal[1]
    cluster: Annotated[str, Meta(min_length=1, max_length=64)]
    rev: Seconds
    issued_at: Seconds
    """Unix seconds, as `not_after`."""
    not_after: Seconds
    nodes: Annotated[tuple[Node, ...], Meta(max_length=MAX_NODES)]
    may_leave_to: dict[Name, tuple[Name, ...]] = {}
    """Region -> other regions that its calls may go to. Of one that is not named here nobody said: to all."""


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kid: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    list: dict[str, Any]
    sig: Annotated[str, Meta(max_length=88)]


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def plain(nodes: NodeList) -> dict[str, Any]:
    """The JSON value of a list; keys with nothing to say are left out."""
    told: dict[str, Any] = msgspec.to_builtins(nodes)
    for node in told["nodes"]:
        if node["health"] is None:
            del node["health"]
        elif node["health"]["score"] is None:
            del node["health"]["score"]
    told["nodes"] = list(told["nodes"])
    if not told["may_leave_to"]:
        del told["may_leave_to"]
    return told


def seal(nodes: NodeList, seed: bytes) -> bytes:
    """The signed document. LocalError if no reader would take it."""
    kid = signed.kid_of(signed.public_of(seed))
    body = plain(nodes)
    signature = signed.sign(seed, DOMAIN + kid + canonical(body))
    raw = canonical({"kid": kid.hex(), "list": body, "sig": base64.b64encode(signature).decode()})
    try:
        verify(raw, {kid: signed.public_of(seed)})
    except ListError as error:
        raise LocalError(f"a node list that nobody takes: {error}") from error
    return raw


def verify(raw: bytes, keys: Mapping[Kid, bytes]) -> NodeList:
    """The list that one of `keys` (key id to public key) signed; ListError. Times are the Keeper's."""
    if len(raw) > MAX_SIZE:
        raise ListError(Refusal.TOO_LARGE, f"{len(raw)} bytes")
    envelope, body = _open(raw)
    kid = Kid(bytes.fromhex(envelope.kid))
    public = keys.get(kid)
    if public is None:
        raise ListError(Refusal.UNKNOWN_KEY, "signed by a key that is not among ours")
    if not signed.holds(public, DOMAIN + kid + body, _signature(envelope.sig)):
        raise ListError(Refusal.BAD_SIGNATURE, "the signature does not hold")
    return _parse(envelope.list)


def _signature(text: str) -> bytes:
    """The bytes of base64; none if it is not, or not the one spelling (spare bits are 0)."""
    try:
        signature = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return signature if base64.b64encode(signature).decode() == text else b""


def _open(raw: bytes) -> tuple[_Envelope, bytes]:
    """The envelope and the bytes of its list. Nothing in it is proven yet."""
    try:
        value = msgspec.json.decode(raw)
        if canonical(value) != raw:
            raise ListError(Refusal.MALFORMED, "not the canonical spelling")
        envelope = msgspec.convert(value, _Envelope)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ListError(Refusal.MALFORMED, "no signed list") from error
    return envelope, canonical(envelope.list)


def _parse(body: dict[str, Any]) -> NodeList:
    try:
        nodes = msgspec.convert(body, NodeList)
    except msgspec.ValidationError as error:
        path = str(error).rpartition(" - at ")[2]
        raise ListError(Refusal.MALFORMED, f"{path} does not fit") from error
    if len({node.id for node in nodes.nodes}) != len(nodes.nodes):
        raise ListError(Refusal.MALFORMED, "a node stands in it twice")
    if nodes.not_after <= nodes.issued_at:
        raise ListError(Refusal.MALFORMED, "it ends before it begins")
    return nodes


class Keeper:
    """The newest list that may be believed. `wall` is Unix seconds."""

    def __init__(self, cluster: str, keys: Mapping[Kid, bytes]) -> None:
        self._cluster = cluster
        self._keys = dict(keys)
        self._raw = b""
        self.list: NodeList | None = None
        """None until the first one came."""

    def on_keys(self, keys: Mapping[Kid, bytes]) -> None:
        """Other keys count from now on; the list that is here stays."""
        self._keys = dict(keys)

    def on_document(self, raw: bytes, wall: float) -> bool:
        """Take what was fetched; whether it said anything new. ListError: what was here stays."""
        new = verify(raw, self._keys)
        if new.cluster != self._cluster:
            raise ListError(Refusal.OTHER_CLUSTER, "it is another cluster's")
        if wall < new.issued_at - EARLY_S:
            raise ListError(Refusal.TOO_EARLY, "made over an hour from now: is this clock right?")
        if wall >= new.not_after:
            raise ListError(Refusal.EXPIRED, "its time is over")
        if self.list is not None and new.rev < self.list.rev:
            raise ListError(Refusal.OLDER, f"revision {new.rev}, and {self.list.rev} is here")
        if self.list is not None and new.rev == self.list.rev:
            if raw != self._raw:
                raise ListError(Refusal.CONTRADICTS, f"another revision {new.rev} is here")
            return False
        self.list, self._raw = new, raw
        return True

    def is_current(self, wall: float) -> bool:
        """Whether the list is within its time. Past it calls still go where it says: better than nowhere."""
        return self.list is not None and wall < self.list.not_after
