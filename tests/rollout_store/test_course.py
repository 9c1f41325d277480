"""A rollout in its store: changes by compare-and-set, who and why, freezes that end, what is signed of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.protocol.signed import public_of
from relay.rollout.course import ChangeRefusedError, Course, Helm, UnknownRolloutError
from relay.rollout.gate import Answer, Around, Stage, Verdict
from relay.rollout.keys import BUCKET, STATE
from relay.rollout.lastgood import LIFE_S, Body, Offer, accepted, seal
from relay.rollout.plan import Document, parse_plan
from relay.rollout.publish import Signer, check_offer, is_published, publish, published
from relay.rollout.steps import Change, Order, Phase, Refusal, Spot, Standing
from relay.rollout.store import StateStore, StoreError
from relay.rollout.store_sqlite import SqliteStore
from rollout.plans import RELEASE, opening, release
from rollout_store.servers import Server, needs_nats
from rollout_store.traffic import Clock

ID = "relay-0.4"
PLAN = release()
TRAFFIC = {"eu-1": 0.08}
SEED = bytes(32)
KEYS = accepted([public_of(SEED)])
SIGNER = Signer(SEED, KEYS)
KINDS = ["sqlite", pytest.param("nats", marks=needs_nats)]


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path, clock: Clock) -> AsyncIterator[tuple[StateStore, StateStore]]:
    """Two connections to one store."""
    if kind == "sqlite":
        stores: list[StateStore] = [SqliteStore(folder / "state.sqlite", wall=clock) for _ in range(2)]
        yield stores[0], stores[1]
        for store in stores:
            await store.close()
        return
    server = Server(folder, "hub")
    await server.start()
    try:
        found = [await server.store(wall=clock) for _ in range(2)]  # type: ignore[arg-type]
        await found[0].make_hub()
        yield found[0], found[1]
        for each in found:
            await each.close()
    finally:
        await server.end()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
async def helms(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[tuple[Helm, Helm]]:
    async with opened(request.param, tmp_path, clock) as (one, other):
        yield Helm(one, clock), Helm(other, clock)


@pytest.fixture
async def helm(tmp_path: Path, clock: Clock) -> AsyncIterator[Helm]:
    async with opened("sqlite", tmp_path, clock) as (one, _):
        yield Helm(one, clock)


def order(change: Change, standing: Standing, place: str = "", who: str = "kim", **more: object) -> Order:
    return Order(change, who, "because", standing.revision, place, **more)  # type: ignore[arg-type]


def promote(course: Course, clock: Clock) -> Answer:
    stage = course.stage("eu-1")
    return Answer(Verdict.PROMOTE, (), stage, None, 0.0, None, (), 0.0, 0.0, Around(clock.now))


async def begun(helm: Helm, plan: Document = PLAN) -> Course:
    return await helm.begin(plan, "kim", "the first region", TRAFFIC)


async def refusal(helm: Helm, change: Change, expect: int | None = None) -> Refusal:
    def make(standing: Standing) -> Order:
        return Order(change, "kim", "because", standing.revision if expect is None else expect, "eu-1")

    with pytest.raises(ChangeRefusedError) as error:
        await helm.change(ID, make)
    return error.value.refusal


async def test_what_begins_stands_for_all_who_look_with_who_and_why(
    helms: tuple[Helm, Helm], clock: Clock
) -> None:
    one, other = helms
    assert await one.ids() == []
    with pytest.raises(UnknownRolloutError):
        await one.course(ID)
    await begun(one)
    found = await other.course(ID)
    assert (found.plan, found.standing.phase, found.standing.revision) == (PLAN, Phase.RUNNING, 1)
    assert found.stage("eu-1") == Stage("eu-1", 0, 0, clock.now)
    assert await other.ids() == [ID]
    [row] = await other.history(ID)
    assert (row["who"], row["why"], row["revision"], row["at"]) == ("kim", "the first region", 1, clock.now)


async def test_of_two_who_advance_at_once_one_is_told_that_the_other_has(
    helms: tuple[Helm, Helm], clock: Clock
) -> None:
    course = await begun(helms[0])
    clock.now += 3600
    answer = promote(course, clock)
    expect = course.standing

    async def advance(helm: Helm, who: str) -> Course:
        wanted = order(Change.ADVANCE, expect, "eu-1", who, answer=answer)
        return await helm.change(ID, lambda _: wanted)

    results = await asyncio.gather(
        *(advance(helm, who) for helm, who in zip(helms, ("anna", "ben"), strict=True)),
        return_exceptions=True,
    )
    [refused] = [each for each in results if isinstance(each, ChangeRefusedError)]
    [done] = [each for each in results if isinstance(each, Course)]
    assert refused.refusal is Refusal.CONFLICT
    assert (done.standing.places["eu-1"].step, done.standing.revision) == (1, 2)
    assert (await helms[0].course(ID)).standing == done.standing
    assert len(await helms[0].history(ID)) == 2


async def test_a_rollback_goes_through_whoever_writes_at_the_same_time(helms: tuple[Helm, Helm]) -> None:
    await begun(helms[0])
    one, other = helms

    async def many(helm: Helm) -> None:
        for change in (Change.FREEZE, Change.THAW) * 3:
            with contextlib.suppress(ChangeRefusedError):
                await helm.change(ID, lambda standing, change=change: order(change, standing))

    _, back = await asyncio.gather(
        many(one), other.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
    )
    assert back.standing.places["eu-1"].spot is Spot.OUT
    assert (await one.course(ID)).standing.phase is Phase.HALTED


async def test_whoever_looked_at_an_older_revision_is_refused_unless_it_narrows(helm: Helm) -> None:
    await begun(helm)
    await helm.change(ID, lambda standing: order(Change.FREEZE, standing))
    assert await refusal(helm, Change.THAW, expect=1) is Refusal.CONFLICT
    await helm.change(ID, lambda _: Order(Change.ROLLBACK, "kim", "because", 1, "eu-1"))
    assert (await helm.course(ID)).standing.phase is Phase.HALTED


async def test_a_plan_never_changes_and_begins_once(helm: Helm) -> None:
    await begun(helm)
    other = parse_plan(RELEASE.replace("delta = 0.02", "delta = 0.03"), "plan.toml")
    with pytest.raises(ConfigError) as error:
        await begun(helm, other)
    assert error.value.key == "rollout.id"
    with pytest.raises(ChangeRefusedError) as refused:
        await begun(helm)
    assert refused.value.refusal is Refusal.PHASE
    assert (await helm.course(ID)).plan == PLAN


async def test_without_a_word_on_the_traffic_nothing_begins_and_nothing_is_stored(helm: Helm) -> None:
    with pytest.raises(ChangeRefusedError) as error:
        await helm.begin(PLAN, "kim", "because", {})
    assert error.value.refusal is Refusal.UNKNOWN_TRAFFIC
    assert await helm.ids() == []
    course = await begun(helm)
    assert course.record.traffic == TRAFFIC
    frozen = await helm.change(ID, lambda standing: order(Change.FREEZE, standing), traffic={"us-1": 0.3})
    assert frozen.record.traffic == TRAFFIC | {"us-1": 0.3}


async def test_a_freeze_with_an_end_is_lifted_by_the_next_change_after_it(helm: Helm, clock: Clock) -> None:
    await begun(helm)
    until = clock.now + 7200
    frozen = await helm.change(ID, lambda standing: order(Change.FREEZE, standing), frozen_until=until)
    clock.now += 3600
    assert frozen.window(clock.now) == "kim: because"
    wanted = order(Change.ADVANCE, frozen.standing, "eu-1", answer=promote(frozen, clock))
    with pytest.raises(ChangeRefusedError) as error:
        await helm.change(ID, lambda _: wanted)
    assert error.value.refusal is Refusal.PHASE
    clock.now = until
    assert frozen.window(clock.now) == ""
    wanted = order(Change.ADVANCE, frozen.standing, "eu-1", answer=promote(frozen, clock))
    found = await helm.change(ID, lambda _: wanted)
    assert (found.standing.phase, found.standing.places["eu-1"].step) == (Phase.RUNNING, 1)
    rows = await helm.history(ID)
    assert [row["change"] for row in rows] == ["begin", "freeze", "thaw", "advance"]
    assert rows[2]["who"] == "kim"


async def test_a_freeze_without_an_end_stays_until_somebody_thaws_it(helm: Helm, clock: Clock) -> None:
    await begun(helm)
    await helm.change(ID, lambda standing: order(Change.FREEZE, standing))
    assert (await helm.course(ID)).window(clock.now + 1e9) == "kim: because"
    thawed = await helm.change(ID, lambda standing: order(Change.THAW, standing))
    assert thawed.window(clock.now) == ""


async def test_another_rollout_begins_only_when_the_first_is_over(helm: Helm) -> None:
    await begun(helm)
    second = parse_plan(RELEASE.replace('"relay-0.4"', '"relay-0.5"'), "plan.toml")
    with pytest.raises(ChangeRefusedError) as error:
        await begun(helm, second)
    assert (error.value.refusal, "relay-0.4" in str(error.value)) == (Refusal.RIVAL, True)
    assert await helm.rivals("relay-0.5") == {"eu-1": "relay-0.4"}
    await helm.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
    assert await helm.rivals("relay-0.5") == {}
    assert (await begun(helm, second)).standing.phase is Phase.RUNNING


async def test_a_killed_rollout_does_not_begin_and_a_kill_is_history(
    helms: tuple[Helm, Helm], clock: Clock
) -> None:
    helm, other = helms
    await helm.kill(ID, is_off=False, who="anna", why="calls break")
    assert await other.is_killed(ID)
    with pytest.raises(ChangeRefusedError) as error:
        await begun(helm)
    assert error.value.refusal is Refusal.PHASE
    clock.now += 1
    await other.kill(ID, is_off=True, who="ben", why="mended")
    clock.now += 1
    assert not await helm.is_killed(ID)
    await begun(helm)
    changes = [(row["change"], row["who"], row["why"]) for row in await helm.history(ID)]
    assert changes == [
        ("kill_on", "anna", "calls break"),
        ("kill_off", "ben", "mended"),
        ("begin", "kim", "the first region"),
    ]
    assert [row["change"] for row in await helm.history(ID, 1)] == ["begin"]


async def test_a_region_that_has_not_begun_or_is_through_has_no_step(helm: Helm) -> None:
    course = await begun(helm)
    with pytest.raises(ConfigError, match="not begun"):
        course.stage("us-1")
    course = await helm.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
    with pytest.raises(ConfigError, match="eu-1 is out"):
        course.stage("eu-1")


async def test_what_stands_there_and_is_no_rollout_is_told_by_its_key(helm: Helm) -> None:
    await begun(helm)
    stored = await helm.store.get(BUCKET, f"{ID}/standing")
    assert stored is not None
    await helm.store.put(BUCKET, f"{ID}/standing", b"{}", expect=stored.revision, who="a", why="b")
    with pytest.raises(StoreError, match=f"{ID}/standing, revision"):
        await helm.course(ID)


# ---------------------------------------------------------------- what is signed


async def offer(helm: Helm) -> Offer:
    body = await published(helm, KEYS)
    assert body is not None
    assert body.rollout is not None
    return body.rollout


async def test_what_is_signed_is_what_the_steps_give(helms: tuple[Helm, Helm], clock: Clock) -> None:
    helm, other = helms
    await begun(helm)
    assert not await is_published(helm, ID, KEYS)
    body = await publish(helm, ID, SIGNER, "kim")
    assert (body.rev, body.issued_at, body.not_after) == (1, int(clock.now), int(clock.now) + LIFE_S)
    assert await is_published(other, ID, KEYS)
    assert await offer(other) == Offer(ID, "s1", ("dogfood",), ("emergency",), {}, {"eu-1": 1.0})
    stored = await other.store.get(BUCKET, STATE)
    assert stored is not None
    assert (stored.who, stored.why) == ("kim", f"{ID}, revision 1")
    await helm.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
    assert not await is_published(helm, ID, KEYS)
    assert (await publish(helm, ID, SIGNER, "kim", "back")).rev == 2
    assert (await offer(other)).regions == {"eu-1": 0.0}
    await helm.change(ID, lambda standing: order(Change.KILL, standing))
    await publish(helm, ID, SIGNER, "kim")
    assert await offer(other) == Offer(ID, "s1")  # not even those who always get it


async def test_boxes_hear_of_which_kind_a_rollout_is_also_of_a_killed_one(helm: Helm) -> None:
    await helm.begin(opening(), "kim", "for us", {**TRAFFIC, "@dogfood": 0.01})
    await publish(helm, "open", SIGNER, "kim")
    assert (await offer(helm)).kind == "open"
    await helm.change("open", lambda standing: order(Change.KILL, standing))
    await publish(helm, "open", SIGNER, "kim")
    assert await offer(helm) == Offer("open", "s1", kind="open")


async def test_whoever_signs_at_the_same_time_the_newest_standing_wins(helms: tuple[Helm, Helm]) -> None:
    await begun(helms[0])
    await publish(helms[0], ID, SIGNER, "kim")

    async def back(helm: Helm) -> None:
        await helm.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
        await publish(helm, ID, SIGNER, "ben")

    async def again(helm: Helm) -> None:
        for _ in range(5):
            await publish(helm, ID, SIGNER, "anna")

    await asyncio.gather(again(helms[0]), back(helms[1]))
    assert (await offer(helms[0])).regions == {"eu-1": 0.0}
    body = await published(helms[0], KEYS)
    assert body is not None
    assert body.rev == 7


class Interrupted(Helm):
    """Somebody takes eu-1 back, and signs that, just after this one has read how the rollout stands."""

    is_over = False

    async def course(self, id: str) -> Course:
        found = await super().course(id)
        if not self.is_over:
            self.is_over = True
            await self.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
            await publish(Helm(self.store, self.wall), ID, SIGNER, "ben")
        return found


async def test_what_was_read_before_a_rollback_is_not_signed_after_it(helm: Helm) -> None:
    await begun(helm)
    await publish(helm, ID, SIGNER, "kim")
    body = await publish(Interrupted(helm.store, helm.wall), ID, SIGNER, "anna")
    assert body.rev == 3
    assert (await offer(helm)).regions == {"eu-1": 0.0}


async def test_routes_and_another_s_offer_stay(helm: Helm, clock: Clock) -> None:
    now = int(clock.now)
    foreign = Body(3, now, now + 60, Offer("by-hand", "s1", regions={"eu-1": 5}), {"eu-1": {"relays": ["a"]}})
    await helm.store.put(BUCKET, STATE, seal(foreign, SEED), expect=0, who="a", why="b")
    await begun(helm)
    with pytest.raises(ChangeRefusedError) as error:
        await publish(helm, ID, SIGNER, "kim")
    assert (error.value.refusal, "by-hand" in str(error.value)) == (Refusal.RIVAL, True)
    stored = await helm.store.get(BUCKET, STATE)
    assert stored is not None
    empty = Body(4, now, now + 60, None, foreign.routes)
    await helm.store.put(BUCKET, STATE, seal(empty, SEED), expect=stored.revision, who="a", why="b")
    body = await publish(helm, ID, SIGNER, "kim")
    assert (body.rev, body.routes) == (5, foreign.routes)


async def test_what_no_box_would_take_is_neither_built_upon_nor_put(helm: Helm) -> None:
    await begun(helm)
    await helm.store.put(BUCKET, STATE, b"VRS1", expect=0, who="a", why="b")
    with pytest.raises(StoreError, match="does not count"):
        await publish(helm, ID, SIGNER, "kim")
    stored = await helm.store.get(BUCKET, STATE)
    assert stored is not None
    assert stored.value == b"VRS1"


async def test_a_kill_is_not_lifted_while_boxes_know_more_than_the_steps_give(helm: Helm) -> None:
    await check_offer(helm, ID, KEYS)  # nobody knows it
    await begun(helm)
    await check_offer(helm, ID, KEYS)  # and nothing is signed
    await publish(helm, ID, SIGNER, "kim")
    await check_offer(helm, ID, KEYS)
    await helm.change(ID, lambda standing: order(Change.ROLLBACK, standing, "eu-1"))
    with pytest.raises(ChangeRefusedError, match="relay rollout publish"):
        await check_offer(helm, ID, KEYS)
