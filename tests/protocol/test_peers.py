"""The address table: each forbidden spelling refused, its public neighbours not, chance against an oracle."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from relay.errors import LocalError
from relay.protocol import peers
from relay.protocol.address import Address
from relay.protocol.peers import Refusal, carried, from_text, judge

NONE: frozenset[bytes] = frozenset()

V4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
]
"""The ranges once more, by other hands than the code's."""

SPELLINGS = [
    *("169.254.169.254", "192.0.0.9", "192.88.99.1", "224.0.0.1", "239.255.255.250", "255.255.255.255"),
    *("0.0.0.0", "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.31.255.255", "100.127.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:10.0.0.1"),
    *("::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "::8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::"),
    *("2002:808:808::1", "2001:0:7f00:1::", "2001::1", "fe80::5efe:7f00:1", "2600:1::5efe:808:808"),
    *("2600:1::200:5efe:808:808", "fe80::1", "fe80::1%1", "fec0::1", "fd00::1", "fc00::1", "ff02::1"),
    *("ff0e::1", "100::1", "2001:db8::1", "2001:2::1", "2001:10::1", "2001:20::1", "3fff::1"),
    *("3fff:fff:ffff::1", "5f00::1", "4000::1", "1fff:ffff::1", "e000::1"),
]
PASSING = [
    *("8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "2600:1::1", "2a00:1450::1", "2001:200::1", "2003::1"),
    *("2001:db7:ffff::1", "2001:db9::1", "2001:4860::8888", "3ffe::1", "2000::1"),
]


def packed(text: str) -> bytes:
    return ip_address(text.partition("%")[0]).packed


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_forbidden_address_is_refused_in_every_spelling(text: str) -> None:
    assert judge(packed(text), NONE) is not None
    assert judge(packed(text), NONE, 443) is not None


@pytest.mark.parametrize("text", PASSING)
def test_a_public_address_passes(text: str) -> None:
    assert judge(packed(text), NONE) is None
    assert judge(packed(text), NONE, 1) is None


def test_there_are_at_least_60_forbidden_spellings_with_the_ends_of_the_ranges() -> None:
    assert len(SPELLINGS) + 2 * len(V4) >= 60


@pytest.mark.parametrize("network", V4)
def test_a_range_is_refused_from_its_first_to_its_last_and_no_further(network: str) -> None:
    parsed = ip_network(network)
    for ip in (parsed[0], parsed[-1]):
        assert judge(ip.packed, NONE) is Refusal.RANGE
        assert judge(IPv6Address(f"::ffff:{ip}").packed, NONE) is Refusal.RANGE
    for number in (int(parsed[0]) - 1, int(parsed[-1]) + 1):
        if 0 <= number < 2**32 and not any(IPv4Address(number) in ip_network(other) for other in V4):
            assert judge(IPv4Address(number).packed, NONE) is None


def test_the_ends_of_what_ipv6_allows_are_where_they_should_be() -> None:
    for first, last in (
        ("2000::", "2000:ffff::"),
        ("2001:200::", "2001:db7:ffff::"),
        ("2003::", "3ffe:ffff::"),
    ):
        assert judge(packed(first), NONE) is None
        assert judge(packed(last), NONE) is None
    for text in ("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"):
        assert judge(packed(text), NONE) is not None
        assert judge((int.from_bytes(packed(text), "big") + 1).to_bytes(16, "big"), NONE) is None
    for text in ("3fff:1000::", "2001:db9::", "2003::"):
        assert judge(packed(text), NONE) is None
        assert judge((int.from_bytes(packed(text), "big") - 1).to_bytes(16, "big"), NONE) is not None


def oracle(ip: IPv4Address | IPv6Address) -> bool:
    """Whether it may pass, by integers alone."""
    n = int(ip)
    if ip.version == 6 and n >> 32 == 0xFFFF:
        ip, n = IPv4Address(n & 0xFFFF_FFFF), n & 0xFFFF_FFFF
    if ip.version == 4:
        prefixes = [(int(a[0]), a.prefixlen) for a in map(ip_network, V4)]
        return not any(n >> 32 - bits == base >> 32 - bits for base, bits in prefixes)
    if n >> 32 & 0xFDFF_FFFF == 0x5EFE or n >> 125 != 1:
        return False
    return not (
        n >> 105 == 0x2001_0000 >> 9 or n >> 96 == 0x2001_0DB8 or n >> 112 == 0x2002 or n >> 108 == 0x3FFF0
    )


def test_20000_random_addresses_are_judged_as_the_oracle_does() -> None:
    rng = random.Random(7)
    allowed = 0
    edges = [int(ip_network(each)[0]) for each in V4] + [int(ip_network(each)[-1]) for each in V4]
    for number in range(20_000):
        if number % 2:
            near = rng.choice(edges) + rng.randrange(-2, 3)
            n = rng.choice((rng.randrange(2**32), near % 2**32))
            data = n.to_bytes(4, "big") if number % 4 == 1 else bytes(10) + b"\xff\xff" + n.to_bytes(4, "big")
        else:
            front = rng.choice(("2001", "2002", "3fff", "64ff9b", "0000", "fe80", "2600", "2a00", "3ff0"))
            data = bytes.fromhex(front.zfill(len(front) + len(front) % 2))
            data += rng.choice((rng.randbytes(16), bytes(8), bytes(6) + b"\x02\0\x5e\xfe" + rng.randbytes(4)))
            data = (data + rng.randbytes(16))[:16]
        wanted = oracle(ip_address(data))
        assert (judge(data, NONE, 9) is None) is wanted, ip_address(data)
        allowed += wanted
    assert 4_000 < allowed < 16_000  # both answers are met often


# ---------------------------------------------------------------- reasons


def test_the_reason_is_named() -> None:
    assert judge(packed("8.8.8.8"), NONE, 0) is Refusal.PORT
    assert judge(packed("64:ff9b::808:808"), NONE) is Refusal.CARRIER
    assert judge(packed("2600:1::5efe:808:808"), NONE) is Refusal.CARRIER
    assert judge(packed("fd00::1"), NONE) is Refusal.RANGE


def test_our_own_addresses_are_refused_on_every_port_and_in_both_spellings() -> None:
    own = {packed("8.8.8.8"), packed("2600:1::1")}
    assert judge(packed("8.8.8.8"), own, 53) is Refusal.OWN
    assert judge(packed("::ffff:8.8.8.8"), own) is Refusal.OWN
    assert judge(packed("2600:1::1"), own) is Refusal.OWN
    assert judge(packed("8.8.8.9"), own) is None


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "127.0.0.1", "192.168.7.7", "198.51.100.1", "100.64.0.1", "::1", "fd00::1", "2001:db8::1"],
)
def test_a_laboratory_opens_private_ranges(text: str) -> None:
    assert judge(packed(text), NONE, 9, lab=True) is None
    assert judge(packed(text), {packed(text)}, 9, lab=True) is Refusal.OWN
    assert judge(packed(text), NONE, 0, lab=True) is Refusal.PORT


