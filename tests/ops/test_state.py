"""What a daemon says of the state of rollouts: metrics, /health, /readyz."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from relay.config_state import StateConfig
from relay.ops import state as ops_state
from relay.ops.state import StateWatch, families
from relay.protocol.signed import public_of
from relay.rollout.lastgood import LIFE_S, Body, Offer, Serving, seal
from relay.rollout.lastgood_file import OsFiles
from relay.rollout.lastgood_file import replace as write
from relay.rollout.mandate import Mandate

SEED, NEXT = bytes(32), b"\1" * 32
NOW = 1_800_000_000


def state(rev: int, seed: bytes = SEED) -> bytes:
    return seal(Body(rev, NOW, NOW + LIFE_S, Offer("r1", "s1", regions={"eu-1": 5})), seed)


class OverError(Exception):
    """A round is over."""


class Box:
    def __init__(self, folder: Path) -> None:
        self.path, self.kill = folder / "lastgood", folder / "kill"
        self.config = StateConfig(
            file=str(self.path),
            keys=(public_of(SEED).hex(),),
            floor_file=str(folder / "floor"),
            kill_file=str(self.kill),
        )
        self.wall = float(NOW)
        self.watch = StateWatch(lambda: self.config, lambda: self.wall)
        self.told: list[Mandate] = []
        self.watch.on_changed = self.told.append

    def put(self, raw: bytes, at: float = NOW) -> None:
        write(OsFiles(), str(self.path), raw)
        OsFiles().touch(str(self.path), at)

    async def look(self) -> None:
        """One round of it, and no second: it ends where it would wait for that."""

        async def over(_: float) -> None:
            raise OverError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", over)
            with pytest.raises(OverError):
                await self.watch.run()

    def metrics(self) -> dict[str, float]:
        counters = self.watch.counters()
        assert counters is not None
        found = {}
        for family in families(counters):
            for sample in family.samples:
                found[" ".join([sample.name, *sample.labels.values()])] = sample.value
        return found


@pytest.fixture
async def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def test_nothing_is_told_while_no_state_is_configured(box: Box) -> None:
    box.config = StateConfig()
    await box.look()
    assert box.watch.counters() is None
    assert box.watch.body() is None
    assert box.watch.standing() is None
    assert box.watch.doubt() == ""


async def test_revision_age_and_refusals_are_told(box: Box) -> None:
    await box.look()
    assert box.watch.doubt() == "everyone gets control: none"
    box.wall += 20
    assert box.metrics()["relay_state_age_seconds"] == 20  # since the start: there is none
    assert box.metrics()["relay_state_serving none"] == 1
    box.put(state(7), NOW + 15)
    await box.look()
    told = box.metrics()
    assert (told["relay_state_revision"], told["relay_state_age_seconds"]) == (7, 5)
    assert (told["relay_state_serving state"], told["relay_state_serving none"]) == (1, 0)
    assert box.watch.doubt() == ""
    box.put(state(6), NOW + 15)
    await box.look()
    assert box.metrics()["relay_state_refused_total lower_rev"] == 1
    assert box.metrics()["relay_state_refused_total bad_signature"] == 0
    assert box.watch.body() == {
        "revision": 7,
        "serving": "state",
        "rollout": "r1",
        "age_s": 5.0,
        "problem": "lower_rev",
    }


async def test_what_somebody_should_look_after_is_a_finding(box: Box) -> None:
    box.put(state(1))
    await box.look()
    box.wall = NOW + 300
    assert box.watch.doubt() == ""
    box.wall = NOW + 301
    assert box.watch.doubt() == "nobody vouched for it for 301 s"
    box.wall = NOW + LIFE_S
    assert box.watch.doubt() == "everyone gets control: expired"
    box.wall = float(NOW)
    box.kill.write_text("r1")
    await box.look()
    assert box.watch.doubt() == ""  # somebody wanted it
    standing = box.watch.standing()
    assert standing is not None
    assert standing.offer is None
    box.kill.unlink()
    write(OsFiles(), f"{box.path}.kill", b"r1\n")  # what the feed brought from the store
    await box.look()
    assert box.metrics()["relay_state_serving killed"] == 1


async def test_a_reload_takes_other_keys_and_can_switch_it_off(box: Box) -> None:
    box.put(state(1, NEXT))
    await box.look()
    assert box.metrics()["relay_state_refused_total unknown_key"] == 1
    box.config = replace(box.config, keys=(*box.config.keys, public_of(NEXT).hex()))
    await box.look()
    assert box.metrics()["relay_state_revision"] == 1
    box.config = replace(box.config, file="")
    await box.look()
    assert box.watch.counters() is None


async def test_the_engine_is_told_what_counts_whenever_that_is_another(box: Box) -> None:
    box.put(state(1))
    await box.watch.begin()
    offer = Offer("r1", "s1", regions={"eu-1": 5})
    assert box.told == [Mandate(Serving.STATE, offer)]
    await box.look()
    assert len(box.told) == 1, "nothing is new"
    box.kill.write_text("r1")
    await box.look()
    box.kill.unlink()
    box.wall = NOW + LIFE_S  # nobody wrote anything
    await box.look()
    assert [(each.serving, each.is_killed, each.offer) for each in box.told[1:]] == [
        (Serving.KILLED, True, offer),
        (Serving.EXPIRED, False, offer),
    ]
    box.config = replace(box.config, without="all")
    await box.look()
    assert box.told[-1] == Mandate(Serving.EXPIRED, offer, without="all")
    box.config = replace(box.config, file="")
    await box.look()
    assert box.told[-1] == Mandate(), "everybody may call"


async def test_before_the_first_look_no_state_counts_and_a_slow_disk_is_not_waited_for(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_state, "BEGIN_S", 0.01)
    box.put(state(1))
    os.mkfifo(box.kill)  # nobody writes: who opens it waits
    await box.watch.begin()
    assert box.told == [Mandate(Serving.NONE)]
    monkeypatch.setattr(ops_state, "LOOK_S", 0.01)
    task = asyncio.create_task(box.watch.run())
    await asyncio.sleep(0.05)
    assert len(box.told) == 1
    with box.kill.open("w") as kill:  # now the disk answers
        kill.write("r2\n")
    box.kill.unlink()
    for _ in range(1_000):
        if len(box.told) > 1:
            break
        await asyncio.sleep(0.01)
    assert box.told[-1].serving is Serving.STATE
    task.cancel()


async def test_it_looks_each_second(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops_state.LOOK_S == 1.0
    monkeypatch.setattr(ops_state, "LOOK_S", 0.01)
    task = asyncio.create_task(box.watch.run())
    box.put(state(1))
    for rev in (1, 2, 3):
        box.put(state(rev))
        for _ in range(1_000):
            if (now := box.watch.counters()) is not None and now.revision == rev:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail(f"revision {rev} is not seen")
    task.cancel()
