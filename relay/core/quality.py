"""How well B hears A, without hearing: loss and delay of a window -> an estimate from 1 to 4.5.

    Window (5 s of one direction) -> residual loss, mouth-to-ear delay -> mos() -> EMA -> Grade
                                  \\-> sums of the call -> Summary, poor or not

The form is ITU-T G.107.2 (full band) without BurstR; the values for Opus are fits of our own and stand in the
configuration, so the scale must not be mixed with the narrow or wide band one. What nobody measured is
unknown, and unknown is never good. Must never live here: how loss and delay are measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log2, sqrt
from typing import Final

from relay.config_voice import QualityConfig

R_SCALE: Final = 1.48  # the full-band scale of R goes to 148
R_MAX: Final = 148.0
LOSS_CEILING: Final = 132.0  # what total loss takes off
LOOK_AHEAD_MS: Final = 6.5  # of the Opus encoder
DEVICE_MS: Final = 40.0  # microphone, loudspeaker, decoder
UNHEARD_MS: Final = 100.0  # delay up to here costs nothing
BEST: Final = 4.5
WORST: Final = 1.0


class Grade(StrEnum):
    """An estimate in one word."""

    UNKNOWN = "unknown"  # nobody measured
    GOOD = "good"
    FAIR = "fair"
    WEAK = "weak"  # neither fair nor poor
    POOR = "poor"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured of A -> B in one window. Shares are 0-1, times ms; None: nobody measured it."""

    expected: int
    """Packets that A sent."""
    seconds: float
    """Length of the window."""
    ptime: float
    """Speech in one packet."""
    bps: float
    """Opus bits per second while A speaks."""
    lost_up: float | None
    """Share that never came to the relay, after repair."""
    lost_down: float | None
    """Share of what the relay sent that did not come to B in time, after repair."""
    late: float | None
    """Share that came to B too late to be played."""
    rtt_up: float | None
    rtt_down: float | None
    playout: float | None
    """How long B's jitter buffer holds a packet."""
    residence: float = 0.0
    """How long the relay held it."""
    lost_raw: float | None = None
    """Share lost on both hops before repair."""
    jitter: float | None = None
    gaps: int = 0
    """Pauses of at least `gap_ms` in what B got."""
    silence: float = 0.0
    """Longest time without anything for B while A was sending."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One window's judgement."""

    mos: float
    loss: float
    """Residual loss on the way to the ear, 0-1."""
    delay_ms: float
    """From mouth to ear."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A direction of a finished call, ready to be written down. Means are over judged windows."""

    grade: Grade
    is_poor: bool
    active_s: float
    """Time in which A was sending."""
    windows: int
    mos: float | None
    poor_share: float
    loss: float
    """Residual, 0-1."""
    raw_loss: float | None
    jitter_ms: float | None
    delay_ms: float
    gaps_per_min: float
    silence_s: float
    """The longest."""

    def as_record(self) -> dict[str, float]:
        """The form of `ParticipantRecord.quality`; what nobody measured is left out."""
        known = {
            "poor": float(self.is_poor),
            "silence_ms": round(self.silence_s * 1000, 1),
            "active_s": round(self.active_s, 1),
        }
        if self.mos is not None:
            known |= {
                "mos": round(self.mos, 2),
                "poor_share": round(self.poor_share, 4),
                "residual_loss": round(self.loss, 6),
                "delay_ms": round(self.delay_ms, 1),
                "gaps_per_min": round(self.gaps_per_min, 2),
            }
        if self.raw_loss is not None:
            known["raw_loss"] = round(self.raw_loss, 6)
        if self.jitter_ms is not None:
            known["path_jitter_ms"] = round(self.jitter_ms, 1)
        return known


