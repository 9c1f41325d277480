"""Signs of life and reports of a call: ping, leg report, receiver report. And what a call needs of its leg.

Must never live here: what is reported (reception.py), sockets.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

from relay.client.errors import SessionError
from relay.client.reception import Reception
from relay.client.udp import UdpPort
from relay.protocol.address import Address
from relay.protocol.datagram import Datagram, LegReport, NewestWins, Ping, Pong
from relay.protocol.messages import Message, Rr

REPORT_S: Final = 0.200  # while there is something to tell
CALM_REPORT_S: Final = 1.0  # while all that was sent came, and in time
RR_S: Final = 1.0
PING_S: Final = 1.0  # in an open call, for the round trip time
KEEPALIVE_S: Final = 5.0  # times 0.8 to 1.2, so that a crowd does not beat in step (RFC 7675 section 5.1)
_MAX_PINGS: Final = 10
_EARLY_S: Final = 0.1  # half of what is between two looks
_U32: Final = 0xFFFF_FFFF


class Leg(Protocol):
    """What a call needs of its session."""

    async def request(self, message: Message) -> Message:
        """Send and wait for the answer. RefusedError, SessionError."""

    def tell(self, message: Message) -> None:
        """Send without an answer."""

    def send_media(self, payload: bytes) -> None:
        """Send a media datagram."""

    def send_control(self, datagram: Datagram) -> None:
        """Send a control datagram."""

    @property
    def port(self) -> UdpPort | None:
        """The UDP port that the relay knows us by, None on a leg without one."""

    @property
    def seen_as(self) -> Address | None:
        """How the relay sees that port."""

    @property
    def relay_host(self) -> str:
        """The relay's address as text, empty while there is none."""

    @property
    def media_unsent(self) -> int:
        """Datagrams dropped before the network."""

    @property
    def media_repeated(self) -> int:
        """Datagrams that went again, since the relay did not get them."""

    @property
    def error(self) -> SessionError | None:
        """Why the leg is gone, if it is."""


class Reporter:
    """One task per call, absolute deadlines."""

    def __init__(self, call: bytes, leg: Leg, reception: Reception, is_open: Callable[[], bool]) -> None:
        self._call = call
        self._leg = leg
        self._reception = reception
        self._is_open = is_open
        self._loop = asyncio.get_running_loop()
        self._pings: dict[int, float] = {}
        self._sequence = 0
        self._reported_at = -CALM_REPORT_S
        self.rtt: float | None = None
        """Smoothed round trip to the relay, seconds."""

    def on_control(self, datagram: Datagram | None) -> None:
        """A control datagram came."""
        if isinstance(datagram, Pong):
            asked_at = self._pings.pop(datagram.seq, None)
            if asked_at is not None:
                sample = self._loop.time() - asked_at
                # RFC 9002 section 5.3
                self.rtt = sample if self.rtt is None else self.rtt + (sample - self.rtt) / 8
        elif isinstance(datagram, Ping):
            self._leg.send_control(Pong(datagram.ms, datagram.seq, self._now_ms()))

    async def run(self) -> None:
        """Report until cancelled."""
        next_ping = next_rr = next_report = self._loop.time()
        while True:
            now = self._loop.time()
            is_open, is_alive = self._is_open(), self._leg.error is None
            if now >= next_report:
                next_report = now + REPORT_S
                if is_alive:
                    self._report(now)
            if now >= next_rr:
                next_rr = now + RR_S
                if is_alive and is_open:
                    self._receiver_report()
            if now >= next_ping:
                next_ping = now + KEEPALIVE_S * random.uniform(0.8, 1.2)
                if is_alive:
                    self._ping(now)
            if is_open:
                next_ping = min(next_ping, now + PING_S)
            await asyncio.sleep(min(next_report, next_rr, next_ping) - now)

    def _next(self) -> int:
        self._sequence = self._sequence + 1 & _U32
        return self._sequence

    def _now_ms(self) -> int:
        return round(self._loop.time() * 1000) & _U32

    def _ping(self, now: float) -> None:
        """A sign of life that measures the round trip. Answers that do not come are forgotten."""
        sequence = self._next()
        self._pings[sequence] = now
        while len(self._pings) > _MAX_PINGS:
            self._pings.pop(next(iter(self._pings)))
        self._leg.send_control(Ping(self._now_ms(), sequence))

    def _report(self, now: float) -> None:
        flows = self._reception.flow_reports(now)
        is_calm = self._reception.is_calm(flows)
        if flows and (not is_calm or now - self._reported_at >= CALM_REPORT_S - _EARLY_S):
            self._reported_at = now
            self._leg.send_control(LegReport(self._next() & 0xFFFF, self._now_ms(), flows))

    def _receiver_report(self) -> None:
        entries = self._reception.receiver_report()
        if entries:
            self._leg.send_control(NewestWins(Rr.TYPE, self._next(), Rr(c=self._call, s=entries)))
