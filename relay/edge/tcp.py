"""TCP and TLS over it: who may connect, for how long a handshake may take, how little a socket may hold.

    accept --> counted --> TLS --> whose it is (demux.classify_stream) --> the protocol that serves this kind

A connection is counted from `accept` to its end, per source and in all; until it is somebody's leg it has
five seconds. Must never live here: what is spoken inside TLS.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

from relay.config import LimitsConfig
from relay.core.limits import TokenBucket
from relay.core.reasons import DropReason
from relay.errors import ConfigError
from relay.outlet import send_soon
from relay.protocol.address import Address
from relay.protocol.demux import StreamKind, classify_stream

log = logging.getLogger("relay.tcp")
BACKLOG = 512
ACCEPT_BATCH = 16  # connections per listening socket and turn
ACCEPT_AGAIN_S = 1.0  # after the process or the machine ran out of descriptors
RECEIVE_BUFFER = 32 * 1024  # what one peer can make us read in one turn
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Judge = Callable[[socket.socket, Address], None]
"""Takes a connection over, or closes it."""

Maker = Callable[[socket.socket, Address], asyncio.Protocol | None]
"""Who speaks with a connection from now on; None when there is no room for it."""


class Service(NamedTuple):
    """One kind of streams. `is_leg`: each is somebody's as soon as it is known to be of this kind."""

    make: Maker
    is_leg: bool


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


def server_context(certificate: str, key: str, kinds: Iterable[StreamKind]) -> ssl.SSLContext:
    """The server's side of TLS, 1.2 or 1.3, for streams of these kinds. OSError, ValueError: no such pair.

    A client that offers none of their names is let in without one: so OpenSSL has it in Python.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key)
    wanted = set(kinds)
    context.set_alpn_protocols([kind.value for kind in StreamKind if kind in wanted])
    return context


class Gate(asyncio.Protocol):
    """A connection on its way to become a leg: finds out whose it is, passes everything on to him, and lets
    go of its place at the end."""

    def __init__(self, listener: TlsListener, sock: socket.socket, address: Address, due: float) -> None:
        self.sock = sock
        self.address = address
        self.due = due
        self.inner: asyncio.Protocol | None = None
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None
        self._listener = listener
        self._is_judged = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._listener.entered(self, self.transport)
        self._pass_on(None)

    def _pass_on(self, first: int | None) -> None:
        assert self.transport is not None
        tls = self.transport.get_extra_info("ssl_object")
        kind = classify_stream(tls.selected_alpn_protocol(), first)
        if kind is not None:
            self._is_judged = True
            self.inner = self._listener.serve(self, kind, self.transport)
            if self.inner is not None:
                self.inner.connection_made(self.transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_judged:
            self._pass_on(data[0])
        if self.inner is not None:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self.inner is not None else None

    def pause_writing(self) -> None:
        if self.inner is not None:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self.inner is not None:
            self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if self.inner is not None:
                self.inner.connection_lost(exc)
        finally:
            self._listener.left(self)


class Acceptor:
    """Listening sockets; each connection is given to the `judge` of its socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._judges: dict[socket.socket, Judge] = {}
        self._again: dict[socket.socket, asyncio.TimerHandle] = {}
        self._has_room = True

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

    @property
    def sockets(self) -> list[socket.socket]:
        """Those it listens on."""
        return list(self._judges)

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
                    self._tell(error.errno)
                    self._loop.remove_reader(listener.fileno())
                    self._again[listener] = self._loop.call_later(ACCEPT_AGAIN_S, self._resume, listener)
                    return
                continue  # the peer went before we came
            self._has_room = True
            self._judges[listener](sock, Address.parse(address))

    def _tell(self, number: int) -> None:
        """One line, until a connection is accepted again."""
        if self._has_room:
            why = errno.errorcode[number]
            log.error("TCP connections wait, there is no room for one: %s (raise LimitNOFILE=)", why)
        self._has_room = False

    def _resume(self, listener: socket.socket) -> None:
        del self._again[listener]
        self._loop.add_reader(listener.fileno(), self._accept, listener)


