"""The cells of the voice lab, their calls in batches, and what a finished cell comes to.

    judged | quick | grid -> batches -> (calls) -> Cell

Pure. Must never live here: calls, audio, bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Final

AT_ONCE: Final = 12  # calls; both people and the last mile of each in one process, and it must not come late
LEAD_S: Final = 4.0  # the talk goes on for so long before what counts: what the network is like is known then
WORST_LAG_S: Final = 0.030  # of a timer of the process that holds the calls
LATE_SHARE: Final = 0.02  # of its timers, by over 5 ms


@dataclass(frozen=True, order=True)
class Key:
    """What is called, with every clip."""

    net: str
    rtt_ms: int
    scheme: str
    lead_s: float = 0.0
    """Speech before the speech that counts."""

    def __str__(self) -> str:
        return f"{self.net}-{self.rtt_ms}-{self.scheme}-{self.lead_s:g}"

    @property
    def base(self) -> Key:
        """The same without anything."""
        return replace(self, scheme="plain")


JUDGED: Final = (
    *(Key("clean", 40, scheme) for scheme in ("plain", "repaired")),
    *(Key("iid5", 40, scheme, LEAD_S) for scheme in ("plain", "repaired")),
    *(Key("b10_60", 40, scheme, LEAD_S) for scheme in ("plain", "repaired", "red", "followed")),
    *(Key("b10_60", 150, scheme, LEAD_S) for scheme in ("plain", "copies")),
)
QUICK: Final = tuple(
    Key(net, 40, scheme) for net in ("clean", "iid10", "b10_60") for scheme in ("plain", "repaired")
)
GRID: Final = tuple(
    Key(net, 40, scheme)
    for net in (
        "iid1", "iid3", "iid5", "iid10", "iid20",
        "wifi", "busy_wifi", "cell", "b10_60", "cell_edge", "congested",
    )
    for scheme in ("plain", "repaired", "red")
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One call of a cell."""

    key: Key
    clip: int


def batches(keys: Iterable[Key], clips: int, at_once: int = AT_ONCE) -> list[list[Job]]:
    """Calls that are placed together: all schemes of a clip beside each other, calls of one length."""
    jobs = sorted(
        (Job(key, clip) for key in keys for clip in range(clips)),
        key=lambda job: (job.key.lead_s, job.clip, job.key),
    )
    lengths = sorted({job.key.lead_s for job in jobs})
    alike = [[job for job in jobs if job.key.lead_s == length] for length in lengths]
    return [part[at : at + at_once] for part in alike for at in range(0, len(part), at_once)]


def is_void(lag: dict[str, Any]) -> bool:
    """Whether the machine was too busy for what was heard to be the network's doing."""
    return bool(lag["worst_s"] > WORST_LAG_S or lag["late"] > LATE_SHARE * lag["looks"])


@dataclass(frozen=True)
class Cell:
    """All clips of one scheme on one network."""

    key: Key
    pesq: tuple[float, ...]
    """By clip."""
    plcmos: tuple[float, ...]
    bytes: int
    """UDP payload toward the listener."""
    lost: float
    """Share of all packets that the network dropped, 0-1."""
    missed: tuple[float, ...]
    """Share of the speaker's packets that did not come in time, by clip."""
    repeats: int
    """That came, needed or not."""
    recovered: int
    oldest: dict[str, float]
    """The worst ages and holds, ms: see `Ear`."""

    @property
    def mean(self) -> float:
        """Of PESQ."""
        return fmean(self.pesq)

    def as_dict(self, base: Cell | None) -> dict[str, Any]:
        """For JSON, beside the cell of the same network without anything."""
        told: dict[str, Any] = {
            "net": self.key.net,
            "rtt_ms": self.key.rtt_ms,
            "scheme": self.key.scheme,
            "lead_s": self.key.lead_s,
            "clips": len(self.pesq),
            "pesq": round(self.mean, 3),
            "pesq_error": round(error(self.pesq), 3),
            "plcmos": round(fmean(self.plcmos), 3) if self.plcmos else None,
            "bytes": self.bytes,
            "network_lost": round(self.lost, 4),
            "missed": round(fmean(self.missed), 4),
            "repeats": self.repeats,
            "recovered": self.recovered,
            **{name: round(value, 1) for name, value in self.oldest.items()},
            "pesq_by_clip": [round(value, 2) for value in self.pesq],
            "missed_by_clip": [round(value, 4) for value in self.missed],
        }
        if base is not None and base is not self:
            gains = [mine - plain for mine, plain in zip(self.pesq, base.pesq, strict=True)]
            told["bytes_ratio"] = round(self.bytes / base.bytes, 4)
            told["gain"] = round(fmean(gains), 3)
            told["gain_error"] = round(error(gains), 3)
        return told


OLDEST: Final = ("first_age", "first_over", "repeat_age", "repeat_over", "hold", "play_over")


def error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 for one value."""
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def finish(key: Key, calls: list[dict[str, Any]], pesq: list[float], plcmos: list[float]) -> Cell:
    """A cell of its calls and their scores, in the order of clips."""
    return Cell(
        key=key,
        pesq=tuple(pesq),
        plcmos=tuple(plcmos),
        bytes=sum(call["bytes"] for call in calls),
        lost=sum(call["link_lost"] for call in calls) / max(1, sum(call["link_sent"] for call in calls)),
        missed=tuple(
            (call["heard_lost"] + call["heard_late"]) / max(1, call["sent"] - call["unsent"])
            for call in calls
        ),
        repeats=sum(call["repeats"] for call in calls),
        recovered=sum(call["heard_recovered"] for call in calls),
        oldest={name: max(call[name] for call in calls) for name in OLDEST},
    )
