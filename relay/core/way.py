"""The way to one listener: what the lane measured and what the listener reports become `Signs` (adapt.py).

    on_report(report)     what came, and how much later than the fastest
    on_measure(measure)   when `is_due` -> Orders | None: all is well, and what was ordered stays
    is_over               it has been well for long: the way may be forgotten until something goes wrong again

Queueing delay is the lesser of two: how much longer packets take to the listener than the fastest, in which
the speaker's own network is, and how much longer round trips take, in which the listener's way up is. The way
down is in both. So it is with loss that repair leaves: what a listener reports missing may never have come to
us, and what was not acknowledged in time may have come. Must never live here: thresholds of states, sending.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Final

from relay.config_voice import AdaptConfig
from relay.core.adapt import Controller, Orders, Signs, State
from relay.core.delays import TREND_OVER, RelativeDelay, Trend
from relay.core.events import Measure
from relay.core.losses import Losses, Settled
from relay.core.rates import ByteRate, Owed, packet_ms
from relay.protocol.datagram import FlowReport, LegReport
from relay.protocol.repair import MOST_ACK_SLACK, ack_slack

USUAL_PTIME_MS: Final = 20
USUAL_SLACK_MS: Final = 60.0  # of a jitter buffer that was not reported
BEFORE: Final = 100  # packets of 20 ms: the two seconds over which loss is averaged
CALM_LOOK_S: Final = 1.0  # between two looks at a way on which nothing has been wrong for so long
EARLY_S: Final = 0.02  # a timer of the loop may come a little early, and floats are not exact
FRESH_S: Final = 1.2  # a report tells of the present for so long; there is one a second when all is well
MOST_ACK_SLACK_MS: Final = 1000 * MOST_ACK_SLACK


class Way:
    """One listener's leg, from the first measure on."""

    def __init__(self, config: AdaptConfig, lost: int = 0, runs: int = 0) -> None:
        """`lost` and `runs`: what was lost already when nobody looked any more."""
        self._config = config
        self._lost_before = lost, runs
        self._controller = Controller(config)
        self._before: Measure | None = None
        self._orders: Orders | None = None
        self._losses = Losses()
        self._missing = Losses()  # by reports
        self._late = Losses()  # by acknowledgements
        self._sent = ByteRate()
        self._acked = ByteRate()
        self._again = ByteRate()
        self._owed = Owed()
        self._round_trip = RelativeDelay()
        self._trend = Trend()
        self._latest = Trend()
        self._excess = 0.0
        self._reported: tuple[float, float, float] | None = None  # delay and its latest, ms; when, seconds
        self._newest: dict[tuple[int, int], tuple[int, int]] = {}  # of a flow and key: counter, listener's ms
        self._settled: dict[tuple[int, int], Settled] = {}
        self._slack = USUAL_SLACK_MS
        self._judged_slack = -inf
        self._looked_at: float | None = None
        self._wrong_at = -inf  # when something was wrong last
        self.ptime = USUAL_PTIME_MS

    @property
    def losses(self) -> tuple[int, int]:
        """Packets lost until it was measured last, and how often several or one in a row."""
        return (self._before.lost, self._before.runs) if self._before is not None else self._lost_before

    @property
    def loss(self) -> float | None:
        """Share lost before repair, 0-1; None: too little to tell."""
        return self._losses.rate

    def is_over(self, now: float) -> bool:
        """All has been well for so long that nobody need look any more."""
        return self._controller.is_at_rest(now) and now - self._wrong_at >= self._config.armed_s

    def is_due(self, now: float) -> bool:
        """Whether to measure it: at each turn while something is wrong, once a second while nothing is."""
        since = inf if self._looked_at is None else now - self._looked_at
        return now - self._wrong_at < CALM_LOOK_S or since >= CALM_LOOK_S - EARLY_S

    def since_look(self, now: float) -> float:
        """Seconds since this was asked last; 0 at first."""
        before, self._looked_at = self._looked_at, now
        return 0.0 if before is None else now - before

    def on_trouble(self, now: float) -> None:
        """Something is wrong, whoever says so."""
        self._wrong_at = now

    def on_report(self, report: LegReport, now: float) -> None:
        """What the listener says came; of several flows the latest is what its queue is judged by."""
        self._owed.on_report()
        delays = [
            (flow.delay_mean / 10, _latest(flow)) for flow in report.flows if flow.delay_mean is not None
        ]
        if delays:
            self._reported = (*min(delays), now)
        held = max([flow.jb_ms for flow in report.flows])
        self._slack = float(held // 10 * 10) or USUAL_SLACK_MS  # it moves all the time
        patience = max(1, ceil(self._config.playout_ms / self.ptime))
        for flow in report.flows:
            key = (flow.flow, flow.kid)
            if key not in self._settled and len(self._settled) >= 64:
                self._settled.clear()  # keys come and go
                self._newest.clear()
            settled = self._settled.setdefault(key, Settled(patience))
            fates = settled.on_report(flow.base, flow.map)
            came, runs = sum(fates), 0
            if came < len(fates):
                runs = sum([not one and (not at or fates[at - 1]) for at, one in enumerate(fates)])
            self._missing.on_batch(came, len(fates) - came, runs, now)
            before, newest = self._newest.get(key), flow.newest
            came_at = report.t - flow.age_ms  # a report of an outage tells of fewer, and of less time
            self._newest[key] = (newest, came_at)
            if before is not None:
                self.ptime = packet_ms(newest - before[0], came_at - before[1], self.ptime)

    def on_measure(self, measure: Measure, now: float) -> Orders | None:
        """What the lane knows now; what may be done until the next time, None if that is as it was."""
        is_first = self._before is None
        if is_first:
            self._begin(measure, now)
        before, self._before = self._before or measure, measure
        acked, lost = measure.acked - before.acked, measure.lost - before.lost
        late = measure.late - before.late
        self._losses.on_batch(acked, lost, measure.runs - before.runs, now)
        self._sent.on_bytes(measure.bytes_sent - before.bytes_sent, now)
        self._acked.on_bytes(measure.bytes_acked - before.bytes_acked, now)
        self._again.on_bytes(measure.repeat_bytes - before.repeat_bytes, now)
        if acked:
            self._owed.on_report()
        elif measure.bytes_sent != before.bytes_sent:
            self._owed.on_sent(now)
        self._late.on_batch(measure.came - before.came, late, late, now)
        queue, latest = self._queue(measure, is_first or acked > 0, now)
        self._latest.note(latest)
        is_calm = self._is_calm(measure, lost + late, queue, now)
        if not is_calm or self._orders is None:
            self._wrong_at = now
        elif self._slack == self._judged_slack:
            self._trend.note(queue)
            return None
        self._judged_slack = self._slack
        orders, known = self._controller.on_tick(self._signs(measure, queue, now), now), self._orders
        if known is not None and orders.state is not known.state:
            self._missing, self._late = Losses(), Losses()  # of another repair, or of none
            if known.state in (State.CONGESTED, State.STARVED):
                self._losses = Losses()  # what overflowed tells nothing of a way without a queue
        self._orders = orders
        return orders

    def _begin(self, measure: Measure, now: float) -> None:
        """What was so before anybody looked: all went well, until a loss or a queue a moment ago.

        Before a queue there was none, so it rises; to wait for five looks would take a second of it.
        """
        for delay_ms in range(TREND_OVER - 1):
            self._trend.note(delay_ms / 10)
            self._latest.note(delay_ms / 10)
        lost, runs = self._lost_before
        self._losses.on_batch(min(measure.acked, BEFORE), measure.lost - lost, measure.runs - runs, now)
        if measure.rtt is not None:
            self._round_trip.on_packet(1000 * (now - measure.rtt[3]), 1000 * now)

    def _queue(self, measure: Measure, is_heard: bool, now: float) -> tuple[float, float]:
        """Queueing delay on the way down, ms, and how long it may have become since."""
        if measure.rtt is not None and is_heard:
            self._excess = self._round_trip.on_packet(1000 * (now - measure.rtt[0]), 1000 * now)
        if self._reported is None or now - self._reported[2] > FRESH_S:
            return self._excess, self._excess
        mean, latest, _ = self._reported
        return min(self._excess, mean), min(self._excess, latest)

    def _is_calm(self, measure: Measure, missed: int, queue: float, now: float) -> bool:
        """Nothing to judge, which would cost the most here."""
        config = self._config
        return (
            not missed
            and queue < config.queue_clear_ms
            and 1000 * measure.age < config.queue_clear_ms
            and self._owed.age_ms(now) <= 1000 * config.dark_s
            and (self._residual(measure) or 0.0) <= config.heavy_from
            and self._controller.is_at_rest(now)
        )

    def _residual(self, measure: Measure) -> float | None:
        """Share that did not come in time after repair, 0-1."""
        slack = min(self._slack, self._config.playout_ms)
        is_near = measure.rtt is not None and 1000 * measure.rtt[1] + MOST_ACK_SLACK_MS <= slack
        rates = (self._missing.rate, self._late.rate if is_near else None)
        return min((rate for rate in rates if rate is not None), default=None)

    def _signs(self, measure: Measure, queue: float, now: float) -> Signs:
        latest = measure.rtt[1] if measure.rtt is not None else 0.0
        sent = self._sent.bps(now)
        return Signs(
            loss=self._losses.rate,
            run=self._losses.run,
            residual=self._residual(measure),
            queue=queue,
            trend=self._trend.on_delay(queue),
            age=1000 * measure.age,
            rtt=1000 * latest,
            ack_slack=ceil(1000 * ack_slack(measure.ack_delay)),
            maps_acks=True,
            slack=self._slack,
            ptime=float(self.ptime),
            media_bps=max(0.0, sent - self._again.bps(now)),
            sent_bps=sent,
            acked_bps=self._acked.bps(now),
            report_age=self._owed.age_ms(now),
            rise=self._latest.rise,
        )


def _latest(flow: FlowReport) -> float:
    """Where delays stood at the end of a report's time if they rose all along, ms: its mean is the middle."""
    mean, least, most = flow.delay_mean or 0, flow.delay_min or 0, flow.delay_p95 or 0
    return max(mean, min(2 * mean - least, most)) / 10
