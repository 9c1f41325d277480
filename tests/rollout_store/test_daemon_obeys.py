"""Real daemons, the SDK and files: who may call, which variant a call gets, what a kill file does."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.rig import Rig, daemon
from client.test_direct_calls import until
from client.test_following import are_at, talking
from load.daemon import scrape
from relay.client import RefusedError, connect
from relay.errors import ErrorCode
from relay.protocol.signed import public_of
from relay.rollout.bucket import bucket
from relay.rollout.lastgood import LIFE_S, Body, Offer, accepted, seal
from relay.rollout.lastgood_file import OsFiles, copy

pytestmark = pytest.mark.timeout(240)  # each wait is long: a busy machine is no failure

SEED = bytes(32)
PATIENCE_S = 30.0
OPEN = Offer("o1", "s1", regions={"local": 50}, kind="open")
RELEASE = Offer("r1", "s1", regions={"local": 100})


class State:
    """The signed file of some boxes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lastgood"

    def settings(self, box: Path, **more: str) -> str:
        """The section of a box; its floor and its kill file lie in its own folder."""
        box.mkdir()
        words = {"file": self.path, "floor_file": box / "floor", "kill_file": box / "kill"} | more
        told = [f"{key} = {json.dumps(str(value))}" for key, value in words.items()]
        keys = f'keys = ["{public_of(SEED).hex()}"]'
        return "\n".join(["[state]", keys, *told, "[drain]", "smear_s = 0.2"])

    def put(self, rev: int, offer: Offer | None, routes: dict[str, Any] | None = None) -> None:
        now = int(time.time())
        raw = seal(Body(rev, now, now + LIFE_S, offer, routes or {}), SEED)
        copy(OsFiles(), str(self.path), raw, accepted([public_of(SEED)]))


def fresh(*, member: bool) -> bytes:
    """A call whose first person is a member of `OPEN`, or is not (`Rig.token` says who that is)."""
    while True:
        call = os.urandom(16)
        person = call[:15] + bytes(1)
        if (bucket(OPEN.id, OPEN.salt, person.hex()) < 5000) is member:
            return call


async def why_not(rig: Rig, *, member: bool) -> str:
    """Begin a call: "" if that went well, else the reason."""
    call = fresh(member=member)
    async with connect(rig.url, token=rig.token(call, 0), insecure=True) as session:
        try:
            mine = await session.join()
        except RefusedError as error:
            return str(error.data["why"] if error.code == ErrorCode.NOT_ENABLED else error)
        await mine.hangup()
        return ""


async def becomes(wanted: str, ask: Callable[[], Awaitable[str]]) -> None:
    """A box looks each second; on a busy machine it takes longer."""
    async with asyncio.timeout(PATIENCE_S):
        while await ask() != wanted:  # noqa: ASYNC110  files and another process have no event
            await asyncio.sleep(0.1)


async def test_calling_opens_by_the_signed_file_and_closes_by_a_kill_file(tmp_path: Path) -> None:
    state = State(tmp_path)
    box = tmp_path / "box"
    with daemon(box, more=state.settings(box)) as rig:
        for member in (True, False):
            assert await why_not(rig, member=member) == "no_state"
        state.put(1, OPEN)
        await becomes("", partial(why_not, rig, member=True))
        assert await why_not(rig, member=False) == "not_member"
        (box / "kill").write_text("o1\n")
        await becomes("killed", partial(why_not, rig, member=True))
        (box / "kill").unlink()
        await becomes("", partial(why_not, rig, member=True))
        refused = rig.metric("relay_state_refused_total")
        state.path.write_bytes(b"torn")  # the one before stays, and opens no wider
        await until(lambda: rig.metric("relay_state_refused_total") > refused, PATIENCE_S)
        assert await why_not(rig, member=True) == ""
        assert await why_not(rig, member=False) == "not_member"
        state.path.unlink()
        state.put(2, Offer("o1", "s1", kind="open"))
        await becomes("not_member", partial(why_not, rig, member=True))
        state.put(3, None)  # all is done: open to everybody
        await becomes("", partial(why_not, rig, member=False))
        assert rig.metric("relay_rollout_refused_total") > 5


