"""Every hostile token, ticket and command of the table, shown to the real engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hostile import table_admission as table
from pair import ISSUER, Client, World
from relay.errors import ErrorCode
from relay.ops.commands import CommandServer
from relay.protocol import command, control, signed
from relay.protocol.ids import Jti


def refused(client: Client, code: ErrorCode) -> None:
    """The client was told `code`, closed with it, and nothing of it is left."""
    assert client.closed is code
    assert not client.all(control.Joined)
    told = [ErrorCode(one.code) for one in client.all(control.Err)]
    assert told in ([code], [])
    client.world.check()


@pytest.mark.parametrize("row", table.CLAIMS, ids=lambda row: row.id)
def test_a_token_with_one_claim_wrong_is_refused_with_its_code(row: table.Claim) -> None:
    world = World()
    client = world.client(table.token_of(world, row.changes), row.transport).open()
    client.ask(control.Hello(tok=client.raw, leg=row.transport))  # type: ignore[arg-type]  # a literal at run time
    refused(client, row.code)
    assert world.engine.spent_tokens == 0


@pytest.mark.parametrize("row", table.ENVELOPES, ids=lambda row: row.id)
def test_a_damaged_token_is_refused_and_nothing_more_is_told(row: table.Envelope) -> None:
    world = World()
    client = world.client(row.change(world.call().token())).open()
    client.ask(control.Hello(tok=client.raw))
    refused(client, ErrorCode.TOKEN_INVALID)


def test_the_token_that_all_these_are_made_of_is_good() -> None:
    world = World()
    client = world.client(table.token_of(world, {})).open()
    assert isinstance(client.hello(), control.Welcome)


@pytest.mark.parametrize("row", table.PROOFS, ids=lambda row: row.id)
def test_a_token_in_the_wrong_hands_is_refused(row: table.Proof) -> None:
    refused(row.act(World()), row.code)


@pytest.mark.parametrize("row", table.RESUMES, ids=lambda row: row.id)
def test_a_ticket_that_names_no_place_resumes_nothing(row: table.Resume) -> None:
    world = World()
    ann, _ = world.talking(key=row.key)
    ann.lose()
    client = row.show(world, ann)
    refused(client, row.code)
    assert not client.all(control.Welcome)


def order(ann: Client, changes: dict[str, Any]) -> bytes:
    """A command that ends ann's call, but for these fields."""
    end = command.Command(op="end", cid=ann.cid, iat=table.NOW, exp=table.NOW + 60, id=Jti(b"\7" * 16))
    body = table.patched(command.encode_command(end), changes)
    return signed.seal(command.MAGIC, command.DOMAIN, body, ISSUER)


@pytest.mark.parametrize("row", table.ORDERS, ids=lambda row: row.id)
def test_a_command_with_one_thing_wrong_does_nothing(row: table.Order) -> None:
    world = World()
    ann, bob = world.talking()
    raw = order(ann, row.changes)
    if row.damage is not None:
        raw = row.damage(raw)
    if row.before is not None:
        row.before(world, raw)
    calls, closed = world.engine.calls, (ann.closed, bob.closed)
    assert world.command_raw(raw) is row.code
    assert (world.engine.calls, (ann.closed, bob.closed)) == (calls, closed)
    world.check()


def test_the_command_that_all_these_are_made_of_is_good() -> None:
    world = World()
    ann, _ = world.talking()
    assert world.command_raw(order(ann, {})) is ErrorCode.NO_ERROR
    assert world.engine.calls == 0


@pytest.mark.parametrize("row", table.LINES, ids=lambda row: row.id)
async def test_a_hostile_line_on_the_command_socket_is_named(row: table.Line, tmp_path: Path) -> None:
    world = World()
    answers = iter(range(1, 9))

    def submit(raw: bytes, done: Any) -> None:
        world.command_raw(raw)
        answer = world.commands[next(answers)]
        done(answer.code, answer.message)

    def trace(wish: Any) -> Any:
        raise AssertionError(f"{wish} was taken for a wish")

    server = CommandServer(submit, trace)
    await server.start(str(tmp_path / "sock"))
    try:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "sock"))
        writer.write(row.data)
        answer = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
    finally:
        await server.close()
    assert (answer["ok"], answer["name"]) == (False, row.name)
