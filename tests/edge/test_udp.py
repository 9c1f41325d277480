"""Real UDP sockets on loopback: binding, buffers, kernel drops, reading under a loop."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from relay.config import ListenConfig
from relay.edge import udp
from relay.edge.endpoint import Endpoint
from relay.errors import ConfigError

LISTEN = ListenConfig(receive_buffer=65_536, send_buffer=65_536)


@pytest.mark.parametrize(
    ("text", "to"), [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::1]:0", "::1")]
)
def test_a_bound_socket_hears_its_family_and_ipv4_through_the_wildcard(text: str, to: str) -> None:
    sock = udp.bind(text, LISTEN)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with sock, socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"here", (to, sock.getsockname()[1]))
        sock.setblocking(True)
        sock.settimeout(5)
        assert sock.recv(100) == b"here"


def test_an_address_in_use_names_the_key_and_the_cure() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match=r"listen\.udp: cannot listen .*choose a free address"):
            udp.bind(f"127.0.0.1:{taken.getsockname()[1]}", LISTEN)


def test_packets_that_the_kernel_drops_are_counted() -> None:
    sock = udp.bind("127.0.0.1:0", LISTEN)
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        before = udp.kernel_drops(sock)
        for _ in range(2000):
            sender.sendto(bytes(1000), sock.getsockname())
        assert udp.kernel_drops(sock) > before


async def test_a_watched_socket_is_read_until_it_is_unwatched() -> None:
    class Reader:
        def __init__(self) -> None:
            self.came = asyncio.Event()

        def read(self, sock: socket.socket) -> None:
            sock.recv(100)
            self.came.set()

    reader = Reader()
    loop = asyncio.get_running_loop()
    sock = udp.bind("127.0.0.1:0", LISTEN)
    udp.watch(loop, sock, cast(Endpoint, reader))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", sock.getsockname())
        await asyncio.wait_for(reader.came.wait(), 5)
    udp.unwatch(loop, sock)
    assert sock.fileno() == -1
