"""Adaptive jitter buffer: frames go in as they come, one step comes out each time the loudspeaker asks.

    relative delay = arrival - timestamp, over its 10 s minimum
    target         = its 95th percentile + one frame, within 40-120 ms, or what the relay asks for
    pull           = the frame at the cursor | Conceal | None (silence: nothing is expected)

The cursor walks the sender's media clock. It waits a step (one more concealment) when the target rises over
the delay we play at, and leaves a frame out when it has been two frames too late for a second. Where a queue
on the way grows beyond the target, all that comes is late: then it goes back to what came, as nothing after
that was played, and speech goes on later instead of not at all. Timestamps
wrap each 163.84 s and may jump after a pause, so they are unwrapped by the arrival clock. Must never live
here: sockets, clocks, decoding.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

STEP_MS: Final = 20.0  # what one pull plays
MIN_TARGET_MS: Final = 40.0
MAX_TARGET_MS: Final = 120.0
MAX_REQUIRED_MS: Final = 200.0  # what a relay may ask for while much must be repaired
MAX_BEHIND_MS: Final = 400.0  # nothing is played later than this after the fastest
MAX_HELD: Final = 100  # frames; 2 s at 20 ms, more is an attack or a clock gone wild
HISTORY_S: Final = 10.0
PAUSE_STEPS: Final = 10  # 200 ms without a frame: the sender pauses, stop concealing
_SHRINK_AFTER_S: Final = 1.0
_TICK_MS: Final = 2.5
_STEP_TICKS: Final = 8
_WRAP: Final = 1 << 16
_RELEARN: Final = 8  # packets between two looks at the percentile


class Conceal(Enum):
    """Asks the decoder to invent a step: what was due is not here."""

    STEP = "step"


class Delays(NamedTuple):
    """Relative delay over the reports' interval, ms."""

    least: float
    mean: float
    p95: float


@dataclass(slots=True)
class JitterStats:
    """Counters since the start; frames unless said."""

    played: int = 0
    late: int = 0
    concealed: int = 0
    skipped: int = 0
    duplicate: int = 0


class _Least:
    """The least of the last 10 s."""

    def __init__(self) -> None:
        self._rising: deque[tuple[float, float]] = deque()  # when, value; what a later one is below is gone

    def add(self, value: float, now: float) -> None:
        rising = self._rising
        while rising and rising[-1][1] >= value:
            rising.pop()
        rising.append((now, value))
        while rising[0][0] < now - HISTORY_S:
            rising.popleft()

    @property
    def value(self) -> float:
        return self._rising[0][1]


