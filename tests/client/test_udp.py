"""The shared port, on loopback sockets."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from relay.client import udp
from relay.client.udp import UdpPort, open_port, own_hosts
from relay.protocol.address import Address


class Box:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[bytes, Address | None]] = asyncio.Queue()

    def known(self, data: bytes) -> None:
        self.queue.put_nowait((data, None))

    def stranger(self, data: bytes, source: Address) -> None:
        self.queue.put_nowait((data, source))


async def test_packets_go_to_whoever_attached_their_sender_and_others_are_strangers() -> None:
    ports = [await open_port() for _ in range(3)]
    box = Box()
    home, friend, other = (Address("127.0.0.1", port.number) for port in ports)
    ports[0].attach(friend, box.known)
    ports[2].send(b"nobody listens to strangers yet", home)
    ports[1].send(b"known", home)
    assert await box.queue.get() == (b"known", None)
    ports[0].on_stranger = box.stranger
    ports[2].send(b"stranger", home)
    assert await box.queue.get() == (b"stranger", other)
    ports[0].detach(friend)
    ports[0].detach(friend)
    ports[1].send(b"again", home)
    assert await box.queue.get() == (b"again", friend)
    for port in ports:
        port.close()
        assert port.is_closed
        port.send(b"late", home)
    await asyncio.sleep(0)  # sockets close in the next turn of the loop


async def test_a_port_that_is_shared_is_closed_by_the_last_who_holds_it() -> None:
    port = await open_port()
    assert port.share() is port
    port.close()
    assert not port.is_closed
    port.close()
    assert port.is_closed
    port.close()  # one too many closes nothing else
    await asyncio.sleep(0)


async def test_a_system_without_ipv6_has_a_port_too(monkeypatch: pytest.MonkeyPatch) -> None:
    original = socket.socket

    def v4_only(family: int, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError
        return original(family, *rest)

    monkeypatch.setattr(udp.socket, "socket", v4_only)
    port = await open_port()
    monkeypatch.undo()
    port.send(b"unreachable", Address("2001:db8::1", 1))
    port.send(b"itself", Address("127.0.0.1", port.number))
    box = Box()
    port.on_stranger = box.stranger
    assert (await box.queue.get())[0] == b"itself"
    port.close()
    await asyncio.sleep(0)


def test_a_port_that_was_never_opened_sends_nothing() -> None:
    port = UdpPort()
    port.send(b"x", Address("127.0.0.1", 1))
    port.close()
    port.error_received(OSError())
    assert (port.is_closed, port.number) == (True, 0)


def test_own_addresses_are_those_the_system_would_send_from() -> None:
    assert own_hosts("127.0.0.1")[0] == "127.0.0.1"
    for host in own_hosts("192.0.2.1"):
        ip = ip_address(host)
        assert not ip.is_loopback
        assert not ip.is_unspecified
