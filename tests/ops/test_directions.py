"""What a daemon tells its engine of where calls may go, and of the mark that empties it."""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import Any

import msgspec
import pytest

from relay.config import NodeConfig
from relay.core.events import Directed
from relay.ops import directions as ops_directions
from relay.ops.directions import Directions
from relay.region.nodelist import Node, NodeList
from relay.region.routes import FAR, NEAR

NOW = 1_800_000_000


def url(id: str) -> dict[str, Any]:
    return {"urls": [f"quic://{id}.example:443"]}


ROUTES: dict[str, Any] = {
    "fra": {"relays": {"fra-1": url("fra-1"), "fra-2": url("fra-2")}, "near": ["ams"]},
    "ams": {"relays": {"ams-1": url("ams-1")}},
    "sin": {"relays": {}},
}
MARKED = {**ROUTES, "fra": {"relays": {"fra-1": {**url("fra-1"), "drain": True}}}}


def listed(rev: int) -> NodeList:
    one = Node(id="fra-1", region="fra", urls=("quic://fra-1.example:443",), version="1")
    return NodeList(v=1, cluster="c", rev=rev, issued_at=NOW, not_after=NOW + 9, nodes=(one,))


class Box:
    def __init__(self) -> None:
        self.list: NodeList | None = None
        self.routes: dict[str, Any] = {}
        self.stays = False
        self.told: list[Directed] = []
        self.directions = Directions(
            NodeConfig(id="fra-1", cluster="c", region="local"),
            lambda: self.list,
            lambda: self.routes,
            lambda: self.stays,
            self.told.append,
            lambda: float(NOW),
        )

    def look(self) -> Directed | None:
        """What was told now."""
        before = len(self.told)
        self.directions.look()
        return self.told[-1] if len(self.told) > before else None


@pytest.fixture
def box() -> Box:
    return Box()


def test_a_node_that_nobody_directs_is_told_nothing(box: Box) -> None:
    assert box.look() is None
    box.routes = {}
    assert box.look() is None


def test_a_list_is_told_once_and_each_new_one(box: Box) -> None:
    box.list = listed(1)
    told = box.look()
    assert told == Directed(box.list, {"fra": 0.0}, False)  # the region that the list says
    assert box.look() is None
    box.list = listed(2)
    assert box.look() is not None


def test_without_a_list_the_routes_say_who_there_is(box: Box) -> None:
    box.routes = ROUTES
    told = box.look()
    assert told is not None
    assert told.nodes is not None
    assert [node.id for node in told.nodes.nodes] == ["ams-1", "fra-1", "fra-2"]
    assert told.distances == {"fra": 0.0, "ams": NEAR, "sin": FAR}
    assert box.look() is None
    box.list = listed(1)
    told = box.look()
    assert told is not None
    assert told.nodes is box.list


def test_the_mark_is_told_when_it_comes_and_when_it_goes(box: Box) -> None:
    box.list = listed(1)
    box.look()
    box.routes = MARKED
    told = box.look()
    assert told is not None
    assert told.is_left
    assert box.look() is None
    box.routes = ROUTES
    told = box.look()
    assert told is not None
    assert not told.is_left


def test_whom_the_routes_mark_gets_no_calls_though_the_list_does_not_say_so_yet(box: Box) -> None:
    others = tuple(
        Node(
            id=name, region="fra", urls=(f"quic://{name}.example:443",), version="1", draining=name == "fra-3"
        )
        for name in ("fra-2", "fra-3", "fra-4")
    )
    box.list = msgspec.structs.replace(listed(1), nodes=(*listed(1).nodes, *others))
    box.routes = {"fra": {"drain": False, "relays": {name: url(name) for name in ("fra-1", "fra-2")}}}
    told = box.look()
    assert told is not None
    assert told.nodes is box.list
    box.routes = {"fra": {**box.routes["fra"], "drain": True}}
    told = box.look()
    assert told is not None
    assert told.nodes is not None
    assert [node.id for node in told.nodes.nodes if node.draining] == ["fra-1", "fra-2", "fra-3"]
    assert box.look() is None


