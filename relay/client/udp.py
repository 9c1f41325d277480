"""One UDP port for all that one client says: the legs to relays and the direct path to a person.

    who sent it?  --a peer that is attached--> its receiver         --nobody known--> `on_stranger`

A NAT's mapping belongs to a port. So what a relay observed of us holds for a direct path only if both leave
from the same socket. It is not connected: the system picks the source address anew for each packet, and a
change of network needs no new socket. Must never live here: what a packet means.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, cast

from relay.protocol.address import Address

_ROUTED: Final = ("192.0.2.1", "2001:db8::1")  # documentation addresses: whatever route leads to the world
_DISCARD: Final = 9


class UdpPort(asyncio.DatagramProtocol):
    """A UDP socket shared by several connections. Make it with `open_port`."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None
        self._holders = 1
        self._maps_v4 = False
        self._receivers: dict[Address, Callable[[bytes], object]] = {}
        self.on_stranger: Callable[[bytes, Address], None] | None = None
        """Who gets packets of addresses that nobody attached."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # by duck type in asyncio and uvloop
        self._maps_v4 = transport.get_extra_info("socket").family == socket.AF_INET6

    def datagram_received(self, data: bytes, addr: Any) -> None:
        peer = Address.parse(addr)
        receiver = self._receivers.get(peer)
        if receiver is not None:
            receiver(data)
        elif self.on_stranger is not None:
            self.on_stranger(data, peer)

    def error_received(self, exc: Exception) -> None:
        """No route, or ICMP says that nobody listens. Timers decide, as anyone can forge ICMP."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing leaves any more."""
        return self._transport is None or self._transport.is_closing()

    @property
    def number(self) -> int:
        """The local port number, 0 when closed."""
        if self._transport is None:
            return 0
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def attach(self, peer: Address, receiver: Callable[[bytes], object]) -> None:
        """Packets from this address go there from now on."""
        self._receivers[peer] = receiver

    def detach(self, peer: Address) -> None:
        """This address is a stranger again."""
        self._receivers.pop(peer, None)

    def send(self, data: bytes, peer: Address) -> None:
        """Send one packet; one that cannot be sent is lost, as on any network."""
        if self._transport is None or self._transport.is_closing():
            return
        is_v4 = "." in peer.host
        if self._maps_v4 or is_v4:
            host = f"::ffff:{peer.host}" if self._maps_v4 and is_v4 else peer.host
            self._transport.sendto(data, (host, peer.port))

    def share(self) -> UdpPort:
        """One more needs the port: it is closed when as many have closed it as hold it."""
        self._holders += 1
        return self

    def close(self) -> None:
        """Let go of the port; once for each who holds it."""
        self._holders -= 1
        if self._holders <= 0 and self._transport is not None:
            self._transport.close()


async def open_port() -> UdpPort:
    """A port of the system's choice, for both families where the system has both."""
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:  # a system without IPv6
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("", 0))
        _, port = await loop.create_datagram_endpoint(UdpPort, sock=sock)
    except BaseException:
        sock.close()
        raise
    return port


def source_toward(host: str) -> str | None:
    """The address this machine would send from to reach `host`; None without a route. Nothing is sent."""
    family = socket.AF_INET if "." in host else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _DISCARD))
            ip = ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None
    return None if ip.is_unspecified else str(ip)


def has_ipv4() -> bool:
    """Whether any IPv4 address of the world can be sent to."""
    return source_toward(_ROUTED[0]) is not None


def own_hosts(relay: str) -> list[str]:
    """Addresses this machine sends from: toward the relay, and toward the world in either family.

    Nothing is sent to find out. Loopback is told only by who reaches its relay that way.
    """
    found: dict[str, None] = {}
    for target in (relay, *_ROUTED):
        host = source_toward(target)
        if host is not None and not ip_address(host).is_link_local:
            found[host] = None
    return list(found)
