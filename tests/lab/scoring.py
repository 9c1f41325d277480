"""Scores of what was heard against what was said: PESQ-WB (ITU-T P.862.2), and PLCMOS as a second opinion.

PLCMOS (speechmos, onnxruntime) hears without a reference and is used for order only; it is an extra of the
project (`lab`), and None without it. Must never live here: calls, bars.
"""

from __future__ import annotations

import importlib
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy

from lab.speech import RATE
from relay.client.audio import read_pcm

SILENT: Final = 1.0  # what is scored when nothing was heard
AUDIBLE: Final = 0.005  # of full scale
FARTHEST_S: Final = 1.0  # sound comes at most so much later than it was said
_SEED: Final = 1


@dataclass(frozen=True)
class Pair:
    """What to compare. The speech begins `lead_s` after the recording at the earliest."""

    said: str
    heard: str
    lead_s: float = 0.0


@dataclass(frozen=True)
class Score:
    """One clip's."""

    pesq: float
    plcmos: float | None
    lag_s: float
    """How much later it was heard."""


def samples(pcm: bytes) -> Any:
    """16-bit PCM as floats within -1..1."""
    return numpy.frombuffer(pcm, dtype="<i2").astype(numpy.float32) / 32768


def lag_of(said: Any, heard: Any, lead: int, farthest: int) -> int:
    """How many samples after `lead` the speech begins in what was heard, 0 to `farthest`, by correlation."""
    window = heard[lead : lead + len(said) + farthest]
    size = 1 << (len(window) + len(said)).bit_length()
    spectrum = numpy.fft.rfft(window, size) * numpy.conj(numpy.fft.rfft(said, size))
    return int(numpy.argmax(numpy.fft.irfft(spectrum, size)[: farthest + 1]))


def aligned(said: Any, heard: Any, lead: int) -> tuple[Any, int]:
    """What was heard, cut and filled to the length of what was said; how much later it was heard."""
    lag = lag_of(said, heard, lead, int(FARTHEST_S * RATE))
    cut = heard[lead + lag : lead + lag + len(said)]
    return numpy.pad(cut, (0, len(said) - len(cut))), lag


def pesq_of(said: Any, heard: Any) -> float:
    """PESQ-WB, 1.0 when nothing was heard."""
    if not numpy.any(numpy.abs(heard) > AUDIBLE):
        return SILENT
    pesq = importlib.import_module("pesq")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pesq's own, about its compiled part
        try:
            return float(pesq.pesq(RATE, said, heard, "wb"))
        except pesq.NoUtterancesError:
            return SILENT


def plcmos_of(heard: Any) -> float | None:
    """PLCMOS v2, None where it is not installed."""
    try:
        plcmos = importlib.import_module("speechmos.plcmos")
    except ImportError:
        return None
    numpy.random.seed(_SEED)  # it draws imaginary listeners
    return float(plcmos.run(heard, sr=RATE)["plcmos"])


def score(pair: Pair) -> Score:
    """One clip."""
    said, heard = samples(read_pcm(pair.said, RATE)), samples(read_pcm(pair.heard, RATE))
    cut, lag = aligned(said, heard, int(pair.lead_s * RATE))
    return Score(pesq_of(said, cut), plcmos_of(cut), lag / RATE)


def score_all(pairs: list[Pair], processes: int) -> list[Score]:
    """In their order."""
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(score, pairs, chunksize=4))


def has_plcmos() -> bool:
    """Whether it is installed."""
    return find_spec("speechmos") is not None
