"""Daemons by the rules of regions: people stay where these forbid to go, records go when they have to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.rig import Rig, daemon, public_of
from client.test_direct_calls import until
from client.test_following import are_at, talking
from ops.test_history import call
from region.test_daemon_drain import SEED, SETTINGS, WAIT_S
from relay.ops.history import DAY, database, insert, query
from relay.rollout.lastgood import LIFE_S, Body, accepted, seal
from relay.rollout.lastgood_file import OsFiles, copy

KEEP = ("near", "far")


class Signed:
    """The signed state that node `a` reads."""

    def __init__(self, folder: Path) -> None:
        self.path, self.rev = folder / "state", 0

    def put(self, routes: dict[str, Any]) -> None:
        self.rev += 1
        now = int(time.time())
        raw = seal(Body(self.rev, now, now + LIFE_S, None, routes), SEED)
        copy(OsFiles(), str(self.path), raw, accepted([public_of(SEED)]))


def rules(*to: str, days: float = 30) -> dict[str, Any]:
    return {"may_leave_to": list(to), "keep_in": list(KEEP), "keep_days": days}


def routes(a: Rig, b: Rig, *to: str, drain: bool = False) -> dict[str, Any]:
    """Node a in region near, whose calls may leave to these; node b in region far."""
    return {
        "near": {"relays": {"a": {"urls": [a.url], "drain": drain}}, "rules": rules(*to)},
        "far": {"relays": {"b": {"urls": [b.url]}}, "rules": rules()},
    }


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Rig, Rig, Signed]]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    settings = SETTINGS.format(folder=tmp_path, key=public_of(SEED).hex())
    with daemon(tmp_path / "b", id="b") as b, daemon(tmp_path / "a", id="a", more=settings, beside=b) as a:
        yield a, b, Signed(tmp_path)


@pytest.mark.timeout(120)
async def test_people_of_a_region_that_is_emptied_go_nowhere_until_its_rules_allow_it(
    nodes: tuple[Rig, Rig, Signed],
) -> None:
    a, b, signed = nodes
    signed.put(routes(a, b))
    async with talking(a) as people:
        signed.put(routes(a, b, drain=True))
        await until(lambda: a.metric("relay_state_revision") == 2, WAIT_S)
        await until(lambda: a.metric("relay_draining") == 1, WAIT_S)
        await asyncio.sleep(3.0)  # where nothing forbade it they would be gone within one
        assert are_at(people, a)
        assert b.metric("relay_calls_moved_total") == 0
        signed.put(routes(a, b, "far"))
        await until(lambda: a.metric("relay_draining") == 0, WAIT_S)
        signed.put(routes(a, b, "far", drain=True))
        await until(lambda: are_at(people, b), WAIT_S)


@pytest.mark.timeout(120)
async def test_records_are_erased_when_the_rules_of_the_region_say_so(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    now = time.time()
    with database(path) as connection:
        for number, age in ((1, 10 * DAY), (2, 60.0)):
            insert(connection, "a", call(number, ended=now - age))
    settings = SETTINGS.format(folder=tmp_path, key=public_of(SEED).hex())

    def kept() -> list[str]:
        with database(path) as connection:
            return [one["call"] for one in query(connection)]

    signed = Signed(tmp_path)
    with daemon(tmp_path, id="a", more=settings, keeps=True):
        assert len(kept()) == 2
        signed.put({"near": {"relays": {"a": {"urls": ["quic://a.example:443"]}}, "rules": near_only(7)}})
        await until(lambda: kept() == [f"{2:032x}"], WAIT_S)


def near_only(days: float) -> dict[str, Any]:
    return {"may_leave_to": [], "keep_in": ["near"], "keep_days": days}
