"""Real UDP sockets on loopback: binding, buffers, kernel drops, reading under a loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
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
    (sock,) = udp.bind(text, LISTEN)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with sock, socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"here", (to, sock.getsockname()[1]))
        sock.setblocking(True)
        sock.settimeout(20)
        assert sock.recv(100) == b"here"


def test_an_address_in_use_names_the_key_and_the_cure() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match=r"listen\.udp: cannot listen .*choose a free address"):
            udp.bind(f"127.0.0.1:{taken.getsockname()[1]}", LISTEN)


def test_packets_that_the_kernel_drops_are_counted() -> None:
    sock = udp.bind("127.0.0.1:0", LISTEN)[0]
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        before = udp.kernel_drops(sock)
        for _ in range(2000):
            sender.sendto(bytes(1000), sock.getsockname())
        assert udp.kernel_drops(sock) > before


class Loop:
    """A loop whose clock and readiness the test turns by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> None:
        del self.readers[descriptor]

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.Handle:
        self.timers.append((self.now + delay, callback))
        return cast(asyncio.Handle, self)

    def call_soon(self, callback: Callable[[], None]) -> asyncio.Handle:
        return self.call_later(0.0, callback)

    def cancel(self) -> None:
        self.timers.clear()

    def run(self, until: float, waiting: Waiting, every: float) -> None:
        """A packet each `every` seconds wakes a watching reader; timers fire when due."""
        arrival = self.now + every
        while True:
            due = min([arrival, *(at for at, _ in self.timers)])
            if due > until:
                break
            self.now = due
            if due == arrival:
                waiting.packets += 1
                arrival += every
                for callback in list(self.readers.values()):
                    callback()
            fired = [entry for entry in self.timers if entry[0] <= self.now]
            self.timers = [entry for entry in self.timers if entry[0] > self.now]
            for _, callback in fired:
                callback()
        self.now = until


class Waiting:
    """Stands for the endpoint: takes what waits."""

    def __init__(self) -> None:
        self.packets = 0
        self.reads: list[int] = []
        self.is_broken = False

    def attach_socket(self, sock: socket.socket) -> int:
        return 0

    def read(self, number: int, most: int) -> int | None:
        if self.is_broken:
            self.reads.append(0)
            return None
        taken = min(self.packets, most)
        self.packets -= taken
        self.reads.append(taken)
        return taken


def reader(wait_s: float) -> tuple[Loop, Waiting, udp.Reader]:
    loop, waiting = Loop(), Waiting()
    made = udp.Reader(
        cast(asyncio.AbstractEventLoop, loop),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        cast(Endpoint, waiting),
        wait_s,
    )
    made.start()
    return loop, waiting, made


def test_few_packets_are_read_one_by_one_as_they_come() -> None:
    loop, waiting, made = reader(0.001)
    loop.run(1.0, waiting, 1 / 500)
    assert set(waiting.reads) <= {0, 1}
    assert loop.readers
    made.close()


def test_many_packets_are_read_together_and_few_again_at_once() -> None:
    loop, waiting, made = reader(0.001)
    loop.run(1.0, waiting, 1 / 8000)
    assert max(waiting.reads[-10:]) >= 6
    assert len(waiting.reads) < 2000
    waiting.reads.clear()
    loop.run(2.0, waiting, 1 / 500)
    assert set(waiting.reads[-100:]) <= {0, 1}
    assert loop.readers
    made.close()


def test_a_full_batch_is_followed_at_once() -> None:
    loop, waiting, made = reader(0.001)
    loop.run(1.0, waiting, 1 / 8000)
    waiting.packets += 100
    before = loop.now
    loop.run(before + 0.0005, waiting, 1.0)
    loop.run(before + 0.002, waiting, 1.0)
    assert waiting.packets == 0
    made.close()


def test_no_wait_means_no_batches() -> None:
    loop, waiting, made = reader(0.0)
    loop.run(1.0, waiting, 1 / 8000)
    assert len(waiting.reads) >= 7999
    made.close()


@pytest.mark.parametrize("every", [1 / 500, 1 / 8000])
def test_a_socket_that_cannot_be_read_is_left_alone_ever_longer_until_it_can(every: float) -> None:
    loop, waiting, made = reader(0.001)
    loop.run(1.0, waiting, every)
    waiting.reads.clear()
    waiting.is_broken = True
    loop.run(2.0, waiting, every)  # 1, 2, 4, ... 64 ms, then each 100 ms
    assert 10 <= len(waiting.reads) <= 18
    assert not loop.readers
    waiting.is_broken = False
    loop.run(2.11, waiting, every)
    loop.run(3.0, waiting, every)
    assert waiting.packets <= 32
    waiting.is_broken = True
    before = len(waiting.reads)
    loop.run(3.05, waiting, every)
    assert 4 <= len(waiting.reads) - before <= 7  # 1, 2, 4 ms anew: it had worked meanwhile
    made.close()
    assert not loop.readers
    assert not loop.timers


async def test_a_real_socket_that_cannot_be_read_does_not_keep_the_loop_busy() -> None:
    class Reads:
        count = 0

        def attach_socket(self, sock: socket.socket) -> int:
            self.sock = sock
            return 0

        def read(self, number: int, most: int) -> int | None:
            self.count += 1
            with pytest.raises(OSError, match="not connected"):
                self.sock.recv(100)
            return None

    reads, loop = Reads(), asyncio.get_running_loop()
    # It is ready for ever, and each read is refused (ENOTCONN).
    made = udp.Reader(loop, socket.socket(), cast(Endpoint, reads), 0.001)
    made.start()
    begun = loop.time()
    while reads.count < 8:  # noqa: ASYNC110  # after 1, 2, 4, ... 64 ms at the earliest
        await asyncio.sleep(0.01)
    made.close()
    assert reads.count <= 12
    assert loop.time() - begun > 0.1


async def test_a_watched_socket_is_read_until_it_is_closed() -> None:
    class Taker:
        def __init__(self) -> None:
            self.came = asyncio.Event()

        def attach_socket(self, sock: socket.socket) -> int:
            self.sock = sock
            return 0

        def read(self, number: int, most: int) -> int:
            self.sock.recv(100)
            self.came.set()
            return 1

    taker = Taker()
    loop = asyncio.get_running_loop()
    sock = udp.bind("127.0.0.1:0", LISTEN)[0]
    made = udp.Reader(loop, sock, cast(Endpoint, taker), 0.001)
    made.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", sock.getsockname())
        await asyncio.wait_for(taker.came.wait(), 20)
    made.close()
    assert sock.fileno() == -1