class TlsListener:
    """Listening sockets; each connection that may stay gets a protocol of the service for its kind.

    `begun(transport)` says that it became a leg: its deadline is over.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: LimitsConfig, context: ssl.SSLContext
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._context = context
        self._services: dict[StreamKind, Service] = {}
        self._acceptor = Acceptor(loop)
        self._sources: Counter[bytes] = Counter()
        self._handshakes: set[Gate] = set()
        self._deadlines: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self._inside: set[Gate] = set()
        self._rate = TokenBucket(limits.tcp_handshakes_per_s, limits.tcp_handshakes_per_s, loop.time())
        self.accepted = 0
        self.refused: Counter[DropReason] = Counter()
        """Closed before TLS: quota, over_budget."""
        self.failed = 0
        """Handshakes that failed or took too long, of TLS or inside, and streams of kinds not served."""

    def offer(self, kind: StreamKind, make: Maker, *, is_leg: bool) -> None:
        """Serve streams of this kind, by protocols of `make`; see `Service`."""
        self._services[kind] = Service(make, is_leg)

    def configure(self, limits: LimitsConfig, context: ssl.SSLContext) -> None:
        """Limits and certificate for connections that come from now on."""
        if limits.tcp_handshakes_per_s != self._limits.tcp_handshakes_per_s:
            rate = limits.tcp_handshakes_per_s
            self._rate = TokenBucket(rate, rate, self._loop.time())
        self._limits = limits
        self._context = context

    @property
    def connections(self) -> int:
        """All that were let in and are there."""
        return self._sources.total()

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

    @property
    def sockets(self) -> list[socket.socket]:
        """Those it listens on."""
        return self._acceptor.sockets

    def stop_accepting(self) -> None:
        """Listen no more; what is connected, or about to be, goes on."""
        self._acceptor.close()

    def close(self) -> None:
        """Listen no more; what is connected goes on."""
        self._acceptor.close()
        for gate in self._handshakes:
            if gate.task is not None:
                gate.task.cancel()

    def begun(self, transport: asyncio.BaseTransport) -> None:
        """The connection is a leg: it is judged by the engine from now on."""
        deadline = self._deadlines.pop(transport, None)
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
        self._sources[source] += 1
        gate = Gate(self, sock, address, self._loop.time() + limits.handshake_s)
        self._inside.add(gate)
        self._handshakes.add(gate)
        gate.task = self._loop.create_task(self._shake_hands(gate))

    async def _shake_hands(self, gate: Gate) -> None:
        try:
            gate.sock.setblocking(False)
            send_soon(gate.sock)
            await self._loop.connect_accepted_socket(
                lambda: gate,
                gate.sock,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self.failed += 1
            self._give_up(gate)
        except BaseException:
            self._give_up(gate)
            raise

    def _give_up(self, gate: Gate) -> None:
        self.left(gate)
        gate.sock.close()

    def entered(self, gate: Gate, transport: asyncio.Transport) -> None:
        """TLS is there; what is inside has the rest of the time."""
        self._handshakes.discard(gate)
        self._deadlines[transport] = self._loop.call_at(gate.due, self._expire, transport)

    def serve(self, gate: Gate, kind: StreamKind, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """Who speaks with it; None when nobody does, and it is closed."""
        service = self._services.get(kind)
        if service is None:
            self.failed += 1
        made = service.make(gate.sock, gate.address) if service is not None else None
        if service is None or made is None:
            transport.abort()
        elif service.is_leg:
            self.begun(transport)
        return made

    def _expire(self, transport: asyncio.Transport) -> None:
        del self._deadlines[transport]
        self.failed += 1
        transport.abort()

    def left(self, gate: Gate) -> None:
        """It is over."""
        if gate not in self._inside:
            return
        self._inside.discard(gate)
        self._handshakes.discard(gate)
        if gate.transport is not None:
            self.begun(gate.transport)
        source = gate.address.prefix()
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]
