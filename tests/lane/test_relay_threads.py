"""Relayed addresses over loopback, read and written by the native lane's threads."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lanes import HAS_NATIVE
from relay.protocol.relayed import encode_channel_data

pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="this build has no native lane")
CHANNEL = 0x4001
PATIENCE = 20.0
PAYLOADS = [b"one", b"two", bytes(1400)]


def bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(PATIENCE)
    return sock


class Scene:
    """A lane with one thread, a client, and a peer on another host of the loopback network."""

    def __init__(self) -> None:
        from relay.edge.lane_native import NativeLane

        self.lane = NativeLane(batch_s=0.001)
        self.front, self.client = bound("127.0.0.1"), bound("127.0.0.1")
        self.door, self.peer = bound("127.0.0.3"), bound("127.0.0.2")
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.relayed = self.door.getsockname()
        self.start()

    def start(self) -> None:
        self.lane.start([[self.front.fileno()]], self.event)

    def allow(self) -> None:
        until = time.monotonic() + 60
        self.lane.permit(1, socket.inet_aton("127.0.0.2"), until)
        self.lane.bind_channel(1, CHANNEL, self.peer.getsockname(), until)
        self.door.close()  # the lane has its own

    def items(self) -> list[Any]:
        """What the lane leaves for the loop, as soon as it says so."""
        assert select.select([self.event], [], [], PATIENCE)[0]
        os.eventfd_read(self.event)
        return self.lane.take(99)

    def close(self) -> None:
        self.lane.stop()
        assert self.lane.packets().imbalance() == self.lane.relays.imbalance() == 0
        os.close(self.event)
        for sock in (self.front, self.client, self.door, self.peer):
            sock.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def open_for_packets(scene: Scene) -> None:
    client = scene.client.getsockname()
    fd = scene.door.fileno()
    scene.lane.open_relay(1, client, 0, relayed=scene.relayed, fd=fd, pps=1000, bps=10**8)
    scene.allow()


def talk(scene: Scene) -> None:
    for payload in PAYLOADS:
        message = encode_channel_data(CHANNEL, payload, is_stream=False)
        scene.client.sendto(message, scene.front.getsockname())
        assert scene.peer.recvfrom(2048) == (payload, scene.relayed)
        scene.peer.sendto(payload, scene.relayed)
        assert scene.client.recvfrom(2048) == (message, scene.front.getsockname())


def test_packets_pass_without_the_loop(scene: Scene) -> None:
    open_for_packets(scene)
    talk(scene)
    counted = scene.lane.close_relay(1)
    assert (counted.up.passed, counted.down.passed) == (3, 3)
    scene.lane.stop()  # a thread tells what it counted at the end of its turn
    assert (scene.lane.packets().relayed, scene.lane.packets().taken) == (6, 0)


def test_packets_pass_after_the_threads_were_changed(scene: Scene) -> None:
    open_for_packets(scene)
    for _ in range(3):
        scene.start()
        talk(scene)


def test_a_client_on_a_stream_is_served_by_the_loop(scene: Scene) -> None:
    fd = scene.door.fileno()
    scene.lane.open_relay_stream(1, relayed=scene.relayed, fd=fd, pps=1000, bps=10**8)
    scene.allow()
    for payload in PAYLOADS:
        message = encode_channel_data(CHANNEL, payload, is_stream=True)
        assert scene.lane.relay_from_client(1, message, time.monotonic()) is None
        assert scene.lane.flush_relays() == []  # it has the socket
        assert scene.peer.recvfrom(2048) == (payload, scene.relayed)
        scene.peer.sendto(payload, scene.relayed)
        (item,) = scene.items()
        assert item == (1, message)


def test_a_descriptor_that_is_none_is_refused(scene: Scene) -> None:
    scene.door.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        scene.lane.open_relay_stream(1, relayed=scene.relayed, fd=9999, pps=1, bps=1)
