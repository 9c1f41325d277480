"""TURN over TCP and TLS, real sockets on loopback: framing, limits, deadlines, clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_asyncio

from quicpair import certificate, shared_configuration
from relay.config import Config, LimitsConfig
from relay.config_turn import RelayAddress, TurnConfig
from relay.core import turn_events as te
from relay.core.credentials import TurnKeys
from relay.core.reasons import DropReason
from relay.edge import tcp, turn_streams
from relay.edge.assembly import Node, NodeKeys
from relay.edge.bucket import Bucket
from relay.edge.tcp import bind, server_context
from relay.edge.turn_streams import TCP, TLS, TurnStreams
from relay.errors import ConfigError
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.demux import StreamKind
from relay.protocol.keys import ClusterKey
from relay.protocol.relayed import encode_channel_data, parse_channel_data
from relay.protocol.stun import Class, Message
from turnrig import SECRET, TurnClient, code_of

PEER = "127.0.0.2"
BINDING = stun.build(turn.Method.BINDING, Class.REQUEST, b"transaction.")


class Wire:
    """A stream to the relay, read message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = turn.FrameReader()
        self._whole: list[bytes] = []

    async def next(self) -> bytes:
        while not self._whole:
            data = await asyncio.wait_for(self.reader.read(65_536), 10)
            assert data, "the stream ended"
            self._whole += self._frames.feed(data)
        return self._whole.pop(0)

    async def ask(self, request: bytes) -> Message:
        self.writer.write(request)
        return stun.parse(await self.next())

    async def is_over(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 10) == b""
        return True


class Here:
    """A node with its streams; both lanes' relay sockets are tested elsewhere, this is the plain one."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = certificate(folder)
        self.context = server_context(self.certificate, key, [StreamKind.TURN])
        self._wires: list[Wire] = []

    def start(self, limits: LimitsConfig, **changes: Any) -> TurnStreams:
        loop = asyncio.get_running_loop()
        fields: dict[str, Any] = {
            "enabled": True,
            "policy": "open",
            "addresses": (RelayAddress(bind="127.0.0.3"),),
            "secret_file": "/x",
            "credential_s": 86_400,
            "lab_allow_private_peers": True,
        }
        config = Config(lane="python", limits=limits, turn=TurnConfig(**fields | changes))
        keys = NodeKeys.of([ClusterKey(bytes(32))], config, [SECRET])
        self.node = Node(config, keys, shared_configuration(), loop, Mock(), watcher=loop)
        self.streams = TurnStreams(
            loop, self.node.turn, self.node.endpoint, self.node.lane, config.turn, limits, self.context,
            clock=loop.time,
        )  # fmt: skip
        for transport in (TCP, TLS):
            self.streams.listen(bind("127.0.0.1:0", f"turn.{transport}"), transport)
        return self.streams

    async def connect(self, transport: str = TCP) -> Wire:
        tls = None
        if transport == TLS:
            tls = ssl.create_default_context(cafile=self.certificate)
        port = self.streams.ports[transport == TLS]
        name = "localhost" if tls else None
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name))
        self._wires.append(wire)
        return wire

    async def client(self, wire: Wire) -> Client:
        made = Client(wire)
        await made.request(turn.Method.ALLOCATE, turn.transport())
        return made

    async def stop(self) -> None:
        for wire in self._wires:
            wire.writer.transport.abort()
        self.streams.close()
        await until(lambda: not len(self.streams))
        self.node.turn.close()


class Client:
    """A TURN client on a stream; its messages are written by turnrig's."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        rig = SimpleNamespace(wall=time.time(), keys=TurnKeys([SECRET], b""))
        self.says = TurnClient(rig, Address("127.0.0.1", 1), TCP)  # type: ignore[arg-type]  # all it needs

    async def request(self, method: int, *attributes: stun.Attribute) -> Message:
        if not self.says.nonce:
            bare = stun.build(method, Class.REQUEST, self.says.next_transaction(), attributes)
            assert self.says.learn(await self.wire.ask(bare))
        return await self.wire.ask(self.says.written(method, attributes))


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 10 s")


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    made = Here(tmp_path)
    made.start(LimitsConfig(handshake_s=1.0))
    yield made
    await made.stop()


@pytest.mark.parametrize("transport", [TCP, TLS])
async def test_requests_are_answered_however_the_stream_was_cut(here: Here, transport: str) -> None:
    wire = await here.connect(transport)
    for byte in BINDING:
        wire.writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert stun.parse(await wire.next()).cls is Class.SUCCESS
    wire.writer.write(BINDING * 3)
    for _ in range(3):
        assert stun.parse(await wire.next()).cls is Class.SUCCESS


