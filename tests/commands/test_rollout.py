"""`relay rollout plan` and `decide`, at the terminal and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relay.cli import DONE, USAGE, main
from relay.rollout.plan import parse_plan
from rollout.plans import RELEASE, opening, release

OPENING = json.dumps(opening().facts())


@pytest.fixture
def plan(tmp_path: Path) -> str:
    path = tmp_path / "rollout.toml"
    path.write_text(RELEASE)
    return str(path)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    status = main(["rollout", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_plan_is_shown_with_the_shares_that_people_will_get(
    plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollout", "plan", plan]) == DONE
    out = capsys.readouterr().out
    assert "relay-0.4 (release): 0.4.0 against 0.3.2" in out
    assert "1, 5, 25, 95" in out
    assert "12 h" in out
    assert "poor_call 2 pp" in out


def test_a_plan_for_machines_is_a_plan(plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, facts = told(capsys, "plan", plan)
    assert status == DONE
    assert parse_plan(json.dumps(facts), "again") == release()


def test_a_group_s_wave_is_shown_as_what_a_person_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "open.json"
    path.write_text(OPENING)
    assert main(["rollout", "plan", str(path)]) == DONE
    out = capsys.readouterr().out
    assert "@dogfood" in out
    assert "a person" in out


def test_a_wrong_plan_is_named_by_its_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(RELEASE.replace('bake = "1h"', 'bake = "soon"'))
    status, facts = told(capsys, "plan", str(path))
    assert (status, facts["key"]) == (USAGE, "rollout.wave[0].bake")
    status, facts = told(capsys, "plan", str(tmp_path / "none.toml"))
    assert (status, facts["key"]) == (USAGE, "FILE")


def test_a_unit_is_told_at_which_steps_it_gets_the_candidate(
    plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, facts = told(capsys, "decide", "--plan", plan, "--region", "eu-1", "--unit", "call-1")
    assert (status, facts["bucket"]) == (DONE, 364)
    rows = facts["decisions"]
    assert isinstance(rows, list)
    assert [(row["pct"], row["variant"]) for row in rows] == [
        (1, "control"),
        (5, "candidate"),
        (25, "candidate"),
        (95, "candidate"),
    ]
    assert main(["rollout", "decide", "--plan", plan, "--region", "eu-1", "--unit", "call-1"]) == DONE
    assert "5 %  candidate (region)" in capsys.readouterr().out


def test_at_one_share_and_with_groups_one_decision_is_told(
    plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("decide", "--plan", plan, "--region", "eu-1", "--unit", "call-1", "--pct", "1")
    for groups, wanted in (
        ((), ("control", "region")),
        (("dogfood",), ("candidate", "always")),
        (("dogfood", "emergency"), ("control", "never")),
    ):
        flags = [flag for group in groups for flag in ("--group", group)]
        status, facts = told(capsys, *words, *flags)
        [row] = facts["decisions"]  # type: ignore[misc]
        assert (status, (row["variant"], row["rule"])) == (DONE, wanted)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("--region", "mars", "--unit", "u"), "--region"),
        (("--region", "eu-1", "--unit", "u", "--pct", "101"), "--pct"),
        (("--region", "eu-1", "--unit", "u", "--pct", "nan"), "--pct"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_option(
    plan: str, words: tuple[str, ...], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, facts = told(capsys, "decide", "--plan", plan, *words)
    assert (status, facts["key"]) == (USAGE, key)
