"""UDP sockets: made or inherited, large buffers, watched by the loop.

Must never live here: what packets mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from relay.config import ListenConfig
from relay.edge.endpoint import Endpoint
from relay.errors import ConfigError

SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # index of the drop counter in the array of SO_MEMINFO (linux/sock_diag.h)


def bind(text: str, listen: ListenConfig) -> socket.socket:
    """A bound, non-blocking UDP socket for "[v6]:port" or "v4:port"; [::] takes IPv4 too. ConfigError."""
    host, _, port = text.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
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


def watch(loop: asyncio.AbstractEventLoop, sock: socket.socket, endpoint: Endpoint) -> None:
    """Let the endpoint read whenever packets wait."""
    loop.add_reader(sock.fileno(), endpoint.read, sock)


def unwatch(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Stop reading and close the socket."""
    loop.remove_reader(sock.fileno())
    sock.close()
