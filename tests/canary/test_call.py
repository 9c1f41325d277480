"""Canary calls through a real daemon: good ones on each rung, and ones that fail at a step that is named."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from client.proxy import Proxy
from client.rig import CLUSTER, Rig, daemon
from relay.canary import call as placing
from relay.canary.call import Babble, Ear, Plan, place
from relay.canary.judge import judge
from relay.client.audio import opus_ticks
from relay.ops import history
from relay.protocol import token

SEED = os.urandom(32)
FUNNEL = (
    "relay_call_setups_total",
    "relay_calls_ended_total",
    "relay_call_funnel_total",
    "relay_call_leaks_total",
    "relay_call_seconds_total",
    "relay_calls_judged_total",
    "relay_call_mos_count",
    "relay_leg_residual_loss_ratio_count",
    "relay_leg_rtt_seconds_count",
    "relay_first_audio_seconds_count",
    "relay_leg_seconds_total",
)
SLIS = ("setup_fail", "drop", "poor_call", "one_way", "fallback")


@dataclass(frozen=True)
class Place:
    rig: Rig
    folder: Path

    def plan(self, url: str = "", **changes: Any) -> Plan:
        plan = Plan(
            url or self.rig.url, SEED, seconds=4.0, audience=CLUSTER, ca=self.rig.ca, server_name="localhost"
        )
        return replace(plan, **changes)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("canary")
    with daemon(folder, canary=SEED, keeps=True, more="[adapt]\nenabled = false") as rig:
        yield Place(rig, folder)


async def test_a_good_call_on_each_rung_and_nothing_of_people_moves(here: Place) -> None:
    rig = here.rig
    before = rig.metric("relay_media_sent_total")
    for url in (rig.url, rig.wss, rig.tls):
        verdict = judge(await place(here.plan(url, seconds=11.5 if url == rig.url else 4.0)))
        if not verdict.ok:  # a busy machine's late packets; once more, and then it counts
            verdict = judge(await place(here.plan(url)))
        assert verdict.ok, (url, verdict)
        assert verdict.numbers["said"] >= 398
        assert 60 < (verdict.numbers["delay"] or 0) < 400
    assert rig.metric("relay_media_sent_total") - before >= 1500
    assert {name: rig.metric(name) for name in FUNNEL} == dict.fromkeys(FUNNEL, 0.0)
    for name in SLIS:
        assert rig.metric(f'relay_sli_events_total{{sli="{name}",variant="control"}}') == 0
    assert rig.metric('relay_calls_opened_total{kind="canary"}') >= 3
    assert rig.metric('relay_calls_opened_total{kind="pair"}') == 0


async def test_its_record_is_marked_and_its_events_are_nobodys(here: Place) -> None:
    await place(here.plan())
    for _ in range(50):
        with history.database(here.folder / "records.sqlite", create=False) as connection:
            calls = history.query(connection)
        if calls:
            break
        await placing.asyncio.sleep(0.1)
    assert calls
    assert all(one["canary"] for one in calls)
    assert {person["client"]["app"] for one in calls for person in one["participants"]} == {"relay-canary"}
    lines = (here.folder / "events.jsonl").read_text().splitlines()
    assert [line for line in lines if "call" in json.loads(line)["data"]] == []


class Breaking(Proxy):
    """Lets so many packets through from the relay, and then none."""

    left = 150

    def from_relay(self, data: bytes, client: Any) -> None:
        self.left -= 1
        if self.left > 0:
            super().from_relay(data, client)


async def test_a_path_that_stops_carrying_fails_by_loss(here: Place) -> None:
    proxy = await Breaking(("127.0.0.1", int(here.rig.url.rpartition(":")[2]))).open()
    try:
        verdict = judge(await place(here.plan(proxy.url)))
    finally:
        await proxy.close()
    found = {one.check: one for one in verdict.failed}
    assert {"loss", "mos"} <= set(found), verdict
    assert (found["loss"].value or 0) > 0.3


async def test_one_who_may_not_be_heard_is_one_way(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    minted = token.mint
    mute = iter((token.MAY_RECEIVE | token.MAY_E2E, token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E))
    monkeypatch.setattr(token, "mint", lambda claims, seed: minted(replace(claims, prm=next(mute)), seed))
    verdict = judge(await place(here.plan()))
    assert {"one_way", "loss"} <= {one.check for one in verdict.failed}


async def test_a_key_that_the_relay_does_not_know_is_a_token_refused(here: Place) -> None:
    facts = await place(here.plan(seed=os.urandom(32)))
    assert facts.broken is not None
    assert facts.broken[0] == "token"
    assert "TOKEN_INVALID" in facts.broken[1]
    facts = await place(here.plan(audience="elsewhere"))
    assert facts.broken is not None
    assert facts.broken[0] == "token"


async def test_a_relay_that_is_not_there_is_not_reached(here: Place) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        facts = await place(here.plan(f"wss://127.0.0.1:{taken.getsockname()[1]}/vrl/1"))
    assert facts.broken is not None
    assert facts.broken[0] == "reach"


async def test_a_certificate_that_is_not_trusted_is_not_reached(here: Place) -> None:
    facts = await place(here.plan(ca=None))
    assert facts.broken is not None
    assert facts.broken[0] == "reach"


async def test_who_is_not_ready_in_time_failed_at_set_up(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "PATIENCE_S", 0.001)
    assert (await place(here.plan())).broken == ("setup", "not ready within 0.001 s")


def test_what_it_says_has_the_length_and_size_of_speech_and_tells_its_age() -> None:
    now = [5.0]
    mouth, ear = Babble(lambda: now[0], placing.random.Random(1)), Ear(lambda: now[0])
    sizes = []
    for steps in (1, 2, 3):
        packet = mouth.encode(bytes(640 * steps))
        assert opus_ticks(packet) == 8 * steps
        sizes.append(len(packet))
        now[0] += 0.05
        assert len(ear.decode(packet)) == 640 * steps
    assert (mouth.packets, mouth.steps) == (3, 6)
    assert ear.first == 5.05
    assert ear.delays_ms == pytest.approx([50.0] * 3)
    many = [len(mouth.encode(bytes(640))) for _ in range(500)]
    assert (min(many) >= 36, max(many) <= 84, 55 < sum(many) / 500 < 65) == (True, True, True)
    assert len(set(many)) > 20
    mouth.bitrate = 12_000
    assert max(len(mouth.encode(bytes(640))) for _ in range(100)) <= 42
    assert ear.conceal() == bytes(640)
