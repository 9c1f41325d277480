"""The leg in bare TLS, with real sockets: what it says, how it ends, how fast it is read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol.control import Bye, decode
from relay.protocol.records import MAX_RECORD, RecordReader, encode_record
from tlsdoor import Door, door


class Client:
    """A connection, record by record."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._records = RecordReader()

    def say(self, *records: bytes) -> None:
        self.writer.write(b"".join(map(encode_record, records)))

    async def next(self) -> bytes | None:
        """The next record of the relay; None when it ended the connection."""
        async with asyncio.timeout(10):
            while (record := self._records.next()) is None:
                data = await self.reader.read(65_536)
                if not data:
                    return None
                self._records.feed(data)
        return record

    async def farewell(self) -> int:
        """The code with which the relay ends it, as its last record."""
        record = await self.next()
        assert record is not None
        assert record[0] == 0xC0
        message = decode(record[1:]).body
        assert isinstance(message, Bye)
        assert await self.next() is None
        return message.code


@contextlib.asynccontextmanager
async def client(here: Door) -> AsyncIterator[Client]:
    reader, writer = await here.dial("vrl/1")
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_leg_comes_speaks_and_goes(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        async with client(here) as one:
            one.say(b"\0\1ping", b"\xc0\x93")
            await here.until(lambda: len(here.facts) == 3)
            assert here.edge.listener.half_open == 0
            here.streams.send_stream(1, b"\0\2ab\0\1c")
            here.streams.send_datagram(1, b"\0\2here")
            assert [await one.next() for _ in range(2)] == [b"\xc0ab", b"\xc0c"]
        await here.until(lambda: len(here.facts) == 4)
    assert here.facts == [
        ("opened", 1, "tls"),
        ("datagram", 1, b"\0\1ping"),
        ("stream", 1, b"\0\1\x93"),
        ("lost", 1, ErrorCode.GENERAL),
    ]
    assert here.streams.imbalance() == 0


async def test_the_relays_last_record_says_why(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here) as one:
        await here.until(lambda: len(here.streams) == 1)
        here.streams.send_stream(1, b"\0\2ab")
        here.streams.close(1, ErrorCode.DRAIN_TIMEOUT, "enough")
        assert await one.next() == b"\xc0ab"
        assert await one.farewell() == ErrorCode.DRAIN_TIMEOUT
        assert here.facts[-1] == ("lost", 1, ErrorCode.DRAIN_TIMEOUT)


async def test_a_node_that_takes_nobody_says_so(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.accepting = False
        async with client(here) as one:
            assert await one.farewell() == ErrorCode.DRAINING
        assert here.facts == []


async def test_a_peer_that_does_not_hear_the_goodbye_is_cut_off(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here) as one:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can be read
        await here.until(lambda: len(here.streams) == 1)
        (leg,) = here.raw.open
        while not leg._transport.get_write_buffer_size():
            leg.write(b"\0" + bytes(16_000))
            await asyncio.sleep(0)
        here.streams.close(1, ErrorCode.MOVED, "")
        await here.until(lambda: here.edge.listener.connections == 0)


async def test_a_record_that_comes_byte_by_byte_is_one(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here) as one:
        for byte in encode_record(b"\0\1slowly") * 2:
            one.writer.write(bytes((byte,)))
            await one.writer.drain()
        await here.until(lambda: len(here.facts) == 3)
        assert here.facts[1:] == [("datagram", 1, b"\0\1slowly")] * 2


async def test_a_peer_that_speaks_too_fast_is_read_at_a_pace(tmp_path: Path) -> None:
    async with door(tmp_path, max_pps=100) as here, client(here) as one:
        begun = time.monotonic()
        one.say(*[b"\0\1"] * 450)
        await here.until(lambda: here.streams.handled["datagram"] == 450)
        assert time.monotonic() - begun > 1.0


async def test_a_flood_on_one_leg_does_not_keep_another_waiting(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here) as noisy, client(here) as quiet:
        await here.until(lambda: len(here.streams) == 2)
        noisy.say(*[b"\0\1"] * 20_000)
        quiet.say(b"\0\1quiet")
        await here.until(lambda: ("datagram", 2, b"\0\1quiet") in here.facts)
        assert here.streams.handled["datagram"] < 10_000


async def test_what_comes_after_the_end_is_nobodys(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here) as one:
        one.say(b"\0\1", b"\0" * MAX_RECORD)
        one.writer.write(b"\0\0")
        one.say(b"\0\1")
        assert await one.farewell() == ErrorCode.PROTOCOL_VIOLATION
        assert here.streams.dropped[DropReason.MALFORMED] == 1
        assert here.facts[-1] == ("lost", 1, ErrorCode.PROTOCOL_VIOLATION)


async def test_a_reload_changes_the_pace_of_those_to_come(tmp_path: Path) -> None:
    async with door(tmp_path, max_pps=100) as here:
        here.raw.configure(LimitsConfig(max_pps=100_000))
        async with client(here) as one:
            begun = time.monotonic()
            one.say(*[b"\0\1"] * 4500)
            await here.until(lambda: here.streams.handled["datagram"] == 4500)
            assert time.monotonic() - begun < 10.0  # at the pace before it would be twenty