@pytest.mark.parametrize("transport", [TCP, TLS])
async def test_what_client_and_peer_say_passes_both_ways_padded(here: Here, transport: str) -> None:
    client = await here.client(await here.connect(transport))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((PEER, 0))
        peer.settimeout(10)
        where = client.says.peer(*peer.getsockname())
        bound = await client.request(turn.Method.CHANNEL_BIND, turn.channel_number(0x4001), where)
        assert bound.cls is Class.SUCCESS
        client.wire.writer.write(encode_channel_data(0x4001, b"hello", is_stream=True))
        data, relayed = await asyncio.to_thread(peer.recvfrom, 100)
        assert data == b"hello"
        peer.sendto(b"well?", relayed)
        frame = await client.wire.next()
    assert (len(frame), parse_channel_data(frame)) == (12, (0x4001, b"well?"))


async def test_an_allocation_ends_with_its_stream(here: Here) -> None:
    client = await here.client(await here.connect())
    assert here.node.turn.engine.allocations == len(here.node.turn.doors) == 1
    client.wire.writer.close()
    await until(lambda: here.node.turn.engine.allocations == 0)
    assert len(here.node.turn.doors) == 0
    await until(lambda: len(here.streams) == 0)


NO_STREAMS = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"\2",
    b"\0\1\0\2",
    b"\x40\1\0\4data",  # a channel before any request
    BINDING + b"\x40\0\xff\xff",
]


@pytest.mark.parametrize("data", NO_STREAMS)
async def test_what_is_neither_stun_nor_a_channel_ends_the_stream(here: Here, data: bytes) -> None:
    wire = await here.connect()
    wire.writer.write(data)
    assert await wire.is_over()
    assert here.streams.dropped == {DropReason.MALFORMED: 1}


async def test_a_stream_that_asks_for_nothing_is_closed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_streams, "UNUSED_S", 1.0)
    idle, used = await here.connect(), await here.client(await here.connect())
    assert await idle.is_over()
    assert here.streams.unused == 1
    ended = await used.request(turn.Method.REFRESH, turn.lifetime(0))
    assert ended.cls is Class.SUCCESS
    assert await used.wire.is_over()
    assert here.streams.unused == 2


async def test_a_tls_handshake_that_does_not_come_is_given_up(here: Here) -> None:
    _, tls = here.streams.ports
    reader, writer = await asyncio.open_connection("127.0.0.1", tls)
    assert len(here.streams) == 0 or here.streams.accepted == 1
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    await until(lambda: here.streams.failed == 1 and len(here.streams) == 0)
    writer.close()


async def _refused(here: Here, count: int, reason: DropReason) -> None:
    wires = [await here.connect() for _ in range(count + 1)]
    assert await wires[-1].is_over()
    assert here.streams.refused == {reason: 1}
    assert (await wires[0].ask(BINDING)).cls is Class.SUCCESS
    wires[0].writer.close()
    await until(lambda: len(here.streams) == count - 1)
    assert (await (await here.connect()).ask(BINDING)).cls is Class.SUCCESS


async def test_streams_have_a_ceiling_in_all_and_per_source(tmp_path: Path) -> None:
    for changes in ({"streams": 3}, {"streams_per_source": 3}):
        here = Here(tmp_path)
        here.start(LimitsConfig(), **changes)
        await _refused(here, 3, DropReason.QUOTA)
        await here.stop()


async def test_tls_handshakes_have_a_rate(here: Here) -> None:
    here.streams._rate = Bucket(0, 0)
    here.streams.configure(here.streams._config, LimitsConfig(), here.context)  # the same as before
    with contextlib.suppress(OSError):
        await here.connect(TLS)
    assert here.streams.refused == {DropReason.OVER_BUDGET: 1}
    assert (await (await here.connect()).ask(BINDING)).cls is Class.SUCCESS


async def test_a_reload_may_change_the_rate_of_handshakes(here: Here) -> None:
    here.streams._rate = Bucket(0, 0)
    here.streams.configure(here.streams._config, LimitsConfig(tcp_handshakes_per_s=50), here.context)
    assert (await (await here.connect(TLS)).ask(BINDING)).cls is Class.SUCCESS


async def test_a_stream_may_ask_so_often_and_no_more(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_streams, "REQUESTS_PER_S", 0.0)
    monkeypatch.setattr(turn_streams, "REQUESTS_AT_ONCE", 2)
    wire = await here.connect()
    wire.writer.write(BINDING * 5)
    for _ in range(2):
        await wire.next()
    await until(lambda: here.streams.dropped[DropReason.OVER_BUDGET] == 3)


