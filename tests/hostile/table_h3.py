"""Hostile HTTP/3: what becomes of a request, and of a connection against the rules (RFC 9114 section 8.1).

    Request  headers of a first request          -> its status, or the code that closes the connection
    Break    what a client does                  -> the code that closes the connection, None: it stays

Must never live here: how a row is acted out (test_h3.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aioquic.h3.connection import ErrorCode, H3Connection, encode_frame

from h3net import PAGE, Field, WebClient

METHOD, PATH, PROTOCOL = (b":method", b"CONNECT"), (b":path", b"/vrl/1"), (b":protocol", b"webtransport")
REST = [(b":scheme", b"https"), (b":authority", b"relay.example")]
ORIGIN = (b"origin", PAGE.encode())
GOOD: list[Field] = [METHOD, PATH, PROTOCOL, *REST]


class Request(NamedTuple):
    id: str
    headers: list[Field]
    status: int
    end: bool = False


REQUESTS = [
    Request("the right page", [*GOOD, ORIGIN], 200),
    Request("no page at all", GOOD, 200),
    Request("a page that is not listed", [*GOOD, (b"origin", b"https://evil.example")], 403),
    Request("the page with another port", [*GOOD, (b"origin", PAGE.encode() + b":8443")], 403),
    Request("the page without TLS", [*GOOD, (b"origin", b"http://app.example")], 403),
    Request("a page within the page's name", [*GOOD, (b"origin", PAGE.encode() + b".evil.example")], 403),
    Request("a sandboxed page", [*GOOD, (b"origin", b"null")], 403),
    Request("an empty origin", [*GOOD, (b"origin", b"")], 403),
    Request("two origins, one of them right", [*GOOD, ORIGIN, (b"origin", b"https://evil.example")], 403),
    Request("two origins in one", [*GOOD, (b"origin", PAGE.encode() + b" https://evil.example")], 403),
    Request("an origin of bytes that are no text", [*GOOD, (b"origin", b"https://\xff\xfe")], 403),
    Request("another path", [METHOD, (b":path", b"/"), PROTOCOL, *REST, ORIGIN], 404),
    Request("a path below", [METHOD, (b":path", b"/vrl/1/"), PROTOCOL, *REST, ORIGIN], 404),
    Request("a path with a query", [METHOD, (b":path", b"/vrl/1?x"), PROTOCOL, *REST, ORIGIN], 404),
    Request("a path by a detour", [METHOD, (b":path", b"/x/../vrl/1"), PROTOCOL, *REST, ORIGIN], 404),
    Request("a path in escapes", [METHOD, (b":path", b"/%76rl/1"), PROTOCOL, *REST, ORIGIN], 404),
    Request("a tunnel to somewhere", [METHOD, (b":authority", b"10.0.0.1:22")], 404),
    Request("a page to read", [(b":method", b"GET"), (b":path", b"/"), *REST], 404, True),
    Request("our path to read", [(b":method", b"GET"), PATH, *REST], 405, True),
    Request("our path to write to", [(b":method", b"POST"), PATH, *REST], 405),
    Request("a WebSocket", [METHOD, PATH, (b":protocol", b"websocket"), *REST, ORIGIN], 501),
    Request("UDP through us", [METHOD, PATH, (b":protocol", b"connect-udp"), *REST, ORIGIN], 501),
    Request("our path without a protocol", [METHOD, PATH, *REST, ORIGIN], 501),
    Request("a session that ends as it begins", [*GOOD, ORIGIN], 400, True),
]


Act = Callable[[WebClient, H3Connection], None]


class Break(NamedTuple):
    id: str
    act: Act
    code: int | None


def _frames(*frames: tuple[int, bytes]) -> Act:
    """A request stream with these frames."""

    def act(client: WebClient, http: H3Connection) -> None:
        stream = client.quic.get_next_available_stream_id()
        data = b"".join(encode_frame(kind, body) for kind, body in frames)
        client.quic.send_stream_data(stream, data)

    return act


def _raw(data: bytes, *, one_way: bool = False, end: bool = False) -> Act:
    """A stream of these bytes."""

    def act(client: WebClient, http: H3Connection) -> None:
        stream = client.quic.get_next_available_stream_id(is_unidirectional=one_way)
        client.quic.send_stream_data(stream, data, end)

    return act


def _control(data: bytes) -> Act:
    """More on HTTP/3's control stream."""

    def act(client: WebClient, http: H3Connection) -> None:
        client.quic.send_stream_data(2, data)

    return act


def _instructions(data: bytes) -> Act:
    """On the QPACK encoder stream."""

    def act(client: WebClient, http: H3Connection) -> None:
        client.quic.send_stream_data(6, data)

    return act


def _much(client: WebClient, http: H3Connection) -> None:
    """Headers that never end."""
    _raw(b"\x01\x80\x0f\xff\xff")(client, http)
    for _ in range(12):
        client.quic.send_stream_data(0, bytes(1000))
        client.flush()
        client.network.run(0.2)


def _long_settings(client: WebClient, http: H3Connection) -> None:
    """The same on a stream of one's own, of a kind that nobody knows."""
    _raw(b"\x40\x99" + bytes(9000), one_way=True)(client, http)


