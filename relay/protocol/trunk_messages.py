"""The control messages of a trunk, `vrl-t/1`: a class per type, its number beside it.

Written and read as those of legs (messages.py), some of which trunks have, too. `half` is the number that the
home gave a half; `c`, `p` and `term` are a call, a participant in it, and how many homes it has had
(docs/protocol.md, section 14).

Must never live here: framing (trunk_control.py), and who may send what and when (core).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from relay.protocol import messages
from relay.protocol.messages import (
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    AnyTicket,
    Blob,
    Caps,
    Count,
    Index,
    Limits,
    Map,
    Message,
    Milliseconds,
    Ratio,
    RosterEntry,
    Why,
    Word,
)
from relay.protocol.trunk import MAX_DATAGRAM, MAX_ROUTE, MIN_ROUTE, ROUTES

MAX_HALVES: Final = 256  # named in one `Halves`
MAX_STANDBYS: Final = 2
MAX_SAID: Final = 16352  # bytes of a leg's message inside a frame of 16384: 32 are room for what is around it

B8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
NodeId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,64}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Route = Annotated[int, Meta(ge=MIN_ROUTE, le=MAX_ROUTE)]
Nodes = Annotated[tuple[NodeId, ...], Meta(max_length=32)]
Standbys = Annotated[tuple[NodeId, ...], Meta(max_length=MAX_STANDBYS)]

# ---------------------------------------------------------------- a trunk


class Greet(Message, frozen=True, kw_only=True):
    """Both: who I am. `key` and `pop` are the dialer's proof (trunk_proof.py); the acceptor has none."""

    TYPE: ClassVar[int] = 0x60
    v: Annotated[tuple[U8, ...], Meta(min_length=1, max_length=8)]
    node: NodeId
    cluster: Name
    region: NodeId
    version: Word
    variants: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=32)]  # that it serves
    boot: B8  # random per process
    dg: Annotated[int, Meta(ge=MAX_DATAGRAM, le=0xFFFF)]  # largest datagram it takes
    routes: Annotated[int, Meta(ge=0, le=ROUTES)]  # it will give at most
    now: Count  # ms since 1970
    key: B32 | None = None
    pop: B64 | None = None
    path: Literal[1, 2] | None = None  # by which this connection goes; None: this node takes no second one
    joins: B32 | None = None  # the `n` of the challenge by which the trunk began that this is a path of
    at: Count | None = None  # the number of the first message that follows on it

    def __post_init__(self) -> None:
        """ValueError, which a decoder makes the peer's fault, for half a proof."""
        if (self.key is None) is not (self.pop is None):
            raise ValueError("a key and its proof come together")
        if (self.joins is None) is not (self.at is None):
            raise ValueError("who joins says with which message")


class Halves(Message, frozen=True, kw_only=True):
    """Guest to home: what I have of your calls, as (call, term, half); `more` of them follow.

    `seq`: of the beat that this follows; None: what a connection begins with.
    """

    TYPE: ClassVar[int] = 0x61
    of: Annotated[tuple[tuple[B16, U32, U16], ...], Meta(max_length=MAX_HALVES)]
    more: bool = False
    seq: U32 | None = None


class Beat(Message, frozen=True, kw_only=True):
    """Home to guest: all halves live on. `halves`: how many it has there; `ok`: the newest `seq` answered."""

    TYPE: ClassVar[int] = 0x62
    seq: U32
    halves: U32
    ok: U32


# ---------------------------------------------------------------- halves


class Attach(Message, frozen=True, kw_only=True):
    """Guest to home: somebody came to me for your call, with this `tok` or `rt` and this proof of `n`.

    `term`: that of the home whose silence made the client come, where it did.
    """

    TYPE: ClassVar[int] = 0x68
    c: B16
    tok: Blob | None = None
    rt: AnyTicket | None = None
    n: B32
    pop: B64 | None = None
    leg: Literal["quic", "wt", "ws", "tls"]
    caps: Caps
    rtt: Milliseconds
    term: U32 | None = None

    def __post_init__(self) -> None:
        """ValueError, which a decoder makes the peer's fault, for a client that showed nothing."""
        if self.tok is None and self.rt is None:
            raise ValueError("neither token nor ticket")


class Seat(Map, frozen=True, kw_only=True):
    """What `messages.Joined` tells the client beside what `Attached` and the guest itself know."""

    roster: Annotated[tuple[RosterEntry, ...], Meta(max_length=32)] = ()
    gate: U32 = 0
    rly: bool = False
    rt: Blob | None = None


class Attached(Message, frozen=True, kw_only=True):
    """Home to guest: your half of the call, and what its person may."""

    TYPE: ClassVar[int] = 0x69
    c: B16
    half: U16
    p: Index
    term: U32
    variant: Word
    joined: Seat
    lim: Limits
    standby: Standbys


class Say(Message, frozen=True, kw_only=True):
    """Both: a control message [type, id, body] of or for the half's leg (`trunk_control.UP` and `DOWN`).

    `up`: it comes from the guest. Each of two nodes may have given the same number.
    """

    TYPE: ClassVar[int] = 0x6A
    half: U16
    m: Annotated[bytes, Meta(max_length=MAX_SAID)]
    up: bool = False


