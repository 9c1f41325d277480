"""The native lane's threads: which sockets they read, and how the loop hears of what they leave for it.

Must never live here: packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence

from relay.edge.endpoint import Endpoint
from relay.edge.lane_native import NativeLane
from relay.errors import ConfigError


class LaneThreads:
    """One thread per socket of an address; `sockets` are grouped by address, all groups of one length."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: NativeLane,
        endpoint: Endpoint,
        sockets: Sequence[Sequence[socket.socket]],
    ) -> None:
        if len({len(group) for group in sockets}) > 1:
            raise ConfigError(
                "listen.udp", "inherited sockets differ in number by address", "as many for each address"
            )
        self._loop = loop
        self._lane = lane
        self._endpoint = endpoint
        self._sockets = sockets
        self._event = -1

    def start(self) -> None:
        """Read from now on."""
        for group in self._sockets:
            self._endpoint.attach_socket(group[0])
            if len(group) > 1:
                self._lane.steer([sock.fileno() for sock in group])
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(self._event, self._on_event)
        lanes = zip(*self._sockets, strict=True)
        self._lane.start([[sock.fileno() for sock in lane] for lane in lanes], self._event)

    def close(self) -> None:
        """Stop the threads and close the sockets."""
        if self._event >= 0:
            self._lane.stop()
            self._loop.remove_reader(self._event)
            os.close(self._event)
            self._event = -1
        for group in self._sockets:
            for sock in group:
                sock.close()

    def _on_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self._endpoint.wake()
