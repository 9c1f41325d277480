"""A cheap client for load: real QUIC, real control messages, media by the fast path in place of aioquic's.

    leg = Leg(server, source="127.0.0.1")
    await leg.connect(); await leg.hello(token); await leg.join(call); await leg.accept(call)
    leg.send(payload)         media; `on_media(payload, arrived)` hears what comes, with the kernel's time

It carries RelayQuic at the client's end, since the benches measure the relay and not the load. Clients that
share nothing with the relay (the SDK, stock aioquic) stand beside it in every bench that judges.
Must never live here: what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import TypeVar

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, StreamDataReceived
from aioquic.tls import Epoch

from relay.edge.path import Opened, Path
from relay.protocol import control
from relay.quic.acks import AUDIO_ACK_HOLD
from relay.quic.connection import IssuedId, RelayQuic

SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("=qq")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)
_BATCH = 32
ACK_SLACK = 0.0005
PROMPT = 0.001  # how long stock aioquic holds an acknowledgement back
HELD = AUDIO_ACK_HOLD  # as long as the relay and our SDK do while nothing is missing
M = TypeVar("M", bound=control.Message)
CONFIGURATION = QuicConfiguration(
    is_client=True,
    alpn_protocols=["vrl/1"],
    verify_mode=ssl.CERT_NONE,
    max_datagram_frame_size=1200,
    max_datagram_size=1200,
    idle_timeout=60.0,
    server_name="localhost",
)


class RefusedError(Exception):
    """The relay answered with an error or closed."""


def open_socket(source: str = "127.0.0.1") -> socket.socket:
    """A UDP socket on a loopback address of its own, which notes when the kernel got each packet."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind((source, 0))
    return sock


def read_stamped(sock: socket.socket) -> tuple[bytes, float, tuple[str, int]] | None:
    """The next packet, the wall-clock time of its arrival in the kernel, its source; None: no more."""
    try:
        data, ancillary, _, addr = sock.recvmsg(2048, _ANCILLARY)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:  # an ICMP error of an earlier send
        return b"", time.time(), ("", 0)
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanos = _TIMESPEC.unpack(value)
            return data, seconds + nanos / 1e9, addr
    return data, time.time(), addr


def _issuer() -> Callable[[], IssuedId]:
    """Random ids; the first one has no reset token, since a client's handshake may not carry one."""
    tokens = itertools.chain((None,), iter(lambda: os.urandom(16), b""))
    return lambda: IssuedId(os.urandom(8), next(tokens))  # type: ignore[arg-type]  # see above


class ClientQuic(RelayQuic):
    """The relay's own connection class at the client's end."""

    def __init__(self, configuration: QuicConfiguration) -> None:
        self.packets = Path()
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=None,  # type: ignore[arg-type]  # a client has none
            retry_source_connection_id=None,
            issue=_issuer(),
            path=self.packets,
        )

    def seal_frames(self, plain: bytes) -> bytes:
        """A packet with these frames, whatever they are; neither acknowledged nor repeated."""
        number = self.path.reserve(1)
        self.path.settle(number + 1)
        pair = self._cryptos[Epoch.ONE_RTT]
        header = bytes((0x41 | pair.send.key_phase << 2,)) + self._peer_cid.cid
        return pair.encrypt_packet(header + (number & 0xFFFF).to_bytes(2, "big"), plain, number)


