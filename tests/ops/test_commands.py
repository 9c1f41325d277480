"""The command socket over a real Unix socket: who may connect, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigError, ErrorCode, LocalError
from relay.ops import commands
from relay.ops.commands import Answer, CommandServer, Done, QlogWish, send, wish

RAW = b"VC1" + bytes(100)


class Engine:
    """Answers as the test says, at once, as the real one does."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.answer: tuple[ErrorCode, str] | None = (ErrorCode.NO_ERROR, "")
        self.late: list[Done] = []
        self.wishes: list[QlogWish] = []

    def submit(self, raw: bytes, done: Done) -> None:
        self.got.append(raw)
        if self.answer is None:
            self.late.append(done)
        else:
            done(*self.answer)

    def trace(self, wish: QlogWish) -> Answer:
        self.wishes.append(wish)
        return ErrorCode.NO_ERROR, "", {"files": ["a.sqlog"]}


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "commands.sock")


@pytest.fixture
async def server(engine: Engine, path: str) -> AsyncIterator[CommandServer]:
    server = CommandServer(engine.submit, engine.trace)
    await server.start(path)
    yield server
    await server.close()


async def talk(path: str, data: bytes, *, end: bool = True) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    if end:
        writer.write_eof()
    answers = (await reader.read()).splitlines()
    writer.close()
    await writer.wait_closed()
    return [json.loads(answer) for answer in answers]


async def test_a_command_goes_in_and_its_outcome_comes_back(
    server: CommandServer, engine: Engine, path: str
) -> None:
    answer = await asyncio.to_thread(send, path, RAW)
    assert answer == {"ok": True, "code": 0, "name": "NO_ERROR", "message": ""}
    assert engine.got == [RAW]
    assert server.taken == 1


async def test_a_refusal_names_its_code(server: CommandServer, engine: Engine, path: str) -> None:
    engine.answer = (ErrorCode.TOKEN_REPLAYED, "used before")
    answer = await asyncio.to_thread(send, path, RAW)
    assert answer == {"ok": False, "code": 0x13, "name": "TOKEN_REPLAYED", "message": "used before"}


async def test_several_commands_of_one_connection_are_answered_in_order(
    server: CommandServer, engine: Engine, path: str
) -> None:
    lines = [base64.b64encode(bytes([n]) * 9) + b"\n" for n in range(5)]
    answers = await talk(path, b"".join(lines))
    assert [answer["ok"] for answer in answers] == [True] * 5
    assert engine.got == [bytes([n]) * 9 for n in range(5)]


async def test_a_wish_for_a_qlog_needs_no_signature(server: CommandServer, engine: Engine, path: str) -> None:
    answer = await asyncio.to_thread(wish, path, QlogWish("101112131415", on=False))
    assert (answer["ok"], answer["files"]) == (True, ["a.sqlog"])
    assert engine.wishes == [QlogWish("101112131415", on=False)]
    assert not engine.got


@pytest.mark.parametrize(
    "line", [b"{\n", b"{}\n", b'{"qlog": 7}\n', b'{"qlog": "1", "end": "1"}\n', b'{"qlog": "\xff"}\n']
)
async def test_what_is_no_wish_is_refused_and_asks_for_nothing(
    server: CommandServer, engine: Engine, path: str, line: bytes
) -> None:
    (answer,) = await talk(path, line)
    assert answer["name"] == "BAD_ENCODING"
    assert not engine.wishes
    assert not engine.got


@pytest.mark.parametrize("line", [b"!!!\n", b"abc\n", b"\xff\xfe\n", b"YWJj YWJj\n"])
async def test_what_is_not_base64_never_reaches_the_engine(
    server: CommandServer, engine: Engine, path: str, line: bytes
) -> None:
    (answer,) = await talk(path, line)
    assert answer["name"] == "BAD_ENCODING"
    assert not engine.got


async def test_a_line_without_end_is_cut_off(server: CommandServer, engine: Engine, path: str) -> None:
    (answer,) = await talk(path, b"A" * 10_000, end=False)
    assert answer["name"] == "TOO_LARGE"
    assert not engine.got


async def test_a_silent_connection_is_dropped(
    server: CommandServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "IDLE", 0.01)
    assert await talk(path, b"", end=False) == []


async def test_an_engine_that_does_not_answer_is_no_reason_to_hang(
    server: CommandServer, engine: Engine, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ANSWER", 0.01)
    engine.answer = None
    (answer,) = await talk(path, base64.b64encode(RAW) + b"\n")
    assert answer["name"] == "INTERNAL"
    engine.late[0](ErrorCode.NO_ERROR, "")  # too late, and harmless


async def test_more_connections_than_allowed_are_closed_at_once(
    server: CommandServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_CONNECTIONS", 1)
    answers, first = await asyncio.open_unix_connection(path)
    first.write(b"!\n")
    await answers.readline()  # the first connection is being served
    reader, second = await asyncio.open_unix_connection(path)
    assert await reader.read() == b""
    for writer in (first, second):
        writer.close()
        await writer.wait_closed()


async def test_the_socket_is_the_owners_alone_and_goes_with_the_server(engine: Engine, path: str) -> None:
    server = CommandServer(engine.submit, engine.trace)
    before = os.umask(0)
    try:
        await server.start(path)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"!\n")
    await reader.readline()  # the connection is being served
    await server.close()
    await server.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(FileNotFoundError):
        os.stat(path)


async def test_a_dead_socket_of_before_is_replaced_and_a_live_one_is_not(engine: Engine, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    first = CommandServer(engine.submit, engine.trace)
    await first.start(path)
    with pytest.raises(ConfigError, match="is in use"):
        await CommandServer(engine.submit, engine.trace).start(path)
    await first.close()


async def test_a_path_that_cannot_be_had_is_a_configuration_error(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for where in (tmp_path / "file", tmp_path / "no" / "folder"):
        with pytest.raises(ConfigError, match=r"listen\.command_socket: cannot listen"):
            await CommandServer(engine.submit, engine.trace).start(str(where))
    assert (tmp_path / "file").read_text() == "precious"


async def test_an_inherited_socket_serves_too(engine: Engine, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        server = CommandServer(engine.submit, engine.trace)
        await server.start(sock)
        assert (await asyncio.to_thread(send, path, RAW))["ok"]
        await server.close()
    os.stat(path)  # still there: it belongs to whoever made it


@pytest.mark.parametrize(("answer", "error"), [(b"", ConnectionResetError), (b"[]\n", LocalError)])
def test_a_server_that_answers_nonsense_is_told_as_an_error(
    path: str, answer: bytes, error: type[Exception]
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()

        async def scene() -> None:
            sending = asyncio.create_task(asyncio.to_thread(send, path, RAW))
            connection, _ = await asyncio.to_thread(sock.accept)
            with connection:
                await asyncio.to_thread(connection.recv, 4096)
                connection.sendall(answer)
            with pytest.raises(error):
                await sending

        asyncio.run(scene())


def test_nobody_there_is_an_os_error(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        send(path, RAW)
