"""Where the relay may send: the one function on every way out to an address that a client named.

    packed address --canonical--> 4 or 16 bytes --judge--> None, or why not

Addresses are compared as integers, never as text or byte by byte. IPv4-mapped becomes IPv4; every other way
to carry IPv4 inside IPv6 is refused, whatever it carries. Must never live here: who announced an address
(core), and name resolution.
"""

from __future__ import annotations

from collections.abc import Container
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from relay.errors import LocalError
from relay.protocol.address import Address


class Refusal(StrEnum):
    """Why a peer may not be reached."""

    PORT = "port"  # port 0
    OWN = "own"  # one of our own addresses, on any port (RFC 8656 section 21.1.7)
    CARRIER = "carrier"  # IPv4 in IPv6 clothes: compatible, SIIT, NAT64, 6to4, Teredo, ISATAP
    RANGE = "range"  # not of the public internet


Range = tuple[int, int]
"""First and last address, as integers."""


def _ranges(*networks: str) -> tuple[Range, ...]:
    parsed = (ip_network(text) for text in networks)
    return tuple((int(each.network_address), int(each.broadcast_address)) for each in parsed)


DENIED_V4: Final = _ranges(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
ALLOWED_V6: Final = _ranges("2000::/3")
DENIED_V6: Final = _ranges("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
"""Holes in what is allowed."""
CARRIERS: Final = _ranges(
    *("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
"""Compatible, SIIT, NAT64 (both), 6to4, Teredo. ISATAP is known by its interface id, below."""
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214 section 6.1

LAB_V4: Final = _ranges(
    *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.2.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
)
LAB_V6: Final = _ranges("::1/128", "fc00::/7", "2001:db8::/32")
"""What a laboratory without a way out may reach as well: private, loopback, documentation. Never link-local
addresses, where clouds keep their credentials, and never multicast."""


def _within(ip: int, ranges: tuple[Range, ...]) -> bool:
    return any(first <= ip <= last for first, last in ranges)


def canonical(packed: bytes) -> bytes:
    """4 bytes for IPv4, also if mapped into IPv6, else 16. LocalError for another size."""
    return Address.of(packed, 0).packed


def carried(packed: bytes) -> bytes | None:
    """The IPv4 address inside a carrier, for a log's prefix; None if it is none or hides it."""
    if len(packed) != 16:
        return None
    ip = IPv6Address(packed)
    if ip.sixtofour is not None:
        return ip.sixtofour.packed
    if ip.teredo is not None:
        return ip.teredo[1].packed
    return packed[12:] if _is_carrier(int(ip)) else None


def _is_carrier(ip: int) -> bool:
    return _within(ip, CARRIERS) or ip >> 32 & 0xFFFF_FFFF in _ISATAP


def judge(
    packed: bytes, own: Container[bytes], port: int | None = None, *, lab: bool = False
) -> Refusal | None:
    """Why the relay must not send to this address; None if nothing speaks against it.

    `own` holds our own addresses, packed and canonical. `port` None: a permission, which names none. `lab`
    opens the ranges that no public address is in; a node that serves people never sets it.
    """
    if port == 0:
        return Refusal.PORT
    packed = canonical(packed)
    if packed in own:
        return Refusal.OWN
    ip = int.from_bytes(packed, "big")
    if len(packed) == 4:
        denied = _within(ip, DENIED_V4)
        return Refusal.RANGE if denied and not (lab and _within(ip, LAB_V4)) else None
    if lab and _within(ip, LAB_V6):
        return None
    if _is_carrier(ip):
        return Refusal.CARRIER
    return None if _within(ip, ALLOWED_V6) and not _within(ip, DENIED_V6) else Refusal.RANGE


def from_text(text: str, port: int) -> Address:
    """An address as configurations write it: LocalError unless spelled the one canonical way, scope-free."""
    try:
        ip = ip_address(text)
    except ValueError:
        raise LocalError("not an address") from None
    found = Address.of(ip.packed, port)
    if found.host != text:
        raise LocalError("not the canonical spelling")
    return found
