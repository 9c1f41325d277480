"""The native lane's threads: which sockets they read, and how the loop hears of what they leave for it.

    lane 0   [::]:443  [::]:3478      socket numbers 0, 1
    lane 1   [::]:443  [::]:3478                     2, 3

The sockets of an address share it (SO_REUSEPORT) and are steered by connection id, what TURN's clients send
by their port. Any lane can serve any leg, so that their number can change: what a socket still holds is read
before it is closed. Must never live here: packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Sequence

from relay.config import ListenConfig
from relay.edge.endpoint import Endpoint
from relay.edge.generation import Places
from relay.edge.lane_native import NativeLane
from relay.edge.udp import bind_beside, kernel_drops
from relay.errors import ConfigError

log = logging.getLogger("relay.lane")
LOOK_SECONDS = 0.002  # between looks at a socket that nothing is steered to any more
NO_SHORT_TURNS = "audio may wait some milliseconds for other threads: no sched_setattr"
LOOKS = 1000  # it is empty long before


class LaneThreads:
    """One thread per socket of an address, of those that are ours. Who gets what `Places.steer` says."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: NativeLane,
        endpoint: Endpoint,
        places: Places,
    ) -> None:
        if len({len(group) for group in places.own}) > 1:
            raise ConfigError(
                "listen.udp", "inherited sockets differ in number by address", "as many for each address"
            )
        self._loop = loop
        self._lane = lane
        self._endpoint = endpoint
        self._places = places
        self._groups = places.own
        self._event = -1
        self._drops_of_closed = 0
        self._was_refused = False
        self._changing = asyncio.Lock()  # one change of the number at a time

    @property
    def groups(self) -> list[list[socket.socket]]:
        """Those of one address together."""
        return [list(group) for group in self._groups]

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them, by number."""
        return [sock for lane in zip(*self._groups, strict=True) for sock in lane]

    @property
    def wanted(self) -> int:
        """How many there must be."""
        return len(self._groups[0])

    @property
    def missing(self) -> int:
        """Threads that ended by themselves: nobody reads their sockets. 0 unless there is a bug."""
        return self.wanted - self._lane.packets().threads

    @property
    def kernel_drops(self) -> int:
        """Packets the kernel dropped before us, at sockets that are closed too: it never falls."""
        return self._drops_of_closed + sum(kernel_drops(sock) for sock in self.sockets)

    def start(self) -> None:
        """Read from now on."""
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(self._event, self._on_event)
        self._run(self._groups)

    def close(self) -> None:
        """Stop the threads and close the sockets."""
        if self._event >= 0:
            self._lane.stop()
            self._loop.remove_reader(self._event)
            os.close(self._event)
            self._event = -1
        for sock in self.sockets:
            sock.close()

    async def resize(self, lanes: int, listen: ListenConfig) -> None:
        """Another number of lanes, at least two before and after; no packet is lost.

        Packets wait in the sockets while threads change. A socket that goes is left out of the steering
        first, and closed when it is empty.
        """
        async with self._changing:
            added: list[list[socket.socket]] = []
            try:
                for group in self._groups:
                    added.append([])
                    for _ in range(lanes - len(group)):
                        added[-1].append(bind_beside(group[0], listen))
                await self._change(
                    lanes, [[*old, *new] for old, new in zip(self._groups, added, strict=True)]
                )
            except (ConfigError, OSError) as error:
                for sock in (sock for group in added for sock in group):
                    sock.close()
                self._places.steer()
                log.error("the number of lanes stays: %s", error)

    async def _change(self, lanes: int, groups: list[list[socket.socket]]) -> None:
        gone = [sock for group in groups for sock in group[lanes:]]
        kept = [group[:lanes] for group in groups]
        self._places.steer(lanes)
        if gone:
            await self._until_empty(gone)
        self._run(kept)
        self._groups = self._places.groups = kept
        for sock in gone:
            self._drops_of_closed += kernel_drops(sock)
            sock.close()
        log.info("lanes changed", extra={"lanes": lanes})

    def _run(self, groups: list[list[socket.socket]]) -> None:
        """(Re)start the threads for these sockets; when that fails the ones before go on."""
        lanes = list(zip(*groups, strict=True))
        refused = self._lane.start([[sock.fileno() for sock in lane] for lane in lanes], self._event)
        if refused is not None and not self._was_refused:
            log.info(NO_SHORT_TURNS, extra={"why": refused})
            self._was_refused = True
        self._endpoint.use_sockets([sock for lane in lanes for sock in lane], len(groups))

    async def _until_empty(self, sockets: Sequence[socket.socket]) -> None:
        for _ in range(LOOKS):
            if not any(_waiting(sock) for sock in sockets):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _on_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self._endpoint.wake()


def _waiting(sock: socket.socket) -> int:
    """Bytes of the next packet that waits in a socket; 0: none."""
    (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
    return int(size)
