"""`relay rollout plan` and `decide`, at the terminal and for machines."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from relay.cli import DONE, USAGE, main
from relay.protocol.signed import public_of
from relay.rollout.bucket import bucket
from relay.rollout.lastgood import LIFE_S, Body, Offer, seal
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


# ---------------------------------------------------------------- by the state in force

SEED = bytes(32)
KEY = public_of(SEED).hex()
OPEN = Offer("o1", "s1", always=("staff",), regions={"eu-1": 5}, kind="open")


def unit(*, member: bool) -> str:
    """One that is in 5 %, or is not."""
    units = (number.to_bytes(16, "big").hex() for number in range(1_000))
    return next(each for each in units if (bucket("o1", "s1", each) < 500) is member)


IN, OUT = unit(member=True), unit(member=False)


def signed(folder: Path, offer: Offer | None, life_s: int = LIFE_S, before_s: int = 0) -> str:
    begins = int(time.time()) - before_s
    path = folder / "lastgood"
    path.write_bytes(seal(Body(7, begins, begins + life_s, offer), SEED))
    return str(path)


def now(capsys: pytest.CaptureFixture[str], path: str, unit: str, *words: str) -> dict[str, object]:
    given = ("--state", path, "--key", KEY, "--region", "eu-1", "--unit", unit)
    status, facts = told(capsys, "decide", *given, *words)
    assert status == DONE
    return facts


def test_a_back_end_is_told_who_may_call_now_and_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = signed(tmp_path, OPEN)
    facts = now(capsys, path, IN)
    assert (facts["may_call"], facts["why"], facts["revision"], facts["serving"]) == (True, "", 7, "state")
    assert (facts["rollout"], facts["kind"], facts["problem"]) == ("o1", "open", "")
    facts = now(capsys, path, OUT)
    assert (facts["may_call"], facts["why"]) == (False, "not_member")
    assert now(capsys, path, OUT, "--group", "staff")["may_call"]
    words = ["--state", path, "--key", KEY, "--region", "eu-1", "--unit", OUT]
    assert main(["rollout", "decide", *words]) == DONE
    said = "revision 7 (state): may not call: not_member; control of o1 (region)"
    assert said in capsys.readouterr().out
    Path(f"{path}.kill").write_text("o1\n")
    facts = now(capsys, path, IN)
    assert (facts["may_call"], facts["why"], facts["serving"]) == (False, "killed", "killed")


def test_a_back_end_is_told_which_variant_a_call_gets_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = signed(tmp_path, Offer("o1", "s1", regions={"eu-1": 5}))
    for unit, variant in ((IN, "candidate"), (OUT, "control")):
        facts = now(capsys, path, unit)
        assert facts["may_call"]
        decision = facts["decision"]
        assert isinstance(decision, dict)
        assert (decision["variant"], decision["rule"]) == (variant, "region")
    facts = now(capsys, signed(tmp_path, None), IN)
    assert (facts["may_call"], facts["rollout"], facts["decision"]) == (True, None, None)


def test_no_state_that_counts_is_told_as_the_boxes_take_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = {"revision": 0, "serving": "none", "may_call": False, "why": "no_state"}
    none = str(tmp_path / "none")
    facts = now(capsys, none, IN)
    assert nobody.items() <= facts.items()
    assert facts["problem"] == "there is no such file"
    assert now(capsys, none, IN, "--without", "all")["may_call"]
    torn = tmp_path / "torn"
    torn.write_bytes(b"VRS1 ")
    facts = now(capsys, str(torn), IN)
    assert nobody.items() <= facts.items()
    assert facts["problem"] == "malformed"
    old = signed(tmp_path, OPEN, life_s=60, before_s=90)
    facts = now(capsys, old, IN, "--without", "all")
    assert (facts["may_call"], facts["why"], facts["serving"]) == (False, "no_state", "expired")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("--unit", "call-1", "--key", KEY), "--unit"),
        (("--unit", IN.upper() + "A", "--key", KEY), "--unit"),
        (("--unit", IN), "--key"),
        (("--unit", IN, "--key", KEY, "--key", KEY, "--key", KEY), "--key"),
        (("--unit", IN, "--key", "ab"), "--key"),
        (("--unit", IN, "--key", KEY, "--pct", "5"), "--pct"),
        (("--unit", IN, "--key", KEY, "--state", "/"), "--state"),
    ],
)
def test_what_cannot_be_asked_of_a_state_is_refused_by_option(
    tmp_path: Path, words: tuple[str, ...], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, facts = told(capsys, "decide", "--state", signed(tmp_path, OPEN), "--region", "eu-1", *words)
    assert (status, facts["key"]) == (USAGE, key)
