"""What a canary call measured, against what a call must be: every check with its value and its bound.

    Facts (both directions) --> Verdict: numbers, failed checks

The bounds are where people begin to complain, and not what is promised: a canary that fails says that
something is wrong. Must never live here: how a call is placed, clocks, files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from relay.config_voice import QualityConfig
from relay.core.quality import DEVICE_MS, LOOK_AHEAD_MS, mos
from relay.ops.canary import Failed

ACTIVE_S: Final = 3.0  # who spoke for so long must have been heard
PACKET_MS: Final = 20.0

BOUNDS: Final = {
    "setup": 5.0,  # s; two handshakes, two answers: a tenth of it where all is well
    "first_audio": 2.0,  # s, from the second answer on; the region warns from there
    "loss": 0.03,  # share that was not heard, after repair; the region warns from there
    "delay": 400.0,  # ms from mouth to ear: more spoils any talk (ITU-T G.114)
    "stale": 0.01,  # share too old to be sent or played
    "mos": 3.1,  # below it a call is poor
}
"""At most so much; of `mos` at least."""
UNITS: Final = {"setup": "s", "first_audio": "s", "loss": "%", "delay": "ms", "stale": "%", "one_way": "s"}


@dataclass(frozen=True, slots=True)
class Direction:
    """One person to the other."""

    said: int
    """Packets of speech that were spoken."""
    active_s: float
    """For so long."""
    came: int
    """Packets that came to the other's ear or to its jitter buffer, each once."""
    late: int = 0
    """Of these too late to be played."""
    unsent: int = 0
    """Too old before they left."""
    first_s: float | None = None
    """From the answer to the first that was heard; None: none was."""
    delays_ms: tuple[float, ...] = ()
    """From the encoder to the decoder, jitter buffer included."""

    @property
    def loss(self) -> float:
        """Share that was not heard, 0-1."""
        return max(0.0, 1 - (self.came - self.late) / self.said) if self.said else 0.0

    @property
    def stale(self) -> float:
        """Share that was too old, as far as the two ends know: a relay's own drops are loss to them."""
        return (self.late + self.unsent) / self.said if self.said else 0.0

    @property
    def delay_ms(self) -> float | None:
        """What 95 of 100 packets did not exceed, from mouth to ear: recording, codec and devices included."""
        if not self.delays_ms:
            return None
        return _whole(sorted(self.delays_ms)[len(self.delays_ms) * 95 // 100])

    def mos(self, config: QualityConfig) -> float:
        """The estimate, 1 to 4.5, of the direction."""
        mean = sum(self.delays_ms) / len(self.delays_ms) if self.delays_ms else 0.0
        return mos(100 * self.loss, _whole(mean), config.ie_high, config.bpl)


@dataclass(frozen=True, slots=True)
class Facts:
    """One call. `broken` names the check that ended it before its time, with what was said."""

    setup_s: float | None = None
    """From the first packet to both being ready to hear; None: never."""
    rtt_ms: float | None = None
    """The longer way to the relay and back."""
    relay_drops: int | None = None
    """Copies that the relay says it dropped on the way down."""
    ways: tuple[Direction, ...] = ()
    broken: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is written down."""

    failed: tuple[Failed, ...]
    numbers: dict[str, float | None]

    @property
    def ok(self) -> bool:
        """Whether all checks held."""
        return not self.failed


def judge(facts: Facts) -> Verdict:
    """All checks; the worse direction counts."""
    failed: list[Failed] = []
    if facts.broken is not None:
        failed.append(Failed(facts.broken[0], detail=facts.broken[1]))
    heard = [way for way in facts.ways if way.first_s is not None]
    numbers: dict[str, float | None] = {
        "setup": _rounded(facts.setup_s, 3),
        "first_audio": _rounded(_worst(heard, lambda way: way.first_s), 3),
        "loss": _rounded(_worst(facts.ways, lambda way: way.loss), 4),
        "delay": _rounded(_worst(heard, lambda way: way.delay_ms), 1),
        "stale": _rounded(_worst(facts.ways, lambda way: way.stale), 4),
    }
    for check, value in numbers.items():
        if value is not None and value > BOUNDS[check]:
            failed.append(Failed(check, value, BOUNDS[check]))
    silent = [way.active_s for way in facts.ways if way.first_s is None and way.active_s >= ACTIVE_S]
    if silent:
        failed.append(Failed("one_way", round(max(silent), 1), ACTIVE_S))
    estimates = [way.mos(QualityConfig()) for way in facts.ways if way.said]
    numbers["mos"] = _rounded(min(estimates, default=None), 2)
    if estimates and min(estimates) < BOUNDS["mos"]:
        failed.append(Failed("mos", numbers["mos"], BOUNDS["mos"]))
    numbers |= {"rtt_ms": facts.rtt_ms, "relay_drops": facts.relay_drops}
    numbers["said"] = sum(way.said for way in facts.ways)
    return Verdict(tuple(failed), numbers)


def told(failed: Failed) -> str:
    """A failed check in words: which, how much, and how much it may be."""
    if failed.value is None or failed.bound is None:
        return f"{failed.check}: {failed.detail}" if failed.detail else failed.check
    if failed.check == "one_way":
        return f"one_way: nothing heard of {failed.value:g} s of speech"
    side = "at least" if failed.check == "mos" else "at most"
    return (
        f"{failed.check} {figure(failed.check, failed.value)} ({side} {figure(failed.check, failed.bound)})"
    )


def figure(check: str, value: float) -> str:
    """A value with its unit."""
    unit = UNITS.get(check, "")
    return f"{100 * value if unit == '%' else value:.4g}{' ' if unit else ''}{unit}"


def _whole(delay_ms: float) -> float:
    """From mouth to ear: what lies before the encoder and behind the decoder, too."""
    return PACKET_MS + LOOK_AHEAD_MS + delay_ms + DEVICE_MS


def _worst(ways: Iterable[Direction], what: Callable[[Direction], float | None]) -> float | None:
    known = [value for way in ways if (value := what(way)) is not None]
    return max(known, default=None)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
