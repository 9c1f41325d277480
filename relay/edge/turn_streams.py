"""TURN's clients on TCP and TLS: who may connect, how long, and their frames in both directions.

    accept --> [TLS] --> frames --> requests: engine      ChannelData, Send indications: lane
                                    lane, engine --> write, dropped when the client takes no more

A stream is counted from `accept` to its end, per source and in all; without an allocation it has 30 s. Frames
are dealt with one of each stream in turns, for a bounded time per turn of the loop, and a stream is not read
while frames of it wait. Must never live here: what a request means.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, cast

from relay.config import LimitsConfig
from relay.config_turn import TurnConfig
from relay.core.credentials import Via
from relay.core.reasons import DropReason
from relay.core.turn_events import ClientPacket
from relay.edge.bucket import Bucket
from relay.edge.endpoint import Endpoint
from relay.edge.lane import Lane
from relay.edge.tcp import Acceptor
from relay.edge.timers import TURN_SECONDS
from relay.edge.turn import TurnDriver
from relay.errors import ErrorCode, PeerError
from relay.protocol.address import Address
from relay.protocol.demux import StreamKind, classify_stream
from relay.protocol.relayed import SEND, message_type
from relay.protocol.turn import FIRST_CHANNEL, FrameReader

UNUSED_S: Final = 30.0  # a stream without an allocation: ICE stacks ask at once
REQUESTS_PER_S, REQUESTS_AT_ONCE = 50, 200  # of a stream; a browser makes a few for each candidate
MAX_UNSENT: Final = 64 * 1024  # bytes that wait for a client; what comes beyond them is dropped
LOW_WATER: Final = 16 * 1024  # and unsent bytes in the kernel: more would be speech of seconds ago
GONE_MS: Final = 30_000  # nothing acknowledged for so long: nobody is there
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module lacks it before Python 3.12
TCP, TLS = "tcp", "tls"
log = logging.getLogger("relay.turn")


def _prepare(sock: socket.socket) -> None:
    """Small messages leave at once, few wait in the kernel, and a client that vanished is noticed."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_MS)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, LOW_WATER)


