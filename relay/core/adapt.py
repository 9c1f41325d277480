"""What a listener's network bears: a state per leg, and what may be done for the listener in it.

    Signs --> findings, each with its time --> TRANSITIONS --> State --> Orders

Congestion beats loss: while there is a queue nothing is added to it, whatever is lost. Every finding must
last for its own time, counted from when the state was entered, so no two states alternate faster than that.
Numbers stand in `AdaptConfig`. Must never live here: how anything is measured, and which packet is repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, inf
from statistics import median
from typing import ClassVar, Final

from relay.config_voice import AdaptConfig
from relay.core.machine import Machine
from relay.core.standing import Standing
from relay.core.steps import LONG_PACKETS, LOWEST, Level, Steps

TICK_S: Final = 0.2
_EARLY_S: Final = 0.02  # a timer of the loop may come a little early, and floats are not exact
_COPY_MARGIN_MS: Final = 20  # a copy needs a moment more than its distance


class State(StrEnum):
    """What is wrong with the way to a listener."""

    CLEAN = "clean"  # nothing; the first loss is repaired
    LOSSY_I = "lossy_i"  # single packets are lost
    LOSSY_B = "lossy_b"  # several in a row are lost
    HEAVY = "heavy"  # repair does not keep up
    CONGESTED = "congested"  # there is a queue, and it grows
    STARVED = "starved"  # the least we send is too much
    DARK = "dark"  # the listener says nothing


class Mode(StrEnum):
    """How lost packets are made good."""

    OFF = "off"
    REPEATS = "repeats"  # what was not acknowledged, again, beside what leaves anyway
    COPIES = "copies"  # what left a fixed number of packets ago, again, always


@dataclass(slots=True)
class Signs:
    """What was measured on the way to a listener. Shares are 0-1, times ms; None: too little to tell.

    Nobody changes it; not frozen, since it is made at each look, and that takes three times as long.
    """

    loss: float | None
    """Share lost before repair."""
    run: float
    """Mean number of packets lost in a row, at least 1."""
    residual: float | None
    """Share that did not come in time after repair."""
    queue: float
    """Delay over its least; without reports, round trip over its least."""
    trend: float
    """Kendall's tau of the last delays, -1 to 1; 0 if unknown."""
    age: float
    """Age of the oldest copy that waits here."""
    rtt: float
    ack_slack: float
    """How long the listener may hold an acknowledgement."""
    maps_acks: bool
    """Whether acknowledgements tell which datagram came."""
    slack: float
    """What the listener's jitter buffer holds."""
    ptime: float
    """Speech in one packet."""
    media_bps: float
    """Bits per second on the wire without repair."""
    sent_bps: float
    acked_bps: float
    report_age: float
    """How long the listener has owed a report: since the last one, or since what was sent after it."""
    is_stream: bool = False
    """TCP repairs by itself, and late."""
    rise: float = 0.0
    """By how much the queue grew over the last two ticks; 0 if it fell in either."""
    uplink_loss: float = 0.0
    """Share that the sender loses on the way to the relay; of several the greatest."""


@dataclass(slots=True)
class Orders:
    """What may be done for a listener until the next tick. Nobody changes it; not frozen as `Signs`."""

    state: State
    mode: Mode
    budget: float
    """Repaired packets per media packet, 0-1; saved up to `depth` packets."""
    depth: float
    distances: tuple[int, ...]
    """Of COPIES, in packets; oldest first."""
    max_age: float
    """No packet is repeated that is older, ms."""
    ack_slack: float
    """How long an acknowledgement is waited for beside the round trip, ms."""
    playout: int
    """What the listener is asked to hold at least (`mp`), ms; 0: as it likes."""
    speakers: int
    coalesce: bool
    """Wait for what may share a packet."""
    hold_frame: bool
    """Send two frames per packet."""
    redundancy: bool
    """Let pass what senders add as mere redundancy."""
    ask: Level
    """What senders are asked for, as far as this listener goes."""
    is_for_loss: bool
    """That is asked only since packets are lost; there is no queue."""
    fec: int
    """Per cent of loss that the sender's codec shall protect against; 0: none."""


