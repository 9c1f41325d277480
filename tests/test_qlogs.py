"""Qlogs of flagged calls: over a whole node on simulated time, and by the command of a real daemon."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.test_driver import CID, Person, World, in_call
from lanes import LANES
from load.daemon import Daemon, mint
from relay import client, qlogs
from relay.config_qlog import QlogConfig
from relay.core import events as ev
from relay.errors import ErrorCode
from relay.ops.commands import QlogWish
from relay.ops.qlogs import found
from relay.protocol import control, token
from relay.protocol.ids import CallId
from relay.qlogs import Qlogs, is_sampled
from relay.quic.qlog import WAITING
from test_daemon import _talk, has_logged, until

REFERENCE = CID.reference
FLAG = QlogWish(REFERENCE)


def read(path: str | Path) -> list[dict[str, Any]]:
    """The events of a file, as a reader of JSON-SEQ takes them; the head is judged."""
    parts = Path(path).read_text().split("\x1e")
    assert parts[0] == ""
    assert all(part.endswith("\n") for part in parts[1:])
    head, *events = (json.loads(part) for part in parts[1:])
    assert (head["qlog_format"], head["qlog_version"]) == ("JSON-SEQ", "0.3")
    times = [event["time"] for event in events]
    assert times == sorted(times)
    return events


def whole(path: str | Path) -> str:
    return Path(path).read_text()


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["name"] == name]


class Traced(World):
    """A node whose calls may be flagged."""

    def __init__(self, lane: str, config: QlogConfig) -> None:
        super().__init__(lane=lane)
        self.qlogs = Qlogs(config, self.node, self, clock=lambda: self.now, wall=self.wall)
        self.flagged = self.qlogs.order
        self._look()

    def _look(self) -> None:
        self.qlogs._folder.settle()  # its thread knows no simulated time
        self.qlogs.look()
        self.qlogs._folder.settle()
        self.call_at(self.now + 1.0, self._look)

    def event(self, event: ev.CallEvent) -> None:
        super().event(event)
        if hasattr(self, "qlogs"):
            self.qlogs.on_event(event)

    def files(self) -> list[str]:
        return found(self.qlogs.config.path, REFERENCE)

    def whys(self) -> list[list[str]]:
        return [[each["why"] for each in named(read(path), "relay:ended")] for path in self.files()]


@pytest.fixture
def config(tmp_path: Path) -> QlogConfig:
    return QlogConfig(path=str(tmp_path / "qlog"))


@pytest.fixture(params=LANES)
def world(request: pytest.FixtureRequest, config: QlogConfig) -> Iterator[Traced]:
    traced = Traced(request.param, config)
    yield traced
    asyncio.run(traced.qlogs.close())
    assert traced.endpoint.internal_errors == traced.node.driver.internal_errors == 0


def speak(world: World, ann: Person, packets: int, first: int = 0) -> None:
    for ctr in range(first, first + packets):
        ann.say(ann.media(ctr))
        world.run(0.02)


def test_a_call_that_nobody_flagged_leaves_no_folder_and_no_log_on_any_connection(world: Traced) -> None:
    ann, _ = in_call(world)
    speak(world, ann, 60)
    assert not Path(world.qlogs.config.path).exists()
    assert all(peer.quic._quic_logger is None for peer in world.endpoint._by_leg.values())


def test_a_flagged_call_has_a_file_for_each_leg_with_packets_and_the_lanes_counters(world: Traced) -> None:
    ann, bob = in_call(world)
    speak(world, ann, 100)
    code, _, facts = world.flagged(FLAG)
    assert (code, facts["seconds"]) == (ErrorCode.NO_ERROR, 600.0)
    speak(world, ann, 150, first=100)
    ann.ask(control.Mute(c=CID, on=True))
    ann.ask(control.Mute(c=CID, on=False))
    world.run(1.5)
    assert world.files() == facts["files"]
    up, down = (read(path) for path in facts["files"])
    assert {"transport:packet_received", "transport:packet_sent"} <= {each["name"] for each in up}
    frames = [
        frame["frame_type"] for data in named(up, "transport:packet_received") for frame in data["frames"]
    ]
    assert "stream" in frames
    assert frames.count("datagram") == 0  # of which the counters tell
    forwarded = [data["up_forwarded"] for data in named(up, "relay:lane")]
    assert (forwarded[0], forwarded[-1]) == (100, 250)
    assert forwarded == sorted(forwarded)
    acked = [data["down_acked"] for data in named(down, "relay:lane")]
    assert acked[0] < acked[-1] <= 250
    assert all(
        data["smoothed_rtt"] > 0 for data in named(down, "recovery:metrics_updated") if "smoothed_rtt" in data
    )
    assert named(up, "relay:ended") == []
    bob.ask(control.Hangup(c=CID))
    world.run(2.0)
    assert world.whys() == [["call_over"], ["call_over"]]
    assert not world.qlogs._calls


def test_nothing_in_a_file_names_a_person_an_address_a_connection_or_a_token(world: Traced) -> None:
    world.flagged(FLAG)
    ann, bob = in_call(world)
    world.flagged(FLAG)
    speak(world, ann, 60)
    ids = [cid for peer in world.endpoint._by_leg.values() for cid in peer.quic.host_ids]
    ids += [person.quic.host_cid for person in (ann, bob)]
    assert len(ids) >= 4
    told = "".join(Path(path).read_text() for path in world.files())
    assert len(told) > 1_000
    for secret in (*ids, ann.sub, bob.sub, CID, ann.claims.jti):
        assert secret.hex() not in told
        assert base64.b64encode(secret).decode().rstrip("=") not in told
    for peer in world.endpoint._by_leg.values():
        assert str(peer.address[0]) not in told


def test_who_comes_to_a_flagged_call_is_traced_from_then_on_and_who_leaves_no_longer(world: Traced) -> None:
    ann = Person(world, 1001)
    ann.join()
    world.flagged(FLAG)
    bob = Person(world, 1002)
    bob.join()
    world.run(0.1)
    assert len(world.qlogs._calls[CID].legs) == 2
    bob.quic.close(error_code=0)
    bob.flush()
    world.run(2.0)
    assert world.whys() == [[], ["leg_gone"]]


def test_a_trace_ends_after_its_time_and_names_the_limit(world: Traced) -> None:
    world.qlogs.config = replace(world.qlogs.config, seconds=3.0)
    ann, _ = in_call(world)
    world.flagged(FLAG)
    speak(world, ann, 300)
    assert world.whys() == [["qlog.seconds"]] * 2
    assert all(read(path)[-1]["time"] < 4_500 for path in world.files())
    assert all(peer.quic._quic_logger is None for peer in world.endpoint._by_leg.values())


def test_a_file_ends_at_its_size_and_names_the_limit(world: Traced) -> None:
    world.qlogs.config = replace(world.qlogs.config, file_bytes=4_000)
    ann, _ = in_call(world)
    world.flagged(FLAG)
    speak(world, ann, 800)
    assert world.whys() == [["qlog.file_bytes"]] * 2
    assert all(3_000 < Path(path).stat().st_size <= 4_000 for path in world.files())
    assert all(peer.quic._quic_logger is None for peer in world.endpoint._by_leg.values())


def test_no_more_calls_than_allowed_are_flagged_at_once(world: Traced) -> None:
    world.qlogs.config = replace(world.qlogs.config, calls=1)
    in_call(world)
    other = CallId(bytes(reversed(range(16))))
    Person(world, 1003, cid=other).join()
    assert world.flagged(FLAG)[0] is ErrorCode.NO_ERROR
    code, why, _ = world.flagged(QlogWish(other.hex()))
    assert code is ErrorCode.QUOTA
    assert "qlog.calls" in why
    assert world.flagged(FLAG)[0] is ErrorCode.NO_ERROR  # for as long again
    assert world.flagged(QlogWish(REFERENCE, on=False))[0] is ErrorCode.NO_ERROR
    world.run(1.5)
    assert world.whys() == [["order"], ["order"]]
    assert world.flagged(QlogWish(other.hex()))[0] is ErrorCode.NO_ERROR


@pytest.mark.parametrize(
    ("wish", "path", "code", "why"),
    [
        (QlogWish("ffffffffffff"), None, ErrorCode.CALL_NOT_FOUND, "no such call"),
        (QlogWish(""), None, ErrorCode.CALL_NOT_FOUND, "no call"),
        (QlogWish("0001"), None, ErrorCode.CALL_NOT_FOUND, "2 calls begin so"),
        (QlogWish(REFERENCE, on=False), None, ErrorCode.CALL_NOT_FOUND, "not flagged"),
        (FLAG, "", ErrorCode.NOT_ENABLED, "qlog.path"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_by_name(
    world: Traced, wish: QlogWish, path: str | None, code: ErrorCode, why: str
) -> None:
    if path is not None:
        world.qlogs.config = replace(world.qlogs.config, path=path)
    Person(world, 1001).join()
    Person(world, 1002, cid=CallId(CID[:6] + bytes(10))).join()
    wish = QlogWish(CID.hex(), wish.on) if wish.qlog == REFERENCE else wish
    told = world.flagged(wish)
    assert told[0] is code
    assert why in told[1]


def test_a_share_of_calls_is_flagged_from_the_begin(world: Traced) -> None:
    world.qlogs.config = replace(world.qlogs.config, share=1.0)
    ann, _ = in_call(world)
    speak(world, ann, 60)
    assert len(world.files()) == 2
    events = read(world.files()[0])
    assert named(events, "relay:lane")[0]["up_forwarded"] == 0
    world.run(2.0)
    world.qlogs.order(QlogWish(REFERENCE, on=False))
    ann.ask(control.Mute(c=CID, on=True))
    assert not world.qlogs._calls  # only a begin flags


def test_the_share_is_that_of_all_ids_and_the_same_ones_at_each_node() -> None:
    ids = [CallId(n.to_bytes(16, "big")) for n in range(20_000)]
    taken = [cid for cid in ids if is_sampled(cid, 0.1)]
    assert 0.09 < len(taken) / len(ids) < 0.11
    assert all(is_sampled(cid, 0.2) for cid in taken)
    assert not any(is_sampled(cid, 0.0) for cid in ids)
    assert all(is_sampled(cid, 1.0) for cid in ids)


def test_a_disk_that_cannot_be_written_ends_the_traces_and_says_so_once(
    world: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    Path(world.qlogs.config.path).write_text("no folder")
    in_call(world)
    world.flagged(FLAG)
    world.run(5.0)
    assert [line.getMessage() for line in caplog.records].count("qlogs cannot be written") == 1
    assert not world.qlogs._calls
    assert all(peer.quic._quic_logger is None for peer in world.endpoint._by_leg.values())


def test_what_was_told_until_the_daemon_stops_is_written_and_says_so(world: Traced) -> None:
    ann, _ = in_call(world)
    world.flagged(FLAG)
    speak(world, ann, 10)
    asyncio.run(world.qlogs.close())
    assert world.whys() == [["daemon_stopped"], ["daemon_stopped"]]
    assert named(read(world.files()[0]), "relay:lane")


def test_old_files_go_although_nobody_flags_a_call(world: Traced) -> None:
    folder = Path(world.qlogs.config.path)
    folder.mkdir()
    old, young = folder / "old.sqlog", folder / "young.sqlog"
    for path, days in ((old, 8), (young, 6)):
        path.touch()
        os.utime(path, (time.time() - 86_400 * days,) * 2)
    world.run(4_000.0)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_write_that_failed_before_refuses_the_next_wish_by_name_and_not_the_one_after(
    world: Traced,
) -> None:
    folder = Path(world.qlogs.config.path)
    in_call(world)
    folder.write_text("no folder")
    world.flagged(FLAG)
    world.qlogs._folder.settle()
    code, why, _ = world.flagged(FLAG)
    assert code is ErrorCode.INTERNAL
    assert "cannot be written" in why
    folder.unlink()
    assert world.flagged(FLAG)[0] is ErrorCode.NO_ERROR
    world.run(1.5)
    assert len(world.files()) == 2


def test_while_the_disk_does_not_answer_memory_is_bounded_and_what_is_lost_is_told(
    world: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, _ = in_call(world)
    world.flagged(FLAG)
    world.qlogs._folder.settle()
    monkeypatch.setattr(type(world.qlogs._folder), "is_busy", property(lambda _: True))
    for _ in range(60):
        world.flagged(QlogWish(REFERENCE, on=False))
        world.flagged(FLAG)
    assert len(world.qlogs._ended) == qlogs.MOST_ENDED
    for _ in range(1_100):
        ann.ask(control.Mute(c=CID, on=True))
    assert all(len(leg.trace._waiting) <= WAITING for leg in world.qlogs._calls[CID].legs.values())
    monkeypatch.undo()
    world.run(1.5)
    missed = [named(read(path), "relay:missed") for path in world.files()]
    assert any(events[0]["events"] > 0 for events in missed if events)


# ---------------------------------------------------------------- a real daemon


def relay(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", *words, "--config", str(daemon.folder / "relay.toml"), "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


async def asked(daemon: Daemon, *words: str) -> tuple[int, dict[str, Any]]:
    done = await asyncio.to_thread(relay, daemon, *words)
    return done.returncode, json.loads(done.stdout)


async def test_an_operator_takes_a_qlog_of_a_running_call_and_explain_names_it() -> None:
    with Daemon.start() as daemon:
        call = secrets.token_bytes(16)
        ann, _ = await _talk(daemon, call, 0.3)
        status, told = await asked(daemon, "qlog", ann.reference)
        assert (status, told["ok"], told["call"], len(told["files"])) == (0, True, ann.reference, 2)
        await asyncio.to_thread(
            until, lambda: len(found(str(daemon.folder / "qlog"), ann.reference)) == 2, "files"
        )
        _, listed = await asked(daemon, "qlog", ann.reference, "--list")
        assert listed["files"] == told["files"]
        _, running = await asked(daemon, "explain", ann.reference)
        assert told["files"][0] in running["error"]
        await ann.hangup()
        await asyncio.to_thread(until, lambda: has_logged(daemon, "a qlog ends"), "its end")
        await asyncio.to_thread(until, lambda: has_logged(daemon, "call ended"), "the call's end")
        await asyncio.to_thread(
            until, lambda: all(named(read(path), "relay:ended") for path in told["files"]), "last records"
        )
        for path in told["files"]:
            events = read(path)
            assert named(events, "relay:ended") == [{"why": "call_over"}]
            assert named(events, "relay:lane")
            assert "stream" in [
                frame["frame_type"]
                for data in named(events, "transport:packet_sent")
                for frame in data["frames"]
            ]
        text = "".join(map(whole, told["files"]))
        assert call.hex() not in text
        assert "127.0.0.1" not in text
        (explained,) = (await asked(daemon, "explain", ann.reference))[1]["calls"]
        assert explained["qlogs"] == told["files"]
        assert daemon.complaints() == []


async def test_what_the_command_cannot_do_it_says() -> None:
    with Daemon.start() as daemon:
        status, told = await asked(daemon, "qlog", "101112131415")
        assert (status, told["name"]) == (1, "CALL_NOT_FOUND")
        status, told = await asked(daemon, "qlog", "what")
        assert (status, told["key"]) == (2, "CALL")
        status, told = await asked(daemon, "qlog", "101112131415", "--list")
        assert (status, told["ok"]) == (1, False)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "relay", "qlog", "101112131415", "--socket", "/nowhere/s", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "is the daemon there?" in json.loads(done.stdout)["error"]


async def test_a_share_in_the_configuration_traces_calls_until_the_daemon_stops() -> None:
    with Daemon.start(qlog=QlogConfig(share=1.0)) as daemon:
        call = secrets.token_bytes(16)
        await _talk(daemon, call, 0.3)
        folder = daemon.folder / "qlog"
        await asyncio.to_thread(until, lambda: len(list(folder.glob("*.sqlog"))) == 2, "files")
        os.kill(daemon.pid, signal.SIGTERM)
        assert await asyncio.to_thread(daemon.wait, 15) == 0
        events = [read(path) for path in folder.glob("*.sqlog")]
        assert all(named(one, "relay:ended") for one in events)
        assert max(named(one, "relay:lane")[-1]["up_forwarded"] for one in events) == 15


async def test_a_leg_that_is_not_on_quic_has_the_lanes_counter_alone() -> None:
    with Daemon.start(web=("127.0.0.1:0",), qlog=QlogConfig(share=1.0)) as daemon:
        call = secrets.token_bytes(16)
        urls = (f"quic://127.0.0.1:{daemon.server[1]}", f"wss://127.0.0.1:{daemon.web_ports[0]}/vrl/1")
        async with contextlib.AsyncExitStack() as stack:
            people = []
            for url in urls:
                raw = mint(daemon.seed, call, net=token.NET_TCP_LEGS)
                cert = str(daemon.folder / "cert.pem")
                link = client.connect(url, token=raw, proxy="", ca=cert, server_name="localhost")
                session = await stack.enter_async_context(link)
                people.append(await session.join())
            for one in people:
                await one.keys_agreed()
                await one.accept()
            for one in people:
                await one.peer_accepted()
            await asyncio.gather(*(one.speak(client.ToneSource(440, 1.2)) for one in people))
            folder = daemon.folder / "qlog"
            await asyncio.to_thread(until, lambda: len(list(folder.glob("*.sqlog"))) == 2, "files")
            await people[0].hangup()
        await asyncio.to_thread(
            until, lambda: all(named(read(path), "relay:ended") for path in folder.glob("*.sqlog")), "the end"
        )
        quic, web = (read(path) for path in sorted(folder.glob("*.sqlog")))
        assert named(quic, "transport:packet_sent")
        assert {each["name"] for each in web} == {"relay:lane", "relay:ended"}
        assert all(set(data) == {"up_forwarded"} for data in named(web, "relay:lane"))
        assert named(web, "relay:lane")[-1]["up_forwarded"] > 0
