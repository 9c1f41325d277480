"""One voice from a relay to a listener on a simulated clock, with its reports, controller and repair.

    Listener(net, rtt_ms, seed).run(seconds) -> Outcome

A model of a leg, not the daemon: relay.core and relay.protocol measure and decide; of QUIC there are packet
numbers, acknowledgements and a smoothed round trip. Must never live here: decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from impair import Link, Net
from relay.config_voice import AdaptConfig
from relay.core.adapt import TICK_S, Controller, Mode, Orders, Signs, State
from relay.core.delays import RelativeDelay, Trend
from relay.core.losses import Losses
from relay.core.rates import ByteRate, Owed
from relay.protocol.repair import LEAST_ACK_SLACK, Path, Sent, choose, copies, earn

STEP_S = 0.005
PACKET = 31  # bytes of a packet of ours around its datagrams
DATAGRAM = 55 - 31  # headers of one media datagram: frame, hop header, tags
ACK = 40
ACK_RANGE = 32  # packet numbers that an acknowledgement tells of
EXACT_S = 1e-6  # frames come in a beat of 20 ms, and 0.12 is no exact number
PLAYABLE_S = 0.120


@dataclass
class Outcome:
    """What became of a run."""

    frames: int = 0
    lost: int = 0
    """Frames that were not there 120 ms after their time."""
    media_bytes: int = 0
    repair_bytes: int = 0
    repeats: int = 0
    late_copies: int = 0
    """Repeats that left when they were older than the listener holds."""
    queue: list[tuple[float, float]] = field(default_factory=list)
    """(second, ms) that a packet would have waited for the bottleneck, each tick."""
    orders: list[tuple[float, Orders]] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Residual, 0-1, of frames."""
        return self.lost / self.frames

    @property
    def wire(self) -> float:
        """Bytes over those of the media alone."""
        return 1 + self.repair_bytes / self.media_bytes