class Leg:
    """One participant's transport. All methods belong to the loop that made it."""

    def __init__(
        self,
        server: tuple[str, int],
        *,
        source: str = "127.0.0.1",
        on_media: Callable[[bytes, float], None] | None = None,
        configuration: QuicConfiguration = CONFIGURATION,
        ack_hold: float = PROMPT,
    ) -> None:
        self._ack_hold = ack_hold
        self._deaf = self._mute = False
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._on_media = on_media
        self._sock = open_socket(source)
        self._quic = ClientQuic(configuration)
        self._path = self._quic.packets
        self._frames = control.FrameReader()
        self._timer: asyncio.TimerHandle | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._stream: int | None = None
        self._raw = bytearray()
        self._news: asyncio.Queue[control.Message | bytes | None] = asyncio.Queue()
        self.messages: list[control.Message] = []
        self.closed: int | None = None
        self.index = -1
        self.flow = 0
        self._loop.add_reader(self._sock.fileno(), self._readable)

    # ------------------------------------------------------------ steps of a call

    async def connect(self, within: float = 10.0) -> None:
        """Shake hands. RefusedError or TimeoutError."""
        self._quic.connect(self._server, now=time.monotonic())
        self._settle(time.monotonic())
        async with asyncio.timeout(within):
            while not self._quic.is_confirmed:
                if await self._news.get() is None:
                    raise RefusedError(f"closed with {self.closed}")

    async def hello(self, token: bytes, within: float = 10.0) -> control.Welcome:
        """Present the token."""
        self.tell(control.Hello(tok=token, cli=control.Cli(sdk="py", app="relay-demo")), 1)
        return await self.expect(control.Welcome, within)

    async def join(self, call: bytes, within: float = 10.0) -> control.Joined:
        """Enter the call."""
        self.tell(control.Join(c=call), 2)
        joined = await self.expect(control.Joined, within)
        self.index, self.flow = joined.p, joined.up
        return joined

    async def accept(self, call: bytes) -> None:
        """Say yes; the gate opens when the other did, too."""
        self.tell(control.Accept(c=call, suites=(5,)), 3)

    async def gate(self, within: float = 10.0) -> control.Gate:
        """Wait until this leg hears somebody."""
        async with asyncio.timeout(within):
            while True:
                gate = await self.expect(control.Gate, within)
                if gate.open:
                    return gate

    def tell(self, message: control.Message, number: int = 0) -> None:
        """Write a control message."""
        self.write(control.encode(message, number))

    def write(self, data: bytes, end: bool = False) -> None:
        """Write bytes to the control stream."""
        if self.closed is not None:
            return
        if self._stream is None:
            self._stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(self._stream, data, end)
        self._settle(time.monotonic())

    async def expect(self, kind: type[M], within: float = 10.0) -> M:
        """The next message of this kind; others are skipped. RefusedError on `err`, `ended` or a close."""
        async with asyncio.timeout(within):
            while True:
                message = await self._news.get()
                if isinstance(message, kind):
                    return message
                if message is None:
                    raise RefusedError(f"closed with {self.closed:#x}" if self.closed else "closed")
                if isinstance(message, control.Err | control.Ended):
                    raise RefusedError(repr(message))

    async def expect_bytes(self, within: float = 10.0) -> bytes:
        """The next raw bytes of the stream, for peers that speak no control messages."""
        async with asyncio.timeout(within):
            while True:
                data = await self._news.get()
                if isinstance(data, bytes) and data:
                    return data
                if data is None:
                    raise RefusedError("closed")

    async def pair(self, name: bytes, within: float = 10.0) -> None:
        """Be connected with whoever names the same 16 bytes, by the stock forwarder."""
        self.write(b"!" + name)
        await self.expect_bytes(within)

    def ping(self) -> None:
        """A QUIC PING: the relay hears that we live."""
        if self.closed is None and self._sock.fileno() >= 0:
            self._quic.send_ping(0)
            self._settle(time.monotonic())

    def go_dark(self, *, deaf: bool, mute: bool) -> None:
        """Lose the network from now on: what comes (`deaf`), what goes (`mute`)."""
        self._deaf, self._mute = deaf, mute

    def close(self, code: int = 0) -> None:
        """Leave politely: one CONNECTION_CLOSE, nothing more is read."""
        if self.closed is None:
            self._quic.close(error_code=code, reason_phrase="")
            self._settle(time.monotonic())
        self.vanish()

    def vanish(self) -> None:
        """Leave without a word."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        for timer in (self._timer, self._ack_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._ack_timer = None

    # ------------------------------------------------------------ media

    @property
    def ready(self) -> bool:
        """Media may be sent now."""
        return self._sock.fileno() >= 0 and self._quic.path.room(time.monotonic())

    def send(self, payload: bytes) -> bool:
        """One media datagram in a packet of its own. False: the window is full or the leg closed."""
        now = time.monotonic()
        if self._sock.fileno() < 0 or not self._quic.path.room(now):
            return False
        packet, addr = self._quic.seal_media([payload], now)
        return self._send(packet, addr)

    def seal_frames(self, plain: bytes) -> bytes:
        """A 1-RTT packet with these frames as they are, for peers that misbehave; `send_sealed` sends it."""
        return self._quic.seal_frames(plain)

    def send_sealed(self, packet: bytes) -> None:
        """Send a packet made before, whatever became of the connection since."""
        self._send(packet, self._server)

    # ------------------------------------------------------------ edge

    def _send(self, packet: bytes, addr: tuple[str, int]) -> bool:
        if self._mute:
            return True
        try:
            self._sock.sendto(packet, addr)
        except OSError:
            return False
        return True

    def _readable(self) -> None:
        slow = False
        for _ in range(_BATCH):
            packet = read_stamped(self._sock)
            if packet is None:
                break
            data, arrived, addr = packet
            if not data or self._deaf:
                continue
            now = time.monotonic()
            result = self._path.receive(data, addr, 0, now) if data[0] < 0x80 else None
            if result is None:
                self._quic.receive_datagram(data, addr, now)
                slow = True
                self._events(arrived)
            elif isinstance(result, Opened):
                if result.ack is not None:
                    self._quic.show_ack(result.ack.ranges, result.ack.delay, now)
                if self._on_media is not None:
                    for payload in result.datagrams:
                        self._on_media(payload, arrived)
        if self._sock.fileno() < 0:
            return
        if slow:
            self._settle(time.monotonic())
        due = self._path.ack_due
        if due is not None and self._ack_timer is None:
            hold = self._ack_hold if self._ack_hold < HELD else max(0.0, due - time.monotonic())
            self._ack_timer = self._loop.call_later(hold, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        due = self._path.ack_due
        now = time.monotonic()
        if due is None:
            return
        if self._ack_hold == HELD and due > now + ACK_SLACK:  # audio took the earlier one along
            self._ack_timer = self._loop.call_at(due, self._acknowledge)
        else:
            self._send(*self._quic.seal_media([], now))

    def _settle(self, now: float) -> None:
        self._events(time.time())
        for packet, addr in self._quic.datagrams_to_send(now):
            self._send(packet, addr)
        self._events(time.time())
        self._quic.refresh()
        due = self._quic.get_timer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._sock.fileno() >= 0:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        due = self._quic.get_timer()
        if due is not None and due <= now:  # sending media moved the idle timer on meanwhile
            self._quic.handle_timer(now)
        self._settle(now)

    def _events(self, arrived: float) -> None:
        event = self._quic.next_event()
        while event is not None:
            if isinstance(event, StreamDataReceived):
                self._stream_data(event.data)
            elif isinstance(event, DatagramFrameReceived):
                if self._on_media is not None:
                    self._on_media(event.data, arrived)
            elif isinstance(event, ConnectionTerminated):
                self.closed = event.error_code
                self._news.put_nowait(None)
            event = self._quic.next_event()
        if self._quic.is_confirmed and self._stream is None:
            self._news.put_nowait(b"")  # wakes `connect`

    def _stream_data(self, data: bytes) -> None:
        if data[:1] == b"!":  # a forwarder of tests/load/forward.py; no control frame is 8 kB long
            self._news.put_nowait(data)
            return
        for frame in self._frames.feed(data):
            body = control.decode(frame).body
            if isinstance(body, control.Ping):
                self.tell(control.Pong(t=body.t))
            elif body is not None:
                self.messages.append(body)
                self._news.put_nowait(body)