class Gate(Message, frozen=True, kw_only=True):
    """Home to guest: whom the half hears, and at which node each of them is."""

    TYPE: ClassVar[int] = 0x6B
    half: U16
    open: U32
    ep: U32
    at: Annotated[dict[Index, NodeId], Meta(max_length=32)]

    def __post_init__(self) -> None:
        """ValueError, which a decoder makes the peer's fault, for someone heard from nowhere."""
        if sum(1 << index for index in self.at) != self.open:
            raise ValueError("`at` names others than `open`")


class Grant(Message, frozen=True, kw_only=True):
    """Home to guest: to which nodes the half's voice may go, those alone."""

    TYPE: ClassVar[int] = 0x6C
    half: U16
    to: Nodes


class HalfState(Message, frozen=True, kw_only=True):
    """Guest to home: how the half's leg is."""

    TYPE: ClassVar[int] = 0x6F
    half: U16
    st: Literal["here", "silent", "lost", "moved", "gone"]
    code: U16 | None = None


class Heard(Map, frozen=True, kw_only=True):
    """How well the half's person heard another."""

    p: Index
    mos: Annotated[float, Meta(ge=1, le=5)] | None = None
    loss: Ratio | None = None
    delay_ms: Milliseconds | None = None
    gaps: Count | None = None
    packets: Count
    pt: U8 = 20
    silence_ms: U32 = 0


class Sum(Map, frozen=True, kw_only=True):
    """What a guest counted of a half since it began."""

    sent: Count
    came: Count
    first_ms: U32 | None = None
    rtt_ms: Milliseconds | None = None
    tells: bool = False
    drops: Annotated[dict[Word, Count], Meta(max_length=64)]  # by reason
    quality: Annotated[tuple[Heard, ...], Meta(max_length=32)]

    def __post_init__(self) -> None:
        """ValueError, which a decoder makes the peer's fault, for a speaker twice: each would count whole."""
        if len({row.p for row in self.quality}) < len(self.quality):
            raise ValueError("a speaker twice")


class Close(Message, frozen=True, kw_only=True):
    """Both: the half is over. `up`: says the guest, with its last `sum`."""

    TYPE: ClassVar[int] = 0x70
    half: U16
    why: Why | Literal["moved"]
    code: U16
    sum: Sum | None = None
    up: bool = False


class Part(Message, frozen=True, kw_only=True):
    """Guest to home, every 10 s and whenever there is news: for the record of the call and its indicators."""

    TYPE: ClassVar[int] = 0x72
    half: U16
    sum: Sum


# ---------------------------------------------------------------- routes


class Pull(Message, frozen=True, kw_only=True):
    """Listener's node to speaker's: send me this voice, on this number of mine."""

    TYPE: ClassVar[int] = 0x6D
    c: B16
    p: Index
    term: U32
    route: Route


class Stop(Message, frozen=True, kw_only=True):
    """Both: the route is over. `out`: one on which I sent; else one that I gave. Both may have the number."""

    TYPE: ClassVar[int] = 0x6E
    route: Route
    out: bool = False


class Ask(Message, frozen=True, kw_only=True):
    """Listener's node to speaker's: what the encoder shall do, as in `messages.Rate`."""

    TYPE: ClassVar[int] = 0x71
    c: B16
    p: Index
    bps: U32
    pt: U8
    ttl: U16


# ---------------------------------------------------------------- another home


class Mirror(Message, frozen=True, kw_only=True):
    """Home to standby: the call as it is now, in a ticket of nobody, or that it is `over`."""

    TYPE: ClassVar[int] = 0x73
    c: B16
    term: U32
    ht: AnyTicket | None = None
    over: bool = False

    def __post_init__(self) -> None:
        """ValueError, which a decoder makes the peer's fault, for a call that is both or neither."""
        if (self.ht is None) is not self.over:
            raise ValueError("a call, or that it is over")


class Shift(Message, frozen=True, kw_only=True):
    """Home to guest: `to` is the next home; attach there."""

    TYPE: ClassVar[int] = 0x74
    c: B16
    to: NodeId
    term: U32


class Taken(Message, frozen=True, kw_only=True):
    """A standby to all: I am home now, in this term."""

    TYPE: ClassVar[int] = 0x75
    c: B16
    term: U32
    node: NodeId


OWN: Final[dict[int, type[Message]]] = {
    cls.TYPE: cls
    for cls in (
        *(Greet, Halves, Beat, Attach, Attached, Say, Gate, Grant, Pull, Stop, HalfState, Close, Ask, Part),
        *(Mirror, Shift, Taken),
    )
}
"""Those that only trunks have."""

SHARED: Final[dict[int, type[Message]]] = {
    cls.TYPE: cls
    for cls in (messages.Challenge, messages.Ok, messages.Err, messages.Ping, messages.Pong, messages.Bye)
}
"""Those that trunks have in common with legs."""

ANSWERED: Final = frozenset(OWN.values()) - {Greet, Say, Part, Mirror}
"""Sent with an id, and answered: `Attach` by `Attached` or `Err`, the others by `Ok` or `Err`."""