class JitterBuffer:
    """One sender's frames. `now` and arrival are seconds of one monotonic clock."""

    def __init__(self, min_target_ms: float = MIN_TARGET_MS, max_target_ms: float = MAX_TARGET_MS) -> None:
        self.stats = JitterStats()
        self._floor = min_target_ms
        self._ceiling = max_target_ms
        self._target = min_target_ms
        self._frames: dict[int, tuple[bytes, int]] = {}  # unwrapped tick -> payload, duration in ticks
        self._newest: tuple[int, float] | None = None  # tick and arrival that unwrapping leans on
        self._history: deque[tuple[float, float]] = deque()  # arrival, raw delay ms
        self._least = _Least()
        self._way = _Least()  # counted from the end of what a packet holds, which is when it left
        self._until_relearn = 0
        self._interval: list[float] = []
        self._cursor: int | None = None  # tick to play next; None while buffering
        self._played_to = 0  # end of the newest frame that was played, a tick
        self._missing = 0
        self._bridging = 0  # concealed steps since the last frame
        self._too_deep_since: float | None = None

    @property
    def target_ms(self) -> float:
        """Delay we aim at, counted from the fastest packet of the last 10 s."""
        return self._target

    @property
    def is_playing(self) -> bool:
        """False before the first frame and in a pause of the sender."""
        return self._cursor is not None

    def require(self, least_ms: float) -> None:
        """Hold at least this much (the relay's `mp` while it repairs, 0 when it is done), up to 200 ms."""
        self._floor = min(max(MIN_TARGET_MS, least_ms), MAX_REQUIRED_MS)
        self._target = max(self._target, self._floor)

    def push(self, ts: int, duration: int, payload: bytes, now: float) -> bool:
        """Take a frame: `ts` as on the wire, `duration` in ticks of 2.5 ms. False: of no use any more."""
        newest = None if self._newest is None else self._newest[0]
        tick = self._unwrap(ts, now)
        self._learn(tick, duration, now)
        if self._cursor is not None and tick < self._cursor:
            is_next = newest is not None and tick > newest and tick >= self._played_to
            if not is_next or self._delay_of(tick, now) > MAX_BEHIND_MS:
                self.stats.late += 1
                return False
            self._cursor = tick
        if tick in self._frames:
            self.stats.duplicate += 1
            return False
        if len(self._frames) >= MAX_HELD:
            self._frames.pop(min(self._frames))
            self.stats.skipped += 1
        self._frames[tick] = (payload, duration)
        return True

    def pull(self, now: float) -> bytes | Conceal | None:
        """What to play for the next step. Call it every 20 ms of the loudspeaker's clock.

        A frame longer than a step is returned once; the caller plays it out before it pulls again.
        """
        if self._cursor is None and not self._start(now):
            return None
        assert self._cursor is not None
        delay = self._delay_of(self._cursor, now)
        if self._cursor not in self._frames:
            # Though that holds up to a step more: what comes just before the target would be late else.
            if delay + _TICK_MS <= self._target:
                self._too_deep_since = None
                return self._conceal()  # the missing one still has time to come
            self._snap()
        self._shrink(delay, now)
        frame = self._frames.pop(self._cursor, None)
        if frame is None:
            return self._gap()
        self.stats.concealed += self._bridging
        self._missing = self._bridging = 0
        self._cursor = self._played_to = self._cursor + frame[1]
        self.stats.played += 1
        return frame[0]

    def delays(self) -> Delays | None:
        """Relative delays since the last call, for the leg report; None if nothing came."""
        if not self._interval:
            return None
        values, self._interval = sorted(self._interval), []
        return Delays(values[0], sum(values) / len(values), _p95(values))

    # ------------------------------------------------------------ inside

    def _unwrap(self, ts: int, now: float) -> int:
        """The congruent tick nearest to where the sender's clock should be by now."""
        if self._newest is None:
            self._newest = (ts, now)
            return ts
        tick, at = self._newest
        expected = tick + round((now - at) * 1000 / _TICK_MS)
        unwrapped = expected + (ts - expected + _WRAP // 2) % _WRAP - _WRAP // 2
        if unwrapped > tick:
            self._newest = (unwrapped, now)
        return unwrapped

    def _learn(self, tick: int, duration: int, now: float) -> None:
        raw = now * 1000 - tick * _TICK_MS
        self._history.append((now, raw))
        while self._history[0][0] < now - HISTORY_S:
            self._history.popleft()
        self._least.add(raw, now)
        delay = raw - self._least.value
        # Longer packets leave later after their begin: that is no queue, and must not be reported as one.
        left = raw - duration * _TICK_MS
        self._way.add(left, now)
        self._interval.append(left - self._way.value)
        if len(self._interval) > 1000:  # nobody asks for reports: do not grow
            del self._interval[:500]
        self._until_relearn -= 1
        if self._until_relearn < 0 or delay > self._target:
            self._until_relearn = _RELEARN
            p95 = _p95(sorted(value for _, value in self._history)) - self._least.value
            self._target = max(min(p95 + STEP_MS, self._ceiling), self._floor)

    def _delay_of(self, tick: int, now: float) -> float:
        """How long after the fastest possible arrival `tick` would be played now, ms."""
        return now * 1000 - tick * _TICK_MS - self._least.value

    def _start(self, now: float) -> bool:
        if not self._frames:
            return False
        first = min(self._frames)
        if self._delay_of(first, now) < self._target:
            return False
        self._cursor, self._missing, self._bridging = first, 0, 0
        return True

    def _snap(self) -> None:
        """Frames need not lie on our grid of steps (the sender's clock jumped): play what begins within."""
        assert self._cursor is not None
        first = min(self._frames, default=None)
        if first is not None and first < self._cursor + _STEP_TICKS:
            self._cursor = first

    def _gap(self) -> Conceal | None:
        assert self._cursor is not None
        self._missing += 1
        if self._missing > PAUSE_STEPS:
            self._cursor = None
            return None
        self._cursor += _STEP_TICKS
        return self._conceal()

    def _conceal(self) -> Conceal:
        """Counted only when speech goes on behind the gap: the end of a talkspurt is no concealment."""
        self._bridging += 1
        return Conceal.STEP

    def _shrink(self, delay: float, now: float) -> None:
        if delay <= self._target + 2 * STEP_MS:
            self._too_deep_since = None
        elif self._too_deep_since is None:
            self._too_deep_since = now
        elif now - self._too_deep_since >= _SHRINK_AFTER_S and self._cursor is not None:
            frame = self._frames.pop(self._cursor, None)
            if frame is not None:
                self.stats.skipped += 1
            self._cursor += frame[1] if frame else _STEP_TICKS
            self._too_deep_since = now


def _p95(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
