"""UDP sockets: made or inherited, large buffers, watched by the loop.

Must never live here: what packets mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence

from relay.config import ListenConfig
from relay.edge.endpoint import READ_BATCH, Endpoint
from relay.edge.rest import Rest
from relay.errors import ConfigError

SO_MEMINFO = 55
RATE_WINDOW = 0.05  # seconds over which the packet rate is measured
WORTH_A_WAIT = 2  # packets expected within the wait; below, waiting costs more than it saves
_MEMINFO_DROPS = 8  # index of the drop counter in the array of SO_MEMINFO (linux/sock_diag.h)


def bind(text: str, listen: ListenConfig, count: int | None = None) -> list[socket.socket]:
    """Bound UDP sockets for "[v6]:port" or "v4:port", `count` or one for each lane; [::] takes IPv4 too.

    ConfigError names the setting.
    """
    host, _, port = text.rpartition(":")
    count = count or listen.lanes
    first = _bind_one(text, host, port, listen, shares=count > 1)
    return [first, *(bind_beside(first, listen) for _ in range(count - 1))]


def bind_beside(sock: socket.socket, listen: ListenConfig) -> socket.socket:
    """One more socket of the same address, which must have been one of several from the start."""
    host, port = sock.getsockname()[:2]
    host = f"[{host}]" if sock.family == socket.AF_INET6 else host
    return _bind_one(f"{host}:{port}", host, str(port), listen, shares=True)


def _bind_one(text: str, host: str, port: str, listen: ListenConfig, *, shares: bool) -> socket.socket:
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError, OverflowError) as error:
        sock.close()
        raise ConfigError(
            "listen.udp", f"cannot listen on {text}: {error}", "choose a free address"
        ) from None
    prepare(sock, listen)
    return sock


def by_address(sockets: Sequence[socket.socket]) -> list[list[socket.socket]]:
    """Inherited sockets, those of one address together: each of them is read by a lane of its own."""
    groups: dict[object, list[socket.socket]] = {}
    for sock in sockets:
        groups.setdefault(sock.getsockname(), []).append(sock)
    return list(groups.values())


def prepare(sock: socket.socket, listen: ListenConfig) -> None:
    """Non-blocking, with the configured buffers (the kernel may grant less, see `buffers`)."""
    sock.setblocking(False)
    for option, size in ((socket.SO_RCVBUF, listen.receive_buffer), (socket.SO_SNDBUF, listen.send_buffer)):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)


def kernel_drops(sock: socket.socket) -> int:
    """Packets the kernel dropped at this socket because its buffer was full; 0 where it does not say."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    except OSError:
        return 0
    fields = struct.unpack(f"={len(raw) // 4}I", raw)
    return int(fields[_MEMINFO_DROPS]) if len(fields) > _MEMINFO_DROPS else 0


class Reader:
    """Lets the endpoint read a socket: at once while packets are few, in batches while they are many.

    A packet that wakes the process costs more than its own work. When more than two are expected within the
    wait, the socket is looked at once per wait instead (docs/architecture.md has the measured trade). One
    that cannot be read is left alone for a while.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, endpoint: Endpoint, wait_s: float
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._number = endpoint.attach_socket(sock)
        self._endpoint = endpoint
        self._wait = wait_s
        self._timer: asyncio.Handle | None = None
        self._is_watching = False
        self._batching = False
        self._counted = 0
        self._since = loop.time()
        self._guess = 1
        self._rest = Rest()

    def start(self) -> None:
        """Read from now on."""
        self._watch(True)

    def close(self) -> None:
        """Stop reading and close the socket."""
        self._watch(False)
        if self._timer is not None:
            self._timer.cancel()
        self._sock.close()

    def _watch(self, on: bool) -> None:
        if on is self._is_watching:
            return
        self._is_watching = on
        if on:
            self._loop.add_reader(self._sock.fileno(), self._read)
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _read(self) -> None:
        self._timer = None
        # An empty read costs an exception: where one packet woke us, one is read.
        taken = self._endpoint.read(self._number, READ_BATCH if self._batching else self._guess)
        if taken is None:
            self._watch(False)
            self._timer = self._loop.call_later(self._rest.failed(), self._read)
            return
        self._rest.worked()
        self._guess = min(2 * taken, READ_BATCH) if taken >= self._guess else max(taken, 1)
        self._count(taken)
        if not self._batching:
            self._watch(True)
            return
        self._watch(False)
        if taken >= READ_BATCH:
            self._timer = self._loop.call_soon(self._read)
        else:
            self._timer = self._loop.call_later(self._wait, self._read)

    def _count(self, taken: int) -> None:
        """Decide anew every 50 ms whether more than two packets come within a wait."""
        self._counted += taken
        passed = self._loop.time() - self._since
        if passed >= RATE_WINDOW:
            self._batching = self._counted * self._wait > WORTH_A_WAIT * passed
            self._counted = 0
            self._since += passed
