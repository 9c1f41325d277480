"""The QUIC edge of the SDK: one connection on a UDP port, one timer, aioquic by its public names.

    socket -> receive_datagram -> events -> handler          write, send -> datagrams_to_send -> socket

Media waits here, not in aioquic, whose own queue has neither bound nor expiry: at most one datagram is left
inside; behind it five frames wait for 60 ms, the oldest goes first. Must never live here: messages.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from relay.client.errors import SessionError
from relay.client.mending import Mending
from relay.client.udp import UdpPort, open_port
from relay.client.whereabouts import Whereabouts
from relay.errors import ErrorCode, LocalError
from relay.protocol.address import Address
from relay.protocol.datagram import Nack
from relay.quic.connection import ClientQuic

ALPN: Final = "vrl/1"
MAX_DATAGRAM: Final = 1170  # payload that fits a 1200-byte packet; one byte more would block aioquic's queue
_PADDING: Final = (1024, 140)  # two control datagrams of padding fill the packet; one may have 1024 bytes
IDLE_S: Final = 30.0
HANDSHAKE_S: Final = 5.0
QUEUE_FRAMES: Final = 5
QUEUE_S: Final = 0.060
OLD_SOCKET_S: Final = 0.3  # what is under way to the port we left still counts
ACK_ROOM: Final = 60  # bytes of a packet that acknowledgements may take
_EARLY_S: Final = 0.001  # the loop's clock ticks in milliseconds
CONTROL_STREAM: Final = 0  # the client's first bidirectional stream


@dataclass(frozen=True, slots=True)
class Trust:
    """How the relay's certificate is checked: system store, a file with a CA (or itself), or not at all."""

    ca: str | Path | None = None
    insecure: bool = False
    server_name: str | None = None


class Handler(Protocol):
    """Who hears what arrives."""

    def on_stream(self, data: bytes) -> None:
        """Bytes of the control stream."""

    def on_datagram(self, data: bytes) -> None:
        """One datagram, media or control."""

    def on_closed(self, code: int, reason: str) -> None:
        """The connection is over; nothing follows."""


