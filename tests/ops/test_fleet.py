"""The file of commands of the fleet: what is new in it is given to the engine once, in order, and told of."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.config_nodes import NodesConfig
from relay.errors import ErrorCode
from relay.ops import fleet
from relay.ops.fleet import FleetWatch, families
from relay.protocol import command, dispatch
from relay.protocol.dispatch import Dispatched
from relay.protocol.ids import CallId, Jti

SEEDS = bytes(range(32)), bytes(range(1, 33))
NOW = 1_800_000_000


def order(number: int, at: float = NOW, seed: int = 0) -> Dispatched:
    id = Jti(number.to_bytes(16, "big"))
    raw = command.Command(op="end", cid=CallId(bytes(16)), iat=NOW, exp=NOW + 300, id=id)
    return dispatch.take(command.mint(raw, SEEDS[seed]), at)


class Box:
    """A file, the watch, and an engine that says what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "commands"
        self.config = NodesConfig(commands=str(self.path))
        self.wall = NOW + 0.3
        self.got: list[int] = []
        self.says: dict[int, ErrorCode] = {}
        self.watch = self.started()

    def started(self) -> FleetWatch:
        """A daemon that is started (again)."""
        return FleetWatch(lambda: self.config, self.submit, lambda: 7, lambda: self.wall)

    def submit(self, raw: bytes, done: Any) -> None:
        number = int.from_bytes(dispatch.take(raw, 0.0).id, "big")
        self.got.append(number)
        done(self.says.get(number, ErrorCode.NO_ERROR), "")

    async def put(self, *orders: Dispatched, raw: bytes | None = None) -> None:
        """A new file in the place of the old one, and a look at it."""
        beside = self.path.with_name("new")
        beside.write_bytes(dispatch.write(orders) if raw is None else raw)
        os.replace(beside, self.path)
        await self.watch.look()

    def told(self, run: str = "", since: int = 0) -> list[tuple[str, str]]:
        return [(one["id"][-2:], one["code"]) for one in self.watch.answers(run, since)["answers"]]

    def metrics(self) -> dict[str, float]:
        counters = self.watch.counters()
        assert counters is not None
        found = {}
        for family in families(counters):
            for sample in family.samples:
                found["".join([sample.name, *sample.labels.values()])] = sample.value
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def test_what_is_new_is_obeyed_once_in_order(box: Box) -> None:
    await box.put(order(2), order(1))
    await box.put(order(2), order(1), order(3))
    await box.watch.look()
    assert box.got == [2, 1, 3]
    assert box.told() == [("02", "NO_ERROR"), ("01", "NO_ERROR"), ("03", "NO_ERROR")]
    await box.put(order(3))
    assert box.got == [2, 1, 3]


async def test_a_daemon_that_is_started_again_obeys_all_that_stands_there_at_once(box: Box) -> None:
    many = [order(number) for number in range(fleet.AT_ONCE + 9)]
    await box.put(*many)
    assert len(box.got) == fleet.AT_ONCE  # of one look
    await box.watch.look()
    assert len(box.got) == len(many)
    box.got.clear()
    box.watch = box.started()
    await box.watch.begin()
    assert box.got == list(range(len(many)))


async def test_without_a_file_nothing_is_done_and_nothing_told(box: Box) -> None:
    await box.watch.look()
    box.config = replace(box.config, commands="")
    await box.watch.look()
    assert box.watch.counters() is None
    assert box.watch.doubt() == ""
    assert box.got == []


async def test_what_is_no_file_of_commands_is_counted_once_and_leaves_all_as_it_was(box: Box) -> None:
    await box.put(order(1))
    for raw in (b"junk", b"junk and more"):
        await box.put(raw=raw)
    await box.put(raw=dispatch.HEAD + b"junk\n" + order(2).line)
    assert box.got == [1, 2]
    assert box.metrics()["relay_fleet_unreadable_total"] == 2


async def test_an_issuer_over_its_rate_waits_in_order_and_holds_up_nobody_else(box: Box) -> None:
    box.says = {1: ErrorCode.RATE_LIMITED}
    await box.put(order(1), order(2), order(3, seed=1))
    assert box.got == [1, 3]
    assert box.metrics()["relay_fleet_waiting"] == 2
    box.says = {}
    await box.watch.look()
    assert box.got == [1, 3, 1, 2]
    assert box.told() == [("03", "NO_ERROR"), ("01", "NO_ERROR"), ("02", "NO_ERROR")]


async def test_answers_are_told_from_where_somebody_heard_last_and_anew_by_another_process(box: Box) -> None:
    box.says = {1: ErrorCode.CALL_NOT_FOUND, 2: ErrorCode.TOKEN_INVALID}
    await box.put(order(1, NOW), order(2, NOW + 0.3))
    page = box.watch.answers("", 0)
    assert page["answers"] == [
        {"n": 1, "id": f"{1:032x}", "code": "CALL_NOT_FOUND", "age_ms": 300},
        {"n": 2, "id": f"{2:032x}", "code": "TOKEN_INVALID", "age_ms": 0},
    ]
    assert box.told(page["run"], 1) == [("02", "TOKEN_INVALID")]
    assert box.told(page["run"], 2) == []
    assert len(box.told("another", 2)) == 2
    assert box.started().answers("", 0)["run"] != page["run"]


async def test_outcomes_and_ages_are_counted_and_what_was_obeyed_before_a_restart_has_none(box: Box) -> None:
    box.says = {2: ErrorCode.NOT_IN_CALL, 3: ErrorCode.OVERLOADED}
    box.wall = NOW + 10.4
    await box.put(order(1, NOW + 10), order(2), order(3), order(4, NOW))
    found = box.metrics()
    assert [found[f"relay_fleet_commands_total{each.value}"] for each in fleet.Outcome] == [2, 1, 1]
    assert found["relay_fleet_command_age_seconds_count"] == 1, "the other is older than this process"
    assert (found["relay_fleet_command_age_seconds_bucket0.5"], found["relay_fleet_held"]) == (1, 7)
    box.watch = box.started()
    await box.watch.begin()
    assert box.metrics()["relay_fleet_command_age_seconds_count"] == 0


async def test_a_way_that_nobody_vouches_for_is_told(box: Box) -> None:
    box.wall += 61
    assert "61 s" in box.watch.doubt(), "there never was a file"
    await box.put()
    os.utime(box.path, (box.wall, box.wall))
    await box.watch.look()
    assert box.watch.doubt() == ""
    box.wall += 61
    assert "61 s" in box.watch.doubt()


async def test_a_bug_met_by_one_command_is_an_answer_and_costs_no_other(box: Box) -> None:
    def dumb(raw: bytes, done: Any) -> None:
        """The engine met a bug of ours: nobody is called."""

    box.watch = FleetWatch(lambda: box.config, dumb, lambda: 0, lambda: box.wall)
    await box.put(order(1), order(2))
    assert [code for _, code in box.told()] == ["INTERNAL", "INTERNAL"]
