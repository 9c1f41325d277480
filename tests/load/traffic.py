"""Two-way voice at a steady pace over pairs of lines, with the one-way delay of each packet.

A line sends payloads and hands over what arrives; `Leg` is one, `BareLine` (plain UDP) another. A packet is
120 bytes: a true hop header with the sender's key id and counter, then bytes that only the sender knows. The
receiver checks all of them except the flow number and bit R, which a hop may change.
Must never live here: how a line was set up.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from load.leg import open_socket, read_stamped
from relay.errors import PeerError
from relay.protocol import media

PAYLOAD = 120
WIRE_OVERHEAD = 33  # short header 1 + 8 + 2, frame type and length 3, tag 16, now and then an ACK
PERIOD = 0.020
TICK = 0.001  # what the event loop's timers resolve; what falls into one tick leaves together


class Line(Protocol):
    """One end of a call."""

    def send(self, payload: bytes) -> bool: ...


class BareLine:
    """Plain UDP to the bare forwarder; packets are padded to the size that a QUIC leg's have."""

    def __init__(self, server: tuple[str, int], on_media: Callable[[bytes, float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._on_media = on_media
        self._sock = open_socket()
        self._paired = asyncio.Event()
        self._loop.add_reader(self._sock.fileno(), self._readable)

    async def pair(self, name: bytes) -> None:
        """Be connected with whoever names the same 16 bytes."""
        self._sock.sendto(b"!" + name, self._server)
        async with asyncio.timeout(10):
            await self._paired.wait()

    def send(self, payload: bytes) -> bool:
        """One packet."""
        self._sock.sendto(payload + bytes(WIRE_OVERHEAD), self._server)
        return True

    def vanish(self) -> None:
        """Close."""
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _readable(self) -> None:
        packet = read_stamped(self._sock)
        while packet is not None:
            data, arrived, _ = packet
            if data == b"!":
                self._paired.set()
            elif data:
                self._on_media(data[:-WIRE_OVERHEAD], arrived)
            packet = read_stamped(self._sock)


@dataclass
class Heard:
    """What one end heard of the other."""

    delivered: int = 0
    wrong: int = 0  # not what was sent
    repeated: int = 0
    delays: list[float] = field(default_factory=list)  # seconds, in order of arrival
    arrivals: list[float] = field(default_factory=list)  # wall clock


class Voice:
    """One direction: `next` makes the sender's packets, `arrive` judges what the receiver got."""

    def __init__(self, *, size: int = PAYLOAD) -> None:
        self.index = 0
        self.flow = 1
        self.sent = 0
        self.refused = 0
        self.heard = Heard()
        self._size = size
        self._times: list[float] = []
        self._rests: list[bytes] = []
        self._got: set[int] = set()

    def next(self) -> bytes:
        """The next packet, as of now."""
        head = media.encode_header(self.flow, self.index << 2, len(self._times))
        payload = head + os.urandom(self._size - len(head))
        self._rests.append(payload[2:])
        self._times.append(time.time())
        return payload

    def arrive(self, payload: bytes, arrived: float) -> None:
        """A payload came; `arrived` is the kernel's wall-clock time."""
        try:
            ctr = media.decode(payload).ctr
        except PeerError:
            self.heard.wrong += 1
            return
        if ctr >= len(self._rests) or payload[2:] != self._rests[ctr]:
            self.heard.wrong += 1
        elif ctr in self._got:
            self.heard.repeated += 1
        else:
            self._got.add(ctr)
            self.heard.delivered += 1
            self.heard.delays.append(arrived - self._times[ctr])
            self.heard.arrivals.append(arrived)


async def talk(ends: Sequence[tuple[Line, Voice]], seconds: float, period: float = PERIOD) -> None:
    """Send on all lines, each once a period, evenly spread over it, for so many seconds."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    step = period / len(ends)
    total = round(seconds / step)
    done = 0
    while done < total:
        due = min(total, int((loop.time() - start) / step) + 1)
        while done < due:
            line, voice = ends[done % len(ends)]
            if line.send(voice.next()):
                voice.sent += 1
            else:
                voice.refused += 1
            done += 1
        await asyncio.sleep(max(TICK, start + done * step - loop.time()))


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` (0-1) of them lie; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