class Listener:
    """A leg and all around it. With `pinned` the controller is only watched, and repair is of one kind."""

    def __init__(self, net: Net, rtt_ms: float, seed: int, pinned: Orders | None = None) -> None:
        half = rtt_ms / 2
        self.down: Link[tuple[int, int, list[int]]] = Link(replace(net, delay=net.delay + half), seed)
        self.up: Link[tuple[list[int], float]] = Link(
            replace(net, delay=net.delay + half, rates=()), seed + 1
        )
        self.controller = Controller(AdaptConfig())
        self.pinned = pinned
        self.outcome = Outcome()
        self.slack = PLAYABLE_S if pinned else 0.060
        self.rtt: float | None = None
        self.rttvar = 0.0
        self.ptime, self.bps = 20, 24_000
        self.ring: dict[int, Sent] = {}
        self.unacked: dict[int, Sent] = {}
        self.contents: dict[int, tuple[float, int, list[int]]] = {}
        self.left = 10.0
        self.orders = pinned
        self.losses, self.relative, self.trend, self.owed = Losses(), RelativeDelay(), Trend(), Owed()
        self.sent, self.acked, self.media = ByteRate(), ByteRate(), ByteRate()
        self.queue = 0.0
        self.delays: list[float] = []
        self.due: dict[int, float] = {}
        self.came: set[int] = set()
        self.received: list[int] = []
        self.settled = -1
        self.ctr = self.number = 0

    def run(self, seconds: float) -> Outcome:
        """Speak for so long."""
        next_frame = next_tick = 0.0
        for step in range(round(seconds / STEP_S)):
            now = step * STEP_S
            self._receive(now)
            if now >= next_tick - 1e-9:
                self._tick(now)
                next_tick += TICK_S
            if now >= next_frame - 1e-9:
                self._frame(now)
                next_frame = now + self.ptime / 1000
        self._receive(seconds + 1)
        for ctr, at in self.due.items():
            if at < seconds - 1:
                self.outcome.frames += 1
                self.outcome.lost += ctr not in self.came
        return self.outcome

    def _frame(self, now: float) -> None:
        size = DATAGRAM + self.bps * self.ptime // 8000
        ctr, self.ctr = self.ctr, self.ctr + 1
        one = Sent(now, now, size, True)
        carried, extra = [ctr], 0
        orders = self.orders
        if orders is not None and orders.mode is not Mode.OFF:
            self.left = earn(self.left, orders.budget, orders.depth)
            max_age = min(self.slack, orders.max_age / 1000) + EXACT_S
            if orders.mode is Mode.REPEATS and self.rtt is not None:
                path = Path(self.rtt, self.rttvar, LEAST_ACK_SLACK, max_age)
                waiting = list(self.unacked)
                choice = choose(list(self.unacked.values()), now, path, self.left, 1200 - PACKET - size)
                again = [waiting[position] for position in choice.append]
                for position in choice.forget:
                    del self.unacked[waiting[position]]
                self.left = choice.left
            elif orders.mode is Mode.COPIES:
                choice = copies(
                    self.ring, ctr, orders.distances, now, max_age, self.left, 1200 - PACKET - size
                )
                again, self.left = list(choice.append), choice.left
            else:
                again = []
            carried += again
            extra = sum(self.ring[n].size for n in again)
            self.outcome.repeats += len(again)
            self.outcome.late_copies += sum(now - self.ring[n].came > max_age for n in again)
        self.ring[ctr] = self.unacked[ctr] = one
        self.ring.pop(ctr - 64, None)
        self.due[ctr] = now
        total = PACKET + size + extra
        self.outcome.media_bytes += PACKET + size
        self.outcome.repair_bytes += extra
        self.contents[self.number] = (now, total, carried)
        self.down.send((self.number, ctr, carried), total, now)
        self.sent.on_bytes(total, now)
        self.media.on_bytes(PACKET + size, now)
        self.owed.on_sent(now)
        self.number += 1

    def _receive(self, until: float) -> None:
        while (at := self.down.next_deadline()) is not None and at <= until:
            for number, ctr, carried in self.down.due(at):
                self.delays.append(self.relative.on_packet(self.due[ctr] * 1000, at * 1000))
                normal = self.down.net.delay / 1000
                self.came |= {n for n in carried if at - self.due[n] <= normal + PLAYABLE_S + 1e-9}
                self.received = [*self.received[1 - ACK_RANGE :], number]
                self.up.send((self.received, sum(self.delays) / len(self.delays)), ACK, at)
        while (at := self.up.next_deadline()) is not None and at <= until:
            for numbers, delay in self.up.due(at):
                self.queue = delay
                self.owed.on_report()
                for number in numbers:
                    self._acked(number, number == numbers[-1], at)

    def _acked(self, number: int, is_newest: bool, now: float) -> None:
        for old in range(self.settled + 1, number - 2):  # RFC 9002 section 6.1.1: three packets later
            self._settle(old, True, now)
        known = self.contents.get(number)
        if known is None:
            return
        left, size, carried = known
        self.acked.on_bytes(size, now)
        if is_newest:  # RFC 9002 section 5.1
            sample = now - left
            if self.rtt is None:
                self.rtt, self.rttvar = sample, sample / 2
            self.rttvar += (abs(self.rtt - sample) - self.rttvar) / 4
            self.rtt += (sample - self.rtt) / 8
        for ctr in carried:
            self.unacked.pop(ctr, None)
        self._settle(number, False, now)

    def _settle(self, number: int, was_lost: bool, now: float) -> None:
        if self.contents.pop(number, None) is not None:
            self.losses.on_packet(was_lost, now)
        self.settled = max(self.settled, number if was_lost else self.settled)

    def _tick(self, now: float) -> None:
        self.delays = self.delays[-1:]
        signs = Signs(
            loss=self.losses.rate,
            run=self.losses.run,
            residual=None,
            queue=self.queue,
            trend=self.trend.on_delay(self.queue),
            age=0.0,
            rtt=1000 * (self.rtt or 0.0),
            ack_slack=1000 * LEAST_ACK_SLACK,
            maps_acks=True,
            slack=1000 * self.slack,
            ptime=self.ptime,
            media_bps=self.media.bps(now),
            sent_bps=self.sent.bps(now),
            acked_bps=self.acked.bps(now),
            report_age=self.owed.age_ms(now),
            rise=self.trend.rise,
        )
        orders = self.controller.on_tick(signs, now)
        self.outcome.queue.append((now, self.down.queue_ms(now)))
        self.outcome.orders.append((now, orders))
        if self.pinned is None:
            self.orders = orders
            self.bps, self.ptime = orders.ask
            self.slack = max(0.060, orders.playout / 1000)


def pinned(mode: Mode, *distances: int) -> Orders:
    """Repair of one kind from the first packet on, with what a lossy leg may use."""
    return replace(
        Controller(AdaptConfig()).on_tick(_CALM, 0.0), state=State.LOSSY_B, mode=mode, budget=1.0, depth=50.0,
        distances=distances, max_age=120.0, playout=120,
    )  # fmt: skip


_CALM = Signs(
    loss=None,
    run=1.0,
    residual=None,
    queue=0.0,
    trend=0.0,
    age=0.0,
    rtt=40.0,
    ack_slack=10.0,
    maps_acks=True,
    slack=60.0,
    ptime=20.0,
    media_bps=0.0,
    sent_bps=0.0,
    acked_bps=0.0,
    report_age=0.0,
)
