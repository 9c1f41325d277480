"""This version and the one before it (previous.py) call each other, follow each other, and go back again.

Real processes on loopback. `old` is the previous version's code, `new` is this tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from client.hearing import until
from client.proxy import Proxy
from client.rig import Rig, daemon, prepare, public_of
from compat import previous
from lab.generations import Box
from lanes import LANES
from relay import settings
from relay.config import Config, parse, render
from relay.protocol import handover
from supervisor import Supervisor

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
ROOT = Path(__file__).parents[2]
PERSON = Path(__file__).with_name("person.py")
DRAIN = "grace_s = 0\nsmear_s = 0.2\ndeadline_s = 20"
PATIENCE_S = 30.0
PACKETS = 25  # half a second of speech
PAIRS = [("old", "new"), ("new", "old"), ("old", "old")]

CHANGED_DEFAULTS = ["clients.app"]  # canary calls are counted by their own name

Trees = Mapping[str, Path]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return {"old": previous.unpack(tmp_path_factory.mktemp("previous")), "new": ROOT}


class Person:
    """Somebody in a call, in a process of one of the two versions."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def hear(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)
        return dict(json.loads(line or '{"error": "the program ended"}'))

    async def do(self, order: str) -> dict[str, Any]:
        """Give an order, wait for what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        return await self.hear()

    async def hears(self, packets: int = PACKETS) -> dict[str, Any]:
        """Wait until so many more packets came; how it stands then."""
        begun = (await self.do("stats"))["received"]
        facts = await self._until(lambda facts: facts["received"] >= begun + packets)
        assert (facts["error"], facts["unopened"]) == (None, 0)
        return facts

    async def moved(self, times: int = 1) -> None:
        """Wait until it went to another leg so often."""

        await self._until(lambda facts: facts["moves"] >= times)

    async def _until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                facts = await self.do("stats")
                if holds(facts):
                    return facts
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def talking(
    trees: Trees, rig: Rig, versions: tuple[str, str], urls: tuple[str, str] = ("", "")
) -> AsyncIterator[list[Person]]:
    """Two people in a call who hear each other; the first one opened it."""
    call, processes, people = os.urandom(16), [], []
    try:
        for who, (version, url) in enumerate(zip(versions, urls, strict=True)):
            seed = os.urandom(32)
            token = rig.token(call, who, public_of(seed))
            plan = {"url": url or rig.url, "token": token.hex(), "seed": seed.hex()}
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(PERSON), json.dumps(plan),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(trees[version])},
            )  # fmt: skip
            processes.append(process)
            people.append(Person(process))
            said = await people[-1].hear()
            assert said == {"code": str(trees[version] / "relay" / "__init__.py")}
        assert await asyncio.gather(*(one.do("accept") for one in people)) == [{"accepted": True}] * 2
        for one in people:
            await one.hears()
        yield people
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def hung_up(people: list[Person]) -> str:
    """The first one hangs up; how it ended for the other one."""
    assert await people[0].do("hangup") == {"hung_up": True}
    return str((await people[1].do("ended"))["why"])


def test_the_data_are_the_bytes_of_the_commit_that_they_name(trees: Trees) -> None:
    """Where this clone has that commit; a shallow one has the archive alone."""
    assert not (trees["old"] / "relay" / "_lane.abi3.so").exists()
    if subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", previous.commit()], check=False).returncode:
        pytest.skip("a clone without that commit")
    assert previous.files(previous.unpacked()) == previous.files(previous.packed(previous.commit(), ROOT))


# ---------------------------------------------------------------- calls


@pytest.fixture(scope="module", params=LANES)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("node"), lane=request.param) as running:
        yield running


@pytest.mark.parametrize("versions", PAIRS)
async def test_sdks_of_both_versions_call_each_other(
    trees: Trees, rig: Rig, versions: tuple[str, str]
) -> None:
    async with talking(trees, rig, versions) as people:
        assert await hung_up(people) == "completed"


async def test_the_old_sdk_on_websocket_talks_to_the_new_one_on_udp(trees: Trees, rig: Rig) -> None:
    async with talking(trees, rig, ("old", "new"), (rig.wss, "")) as people:
        assert [(await one.do("stats"))["transport"] for one in people] == ["ws", "quic"]
        assert await hung_up(people) == "completed"


async def test_the_old_sdk_keeps_its_call_when_its_address_changes(trees: Trees, rig: Rig) -> None:
    path = await Proxy(("127.0.0.1", int(rig.url.rpartition(":")[2]))).open()
    try:
        async with talking(trees, rig, ("old", "new"), (path.url, "")) as people:
            before = rig.metric("relay_legs_moved_total")
            path.rebind()
            for one in people:
                assert (await one.hears(2 * PACKETS))["moves"] == 0
            assert rig.metric("relay_legs_moved_total") > before
            assert await hung_up(people) == "completed"
    finally:
        await path.close()


# ---------------------------------------------------------------- nodes


@pytest.mark.parametrize(("leaves", "stays"), [("old", "new"), ("new", "old")])
async def test_people_go_from_a_node_of_one_version_to_one_of_the_other(
    trees: Trees, tmp_path: Path, leaves: str, stays: str
) -> None:
    """A rolling upgrade of a cluster, and its way back."""
    folders = [tmp_path / name for name in ("stays", "leaves")]
    for folder in folders:
        folder.mkdir()
    with daemon(folders[0], tree=trees[stays]) as there:
        drain = f'[drain]\n{DRAIN}\nto = ["{there.url}"]\n'
        with daemon(folders[1], more=drain, beside=there, tree=trees[leaves]) as here:
            async with talking(trees, here, ("old", "new")) as people:
                os.kill(here.pid, signal.SIGTERM)
                for one in people:
                    await one.moved()
                assert there.metric("relay_calls") == 1
                for one in people:
                    await one.hears()
                assert await hung_up(people) == "completed"


@pytest.mark.parametrize("lane", LANES)
async def test_an_upgrade_and_a_downgrade_on_the_same_addresses_keep_the_call(
    trees: Trees, tmp_path: Path, lane: str
) -> None:
    """The old generation gives way to the new one, which gives way to the old one again.

    The previous daemon has no native lane here, and takes its own kind of lane beside either.
    """
    with Box(tmp_path, lane="auto" if lane == "native" else lane, drain=DRAIN) as box:
        running = box.start(tree=trees["old"])
        async with talking(trees, box.rig, ("old", "new")) as people:
            for moves, version in enumerate(("new", "old"), start=1):
                follower = await asyncio.to_thread(box.start, tree=trees[version])
                for one in people:
                    await one.moved(moves)
                assert await asyncio.to_thread(running.wait, PATIENCE_S) == 0
                for one in people:
                    await one.hears()
                running = follower
            assert await hung_up(people) == "completed"
        await until(lambda: len(box.records()) == 3)
        assert [outcome for _, outcome in box.records()] == ["moved", "moved", "completed"]
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        kinds = [json.loads(line)["kind"] for line in lines]
        assert [kinds.count(kind) for kind in ("call.adopted", "call.moved", "call.ended")] == [2, 2, 1]


async def test_a_generation_that_speaks_another_hand_over_ends_with_a_line_and_the_call_goes_on(
    trees: Trees, tmp_path: Path
) -> None:
    """What a version does that cannot be followed: nothing is lost by trying."""
    strange = previous.unpack(tmp_path / "strange")
    file = strange / "relay" / "edge" / "succession.py"
    text = file.read_text()
    assert text.count("VERSION: Final = 1\n") == 1
    file.write_text(text.replace("VERSION: Final = 1\n", "VERSION: Final = 2\n"))
    with Box(tmp_path, drain=DRAIN) as box:
        running = box.start(tree=trees["new"])
        async with talking(trees, box.rig, ("old", "new")) as people:
            refused = await asyncio.to_thread(box.start, wait=False, tree=strange)
            assert await asyncio.to_thread(refused.wait, PATIENCE_S) != 0
            assert "speaks another version" in box.log(1)
            for one in people:
                assert (await one.hears())["moves"] == 0
            assert running.poll() is None
            assert await hung_up(people) == "completed"


@pytest.mark.parametrize(("dies", "comes"), [("old", "new"), ("new", "old")])
async def test_what_one_version_kept_over_its_crash_the_other_goes_on_from(
    trees: Trees, tmp_path: Path, dies: str, comes: str
) -> None:
    rig, command = prepare(tmp_path, lane="python")
    supervisor = Supervisor(previous.run_by(trees[dies], command), tmp_path / "log")
    try:
        supervisor.start()
        async with talking(trees, rig, ("old", "new")) as people:
            supervisor.kill()
            supervisor.command = previous.run_by(trees[comes], command)
            await asyncio.to_thread(supervisor.start)
            for one in people:
                await one.hears()
            for one in people:
                await one.moved()
            assert await hung_up(people) == "completed"
        assert "going on after a crash" in (tmp_path / "log").read_text()
    finally:
        supervisor.close()


def test_a_ticket_that_tells_of_a_rollout_is_read_by_the_old_version_too(trees: Trees) -> None:
    """Bits that it does not know it passes over: the call goes on there, without its variant."""
    vectors = json.loads((ROOT / "tests" / "vectors" / "handover.json").read_text())
    key, nonce, ticket = (bytes.fromhex(vectors[name]) for name in ("key", "nonce", "ticket"))
    body = handover.open(ticket, [key])
    flags = body.flags | handover.IN_ROLLOUT | handover.IS_CANDIDATE | handover.IS_SAMPLED
    blob = handover.seal(dataclasses.replace(body, flags=flags), key, nonce)
    assert handover.open(blob, [key]).flags == flags
    program = (
        "import sys; from relay.protocol import handover; "
        "body = handover.open(bytes.fromhex(sys.argv[1]), [bytes.fromhex(sys.argv[2])]); "
        "print(body.c.hex(), body.flags & handover.IS_PAIR, len(body.seats))"
    )
    command = previous.run_by(trees["old"], [sys.executable, "-c", program, blob.hex(), key.hex()])
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert told == [body.c.hex(), "1", "2"]


# ---------------------------------------------------------------- configuration


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_the_old_configuration_means_here_what_it_meant_there(trees: Trees) -> None:
    """Every key that it writes out is one of ours, and keeps its value."""
    text = (trees["old"] / previous.CONFIG).read_text()
    ours = dict(_leaves(tomllib.loads(render(parse(text)))))
    for key, value in _leaves(tomllib.loads(text)):
        if key == "policy":
            assert [dict(row) for row in ours[key]] == value
        else:
            assert ours[key] == value, key


def test_of_the_old_defaults_those_changed_that_are_named_here(trees: Trees) -> None:
    """An upgrade that changes what an unwritten setting does is told in CHANGELOG.md, and stands here."""
    text = (trees["old"] / previous.CONFIG).read_text()
    assert settings.changed_keys(parse(text), Config()) == CHANGED_DEFAULTS


def checked(tree: Path, file: Path) -> subprocess.CompletedProcess[str]:
    """`relay check-config` of that version."""
    command = previous.run_by(tree, [sys.executable, "-m", "relay", "check-config", str(file)])
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_key_that_the_old_version_does_not_know_is_refused_there_by_name(
    trees: Trees, tmp_path: Path
) -> None:
    """So that a downgrade with such a file fails before anything is stopped."""
    file = tmp_path / "relay.toml"
    row = f'[[tokens.issuers]]\nname = "app"\npublic_key = "{"ab" * 32}"\n'
    file.write_text(row)
    assert [checked(trees[each], file).returncode for each in ("old", "new")] == [0, 0]
    file.write_text(row + "apart = true\n")
    assert checked(trees["new"], file).returncode == 0
    refused = checked(trees["old"], file)
    assert refused.returncode == 2
    assert "tokens.issuers[0].apart" in refused.stderr