def mos(loss_percent: float, delay_ms: float, ie: float, bpl: float) -> float:
    """Estimate from residual loss in per cent, mouth-to-ear delay, and the codec's two values."""
    damage = ie + (LOSS_CEILING - ie) * loss_percent / (loss_percent + bpl)
    r = (R_MAX - R_SCALE * delay_damage(delay_ms) - damage) / R_SCALE
    if r >= 100:
        return BEST
    if r <= 0:
        return WORST  # the polynomial rises again below 0
    return max(WORST, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


def delay_damage(delay_ms: float) -> float:
    """Idd of G.107.2: what delay takes off, 0 up to 100 ms."""
    if delay_ms <= UNHEARD_MS:
        return 0.0
    x = log2(delay_ms / UNHEARD_MS)
    return float(25 * ((1 + x**6) ** (1 / 6) - 3 * (1 + (x / 3) ** 6) ** (1 / 6) + 2))


def estimate(window: Window, config: QualityConfig) -> Estimate | None:
    """Judge a window. None when nothing was sent, or something that counts was not measured."""
    up, down, late = window.lost_up, window.lost_down, window.late
    rtt_up, rtt_down, playout = window.rtt_up, window.rtt_down, window.playout
    if window.expected <= 0 or up is None or down is None or late is None:
        return None
    if rtt_up is None or rtt_down is None or playout is None:
        return None
    loss = 1 - (1 - up) * (1 - down) * (1 - late)
    # In a DTX pause few packets come, and one that is lost is hardly missed.
    weight = min(1.0, sqrt(window.expected / window.seconds * window.ptime / 1000))
    delay = window.ptime + LOOK_AHEAD_MS + (rtt_up + rtt_down) / 2 + window.residence + playout + DEVICE_MS
    ie = config.ie_low
    if window.bps >= config.high_from_bps:
        ie = config.ie_high
    elif window.bps >= config.mid_from_bps:
        ie = config.ie_mid
    return Estimate(mos(100 * loss * weight, delay, ie, config.bpl), loss, delay)


def grade(value: float | None, config: QualityConfig) -> Grade:
    """The word for an estimate."""
    if value is None:
        return Grade.UNKNOWN
    if value < config.bad_below:
        return Grade.BAD
    if value < config.poor_below:
        return Grade.POOR
    if value < config.fair_from:
        return Grade.WEAK
    return Grade.FAIR if value < config.good_from else Grade.GOOD


def late_share(delays_ms: Iterable[float], playout_ms: float) -> float | None:
    """Share of relative delays that a jitter buffer of `playout_ms` does not absorb; None without delays.

    For listeners who do not report what came late.
    """
    known = list(delays_ms)
    return sum(delay > playout_ms for delay in known) / len(known) if known else None


def playout_of(delays_ms: Iterable[float], ptime: float, distance: int = 0) -> float | None:
    """What a jitter buffer must hold, ms, for listeners who do not report it; None without delays.

    The 95th percentile of relative delay, at least a packet, plus the age of a copy `distance` packets back.
    """
    known = sorted(delays_ms)
    if not known:
        return None
    return max(ptime, known[ceil(0.95 * len(known)) - 1]) + distance * ptime


class Direction:
    """A -> B over the whole call: a smoothed estimate for now, sums for the record."""

    def __init__(self, config: QualityConfig) -> None:
        self._config = config
        self._smoothed: float | None = None
        self._windows = self._poor = 0
        self._active = self._judged = self._silence = 0.0
        self._gaps = 0
        self._mos = self._loss = self._delay = 0.0
        self._raw = _Mean()
        self._jitter = _Mean()

    @property
    def mos(self) -> float | None:
        """The smoothed estimate; None while the newest window told nothing."""
        return self._smoothed

    @property
    def grade(self) -> Grade:
        """The same in a word."""
        return grade(self._smoothed, self._config)

    def on_window(self, window: Window) -> Estimate | None:
        """Take in a window. None: A was silent on purpose, or nobody measured, which makes it unknown."""
        if window.expected <= 0:
            return None  # muted, or in a pause: what was known stays known
        self._active += window.seconds
        self._silence = max(self._silence, window.silence / 1000)  # nobody need judge it to hear nothing
        judged = estimate(window, self._config)
        if judged is None:
            self._smoothed = None
            return None
        before = self._smoothed
        if before is None:
            self._smoothed = judged.mos
        else:
            is_worse = judged.mos < before
            weight = self._config.weight_down if is_worse else self._config.weight_up
            self._smoothed = before + weight * (judged.mos - before)
        self._count(window, judged)
        return judged

    def summary(self) -> Summary:
        """What the call was like in this direction so far."""
        config, count = self._config, self._windows
        mean = self._mos / count if count else None
        poor_share = self._poor / count if count else 0.0
        is_poor = self._active >= config.judged_after_s and (
            (mean is not None and mean < config.poor_below)
            or poor_share > config.poor_share
            or self._silence > config.poor_silence_s
        )
        return Summary(
            grade=grade(mean, config),
            is_poor=is_poor,
            active_s=self._active,
            windows=count,
            mos=mean,
            poor_share=poor_share,
            loss=self._loss / count if count else 0.0,
            raw_loss=self._raw.value,
            jitter_ms=self._jitter.value,
            delay_ms=self._delay / count if count else 0.0,
            gaps_per_min=60 * self._gaps / self._judged if self._judged else 0.0,
            silence_s=self._silence,
        )

    def _count(self, window: Window, judged: Estimate) -> None:
        self._windows += 1
        self._poor += judged.mos < self._config.poor_below
        self._judged += window.seconds
        self._gaps += window.gaps
        self._mos += judged.mos
        self._loss += judged.loss
        self._delay += judged.delay_ms
        self._raw.add(window.lost_raw)
        self._jitter.add(window.jitter)


class _Mean:
    """Mean of what was measured."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self._sum += value
            self._count += 1

    @property
    def value(self) -> float | None:
        return self._sum / self._count if self._count else None
