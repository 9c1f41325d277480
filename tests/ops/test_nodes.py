"""What a daemon hands out of the node list, and what it says of it: GET /v1/nodes, metrics, /readyz."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.config_nodes import NodesConfig
from relay.ops import nodes as ops_nodes
from relay.ops.nodes import NodesWatch, families
from relay.protocol.signed import public_of
from relay.region.nodelist import EARLY_S, Node, NodeList, seal

SEED, NEXT = bytes(32), b"\1" * 32
NOW = 1_800_000_000
LIFE = 86_400


def document(rev: int, seed: bytes = SEED, **changes: Any) -> bytes:
    one = Node(id="fra-1", region="fra", urls=("quic://fra-1.example:443",), version="1.0")
    base = NodeList(v=1, cluster="c", rev=rev, issued_at=NOW, not_after=NOW + LIFE, nodes=(one,))
    return seal(base if not changes else _changed(base, changes), seed)


def _changed(base: NodeList, changes: dict[str, Any]) -> NodeList:
    return NodeList(**{name: getattr(base, name) for name in base.__struct_fields__} | changes)


class Box:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "nodes"
        self.config = NodesConfig(file=str(self.path), keys=(public_of(SEED).hex(),))
        self.wall = float(NOW + 5)
        self.watch = NodesWatch(lambda: self.config, lambda: "c", lambda: self.wall)

    async def put(self, raw: bytes) -> None:
        """A new file in the place of the old one, and a look at it."""
        beside = self.path.with_name("new")
        beside.write_bytes(raw)
        os.replace(beside, self.path)
        await self.watch.look()

    def reason(self, status: int) -> str:
        answer = self.watch.answer()
        told = json.loads(answer.body)
        assert (answer.status, told["ok"], dict(answer.headers)) == (status, False, {})
        return str(told["reason"])

    def metrics(self) -> dict[str, float]:
        counters = self.watch.counters()
        assert counters is not None
        found = {}
        for family in families(counters):
            for sample in family.samples:
                found[" ".join([sample.name, *sample.labels.values()])] = sample.value
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def test_without_a_list_that_is_configured_there_is_none_to_find(box: Box) -> None:
    box.config = NodesConfig()
    await box.watch.look()
    assert box.reason(404) == "not_configured"
    assert box.watch.counters() is None
    assert box.watch.list is None
    assert box.watch.doubt() == ""


async def test_the_list_is_handed_out_byte_for_byte_with_its_age(box: Box) -> None:
    raw = document(7)
    await box.put(raw)
    answer = box.watch.answer()
    assert (answer.status, answer.body, answer.headers["Age"]) == (200, raw, "5")
    assert box.watch.list is not None
    assert box.watch.list.nodes[0].id == "fra-1"
    told = box.metrics()
    assert told["relay_nodes_revision"] == 7
    assert (told["relay_nodes_listed"], told["relay_nodes_age_seconds"]) == (1, 5)
    assert box.watch.doubt() == ""


async def test_another_list_has_another_tag_and_the_same_one_the_same(box: Box) -> None:
    await box.put(document(7))
    tag = box.watch.answer().headers["ETag"]
    await box.put(document(7))  # only touched
    assert box.watch.answer().headers["ETag"] == tag
    await box.put(document(8))
    assert box.watch.answer().headers["ETag"] != tag


async def test_while_no_file_is_there_the_answer_says_so_and_nothing_is_counted(box: Box) -> None:
    for _ in range(3):
        await box.watch.look()
    assert box.reason(503) == "no_file"
    assert sum(box.metrics().values()) == 0
    assert box.watch.doubt() == "no node list is handed out: no_file"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"torn", "malformed"),
        (document(8, NEXT), "unknown_key"),
        (document(8, cluster="other"), "other_cluster"),
        (document(8, not_after=NOW + 1), "expired"),
        (document(6), "older"),
        (document(7, not_after=NOW + 9), "contradicts"),
    ],
)
async def test_what_does_not_count_is_counted_once_and_leaves_the_list(
    box: Box, raw: bytes, reason: str
) -> None:
    good = document(7)
    await box.put(good)
    await box.put(raw)
    await box.watch.look()
    assert box.watch.answer().body == good
    assert box.metrics()[f"relay_nodes_refused_total {reason}"] == 1
    await box.put(document(9))
    assert box.metrics()["relay_nodes_revision"] == 9


async def test_a_first_list_that_does_not_count_names_itself(box: Box) -> None:
    await box.put(document(7, NEXT))
    assert box.reason(503) == "unknown_key"
    assert box.metrics()["relay_nodes_revision"] == 0


async def test_a_file_that_cannot_be_read_is_told_once(box: Box) -> None:
    box.path.mkdir()
    for _ in range(3):
        await box.watch.look()
    assert box.reason(503) == "unreadable"
    assert box.metrics()["relay_nodes_refused_total unreadable"] == 1


async def test_a_list_past_its_time_is_kept_and_not_handed_out(box: Box) -> None:
    await box.put(document(7))
    box.wall = float(NOW + LIFE)
    assert box.reason(503) == "expired"
    assert box.watch.list is not None
    assert box.watch.doubt() == "no node list is handed out: expired"


async def test_a_clock_that_was_behind_is_put_right_without_another_file(box: Box) -> None:
    box.wall = float(NOW - EARLY_S - 1)
    await box.put(document(7))
    await box.watch.look()
    assert box.reason(503) == "too_early"
    assert box.metrics()["relay_nodes_refused_total too_early"] == 1
    box.wall = float(NOW)
    await box.watch.look()
    assert box.watch.answer().status == 200


async def test_a_list_that_nobody_makes_anew_is_a_finding(box: Box) -> None:
    await box.put(document(7))
    box.wall = NOW + 300.0
    assert box.watch.doubt() == ""
    box.wall = NOW + 301.0
    assert box.watch.doubt() == "made 301 s ago"


async def test_a_reload_takes_other_keys_and_files_and_can_switch_it_off(box: Box) -> None:
    await box.put(document(7, NEXT))
    box.config = replace(box.config, keys=(*box.config.keys, public_of(NEXT).hex()))
    await box.watch.look()
    assert box.metrics()["relay_nodes_revision"] == 7
    box.config = replace(box.config, keys=(public_of(SEED).hex(),))
    await box.watch.look()
    assert box.watch.answer().status == 200  # what counted once stays
    box.config = replace(box.config, file=str(box.path) + ".other")
    await box.watch.look()
    assert box.reason(503) == "no_file"
    box.config = replace(box.config, file="")
    await box.watch.look()
    assert box.watch.counters() is None


async def test_it_looks_again_and_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops_nodes.LOOK_S == 1.0
    monkeypatch.setattr(ops_nodes, "LOOK_S", 0.01)
    task = asyncio.create_task(box.watch.run())
    for rev in (1, 2):
        box.path.write_bytes(document(rev))
        for _ in range(1_000):
            if box.watch.list is not None and box.watch.list.rev == rev:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail(f"revision {rev} is not seen")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
