"""Hostile users of TURN and a running daemon: a flood from 100,000 addresses, thieves of an allocation."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from lanes import LANES
from load import coturn, process
from load.coturn import Asker, RefusedError
from load.daemon import TURN_SECRET, Daemon, total
from relay.config_turn import RelayAddress, TurnConfig
from relay.core.credentials import mint

PEER = "127.0.0.2"
SOURCES = 100_000
MIB = 1 << 20
REFRESH, CREATE_PERMISSION = 0x0004, 0x0008
ALLOCATE = struct.pack("!HHI", 3, 8, coturn.COOKIE) + bytes(12) + bytes.fromhex("0019000411000000")
TURN = TurnConfig(
    enabled=True,
    policy="open",
    addresses=(RelayAddress(bind="127.0.0.3"),),
    secret_file="written by the daemon's folder",
    tcp=(),
    tls=(),
    credential_s=86_400,
    lab_allow_private_peers=True,
)


@pytest.fixture(scope="module", params=LANES)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon.start(lane=request.param, turn=TURN) as started:
        yield started
        assert started.complaints() == []


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """A client, a thief from another port, a peer."""
    with contextlib.ExitStack() as cleanup:
        made = [cleanup.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        for sock, host in zip(made, ("127.0.0.1", "127.0.0.1", PEER), strict=True):
            sock.bind((host, 0))
            sock.settimeout(1)
        yield made


def credentials(user: str) -> tuple[str, str]:
    return mint(user, int(time.time()) + 3600, TURN_SECRET.encode())


def refused(asker: Asker, method: int, body: bytes = b"") -> int:
    with pytest.raises(RefusedError) as caught:
        asker.ask(method, body)
    return caught.value.code


def test_a_flood_from_100000_addresses_leaves_memory_flat_and_nobody_waiting(
    daemon: Daemon, sockets: list[socket.socket]
) -> None:
    client, _, peer = sockets
    coturn.allocate(client, peer, daemon.server, credentials("first"))

    def flood(first: int, count: int) -> None:
        for number in range(first, first + count):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 0))
                sock.sendto(ALLOCATE, daemon.server)

    flood(SOURCES, 5_000)  # what is filled once and has its size then
    before = process.rss_bytes(daemon.pid)
    flood(0, SOURCES)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as honest:
        honest.bind(("127.0.0.1", 0))
        honest.settimeout(1)
        coturn.allocate(honest, peer, daemon.server, credentials("second"))
    assert process.rss_bytes(daemon.pid) - before <= MIB
    assert total(daemon.metrics(), "relay_turn_allocations") == 2


def test_nobody_elses_name_or_address_gets_at_an_allocation(
    daemon: Daemon, sockets: list[socket.socket]
) -> None:
    client, thief, peer = sockets
    relayed = coturn.allocate(client, peer, daemon.server, credentials("ann"))
    permission = coturn._attribute(coturn.XOR_PEER_ADDRESS, coturn._xor(peer.getsockname()))
    nothing = coturn._attribute(coturn.LIFETIME, bytes(4))
    # Another's name on her 5-tuple, as one who can write with her address; her name on another's.
    for name, sock, code in (("ben", client, 441), ("ann", thief, 437)):
        asker = Asker(sock, daemon.server, credentials(name))
        assert refused(asker, REFRESH, nothing) == code
        assert refused(asker, CREATE_PERMISSION, permission) == code
    # Her channel from elsewhere is nobody's.
    thief.sendto(coturn.channel_header(5) + b"false", daemon.server)
    client.sendto(coturn.channel_header(4) + b"true", daemon.server)
    assert peer.recvfrom(99) == (b"true", relayed)
    peer.sendto(b"heard", relayed)
    assert client.recv(99) == coturn.channel_header(5) + b"heard"
