"""Every hostile beginning of the table, with real sockets, TLS and all that is served on the port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from edge.test_turn_streams import Here
from hostile import table_streams as table
from relay.config import LimitsConfig
from relay.config_turn import TurnConfig
from relay.edge import turn_streams
from relay.errors import ErrorCode
from relay.protocol import stun
from relay.protocol.control import Bye, decode
from relay.protocol.demux import StreamKind
from relay.protocol.records import RecordReader
from relay.protocol.stun import Class
from tlsdoor import Door, door

HANDSHAKE_S = 0.6


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[Door]:
    """One port with legs, records and TURN on it."""
    turn = Here(tmp_path)
    streams = turn.start(LimitsConfig())
    async with door(tmp_path, handshake_s=HANDSHAKE_S) as made:
        made.edge.listener.offer(StreamKind.TURN, streams.adopt, is_leg=True)
        made.turn = streams
        yield made
        for stream in list(streams._open):
            stream.abort()
    await turn.stop()


async def all_of(reader: asyncio.StreamReader, most: int | None = None) -> bytes:
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            return await (reader.read() if most is None else reader.read(most))
    return b""


@pytest.mark.parametrize("row", table.OPENINGS, ids=lambda row: row.id)
async def test_a_beginning_is_answered_by_whom_it_is_for_or_closed(port: Door, row: table.Opening) -> None:
    reader, writer = await port.dial(*row.alpn)
    with contextlib.closing(writer):
        writer.write(row.sent)
        if row.answer == table.STUN_ANSWER:
            assert stun.parse(await all_of(reader, 4096)).cls is Class.SUCCESS
            assert port.edge.listener.half_open == 0
            return
        said = await all_of(reader)
    if row.answer == table.SILENCE:
        assert said == b""
    elif isinstance(row.answer, ErrorCode):
        records = RecordReader()
        records.feed(said)
        last = list(iter(records.next, None))[-1]
        bye = decode(last[1:]).body
        assert isinstance(bye, Bye)
        assert bye.code == row.answer
    else:
        assert said.partition(b"\r\n")[0].split()[1] == str(row.answer).encode()
    assert port.streams.internal_errors == 0
    await port.until(lambda: port.edge.listener.connections == 0)


@pytest.mark.parametrize("row", table.WAITINGS, ids=lambda row: row.id)
async def test_who_does_not_go_on_is_let_go(
    port: Door, row: table.Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_streams, "UNUSED_S", HANDSHAKE_S)
    reader, writer = await port.dial(*row.alpn)
    with contextlib.closing(writer):
        writer.write(row.sent)
        await all_of(reader)
        await port.until(lambda: port.edge.listener.connections == 0)
    assert port.turn is not None
    assert port.edge.listener.failed + port.turn.unused == 1
    assert port.edge.listener.half_open == len(port.turn) == 0


async def test_where_turn_is_not_served_its_first_byte_ends_the_connection(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        for alpn in ((), ("stun.turn",), ("h2",)):
            reader, writer = await here.dial(*alpn)
            with contextlib.closing(writer):
                writer.write(table.BINDING)
                assert await all_of(reader) == b""
        await here.until(lambda: here.edge.listener.connections == 0)
        assert here.edge.listener.failed == 3


async def test_clients_on_this_port_are_within_the_limits_of_turn(port: Door) -> None:
    assert port.turn is not None
    port.turn._config = TurnConfig(streams=1)
    reader, writer = await port.dial("stun.turn")
    with contextlib.closing(writer):
        writer.write(table.BINDING)
        assert stun.parse(await all_of(reader, 4096)).cls is Class.SUCCESS
        late, other = await port.dial("stun.turn")
        with contextlib.closing(other):
            assert await all_of(late) == b""
        assert port.turn.refused.total() == 1
