"""The simulation of the gate: that it draws what it says, and that its short form holds."""

from __future__ import annotations

import json

import pytest

from relay.rollout.gate import Verdict
from sim import gate
from sim.scene import Scene, fates, fresh, lives

LAME = Scene({"drop": 0.02}, {"drop": 0.06}, {"drop": 0.01}, ratio=0.05, pct=95.0, actual=95.0)


def test_calls_are_drawn_with_the_shares_and_ratios_that_the_scene_says() -> None:
    [life] = lives(LAME, 1, [1])
    *_, last = life
    assert (last.calls, last.candidate["drop"][1], last.control["drop"][1]) == (16_000, 16_000, 800)
    assert last.candidate["drop"][0] == pytest.approx(960, abs=120)
    assert last.prior["drop"][0] == pytest.approx(400, abs=80)
    assert last.assigned[0] / sum(last.assigned) == pytest.approx(0.95, abs=0.01)


def test_a_seed_gives_the_same_lives_and_another_one_others() -> None:
    assert fates(LAME, 5, [1]) == fates(LAME, 5, [1]) != fates(LAME, 5, [2])


def test_a_life_ends_by_the_verdict_of_the_gate() -> None:
    assert {fate.verdict for fate in fates(LAME, 20, [3])} == {Verdict.ROLLBACK}
    calm = Scene({"drop": 0.02}, {"drop": 0.02}, {"drop": 0.01})
    assert {fate.verdict for fate in fates(calm, 5, [3])} == {Verdict.PROMOTE}


def test_a_ratio_that_is_off_ends_in_no_data() -> None:
    off = Scene({"drop": 0.02}, {"drop": 0.02}, {"drop": 0.01}, ratio=19, pct=5.0, actual=3.0)
    assert {fate.verdict for fate in fates(off, 5, [4])} == {Verdict.NO_DATA}
    trial = fresh(off.plan())
    [life] = lives(off, 1, [4])
    for tally in life:
        trial.on_tally(tally)
    assert trial.is_mismatched


def test_the_short_form_holds_and_a_broken_promise_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gate", "--quick", "--json", "--only", "first", "--only", "peek"]
    monkeypatch.setattr("sys.argv", words)
    assert gate.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert len(told["first"]["cells"]) == 20
    monkeypatch.setattr(gate, "FIRST", (("drop", 0.02, 0.01, {1.0: {"rollback": 0.5}}),))
    monkeypatch.setattr("sys.argv", [*words[:3], "--only", "first"])
    assert gate.main() == 1