def _big(client: WebClient, http: H3Connection) -> None:
    client.request([*GOOD, (b"x", b"y" * 4096)])


def _bomb(client: WebClient, http: H3Connection) -> None:
    """Two thousand fields of one byte each, of the static table: some 60 kB."""
    _frames((1, b"\0\0" + b"\xdc" * 2000))(client, http)


def _reset_request(client: WebClient, http: H3Connection) -> None:
    client.ask()
    client.quic.reset_stream(client.session, 9)


def _stop_session(client: WebClient, http: H3Connection) -> None:
    client.ask()
    client.quic.stop_stream(client.session, 9)


def _second(client: WebClient, http: H3Connection) -> None:
    assert client.ask() == 200
    assert client.ask() == 429


def _fifth(client: WebClient, http: H3Connection) -> None:
    for _ in range(4):
        client.request([(b":method", b"GET"), (b":path", b"/"), *REST], end=True)
    client.inject(b"\x0a\x10\x01\x01")  # a stock client keeps to the limit


def _stray(session: int, kind: bytes = b"\x40\x41") -> Act:
    """A stream of a session that does not exist."""

    def act(client: WebClient, http: H3Connection) -> None:
        client.ask()
        stream = client.quic.get_next_available_stream_id()
        client.quic.send_stream_data(stream, kind + bytes((session,)) + b"hello")

    return act


def _early(client: WebClient, http: H3Connection) -> None:
    """A stream of a session to come."""
    _raw(b"\x40\x41\x04hello")(client, http)


def _end_control(client: WebClient, http: H3Connection) -> None:
    client.quic.send_stream_data(2, b"", end_stream=True)


def _garbage(client: WebClient, http: H3Connection) -> None:
    client.ask()
    client.write(b"\x00\x03\xc1\xc1\xc1")


def _end_of_words(client: WebClient, http: H3Connection) -> None:
    client.ask()
    client.write(b"\x00")
    assert client.control is not None
    client.quic.reset_stream(client.control, 1)


BREAKS = [
    Break("DATA before HEADERS", _frames((0, b"x")), ErrorCode.H3_FRAME_UNEXPECTED),
    Break("SETTINGS on a request", _frames((4, b"")), ErrorCode.H3_FRAME_UNEXPECTED),
    Break("a push from a client", _frames((5, b"\0")), ErrorCode.H3_FRAME_UNEXPECTED),
    Break("a frame of HTTP/2", _frames((6, bytes(8))), ErrorCode.H3_FRAME_UNEXPECTED),
    Break("SETTINGS twice", _control(encode_frame(4, b"")), ErrorCode.H3_FRAME_UNEXPECTED),
    Break("a request on the control stream", _control(encode_frame(1, b"")), ErrorCode.H3_FRAME_UNEXPECTED),
    Break("the control stream ends", _end_control, ErrorCode.H3_CLOSED_CRITICAL_STREAM),
    Break("a second control stream", _raw(b"\0\x04\0", one_way=True), ErrorCode.H3_STREAM_CREATION_ERROR),
    Break("a push stream", _raw(b"\x01\0", one_way=True), ErrorCode.H3_STREAM_CREATION_ERROR),
    Break("a frame cut by the stream's end", _raw(b"\x01\x09abc", end=True), ErrorCode.H3_FRAME_ERROR),
    Break(
        "headers that are none", _frames((1, b"\0\0\xff\xff\xff\xff")), ErrorCode.QPACK_DECOMPRESSION_FAILED
    ),
    Break(
        "headers of a table we have not", _frames((1, b"\x02\0\x80")), ErrorCode.QPACK_DECOMPRESSION_FAILED
    ),
    Break("a dynamic table", _instructions(b"\x3f\xe1\x1f"), ErrorCode.QPACK_ENCODER_STREAM_ERROR),
    Break("an entry for it", _instructions(b"\x41a\x01b"), ErrorCode.QPACK_ENCODER_STREAM_ERROR),
    Break("headers without a method", _frames((1, b"\0\0\xc1")), ErrorCode.H3_MESSAGE_ERROR),
    Break("headers above the limit", _big, ErrorCode.H3_EXCESSIVE_LOAD),
    Break("a few bytes that stand for many headers", _bomb, ErrorCode.H3_EXCESSIVE_LOAD),
    Break("headers that never end", _much, ErrorCode.H3_EXCESSIVE_LOAD),
    Break("a stream of an unknown kind without end", _long_settings, ErrorCode.H3_EXCESSIVE_LOAD),
    Break("a fifth request", _fifth, 0x04),
    Break("a second session", _second, None),
    Break("a stream of a session that cannot be", _stray(3), ErrorCode.H3_ID_ERROR),
    Break("a stream of a session that is not", _stray(8), None),
    Break("a stream of a session to come", _early, None),
    Break("the session's stream is reset", _reset_request, ErrorCode.H3_NO_ERROR),
    Break("the session's stream is stopped", _stop_session, ErrorCode.H3_NO_ERROR),
    Break("a control stream of noise", _garbage, ErrorCode.H3_NO_ERROR),
    Break("a control stream that is reset", _end_of_words, ErrorCode.H3_NO_ERROR),
]