async def test_data_before_any_request_ends_the_stream(here: Here) -> None:
    wire = await here.connect()
    wire.writer.write(encode_channel_data(0x4001, b"data", is_stream=True))
    assert await wire.is_over()
    assert here.streams.dropped == {DropReason.MALFORMED: 1}


async def test_two_streams_are_served_in_turns(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        await here.connect()
    await until(lambda: len(here.streams._open) == 2)
    seen: list[int] = []
    monkeypatch.setattr(here.streams, "_deal_with", lambda stream, *_: seen.append(stream.via.local))
    first, second = here.streams._open
    for stream in (first, second):
        stream.data_received(BINDING * 3)
    await until(lambda: len(seen) == 6)
    assert seen == [first.via.local, second.via.local] * 3


async def test_data_without_an_allocation_reaches_nobody(here: Here) -> None:
    wire = await here.connect()
    assert (await wire.ask(BINDING)).cls is Class.SUCCESS
    wire.writer.write(encode_channel_data(0x4001, b"hello", is_stream=True))
    assert (await wire.ask(BINDING)).cls is Class.SUCCESS
    assert here.streams.dropped == {DropReason.UNKNOWN_ID: 1}


async def test_a_client_that_does_not_read_holds_a_bounded_buffer(here: Here) -> None:
    client = await here.client(await here.connect())
    client.wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can be read
    (stream,) = here.streams._open
    assert stream.allocation is not None
    assert stream._transport is not None
    piece = encode_channel_data(0x4001, bytes(1200), is_stream=True)
    for _ in range(20_000):
        here.node.turn.to_client(stream.allocation, piece)
        if here.streams.dropped[DropReason.QUEUE_FULL] > 100:
            break
        await asyncio.sleep(0)
    assert here.streams.dropped[DropReason.QUEUE_FULL] > 100
    assert stream._transport.get_write_buffer_size() <= turn_streams.MAX_UNSENT + len(piece)


async def test_a_bug_met_by_a_frame_costs_that_stream_only(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, ben = await here.client(await here.connect()), await here.client(await here.connect())
    with monkeypatch.context() as broken:
        broken.setattr(here.node.lane, "relay_from_client", lambda *_: 1 / 0)
        ann.wire.writer.write(encode_channel_data(0x4001, b"hello", is_stream=True))
        assert await ann.wire.is_over()
    assert here.node.turn.internal_errors == 1
    assert (await ben.wire.ask(BINDING)).cls is Class.SUCCESS


async def test_a_flood_on_one_stream_does_not_keep_another_waiting(here: Here) -> None:
    noisy, quiet = await here.client(await here.connect()), await here.connect()
    noisy.wire.writer.write(encode_channel_data(0x4001, bytes(8), is_stream=True) * 20_000)
    assert (await quiet.ask(BINDING)).cls is Class.SUCCESS
    await until(lambda: here.node.lane.relays.up.taken == 20_000)


async def test_allocations_of_streams_and_of_udp_do_not_mix(here: Here) -> None:
    client = await here.client(await here.connect())
    assert code_of(await client.request(turn.Method.ALLOCATE, turn.transport())) == 437
    here.node.turn.feed(te.Draining())
    other = Client(await here.connect())
    assert code_of(await other.request(turn.Method.ALLOCATE, turn.transport())) == 508


async def test_an_accept_without_descriptors_tries_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "ACCEPT_AGAIN_S", 0.05)
    acceptor = here.streams._acceptor
    listener = next(iter(acceptor._judges))

    class Full:
        tries = 0

        def fileno(self) -> int:
            return listener.fileno()

        def accept(self) -> Any:
            self.tries += 1
            if self.tries == 1:
                raise OSError(24, "too many open files")
            return listener.accept()

        def close(self) -> None:
            listener.close()

        def getsockname(self) -> Any:
            return listener.getsockname()

    full: Any = Full()  # as much of a socket as is used
    judge = acceptor._judges[listener]
    acceptor._judges = {full if sock is listener else sock: each for sock, each in acceptor._judges.items()}
    assert acceptor._judges[full] is judge
    here.streams.loop.remove_reader(listener.fileno())
    here.streams.loop.add_reader(listener.fileno(), acceptor._accept, full)
    assert (await (await here.connect()).ask(BINDING)).cls is Class.SUCCESS
    assert full.tries >= 2


def test_an_address_that_is_taken_is_named() -> None:
    with bind("127.0.0.1:0", "turn.tcp[0]") as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"turn\.tcp\[0\]"):
            bind(where, "turn.tcp[0]")
