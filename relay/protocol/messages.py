"""The control messages of `vrl/1`: a class per type, its number beside it.

The field names are the keys on the wire; an absent key means the default written here, unknown keys are
ignored. A decoded value has passed every size and range that stands at its field.

Must never live here: framing (control.py), and who may send what and when (core).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

MAX_E2E: Final = 8192  # bytes of an end-to-end blob: two key bundles, or one small attachment part
MAX_HANDOVER: Final = 12_288  # bytes of a ticket with a whole call in it; one of two people has some 800
VERSION: Final = 1

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # what a browser's number still holds exactly
Ratio = Annotated[float, Meta(ge=0, le=100)]  # per cent
Milliseconds = Annotated[float, Meta(ge=0, le=3_600_000)]
B16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
B32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
B64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
Blob = Annotated[bytes, Meta(max_length=1024)]  # tokens and tickets
AnyTicket = Annotated[bytes, Meta(max_length=MAX_HANDOVER)]
Index = Annotated[int, Meta(ge=0, le=31)]
Flow = Annotated[int, Meta(ge=1, le=62)]
Word = Annotated[str, Meta(max_length=32)]
Text = Annotated[str, Meta(max_length=256)]
Suites = Annotated[tuple[U16, ...], Meta(max_length=16)]
Why = Literal[
    "completed",
    "cancelled",
    "missed",
    "declined",
    "busy",
    "answered_elsewhere",
    "removed",
    "revoked",
    "expired",
    "failed",
]

# Text fields whose values come from small closed sets; all other text and bytes stay out of reprs.
_SHOWN: Final = frozenset(
    {"why", "ev", "op", "st", "leg", "node", "sdk", "app", "os", "dev", "use", "kinds", "way"}
)


class Map(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A map on the wire. Its repr shows numbers, flags and words of closed sets: no id, address or key."""

    def __repr__(self) -> str:
        fields = (f"{name}={_shown(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(fields)})"


def _shown(name: str, value: object) -> str:
    if value is None or isinstance(value, bool | int | float | Map) or name in _SHOWN:
        return repr(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return "…"


class Message(Map, frozen=True, kw_only=True, omit_defaults=True):
    """A message body. `TYPE` is its number on the wire."""

    TYPE: ClassVar[int]


# ---------------------------------------------------------------- opening a leg


class Challenge(Message, frozen=True, kw_only=True):
    """Relay to client, in answer to a first `Ping`: sign `n` to prove the key named in the token."""

    TYPE: ClassVar[int] = 0x01
    n: B32
    t: Count  # the relay's clock, ms


class Caps(Map, frozen=True, kw_only=True):
    """What the client can do."""

    dg: U16 = 1024  # largest media datagram it takes, bytes
    suites: Suites = (5,)  # SFrame suites, best first
    dred: bool = False
    red: bool = False
    dtx: bool = False
    nack: bool = False
    lr: bool = False  # wants leg reports, since it sees no ACKs


class Cli(Map, frozen=True, kw_only=True):
    """What the client is: names from lists that the operator keeps in the configuration."""

    sdk: Word = ""
    app: Word = ""
    os: Word = ""
    dev: Word = ""  # device class


# A factory's value is always written: `v` is never left out, whatever its value.
def _versions() -> tuple[int, ...]:
    return (VERSION,)


def _version() -> int:
    return VERSION


class Hello(Message, frozen=True, kw_only=True):
    """Client to relay: who I am, by `tok` (capability token) or `resume` (ticket); `pop` if that names a key.

    A ticket without a key in it is only good together with a fresh token, so both may be present. `stand`:
    the leg waits until the node in use is silent.
    """

    TYPE: ClassVar[int] = 0x02
    v: Annotated[tuple[U8, ...], Meta(min_length=1, max_length=8)] = msgspec.field(default_factory=_versions)
    tok: Blob | None = None
    resume: AnyTicket | None = None
    stand: bool = False
    pop: B64 | None = None
    caps: Caps = Caps()
    leg: Literal["quic", "wt", "ws", "tls"] = "quic"
    cli: Cli = Cli()


class Limits(Map, frozen=True, kw_only=True):
    """What the leg may use: kbit/s up and down, media packets per second."""

    up: Count
    dn: Count
    pps: Count


class Welcome(Message, frozen=True, kw_only=True):
    """Relay to client: the leg is admitted."""

    TYPE: ClassVar[int] = 0x03
    v: U8 = msgspec.field(default_factory=_version)
    sid: B16
    obs: tuple[Text, U16]  # the client's address as the relay sees it
    dg: U16 = 1024
    ka: U16  # keepalive interval, s
    ack: U16 | None = None  # for how long to hold acknowledgements of audio, ms; none: as the client likes
    lim: Limits
    node: Text
    now: Count  # wall clock, ms since 1970


class Ok(Message, frozen=True, kw_only=True):
    """The request with this id took effect."""

    TYPE: ClassVar[int] = 0x04


class Err(Message, frozen=True, kw_only=True):
    """The request with this id was refused; if `fatal` the leg closes with the same code."""

    TYPE: ClassVar[int] = 0x05
    code: U16
    msg: Text = ""
    fatal: bool = False
    retry_ms: U32 | None = None
    data: dict[str, Any] | None = None


class Ping(Message, frozen=True, kw_only=True):
    """Either way: answer with the same `t`. Opens the stream when the token names a key."""

    TYPE: ClassVar[int] = 0x06
    t: Count  # the sender's clock, ms


class Pong(Message, frozen=True, kw_only=True):
    """The `t` of a ping, returned."""

    TYPE: ClassVar[int] = 0x07
    t: Count


class TokenUpdate(Message, frozen=True, kw_only=True):
    """Client to relay: a newer token of the same sub and cid with other rights."""

    TYPE: ClassVar[int] = 0x08
    tok: Blob


class Bye(Message, frozen=True, kw_only=True):
    """Either way: the leg ends on purpose."""

    TYPE: ClassVar[int] = 0x09
    code: U16 = 0
    reason: Text = ""


class Ticket(Message, frozen=True, kw_only=True):
    """Relay to client: resume with this if the leg breaks; a newer one replaces it."""

    TYPE: ClassVar[int] = 0x0A
    rt: Blob
    ttl: U16  # s
    ht: AnyTicket | None = None  # the same for the standbys


# ---------------------------------------------------------------- a call


class Want(Map, frozen=True, kw_only=True):
    """What the client asks of a group call: at most `n` speakers at once."""

    n: U8 = 8


class Join(Message, frozen=True, kw_only=True):
    """Client to relay: enter the call the token names."""

    TYPE: ClassVar[int] = 0x10
    c: B16
    want: Want | None = None


class Accept(Message, frozen=True, kw_only=True):
    """Client to relay: I want to be heard by, and to hear, those who accept too."""

    TYPE: ClassVar[int] = 0x11
    c: B16
    suites: Suites = ()


class Decline(Message, frozen=True, kw_only=True):
    """Client to relay: no."""

    TYPE: ClassVar[int] = 0x12
    c: B16
    why: Literal["busy", "declined", "permission"] = "declined"


class RosterEntry(Map, frozen=True, kw_only=True):
    """One participant as `Joined` tells it."""

    p: Index
    sub: B16
    st: Literal["joined", "accepted", "away"]
    mu: bool = False
    rly: bool = False  # no direct path with this one
    ctc: Annotated[int, Meta(ge=0, le=1)] = 0  # 0 stranger, 1 accepted contact; the lower of the pair


class StandbyEntry(Map, frozen=True, kw_only=True):
    """A node that takes the call up when this one is silent."""

    node: Annotated[str, Meta(max_length=64)]
    url: Text


class Joined(Message, frozen=True, kw_only=True):
    """Relay to client: you are participant `p`; send media on flow `up`."""

    TYPE: ClassVar[int] = 0x13
    c: B16
    p: Index
    up: Flow
    roster: Annotated[tuple[RosterEntry, ...], Meta(max_length=32)] = ()
    gate: U32 = 0  # bit i: participant i may be heard by you
    rly: bool = False
    rt: Blob | None = None
    standby: Annotated[tuple[StandbyEntry, ...], Meta(max_length=2)] = ()  # the first to try first


class Gate(Message, frozen=True, kw_only=True):
    """Relay to client: whom you hear now, and on which flow each arrives."""

    TYPE: ClassVar[int] = 0x14
    c: B16
    open: U32
    ep: U32  # +1 with each change of membership
    fl: Annotated[dict[Index, Flow], Meta(max_length=32)] = {}


class Peer(Message, frozen=True, kw_only=True):
    """Relay to client: news of another participant."""

    TYPE: ClassVar[int] = 0x15
    c: B16
    p: Index
    ev: Literal["join", "accept", "left", "away", "back"]
    sub: B16 | None = None
    why: Word | None = None


class Hangup(Message, frozen=True, kw_only=True):
    """Client to relay: ends a 1:1, leaves a group."""

    TYPE: ClassVar[int] = 0x16
    c: B16
    why: Word | None = None


class Ended(Message, frozen=True, kw_only=True):
    """Relay to client: the call is over for you. `code` and `data` say more where `why` alone does not."""

    TYPE: ClassVar[int] = 0x17
    c: B16
    why: Why
    code: U16 | None = None
    data: dict[str, Any] | None = None


class Rejoin(Message, frozen=True, kw_only=True):
    """Client to relay, on a new connection: take my place again. Answered by `Joined`."""

    TYPE: ClassVar[int] = 0x18
    c: B16
    rt: AnyTicket
    last: Annotated[dict[Index, U32], Meta(max_length=32)] = {}  # newest CTR heard, by participant


class Mod(Message, frozen=True, kw_only=True):
    """Client to relay: moderation. `p` is absent for `end` only."""

    TYPE: ClassVar[int] = 0x19
    c: B16
    p: Index | None = None
    op: Literal["mute", "unmute", "remove", "admit", "end"]


class Block(Message, frozen=True, kw_only=True):
    """Client to relay: neither hears the other from now on, or the contrary."""

    TYPE: ClassVar[int] = 0x1B
    c: B16
    p: Index
    on: bool


class Mute(Message, frozen=True, kw_only=True):
    """Either way: the relay forwards nothing of `p` (absent: the sender). `hard` is a moderator's."""

    TYPE: ClassVar[int] = 0x20
    c: B16
    p: Index | None = None
    on: bool
    hard: bool = False


# ---------------------------------------------------------------- reports


class Rate(Message, frozen=True, kw_only=True):
    """Relay to client: what your encoder shall do, for `ttl` ms unless told again. The client clamps."""

    TYPE: ClassVar[int] = 0x23
    c: B16
    bps: U32  # Opus bits per second
    pt: U8  # speech in one packet, ms
    fec: Annotated[int, Meta(ge=0, le=100)] = 0  # loss that in-band correction shall cover, %; 0: none
    red: Annotated[int, Meta(ge=0, le=2)] = 0  # earlier frames in each packet
    dtx: bool = True  # silence may be left out
    ttl: U16 = 5000


class RrEntry(Map, frozen=True, kw_only=True):
    """What a receiver heard of one sender, end to end, since the call began (`jit` is the present value)."""

    p: Index
    hi: U32  # newest CTR
    n: Count  # packets that came
    lost: Count
    dup: Count = 0
    late: Count = 0
    jit: U32 = 0  # 0.1 ms
    plc: Count = 0  # ms concealed
    nokey: Count = 0  # packets for which no key was known


class Rr(Message, frozen=True, kw_only=True):
    """Client to relay to client, once a second: end-to-end receiver report."""

    TYPE: ClassVar[int] = 0x24
    c: B16
    s: Annotated[tuple[RrEntry, ...], Meta(max_length=32)]


class LegStats(Message, frozen=True, kw_only=True):
    """Relay to client: the state of this hop. Losses in per cent, estimates in bit/s."""

    TYPE: ClassVar[int] = 0x25
    rtt: Milliseconds
    up_loss: Ratio = 0.0
    dn_loss: Ratio = 0.0
    dn_drop: Count = 0  # copies dropped at the relay on the way down
    q_ms: Milliseconds = 0.0  # age of the oldest queued copy
    est_up: Count = 0
    est_dn: Count = 0
    mp: U16 = 0  # least playout delay while repeats are on, ms; 0: as the client likes


class Feedback(Message, frozen=True, kw_only=True):
    """Client to relay: what the person thought of the call."""

    TYPE: ClassVar[int] = 0x27
    c: B16
    stars: Annotated[int, Meta(ge=1, le=5)]


class Report(Message, frozen=True, kw_only=True):
    """Client to relay: a person reports participant `p`. `reason` is a word of the product's own list."""

    TYPE: ClassVar[int] = 0x28
    c: B16
    p: Index
    reason: Annotated[str, Meta(max_length=64)]


# ---------------------------------------------------------------- the way around the relay


class Cand(Message, frozen=True, kw_only=True):
    """Client to relay to client: where `to` may try to reach me, sealed so that the relay cannot read it.

    `gen` rises when the network changes; `kinds` says what sort of addresses the blob holds, `end` that no
    more of this generation follow. `acl` are addresses the sender wants TURN to let the other reach: for the
    relay only, never passed on.
    """

    TYPE: ClassVar[int] = 0x30
    c: B16
    to: Index
    gen: U32
    b: Blob = b""
    kinds: Annotated[tuple[Literal["host", "srflx", "relay"], ...], Meta(max_length=16)] = ()
    acl: Annotated[tuple[tuple[Annotated[str, Meta(max_length=45)], U16], ...], Meta(max_length=8)] = ()
    end: bool = False
    p: Index | None = None  # written by the relay: whose they are


class Obs(Message, frozen=True, kw_only=True):
    """Relay to client: your address as seen now; `seq` rises with each change."""

    TYPE: ClassVar[int] = 0x31
    ip: Text
    port: U16
    seq: U32


class Punch(Message, frozen=True, kw_only=True):
    """Relay to client: knock at `p` in `delay_ms`, when it knocks too. `round` counts from 1."""

    TYPE: ClassVar[int] = 0x32
    c: B16
    p: Index
    round: U8
    delay_ms: U16


class Path(Message, frozen=True, kw_only=True):
    """Client to relay: what media to and from `p` goes by now, and how well."""

    TYPE: ClassVar[int] = 0x33
    c: B16
    p: Index
    use: Literal["direct", "relay"]
    rtt: Milliseconds | None = None
    loss: Ratio | None = None


class Turn(Message, frozen=True, kw_only=True):
    """Client to relay, empty: TURN credentials, please. Relay to client: all of it.

    They are good for `ttl` seconds to begin with; what was allocated with them goes on.
    """

    TYPE: ClassVar[int] = 0x34
    urls: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()
    user: Text = ""
    password: Text = msgspec.field(default="", name="pass")
    ttl: U32 = 0  # s


# ---------------------------------------------------------------- sealed for the other side


class E2e(Message, frozen=True, kw_only=True):
    """Client to relay to client: a blob the relay cannot read. `k`: 0 keys, 1 app, 2 attachment."""

    TYPE: ClassVar[int] = 0x38
    c: B16
    to: Index | None = None  # nobody named: everyone in the call
    k: Annotated[int, Meta(ge=0, le=2)]
    b: Annotated[bytes, Meta(max_length=MAX_E2E)]
    p: Index | None = None  # written by the relay: whose it is


# ---------------------------------------------------------------- moving


class Drain(Message, frozen=True, kw_only=True):
    """Relay to client: move to one of `to` with ticket `ht`, starting within `in_ms`, done by `by_ms`."""

    TYPE: ClassVar[int] = 0x40
    in_ms: U32
    by_ms: U32
    to: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()
    ht: AnyTicket | None = None
    stb: Annotated[int, Meta(ge=0, le=2)] = 0  # so many at the end of `to` are standbys, the rest the home's


class Moved(Message, frozen=True, kw_only=True):
    """Client to the old relay: the new leg carries the call, or could not."""

    TYPE: ClassVar[int] = 0x41
    c: B16
    ok: bool


class Carry(Message, frozen=True, kw_only=True):
    """Client to relay, on one of its two legs: this leg carries media this way, the other one the other way.

    With "both" this leg carries all, and the other one is let go.
    """

    TYPE: ClassVar[int] = 0x42
    c: B16
    way: Literal["up", "down", "both"]


MESSAGES: Final[dict[int, type[Message]]] = {
    cls.TYPE: cls
    for cls in (
        *(Challenge, Hello, Welcome, Ok, Err, Ping, Pong, TokenUpdate, Bye, Ticket),
        *(Join, Accept, Decline, Joined, Gate, Peer, Hangup, Ended, Rejoin, Mod, Block),
        *(Mute, Rate, Rr, LegStats, Feedback, Report),
        *(Cand, Obs, Punch, Path, Turn, E2e, Drain, Moved, Carry),
    )
}
