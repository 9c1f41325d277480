"""The SDK in bare TLS: against a real daemon, and against relays that end it, break the rules or are none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from client.rig import Rig, daemon
from client.test_daemon_calls import accept_both, ear, loud
from client.test_websocket import enter
from quicpair import certificate
from relay.client import RefusedError, SessionError, ToneSource, connect
from relay.client.raw import RawTransport, open_raw
from relay.client.rungs import Destination, parse_url
from relay.client.transport import Trust
from relay.edge.tcp import server_context
from relay.errors import ErrorCode
from relay.protocol.control import Bye, Ping, decode, encode, encode_body
from relay.protocol.demux import StreamKind
from relay.protocol.records import RecordReader, encode_record
from tlsdoor import door


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("daemon"), "auto") as running:
        yield running


def test_an_address_may_name_it() -> None:
    assert parse_url("tls://relay.example") == Destination("tls", "relay.example", 443)
    assert parse_url("tls://[::1]:444") == Destination("tls", "::1", 444)


async def test_a_call_moves_to_it_and_on(rig: Rig) -> None:
    call = os.urandom(16)
    async with AsyncExitStack() as stack:
        session, one = await enter(stack, rig, rig.url, call, 1)
        _, two = await enter(stack, rig, rig.tls, call, 2)
        await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        await accept_both(one, two)
        await session.rejoin(rig.tls, token=rig.token(call, 1))
        assert session.transport == "tls"
        (sink_one, at_one), (sink_two, at_two) = ear(), ear()
        await asyncio.gather(
            one.talk(ToneSource(440, 0.6), sink_one), two.talk(ToneSource(600, 0.6), sink_two)
        )
        assert min(loud(at_one), loud(at_two)) >= 25
        await one.hangup()
        await two.ended()


async def test_a_token_without_the_right_to_tcp_is_refused_by_name(rig: Rig) -> None:
    token = rig.token(os.urandom(16), 1, net=0)
    with pytest.raises(RefusedError) as refused:
        async with connect(rig.tls, token=token, ca=rig.ca, server_name="localhost"):
            pass
    assert refused.value.code == ErrorCode.TRANSPORT_DENIED


async def test_a_relay_that_is_not_trusted_or_not_there_is_an_error_by_name(rig: Rig, tmp_path: Path) -> None:
    token = rig.token(os.urandom(16), 1)
    for url, ca, words in (
        (rig.tls, None, "not trusted"),
        (rig.tls, tmp_path / "none", "CA file"),
        ("tls://127.0.0.1:9", rig.ca, "cannot be reached"),
    ):
        with pytest.raises(SessionError, match=words):
            async with connect(url, token=token, ca=ca):
                pass


class Ear:
    """Keeps what a transport tells."""

    def __init__(self) -> None:
        self.stream = b""
        self.datagrams: list[bytes] = []
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def on_stream(self, data: bytes) -> None:
        self.stream += data

    def on_datagram(self, data: bytes) -> None:
        self.datagrams.append(data)

    def on_closed(self, code: int, reason: str) -> None:
        self.closed.set_result((code, reason))


TRUST = Trust(insecure=True)


async def test_a_server_without_such_legs_is_none(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        context = server_context(*certificate(tmp_path), [StreamKind.WEB])
        here.edge.configure(here.limits, context, ())
        with pytest.raises(SessionError, match="no legs in bare TLS"):
            await open_raw("127.0.0.1", here.port, TRUST, Ear())


@contextlib.asynccontextmanager
async def relay_that_says(
    folder: Path, *said: bytes, ends: bool = False
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of a server that says this to each comer; what it hears is kept."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(said)
        if ends:
            writer.close()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                heard.append(data)
        writer.close()

    context: ssl.SSLContext = server_context(*certificate(folder), [StreamKind.RAW])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def meet(port: int) -> tuple[RawTransport, Ear, tuple[int, str]]:
    ear = Ear()
    transport = await open_raw("127.0.0.1", port, TRUST, ear)
    told = await asyncio.wait_for(ear.closed, 20)
    await transport.wait_closed()
    return transport, ear, told


async def test_the_relays_bye_is_its_close_code(tmp_path: Path) -> None:
    bye = encode_record(b"\xc0" + encode_body(Bye(code=ErrorCode.DRAINING, reason="later")))
    ping = Ping(t=7)
    said = encode_record(b"\0\1ping") + encode_record(b"\xc0" + encode_body(ping)) + bye
    async with relay_that_says(tmp_path, said, encode_record(b"\0\1after")) as (port, _):
        transport, ear, told = await meet(port)
    assert told == (ErrorCode.DRAINING, "later")
    assert (ear.stream, ear.datagrams) == (encode(ping), [b"\0\1ping"])
    assert transport.is_closed


async def test_a_connection_that_ends_without_a_word_broke(tmp_path: Path) -> None:
    async with relay_that_says(tmp_path, ends=True) as (port, _):
        assert (await meet(port))[2] == (ErrorCode.GENERAL, "the connection broke")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"\0\0", ErrorCode.PROTOCOL_VIOLATION),
        (b"\0\1\x40", ErrorCode.PROTOCOL_VIOLATION),
        (b"\xff\xff", ErrorCode.TOO_LARGE),
        (b"\0\2\xc0\xff", ErrorCode.BAD_ENCODING),
    ],
)
async def test_a_relay_against_the_rules_is_told_so(tmp_path: Path, said: bytes, code: ErrorCode) -> None:
    async with relay_that_says(tmp_path, said) as (port, heard):
        assert (await meet(port))[2][0] == code
        async with asyncio.timeout(20):
            while not heard:  # noqa: ASYNC110  # another task's list
                await asyncio.sleep(0.01)
    reader = RecordReader()
    reader.feed(b"".join(heard))
    last = reader.next()
    assert last is not None
    bye = decode(last[1:]).body
    assert isinstance(bye, Bye)
    assert bye.code == code


async def test_what_was_written_before_the_end_leaves_before_the_goodbye(tmp_path: Path) -> None:
    async with relay_that_says(tmp_path) as (port, heard):
        transport = await open_raw("127.0.0.1", port, TRUST, Ear())
        assert transport.local_port > 0
        transport.write(encode(Ping(t=9)))
        transport.close(ErrorCode.MOVED, "there")
        await transport.wait_closed()
    reader = RecordReader()
    reader.feed(b"".join(heard))
    bodies = [decode(record[1:]).body for record in iter(reader.next, None)]
    assert bodies == [Ping(t=9), Bye(code=ErrorCode.MOVED, reason="there")]