@pytest.mark.parametrize(
    "text",
    ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "ff02::1", "::127.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::", "4000::1"],
)  # fmt: skip
def test_a_laboratory_opens_nothing_else(text: str) -> None:
    assert judge(packed(text), NONE, lab=True) is not None


def test_a_laboratory_still_reaches_the_public() -> None:
    assert judge(packed("8.8.8.8"), NONE, lab=True) is None
    assert judge(packed("2600:1::1"), NONE, lab=True) is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [("::7f00:1", "127.0.0.1"), ("::ffff:0:7f00:1", "127.0.0.1"), ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
     ("2002:7f00:1::", "127.0.0.1"), ("2001:0:1:1::f5ff:fffe", "10.0.0.1"),
     ("fe80::5efe:7f00:1", "127.0.0.1"),
     ("2600:1::1", None), ("8.8.8.8", None)],
)  # fmt: skip
def test_what_a_carrier_carries_is_known_for_the_log(text: str, inside: str | None) -> None:
    assert carried(packed(text)) == (None if inside is None else packed(inside))


def test_an_address_of_another_size_is_our_own_fault() -> None:
    with pytest.raises(LocalError):
        judge(bytes(5), NONE)


# ---------------------------------------------------------------- text


def test_canonical_text_is_an_address() -> None:
    assert from_text("192.0.2.1", 9) == Address("192.0.2.1", 9)
    assert from_text("2001:db8::1", 0) == Address("2001:db8::1", 0)


@pytest.mark.parametrize(
    "text",
    ["", "127.1", "0177.0.0.1", "2130706433", "0x7f.0.0.1", "127.0.0.01", "::ffff:127.0.0.1", "::FFFF:7f00:1",
     "2001:DB8::1", "2001:db8:0::1", "fe80::1%1", "[::1]", "localhost", " 192.0.2.1"],
)  # fmt: skip
def test_text_in_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(LocalError):
        from_text(text, 9)


def test_the_ranges_of_the_code_are_the_ones_written_here() -> None:
    assert [(int(n[0]), int(n[-1])) for n in map(ip_network, V4)] == list(peers.DENIED_V4)
