"""The sockets of relayed addresses: bound to random ports, read for a lane that has no threads of its own.

    bind          a port of `turn.first_port` to `turn.last_port`, on the address of that family
    native lane   keeps a duplicate, ours is closed at once
    plain lane    the loop reads it, and `outbox.doors` writes

Must never live here: who gets one, and what passes.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

from aioquic.quic.connection import NetworkAddress

from relay.config_turn import TurnConfig
from relay.edge.endpoint import READ_BATCH, READ_ERRORS, Endpoint
from relay.edge.lane import MAX_UDP, Lane
from relay.edge.rest import Rest
from relay.protocol.address import Address

TRIES: Final = 64  # ports tried from a random one on; where so many in a row are taken the pool is full
FULL: Final = frozenset((errno.EADDRINUSE, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that say: not now. Any other says that something is broken."""
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class Watcher(Protocol):
    """The part of the event loop that reads sockets."""

    def add_reader(self, fd: int, callback: Callable[[int], None], number: int) -> object: ...
    def remove_reader(self, fd: int) -> bool: ...
    def call_later(self, delay: float, callback: Callable[[int], None], number: int) -> object: ...


class Doors:
    """Relay sockets by the number of their allocation. `watcher` None: the lane reads them by itself."""

    def __init__(
        self,
        config: TurnConfig,
        endpoint: Endpoint,
        lane: Lane,
        watcher: Watcher | None,
        *,
        clock: Callable[[], float],
        draw: Callable[[int], bytes],
    ) -> None:
        self._endpoint = endpoint
        self._lane = lane
        self._watcher = watcher
        self._clock = clock
        self._draw = draw
        self._rests: dict[int, Rest] = {}
        self._first = config.first_port
        self._span = config.last_port - config.first_port + 1
        # Address that is bound to, and the one that others reach it by, by family.
        self._hosts: dict[int, tuple[str, str]] = {}
        for row in config.addresses:
            self._hosts[ip_address(row.bind).version] = row.bind, row.advertise or row.bind

    def __len__(self) -> int:
        """Sockets that the loop reads."""
        return len(self._endpoint.outbox.doors)

    def bind(self, family: int, is_even: bool = False) -> socket.socket:
        """A socket of this family (4 or 6) on a free port, or a free even one. OSError: see `FULL`."""
        host = self._hosts[family][0]
        sock = socket.socket(_FAMILIES[family], socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._bind_random(sock, host, is_even)
        except OSError:
            sock.close()
            raise
        return sock

    def _bind_random(self, sock: socket.socket, host: str, is_even: bool) -> None:
        # Ports that nobody can guess keep others from writing to an allocation blindly (RFC 8656 section 21).
        start = int.from_bytes(self._draw(4), "big")
        for step in range(min(TRIES, self._span)):
            port = self._first + (start + step) % self._span
            if is_even and port % 2:
                continue
            try:
                sock.bind((host, port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, "no free port")

    def advertised(self, sock: socket.socket, family: int) -> NetworkAddress:
        """The address by which peers know this socket."""
        return network_address(Address(self._hosts[family][1], sock.getsockname()[1]))

    def keep(self, allocation: int, sock: socket.socket) -> None:
        """The lane has been told of the socket: see to it that somebody reads and writes it."""
        if self._watcher is None:
            sock.close()  # the lane has a duplicate
            return
        self._endpoint.outbox.doors[allocation] = sock
        self._watch(allocation)

    def close(self, allocation: int) -> None:
        """The allocation is over; nothing happens if it never had a socket, or the lane has it."""
        sock = self._endpoint.outbox.doors.pop(allocation, None)
        self._rests.pop(allocation, None)
        if sock is not None and self._watcher is not None:
            self._watcher.remove_reader(sock.fileno())
            sock.close()

    def close_all(self) -> None:
        """The node ends."""
        for allocation in list(self._endpoint.outbox.doors):
            self.close(allocation)

    def _watch(self, allocation: int) -> None:
        sock = self._endpoint.outbox.doors.get(allocation)
        if sock is not None and self._watcher is not None:  # it may have been closed while it rested
            self._watcher.add_reader(sock.fileno(), self._read, allocation)

    def _read(self, allocation: int) -> None:
        sock = self._endpoint.outbox.doors[allocation]
        errors = 0
        for _ in range(READ_BATCH):
            try:
                data, address = sock.recvfrom(MAX_UDP + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                errors += 1
                if errors == READ_ERRORS:
                    break
                continue
            self._lane.receive_relay(allocation, data, address, self._clock())
        self._endpoint.read_errors += errors
        if errors < READ_ERRORS:
            self._rests.pop(allocation, None)
        elif self._watcher is not None:
            rest = self._rests.setdefault(allocation, Rest())
            self._watcher.remove_reader(sock.fileno())
            self._watcher.call_later(rest.failed(), self._watch, allocation)
        self._endpoint.flush()


def network_address(address: Address) -> NetworkAddress:
    """An address as the socket module writes it."""
    return (*address, 0, 0) if ":" in address.host else (*address,)


# ---------------------------------------------------------------- the machine's own addresses


def own_addresses(folder: Path = Path("/proc/self/net")) -> frozenset[bytes]:
    """Addresses of this machine's interfaces, packed, as Linux lists them; fewer where it does not say."""
    found: set[bytes] = set()
    with contextlib.suppress(OSError):
        found |= {bytes.fromhex(line[:32]) for line in (folder / "if_inet6").read_text().splitlines()}
    with contextlib.suppress(OSError):
        lines = (folder / "fib_trie").read_text().splitlines()
        for address, kind in itertools.pairwise(lines):
            if "/32 host LOCAL" in kind:
                found.add(Address(address.split()[-1], 0).packed)
    return frozenset(found)
