"""TCP and TLS over it: who may connect, for how long a handshake may take, how little a socket may hold.

A connection is counted from `accept` to its end, per source and in all; until it is somebody's leg it has
five seconds. Must never live here: what is spoken inside TLS.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence

from relay.config import LimitsConfig
from relay.core.limits import TokenBucket
from relay.core.reasons import DropReason
from relay.errors import ConfigError
from relay.outlet import send_soon
from relay.protocol.address import Address

ALPN = ("http/1.1",)
BACKLOG = 512
ACCEPT_BATCH = 16  # connections per listening socket and turn
ACCEPT_AGAIN_S = 1.0  # after the process or the machine ran out of descriptors
RECEIVE_BUFFER = 32 * 1024  # what one peer can make us read in one turn
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Judge = Callable[[socket.socket, Address], None]
"""Takes a connection over, or closes it."""


def bind(text: str, key: str) -> socket.socket:
    """A listening socket for "[v6]:port" or "v4:port"; [::] takes IPv4 too. ConfigError names `key`."""
    host, _, port = text.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host.strip("[]"), int(port)))
        sock.listen(BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        sock.close()
        raise ConfigError(key, f"cannot listen on {text}: {error}", "choose a free address") from None
    return sock


def server_context(certificate: str, key: str, alpn: Sequence[str] = ALPN) -> ssl.SSLContext:
    """The server's side of TLS: 1.2 or 1.3. OSError, ValueError for a pair that is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(list(alpn))
    return context


class Gate(asyncio.Protocol):
    """A connection on its way to become a leg: passes everything on, and lets go of its place at the end."""

    def __init__(self, inner: asyncio.Protocol, release: Callable[[], None]) -> None:
        self.inner = inner
        self._release = release

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self.inner.connection_lost(exc)
        finally:
            self._release()


class Acceptor:
    """Listening sockets; each connection is given to the `judge` of its socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._judges: dict[socket.socket, Judge] = {}
        self._again: dict[socket.socket, asyncio.TimerHandle] = {}

    def listen(self, sock: socket.socket, judge: Judge) -> None:
        """Accept from this socket, which listens already."""
        sock.setblocking(False)
        # Accepted sockets have the same: set before the handshake, it bounds the window as well.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._judges[sock] = judge
        self._loop.add_reader(sock.fileno(), self._accept, sock)

    @property
    def ports(self) -> list[int]:
        """Where it listens."""
        return [sock.getsockname()[1] for sock in self._judges]

    def close(self) -> None:
        """Listen no more."""
        for sock in self._judges:
            waiting = self._again.pop(sock, None)
            if waiting is not None:
                waiting.cancel()
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._judges.clear()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:  # the socket stays readable: do not spin
                    self._loop.remove_reader(listener.fileno())
                    self._again[listener] = self._loop.call_later(ACCEPT_AGAIN_S, self._resume, listener)
                    return
                continue  # the peer went before we came
            self._judges[listener](sock, Address.parse(address))

    def _resume(self, listener: socket.socket) -> None:
        del self._again[listener]
        self._loop.add_reader(listener.fileno(), self._accept, listener)


class TlsListener:
    """Listening sockets; each connection that may stay gets a protocol of `make`.

    `begun(protocol)` says that it became a leg: its deadline is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LimitsConfig,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._context = context
        self._make = make
        self._acceptor = Acceptor(loop)
        self._sources: Counter[bytes] = Counter()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._deadlines: dict[asyncio.Protocol, asyncio.TimerHandle] = {}
        self._rate = TokenBucket(limits.tcp_handshakes_per_s, limits.tcp_handshakes_per_s, loop.time())
        self.connections = 0
        self.accepted = 0
        self.refused: Counter[DropReason] = Counter()
        """Closed before TLS: quota, over_budget."""
        self.failed = 0
        """Handshakes that failed or took too long, of TLS or inside."""

    def configure(self, limits: LimitsConfig, context: ssl.SSLContext) -> None:
        """Limits and certificate for connections that come from now on."""
        if limits.tcp_handshakes_per_s != self._limits.tcp_handshakes_per_s:
            rate = limits.tcp_handshakes_per_s
            self._rate = TokenBucket(rate, rate, self._loop.time())
        self._limits = limits
        self._context = context

    @property
    def half_open(self) -> int:
        """Connections that are nobody's leg yet."""
        return len(self._handshakes) + len(self._deadlines)

    def listen(self, sock: socket.socket) -> None:
        """Accept from this socket, which listens already."""
        self._acceptor.listen(sock, self._judge)

    @property
    def ports(self) -> list[int]:
        """Where it listens."""
        return self._acceptor.ports

    def close(self) -> None:
        """Listen no more; what is connected goes on."""
        self._acceptor.close()
        for task in self._handshakes:
            task.cancel()

    def begun(self, protocol: asyncio.Protocol) -> None:
        """The connection is a leg: it is judged by the engine from now on."""
        deadline = self._deadlines.pop(protocol, None)
        if deadline is not None:
            deadline.cancel()

    # ------------------------------------------------------------ one connection

    def _judge(self, sock: socket.socket, address: Address) -> None:
        source = address.prefix()
        limits = self._limits
        refused: DropReason | None = None
        if (
            self.connections >= limits.tcp_connections
            or self._sources[source] >= limits.tcp_per_source
            or self.half_open >= limits.half_open
        ):
            refused = DropReason.QUOTA
        elif not self._rate.take(1, self._loop.time()):
            refused = DropReason.OVER_BUDGET
        if refused is not None:
            self.refused[refused] += 1
            if not self._sources[source]:
                del self._sources[source]
            sock.close()
            return
        self.accepted += 1
        self.connections += 1
        self._sources[source] += 1
        task = self._loop.create_task(self._shake_hands(sock, source))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def _release(self, source: bytes) -> None:
        self.connections -= 1
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]

    async def _shake_hands(self, sock: socket.socket, source: bytes) -> None:
        due = self._loop.time() + self._limits.handshake_s
        inner = self._make()
        held = _Once(lambda: self._end(inner, source))
        try:
            sock.setblocking(False)
            send_soon(sock)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: Gate(inner, held),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self.failed += 1
            held()
            sock.close()
            return
        except BaseException:
            held()
            sock.close()
            raise
        if not held.is_done and not transport.is_closing():
            self._deadlines[inner] = self._loop.call_at(due, self._expire, inner, transport)

    def _expire(self, inner: asyncio.Protocol, transport: asyncio.Transport) -> None:
        del self._deadlines[inner]
        self.failed += 1
        transport.abort()

    def _end(self, inner: asyncio.Protocol, source: bytes) -> None:
        self.begun(inner)
        self._release(source)


class _Once:
    """Calls what it holds the first time."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.is_done = False

    def __call__(self) -> None:
        if not self.is_done:
            self.is_done = True
            self._call()
