"""How well one path carries, from pings and their answers: round trip, jitter, loss, how long silent.

    ping(now) -> sequence number, when one is due        on_pong(sequence, now, the answerer's clock)
    tally(now) -> base, when answers are missing         on_tallied(base, map): which of those pings came

Each way by itself, too: a ping that came and has no answer was lost on the way down, any other on the way up;
and by the answerer's clock one knows how much longer than the fastest each way takes. What nobody explains
counts against both ways.
Pings go as datagrams beside the media, often while it flows: then a path that dies is known within a few of
its packets. Time in which we did not look is not time in which nothing came: a machine that starves knows
nothing of its paths. Must never live here: sockets, clocks, what follows from it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

BUSY_S: Final = 0.040  # every second packet of a voice carries a ping
IDLE_S: Final = 0.250
WINDOW_S: Final = 4.0  # losses of the last seconds count: 100 pings of a busy path, 16 of an idle one
MIN_PINGS: Final = 12  # fewer tell nothing about loss
LATE_S: Final = 0.100  # beyond the round trip and its jitter: an answer that comes later is a loss to a voice
DOUBT_S: Final = 0.080  # beyond the round trip: two pings unanswered
DEAD_S: Final = 0.200  # the same, four or five
FIRST_RTT_S: Final = 0.333  # before anything is known (RFC 9002 section 6.2.2)
LOSS_COST_S: Final = 0.010  # one per cent of loss hurts a voice like 10 ms of delay (ITU-T G.107, roughly)
TALLY_S: Final = 0.1
EXPLAIN_S: Final = 1.0  # a loss that nobody explained for so long counts against both ways
LEAST_S: Final = 30.0  # clocks drift: in a minute by a few ms
_SPAN: Final = 64  # pings that one tally tells of
_CLOCK: Final = 1 << 32  # of ms

Direction = Literal["up", "down"]
OTHER: Final[dict[Direction, Direction]] = {"up": "down", "down": "up"}


class OneWay:
    """Delay one way over the least of the last half to whole minute: clocks of two machines tell no more."""

    def __init__(self) -> None:
        self.excess = 0.0
        """Seconds, smoothed."""
        self.jitter = 0.0
        self._least: int | None = None
        self._before = 0
        self._since = 0.0

    def on_sample(self, ms: int, now: float) -> float:
        """Difference of the clocks over one packet, ms modulo 2^32; returns the seconds over the least."""
        if self._least is None:
            self._least = self._before = ms
            self._since = now
        elif now - self._since >= LEAST_S:
            self._before, self._least, self._since = self._least, ms, now
        elif _over(ms, self._least) < 0:
            self._least = ms
        sample = max(0, _over(ms, self._least), _over(ms, self._before)) / 1000
        self.jitter += (abs(sample - self.excess) - self.jitter) / 16  # as for the round trip
        self.excess += (sample - self.excess) / 8
        return sample


def _over(ms: int, other: int) -> int:
    """How much later, on a clock that wraps."""
    return (ms - other + _CLOCK // 2) % _CLOCK - _CLOCK // 2


class Health:
    """What is known of one path. All times in seconds.

    `look_s`: the owner looks at least so often. From one look to the next no more than that is silence,
    and pings that were under way in a longer pause tell no delay, and no loss if their answer is late.
    """

    def __init__(self, look_s: float = float("inf")) -> None:
        self._look_s = look_s
        self._looked_at: float | None = None
        self._starved = 0.0  # seconds between looks that were too far apart
        self.rtt: float | None = None
        self.jitter = 0.0
        self.sent = 0
        """How many pings left: the number of the newest."""
        self.answered = 0
        """The newest that was answered; 0 while none was."""
        self.first_at: float | None = None
        """When the first answer came."""
        self._next_at = 0.0
        self._waiting: dict[int, float] = {}
        self._left: dict[int, float] = {}  # the same, by the clock itself
        self._excused: set[int] = set()  # of those waiting: we did not look while they were under way
        self._ends: deque[tuple[float, int | None]] = deque()  # when; the number of a lost one
        self._lost: dict[int, bool | None] = {}  # whether it came, None: not known
        self._tally_at = 0.0
        self._asked = 0  # the newest lost one when we asked last
        self._ways: dict[Direction, OneWay] = {"up": OneWay(), "down": OneWay()}
        self._missing_since: float | None = None  # when the first ping after the last answered one left

    def ping(self, now: float, *, busy: bool) -> int | None:
        """The number of a ping to send now, None while none is due. `busy`: media flows."""
        clock, now = now, self._awake(now)
        if now < self._next_at:
            if busy:
                self._next_at = min(self._next_at, now + BUSY_S)
            return None
        self._next_at = now + (BUSY_S if busy else IDLE_S)
        self.sent += 1
        self._waiting[self.sent] = now
        self._left[self.sent] = clock
        if self._missing_since is None:
            self._missing_since = now
        return self.sent

    def on_pong(self, sequence: int, now: float, answer_ms: int | None = None) -> None:
        """An answer; one that nobody asked for is ignored. `answer_ms`: the answerer's clock modulo 2^32."""
        clock, now = now, self._awake(now)
        self._settle(now)
        asked = self._waiting.pop(sequence, None)
        if asked is None:
            if sequence in self._lost and answer_ms is not None:  # too late: lost where it took longer
                up, down = self._time(sequence, clock, answer_ms, now)
                self._lost[sequence] = down > up
            return
        self.answered = max(self.answered, sequence)
        later = [at for other, at in self._waiting.items() if other > sequence]
        self._missing_since = min(later, default=None)
        excused = sequence in self._excused
        self._excused.discard(sequence)
        sample = now - asked
        if self.rtt is None:
            self.rtt, self.first_at = sample, now
        elif not excused:
            self.jitter += (abs(sample - self.rtt) - self.jitter) / 16  # RFC 3550 section 6.4.1
            self.rtt += (sample - self.rtt) / 8  # RFC 9002 section 5.3
        if answer_ms is not None and not excused:
            self._time(sequence, clock, answer_ms, now)
        del self._left[sequence]
        self._ends.append((now, None))

    def tally(self, now: float) -> int | None:
        """From which ping on to ask what came, None while nothing is missing, or we asked a moment ago."""
        now = self._awake(now)
        self._settle(now)
        base = next((sequence for sequence, came in self._lost.items() if came is None), None)
        if base is None or now < self._tally_at:
            return None
        self._tally_at = now + TALLY_S
        self._asked = next(reversed(self._lost))
        return base

    def on_tallied(self, base: int, came: int) -> None:
        """Which pings came, bit i: base + i. Those that left after we asked are not told of."""
        for sequence, known in self._lost.items():
            if known is None and base <= sequence < base + _SPAN and sequence <= self._asked:
                self._lost[sequence] = bool(came >> (sequence - base) & 1)

    def overdue(self, now: float) -> float:
        """How long an answer is missing that should be here: the oldest ping after the last one answered."""
        now = self._awake(now)
        if self._missing_since is None:
            return 0.0
        return max(0.0, now - self._missing_since - self._expected())

    def is_doubtful(self, now: float) -> bool:
        """Something may be wrong: another path should carry too."""
        return self.overdue(now) > DOUBT_S

    def is_dead(self, now: float) -> bool:
        """Nothing comes back."""
        return self.overdue(now) > DEAD_S

    def loss(self, now: float, way: Direction | None = None) -> float | None:
        """Share of pings of the last seconds that were not answered in time, None if too few are known.

        `way`: of those that were lost on that way alone.
        """
        now = self._awake(now)
        self._settle(now)
        if len(self._ends) < MIN_PINGS:
            return None
        if way is None:
            return sum(lost is not None for _, lost in self._ends) / len(self._ends)
        up = down = unknown = young = 0
        for at, number in self._ends:
            came = None if number is None else self._lost[number]
            up += came is False
            down += came is True
            if number is not None and came is None:
                unknown, young = unknown + (now - at >= EXPLAIN_S), young + (now - at < EXPLAIN_S)
        sent = len(self._ends) - young
        lost, of = (up + unknown, sent) if way == "up" else (down + unknown, sent - up)
        return lost / of if of else 1.0

    def age(self, now: float) -> float:
        """For how long answers have been coming."""
        now = self._awake(now)
        return 0.0 if self.first_at is None else now - self.first_at

    def cost(self, now: float, way: Direction | None = None) -> float:
        """One number to compare paths by: seconds of delay, with loss and jitter turned into delay."""
        if self.rtt is None:
            return float("inf")
        delay, jitter, loss = self.rtt / 2, self.jitter, self.loss(now, way) or 0.0
        if way is not None:
            one, other = self._ways[way], self._ways[OTHER[way]]
            delay = max(0.0, self.rtt - one.excess - other.excess) / 2 + one.excess
            jitter = one.jitter
        return delay + 2 * jitter + 100 * loss * LOSS_COST_S

    def _time(self, sequence: int, clock: float, answer_ms: int, now: float) -> tuple[float, float]:
        """How much longer than the fastest the ways up and down took, seconds."""
        left, came = round(1000 * self._left[sequence]), round(1000 * clock)
        up = self._ways["up"].on_sample((answer_ms - left) % _CLOCK, now)
        return up, self._ways["down"].on_sample((came - answer_ms) % _CLOCK, now)

    def _awake(self, now: float) -> float:
        """The moment `now`, less all the time in which we did not look."""
        if self._looked_at is not None and now - self._looked_at > self._look_s:
            self._starved += now - self._looked_at - self._look_s
            self._excused.update(self._waiting)
        self._looked_at = now
        return now - self._starved

    def _expected(self) -> float:
        return FIRST_RTT_S if self.rtt is None else self.rtt + 2 * self.jitter

    def _settle(self, now: float) -> None:
        """Pings whose answer is too late are losses; what is old is forgotten."""
        late = now - self._expected() - LATE_S
        for sequence, at in list(self._waiting.items()):
            if at <= late:
                del self._waiting[sequence]
                if sequence not in self._excused:
                    self._ends.append((now, sequence))
                    self._lost[sequence] = None
                else:
                    del self._left[sequence]
                self._excused.discard(sequence)
        while self._ends and self._ends[0][0] < now - WINDOW_S:
            _, lost = self._ends.popleft()
            if lost is not None:
                del self._lost[lost], self._left[lost]
