"""The translator's packets, there and back."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from lab import nat64


def checksum_is_right(pseudo: bytes, body: bytes) -> bool:
    data = pseudo + body + bytes(len(body) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def from_client(kind: int, body: bytes) -> bytes:
    target = IPv6Address(nat64.synthesise("11.1.1.1")).packed
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), kind, 64, nat64.CLIENT6.packed, target) + body


@pytest.mark.parametrize("kind", [nat64.UDP, nat64.TCP])
@pytest.mark.parametrize("size", [0, 1, 1200])
def test_a_packet_becomes_ipv4_with_right_checksums(kind: int, size: int) -> None:
    header = 8 if kind == nat64.UDP else 20
    body = struct.pack("!HH", 5000, 443) + bytes(header - 4) + b"x" * size
    packet = nat64.translate(from_client(kind, body))
    assert packet is not None
    assert checksum_is_right(b"", packet[:20])
    assert packet[12:16] == nat64.CLIENT4.packed
    assert packet[16:20] == IPv4Address("11.1.1.1").packed
    pseudo = packet[12:20] + struct.pack("!HH", kind, len(packet) - 20)
    assert checksum_is_right(pseudo, packet[20:])


def test_the_answer_comes_back_as_if_from_the_prefix() -> None:
    there = nat64.translate(from_client(nat64.UDP, struct.pack("!HHHH", 5000, 443, 12, 0) + b"ping"))
    assert there is not None
    back = there[:12] + there[16:20] + there[12:16] + struct.pack("!HHHH", 443, 5000, 12, 0) + b"pong"
    packet = nat64.translate(back)
    assert packet is not None
    assert packet[8:24] == socket.inet_pton(socket.AF_INET6, nat64.synthesise("11.1.1.1"))
    assert packet[24:40] == nat64.CLIENT6.packed
    assert packet[-4:] == b"pong"
    assert checksum_is_right(packet[8:40] + struct.pack("!II", 12, nat64.UDP), packet[40:])


def test_what_it_does_not_know_is_dropped() -> None:
    elsewhere = bytearray(from_client(nat64.UDP, bytes(8)))
    elsewhere[24] ^= 1
    assert nat64.translate(bytes(elsewhere)) is None
    assert nat64.translate(from_client(58, bytes(8))) is None  # ICMPv6
    assert nat64.translate(b"\x45") is None
