"""The WebSocket listener with real sockets and TLS: who gets what answer, and who is let go when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from quicpair import certificate
from relay.core.reasons import DropReason
from relay.edge import tcp
from relay.errors import ConfigError, ErrorCode
from relay.protocol.demux import StreamKind
from tlsdoor import ORIGIN, Door, door

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol": "vrl.1",
}


@contextlib.asynccontextmanager
async def client(door: Door, **more: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"wss://127.0.0.1:{door.port}/vrl/1", protocols=("vrl.1",), ssl=door.trust(), **more
        ) as web,
    ):
        yield web


async def test_a_leg_comes_speaks_and_goes(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here, origin=ORIGIN) as web:
        assert web.protocol == "vrl.1"
        await web.send_bytes(b"\0\1ping")
        await web.send_bytes(b"\xc0\x93")
        await web.ping(b"there?")
        await here.until(lambda: len(here.facts) == 3)
        here.streams.send_stream(1, b"\0\2ab")
        assert (await web.receive()).data == b"\xc0ab"
        await web.close(code=4000 + ErrorCode.MOVED)
        await here.until(lambda: len(here.facts) == 4)
    assert here.facts == [
        ("opened", 1, "ws"),
        ("datagram", 1, b"\0\1ping"),
        ("stream", 1, b"\0\1\x93"),
        ("lost", 1, ErrorCode.MOVED),
    ]
    assert here.edge.answered == {"101": 1}
    assert here.streams.imbalance() == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": "/"}, 404),
        ({"path": "/metrics"}, 404),
        ({"path": "/vrl/2"}, 404),
        ({"path": "/vrl/1/"}, 404),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ORIGIN + "."}, 403),
        ({"method": "POST"}, 426),
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Sec-WebSocket-Protocol": None}, 400),
        ({"Sec-WebSocket-Protocol": "vrl.2, chat"}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Version": "8"}, 400),
        ({"Origin": ORIGIN}, 101),
        ({"Sec-WebSocket-Protocol": "chat, vrl.1"}, 101),
    ],
    ids=lambda value: " ".join(map(str, *value.items())) if isinstance(value, dict) else str(value),
)
async def test_a_stranger_gets_a_status_and_no_detail(
    tmp_path: Path, change: dict[str, str | None], status: int
) -> None:
    headers: dict[str, str | None] = UPGRADE | change
    path, method = headers.pop("path", "/vrl/1"), headers.pop("method", "GET")
    lines = [f"{method} {path} HTTP/1.1", "Host: relay.example"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    async with door(tmp_path) as here:
        reader, writer = await here.dial()
        with contextlib.closing(writer):
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"aiohttp" not in head
            if status != 101:
                body = await reader.read()
                assert body in (b"", f"{status}: ".encode() + body[5:])
                assert len(body) < 30
        assert here.edge.answered == {str(status): 1}


async def test_a_node_that_takes_nobody_says_503(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.accepting = False
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with client(here):
                pass
        assert refused.value.status == 503


def _frame(first: int, payload: bytes) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    if size > 65535:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes((first,)) + length + bytes(4) + payload


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (_frame(0x81, b"text"), 4003),
        (_frame(0x82, b""), 4003),
        (_frame(0x82, b"\x40"), 4003),
        (_frame(0x82, b"\xc1x"), 4003),
        (_frame(0x82, b"\xc0" + bytes(16385)), 4005),
        (_frame(0x82, bytes(33000)), 1009),
        (_frame(0xC2, b"\0\1compressed"), 1002),
        (_frame(0xA2, b"\0\1reserved"), 1002),
        (_frame(0x83, b"\0\1opcode"), 1002),
        (_frame(0x80, b"\0\1continues nothing"), 1002),
        (_frame(0x09, b"a ping in pieces"), 1002),
        (_frame(0x89, bytes(126)), 1002),
        (_frame(0x02, b"\x82") + _frame(0x80, b"\1two pieces of nothing"), 4003),
    ],
    ids=[
        "text",
        "empty",
        "first byte 40",
        "first byte c1",
        "control too large",
        "message too large",
        "compressed",
        "reserved bit",
        "unknown opcode",
        "continuation of nothing",
        "fragmented ping",
        "long ping",
        "fragmented rubbish",
    ],
)
async def test_what_is_no_message_of_ours_closes_with_its_code(
    tmp_path: Path, sent: bytes, code: int
) -> None:
    async with door(tmp_path) as here:
        reader, writer = await here.dial()
        with contextlib.closing(writer):
            lines = ["GET /vrl/1 HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in UPGRADE.items())]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            first, size = await reader.readexactly(2)
            assert first == 0x88
            assert int.from_bytes((await reader.readexactly(size))[:2], "big") == code
        await here.until(lambda: here.facts[-1][0] == "lost")
        expected = code - 4000 if code >= 4000 else ErrorCode.GENERAL
        assert here.facts[-1] == ("lost", 1, expected)
        assert here.streams.imbalance() == 0


async def test_who_does_not_finish_the_handshake_in_time_is_gone(tmp_path: Path) -> None:
    async with door(tmp_path, handshake_s=1.0) as here:
        mute = socket.create_connection(("127.0.0.1", here.port))
        reader, writer = await here.dial()
        with contextlib.closing(mute), contextlib.closing(writer):
            listener = here.edge.listener
            await here.until(lambda: listener.half_open == 2)
            writer.write(b"GET /vrl/1 HTTP/1.1\r\n")
            drip = asyncio.create_task(_drip(writer))
            with contextlib.suppress(ConnectionResetError):  # what is still under way finds nobody
                assert await asyncio.wait_for(reader.read(), 10) == b""
            drip.cancel()
            await here.until(lambda: listener.connections == listener.half_open == 0)
            assert listener.failed == 2


async def _drip(writer: asyncio.StreamWriter) -> None:
    for number in itertools.count():
        writer.write(f"X-{number}: y\r\n".encode())
        await asyncio.sleep(0.01)


async def test_a_leg_outlives_the_deadline_of_its_handshake(tmp_path: Path) -> None:
    async with door(tmp_path, handshake_s=1.0) as here, client(here) as web:
        await asyncio.sleep(1.2)
        await web.send_bytes(b"\0\1still")
        await here.until(lambda: here.facts[-1] == ("datagram", 1, b"\0\1still"))
        assert here.edge.listener.half_open == 0


async def test_one_source_has_no_more_connections_than_its_share(tmp_path: Path) -> None:
    async with door(tmp_path, tcp_per_source=2) as here:
        async with client(here), client(here):
            with pytest.raises(OSError, match=r".*"):
                await here.ask(b"GET / HTTP/1.1\r\n\r\n")
            assert here.edge.listener.refused == {DropReason.QUOTA: 1}
        await here.until(lambda: here.edge.listener.connections == 0)
        async with client(here):
            assert here.edge.listener.accepted == 3


async def test_handshakes_beyond_their_rate_are_refused(tmp_path: Path) -> None:
    async with door(tmp_path, tcp_handshakes_per_s=1) as here, client(here):
        with pytest.raises(OSError, match=r".*"):
            await here.ask(b"GET / HTTP/1.1\r\n\r\n")
        assert here.edge.listener.refused == {DropReason.OVER_BUDGET: 1}


async def test_rubbish_instead_of_tls_or_http_is_let_go(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        with contextlib.closing(writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n" * 20)
            with contextlib.suppress(ConnectionError):
                await reader.read()
        answer = await here.ask(b"\2\1\2 nonsense\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 400 ") or answer.startswith(b"HTTP/1.1 400 ")
        await here.until(lambda: here.edge.listener.connections == 0)
        assert here.facts == []


async def test_a_client_that_does_not_read_holds_little_and_others_go_on(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here) as other:
        _, writer = await here.dial()
        writer.transport.pause_reading()
        with contextlib.closing(writer):
            lines = ["GET /vrl/1 HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in UPGRADE.items())]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            await here.until(lambda: len(here.streams) == 2)
            lane = here.streams._lane
            for leg in (1, 2):
                lane.open_leg(leg, pps=500, up_bps=1 << 30, down_bps=1 << 30)
            frame = (16384).to_bytes(2, "big") + bytes(16384)
            for _ in range(1000):
                if len(here.streams) < 2:
                    break
                here.streams.send_stream(2, frame)
                await asyncio.sleep(0.001)
            assert here.facts[-1] == ("lost", 2, ErrorCode.OVERLOADED)
            here.streams.send_datagram(1, b"\0\2here")
            assert (await other.receive()).data == b"\0\2here"
            await here.until(lambda: here.edge.listener.connections == 1)
            writer.transport.abort()
            await asyncio.sleep(0)


async def test_a_peer_that_speaks_too_fast_is_read_at_a_pace(tmp_path: Path) -> None:
    async with door(tmp_path, max_pps=100) as here, client(here) as web:
        begun = time.monotonic()
        for _ in range(450):
            await web.send_bytes(b"\0\1")
        await here.until(lambda: here.streams.handled["datagram"] == 450)
        assert time.monotonic() - begun > 1.5


async def test_a_reload_changes_certificate_origins_and_limits_for_those_to_come(tmp_path: Path) -> None:
    async with door(tmp_path) as here, client(here):
        other = tmp_path / "other"
        other.mkdir()
        here.files = certificate(other)
        limits = replace(here.limits, tcp_per_source=2, tcp_handshakes_per_s=5)
        here.edge.configure(limits, tcp.server_context(*here.files, StreamKind), ("https://new.example",))
        async with client(here, origin="https://new.example"):
            assert len(here.streams) == 2
            with pytest.raises(aiohttp.ClientError):
                async with client(here):
                    pass


def test_an_address_that_is_taken_is_a_configuration_error() -> None:
    with contextlib.closing(tcp.bind("[::1]:0", "listen.web")) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=r"listen.web: cannot listen on \[::1\]"):
            tcp.bind(f"[::1]:{port}", "listen.web")
