"""Control datagrams: what is told in passing, beside the media, and may be lost.

    00 00   padding
    00 01   ping         u32 ms | u32 seq
    00 02   pong         u32 ms | u32 seq of the ping | u32 ms of the answerer
    00 03   leg report   u16 seq | u32 ms | u8 count 1-8 | count x 28 bytes (`FlowReport`)
    00 04   nack         u8 flow | u8 KID | u16 base | u16 map
    00 05   tally        u32 base: which of the pings base to base + 63 came?
    00 06   tallied      u32 base | u64 map
    00 10   msgpack [type, seq, body], the newest seq of a type wins

Must never live here: rates and clocks; how often each is sent is the sender's business.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import control, structure
from relay.protocol.media import MAX_FLOW, MAX_SIZE, MIN_FLOW

CONTROL: Final = 0x00  # first byte of every control datagram

PADDING: Final = 0x00
PING: Final = 0x01
PONG: Final = 0x02
LEG_REPORT: Final = 0x03
NACK: Final = 0x04
TALLY: Final = 0x05
TALLIED: Final = 0x06
NEWEST_WINS: Final = 0x10

MAX_FLOWS: Final = 8  # in one leg report
WINDOW: Final = 64  # packets that one flow report tells of
UNKNOWN: Final = 0xFFFF  # a delay nobody measured

_PING: Final = struct.Struct(">II")
_PONG: Final = struct.Struct(">III")
_REPORT: Final = struct.Struct(">HIB")
_FLOW: Final = struct.Struct(">BBIQ7H")
_NACK: Final = struct.Struct(">BBHH")
_TALLY: Final = struct.Struct(">I")
_TALLIED: Final = struct.Struct(">IQ")


class Padding(NamedTuple):
    """Nothing, `size` bytes long in all."""

    size: int = 2


class Ping(NamedTuple):
    """Please answer. `ms` is the sender's clock modulo 2^32."""

    ms: int
    seq: int


class Pong(NamedTuple):
    """A ping's own fields and the answerer's clock in ms modulo 2^32."""

    ms: int
    seq: int
    answer_ms: int


class FlowReport(NamedTuple):
    """What came of one flow under one key.

    `map` bit i, lowest first, says that CTR base+i came; `base` is max(0, newest - 63). Delays are relative
    to their own minimum over 10 s, in 0.1 ms, None if unknown. `late` and `recovered` add up, modulo 2^16.
    """

    flow: int
    kid: int
    base: int
    map: int
    delay_min: int | None
    delay_mean: int | None
    delay_p95: int | None
    age_ms: int  # since the newest came
    jb_ms: int  # target of the jitter buffer
    late: int
    recovered: int  # first copy was a repeat

    @property
    def newest(self) -> int:
        """The largest CTR that came."""
        return self.base + self.map.bit_length() - 1

    def missing(self) -> list[int]:
        """Return the CTRs from `base` to the newest that have not come, oldest first."""
        return [self.base + i for i in range(self.map.bit_length()) if not self.map >> i & 1]


class LegReport(NamedTuple):
    """What this side received, 1 to 8 flows; `t` is the sender's clock, ms modulo 2^32."""

    seq: int
    t: int
    flows: tuple[FlowReport, ...]


class Nack(NamedTuple):
    """Send again: bit i of `map` wants the packet whose CTR is base+i modulo 2^16."""

    flow: int
    kid: int
    base: int
    map: int


class Tally(NamedTuple):
    """Which of the pings from `base` on came on this leg? One without an answer was lost on either way."""

    base: int


class Tallied(NamedTuple):
    """Bit i of `map`, lowest first, says that the ping whose seq is base+i came."""

    base: int
    map: int


class NewestWins(NamedTuple):
    """A control message that a later one replaces. `body` is None for a type this program does not know."""

    type: int
    seq: int
    body: control.Message | None


Datagram = Padding | Ping | Pong | LegReport | Nack | Tally | Tallied | NewestWins

_ENVELOPE: Final = msgspec.msgpack.Decoder(
    tuple[
        Annotated[int, msgspec.Meta(ge=0, le=0xFF)],
        Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)],
        msgspec.Raw,
    ]
)


def _bad(why: str) -> PeerError:
    return PeerError(ErrorCode.BAD_ENCODING, f"control datagram: {why}")


def decode_datagram(data: bytes) -> Datagram | None:
    """Decode a control datagram, first byte 00. None: a type this program does not know, to be ignored.

    PeerError(TOO_LARGE) above 1024 bytes, PeerError(BAD_ENCODING) for what breaks its format.
    """
    if len(data) > MAX_SIZE:
        raise PeerError(ErrorCode.TOO_LARGE, "control datagram too large")
    if len(data) < 2 or data[0] != CONTROL:
        raise _bad("no type")
    kind, rest = data[1], data[2:]
    if kind == PADDING:
        return Padding(len(data))
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return None
    try:
        return decoder(rest)
    except struct.error as error:
        raise _bad("wrong size") from error