class LegTransport(Protocol):
    """What a session needs of a connection; QUIC and WebSocket have the same face."""

    name: str
    unsent: int
    """Media dropped before the network."""

    @property
    def repeated(self) -> int:
        """Media that went again, since the relay did not get it."""

    @property
    def is_closed(self) -> bool:
        """True once `on_closed` was called."""

    @property
    def local_port(self) -> int:
        """The port we send from."""

    def write(self, data: bytes) -> None:
        """Send whole frames of the control stream."""

    def send(self, payload: bytes) -> None:
        """Send a datagram soon, or not at all."""

    async def rebind(self) -> int:
        """Move to a new local port within the connection; the new port. LocalError where that cannot be."""

    def hold_acks(self, seconds: float) -> None:
        """Hold acknowledgements of audio that long while nothing is missing, where the transport has any."""

    def repair(self, bits_per_s: float, packets_per_s: float, *, by_name: bool = False) -> None:
        """Send again what the relay does not get, within these rights, where the transport loses anything.

        `by_name`: what it names (`resend`), else what it does not acknowledge.
        """

    def resend(self, ask: Nack) -> None:
        """The relay names what it misses."""

    def close(self, code: int = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Close with an application code; `on_closed` is called at once."""

    async def wait_closed(self) -> None:
        """Wait until the connection is over and the socket is closed."""


class Transport:
    """One QUIC connection. Make it with `open_transport`."""

    name = "quic"

    def __init__(
        self,
        quic: ClientQuic,
        peer: Address,
        handler: Handler,
        port: UdpPort | None = None,
        *,
        follows: bool = False,
    ) -> None:
        """`follows`: we are QUIC's client, and the other end may move all the same."""
        self._whereabouts = Whereabouts() if follows else None
        self._datagrams = 0  # heard so far
        self._quic = quic
        self._peer = peer
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._port = port.share() if port is not None else None
        self._timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._stuck = 0  # size of the datagram that aioquic could not send yet
        self._is_draining = False
        self._left: list[UdpPort] = []  # ports we moved away from
        self._beside = b""
        self._pings = 0
        self.unsent = 0  # media dropped here: too old, or too many
        self._mending: Mending | None = None

    @property
    def repeated(self) -> int:
        """Media that went again, since the relay did not get it."""
        return self._mending.counters.repeats if self._mending is not None else 0

    @property
    def is_closed(self) -> bool:
        """True once `on_closed` was called."""
        return self._gone.done()

    async def open(self) -> None:
        """Shake hands. SessionError when nobody answers within 5 s or the certificate is not trusted."""
        if not self.is_closed:  # else given up before it began
            if self._port is None:
                self._port = await open_port()
            self._port.attach(self._peer, self.receive)
            self._quic.connect(self._peer, self._loop.time())
            self.flush()
        await self._wait_ready()

    async def accept(self, first: bytes) -> None:
        """The other end of `open`: the peer's first packet came to our port. SessionError as there."""
        assert self._port is not None
        if not self.is_closed:
            self._port.attach(self._peer, self.receive)
            self.receive(first)
        await self._wait_ready()

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self.close(ErrorCode.NO_ERROR)
            raise SessionError(ErrorCode.IDLE_TIMEOUT, "no answer") from None

    @property
    def port(self) -> UdpPort | None:
        """The UDP port this connection leaves from."""
        return self._port

    @property
    def peer(self) -> Address:
        """The address at the other end."""
        return self._peer

    def write(self, data: bytes) -> None:
        """Send bytes on the control stream."""
        if data and not self.is_closed:
            self._quic.send_stream_data(CONTROL_STREAM, data)
            self.flush()

    def send(self, payload: bytes, beside: bytes = b"") -> None:
        """Send a datagram now, or within 60 ms, or not at all; a small one `beside` it in the same packet."""
        if len(payload) > MAX_DATAGRAM:
            raise LocalError(f"a datagram of {len(payload)} bytes does not fit a packet")
        if self.is_closed:
            return
        self._queue.append((self._loop.time() + QUEUE_S, payload))
        if len(self._queue) > QUEUE_FRAMES:
            self._give_up(self._queue.popleft()[1])
        self._beside = beside
        self.flush()

    def hold_acks(self, seconds: float) -> None:
        """Hold acknowledgements of audio that long while nothing is missing; within what we promised."""
        self._quic.hold_acks(seconds)

    def repair(self, bits_per_s: float, packets_per_s: float, *, by_name: bool = False) -> None:
        """See `LegTransport`; mending.py has the rule."""
        if self._mending is None:
            self._mending = Mending()
            if not by_name:
                self._quic.watch_datagrams(self._on_fate, self._on_round_trip)
        self._mending.grant(bits_per_s, packets_per_s, self._loop.time())

    def resend(self, ask: Nack) -> None:
        """See `LegTransport`."""
        if self._mending is None or self.is_closed or self._quic.has_waiting:
            return
        for again in self._mending.asked(ask, MAX_DATAGRAM - ACK_ROOM, self._loop.time()):
            self._quic.send_datagram_frame(again)
        self.flush()

    async def rebind(self) -> int:
        """Move to a new local port within the connection; the relay is told by a full-size packet at once.

        An unproven path may carry three times what came over it (RFC 9000 section 8.1), hence the size.
        Returns the new port, 0 if the connection ended meanwhile.
        """
        port = await open_port()
        if self.is_closed:
            port.close()
            return 0
        old, self._port = self._port, port
        self._port.attach(self._peer, self.receive)
        self.announce_move()
        if old is not None:
            self._left.append(old)
            self._loop.call_later(OLD_SOCKET_S, self._leave, old)
        return self.local_port

    def announce_move(self) -> None:
        """Our address is another one now: say so at once with a full-size packet (RFC 9000 section 9.5)."""
        self._quic.change_connection_id()
        self._pings += 1
        self._quic.send_ping(self._pings)
        for size in _PADDING:
            self._quic.send_datagram_frame(bytes(size))  # control datagram 00 00
        self.flush()

    @property
    def local_port(self) -> int:
        """The UDP port we send from."""
        return 0 if self._port is None else self._port.number

    def close(self, code: int = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Close with an application code: one packet tells the relay, `on_closed` is called at once.

        We do not stay to answer stragglers (RFC 9000 section 10.2.1): the process may be about to end.
        """
        if not self.is_closed:
            self._quic.close(error_code=code, reason_phrase=reason)
            self._transmit()
            self._terminated(code, reason)

    async def wait_closed(self) -> None:
        """Wait until the connection is over and the socket is closed."""
        await asyncio.shield(self._gone)

    def receive(self, data: bytes, source: Address | None = None) -> bool:
        """A UDP datagram came: from the peer, or from `source`. True if the peer has moved there."""
        if self.is_closed:
            return False
        if self._whereabouts is not None:
            return self._follow(self._whereabouts, data, source)
        before = self._quic.get_peer_address()
        self._quic.receive_datagram(data, source or self._peer, self._loop.time())
        self.flush()
        return self._quic.get_peer_address() != before

    def on_proven(self) -> None:
        """The peer answered what went to where it has moved to."""
        if self._whereabouts is not None:
            self._whereabouts.on_proven()

    def _follow(self, whereabouts: Whereabouts, data: bytes, source: Address | None) -> bool:
        """As `receive`. What QUIC took a datagram from was authentic, and no copy of what came before."""
        heard = self._datagrams
        self._quic.receive_datagram(data, self._peer, self._loop.time())
        self._drain_events()
        has_moved = self._datagrams > heard and whereabouts.on_packet(source, len(data))
        self.flush()
        return has_moved

    def flush(self) -> None:
        """After every input: events to the handler, packets to the socket, the timer set anew."""
        self._drain_events()
        self._transmit()
        while self._queue and not self._stuck:
            expires, payload = self._queue.popleft()
            if expires < self._loop.time():
                self._give_up(payload)
                continue
            again = self._beside_again(payload)
            self._quic.send_datagram_frame(payload)
            self._stuck = len(payload)
            if self._beside:
                self._quic.send_datagram_frame(self._beside)
                self._beside = b""
            for one in again:
                self._quic.send_datagram_frame(one)
            self._transmit()
        self._send_alone()
        self._arm()

    # ------------------------------------------------------------ inside

    def _beside_again(self, payload: bytes) -> list[bytes]:
        """What goes again beside this; nothing while the window is full."""
        if self._mending is None or not payload[0]:
            return []
        room = 0 if self._quic.has_waiting else MAX_DATAGRAM - ACK_ROOM - len(payload)
        return self._mending.beside(payload, room, self._loop.time())

    def _send_alone(self) -> None:
        """One repeat leaves by itself when nothing else has left for a while."""
        if self._mending is None or self.is_closed:
            return
        now, due = self._loop.time(), self._mending.pause_due()
        if due is None or due > now + _EARLY_S:
            return
        for again in self._mending.alone(0 if self._quic.has_waiting else MAX_DATAGRAM, now):
            self._quic.send_datagram_frame(again)
            self._transmit()

    def _on_round_trip(self, seconds: float, hesitation: float) -> None:
        if self._mending is not None:
            self._mending.on_round_trip(seconds, hesitation, self._loop.time())

    def _on_fate(self, payload: bytes, came: bool) -> None:
        if self._mending is not None and payload[0]:
            self._mending.on_fate(payload, came, self._loop.time())

    def _give_up(self, payload: bytes) -> None:
        self.unsent += payload[0] != 0  # control datagrams are not media

    def _transmit(self) -> None:
        if self._quic.get_peer_address() is None:
            return  # neither connected nor reached by a first packet yet: aioquic would raise IndexError
        sent = 0
        for data, address in self._quic.datagrams_to_send(self._loop.time()):
            sent = max(sent, len(data))
            if self._port is not None:
                self._send_to(self._port, data, address)
        if sent > self._stuck:
            self._stuck = 0  # a packet of that size left: the waiting datagram was in it (they go first)

    def _send_to(self, port: UdpPort, data: bytes, address: Address) -> None:
        whereabouts = self._whereabouts
        if whereabouts is None:
            port.send(data, address)
        elif whereabouts.may_send(len(data)):
            port.send(data, whereabouts.address or address)

    def _drain_events(self) -> None:
        if self._is_draining:
            return  # a handler sends: the loop that called it goes on in order
        self._is_draining = True
        try:
            while (event := self._quic.next_event()) is not None:
                self._dispatch(event)
        finally:
            self._is_draining = False

    def _dispatch(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.DatagramFrameReceived):
            self._datagrams += 1
            self._handler.on_datagram(event.data)
        elif isinstance(event, events.StreamDataReceived):
            if event.stream_id == CONTROL_STREAM:
                self._handler.on_stream(event.data)
        elif isinstance(event, events.HandshakeCompleted):
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(event, events.ConnectionTerminated):
            self._terminated(*_application_code(event))

    def _terminated(self, code: int, reason: str) -> None:
        if self.is_closed:
            return
        if not self._ready.done():
            self._ready.set_exception(SessionError(code, reason or "the handshake failed"))
            self._ready.exception()  # seen: `open` may have given up already, and nobody else waits
        self._gone.set_result(None)
        self._handler.on_closed(code, reason)
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._port is not None:
            self._port.detach(self._peer)
            self._left.append(self._port)
        for port in list(self._left):
            self._leave(port)

    def _leave(self, port: UdpPort) -> None:
        if port in self._left:
            self._left.remove(port)
            port.close()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._quic.get_timer()
        if self._mending is not None:
            pause = self._mending.pause_due()
            at = pause if at is None else at if pause is None else min(at, pause)
        if at is not None and not self.is_closed:
            self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._quic.handle_timer(self._loop.time())
        self.flush()


async def open_transport(host: str, port: int, trust: Trust, handler: Handler) -> Transport:
    """Connect to the relay. SessionError if it cannot be found, reached or trusted."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=2)  # SOCK_DGRAM
    except OSError:
        raise SessionError(ErrorCode.GENERAL, "the relay's name has no address") from None
    configuration = _configuration(host, trust)
    transport = Transport(ClientQuic(configuration=configuration), Address.parse(found[0][4]), handler)
    try:
        await transport.open()
    except BaseException:  # cancelled, when another rung was first
        transport.close(ErrorCode.NO_ERROR)
        raise
    return transport


def _configuration(host: str, trust: Trust) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[ALPN],
        idle_timeout=IDLE_S,
        max_datagram_frame_size=1200,
        server_name=trust.server_name or host,
        verify_mode=ssl.CERT_NONE if trust.insecure else ssl.CERT_REQUIRED,
    )
    if trust.ca is not None:
        try:
            configuration.load_verify_locations(cadata=Path(trust.ca).read_bytes())
        except OSError as error:
            raise SessionError(ErrorCode.GENERAL, f"CA file: {error.strerror}") from None
    return configuration


def _application_code(event: events.ConnectionTerminated) -> tuple[int, str]:
    """The relay's own code, or one of ours for what QUIC itself gave up on (its codes mean other things)."""
    if event.frame_type is None:
        return event.error_code, event.reason_phrase
    if event.reason_phrase == "Idle timeout":
        return ErrorCode.IDLE_TIMEOUT, "nothing came for too long"
    return ErrorCode.GENERAL, f"QUIC error 0x{event.error_code:x}: {event.reason_phrase}"
