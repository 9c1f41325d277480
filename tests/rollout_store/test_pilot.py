"""A region that goes through its steps by itself: to the end, or back. Store, gate and HTTP are real."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.protocol.signed import public_of
from relay.rollout.counts import Ledger
from relay.rollout.course import Helm
from relay.rollout.gate import Verdict, Why
from relay.rollout.inquiry import Look, Source, look
from relay.rollout.keys import BUCKET, STATE
from relay.rollout.lastgood import Offer, accepted
from relay.rollout.pilot import Pace, Pilot
from relay.rollout.plan import parse_plan
from relay.rollout.publish import Signer, is_published, published
from relay.rollout.steps import Change, Order, Phase, Spot
from relay.rollout.store import UnreachableError
from relay.rollout.store_sqlite import SqliteStore
from rollout_store.traffic import Clock, Node, Traffic, ruled

ID = "relay-0.4"
PLAN = parse_plan(
    """
[rollout]
id = "relay-0.4"
salt = "s1"
candidate = "0.4.0"
control = "0.3.2"
[[rollout.wave]]
regions = ["eu-1"]
steps = [1, 25, 100]
bake = "1h"
[[rollout.wave]]
regions = ["eu-2"]
steps = [100]
bake = "1h"
[[rollout.guardrail]]
name = "setup_fail"
[[rollout.guardrail]]
name = "poor_call"
""",
    "plan.toml",
)
SEED = bytes(32)
KEYS = accepted([public_of(SEED)])
SIGNER = Signer(SEED, KEYS)
EVERY_S = 600.0
DAY_S = 86_400.0


class Region:
    """eu-1 with its plan begun, and who looks after it."""

    def __init__(self, helm: Helm, clock: Clock) -> None:
        self.helm, self.clock = helm, clock
        self.traffic = Traffic(clock)
        self.events: list[dict[str, Any]] = []

    async def begin(self) -> None:
        state = ruled(self.clock.now, "eu-1", "eu-2")
        await self.helm.store.put(BUCKET, STATE, state, expect=0, who="kim", why="rules")
        await self.helm.begin(PLAN, "kim", "the first region", {"eu-1": 0.08, "eu-2": 0.2})

    def pilot(self, *, signer: Signer | None = SIGNER, source: Source | None = None, why: str = "") -> Pilot:
        source = source or Source(report=self.traffic.report)
        return Pilot(
            self.helm,
            ID,
            "eu-1",
            source,
            "timer",
            signer,
            lambda event, _: self.events.append(event),
            why,
            self.clock.sleep,
        )

    async def fly(self, timeout_s: float | None = DAY_S, **more: Any) -> int:
        return await self.pilot(**more).fly(Pace(EVERY_S, timeout_s=timeout_s))

    async def order(self, change: Change) -> None:
        await self.helm.change(ID, lambda at: Order(change, "anna", "a final", at.revision, "eu-1"))

    async def share(self) -> float:
        """What boxes know."""
        body = await published(self.helm, KEYS)
        assert body is not None
        assert body.rollout is not None
        return body.rollout.regions["eu-1"]

    async def offered(self) -> Offer | None:
        """What the signed state offers."""
        body = await published(self.helm, KEYS)
        return None if body is None else body.rollout

    async def put(self, state: bytes) -> None:
        """Into the place of the signed state."""
        standing = await self.helm.store.get(BUCKET, STATE)
        expect = 0 if standing is None else standing.revision
        await self.helm.store.put(BUCKET, STATE, state, expect=expect, who="a", why="b")

    def told(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def whys(self) -> set[str]:
        return {each["reason"] for each in self.told("look")[-1]["reasons"]}


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    clock = Clock()
    store = SqliteStore(tmp_path / "state.sqlite", wall=clock)
    found = Region(Helm(store, clock), clock)
    await found.begin()
    yield found
    await store.close()


async def test_a_candidate_that_is_as_good_goes_through_all_steps_and_each_is_signed(region: Region) -> None:
    assert await region.fly() == 0
    assert [each["pct"] for each in region.told("advance")] == [25, 95, 100]
    assert [each["rev"] for each in region.told("published")] == [2, 3, 4, 5]
    assert region.events[-1]["event"] == "end"
    assert await region.share() == 100
    course = await region.helm.course(ID)
    assert (course.standing.phase, course.standing.wave) == (Phase.WAITING, 1)
    rows = await region.helm.history(ID)
    assert [(row["change"], row["who"]) for row in rows[1:]] == [("advance", "timer")] * 3
    lasted = [later["at"] - sooner["at"] for sooner, later in itertools.pairwise(rows)]
    assert all(3600 <= seconds <= 3600 + 2 * EVERY_S for seconds in lasted)
    assert await region.fly() == 0  # again: it is through
    assert len(await region.helm.history(ID)) == 4


async def test_a_candidate_that_fails_to_set_calls_up_takes_itself_back(region: Region) -> None:
    region.traffic.fails = 0.06
    assert await region.fly() == 20
    assert (await region.helm.course(ID)).standing.phase is Phase.HALTED
    assert await region.share() == 0
    [row] = [row for row in await region.helm.history(ID) if row["change"] == "rollback"]
    assert (row["who"], row["pct"]) == ("timer", 0)
    assert "setup_fail" in row["why"]
    assert row["at"] - region.traffic.began < 3600  # it did not wait for the end of its time
    assert await region.fly() == 20  # again: it is back


async def test_one_that_becomes_bad_at_a_later_step_is_taken_back_from_there(region: Region) -> None:
    assert await region.fly(timeout_s=4000) == 10
    assert await region.share() == 25
    region.traffic.fails = 0.1
    assert await region.fly() == 20
    assert await region.share() == 0


async def test_with_too_little_traffic_it_holds_until_its_time_is_over(region: Region) -> None:
    region.traffic.per_s = 0.001
    began = region.clock.now
    assert await region.fly(timeout_s=10 * 3600) == 10
    assert region.clock.now - began <= 10 * 3600
    assert await region.share() == 1
    assert {"few", "unproven"} <= region.whys()
    assert {each["verdict"] for each in region.told("look")} == {"hold"}


async def test_without_counts_it_waits_and_says_so(region: Region) -> None:
    assert await region.fly(timeout_s=3600, source=Source()) == 30
    assert region.whys() >= {"no_counts"}


async def test_a_freeze_stops_every_advance_until_it_is_over(region: Region) -> None:
    until = region.clock.now + 5 * 3600
    await region.helm.change(
        ID, lambda at: Order(Change.FREEZE, "anna", "a final", at.revision), frozen_until=until
    )
    assert await region.fly(timeout_s=4 * 3600) == 10
    assert region.whys() == {"window"}
    assert await region.share() == 1
    assert await region.fly() == 0
    assert region.clock.now > until


async def test_a_freeze_never_stops_a_rollback(region: Region) -> None:
    await region.order(Change.FREEZE)
    region.traffic.fails = 0.06
    assert await region.fly() == 20
    assert await region.share() == 0


async def test_a_bad_region_holds_though_the_candidate_is_as_good(region: Region) -> None:
    region.traffic.health = "bad"
    assert await region.fly(timeout_s=2 * 3600) == 10
    assert region.whys() == {"region_bad"}


async def test_a_kill_takes_the_region_back(region: Region) -> None:
    assert await region.fly(timeout_s=3 * EVERY_S) == 10
    await region.helm.kill(ID, is_off=False, who="anna", why="calls break")
    assert await region.fly() == 20
    assert "killed" in region.whys()
    assert (await region.helm.course(ID)).standing.places["eu-1"].spot is Spot.OUT


async def test_a_dry_run_says_what_it_would_do_and_changes_nothing(region: Region) -> None:
    assert await region.fly(signer=None) == 0
    assert [each["text"] for each in region.told("would")] == ["advance"]
    assert (await region.helm.course(ID)).standing.revision == 1
    assert await region.offered() is None
    region.traffic.fails = 0.2
    region.clock.now += EVERY_S
    assert await region.fly(signer=None) == 20
    assert (await region.helm.course(ID)).standing.revision == 1


async def test_one_look_does_at_most_one_thing(region: Region) -> None:
    once = Pace(EVERY_S, is_waiting=False)
    assert await region.pilot().fly(once) == 10
    assert await region.share() == 1
    region.clock.now += 3600
    assert await region.pilot(why="the timer of eu-1").fly(once) == 0
    assert await region.share() == 25
    assert (await region.helm.history(ID))[-1]["why"] == "the timer of eu-1: as good as the control"
    assert await region.pilot().fly(once) == 10


async def test_what_was_cut_off_before_it_was_signed_is_signed_at_the_next_look(region: Region) -> None:
    assert await region.fly(timeout_s=2 * EVERY_S) == 10
    await region.order(Change.ROLLBACK)  # and its key was not at hand
    assert not await is_published(region.helm, ID, KEYS)
    assert await region.fly() == 20
    assert await region.share() == 0


async def test_what_cannot_be_signed_is_not_widened_and_taken_back_by_a_kill(region: Region) -> None:
    await region.put(b"spoilt")
    assert await region.fly(timeout_s=3 * 3600) == 10
    assert region.told("look")[-1]["verdict"] == "promote"
    assert "does not count" in region.told("unsigned")[-1]["text"]
    assert (await region.helm.course(ID)).standing.revision == 1
    region.traffic.fails = 0.06
    region.clock.now += EVERY_S
    assert await region.fly() == 20
    assert await region.helm.is_killed(ID)
    assert len(region.told("killed")) == 1


async def test_a_region_that_lost_its_rules_is_not_widened_and_is_taken_back_all_the_same(
    region: Region,
) -> None:
    await region.put(ruled(region.clock.now, "eu-2"))
    assert await region.fly(timeout_s=3 * 3600) == 10
    assert {each["refusal"] for each in region.told("refused")} == {"rules"}
    assert "eu-1 has no rules" in region.told("refused")[-1]["text"]
    assert await region.share() == 1
    region.traffic.fails = 0.06
    assert await region.fly() == 20
    assert await region.share() == 0


async def test_what_may_not_be_is_told_and_waited_for(region: Region) -> None:
    plan = parse_plan(
        "\n".join(
            (
                '[rollout]\nid = "quick"\nsalt = "s1"\nkind = "open"\n[rollout.caps]\nevery = "2h"',
                '[[rollout.wave]]\nregions = ["eu-1"]\nsteps = [10, 100]\nbake = "30m"',
                '[[rollout.guardrail]]\nname = "setup_fail"\n[[rollout.guardrail]]\nname = "poor_call"',
            )
        ),
        "plan.toml",
    )
    await region.order(Change.ROLLBACK)
    await region.helm.begin(plan, "kim", "because", {"eu-1": 0.05})
    pilot = region.pilot()
    pilot = Pilot(region.helm, "quick", *pilot_rest(pilot))
    region.traffic.began = region.clock.now
    region.traffic.per_s = 5.0
    assert await pilot.fly(Pace(EVERY_S, timeout_s=DAY_S)) == 0
    assert {each["refusal"] for each in region.told("refused")} == {"too_soon"}


def pilot_rest(pilot: Pilot) -> tuple[Any, ...]:
    """All but its store and rollout."""
    return pilot.place, pilot.source, pilot.who, pilot.signer, pilot.tell, pilot.why, pilot.sleep


async def test_a_store_that_is_away_for_a_while_is_waited_for(region: Region, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    away = path.with_suffix(".away")

    async def sleep(seconds: float) -> None:
        region.clock.now += seconds
        if away.exists():
            path.rmdir()
            away.rename(path)
        elif region.clock.now - region.traffic.began == 2 * EVERY_S:
            path.rename(away)
            path.mkdir()  # what is there is no database

    pilot = Pilot(region.helm, ID, *pilot_rest(region.pilot())[:-1], sleep)
    assert await pilot.fly(Pace(EVERY_S, timeout_s=4 * EVERY_S)) == 10
    assert len(region.told("unreachable")) == 1
    assert len(region.told("look")) > 2
    path.rename(away)
    path.mkdir()
    with pytest.raises(UnreachableError):
        await pilot.fly(Pace(EVERY_S, is_waiting=False))
    path.rmdir()
    away.rename(path)


# ---------------------------------------------------------------- by real scrapes


async def ask(region: Region, *urls: str) -> Look:
    return await look(region.helm, ID, "eu-1", Source(tuple(urls)), "timer")


async def test_what_nodes_serve_is_counted_and_judged(region: Region) -> None:
    one, other = Node(started=1.0), Node(started=region.clock.now + 1)
    one.carry("control", 5000, setup_fail=25)  # before the rollout came
    with one.serving() as a, other.serving() as b:
        first = await ask(region, a, b)
        assert first.answer.verdict is Verdict.HOLD
        assert first.facts()["nodes"][0]["state_rev"] == 7
        one.carry("candidate", 10, poor_call=1)
        one.carry("control", 990, poor_call=50)
        other.carry("candidate", 20)
        other.carry("control", 1980, late=100)
        region.clock.now += 60
        rows = {row["name"]: row for row in (await ask(region, a, b)).facts()["guardrails"]}
        assert (rows["poor_call"]["kt"], rows["poor_call"]["nt"]) == (1, 30)
        assert (rows["poor_call"]["kc"], rows["poor_call"]["nc"]) == (50, 2970)
        one.carry("candidate", 200, setup_fail=40)
        region.clock.now += 60
        worse = await ask(region, a, b)
        assert (worse.answer.verdict, worse.answer.reasons[0].why) == (Verdict.ROLLBACK, Why.BREACH)
        assert (await look(region.helm, ID, "eu-1", Source(), "anna")).answer.verdict is Verdict.ROLLBACK


async def test_a_node_that_falls_silent_makes_the_counts_old(region: Region) -> None:
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(Node().serving()) for _ in range(2))
        await ask(region, a, b)
        region.clock.now += 60
        assert (await ask(region, a, b)).answer.verdict is Verdict.HOLD
        nobody = "http://127.0.0.1:1/metrics"
        silent = await ask(region, a, nobody)
        assert [problem.startswith(nobody) for problem in silent.problems] == [True]
        region.clock.now += 91
        found = await ask(region, a, nobody)
        assert (found.answer.verdict, found.answer.reasons[0].why) == (Verdict.NO_DATA, Why.OLD_COUNTS)
        assert (await ask(region, a, b)).answer.verdict is Verdict.HOLD


async def test_calls_that_went_elsewhere_than_ordered_are_no_data(region: Region) -> None:
    node = Node()
    with node.serving() as url:
        await ask(region, url)
        node.carry("candidate", 1000, setup_fail=5, poor_call=50)
        node.carry("control", 9000, setup_fail=45, poor_call=450)
        region.clock.now += 60
        found = await ask(region, url)
    assert (found.answer.verdict, found.answer.reasons[0].why) == (Verdict.NO_DATA, Why.SAMPLE_RATIO)


async def test_two_who_count_at_once_count_once(region: Region) -> None:
    node = Node()
    with node.serving() as url:
        await ask(region, url)
        node.carry("candidate", 30)
        region.clock.now += 60
        looks = await asyncio.gather(*(ask(region, url) for _ in range(4)))
    assert {each.answer.facts()["guardrails"][0]["nt"] for each in looks} == {30}


class Interrupted(Helm):
    """Somebody counts another node just after this one has read what was counted."""

    other = ""

    async def ledger(self, id: str, place: str) -> tuple[Ledger | None, int]:
        found = await super().ledger(id, place)
        if self.other:
            other, self.other = self.other, ""
            await look(Helm(self.store, self.wall), id, place, Source((other,)), "anna")
        return found


async def test_what_somebody_else_counted_meanwhile_is_not_undone(region: Region) -> None:
    with Node().serving() as a, Node().serving() as b:
        helm = Interrupted(region.helm.store, region.clock)
        helm.other = b
        await look(helm, ID, "eu-1", Source((a,)), "timer")
        ledger, _ = await region.helm.ledger(ID, "eu-1")
    assert ledger is not None
    assert set(ledger.nodes) == {a, b}


async def test_a_prometheus_that_does_not_tell_holds_a_step(region: Region) -> None:
    with Node().serving() as url:
        source = Source((url,), alerts="http://127.0.0.1:1")
        found = await look(region.helm, ID, "eu-1", source, "timer")
    assert Why.OPEN_PAGE in {each.why for each in found.answer.reasons}
