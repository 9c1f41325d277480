"""Days before a rollout, end to end: nodes over HTTP, a store, the gate's look; the clock is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.rollout.collect import collect
from relay.rollout.course import Helm
from relay.rollout.inquiry import Look, Source, look
from relay.rollout.keys import BUCKET, days_key, killed_id
from relay.rollout.plan import Document, parse_plan
from relay.rollout.prior import GAP_S
from relay.rollout.readings import Reading
from relay.rollout.scrape import scrape
from relay.rollout.store_sqlite import SqliteStore
from rollout.plans import opening
from rollout_store.traffic import Clock, Node

PLAN = parse_plan(
    """
[rollout]
id = "relay-0.4"
salt = "s1"
candidate = "0.5.0"
control = "0.4.0"
caps = { early = 100 }
[[rollout.wave]]
regions = ["eu-1"]
steps = [100]
bake = "1h"
[[rollout.guardrail]]
name = "setup_fail"
""",
    "plan.toml",
)
HOUR = 3_600.0


class Desk:
    """A store, a clock, and a node of eu-1 that is asked over HTTP."""

    def __init__(self, helm: Helm, clock: Clock, node: Node, url: str) -> None:
        self.helm, self.clock, self.node, self.url = helm, clock, node, url

    async def collect(self) -> list[Reading]:
        readings, problems = await scrape([self.url], self.clock)
        assert problems == []
        await collect(self.helm, readings, "timer")
        return readings

    async def day(self, calls: int, fails: int) -> None:
        """24 hours in which so many calls come each hour, asked at each of its quarters."""
        for _ in range(24 * 4):
            await self.collect()
            self.clock.now += GAP_S
            self.node.carry("control", calls // 4, setup_fail=fails // 4)

    async def begin(self, plan: Document = PLAN) -> None:
        await self.helm.begin(plan, "kim", "first", {"eu-1": 0.1, "@dogfood": 0.01})

    async def look(self, **more: object) -> Look:
        source = Source((self.url,), **more)  # type: ignore[arg-type]  # settings by name
        return await look(self.helm, PLAN.rollout.id, "eu-1", source, "kim")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    store = SqliteStore(tmp_path / "state.sqlite", wall=clock)
    node = Node()
    with ExitStack() as stack:
        url = stack.enter_context(node.serving())
        yield Desk(Helm(store, clock), clock, node, url)
    await store.close()


async def test_a_day_that_was_collected_stands_for_control_when_a_rollout_comes(desk: Desk) -> None:
    await desk.day(400, 4)
    await desk.begin()
    began = desk.clock.now
    await desk.look()  # the zero of the node
    desk.clock.now += HOUR
    desk.node.carry("candidate", 950, setup_fail=5)
    desk.node.carry("control", 50)
    found = await desk.look()
    facts = found.facts()
    assert facts["prior"]["from"] == "nodes"
    assert facts["prior"]["days"] == 1
    assert facts["prior"]["hours"] == sorted({int(at // HOUR) % 24 for at in (began, desk.clock.now)})
    assert facts["prior"]["calls"] == 700  # of the first hour three quarters were asked for
    assert (facts["prior"]["why"], facts["prior"]["drift"]) == ("", [])
    [row] = facts["guardrails"]
    assert (row["np"], row["kp"], row["nc"], row["prior"]) == (700, 7, 750, "used")


async def test_calls_since_the_rollout_came_are_no_days_before_however_often_it_is_asked(desk: Desk) -> None:
    await desk.day(400, 4)
    await desk.begin()
    for _ in range(8):
        await desk.look()
        desk.clock.now += GAP_S
        desk.node.carry("control", 1000, setup_fail=10)
    found = await desk.look()
    assert found.facts()["prior"]["calls"] == 300 + 400 + 400
    ledger, _ = await desk.helm.ledger(PLAN.rollout.id, "eu-1")
    assert ledger is not None
    assert ledger.earlier is not None
    assert ledger.earlier.days == 1
    days, _ = await desk.helm.days("eu-1")
    assert max(each.counts["setup_fail"][1] for each in days.slots) == 4000  # for the next rollout


async def test_without_any_it_is_said_why(desk: Desk) -> None:
    await desk.begin()
    told = (await desk.look()).facts()["prior"]
    assert (told["from"], told["calls"]) == ("none", 0)
    assert "relay rollout collect" in told["why"]
    told = (await desk.look(prior={"setup_fail": (95, 20_000)})).facts()["prior"]
    assert (told["from"], told["calls"], told["why"]) == ("file", 20_000, "")


async def test_days_of_another_version_are_named_and_not_used(desk: Desk) -> None:
    await desk.day(400, 4)
    plan = parse_plan(_other(), "plan.toml")
    await desk.begin(plan)
    told = (await desk.look()).facts()["prior"]
    assert (told["from"], told["why"]) == (
        "none",
        "calls of the days before were of 0.4.0, none of 0.3.9",
    )


def _other() -> str:
    rails = '[[rollout.guardrail]]\nname = "setup_fail"\n'
    wave = '[[rollout.wave]]\nregions = ["eu-1"]\nsteps = [100]\nbake = "1h"\n'
    head = '[rollout]\nid = "relay-0.4"\nsalt = "s1"\ncandidate = "0.5.0"\ncontrol = "0.3.9"\n'
    return f"{head}caps = {{ early = 100 }}\n{wave}{rails}"


async def test_where_there_is_no_control_none_are_taken(desk: Desk) -> None:
    await desk.day(400, 4)
    await desk.begin(opening())
    found = await look(desk.helm, "open", "@dogfood", Source((desk.url,)), "kim")
    assert found.facts()["prior"]["why"] == "there is no control that they could stand for"
    ledger, _ = await desk.helm.ledger("open", "@dogfood")
    assert ledger is not None
    assert (ledger.earlier, ledger.memory.last.prior) == (None, {})


async def test_two_who_collect_at_once_count_once(desk: Desk) -> None:
    await desk.collect()
    desk.clock.now += 60
    desk.node.carry("control", 40)
    readings, _ = await scrape([desk.url], desk.clock)
    both = await asyncio.gather(*(collect(desk.helm, readings, who) for who in ("kim", "anna")))
    assert both[0] == both[1]
    days, _ = await desk.helm.days("eu-1")
    assert [each.counts["setup_fail"] for each in days.slots] == [(0, 40)]


async def test_no_rollout_and_no_kill_can_be_where_the_days_are_and_a_region_without_a_name_is_nowhere(
    desk: Desk,
) -> None:
    await desk.collect()
    assert await desk.helm.ids() == []
    assert killed_id(days_key("kill")) is None
    assert [key for key in await desk.helm.store.keys(BUCKET) if key.startswith("_prior")] == [
        "_prior/eu-1/days"
    ]
    nameless = Reading("http://n", desk.clock.now, 0.0, "")
    odd = Reading("http://o", desk.clock.now, 0.0, "a b")
    assert await collect(desk.helm, [nameless, odd], "kim") == {}
