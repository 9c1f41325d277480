"""The WebTransport leg of browsers: one session at /vrl/1 on a connection, and nothing else of HTTP/3.

    CONNECT /vrl/1              -> a status; with 200 the connection is a leg
    first bidirectional stream  -> the control stream; all others carry nothing
    datagrams                   -> the lane's, behind the session's prefix (RFC 9297 section 2.1)

SETTINGS, headers and the few bytes beside the control stream are bounded for the life of the connection. Must
never live here: what a control message means, datagrams, private names of aioquic.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from aioquic.h3.connection import ErrorCode as H3Error
from aioquic.h3.connection import ProtocolError, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from relay.errors import PeerError
from relay.protocol.wire import Reader, encode_varint
from relay.quic.connection import BareHttp3, RelayQuic

ALPN: Final = "h3"
PATH: Final = b"/vrl/1"
PROTOCOLS: Final = (b"webtransport", b"webtransport-h3")  # the second as later drafts spell it
EVENTS: Final = (StreamDataReceived, StreamReset, StopSendingReceived)
MAX_BESIDE: Final = 8 * 1024  # bytes of all streams but the control stream, ever: a browser sends about 1 kB
CLOSE_SESSION: Final = 0x2843  # capsule: u32 code | text of at most 1024 bytes
STREAM_REJECTED: Final = 0x3994BD84  # WEBTRANSPORT_BUFFERED_STREAM_REJECTED: a stream of no session of ours
MAX_REASON: Final = 1024
# What browsers of draft-02 look for in the answer.
ACCEPTED: Final = [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")]

Chunk = tuple[bytes, bool]  # bytes of the control stream, and whether it ends


class WebTransport:
    """HTTP/3 on one connection.

    `origins`: the web pages that may connect, as of now. `answered` counts requests by status.
    """

    def __init__(
        self, quic: RelayQuic, origins: Callable[[], Collection[str]], answered: Counter[str]
    ) -> None:
        self._quic = quic
        self._origins = origins
        self._answered = answered
        self._http = BareHttp3(quic)
        self._session: int | None = None
        self._waiting: list[HeadersReceived] = []  # for the peer's SETTINGS
        self._capsules = b""
        self._beside = MAX_BESIDE
        self.control_stream: int | None = None
        self.code: int | None = None
        """What the session was closed with, by either side."""
        quic.carry(None)

    @property
    def takes_datagrams(self) -> bool:
        """The peer's HTTP/3 does too (RFC 9297 section 2.1.1)."""
        settings = self._http.received_settings or {}
        return self._quic.peer_takes_datagrams and settings.get(Setting.H3_DATAGRAM) == 1

    # ------------------------------------------------------------ in

    def handle(self, event: QuicEvent) -> list[Chunk]:
        """Take one of `EVENTS`; what it brought for the control stream. Closes the connection by itself."""
        if isinstance(event, StreamDataReceived) and event.stream_id != self.control_stream:
            self._beside -= len(event.data)
            if self._beside < 0:
                self._close(H3Error.H3_EXCESSIVE_LOAD, "too much beside the control stream")
                return []
        chunks: list[Chunk] = []
        for told in self._http.handle_event(event):
            chunks += self._take(told)
        if self._http.received_settings is not None:
            while self._waiting:
                self._answer(self._waiting.pop(0))
        if isinstance(event, StreamReset | StopSendingReceived):
            if event.stream_id == self._session:
                self._end(0)
            elif event.stream_id == self.control_stream:
                chunks.append((b"", True))
        return chunks

    def _take(self, told: H3Event) -> list[Chunk]:
        if isinstance(told, HeadersReceived):
            if told.stream_id != self._session:
                self._waiting.append(told)
            elif told.stream_ended:
                self._end(0)
        elif isinstance(told, DataReceived) and told.stream_id == self._session:
            self._read_capsules(told.data)
            if told.stream_ended:
                self._end(0)
        elif isinstance(told, WebTransportStreamDataReceived):
            return self._on_stream(told)
        return []

    def _on_stream(self, told: WebTransportStreamDataReceived) -> list[Chunk]:
        if told.session_id % 4:
            self._close(H3Error.H3_ID_ERROR, "no session has such an id")
            return []
        is_two_way = told.stream_id % 4 == 0
        if self._session is None or told.session_id != self._session:
            if is_two_way:
                self._quic.reset_stream(told.stream_id, STREAM_REJECTED)
            return []
        if self.control_stream is None and is_two_way:
            self.control_stream = told.stream_id
        return [(told.data, told.stream_ended)] if told.stream_id == self.control_stream else []

    # ------------------------------------------------------------ requests

    def _answer(self, request: HeadersReceived) -> None:
        status = self._judge(request)
        self._answered[str(status)] += 1
        if status != 200:
            self._http.send_headers(request.stream_id, [(b":status", b"%d" % status)], end_stream=True)
            return
        self._session = request.stream_id
        self._http.send_headers(request.stream_id, ACCEPTED)
        self._quic.carry(encode_varint(request.stream_id // 4))

    def _judge(self, request: HeadersReceived) -> int:
        fields = dict(request.headers)
        if fields.get(b":path") != PATH:
            return 404
        if fields.get(b":method") != b"CONNECT":
            return 405
        if fields.get(b":protocol") not in PROTOCOLS:
            return 501  # RFC 9220 section 3
        pages = [value.decode("latin-1") for name, value in request.headers if name == b"origin"]
        if not all(page in self._origins() for page in pages):
            return 403
        if self._session is not None:
            return 429
        return 400 if request.stream_ended else 200

    # ------------------------------------------------------------ the session's end

    def _read_capsules(self, data: bytes) -> None:
        """Skip all but the one that closes (RFC 9297 section 3.2)."""
        self._capsules += data
        while self._capsules:
            reader = Reader(self._capsules)
            try:
                kind = reader.varint()
                value = reader.take(reader.varint())
            except PeerError:
                return  # the rest is on its way
            self._capsules = self._capsules[reader.at :]
            if kind == CLOSE_SESSION:
                self._end(int.from_bytes(value[:4], "big"))

    def _end(self, code: int) -> None:
        """The peer ended the session."""
        if self.code is None:
            self.code = code
        self._close(H3Error.H3_NO_ERROR, "")

    def _close(self, code: int, reason: str) -> None:
        self._quic.close(error_code=code, reason_phrase=reason)

    def close_session(self, code: int, reason: str) -> None:
        """Tell the page a code and why. It ends its side and with that the connection, or `close` does."""
        if self.code is None and self._session is not None:
            self.code = code
            text = reason.encode()[:MAX_REASON]
            capsule = encode_varint(CLOSE_SESSION) + encode_varint(4 + len(text))
            with contextlib.suppress(ProtocolError, RuntimeError, ValueError):  # it takes nothing any more
                self._http.send_data(self._session, capsule + code.to_bytes(4, "big") + text, end_stream=True)

    def close(self) -> None:
        """Close the connection below the session."""
        self._close(H3Error.H3_NO_ERROR, "")