class Spotty:
    """Single losses, no queue."""


class Bursty:
    """Losses in a row, no queue."""


class LossGone:
    """Hardly any loss, no queue."""


class HeavyLoss:
    """More is lost than repair makes good."""


class HeavyGone:
    """Repair keeps up again."""


class QueueGrew:
    """A queue that grows, or is full; or copies that wait here."""


class QueueGone:
    """No queue on the way, none here."""


class QueueStands:
    """What waits neither grows nor goes: others fill the queue, or the way became longer."""


class Starving:
    """The least that is worth sending does not get through."""


class Fed:
    """No queue, and what is sent arrives."""


class ReportsMissing:
    """The listener owes a report."""


class Reported:
    """A listener that was dark is heard again."""


_Form = tuple[Mode, tuple[int, ...]]
_OFF: Final[_Form] = (Mode.OFF, ())
_LEVELS: Final[Mapping[State, int]] = {State.LOSSY_B: 1, State.HEAVY: LONG_PACKETS}  # for loss alone
_TRIAL: Final = ("overflowing", "overfull")  # findings about a step up
_HOLDS: Final[Mapping[type, str]] = {
    HeavyLoss: "heavy_after_s",
    HeavyGone: "heavy_rest_s",
    QueueGone: "clear_s",
    QueueStands: "stood_s",
    Fed: "fed_s",
}


