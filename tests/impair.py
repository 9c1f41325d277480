"""Networks as they are, from a seed and on a simulated clock: outages in time, jitter, narrow links, doubles.

    link = Link(NETS["b10_60"], seed)      link.send(item, size, now) -> link.due(now) -> [item, ...]

Losses are those of a link that is away for a while, not of every n-th packet: a bad state with exponential
times (continuous-time Gilbert-Elliott), so that packets of 20 and of 60 ms meet the same outages. The same
seed gives the same outages whatever is sent. tests/netem.py is the cruder fault machine of protocol tests.
Must never live here: a clock of its own.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass
from heapq import heappop, heappush
from math import exp, inf
from typing import Final, Generic, TypeVar

T = TypeVar("T")
HEADER: Final = 28  # IPv4 and UDP, which a bottleneck carries too


@dataclass(frozen=True)
class Outages:
    """Away for `share` of the time, `mean_ms` at a time; while away `drop` of the packets are lost."""

    share: float  # of packets that are lost in all, 0-1
    mean_ms: float
    drop: float = 1.0

    @property
    def bad_share(self) -> float:
        """Share of time in the bad state."""
        return self.share / self.drop

    @property
    def good_ms(self) -> float:
        """Mean time between outages."""
        return self.mean_ms * (1 - self.bad_share) / self.bad_share

    def indexed(self, ptime: float) -> Indexed:
        """The same as a chain with one step per packet, as `netem gemodel` has it."""
        mixing = 1 - exp(-ptime * (1 / self.good_ms + 1 / self.mean_ms))
        return Indexed(self.bad_share * mixing, (1 - self.bad_share) * mixing, self.drop)


@dataclass(frozen=True)
class Indexed:
    """Gilbert-Elliott with one step per packet: into the bad state, out of it, loss while in it; each 0-1."""

    to_bad: float
    to_good: float
    drop: float = 1.0


@dataclass(frozen=True)
class Independent:
    """Each packet for itself."""

    share: float


Loss = Outages | Indexed | Independent


@dataclass(frozen=True)
class Net:
    """One direction of a path. Times ms, shares 0-1."""

    loss: Loss = Independent(0.0)
    delay: float = 0.0
    jitter: float = 0.0  # uniform, plus or minus; packets keep their order
    duplicate: float = 0.0
    reorder: float = 0.0  # these overtake: they wait for the bottleneck and not for the delay
    rates: tuple[tuple[float, float], ...] = ()  # (from second, bits per second), first at 0; none: no limit
    queue: float = 300.0  # what would wait longer for the bottleneck is dropped


NETS: Final[dict[str, Net]] = {
    "clean": Net(),
    "wifi": Net(Outages(0.02, 40)),
    "busy_wifi": Net(Outages(0.05, 40)),
    "cell": Net(Outages(0.05, 100)),
    "b10_60": Net(Outages(0.10, 60)),
    "cell_edge": Net(Outages(0.10, 120)),
    "congested": Net(Outages(0.20, 100, 0.7)),
    **{f"iid{share}": Net(Independent(share / 100)) for share in (1, 3, 5, 10, 20)},
    "moderate": Net(Independent(0.05), delay=100, jitter=25),
    "international": Net(
        Indexed(0.03, 0.25), delay=250, jitter=100, duplicate=0.02, reorder=0.05, rates=((0, 300_000),)
    ),
    "capacity": Net(
        rates=tuple((at, factor * 80_000) for at, factor in ((0, 1), (40, 2.5), (60, 0.6), (80, 1)))
    ),
}
# (from second, network): the walk that "spiky" is.
SPIKY: Final[tuple[tuple[float, Net], ...]] = (
    (0, Net(delay=50, jitter=10)),
    (8, Net(Indexed(0.11, 0.25), delay=100, jitter=20)),
    (18, Net(delay=50, jitter=10)),
)


class _Dropper:
    """Whether a packet that is sent now is lost."""

    def __init__(self, loss: Loss, seed: str) -> None:
        self._loss = loss
        self._times = random.Random(f"{seed} times")  # of outages: nothing that is sent moves them
        self._dice = random.Random(f"{seed} dice")
        self._is_bad = False
        self._until = -inf

    def drops(self, now_ms: float) -> bool:
        loss = self._loss
        if isinstance(loss, Independent):
            return self._dice.random() < loss.share
        if isinstance(loss, Indexed):
            self._is_bad = self._dice.random() < (1 - loss.to_good if self._is_bad else loss.to_bad)
        else:
            self._walk(loss, now_ms)
        return self._is_bad and self._dice.random() < loss.drop

    def _walk(self, loss: Outages, now_ms: float) -> None:
        if self._until == -inf:  # the first packet meets the network as it is on average
            self._is_bad = self._times.random() < loss.bad_share
            self._until = now_ms + self._sojourn(loss)
        while self._until <= now_ms:
            self._is_bad = not self._is_bad
            self._until += self._sojourn(loss)

    def _sojourn(self, loss: Outages) -> float:
        return self._times.expovariate(1 / (loss.mean_ms if self._is_bad else loss.good_ms))


class Link(Generic[T]):
    """One direction of a path. `lost` by the network, `overflowed` at the bottleneck, `doubled`: counted."""

    def __init__(self, net: Net, seed: int) -> None:
        self.sent = self.lost = self.overflowed = self.doubled = 0
        self._seed = seed
        self._nets = 0
        self._dice = random.Random(f"{seed} link")
        self._free_at = 0.0
        self._newest = 0.0
        self._order = 0
        self._flying: list[tuple[float, int, T]] = []
        self.become(net)

    def __len__(self) -> int:
        return len(self._flying)

    def become(self, net: Net) -> None:
        """Another network from now on; what is under way stays as it was."""
        self.net = net
        self._dropper = _Dropper(net.loss, f"{self._seed} {self._nets}")
        self._nets += 1

    def send(self, item: T, size: int, now: float) -> None:
        """One datagram of `size` bytes of UDP payload; `now` in seconds."""
        self.sent += 1
        doubles = self._dice.random() < self.net.duplicate
        self.doubled += doubles
        for _ in range(1 + doubles):
            self._push(item, size, now)

    def _push(self, item: T, size: int, now: float) -> None:
        net, at = self.net, now
        if net.rates:
            begins = max(now, self._free_at)
            if begins - now > net.queue / 1000:
                self.overflowed += 1
                return
            at = self._free_at = begins + (size + HEADER) * 8 / self._rate(begins)
        if self._dropper.drops(now * 1000):
            self.lost += 1
            return
        if not net.reorder or self._dice.random() >= net.reorder:
            wait = net.delay + net.jitter * self._dice.uniform(-1, 1)
            at = self._newest = max(self._newest, at + max(0.0, wait) / 1000)
        self._order += 1
        heappush(self._flying, (at, self._order, item))

    def _rate(self, now: float) -> float:
        rates = self.net.rates
        return rates[max(0, bisect_right(rates, (now, inf)) - 1)][1]

    def queue_ms(self, now: float) -> float:
        """How long a packet sent now would wait for the bottleneck."""
        return 1000 * max(0.0, self._free_at - now)

    def next_deadline(self) -> float | None:
        """When the next datagram arrives, seconds."""
        return self._flying[0][0] if self._flying else None

    def due(self, now: float) -> list[T]:
        """What has arrived by `now`, in order of arrival."""
        arrived = []
        while self._flying and self._flying[0][0] <= now:
            arrived.append(heappop(self._flying)[2])
        return arrived
