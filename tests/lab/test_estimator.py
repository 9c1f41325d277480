"""How the relay's estimate is held against PESQ."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.cells import Cell, Key
from lab.estimator import Point, compare, fit, points, rmse
from lab.speech import Clip
from relay.core.quality import mos

CLIPS = [Clip(name, Path(f"{name}-0.wav")) for name in ("en", "it", "fr", "ru")]


def cell(net: str, scheme: str, missed: tuple[float, ...], ie: float, bpl: float) -> Cell:
    """What would be heard if the form were true with these values."""
    pesq = tuple(mos(100 * share, 0.0, ie, bpl) for share in missed)
    return Cell(Key(net, 40, scheme), pesq, (), 0, 0.0, missed, 0, 0, {})


CELLS = [
    cell("clean", "plain", (0.0,) * 4, 12.0, 6.5),
    cell("iid3", "plain", (0.02, 0.03, 0.04, 0.03), 12.0, 6.5),
    cell("iid20", "plain", (0.2,) * 4, 12.0, 6.5),
    cell("iid20", "red", (0.2,) * 4, 40.0, 1.0),
]


def test_values_that_are_true_are_found_and_checked_on_talkers_who_were_not_asked() -> None:
    told = compare(CELLS, CLIPS, 10.2, 5.5)
    assert told["fit"] == {"ie": 12.0, "bpl": 6.5}
    assert told["talkers"]["checked"] == ["fr", "ru"]
    assert (told["rmse_fitted"], told["rmse_checked"]) == (0, 0)
    assert told["rmse_in_use"] > 0.05


def test_only_what_the_relay_can_count_is_held_against_it() -> None:
    assert [point.cell for point in points(CELLS, CLIPS, ("en",))] == [
        "clean-40-plain-0", "iid3-40-plain-0", "iid20-40-plain-0"
    ]  # fmt: skip


def test_the_error_is_over_cells() -> None:
    some = [Point("a", mos(0, 0, 10.0, 5.0) + 0.3, (0.0,)), Point("b", mos(2, 0, 10.0, 5.0) - 0.4, (0.02,))]
    assert rmse(some, 10.0, 5.0) == pytest.approx(0.3536, abs=1e-4)
    assert rmse(some, *fit(some)) <= rmse(some, 10.0, 5.0)
