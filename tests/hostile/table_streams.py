"""Hostile beginnings on the port of TLS: what is inside is told apart, and who says nothing is let go.

    Opening    ALPN that the client offers, its first bytes -> how it is answered
    Waiting    the same, by somebody who never goes on

Must never live here: how a row is acted out (test_streams.py).
"""

from __future__ import annotations

from typing import NamedTuple

from relay.errors import ErrorCode
from relay.protocol import stun, turn
from relay.protocol.records import MAX_RECORD
from relay.protocol.stun import Class

BINDING = stun.build(turn.Method.BINDING, Class.REQUEST, b"transaction.")
GET = b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n"
NOISE = b" noise\r\n\r\n"
WEB, TURN, RAW = "http/1.1", "stun.turn", "vrl/1"

STUN_ANSWER = "stun"
SILENCE = "silence"


class Opening(NamedTuple):
    """`answer`: STUN's, an HTTP status, the code of a `bye`, or the end without a word."""

    id: str
    alpn: tuple[str, ...]
    sent: bytes
    answer: str | int | ErrorCode


OPENINGS = [
    Opening("STUN without ALPN", (), BINDING, STUN_ANSWER),
    Opening("STUN by its ALPN", (TURN,), BINDING, STUN_ANSWER),
    Opening("STUN by who offers HTTP first", (WEB, TURN), BINDING, STUN_ANSWER),
    Opening("STUN under an ALPN that nobody knows", ("h2",), BINDING, STUN_ANSWER),
    Opening("STUN under the ALPN of HTTP", (WEB,), BINDING + NOISE, 400),
    Opening("HTTP without ALPN", (), GET, 404),
    Opening("HTTP under an ALPN that nobody knows", ("h2", "spdy/3"), GET, 404),
    Opening("HTTP under the ALPN of TURN", (TURN,), GET, SILENCE),
    Opening("a first byte of 02", (), b"\2" + NOISE, 400),
    Opening("a first byte of ff", (), b"\xff" + NOISE, 400),
    Opening("a channel before any request", (), b"\x40\1\0\4data" + NOISE, 400),
    Opening("a channel before any request, by ALPN", (TURN,), b"\x40\1\0\4data", SILENCE),
    Opening("TLS inside TLS", (), b"\x16\3\1\2\0" + NOISE, 400),
    Opening("a record without ALPN", (), b"\0\2\0\1", SILENCE),
    Opening("STUN that is too long", (), b"\0\1\xff\xfc" + bytes(16), SILENCE),
    Opening("a record of no bytes", (RAW,), b"\0\0", ErrorCode.PROTOCOL_VIOLATION),
    Opening("a record too long by one", (RAW,), (MAX_RECORD + 1).to_bytes(2, "big"), ErrorCode.TOO_LARGE),
    Opening("the longest length there is", (RAW,), b"\xff\xff", ErrorCode.TOO_LARGE),
    Opening("a record of neither kind", (RAW,), b"\0\4\x40abc", ErrorCode.PROTOCOL_VIOLATION),
    Opening("a record that begins with c1", (RAW,), b"\0\4\xc1abc", ErrorCode.PROTOCOL_VIOLATION),
    Opening("the beginning of a record of neither kind", (RAW,), b"\1\0\x80", ErrorCode.PROTOCOL_VIOLATION),
    Opening("HTTP under the ALPN of records", (RAW,), GET, ErrorCode.TOO_LARGE),
    Opening("good records before a bad one", (RAW,), b"\0\2\0\0\0\0", ErrorCode.PROTOCOL_VIOLATION),
]


class Waiting(NamedTuple):
    """Sent, and then nothing more: it has the time of a handshake, or of a client without an allocation."""

    id: str
    alpn: tuple[str, ...]
    sent: bytes


WAITINGS = [
    Waiting("nothing, no ALPN", (), b""),
    Waiting("nothing, the ALPN of HTTP", (WEB,), b""),
    Waiting("nothing, the ALPN of TURN", (TURN,), b""),
    Waiting("half a line of HTTP", (), b"GE"),
    Waiting("half a header of STUN", (), BINDING[:10]),
    Waiting("one byte of STUN", (), BINDING[:1]),
    Waiting("a Binding, and no allocation", (TURN,), BINDING),
]
