"""Datagrams of a trunk: what passes between two relays beside the messages (docs/protocol.md, section 14).

    route  2     4040-7FFF: a varint of two bytes, 64 to 16383; given by who receives
    hop    1     relays passed: 01
    H ...        as in media.py from H on, R = 0

    00 00   padding      00 01   ping      00 02   pong      as in datagram.py
    00 08   hop report   u16 seq | u32 ms | u8 count 1-80 | count x 14 bytes (`RouteReport`)

The hop stands where a leg's datagram has its flow, and 1 is a flow number: from its third byte on a trunk's
datagram is one of a leg. So neither way touches what the sender's tag covers. Must never live here: who gave
which route to whom, and how long a datagram waits for others.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import datagram, media, wire
from relay.protocol.datagram import CONTROL, UNKNOWN, Padding, Ping, Pong
from relay.protocol.media import REPEAT_BIT, MediaHeader

HOP_REPORT: Final = 0x08

MIN_ROUTE: Final = 64  # below, a varint takes one byte, and a leg's flows are numbered so
MAX_ROUTE: Final = 16383
ROUTES: Final = MAX_ROUTE - MIN_ROUTE + 1
HOP: Final = 1  # the one value there is: what came by a trunk leaves by legs only
_HOP_AT: Final = 2
HEAD_SIZE: Final = 3  # route and hop
MAX_MEDIA: Final = _HOP_AT + media.MAX_SIZE

MAX_REPORTS: Final = 80  # routes in one hop report, so that it fits a packet of 1200 bytes
_REPORT: Final = struct.Struct(">HIB")
_ROUTE: Final = struct.Struct(">HIHHHH")
MAX_DATAGRAM: Final = 2 + _REPORT.size + MAX_REPORTS * _ROUTE.size
"""Bytes of the longest datagram, a full hop report: what `greet.dg` is at least."""


class Carried(NamedTuple):
    """A voice on a route. `header` is read from the hop on: there its offsets begin, and its `flow` is 1."""

    route: int
    hop: int  # anything but `HOP` is dropped, after the header was judged
    header: MediaHeader


class RouteReport(NamedTuple):
    """What came on one route in the last second, at who receives."""

    route: int
    newest: int  # CTR
    came: int
    missing: int  # for 1 s, or 128 behind
    late: int  # dropped as stale on arrival
    delay_p95: int | None  # of this hop, 0.1 ms over its minimum of 10 s; None: unknown


class HopReport(NamedTuple):
    """What this side received, 1 to 80 routes, each once; `t` is its clock, ms modulo 2^32."""

    seq: int
    t: int
    routes: tuple[RouteReport, ...]


Control = Padding | Ping | Pong | HopReport


def _bad(why: str) -> PeerError:
    return PeerError(ErrorCode.BAD_ENCODING, f"trunk datagram: {why}")


def decode(data: bytes) -> Carried | Control | None:
    """Decode one datagram of a trunk. None: control that this program does not know, to be ignored.

    PeerError with TOO_LARGE above its greatest size, VERSION for another header version, else BAD_ENCODING.
    """
    if not data:
        raise _bad("empty")
    if data[0] == CONTROL:
        return _decode_control(data)
    if data[0] >> 6 != 1:
        raise _bad("neither a route nor control")
    route, _ = wire.decode_varint(data)
    if route < MIN_ROUTE:
        raise _bad("a route of one byte in two")
    hop = data[_HOP_AT] if len(data) > _HOP_AT else 0
    header = media.decode(bytes((HOP,)) + data[HEAD_SIZE:])
    if header.repeat:
        raise _bad("a repeat: trunks repeat nothing")
    return Carried(route, hop, header)


def _decode_control(data: bytes) -> Control | None:
    if len(data) > MAX_DATAGRAM:
        raise PeerError(ErrorCode.TOO_LARGE, "control datagram too large")
    if len(data) > 1 and data[1] == HOP_REPORT:
        return _decode_report(data[2:])
    if len(data) > 1 and data[1] not in (datagram.PADDING, datagram.PING, datagram.PONG):
        return None  # those that legs alone have, too
    value = datagram.decode_datagram(data)
    assert isinstance(value, Padding | Ping | Pong)
    return value


def _decode_report(rest: bytes) -> HopReport:
    if len(rest) < _REPORT.size:
        raise _bad("wrong size")
    seq, t, count = _REPORT.unpack_from(rest)
    if not 1 <= count <= MAX_REPORTS or len(rest) != _REPORT.size + count * _ROUTE.size:
        raise _bad("route count")
    routes = tuple(
        RouteReport(route, newest, came, missing, late, None if delay == UNKNOWN else delay)
        for route, newest, came, missing, late, delay in _ROUTE.iter_unpack(rest[_REPORT.size :])
    )
    if len({each.route for each in routes}) < count:
        raise _bad("a route twice")
    if not all(MIN_ROUTE <= each.route <= MAX_ROUTE for each in routes):
        raise _bad("not a route number")
    return HopReport(seq, t, routes)


def encode(value: Control) -> bytes:
    """Return the control datagram of `value`; LocalError if a field does not fit. Media: `from_leg`."""
    if not isinstance(value, HopReport):
        return datagram.encode_datagram(value)
    numbers = {each.route for each in value.routes}
    if not 1 <= len(value.routes) <= MAX_REPORTS or len(numbers) < len(value.routes):
        raise LocalError("a hop report tells of 1 to 80 routes, of each once")
    if not all(MIN_ROUTE <= number <= MAX_ROUTE for number in numbers):
        raise LocalError("not a route number")
    try:
        head = _REPORT.pack(value.seq, value.t, len(value.routes))
        return bytes((CONTROL, HOP_REPORT)) + head + b"".join(map(_encoded_route, value.routes))
    except struct.error as error:
        raise LocalError("hop report field out of range") from error


def _encoded_route(report: RouteReport) -> bytes:
    return _ROUTE.pack(*report[:-1], UNKNOWN if report.delay_p95 is None else report.delay_p95)


def from_leg(payload: bytes, route: int) -> bytes:
    """Return a leg's media datagram, which `media.decode` accepted, as it leaves on a route: R = 0."""
    if not MIN_ROUTE <= route <= MAX_ROUTE:
        raise LocalError("not a route number")
    return wire.encode_varint(route) + bytes((HOP, payload[1] & ~REPEAT_BIT)) + payload[2:]


def to_leg(data: bytes, flow: int) -> bytes:
    """Return a listener's copy of a trunk's media datagram, which `decode` accepted: its own flow number."""
    return bytes((flow,)) + data[HEAD_SIZE:]