@pytest.mark.parametrize(("without", "why"), [("control", "no_state"), ("all", "")])
async def test_a_box_without_a_state_that_counts_does_as_its_setting_says(
    tmp_path: Path, without: str, why: str
) -> None:
    state = State(tmp_path)
    box = tmp_path / "box"
    state.path.write_bytes(b"torn")
    with daemon(box, more=state.settings(box, without=without)) as rig:
        assert await why_not(rig, member=True) == why


async def test_a_state_that_lies_there_at_the_start_counts_for_the_first_call(tmp_path: Path) -> None:
    state = State(tmp_path)
    box = tmp_path / "box"
    state.put(1, OPEN)
    with daemon(box, more=state.settings(box)) as rig:
        assert await why_not(rig, member=True) == ""
        assert await why_not(rig, member=False) == "not_member"


def record_of(box: Path) -> dict[str, Any]:
    """The newest record of the box."""
    with sqlite3.connect(box / "records.sqlite") as database:
        database.row_factory = sqlite3.Row
        row = database.execute("SELECT * FROM calls ORDER BY id DESC LIMIT 1").fetchone()
    return dict(row) if row is not None else {}


async def test_a_call_of_a_release_has_its_variant_in_metrics_events_and_record(tmp_path: Path) -> None:
    state = State(tmp_path)
    box = tmp_path / "box"
    state.put(1, RELEASE)
    with daemon(box, more=state.settings(box, variant="candidate"), keeps=True) as rig:
        async with talking(rig) as people:
            await people[0][1].hangup()
            await people[1][1].ended()
        await until(lambda: record_of(box) != {}, PATIENCE_S)
        record = record_of(box)
        assert (record["rollout"], record["variant"], record["sampled"]) == ("r1", "candidate", 1)
        metrics = scrape(f"http://127.0.0.1:{rig.metrics_port}")
        assert metrics['relay_rollout_calls_total{variant="candidate"}'] == 1
        assert (
            metrics['relay_calls_ended_total{reason="completed",transport="quic",variant="candidate"}'] == 1
        )

        def told() -> list[dict[str, Any]]:
            return [json.loads(line) for line in (box / "events.jsonl").read_text().splitlines()]

        await until(lambda: any(event["kind"] == "call.ended" for event in told()), PATIENCE_S)
        variants = {event["data"].get("variant") for event in told() if event["kind"].startswith("call.")}
        assert variants == {"candidate"}


async def test_a_call_goes_to_a_box_of_its_variant_and_after_a_kill_to_one_of_the_control(
    tmp_path: Path,
) -> None:
    state = State(tmp_path)
    places = [tmp_path / name for name in ("candidate", "control")]
    news, olds = (state.settings(box, variant=box.name) for box in places)
    with daemon(places[0], more=news) as new, daemon(places[1], more=olds, beside=new) as old:
        relays = {
            "new": {"urls": [new.url], "variant": "candidate"},
            "old": {"urls": [old.url], "variant": "control"},
        }
        state.put(1, RELEASE, {"local": {"relays": relays}})
        for rig in (new, old):
            await becomes("", partial(why_not, rig, member=True))
        async with talking(old) as people:
            await until(lambda: are_at(people, new), PATIENCE_S)
            assert [session.moves for session, _ in people] == [1, 1]
            assert old.metric('relay_rollout_steered_total{how="asked"}') == 1
            before = people[1][1].stats().received
            await until(lambda: people[1][1].stats().received > before + 20, PATIENCE_S)
            await people[0][1].hangup()
            assert await people[1][1].ended() == "completed"
        async with talking(new) as people:
            assert new.metric('relay_rollout_steered_total{how="asked"}') == 0
            (places[0] / "kill").write_text("")  # all that there is
            await until(lambda: are_at(people, old), PATIENCE_S)
            before = people[1][1].stats().received
            await until(lambda: people[1][1].stats().received > before + 20, PATIENCE_S)
            await people[0][1].hangup()
            assert await people[1][1].ended() == "completed"
