"""A region's calls on a simulated clock: what its live counters say each half minute, for hours or weeks.

Calls come by day and night, last as long as calls do, and keep their network for their whole life; whose
call failed calls again at once and often fails again. All rates are those that the indicators promise, so a
region of this kind is healthy, and only just. An `Incident` changes a part of it for a while.

Must never live here: judging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from relay.core import spread
from relay.core.spread import Spread
from relay.ops.region import EVERY_S, Sample

NOWHERE: Final = (1e9, 1e9)
PACKETS: Final = 3000  # that a call adds in each half minute, both ways


@dataclass(frozen=True)
class Model:
    """Rates of a region; shares are 0-1."""

    per_minute: float = 12.0  # calls, the mean of a day
    swing: float = 0.8  # the night has (1 - swing) of it
    seconds: float = 150.0  # mean length
    setup_fail: float = 0.005
    drop: float = 0.01
    poor: float = 0.05
    one_way: float = 0.002
    fallback: float = 0.15
    again: float = 0.1  # of those whose call failed, who call again and fail again
    loss_p95: float = 0.01
    rtt_p95: float = 0.15
    audio_p95: float = 1.4
    gaps_per_min: float = 1.0
    residence_p99: float = 0.005
    stale: float = 0.001
    saturation: float = 0.6


@dataclass(frozen=True)
class Incident:
    """From `begin` to `end` (seconds) calls that are there have these rates instead."""

    begin: float = 0.0
    end: float = 0.0
    setup_fail: float | None = None
    loss: float | None = None  # of everybody
    residence: float | None = None  # of every packet, seconds
    no_calls: bool = False


def lognormal(draw: np.random.Generator, p95: float, spread_of: float, size: int) -> np.ndarray[Any, Any]:
    """Values of which 95 of 100 lie below `p95`."""
    return np.exp(np.log(p95) - 1.645 * spread_of + spread_of * draw.standard_normal(size))


def happens(draw: np.random.Generator, share: float, again: float, size: int) -> np.ndarray[Any, Any]:
    """Bad luck that comes in runs: `share` of all in the end, each with chance `again` of another."""
    newest = found = draw.random(size) < share * (1 - again)
    for _ in range(6):
        newest = np.roll(newest, 1) & (draw.random(size) < again)
        found = found | newest
    return found


class Traffic:
    """All calls of so many hours, and the samples that follow from them."""

    def __init__(self, hours: float, seed: int, model: Model | None = None) -> None:
        self.model = model = model or Model()
        self._draw = draw = np.random.default_rng(seed)
        self._steps = round(hours * 3600 / EVERY_S)
        end = hours * 3600
        every = np.arange(0, end, EVERY_S)
        rate = model.per_minute * (1 + model.swing * np.sin(2 * np.pi * every / 86_400))
        counts = draw.poisson(rate * EVERY_S / 60)
        self.begin = np.repeat(every, counts) + draw.random(counts.sum()) * EVERY_S
        size = len(self.begin)
        self.length = np.maximum(draw.exponential(model.seconds, size), 1.0)
        self.failed = happens(draw, model.setup_fail, model.again, size)
        self.dropped = happens(draw, model.drop, model.again, size)
        self.poor = happens(draw, model.poor, model.again, size)
        self.one_way = happens(draw, model.one_way, model.again, size)
        self.fallback = draw.random(size) < model.fallback
        self.loss = np.minimum(lognormal(draw, model.loss_p95, 1.2, size), 0.9)
        self.rtt = lognormal(draw, model.rtt_p95, 0.6, size)
        self.audio = lognormal(draw, model.audio_p95, 0.6, 2 * size)
        self.gap_rate = draw.gamma(0.3, model.gaps_per_min / 0.3, size)

    def samples(self, incident: Incident | None = None) -> Iterator[Sample]:
        """One each half minute."""
        told = incident or Incident()
        model, steps = self.model, self._steps
        begin, keep = self.begin, np.ones(len(self.begin), bool)
        in_trouble = (begin >= told.begin) & (begin < told.end)
        failed = self.failed
        if told.setup_fail is not None:
            failed = np.where(in_trouble, self._draw.random(len(begin)) < told.setup_fail, failed)
        if told.no_calls:
            keep &= ~in_trouble
        ends = begin + np.where(failed, 10.0, self.length)
        if told.no_calls:
            ends = np.where(begin < told.begin, np.minimum(ends, told.begin), ends)
        talks = keep & ~failed & (ends - begin >= 10)
        first = np.minimum((begin // EVERY_S).astype(int) + 1, steps)
        last = np.minimum((ends // EVERY_S).astype(int) + 1, steps)

        def ended(of: np.ndarray[Any, Any], at: np.ndarray[Any, Any] = last) -> np.ndarray[Any, Any]:
            return np.cumsum(np.bincount(at[of], minlength=steps + 1))

        def running(of: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return ended(of, first) - ended(of)

        counted = {
            "setup_fail": (ended(keep & failed), ended(keep)),
            "drop": (ended(talks & self.dropped), ended(talks)),
            "poor_call": (ended(talks & self.poor), ended(talks)),
            "one_way": (ended(talks & self.one_way), ended(talks)),
            "fallback": (ended(talks & self.fallback), ended(talks)),
        }
        live = {"poor_call": (running(talks & self.poor), running(talks))}
        here = running(talks)
        packets = np.cumsum(here) * PACKETS
        spreads = {
            "leg_loss": self._by_bucket(self.loss, talks, spread.LOSS, ended),
            "leg_rtt": self._by_bucket(self.rtt, talks, spread.RTT, ended),
        }
        live_spreads = {
            "leg_loss": self._by_bucket(self.loss, talks, spread.LOSS, running),
            "leg_rtt": self._by_bucket(self.rtt, talks, spread.RTT, running),
        }
        if told.loss is not None:
            self._lose(told, told.loss, spreads["leg_loss"][1], live_spreads["leg_loss"][1], ended(talks))
        twice = np.repeat(first, 2), np.repeat(keep & ~failed, 2)
        audio = self._by_bucket(self.audio, twice[1], spread.FIRST_AUDIO, lambda of: ended(of, twice[0]))
        gaps = np.cumsum(np.bincount(first[talks], (self.gap_rate * self.length / 60)[talks], steps + 1))
        judged = np.cumsum(np.bincount(first[talks], self.length[talks], steps + 1))
        residence = self._residence(here, told)
        load = (
            model.saturation
            + 0.1 * np.sin(np.arange(steps + 1) / 458)
            + 0.03 * self._draw.standard_normal(steps + 1)
        )
        stamps = np.sort(np.concatenate([begin[keep], ends[talks]]))
        for step in range(steps + 1):
            at = step * EVERY_S
            heard = np.searchsorted(stamps, at, side="right")
            last_event = at if here[step] else float(stamps[heard - 1]) if heard else -np.inf
            forwarded = int(packets[step])
            yield Sample(
                at=at,
                last_event=float(last_event),
                counted={name: (int(bad[step]), int(all_[step])) for name, (bad, all_) in counted.items()}
                | {"stale": (int(forwarded * model.stale), forwarded)},
                live={name: (int(bad[step]), int(all_[step])) for name, (bad, all_) in live.items()},
                spread={
                    name: {"quic down": Spread(bounds, [int(row[step]) for row in rows])}
                    for name, (bounds, rows) in spreads.items()
                }
                | {
                    "first_audio": {"": Spread(audio[0], [int(row[step]) for row in audio[1]])},
                    "residence": {"": Spread(spread.RESIDENCE, [int(row[step]) for row in residence])},
                },
                live_spread={
                    name: {"quic down": Spread(bounds, [int(row[step]) for row in rows])}
                    for name, (bounds, rows) in live_spreads.items()
                },
                gaps=int(gaps[step]),
                judged_s=float(judged[step]),
                saturation=float(load[step]),
            )

    def _by_bucket(self, values: Any, of: Any, bounds: Any, over_time: Any) -> tuple[Any, list[Any]]:
        place = np.searchsorted(bounds, values, side="left")
        return bounds, [over_time(of & (place == bucket)) for bucket in range(len(bounds) + 1)]

    @staticmethod
    def _lose(told: Incident, loss: float, ended: list[Any], live: list[Any], all_ended: Any) -> None:
        """From `begin` on everybody who talks, and everybody who stops, has lost so much."""
        at = np.arange(len(all_ended)) * EVERY_S
        during, since = (at > told.begin) & (at <= told.end), np.searchsorted(at, told.begin)
        bucket = np.searchsorted(spread.LOSS, loss)
        here = sum(live)
        for place, (gone, present) in enumerate(zip(ended, live, strict=True)):
            gone[during] = gone[since]
            present[during] = here[during] if place == bucket else 0
        ended[bucket][during] += (all_ended - all_ended[since])[during]

    def _residence(self, here: Any, told: Incident) -> list[Any]:
        """Packets by bucket: 1 of 100 above the promised p99, or all at what an incident makes of them."""
        bounds = spread.RESIDENCE
        shares = np.zeros(len(bounds) + 1)
        shares[1], shares[3] = 0.9, 0.09
        shares[np.searchsorted(bounds, self.model.residence_p99) + 1] = 0.0099
        shares[-2] = 0.0001
        rows = np.outer(shares, here * PACKETS)
        if told.residence is not None:
            at = np.arange(len(here)) * EVERY_S
            slow = (at > told.begin) & (at <= told.end)
            rows[:, slow] = 0
            rows[np.searchsorted(bounds, told.residence), slow] = (here * PACKETS)[slow]
        return list(np.cumsum(rows, axis=1))
