"""One canonical form of a transport address.

A dual-stack socket reports an IPv4 peer as `::ffff:192.0.2.1`; unless both spellings become one value, the
same peer has two budgets and its path looks migrated when it is not. Past the socket only this type is used.

Must never live here: name resolution, and the socket calls that produce these tuples.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple, Self

from relay.errors import ErrorCode, LocalError, PeerError

_V4_SHOWN: int = 3  # a /24 is what a log may keep of an IPv4 address
_V6_SHOWN: int = 6  # and a /48 of an IPv6 address
_V6_SITE: int = 8  # one subscriber usually owns a whole /64, so budgets count by it


class Address(NamedTuple):
    """Host and port of a peer. `host` is canonical text: IPv4-mapped folded, RFC 5952 spelling, no scope.

    Any text form shows the network prefix only.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, sockaddr: tuple[Any, ...]) -> Self:
        """Make the canonical form of a socket address tuple, (host, port) or (host, port, flow, scope).

        LocalError if it is none: such tuples come from our own sockets, not from a peer.
        """
        try:
            host, port = sockaddr[0], sockaddr[1]
            canonical = _canonical(host)
        except (ValueError, IndexError, TypeError) as error:
            raise LocalError("not a socket address") from error
        if not isinstance(host, str) or type(port) is not int or not 0 <= port <= 0xFFFF:
            raise LocalError("not a socket address")
        return cls(canonical, port)

    @classmethod
    def of(cls, packed: bytes, port: int) -> Self:
        """The same from 4 or 16 bytes in network order, as STUN carries them; LocalError for another size."""
        if len(packed) not in (4, 16) or not 0 <= port <= 0xFFFF:
            raise LocalError("not an address")
        return cls(str(_folded(ip_address(packed))), port)

    @classmethod
    def told(cls, host: str, port: int) -> Self:
        """The canonical form of an address that a peer wrote. PeerError BAD_ENCODING, not fatal, if none."""
        try:
            return cls.parse((host, port or None))  # nobody is reached at port 0
        except LocalError:
            raise PeerError(ErrorCode.BAD_ENCODING, "not an address", fatal=False) from None

    @property
    def packed(self) -> bytes:
        """The address in network order: 4 bytes for IPv4, 16 for IPv6."""
        return ip_address(self.host).packed

    def prefix(self) -> bytes:
        """Return the key under which a source's budget is kept: the whole IPv4 address, an IPv6 /64."""
        return self.packed[:_V6_SITE]

    def __repr__(self) -> str:
        packed = self.packed
        if len(packed) == 4:
            return f"Address({IPv4Address(packed[:_V4_SHOWN] + bytes(1))}/24)"
        return f"Address({IPv6Address(packed[:_V6_SHOWN] + bytes(10))}/48)"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


@lru_cache(maxsize=1024)  # whoever sends a packet sends the next one, too
def _canonical(host: str) -> str:
    return str(_folded(ip_address(host)))


def _folded(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    # The scope names one of our own interfaces; it says nothing about the peer.
    return IPv6Address(ip.packed)