class Controller(Machine[State]):
    """One leg's way down. `on_tick` each 200 ms."""

    # Of a row, the first finding that has lasted decides.
    TRANSITIONS: ClassVar[Mapping[State, Mapping[type, State]]] = {
        State.CLEAN: {
            ReportsMissing: State.DARK,
            QueueGrew: State.CONGESTED,
            HeavyLoss: State.HEAVY,
            Bursty: State.LOSSY_B,
            Spotty: State.LOSSY_I,
        },
        State.LOSSY_I: {
            ReportsMissing: State.DARK,
            QueueGrew: State.CONGESTED,
            HeavyLoss: State.HEAVY,
            Bursty: State.LOSSY_B,
            LossGone: State.CLEAN,
        },
        State.LOSSY_B: {
            ReportsMissing: State.DARK,
            QueueGrew: State.CONGESTED,
            HeavyLoss: State.HEAVY,
            LossGone: State.CLEAN,
        },
        State.HEAVY: {
            ReportsMissing: State.DARK,
            QueueGrew: State.CONGESTED,
            HeavyGone: State.LOSSY_B,
        },
        State.CONGESTED: {
            ReportsMissing: State.DARK,
            QueueGone: State.CLEAN,
            Starving: State.STARVED,
            QueueStands: State.CLEAN,
        },
        State.STARVED: {
            ReportsMissing: State.DARK,
            Fed: State.CLEAN,
        },
        State.DARK: {Reported: State.CLEAN},  # or where it stood before: see `_move`
    }

    def __init__(self, config: AdaptConfig) -> None:
        super().__init__(State.CLEAN)
        self._config = config
        self._before = State.CLEAN
        self._since: dict[object, float] = {}
        self._steps = Steps(config)
        self._peak_bps = 0.0  # most acknowledged since congestion began
        self._congested_at: float | None = None  # the newest tick in congestion
        self._standing = Standing(config)
        self._bearable = float(config.queue_ms)  # what may wait without being our doing, ms
        self._queued_at = -inf  # the newest tick with a queue
        # Queues since the newest step up, ms.
        self._tried: deque[float] = deque(maxlen=round(config.clear_s / TICK_S))
        self._formed: _Form = _OFF  # the newest that was in use
        self._formed_at = -inf

    def on_tick(self, signs: Signs, now: float) -> Orders:
        """Take in what was measured; `now` in seconds. What it returns holds until the next tick."""
        self._bearable = self._standing.bearable(now)
        if signs.queue >= self._config.queue_clear_ms:
            self._queued_at = now
        is_growing = self._is_growing(signs, now)
        findings = self._findings(signs, is_growing, now)
        for event in self.TRANSITIONS[self._state]:
            if self._lasts(event, findings[event], self._hold(event), now):
                self._enter(event, now)
                break
        if self._state in (State.CONGESTED, State.STARVED):
            self._congested_at = now
        if self._congested_at is not None:
            self._peak_bps = max(self._peak_bps, signs.acked_bps)
        self._step(signs, is_growing, now)
        self._standing.on_queue(
            signs.queue,
            self._steps.lowered_at,
            now,
            is_tight=self._state in (State.CONGESTED, State.STARVED),
            is_draining=self._is_draining(signs),
        )
        return self._orders(signs, now)

    def is_at_rest(self, now: float) -> bool:
        """Whether all is as good as it can be and nothing is on its way to another state.

        Then a tick with signs in which nothing is wrong would change nothing, and may be left out.
        """
        is_best = self._steps.level == 0 and self._steps.speakers == self._config.speakers
        return self._state is State.CLEAN and is_best and not self._since and not self._is_watched(now)

    # ------------------------------------------------------------ findings

    def _move(self, event: type) -> None:
        """Follow the table. What came over a leg before it fell silent is as true as it was."""
        before = self._state
        super()._move(event)
        if event is Reported:
            self._state = self._before
        self._before = before

    def _enter(self, event: type, now: float) -> None:
        self._move(event)
        self._since.clear()
        if event is QueueGrew:
            self._steps.failed(now)
            self._peak_bps = 0.0
            self._standing.forget()

    def _lasts(self, finding: object, is_so: bool, seconds: float, now: float) -> bool:
        """Whether it has been so for `seconds`, as far as ticks tell."""
        if not is_so:
            self._since.pop(finding, None)
            return False
        return now - self._since.setdefault(finding, now) >= seconds - _EARLY_S

    def _hold(self, event: type) -> float:
        if event in (Spotty, Bursty):
            return TICK_S  # two ticks in a row
        if event is LossGone:
            is_bursty = self._state is State.LOSSY_B
            return self._config.bursty_rest_s if is_bursty else self._config.spotty_rest_s
        name = _HOLDS.get(event)
        return float(getattr(self._config, name)) if name else 0.0

    def _findings(self, signs: Signs, is_growing: bool, now: float) -> Mapping[type, bool]:
        config = self._config
        loss, residual = signs.loss, signs.residual
        is_dark = signs.report_age > 1000 * config.dark_s
        has_no_queue = signs.queue < config.queue_clear_ms and signs.age <= config.age_ms
        is_lossy = loss is not None and loss >= config.lossy_from and signs.queue < self._bearable
        is_bursty = signs.run >= config.burst_from
        return {
            ReportsMissing: is_dark,
            Reported: not is_dark,
            Spotty: is_lossy and not is_bursty,
            Bursty: is_lossy and is_bursty,
            LossGone: loss is not None and loss < config.clean_below and has_no_queue,
            HeavyLoss: residual is not None and residual > config.heavy_from,
            HeavyGone: residual is not None and residual < config.heavy_below,
            QueueGrew: is_growing,
            QueueGone: has_no_queue,
            QueueStands: not is_growing and signs.age <= config.age_ms and signs.queue <= self._bearable,
            Starving: self._is_starving(signs, now),
            Fed: has_no_queue and not self._is_short(signs),
        }

    def _is_watched(self, now: float) -> bool:
        """Congestion is not long ago."""
        return self._congested_at is not None and now - self._congested_at < self._config.probation_s

    def _is_short(self, signs: Signs) -> bool:
        """Less is acknowledged than is sent and not lost, so that it waits."""
        came = signs.sent_bps * (1 - (signs.loss or 0.0))
        return signs.acked_bps < self._config.acked_share * came

    def _is_draining(self, signs: Signs) -> bool:
        return signs.trend <= -self._config.trend_from / 2

    def _is_growing(self, signs: Signs, now: float) -> bool:
        """The five faces of congestion. Four need a queue: mere loss and pauses look the same without."""
        config = self._config
        has_queue = signs.queue > self._bearable
        is_rising = has_queue and signs.trend > config.trend_from
        is_short = signs.queue > config.queue_clear_ms and self._is_short(signs)
        rises = self._lasts("rising", is_rising, config.trend_s, now)
        # A link that became narrow: by the time that a trend is certain its buffer is full.
        is_queued = self._lasts("queued", has_queue, TICK_S, now)
        is_steep = is_queued and signs.rise >= config.steep_ms
        falls_short = self._lasts("short", is_short, config.acked_s, now)
        # What overflowed is remembered for longer than the queue lasts.
        is_lossy = signs.loss is not None and signs.loss > config.congested_loss
        is_overflowing = has_queue and is_lossy and not self._is_draining(signs)
        is_full = self._lasts("full", is_overflowing, config.acked_s, now)
        return rises or is_steep or falls_short or is_full or signs.age > config.age_ms

    def _is_starving(self, signs: Signs, now: float) -> bool:
        """A queue that stays at the lowest rate; or little of what is sent arrives, and there is one."""
        config = self._config
        is_lowest = self._steps.level == LOWEST and signs.queue > config.queue_ms
        is_thin = (
            signs.acked_bps < config.starved_bps
            and self._is_short(signs)
            and signs.queue > config.queue_clear_ms
        )
        lasts_lowest = self._lasts("lowest", is_lowest, config.starved_s, now)
        return self._lasts("thin", is_thin, config.acked_s, now) or lasts_lowest

    # ------------------------------------------------------------ answers

    def _step(self, signs: Signs, is_growing: bool, now: float) -> None:
        steps, state = self._steps, self._state
        if state is State.CONGESTED:
            # What a step did shows when the queue that it met has passed.
            is_shown = now - steps.lowered_at >= self._config.down_s + signs.queue / 1000
            is_standing = signs.queue > self._bearable and not self._is_draining(signs)
            if is_shown and (is_growing or is_standing):
                # Straight to long packets: half-way there still fills the queue.
                further = signs.queue + signs.rise > self._config.deep_queue_ms
                steps.down(now, to=max(steps.level + 1, LONG_PACKETS) + further, at_once=True)
            return
        if state is State.DARK:
            if signs.report_age > 1000 * self._config.floor_s:
                steps.down(now, to=LOWEST)
            return
        if state is State.STARVED:
            steps.speakers = 1
            steps.down(now, to=LOWEST)
            return
        wanted = _LEVELS.get(state, 0)
        if steps.level < wanted:
            steps.down(now, to=wanted)
        elif steps.is_on_trial(now) and self._overflows(signs, now):
            steps.undo(now)
        elif self._is_calm(signs, now) and steps.up(now, to=wanted):
            self._tried.clear()
            for finding in _TRIAL:
                self._since.pop(finding, None)

    def _is_calm(self, signs: Signs, now: float) -> bool:
        """No queue for a while: one that comes and goes with each packet says that the way is barely wide.

        Where others fill it a moment without is all that there will be.
        """
        is_borne = self._bearable > self._config.queue_ms
        calm_s = 0.0 if is_borne else self._config.calm_s
        return signs.queue < self._config.queue_clear_ms and now - self._queued_at >= calm_s - _EARLY_S

    def _overflows(self, signs: Signs, now: float) -> bool:
        """Whether there is the begin of a queue: enough to undo a step up before anybody hears it."""
        config = self._config
        self._tried.append(signs.queue)
        begin = (config.queue_clear_ms + config.queue_ms) / 2
        is_rising = signs.queue > begin and signs.trend >= config.trend_from
        rises = self._lasts("overflowing", is_rising, TICK_S, now)
        is_full = self._lasts("overfull", signs.queue > self._bearable, 2 * TICK_S, now)
        return rises or is_full or self._brought_a_queue()

    def _brought_a_queue(self) -> bool:
        """Before the step up on trial there was none, and since then there mostly is one: the way is full."""
        if len(self._tried) < (self._tried.maxlen or 0) or self._bearable > self._config.queue_ms:
            return False
        return median(self._tried) >= self._config.queue_clear_ms

    def _orders(self, signs: Signs, now: float) -> Orders:
        state = self._state
        is_tight = state in (State.CONGESTED, State.STARVED)
        mode, distances = self._form(signs, now)
        budget, depth = self._budget(signs, now) if mode is not Mode.OFF else (0.0, 0.0)
        return Orders(
            state=state,
            mode=mode,
            budget=budget,
            depth=depth,
            distances=distances,
            max_age=min(signs.slack, self._asked_age()),
            ack_slack=signs.ack_slack,
            playout=self._playout(signs),
            speakers=self._steps.speakers,
            coalesce=is_tight,
            hold_frame=state is State.STARVED,
            redundancy=state in (State.LOSSY_I, State.LOSSY_B, State.HEAVY),
            ask=self._steps.asked,
            is_for_loss=self._steps.level <= _LEVELS.get(state, 0),
            fec=self._fec(signs),
        )

    def _form(self, signs: Signs, now: float) -> _Form:
        """How repair goes now. Its form stays for a while, as playout follows it; stopping does not wait."""
        wanted = self._wanted(signs)
        if wanted[0] is Mode.OFF or self._state is State.CLEAN:
            return wanted
        if wanted != self._formed and now - self._formed_at >= self._config.up_s - _EARLY_S:
            self._formed, self._formed_at = wanted, now
        return self._formed

    def _wanted(self, signs: Signs) -> _Form:
        state = self._state
        is_tight = state in (State.CONGESTED, State.STARVED, State.DARK)
        if is_tight or signs.is_stream or signs.queue > self._bearable:
            return _OFF
        if state is State.CLEAN:  # nothing leaves while nothing is lost; a copy would
            return (Mode.REPEATS, ()) if signs.maps_acks else _OFF
        oldest = min(self._asked_playout(), self._asked_age())
        if signs.maps_acks and signs.rtt + signs.ack_slack + signs.ptime <= oldest:
            return Mode.REPEATS, ()
        # Beyond the end of an outage, whose length nobody knows: as far back as may still be played.
        farthest = int((oldest - _COPY_MARGIN_MS) // signs.ptime)
        if farthest < 1:
            return _OFF
        if state is State.LOSSY_I:
            return Mode.COPIES, (min(2, farthest),)
        if state is State.HEAVY and farthest >= 2:
            return Mode.COPIES, (farthest, farthest // 2)
        return Mode.COPIES, (farthest,)

    def _asked_playout(self) -> int:
        is_heavy = self._state is State.HEAVY
        return self._config.heavy_playout_ms if is_heavy else self._config.playout_ms

    def _asked_age(self) -> int:
        is_heavy = self._state is State.HEAVY
        return self._config.heavy_age_ms if is_heavy else self._config.playout_ms

    def _budget(self, signs: Signs, now: float) -> tuple[float, float]:
        """Packets per media packet and packets saved up, not above what may be added."""
        config = self._config
        a_second = 1000 / signs.ptime
        budget, depth = config.budget, config.budget * a_second
        if self._state is State.CLEAN:
            budget, depth = config.clean_budget, float(config.clean_depth)
        if self._is_watched(now):
            headroom = max(0.0, self._peak_bps - signs.media_bps)
            most = config.probation_share * headroom / max(signs.media_bps, 1.0)
            budget, depth = min(budget, most), min(depth, most * a_second)
        return budget, depth

    def _playout(self, signs: Signs) -> int:
        if self._state not in (State.LOSSY_I, State.LOSSY_B, State.HEAVY):
            return 0
        mode, distances = self._formed
        if mode is Mode.COPIES:
            return round(distances[0] * signs.ptime) + _COPY_MARGIN_MS
        return self._asked_playout() if mode is Mode.REPEATS else 0

    def _fec(self, signs: Signs) -> int:
        """In-band correction costs quality where nothing is lost, and helps against single losses only."""
        if self._state is not State.LOSSY_I or signs.uplink_loss < self._config.uplink_fec_from:
            return 0
        return ceil(100 * max(signs.loss or 0.0, signs.uplink_loss))