class TurnStream(asyncio.Protocol):
    """One client. See `relay.edge.turn.Stream`."""

    def __init__(self, hub: TurnStreams, via: Via) -> None:
        self.via = via
        self.allocation: int | None = None
        self.frames: deque[bytes] = deque()
        self.requests = Bucket(REQUESTS_PER_S, REQUESTS_AT_ONCE)
        self.is_counted = True
        self.is_waiting = False
        self._hub = hub
        self._has_begun = False
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._hub.joined(self)
        self.released()

    def data_received(self, data: bytes) -> None:
        try:
            self._begin(data[0])
            self.frames += self._reader.feed(data)
        except PeerError:
            self._hub.dropped[DropReason.MALFORMED] += 1
            self.abort()
            return
        if self.frames and self._transport is not None:
            self._transport.pause_reading()
            self._hub.wait(self)

    def _begin(self, first: int) -> None:
        """A stream begins with a request: no channel is bound before one."""
        if not self._has_begun and classify_stream(None, first) is not StreamKind.TURN:
            raise PeerError(ErrorCode.BAD_ENCODING, "not STUN")
        self._has_begun = True

    def drained(self) -> None:
        """All its frames were dealt with."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """See `relay.edge.turn.Stream`; so for the next one."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self._hub.dropped[DropReason.QUEUE_FULL] += 1
            return
        if self.via.transport == TCP:
            transport.write(data)
            return
        for message in FrameReader().feed(
            data
        ):  # a TLS record each: coturn's client takes one for one message
            transport.write(message)

    def released(self) -> None:
        self._cancel()
        self._deadline = self._hub.loop.call_later(UNUSED_S, self._on_deadline)

    def _on_deadline(self) -> None:
        if self.allocation is None:
            self._hub.unused += 1
            self.abort()

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def abort(self) -> None:
        """Close it now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.frames.clear()
        self._cancel()
        self._hub.left(self)


def _rate(limits: LimitsConfig) -> Bucket:
    """Handshakes of TLS, in all: each costs a millisecond."""
    return Bucket(limits.tcp_handshakes_per_s, limits.tcp_handshakes_per_s)


class TurnStreams:
    """All of them, and the sockets that they come by."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        driver: TurnDriver,
        endpoint: Endpoint,
        lane: Lane,
        config: TurnConfig,
        limits: LimitsConfig,
        context: ssl.SSLContext,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.loop = loop
        self.accepted = 0
        self.unused = 0
        """Closed because they asked for no allocation in time."""
        self.failed = 0
        """TLS handshakes that failed or took too long."""
        self.refused: Counter[DropReason] = Counter()
        """Closed at once: quota, over_budget."""
        self.dropped: Counter[DropReason] = Counter()
        """Frames from clients (malformed, unknown_id, over_budget) and pieces for them (queue_full)."""
        self._driver = driver
        self._endpoint = endpoint
        self._lane = lane
        self._config = config
        self._limits = limits
        self._context = context
        self._clock = clock
        self._numbers = itertools.count(1)
        self._acceptor = Acceptor(loop)
        self._sources: Counter[bytes] = Counter()
        self._open: set[TurnStream] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._rate = _rate(limits)
        self._waiting: deque[TurnStream] = deque()
        self._is_working = False

    def __len__(self) -> int:
        """Streams, those in a handshake included."""
        return self._sources.total()

    def configure(self, config: TurnConfig, limits: LimitsConfig, context: ssl.SSLContext) -> None:
        """Limits and certificate for streams that come from now on."""
        if limits.tcp_handshakes_per_s != self._limits.tcp_handshakes_per_s:
            self._rate = _rate(limits)
        self._config, self._limits, self._context = config, limits, context

    # ------------------------------------------------------------ coming and going

    def listen(self, sock: socket.socket, transport: str) -> None:
        """Accept from this socket, which listens already; `transport`: tcp or tls."""
        self._acceptor.listen(sock, lambda taken, address: self._judge(taken, address, transport))

    @property
    def ports(self) -> list[int]:
        """Where it listens."""
        return self._acceptor.ports

    def stop_accepting(self) -> None:
        """Listen no more; what is open goes on."""
        self._acceptor.close()

    def close(self) -> None:
        """Listen no more, and close what is open."""
        self._acceptor.close()
        for task in self._handshakes:
            task.cancel()
        for stream in list(self._open):
            stream.abort()

    def _judge(self, sock: socket.socket, address: Address, transport: str) -> None:
        stream = self._take_in(address, transport, is_new=True)
        if stream is None:
            sock.close()
            return
        task = self.loop.create_task(self._begin(sock, stream))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def adopt(self, sock: socket.socket, address: Address) -> TurnStream | None:
        """Serve a client who came by a listener of others and has shaken hands (`tcp.Maker`)."""
        stream = self._take_in(address, TLS, is_new=False)
        if stream is not None:
            _prepare(sock)
        return stream

    def _take_in(self, address: Address, transport: str, *, is_new: bool) -> TurnStream | None:
        """Count it, or refuse it. `is_new`: it has its handshake before it."""
        source = address.prefix()
        refused: DropReason | None = None
        if len(self) >= self._config.streams or self._sources[source] >= self._config.streams_per_source:
            refused = DropReason.QUOTA
        elif is_new and transport == TLS and not self._rate.take(1, self._clock()):
            refused = DropReason.OVER_BUDGET
        if refused is not None:
            self.refused[refused] += 1
            self._forget_source(source)
            return None
        self.accepted += 1
        self._sources[source] += 1
        return TurnStream(self, Via(transport, address, next(self._numbers)))

    async def _begin(self, sock: socket.socket, stream: TurnStream) -> None:
        is_tls = stream.via.transport == TLS
        begun = False
        try:
            _prepare(sock)
            if is_tls:
                await self.loop.connect_accepted_socket(
                    lambda: stream,
                    sock,
                    ssl=self._context,
                    ssl_handshake_timeout=self._limits.handshake_s,
                    ssl_shutdown_timeout=1.0,
                )
            else:
                await self.loop.connect_accepted_socket(lambda: stream, sock)
            begun = True
        except (OSError, ssl.SSLError, TimeoutError):  # the last: the handshake's deadline
            self.failed += 1
        finally:
            if not begun:
                sock.close()
                self._release(stream)

    def _release(self, stream: TurnStream) -> None:
        if stream.is_counted:
            stream.is_counted = False
            source = stream.via.client.prefix()
            self._sources[source] -= 1
            self._forget_source(source)

    def _forget_source(self, source: bytes) -> None:
        if not self._sources[source]:
            del self._sources[source]

    def joined(self, stream: TurnStream) -> None:
        """It can speak."""
        self._open.add(stream)
        self._driver.joined(stream.via.local, stream)

    def left(self, stream: TurnStream) -> None:
        """It is over."""
        self._open.discard(stream)
        self._release(stream)
        self._driver.left(stream.via)

    # ------------------------------------------------------------ frames of clients

    def wait(self, stream: TurnStream) -> None:
        """It has frames."""
        if not stream.is_waiting:
            stream.is_waiting = True
            self._waiting.append(stream)
        if not self._is_working:
            self._is_working = True
            self.loop.call_soon(self._work)

    def _work(self) -> None:
        until = self._clock() + TURN_SECONDS
        while self._waiting and (now := self._clock()) < until:
            stream = self._waiting.popleft()
            if stream.frames:  # else it was lost meanwhile
                self._try(stream, stream.frames.popleft(), now)
            stream.is_waiting = bool(stream.frames)
            if stream.is_waiting:
                self._waiting.append(stream)
            else:
                stream.drained()
        self._is_working = bool(self._waiting)
        if self._is_working:
            self.loop.call_soon(self._work)
        self._endpoint.flush()

    def _try(self, stream: TurnStream, frame: bytes, now: float) -> None:
        try:
            self._deal_with(stream, frame, now)
        except Exception as error:  # a bug of ours: it costs this stream, never the others
            self._driver.internal_errors += 1
            log.error("internal error while handling a frame", exc_info=error)
            stream.abort()

    def _deal_with(self, stream: TurnStream, frame: bytes, now: float) -> None:
        if frame[0] >= FIRST_CHANNEL >> 8 or message_type(frame) == SEND:
            if stream.allocation is None:
                self.dropped[DropReason.UNKNOWN_ID] += 1
            else:
                self._lane.relay_from_client(stream.allocation, frame, now)
        elif stream.requests.take(1, now):
            self._driver.feed(ClientPacket(stream.via, frame))
        else:
            self.dropped[DropReason.OVER_BUDGET] += 1
