"""Proof that this node works, which alone feeds the service manager's watchdog.

    loop lag      the loop came back to us in time at least once
    probe         a packet that we sent to our own public address came back: kernel -> lane -> loop
    progress      or else, where the kernel or a queue dropped the probe in a flood: packets pass the lane
                  by the hundred, and the loop takes what the lane leaves for it

A node that is busy is slow and proves all the same; one that hangs proves nothing and is replaced. Where no
probe ever came back (a firewall on loopback) its absence says nothing, and the loop speaks for itself. Must
never live here: sockets, clocks, what the manager is told.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from aioquic.quic.connection import NetworkAddress

LOOK_S: Final = 0.25  # between two looks at the clock
PROOF_LOOKS: Final = 4  # a second at least between two proofs
HUNDREDS: Final = 100  # packets between two looks that are more than our probes and stray noise


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of what was done so far."""

    received: int = 0  # UDP packets in the lane
    taken: int = 0  # of them by the loop
    waiting: int = 0  # for the loop, now
    probes: int = 0  # that came back


class Pulse:
    """Judges looks, each with how late it came."""

    def __init__(self) -> None:
        self.is_armed = False
        """A probe came back once, so that its absence means something."""
        self.missing = ""
        """What the last look lacked; empty: nothing."""
        self._before = Progress()
        self._looks = 0  # since the last proof

    def look(self, late_s: float, lag_s: float, progress: Progress) -> bool:
        """True: the node was just proven to work. To be called each LOOK_S, which it came late by `late_s`.

        `lag_s`: as late as a loop that keeps up may be.
        """
        self._looks += 1
        # What came since the last look, not since the last proof: a node that just died has nothing to show.
        lack = self._lacks(progress)
        self._before = progress
        self.missing = "loop_lag" if late_s > lag_s else lack
        if self.missing or self._looks < PROOF_LOOKS:
            return False
        self._looks = 0
        return True

    def _lacks(self, progress: Progress) -> str:
        before = self._before
        if progress.probes > before.probes:
            self.is_armed = True
            return ""
        passes = progress.received - before.received >= HUNDREDS
        drains = progress.taken > before.taken or not progress.waiting
        return "" if not self.is_armed or (passes and drains) else "probe"


class Wire(Protocol):
    """What probes go by: an endpoint."""

    def open_probe(self, heard: Callable[[], None]) -> bytes:
        """A connection id for packets of ours; `heard` is called for each that came back."""

    def send_probe(self, sock: int, packet: bytes, address: NetworkAddress) -> bool:
        """Send one by this socket; False when the kernel did not take it."""


class Probe:
    """Sends packets to ourselves, one by each address that we listen on."""

    def __init__(self, wire: Wire, draw: Callable[[int], bytes]) -> None:
        self._wire = wire
        self._draw = draw
        self.heard = 0
        self._cid = wire.open_probe(self._hear)

    def send(self, sockets: Iterable[socket.socket]) -> None:
        """One to the address of each of these, which are the first of the endpoint's."""
        for number, sock in enumerate(sockets):
            # A short header, random behind the id, as long as a packet that could hold something.
            packet = b"\x40" + self._cid + self._draw(32)
            self._wire.send_probe(number, packet, own_address(sock))

    def _hear(self) -> None:
        self.heard += 1


def own_address(sock: socket.socket) -> NetworkAddress:
    """Where a packet must go to come in by this socket: loopback, where it is bound to no one address."""
    host, port = sock.getsockname()[:2]
    if sock.family == socket.AF_INET:
        return ("127.0.0.1" if host == "0.0.0.0" else host, port)
    if host == "::":
        # IPv4 has a loopback even where IPv6 was switched off.
        is_only_6 = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        host = "::1" if is_only_6 else "::ffff:127.0.0.1"
    return (host, port, 0, 0)
