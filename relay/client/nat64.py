"""IPv4 addresses for a machine that has IPv6 alone: the prefix of its network's translator, and its use.

    no IPv4 route, yet the relay saw us by IPv4 --> a NAT64 (RFC 6146) stands between --> prefix --> reach

The prefix is asked of the network's own resolver (RFC 7050); until it answers, and where it has none, the
well-known one is taken. Must never live here: which addresses a peer has.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from relay.protocol.address import Address

WELL_KNOWN: Final = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
NAME: Final = "ipv4only.arpa"  # RFC 7050 section 2: has these two IPv4 addresses and no IPv6 one
_KNOWN: Final = frozenset((IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")))
_LENGTHS: Final = (96, 64, 56, 48, 40, 32)
_ZERO_OCTET: Final = 8  # bits 64 to 71 are zero in every form (RFC 6052 section 2.2)


def embed(host: IPv4Address, prefix: IPv6Network) -> IPv6Address:
    """The IPv6 address that leads to an IPv4 one through the translator with this prefix."""
    packed = bytearray(prefix.network_address.packed)
    for at, octet in zip(_places(prefix.prefixlen), host.packed, strict=True):
        packed[at] = octet
    return IPv6Address(bytes(packed))


def prefix_of(answer: IPv6Address) -> IPv6Network | None:
    """The prefix in a resolver's answer for `NAME`; None if it was not made by a translator's rule."""
    for length in _LENGTHS:
        if IPv4Address(bytes(answer.packed[at] for at in _places(length))) in _KNOWN:
            return IPv6Network((answer, length), strict=False)
    return None


def reach(addresses: Iterable[Address], prefix: IPv6Network) -> list[Address]:
    """The same addresses as a machine without IPv4 reaches them.

    What is no public IPv4 address means another machine on the translator's side (RFC 6052 section 3.1).
    """
    found: list[Address] = []
    for address in addresses:
        if "." not in address.host:
            found.append(address)
        elif (host := IPv4Address(address.host)).is_global:
            found.append(Address(str(embed(host, prefix)), address.port))
    return found


async def discover() -> IPv6Network:
    """The prefix of the network we are in."""
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(NAME, None, family=socket.AF_INET6)
    except OSError:
        return WELL_KNOWN
    prefixes = (prefix_of(IPv6Address(sockaddr[0])) for *_, sockaddr in answers)
    return next((prefix for prefix in prefixes if prefix is not None), WELL_KNOWN)


def _places(length: int) -> list[int]:
    """Where the four octets stand behind a prefix of so many bits."""
    places = range(length // 8, 16)
    return [at for at in places if at != _ZERO_OCTET or length == 96][:4]
