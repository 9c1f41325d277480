"""A stock aioquic HTTP/3 client on the simulated network: what a browser does for a WebTransport session."""

from __future__ import annotations

from typing import Any

from aioquic.h3.connection import H3Connection, Headers
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
)
from aioquic.quic.events import QuicEvent, StreamDataReceived

from hostile.scenes import Visitor

PAGE = "https://app.example"
Field = tuple[bytes, bytes]


class WebClient(Visitor):
    """`ask` opens a session; `write` and `say` are its control stream and datagrams, as of others."""

    def __init__(self, network: Any, port: int = 1001, *, datagrams: bool = True) -> None:
        self.http: H3Connection | None = None
        self.statuses: dict[int, int] = {}
        self.capsules = b""
        self.session = 0
        self.leaves = True  # its side ends with ours
        self.control: int | None = None
        super().__init__(network, port, datagrams=datagrams, alpn="h3")
        self.http = H3Connection(self.quic, enable_webtransport=datagrams)
        network.run(1.0)

    def hear(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.stream_id == self.control:
            self.stream += event.data  # aioquic takes what comes on a stream that it opened for HTTP/3 frames
        elif self.http is not None:
            for told in self.http.handle_event(event):
                self.told(told)

    def told(self, told: H3Event) -> None:
        if isinstance(told, HeadersReceived):
            self.statuses[told.stream_id] = int(dict(told.headers)[b":status"])
        elif isinstance(told, DataReceived):
            self.capsules += told.data
            if told.stream_ended and self.leaves:
                assert self.http is not None
                self.http.send_data(told.stream_id, b"", True)
                self.flush()
        elif isinstance(told, DatagramReceived):
            assert told.stream_id == self.session
            self.got.append(told.data)

    def request(self, headers: Headers, *, end: bool = False) -> int:
        """Send a request; its stream."""
        assert self.http is not None
        stream = self.quic.get_next_available_stream_id()
        self.http.send_headers(stream, headers, end)
        self.flush()
        self.network.run(0.1)
        return stream

    def ask(
        self,
        path: str = "/vrl/1",
        origin: str | None = PAGE,
        protocol: str = "webtransport",
        more: Headers = (),
    ) -> int | None:
        """Ask for a session; the status, None without an answer."""
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":scheme", b"https"),
            (b":authority", b"relay.example"),
            (b":path", path.encode()),
            (b":protocol", protocol.encode()),
            *([(b"origin", origin.encode())] if origin is not None else []),
            *more,
        ]
        stream = self.request(headers)
        status = self.statuses.get(stream)
        if status == 200:
            self.session = stream
        return status

    def write(self, data: bytes) -> None:
        assert self.http is not None
        if self.control is None:
            self.control = self.http.create_webtransport_stream(self.session)
        self.quic.send_stream_data(self.control, data)
        self.flush()

    def say(self, data: bytes) -> None:
        assert self.http is not None
        self.http.send_datagram(self.session, data)
        self.flush()

    def capsule(self, kind: int, value: bytes, *, end: bool = False) -> None:
        """Send a capsule on the session's stream."""
        assert self.http is not None
        data = (kind | 0x4000).to_bytes(2, "big") + bytes((len(value),)) + value
        self.http.send_data(self.session, data, end)
        self.flush()
        self.network.run(0.1)


def open_session(network: Any, port: int = 1001, page: str = PAGE) -> WebClient:
    """A client with a session on a node that lets the page in."""
    network.endpoint.origins = (page,)
    client = WebClient(network, port)
    assert client.ask(origin=page) == 200
    return client
