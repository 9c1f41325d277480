"""TCP sockets for audio: nothing may grow old in a buffer where nobody can drop it.

What is late is noise, so a frame is written only while the one before has left. Relay and SDK ask here. Must
never live here: what is written.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from typing import Final

UNSENT_LOW: Final = 4096  # bytes; the kernel takes more below this
FRAME: Final = 512  # bytes that an idle wire may hold: one frame of audio, TLS and WebSocket around it
_SIOCOUTQNSD: Final = 0x894B  # bytes not sent yet (linux/sockios.h)
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; Python has the name from 3.12 on


def send_soon(sock: socket.socket) -> None:
    """No delay for small writes, and little unsent in the kernel (Linux)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LOW)


class Outlet:
    """What a connected socket still holds of what was written to it."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._fd: int = transport.get_extra_info("socket").fileno()

    def is_idle(self) -> bool:
        """All but a frame has left the machine, and the kernel takes more."""
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            return False
        return is_idle(self._fd)


def is_idle(fd: int) -> bool:
    """As `Outlet.is_idle`, for what the kernel has of an open socket."""
    if sys.platform != "linux":
        return bool(select.select((), (fd,), (), 0)[1])
    import fcntl

    look = select.poll()
    look.register(fd, select.POLLOUT)
    if not look.poll(0):
        return False
    try:
        raw = fcntl.ioctl(fd, _SIOCOUTQNSD, bytes(4))
    except OSError:  # no TCP socket, in a test
        return True
    return bool(struct.unpack("i", raw)[0] <= FRAME)
