"""The certificate of a real daemon is renewed under real calls: five times here, in the lab a hundred."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.rotate import Rotations, Round, measure
from load.report import Report


@pytest.mark.timeout(120)
def test_new_calls_see_each_new_certificate_and_running_ones_notice_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # for the callers, a process of their own
    result = Report("rotate", seed=1, quick=True)
    measure(result, tmp_path, calls=2, rotations=5, processes=2)
    assert result.holds  # what each bar came to stands on stderr


def test_what_counts_is_the_worst_direction_of_its_group() -> None:
    marks = [{"group": "calls", "gap_ms": 20.0}, {"group": "calls", "gap_ms": 40.0}]
    marks += [{"group": "control", "gap_ms": 60.0}]
    one = Round(marks, "", True, 0.1, 10, 40.0)
    assert (one.worst_ms("calls"), one.worst_ms("control"), one.worst_ms("others")) == (40.0, 60.0, 0.0)


def test_audio_is_judged_where_the_control_missed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    control = iter([0.0, 60.0, 20.0, 0.0])

    def one(_: Rotations, number: int) -> Round:
        gaps = {"control": next(control), "calls": 20.0 * number}
        marks = [{"group": name, "gap_ms": gap, "moves": number**2} for name, gap in gaps.items()]
        return Round(marks, "", True, 0.1, 10, 40.0)

    monkeypatch.setattr(Rotations, "_one", one)
    monkeypatch.setattr(Rotations, "_mark", lambda _: [])
    made = Rotations(None, [])  # type: ignore[arg-type]  # its daemon is not asked
    made.run(4)
    assert [each.worst_ms("calls") for each in made.rounds] == [20.0, 40.0, 60.0, 80.0]
    assert [each.worst_ms("calls") for each in made.judged] == [20.0, 80.0]
    assert (made.before, made.moved) == ([0, 1, 4, 9], 1 + 7)
