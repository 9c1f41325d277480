"""The dashboard's series of an incident as one PNG: queries, titles and legends are those of the dashboard.

matplotlib is an extra of the project (`lab`). Must never live here: what is judged.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Final

from lab.sightings import Series, series_of
from prometheus.server import Prometheus

DASHBOARD: Final = Path(__file__).parents[2] / "config/grafana/relay.json"
TITLES: Final = (
    "State",
    "What each indicator scores",
    "Set-ups that fail",
    "Allowance used, times as fast as promised",
    "Calls",
    "Loss that is left, 95 of 100",
    "Estimate of quality, the worst 5 of 100",
    "Residence, 99 of 100",
)
STEP_S: Final = 5
_FACTORS: Final = {"percentunit": (100.0, "%"), "s": (1000.0, "ms")}
_COLOURS: Final = 64
_MARKS: Final = ("#1b7837", "#c0392b", "#e08e0b", "#6a3d9a")
_MANY: Final = 4  # lines of a panel; of more those that never move are grey, and have no name
_MOST_BYTES: Final = 60_000


def panels(titles: tuple[str, ...] = TITLES) -> list[dict[str, Any]]:
    """Those of the dashboard that bear these titles, in this order."""
    found = {panel["title"]: panel for panel in json.loads(DASHBOARD.read_text())["panels"]}
    return [found[title] for title in titles]


def unit_of(panel: dict[str, Any]) -> tuple[float, str]:
    """What values are multiplied by, and the unit's name then."""
    return _FACTORS.get(panel["fieldConfig"]["defaults"]["unit"], (1.0, ""))


def read(prometheus: Prometheus, panel: dict[str, Any], begin: float, end: float) -> list[Series]:
    """All lines of a panel between two moments."""
    lines: list[Series] = []
    for target in panel["targets"]:
        query = target["expr"].replace("$region", ".*")
        answer = prometheus.get("query_range", query=query, start=str(begin), end=str(end), step=str(STEP_S))
        lines += series_of(answer["result"], target["legendFormat"])
    return lines


def moves(line: Series) -> bool:
    """Whether it ever has another value."""
    return len({value for _, value in line.points}) > 1


def draw(
    series: dict[str, list[Series]], path: Path, title: str, begin: float, marks: dict[str, float]
) -> bool:
    """Write the picture, times from `begin` on; `marks`: what happened when. False without
    matplotlib, or if it is too large."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return False
    figure, grid = pyplot.subplots(2, 4, figsize=(15, 5.6), sharex=True)
    for place, panel in zip(grid.flat, panels(), strict=True):
        factor, unit = unit_of(panel)
        lines = series.get(panel["title"], [])
        moving = [line for line in lines if len(lines) <= _MANY or moves(line)]
        for line in lines:
            times = [at - begin for at, _ in line.points]
            values = [factor * value for _, value in line.points]
            if panel["type"] == "stat":  # a word, by the series that is there
                place.plot(times, [line.label] * len(times), "s", ms=4)
            else:
                style = {"label": line.label} if line in moving else {"color": "#bbbbbb"}
                place.plot(times, values, lw=1.2, **style)
                place.set_ylim(0, max(place.get_ylim()[1], 1.1 * max(values)))
        for colour, at in zip(_MARKS, marks.values(), strict=False):
            place.axvline(at - begin, color=colour, lw=0.9, ls="--")
        place.set_title(panel["title"] + (f", {unit}" if unit else ""), fontsize=9)
        place.tick_params(labelsize=7)
        place.grid(alpha=0.3)
        if moving and panel["type"] != "stat":
            place.legend(fontsize=6, loc="best")
    for place in grid[-1]:
        place.set_xlabel("s", fontsize=7)
    told = ", ".join(f"{name} {at - begin:.0f} s" for name, at in marks.items())
    figure.suptitle(title + (f" (dashed: {told})" if told else ""), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    pyplot.close(figure)
    image = importlib.import_module("PIL.Image")  # matplotlib needs it
    with image.open(path) as picture:
        few = picture.convert("RGB").quantize(_COLOURS)
    few.save(path, optimize=True)
    return path.stat().st_size <= _MOST_BYTES
