"""One generation follows the other over a Unix socket: both sides on one loop, a house of cardboard."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from relay.edge.succession import Incumbent, Predecessor
from relay.errors import ConfigError


class House:
    """Notes what it is asked for."""

    generation = 1

    def __init__(self) -> None:
        self.done: list[str] = []
        self.calls = [b"one", b"two", bytes(12_000)]
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))

    def handed(self) -> Iterable[tuple[str, socket.socket]]:
        return [("udp", self.sock)]

    async def release(self) -> None:
        self.done.append("release")

    async def reclaim(self) -> None:
        self.done.append("reclaim")

    def tickets(self) -> Iterable[bytes]:
        return self.calls

    def trunks(self):
        return ["fra-1"]

    def succeeded(self) -> None:
        self.done.append("succeeded")

    def leave(self) -> None:
        self.done.append("leave")

    def figures(self) -> dict[str, Any]:
        return {"state": "moving", "legs": 3, "calls": 2, "allocations": 0}


class Side:
    """The incumbent, and what leads to it."""

    def __init__(self, path: str) -> None:
        self.house, self.path = House(), path
        self.incumbent = Incumbent(asyncio.get_running_loop(), self.house)
        self.incumbent.listen(path)

    @property
    def is_listening(self) -> bool:
        return Path(self.path).exists()

    @property
    def mode(self) -> int:
        return Path(self.path).stat().st_mode

    async def find(self) -> Predecessor:
        found = await asyncio.to_thread(Predecessor.find, self.path)
        assert found is not None
        found.attend(asyncio.get_running_loop())
        return found


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    made = Side(str(tmp_path / "handover.sock"))
    yield made
    made.incumbent.close()
    made.house.sock.close()


def let_go(one: Predecessor) -> None:
    one.close()
    for sock in one.sockets.get("udp", []):
        sock.close()


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  what is waited for is many things, and has no event
            await asyncio.sleep(0)


async def test_the_socket_is_the_owners_alone_and_goes_with_the_daemon(side: Side):
    assert stat.S_IMODE(side.mode) == 0o600
    side.incumbent.close()
    assert not side.is_listening


async def test_nobody_is_found_where_nobody_listens(tmp_path: Path):
    assert Predecessor.find(str(tmp_path / "nobody.sock")) is None


async def test_who_comes_gets_the_sockets_then_all_calls_and_is_followed_by_news(side: Side):
    one = await side.find()
    assert one.generation == 1
    assert one.sockets["udp"][0].getsockname() == side.house.sock.getsockname()
    told: list[bytes] = []
    one.on_ticket = told.append
    assert side.house.done == []
    side.incumbent.tell(b"too early")
    await one.release()
    assert told == side.house.calls
    await one.go()
    assert side.house.done == ["release", "succeeded"]
    assert side.incumbent.has_heir
    assert not side.is_listening  # it is the heir's to listen there
    side.incumbent.tell(b"news")
    await until(lambda: told[-1] == b"news" and one.figures)
    assert one.figures["legs"] == 3
    let_go(one)


async def test_an_heir_that_dies_before_it_is_in_service_gives_all_back(side: Side):
    one = await side.find()
    await one.release()
    let_go(one)
    await until(lambda: side.house.done == ["release", "reclaim"])
    assert not side.incumbent.has_heir
    let_go(await side.find())


async def test_an_heir_that_dies_later_makes_room_for_another(side: Side):
    one = await side.find()
    await one.release()
    await one.go()
    let_go(one)
    await until(lambda: side.is_listening)
    assert "reclaim" not in side.house.done
    other = await side.find()
    await other.release()
    await other.go()
    let_go(other)


async def test_there_is_one_heir_at_a_time(side: Side):
    one = await side.find()
    with pytest.raises(ConfigError, match="taking over already"):
        await side.find()
    let_go(one)


async def test_an_incumbent_that_goes_away_is_an_error_and_no_hang(side: Side):
    one = await side.find()
    side.incumbent.close()
    with pytest.raises(ConfigError, match="gone away"):
        await one.release()
    let_go(one)


async def test_go_without_release_is_refused(side: Side):
    one = await side.find()
    with pytest.raises(ConfigError):
        await one.go()
    assert side.house.done == []
    let_go(one)


@pytest.mark.parametrize("said", [b"nonsense", b"[]", b"\0ticket", b'{"op": "dance"}', b'{"op": "release"}'])
async def test_a_stranger_changes_nothing(side: Side, said: bytes):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(side.path)
        peer.setblocking(False)
        peer.send(said)
        answer = json.loads(await asyncio.get_running_loop().sock_recv(peer, 4096))
    assert answer["ok"] is False
    assert side.house.done == []


async def test_an_operator_asks_it_to_leave_and_sees_how_far_it_is(side: Side):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(side.path)
        peer.setblocking(False)
        peer.send(b'{"op": "drain"}')
        answer = json.loads(await asyncio.get_running_loop().sock_recv(peer, 4096))
    assert answer["state"] == "moving"
    assert side.house.done == ["leave"]


async def test_an_incumbent_of_another_version_is_not_followed(tmp_path: Path):
    path = str(tmp_path / "other.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(path)
        sock.listen(1)
        asking = asyncio.create_task(asyncio.to_thread(Predecessor.find, path))
        peer, _ = await asyncio.to_thread(sock.accept)
        peer.send(json.dumps({"ok": True, "v": 2, "generation": 0, "kinds": []}).encode())
        with pytest.raises(ConfigError, match="another version"):
            await asking
        peer.close()
