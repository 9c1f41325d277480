"""The relay's estimate against PESQ: its values for Opus, fitted on some talkers, checked on the others.

    of each cell (network, plain or repaired) and half: mean PESQ, mean of mos(what was missed)

Without its term for delay, which PESQ does not hear. Pure. Must never live here: calls, the form itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any, Final

from lab.cells import Cell
from lab.speech import Clip
from relay.core.quality import mos

FITTED: Final = ("en", "it")  # a woman and a man; the others check
SCHEMES: Final = ("plain", "repaired")  # whose losses the relay can count
_IE: Final = tuple(value / 2 for value in range(61))
_BPL: Final = tuple(value / 4 for value in range(4, 61))


@dataclass(frozen=True)
class Point:
    """One cell by one half of the talkers."""

    cell: str
    pesq: float
    missed: tuple[float, ...]
    """Share of what was said that did not come in time, 0-1, by clip."""

    def estimate(self, ie: float, bpl: float) -> float:
        """What the relay would say with these values."""
        return fmean(mos(100 * share, 0.0, ie, bpl) for share in self.missed)


def points(cells: Sequence[Cell], clips: Sequence[Clip], talkers: Sequence[str]) -> list[Point]:
    """Of the talkers that are named."""
    chosen = [number for number, clip in enumerate(clips) if clip.talker in talkers]
    return [
        Point(
            str(cell.key),
            fmean(cell.pesq[number] for number in chosen),
            tuple(cell.missed[number] for number in chosen),
        )
        for cell in cells
        if cell.key.scheme in SCHEMES
    ]


def rmse(some: Sequence[Point], ie: float, bpl: float) -> float:
    """Root of the mean squared difference over cells."""
    return sqrt(fmean((point.estimate(ie, bpl) - point.pesq) ** 2 for point in some))


def fit(some: Sequence[Point]) -> tuple[float, float]:
    """The values, to 0.5 and 0.25, that come nearest."""
    return min(((ie, bpl) for ie in _IE for bpl in _BPL), key=lambda values: rmse(some, *values))


def compare(cells: Sequence[Cell], clips: Sequence[Clip], ie: float, bpl: float) -> dict[str, Any]:
    """A fit on one half, and how far it and the values in use (`ie`, `bpl`) are off on the other."""
    others = sorted({clip.talker for clip in clips} - set(FITTED))
    fitted, checked = points(cells, clips, FITTED), points(cells, clips, others)
    found = fit(fitted)
    return {
        "talkers": {"fitted": FITTED, "checked": others},
        "fit": {"ie": found[0], "bpl": found[1]},
        "in_use": {"ie": ie, "bpl": bpl},
        "rmse_fitted": round(rmse(fitted, *found), 3),
        "rmse_checked": round(rmse(checked, *found), 3),
        "rmse_in_use": round(rmse(checked, ie, bpl), 3),
        "cells": [
            {
                "cell": point.cell,
                "missed": round(fmean(point.missed), 4),
                "pesq": round(point.pesq, 2),
                "fit": round(point.estimate(*found), 2),
                "in_use": round(point.estimate(ie, bpl), 2),
            }
            for point in checked
        ],
    }
