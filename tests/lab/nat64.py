"""IPv6 to IPv4 and back without state (RFC 7915), for one client behind 64:ff9b::/96 (RFC 6052).

    client 2001:db8::c <-> 192.168.64.2        64:ff9b::a.b.c.d <-> a.b.c.d

The state of a NAT64 (RFC 6146) is kept by the NAT that stands behind. UDP and TCP only: no fragments,
no ICMP. Must never live here: devices.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

PREFIX: Final = IPv6Address("64:ff9b::").packed[:12]
CLIENT6: Final = IPv6Address("2001:db8:64::c")
CLIENT4: Final = IPv4Address("192.168.64.2")
TCP: Final = 6
UDP: Final = 17
_CHECKSUM_AT: Final = {TCP: 16, UDP: 6}


def synthesise(address: str) -> str:
    """What a DNS64 answers for an IPv4 address."""
    return str(IPv6Address(PREFIX + IPv4Address(address).packed))


def translate(packet: bytes) -> bytes | None:
    """The packet in the other protocol; None for what is not translated."""
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        return _to_ipv4(packet)
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return _to_ipv6(packet)
    return None


def _to_ipv4(packet: bytes) -> bytes | None:
    kind, hops = packet[6], packet[7]
    if kind not in _CHECKSUM_AT or packet[24:36] != PREFIX or hops < 2:
        return None
    source, target = CLIENT4.packed, packet[36:40]
    body = packet[40 : 40 + struct.unpack_from("!H", packet, 4)[0]]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0x4000, hops - 1, kind, 0, source, target)
    head = head[:10] + struct.pack("!H", _fold(head)) + head[12:]
    return head + _sealed(body, kind, source, target)


def _to_ipv6(packet: bytes) -> bytes | None:
    header, kind, hops = (packet[0] & 15) * 4, packet[9], packet[8]
    fragment = struct.unpack_from("!H", packet, 6)[0] & 0x3FFF
    if kind not in _CHECKSUM_AT or packet[16:20] != CLIENT4.packed or hops < 2 or fragment:
        return None
    source, target = PREFIX + packet[12:16], CLIENT6.packed
    body = packet[header : struct.unpack_from("!H", packet, 2)[0]]
    head = struct.pack("!IHBB16s16s", 6 << 28, len(body), kind, hops - 1, source, target)
    return head + _sealed(body, kind, source, target)


def _sealed(body: bytes, kind: int, source: bytes, target: bytes) -> bytes:
    """The body with a checksum that counts the new addresses."""
    at = _CHECKSUM_AT[kind]
    cleared = body[:at] + b"\0\0" + body[at + 2 :]
    pseudo = source + target + struct.pack("!II", len(body), kind)
    checksum = _fold(pseudo + cleared)
    if kind == UDP and checksum == 0:
        checksum = 0xFFFF  # 0 means "none", which IPv6 does not allow (RFC 8200 section 8.1)
    return body[:at] + struct.pack("!H", checksum) + body[at + 2 :]


def _fold(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