def test_routes_that_cannot_be_read_leave_what_was_said_before(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    box.routes = MARKED
    box.look()
    box.routes = {"fra": {"relays": ["fra-1"]}}
    assert box.look() is None
    assert box.look() is None
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    box.routes = ROUTES
    told = box.look()
    assert told is not None
    assert not told.is_left


def test_people_who_stay_at_this_address_are_sent_nowhere_else(box: Box) -> None:
    box.list, box.routes = listed(1), MARKED
    box.look()
    box.stays = True
    assert box.look() == Directed(None, {}, True)  # the mark is no matter of where


async def test_it_looks_each_second(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops_directions.LOOK_S == 1.0
    monkeypatch.setattr(ops_directions, "LOOK_S", 0.01)
    task = asyncio.create_task(box.directions.run())
    for rev in (1, 2):
        box.list = listed(rev)
        for _ in range(1_000):
            if len(box.told) == rev:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail(f"list {rev} is not told")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# ---------------------------------------------------------------- rules of regions


def rules(*to: str, days: float) -> dict[str, Any]:
    return {"may_leave_to": list(to), "keep_in": ["fra", "ams"], "keep_days": days}


RULED = {
    "fra": {**ROUTES["fra"], "rules": rules("ams", days=30)},
    "ams": {**ROUTES["ams"], "rules": rules("fra", days=7)},
    "sin": ROUTES["sin"],
}


def test_rules_of_the_region_are_told_and_how_long_records_are_kept(box: Box) -> None:
    assert box.directions.keep_days == inf
    box.routes = RULED
    told = box.look()
    assert told is not None
    assert told.within == {"fra", "ams"}
    assert box.directions.keep_days == 7  # of calls of ams, which may come here
    box.routes = {**RULED, "fra": ROUTES["fra"], "ams": ROUTES["ams"]}
    told = box.look()
    assert told is not None
    assert told.within is None
    assert box.directions.keep_days == inf


def test_rules_are_those_of_the_region_in_which_the_operator_has_this_node(box: Box) -> None:
    one = Node(id="fra-1", region="sin", urls=("quic://fra-1.example:443",), version="1")
    box.list, box.routes = msgspec.structs.replace(listed(1), nodes=(one,)), RULED
    told = box.look()
    assert told is not None
    assert told.within == {"fra", "ams"}
    box.routes = {**RULED, "fra": {**RULED["fra"], "relays": {}}}
    told = box.look()
    assert told is not None
    assert told.within is None  # it stands nowhere, and the list says sin, which has none


def test_rules_that_contradict_each_other_leave_those_before_in_force(box: Box) -> None:
    box.routes = RULED
    box.look()
    box.routes = {**RULED, "ams": ROUTES["ams"]}
    assert box.look() is None
    assert box.directions.keep_days == 7


def test_where_rules_hold_a_node_is_where_the_operator_has_it_and_nowhere_else(box: Box) -> None:
    def at(id: str, region: str) -> Node:
        return Node(id=id, region=region, urls=(f"quic://{id}.example:443",), version="1")

    nodes = (at("fra-1", "fra"), at("fra-2", "fra"), at("ams-1", "fra"), at("new-1", "fra"))
    box.list, box.routes = msgspec.structs.replace(listed(1), nodes=nodes), ROUTES
    told = box.look()
    assert told is not None
    assert told.nodes is box.list  # without rules the list alone counts
    box.routes = RULED
    told = box.look()
    assert told is not None
    assert told.nodes is not None
    assert [node.id for node in told.nodes.nodes] == ["fra-1", "fra-2"]
    assert box.look() is None
    box.list = msgspec.structs.replace(box.list, nodes=(*nodes[:2], at("ams-1", "ams")))
    told = box.look()
    assert told is not None
    assert told.nodes is box.list