def _decode_ping(rest: bytes) -> Ping:
    return Ping(*_PING.unpack(rest))


def _decode_pong(rest: bytes) -> Pong:
    return Pong(*_PONG.unpack(rest))


def _decode_nack(rest: bytes) -> Nack:
    nack = Nack(*_NACK.unpack(rest))
    if not MIN_FLOW <= nack.flow <= MAX_FLOW:
        raise _bad("not a media flow number")
    return nack


def _decode_tally(rest: bytes) -> Tally:
    return Tally(*_TALLY.unpack(rest))


def _decode_tallied(rest: bytes) -> Tallied:
    return Tallied(*_TALLIED.unpack(rest))


def _decode_report(rest: bytes) -> LegReport:
    seq, t, count = _REPORT.unpack_from(rest)
    if not 1 <= count <= MAX_FLOWS or len(rest) != _REPORT.size + count * _FLOW.size:
        raise _bad("flow count")
    return LegReport(seq, t, tuple(map(_flow_report, _FLOW.iter_unpack(rest[_REPORT.size :]))))


def _flow_report(fields: tuple[int, ...]) -> FlowReport:
    flow, kid, base, bits, low, mean, p95, age_ms, jb_ms, late, recovered = fields
    if not MIN_FLOW <= flow <= MAX_FLOW:
        raise _bad("not a media flow number")
    # The newest came, so it is marked; and with more than a window behind it, it is the last of the window.
    if bits == 0 or (base > 0 and bits >> (WINDOW - 1) == 0):
        raise _bad("the newest packet is not marked")
    if base + bits.bit_length() - 1 > 0xFFFF_FFFF:
        raise _bad("counter out of range")
    return FlowReport(
        flow, kid, base, bits, _delay(low), _delay(mean), _delay(p95), age_ms, jb_ms, late, recovered
    )


def _delay(value: int) -> int | None:
    return None if value == UNKNOWN else value


def _decode_newest_wins(rest: bytes) -> NewestWins:
    structure.check(rest)
    number, seq, raw = structure.decode(_ENVELOPE, rest)
    return NewestWins(number, seq, control.decode_map(number, bytes(raw)))


_DECODERS: Final[dict[int, Callable[[bytes], Datagram]]] = {
    PING: _decode_ping,
    PONG: _decode_pong,
    LEG_REPORT: _decode_report,
    NACK: _decode_nack,
    TALLY: _decode_tally,
    TALLIED: _decode_tallied,
    NEWEST_WINS: _decode_newest_wins,
}


def encode_datagram(value: Datagram) -> bytes:
    """Return the datagram of `value`. LocalError if a field does not fit or the result passes 1024 bytes."""
    try:
        data = _encoded(value)
    except (struct.error, TypeError) as error:
        raise LocalError("control datagram field out of range") from error
    if len(data) > MAX_SIZE:
        raise LocalError("control datagram too large")
    return data


def _encoded(value: Datagram) -> bytes:
    match value:
        case Padding(size):
            if size < 2:
                raise LocalError("padding takes at least 2 bytes")
            return bytes(size)
        case Ping():
            return bytes((CONTROL, PING)) + _PING.pack(*value)
        case Pong():
            return bytes((CONTROL, PONG)) + _PONG.pack(*value)
        case Nack():
            return bytes((CONTROL, NACK)) + _NACK.pack(*value)
        case Tally():
            return bytes((CONTROL, TALLY)) + _TALLY.pack(*value)
        case Tallied():
            return bytes((CONTROL, TALLIED)) + _TALLIED.pack(*value)
        case LegReport(seq, t, flows):
            if not 1 <= len(flows) <= MAX_FLOWS:
                raise LocalError("a leg report tells of 1 to 8 flows")
            head = bytes((CONTROL, LEG_REPORT)) + _REPORT.pack(seq, t, len(flows))
            return head + b"".join(map(_encoded_flow, flows))
    if value.body is None:
        raise LocalError("nothing to send")
    # The sequence number stands where a stream frame has its message id.
    return bytes((CONTROL, NEWEST_WINS)) + control.encode_body(value.body, value.seq)


def _encoded_flow(report: FlowReport) -> bytes:
    delays = (UNKNOWN if d is None else d for d in (report.delay_min, report.delay_mean, report.delay_p95))
    tail = (report.age_ms, report.jb_ms, report.late, report.recovered)
    return _FLOW.pack(report.flow, report.kid, report.base, report.map, *delays, *tail)
