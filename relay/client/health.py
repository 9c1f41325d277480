"""How well one path carries, from pings and their answers: round trip, jitter, loss, how long silent.

    ping(now) -> sequence number, when one is due        on_pong(sequence, now)

Pings go as datagrams beside the media, often while it flows: then a path that dies is known within a few of
its packets. Time in which we did not look is not time in which nothing came: a machine that starves knows
nothing of its paths. Must never live here: sockets, clocks, what follows from it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

BUSY_S: Final = 0.040  # every second packet of a voice carries a ping
IDLE_S: Final = 0.250
WINDOW_S: Final = 4.0  # losses of the last seconds count: 100 pings of a busy path, 16 of an idle one
MIN_PINGS: Final = 12  # fewer tell nothing about loss
LATE_S: Final = 0.100  # beyond the round trip and its jitter: an answer that comes later is a loss to a voice
DOUBT_S: Final = 0.080  # beyond the round trip: two pings unanswered
DEAD_S: Final = 0.200  # the same, four or five
FIRST_RTT_S: Final = 0.333  # before anything is known (RFC 9002 section 6.2.2)
LOSS_COST_S: Final = 0.010  # one per cent of loss hurts a voice like 10 ms of delay (ITU-T G.107, roughly)


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
        self._excused: set[int] = set()  # of those waiting: we did not look while they were under way
        self._ends: deque[tuple[float, bool]] = deque()
        self._missing_since: float | None = None  # when the first ping after the last answered one left

    def ping(self, now: float, *, busy: bool) -> int | None:
        """The number of a ping to send now, None while none is due. `busy`: media flows."""
        now = self._awake(now)
        if now < self._next_at:
            if busy:
                self._next_at = min(self._next_at, now + BUSY_S)
            return None
        self._next_at = now + (BUSY_S if busy else IDLE_S)
        self.sent += 1
        self._waiting[self.sent] = now
        if self._missing_since is None:
            self._missing_since = now
        return self.sent

    def on_pong(self, sequence: int, now: float) -> None:
        """An answer; one that nobody asked for is ignored."""
        now = self._awake(now)
        self._settle(now)
        asked = self._waiting.pop(sequence, None)
        if asked is None:
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
        self._ends.append((now, True))

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

    def loss(self, now: float) -> float | None:
        """Share of pings of the last seconds that were not answered in time, None if too few are known."""
        self._settle(self._awake(now))
        if len(self._ends) < MIN_PINGS:
            return None
        return sum(not came for _, came in self._ends) / len(self._ends)

    def age(self, now: float) -> float:
        """For how long answers have been coming."""
        now = self._awake(now)
        return 0.0 if self.first_at is None else now - self.first_at

    def cost(self, now: float) -> float:
        """One number to compare paths by: seconds of delay, with loss and jitter turned into delay."""
        if self.rtt is None:
            return float("inf")
        loss = self.loss(now) or 0.0
        return self.rtt / 2 + 2 * self.jitter + 100 * loss * LOSS_COST_S

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
                    self._ends.append((now, False))
                self._excused.discard(sequence)
        while self._ends and self._ends[0][0] < now - WINDOW_S:
            self._ends.popleft()
