"""A rollout at the terminal, from `begin` to everybody, and back: as an operator and a timer call it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from relay.cli import DONE, FAILED, USAGE, main
from relay.protocol.keys import write_key
from relay.protocol.signed import public_of
from relay.rollout.lastgood import accepted, parse
from relay.rollout.store import Entry
from relay.rollout.store_sqlite import SqliteStore
from rollout_store.traffic import Node, ruled

SEED, OTHER = bytes(32), b"\1" * 32
ROOT = Path(__file__).parents[2]
HOLD, BACK, NO_DATA = 10, 20, 30
SOON = 1.0
"""How far counts are ahead of the clock, seconds: no step is younger than they are."""
PLAN = """
[rollout]
id = "r1"
salt = "s1"
candidate = "0.4.0"
control = "0.3.2"
groups = { always = ["dogfood"] }
caps = { every = 0 }
[[rollout.wave]]
regions = ["eu-1"]
steps = [5, 100]
bake = 0.001
[[rollout.wave]]
regions = ["us-1"]
steps = [100]
bake = 0.001
[[rollout.guardrail]]
name = "setup_fail"
"""
GROUP = """
[rollout]
id = "open"
salt = "s1"
kind = "open"
caps = { every = 0 }
[[rollout.wave]]
group = "dogfood"
steps = [100]
bake = 0.001
min_calls = 50
confirm = true
[[rollout.guardrail]]
name = "setup_fail"
"""


class Desk:
    """Where an operator sits, with a plan, a key and counts."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.config = folder / "relay.toml"
        store = folder / "state.sqlite"
        keys = json.dumps([public_of(SEED).hex()])
        self.config.write_text(f"[state]\nstore = {json.dumps(str(store))}\nkeys = {keys}\n")
        self.put(ruled(time.time(), "eu-1", "us-1"))
        for name, seed in (("key", SEED), ("other", OTHER)):
            (folder / name).write_text(write_key(seed))
        (folder / "plan.toml").write_text(PLAN)
        self.key = ("--key", str(folder / "key"))

    def put(self, state: bytes) -> None:
        """Into the store, as the signed state."""

        async def put() -> None:
            store = SqliteStore(self.folder / "state.sqlite")
            try:
                standing = await store.get("rollout", "state")
                expect = 0 if standing is None else standing.revision
                await store.put("rollout", "state", state, expect=expect, who="kim", why="rules")
            finally:
                await store.close()

        asyncio.run(put())

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        status = main(["rollout", *words, "--config", str(self.config), "--json"])
        return status, json.loads(self.capsys.readouterr().out.splitlines()[-1])

    def begin(self, *words: str) -> tuple[int, dict[str, Any]]:
        plan = str(self.folder / "plan.toml")
        return self.run(
            "begin", plan, "--traffic", "eu-1=8", "--who", "kim", "--why", "the first region", *words
        )

    def count(self, calls: int, fails: int, health: str = "ok", **more: Any) -> tuple[str, str]:
        """Counts by now, as a report; the option that names it."""
        tally = {
            "at": time.time() + SOON,
            "calls": calls,
            "candidate": {"setup_fail": [fails, calls]},
            "control": {"setup_fail": [calls // 10, 20 * calls]},
        }
        (self.folder / "counts.json").write_text(
            json.dumps({"tallies": [tally], "health": {"eu-1": health, "us-1": health}} | more)
        )
        return "--from", str(self.folder / "counts.json")

    def gate(self, *words: str) -> tuple[int, dict[str, Any]]:
        return self.run("gate", "--rollout", "r1", "--region", "eu-1", *words)

    def advance(self, *words: str) -> tuple[int, dict[str, Any]]:
        return self.run("advance", "--rollout", "r1", "--region", "eu-1", "--who", "kim", *words)

    def change(self, name: str, *words: str) -> tuple[int, dict[str, Any]]:
        return self.run(name, "--rollout", "r1", "--who", "anna", "--why", "so", *words)

    def signed(self) -> Any:
        """What boxes get."""

        async def read() -> Entry | None:
            store = SqliteStore(self.folder / "state.sqlite")
            try:
                return await store.get("rollout", "state")
            finally:
                await store.close()

        entry = asyncio.run(read())
        return None if entry is None else parse(entry.value, accepted([public_of(SEED)])).body


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_from_the_first_step_to_everybody_each_step_after_the_gate_and_signed(desk: Desk) -> None:
    status, facts = desk.begin(*desk.key)
    assert (status, facts["phase"], facts["published"], facts["to_publish"]) == (DONE, "running", 2, "")
    assert desk.signed().rollout.regions == {"eu-1": 5}
    assert desk.gate()[0] == NO_DATA
    status, facts = desk.gate(*desk.count(1000, 5))
    assert (status, facts["verdict"], facts["reasons"], facts["state_rev"]) == (DONE, "promote", [], 1)
    assert facts["next_stage"] == {"place": "eu-1", "wave": 0, "step": 1, "pct": 95}
    status, facts = desk.advance(*desk.key)  # by what is counted already
    assert (status, facts["verdict"], facts["places"]["eu-1"]["pct"]) == (DONE, "promote", 95)
    assert desk.signed().rollout.regions == {"eu-1": 95}
    assert desk.advance(*desk.key)[0] == HOLD  # those were the calls of the step before
    status, facts = desk.advance(*desk.key, *desk.count(2000, 10))
    assert (status, facts["phase"], facts["places"]["eu-1"]["pct"]) == (DONE, "waiting", 100)
    status, facts = desk.begin(*desk.key)
    assert (status, facts["wave"]) == (DONE, 1)
    counts = desk.count(1000, 5)
    assert desk.run("advance", "--rollout", "r1", "--region", "us-1", *desk.key, *counts)[0] == DONE
    status, facts = desk.run("status")
    [row] = facts["rollouts"]
    assert (status, row["phase"], row["is_published"]) == (DONE, "done", True)
    assert desk.signed().rollout.regions == {"eu-1": 100, "us-1": 100}
    status, facts = desk.run("history", "r1")
    told = [(row["revision"], row["change"], row["place"], row["pct"]) for row in facts["changes"]]
    assert told == [
        (1, "begin", "", None),
        (2, "advance", "eu-1", 95),
        (3, "advance", "eu-1", 100),
        (4, "begin", "", None),
        (5, "advance", "us-1", 100),
    ]
    assert facts["changes"][0]["who"] == "kim"
    assert facts["changes"][0]["why"] == "the first region"


def test_what_is_worse_is_not_advanced_and_is_taken_back(desk: Desk) -> None:
    assert desk.begin(*desk.key)[0] == DONE
    status, facts = desk.advance(*desk.key, *desk.count(400, 40))
    assert (status, facts["ok"], facts["verdict"]) == (BACK, False, "rollback")
    assert facts["reasons"][0]["reason"] == "breach"
    assert desk.signed().rollout.regions == {"eu-1": 5}
    words = ("rollback", "--rollout", "r1", "--region", "eu-1", "--who", "anna", "--why", "calls break")
    status, facts = desk.run(*words)
    assert (status, facts["phase"], facts["published"]) == (DONE, "halted", None)
    assert facts["to_publish"].startswith("relay rollout publish --rollout r1")
    assert desk.signed().rollout.regions == {"eu-1": 5}  # boxes do not know it yet
    status, facts = desk.run("publish", "--rollout", "r1", *desk.key)
    assert (status, facts["published"], desk.signed().rollout.regions) == (DONE, 3, {"eu-1": 0})
    status, facts = desk.change("resume")
    assert (status, facts["key"]) == (FAILED, "place")


def test_too_few_calls_hold(desk: Desk) -> None:
    desk.begin()
    status, facts = desk.gate(*desk.count(30, 0))
    assert (status, facts["verdict"]) == (HOLD, "hold")
    assert {row["reason"] for row in facts["reasons"]} == {"few", "unproven"}


def test_a_freeze_stops_an_advance_and_no_rollback(desk: Desk) -> None:
    desk.begin()
    status, facts = desk.change("freeze", "--until", "8h")
    assert (status, facts["phase"]) == (DONE, "frozen")
    assert abs(facts["frozen_until"] - time.time() - 8 * 3600) < 600
    status, facts = desk.advance(*desk.count(1000, 5))
    assert (status, facts["reasons"]) == (HOLD, [{"reason": "window", "detail": "anna: so"}])
    assert desk.change("thaw")[0] == DONE
    assert desk.change("freeze")[0] == DONE
    status, facts = desk.change("rollback", "--region", "eu-1")
    assert (status, facts["phase"]) == (DONE, "halted")


def test_the_second_of_two_who_looked_at_one_revision_is_told(desk: Desk) -> None:
    desk.begin()
    status, facts = desk.gate(*desk.count(1000, 5))
    seen = str(facts["state_rev"])
    assert desk.advance("--expect", seen)[0] == DONE
    status, facts = desk.advance("--expect", seen, *desk.count(2000, 10))
    assert (status, facts["key"]) == (FAILED, "conflict")
    assert "look again" in facts["error"]
    status, facts = desk.change("freeze", "--expect", seen)
    assert (status, facts["key"]) == (FAILED, "conflict")
    assert desk.change("rollback", "--region", "eu-1")[0] == DONE


def test_a_kill_is_lifted_or_for_good(desk: Desk) -> None:
    desk.begin(*desk.key)
    by = ("--who", "anna", "--why", "calls break")
    assert desk.run("kill", "r1", *by) == (DONE, {"ok": True, "id": "r1", "killed": True})
    assert desk.run("status")[1]["rollouts"][0]["killed"] is True
    status, facts = desk.gate(*desk.count(1000, 5))
    assert (status, facts["reasons"][0]["reason"]) == (BACK, "killed")
    assert desk.run("kill", "r1", "--off", *by) == (DONE, {"ok": True, "id": "r1", "killed": False})
    assert desk.gate()[0] == DONE
    desk.run("kill", "r1", *by)
    desk.change("rollback", "--region", "eu-1")
    status, facts = desk.run("kill", "r1", "--off", *by)
    assert (status, facts["key"], "relay rollout publish" in facts["error"]) == (FAILED, "conflict", True)
    status, facts = desk.run("kill", "r1", "--for-good", *by, *desk.key)
    assert (status, facts["phase"], facts["killed"]) == (DONE, "killed", True)
    assert (desk.signed().rollout.regions, desk.signed().rollout.always) == ({}, ())
    assert desk.run("kill", "elsewhere", *by)[0] == DONE  # one by hand, which never began here
    changes = [row["change"] for row in desk.run("history", "--rollout", "r1")[1]["changes"]]
    assert changes == ["begin", "kill_on", "kill_off", "kill_on", "rollback", "kill_on", "kill"]


def test_a_person_says_yes_where_the_plan_wants_one(desk: Desk) -> None:
    (desk.folder / "plan.toml").write_text(GROUP)
    assert desk.begin("--traffic", "@dogfood=1")[0] == DONE
    words = ("advance", "--rollout", "open", "--region", "@dogfood", *desk.count(60, 0))
    status, facts = desk.run(*words)
    assert (status, [row["reason"] for row in facts["reasons"]]) == (HOLD, ["confirm"])
    status, facts = desk.run(*words, "--confirm", "--why", "we like it")
    assert (status, facts["phase"], facts["places"]["@dogfood"]["pct"]) == (DONE, "done", 100)


def test_a_change_that_cannot_be_signed_says_that_it_is_stored(desk: Desk) -> None:
    desk.begin()
    offer = desk.folder / "offer.json"
    offer.write_text('{"id": "by-hand", "salt": "s1"}')
    words = ("put", "--key", str(desk.folder / "key"), "--rollout", str(offer), "--why", "by hand")
    assert main(["state", *words, "--config", str(desk.config)]) == DONE
    desk.capsys.readouterr()
    status, facts = desk.advance(*desk.key, *desk.count(1000, 5))
    assert (status, facts["ok"], facts["published"], facts["state_rev"]) == (FAILED, False, None, 2)
    assert "by-hand" in facts["to_publish"]
    assert desk.begin()[1]["key"] == "rival"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("gate", "--rollout", "r1", "--region", "mars"), "--region"),
        (("gate", "--rollout", "r1", "--region", "eu-1", "--from", "nothing.json"), "--from"),
        (("gate", "--rollout", "r1", "--region", "eu-1", "--from", "http://"), "--from"),
        (("gate", "--rollout", "r1", "--region", "eu-1", "--from", "a.json", "--from", "b.json"), "--from"),
        (("gate", "--rollout", "r1", "--region", "eu-1", "--timeout", "5"), "--timeout"),
        (("gate", "--rollout", "r1", "--region", "eu-1", "--every", "0"), "--every"),
        (("advance", "--rollout", "r1", "--region", "eu-1", "--traffic", "eu-1"), "--traffic"),
        (("advance", "--rollout", "r1", "--region", "eu-1", "--traffic", "eu-1=101"), "--traffic"),
        (("freeze", "--rollout", "r1", "--why", "w", "--until", "soon"), "--until"),
        (("freeze", "--rollout", "r1", "--why", "w", "--until", "2027-01-01"), "--until"),
        (("freeze", "--rollout", "r1", "--why", "w", "--until", "2020-01-01T00:00:00+00:00"), "--until"),
        (("publish", "--rollout", "r1", "--key", "nothing"), "--key"),
        (("follow", "--rollout", "r1", "--region", "eu-1"), "--key"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_option(desk: Desk, words: tuple[str, ...], key: str) -> None:
    desk.begin()
    desk.capsys.readouterr()
    status, facts = desk.run(*words)
    assert (status, facts["key"]) == (USAGE, key)


def test_a_key_that_no_box_knows_and_a_time_too_long_are_refused(desk: Desk) -> None:
    status, facts = desk.begin("--key", str(desk.folder / "other"))
    assert (status, facts["key"]) == (USAGE, "state.keys")
    status, facts = desk.begin(*desk.key, "--days", "8")
    assert (status, facts["key"]) == (USAGE, "--days")
    assert desk.run("status")[1]["rollouts"] == []


def test_what_has_not_begun_is_told_by_its_option(desk: Desk) -> None:
    for words in (("gate", "--region", "eu-1"), ("history",), ("status",)):
        status, facts = desk.run(words[0], "--rollout", "r9", *words[1:])
        assert (status, facts["key"]) == (FAILED, "--rollout")
    status, facts = desk.run("begin", str(desk.folder / "plan.toml"), "--why", "w")
    assert (status, facts["key"]) == (FAILED, "unknown_traffic")
    assert "eu-1" in facts["error"]
    assert "--traffic" in facts["error"]


def test_people_see_which_clients_are_worse_and_of_which_nothing_can_be_said(desk: Desk) -> None:
    desk.begin(*desk.key)
    classes = {
        "ios": {"candidate": {"setup_fail": [60, 900]}, "control": {"setup_fail": [90, 18_000]}},
        "py": {"candidate": {"setup_fail": [9, 9]}, "control": {"setup_fail": [0, 9]}},
    }
    tally = {
        "at": time.time() + SOON,
        "calls": 20_000,
        "candidate": {"setup_fail": [100, 20_000]},
        "control": {"setup_fail": [2000, 400_000]},
        "classes": classes,
    }
    path = desk.folder / "counts.json"
    path.write_text(json.dumps({"tallies": [tally], "health": {"eu-1": "ok"}}))
    words = ["rollout", "gate", "--rollout", "r1", "--region", "eu-1", "--from", str(path)]
    assert main([*words, "--config", str(desk.config)]) == BACK
    out = desk.capsys.readouterr().out
    assert "worse: setup_fail of ios clients" in out
    assert "setup_fail of ios clients: worse" in out
    assert "too few calls to say anything of clients: py" in out


def test_people_see_tables_and_one_line_of_why(desk: Desk) -> None:
    desk.begin(*desk.key)
    where = ("--config", str(desk.config))
    counts = desk.count(1000, 5)
    assert main(["rollout", "gate", "--rollout", "r1", "--region", "eu-1", *counts, *where]) == DONE
    out = desk.capsys.readouterr().out
    assert "eu-1 at 5 %: promote" in out
    assert "5 of 1000" in out
    assert main(["rollout", "status", *where]) == DONE
    out = desk.capsys.readouterr().out
    assert "the signed state is revision 2" in out
    assert "begin by kim" in out
    assert main(["rollout", "history", "--rollout", "r1", *where]) == DONE
    assert "the first region" in desk.capsys.readouterr().out
    back = ["rollout", "rollback", "--rollout", "r1", "--region", "eu-1", "--why", "w", *where]
    assert main(back) == DONE
    assert "boxes do not know of it yet: relay rollout publish --rollout r1" in desk.capsys.readouterr().out


def test_waiting_for_the_gate_ends_with_its_time(desk: Desk) -> None:
    desk.begin()
    words = ("--wait", "--timeout", "0.1", "--every", "0.01")
    status, facts = desk.gate(*desk.count(30, 0), *words)
    assert (status, facts["verdict"]) == (HOLD, "hold")
    assert desk.gate(*desk.count(1000, 5), *words)[0] == DONE


# ---------------------------------------------------------------- as a program of its own


def follow(desk: Desk, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """scripts/rollout: exit status, events, and what people see."""
    program = Path(sys.executable).with_name("relay")
    script, config = str(ROOT / "scripts/rollout"), str(desk.config)
    done = subprocess.run(
        [script, "--rollout", "r1", "--region", "eu-1", *words, "--config", config, "--json"],
        env={**os.environ, "RELAY": str(program), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_script_goes_on_or_back_by_itself(desk: Desk) -> None:
    desk.begin()
    status, events, progress = follow(desk, *desk.key, *desk.count(1000, 5), "--wait", "--timeout", "0.1")
    assert [each["event"] for each in events] == ["published", "look", "advance", "published", "end"]
    assert (status, events[-1]["exit"]) == (HOLD, HOLD)  # one step further, and not through
    assert "eu-1 at 5 %: promote" in progress
    assert desk.signed().rollout.regions == {"eu-1": 95}
    status, events, _ = follow(desk, *desk.key, *desk.count(2000, 200))
    assert [each["event"] for each in events] == ["look", "rollback", "published", "back", "end"]
    assert (status, desk.signed().rollout.regions) == (BACK, {"eu-1": 0})


def test_the_script_only_says_what_it_would_do_if_told_so(desk: Desk) -> None:
    desk.begin()
    node = Node(started=time.time() + SOON)
    node.carry("candidate", 300, setup_fail=60)
    node.carry("control", 5000, setup_fail=25)
    with node.serving() as url:
        status, events, _ = follow(desk, "--from", url, "--dry-run")
    assert (status, [each["event"] for each in events]) == (BACK, ["look", "would", "end"])
    assert events[1]["text"] == "rollback"
    assert desk.signed().rollout is None
    assert desk.run("status")[1]["rollouts"][0]["state_rev"] == 1


# ---------------------------------------------------------------- the days before


def test_control_calls_are_collected_by_region_and_version(desk: Desk) -> None:
    node = Node(started=time.time() - 5)
    node.carry("control", 40, setup_fail=1)
    with node.serving() as url:
        status, facts = desk.run("collect", "--from", url)
        assert (status, facts["ok"], facts["problems"]) == (DONE, True, [])
        assert facts["regions"] == {"eu-1": {"0.4.0": {"hours": 1, "calls": 40}}}
        assert desk.run("collect", "--from", url, "--wait", "--timeout", "0.1")[0] == DONE
        for wrong in (("--every", "901"), ("--every", "0"), ("--timeout", "9")):
            status, facts = desk.run("collect", "--from", url, *wrong)
            assert (status, facts["key"]) == (USAGE, wrong[0])
    status, facts = desk.run("collect", "--from", url)
    assert (status, facts["ok"], len(facts["problems"])) == (NO_DATA, False, 1)


def test_a_gate_says_how_many_calls_of_the_days_before_it_used_or_why_none(desk: Desk) -> None:
    desk.begin()
    told = desk.gate(*desk.count(1000, 5))[1]["prior"]
    assert (told["from"], told["calls"], told["why"]) == ("none", 0, "the report tells none")
    assert desk.gate()[1]["guardrails"][0]["prior"] == "none"


# ---------------------------------------------------------------- rules of regions


def test_a_region_without_rules_is_not_opened_and_it_is_said_what_to_write(desk: Desk) -> None:
    desk.put(ruled(time.time(), "us-1"))
    status, facts = desk.begin(*desk.key)
    assert (status, facts["key"]) == (FAILED, "rules")
    assert "eu-1 has no rules" in facts["error"]
    assert "relay state put --routes" in facts["error"]
    assert desk.run("status")[1]["rollouts"] == []
    desk.put(ruled(time.time(), "eu-1"))
    assert desk.begin(*desk.key)[0] == DONE
    desk.put(ruled(time.time(), "us-1"))  # and it loses them
    counts = desk.count(1000, 5)
    status, facts = desk.advance(*counts)
    assert (status, facts["key"]) == (FAILED, "rules")
    assert desk.run("status")[1]["rollouts"][0]["places"]["eu-1"]["pct"] == 5
    assert desk.change("rollback", "--region", "eu-1")[0] == DONE


def test_a_group_is_everywhere_so_all_regions_need_rules(desk: Desk) -> None:
    (desk.folder / "plan.toml").write_text(GROUP)
    desk.put(ruled(time.time()))
    assert desk.begin("--traffic", "@dogfood=1")[1]["key"] == "rules"
    desk.put(ruled(time.time(), "eu-1"))
    assert desk.begin("--traffic", "@dogfood=1")[0] == DONE


def test_rules_that_would_not_hold_are_refused_where_they_are_put(desk: Desk) -> None:
    rules = {"may_leave_to": ["us-1"], "keep_in": ["eu-1"], "keep_days": 30}
    path = desk.folder / "routes.json"
    path.write_text(json.dumps({"eu-1": {"relays": {}, "rules": rules}}))
    words = ["state", "put", "--key", str(desk.folder / "key"), "--routes", str(path), "--why", "w"]
    assert main([*words, "--config", str(desk.config), "--json"]) == USAGE
    told = json.loads(desk.capsys.readouterr().out.splitlines()[-1])
    assert told["key"] == "--routes"
    assert "add us-1 to keep_in of eu-1" in told["error"]
