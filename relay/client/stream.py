"""What the SDK's legs over TCP have in common: messages in order, datagrams in time or not at all.

    control frames    C0 || msgpack, in order         datagrams    as they are, within 200 ms or not at all

A media datagram is written only while the one before has left the machine: what waits longer is dropped here,
where it can be counted, and not queued where it only grows old. Must never live here: protocol content, how a
message is framed (websocket.py, raw.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

from relay.client.errors import SessionError
from relay.client.transport import MAX_DATAGRAM, Handler, Trust
from relay.errors import ErrorCode, LocalError
from relay.outlet import is_idle
from relay.protocol.control import MAX_FRAME, FrameReader
from relay.protocol.datagram import Nack
from relay.protocol.records import CONTROL, LAST_DATAGRAM

QUEUE_FRAMES: Final = 10
QUEUE_S: Final = 0.200
LOOK_S: Final = 0.010  # between two looks at a socket that still holds something
CLOSE_S: Final = 1.0


class StreamTransport(ABC):
    """A connection over TCP with the face of `relay.client.transport.Transport`."""

    name: str

    def __init__(self, handler: Handler, sock: socket.socket, here: tuple[Any, ...] | None) -> None:
        """`here`: its own address."""
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._fd = sock.fileno()
        self._local_port = int(here[1]) if here else 0
        self._control: deque[bytes] = deque()
        self._reader = FrameReader()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._wanted = asyncio.Event()
        self._is_closed = False
        self.unsent = 0  # media dropped here: too old, or too many
        self.repeated = 0  # TCP does that
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        """True once `on_closed` was called."""
        return self._is_closed

    @property
    def local_port(self) -> int:
        """The TCP port we send from."""
        return self._local_port

    def write(self, data: bytes) -> None:
        """Send whole frames of the control stream."""
        if not self._is_closed:
            self._control.extend(bytes((CONTROL,)) + frame for frame in self._reader.feed(data))
            self._wanted.set()

    def send(self, payload: bytes) -> None:
        """Send a datagram now, or within 200 ms, or not at all."""
        if len(payload) > MAX_DATAGRAM:
            raise LocalError(f"a datagram of {len(payload)} bytes does not fit a packet")
        if self._is_closed:
            return
        self._queue.append((self._loop.time() + QUEUE_S, payload))
        if len(self._queue) > QUEUE_FRAMES:
            self._give_up(self._queue.popleft()[1])
        self._wanted.set()

    def hold_acks(self, seconds: float) -> None:
        """Nothing: TCP acknowledges by itself."""
        del seconds

    def repair(self, bits_per_s: float, packets_per_s: float, *, by_name: bool = False) -> None:
        """Nothing: TCP repairs by itself."""
        del bits_per_s, packets_per_s, by_name

    def resend(self, ask: Nack) -> None:
        """Nothing, either."""
        del ask

    async def rebind(self) -> int:
        """TCP does not move: LocalError. `Session.rejoin` makes a new leg."""
        raise LocalError("a leg over TCP cannot move to another port: rejoin instead")

    def close(self, code: int = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Close with an application code, after the control frames before it; `on_closed` comes at once."""
        self._end(code, reason, is_ours=True)

    async def wait_closed(self) -> None:
        """Wait until the relay was told, a second at most, and the socket is closed."""
        if self._ending is None:
            await asyncio.wait([self._tasks[1]])
        if self._ending is not None:
            await asyncio.shield(self._ending)

    # ------------------------------------------------------------ inside

    def _give_up(self, payload: bytes) -> None:
        self.unsent += payload[0] != 0  # control datagrams are not media

    async def _write(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it broke: the reader sees that too
            while await self._wanted.wait():
                self._wanted.clear()
                while self._control or self._queue:
                    await self._write_one()

    async def _write_one(self) -> None:
        if self._control:
            await self._put(self._control.popleft())
        elif self._queue[0][0] < self._loop.time():
            self._give_up(self._queue.popleft()[1])
        elif is_idle(self._fd):
            await self._put(self._queue.popleft()[1])
        else:
            await asyncio.sleep(LOOK_S)

    def _take(self, data: bytes) -> None:
        first = data[0] if data else 0xFF
        if self._is_closed:
            return
        if first <= LAST_DATAGRAM:
            self._handler.on_datagram(data)
        elif first == CONTROL and len(data) <= 1 + MAX_FRAME:
            self._handler.on_stream((len(data) - 1).to_bytes(2, "big") + data[1:])
        else:
            self.close(ErrorCode.PROTOCOL_VIOLATION, "neither a datagram nor a control message")

    def _end(self, code: int, reason: str, *, is_ours: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.clear()
        self._ending = self._loop.create_task(self._finish(code, reason, is_ours))
        self._handler.on_closed(code, reason)

    async def _finish(self, code: int, reason: str, is_ours: bool) -> None:
        """Last words, the goodbye unless the relay closed, and all that is ours goes."""
        self._tasks[0].cancel()
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if is_ours:
                    while self._control:
                        await self._put(self._control.popleft())
                    await self._say_goodbye(code, reason)
        self._tasks[1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._let_go()

    # ------------------------------------------------------------ how each kind does it

    @abstractmethod
    async def _put(self, record: bytes) -> None:
        """Write one datagram or control message. OSError, RuntimeError when that is over."""

    @abstractmethod
    async def _read(self) -> None:
        """Give `_take` what comes; `_end` when nothing comes any more."""

    @abstractmethod
    async def _say_goodbye(self, code: int, reason: str) -> None:
        """Tell the relay the code."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Close what is open."""


def tls_context(trust: Trust, alpn: str) -> ssl.SSLContext:
    """How the relay is trusted, and what is spoken inside. SessionError for a CA file that is none."""
    if trust.ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(trust.ca)
        except OSError as error:
            raise SessionError(ErrorCode.GENERAL, f"CA file: {error.strerror}") from None
    if trust.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context
