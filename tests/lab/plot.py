"""Quality against loss, a curve per scheme, as PNG. matplotlib is an extra of the project (`lab`).

Must never live here: measuring.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from impair import NETS, Independent
from lab.cells import Cell

_COLOURS: Final = {"plain": "#888888", "repaired": "#1b7837", "red": "#c0392b", "followed": "#2166ac"}
_RTT_MS: Final = 40


def curves(cells: Iterable[Cell], *, is_bursty: bool) -> dict[str, list[tuple[float, float, str]]]:
    """Per scheme (loss in per cent, PESQ, network), by loss; networks with outages or without."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for cell in cells:
        loss = NETS[cell.key.net].loss
        is_clean = cell.key.net == "clean"
        if cell.key.rtt_ms != _RTT_MS or not (is_clean or isinstance(loss, Independent) is not is_bursty):
            continue
        point = (100 * cell.lost, cell.mean, cell.key.net)
        found.setdefault(cell.key.scheme, []).append(point)
    return {scheme: sorted(points) for scheme, points in found.items()}


def draw(cells: Iterable[Cell], path: Path) -> bool:
    """Write the picture; False where matplotlib is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return False
    cells = list(cells)
    figure, sides = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for side, is_bursty in zip(sides, (False, True), strict=True):
        for scheme, points in curves(cells, is_bursty=is_bursty).items():
            style = "o" if is_bursty else "o-"  # outages differ in more than their share
            side.plot(
                [loss for loss, _, _ in points],
                [quality for _, quality, _ in points],
                style,
                color=_COLOURS.get(scheme),
                label=scheme,
            )
            if is_bursty and scheme == "plain":
                for *place, net in points:
                    side.annotate(net, place, xytext=(4, -10), textcoords="offset points", fontsize=7)
        side.set_xlabel("packets lost by the network, %")
        side.set_title("outages" if is_bursty else "independent losses")
        side.grid(alpha=0.3)
    sides[0].set_ylabel("PESQ-WB")
    sides[0].legend()
    figure.suptitle(f"Opus 24 kb/s, 20 ms, round trip {_RTT_MS} ms")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return True
