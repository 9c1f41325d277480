"""IPv4 addresses behind a translator: the examples of RFC 6052 and RFC 7050, and what a resolver may say."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest

from relay.client.nat64 import WELL_KNOWN, discover, embed, prefix_of, reach
from relay.protocol.address import Address

# RFC 6052 section 2.4
EXAMPLES = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
    "64:ff9b::/96": "64:ff9b::192.0.2.33",
}


@pytest.mark.parametrize("prefix", EXAMPLES)
def test_an_address_stands_where_the_standard_puts_it(prefix: str) -> None:
    assert embed(IPv4Address("192.0.2.33"), IPv6Network(prefix)) == IPv6Address(EXAMPLES[prefix])


@pytest.mark.parametrize("prefix", EXAMPLES)
@pytest.mark.parametrize("known", ["192.0.0.170", "192.0.0.171"])
def test_a_prefix_is_read_out_of_a_resolvers_answer(prefix: str, known: str) -> None:
    assert prefix_of(embed(IPv4Address(known), IPv6Network(prefix))) == IPv6Network(prefix)


def test_an_answer_without_a_known_address_is_no_translators() -> None:
    assert prefix_of(IPv6Address("2001:db8::1")) is None


def test_public_ipv4_is_reached_by_the_prefix_private_not_at_all_and_ipv6_as_it_is() -> None:
    told = [Address("11.1.1.1", 4000), Address("192.168.1.10", 4000), Address("2001:db8::1", 5000)]
    assert reach(told, WELL_KNOWN) == [Address("64:ff9b::b01:101", 4000), Address("2001:db8::1", 5000)]


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["2001:db8:64::192.0.0.170", "2001:db8:64::192.0.0.171"], "2001:db8:64::/96"),
        (["2001:db8::1"], "64:ff9b::/96"),  # a resolver that lies
        ([], "64:ff9b::/96"),  # none that synthesises
    ],
)
async def test_the_networks_own_resolver_is_asked(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], found: str
) -> None:
    async def getaddrinfo(name: str, port: None, *, family: int) -> list[Any]:
        assert (name, family) == ("ipv4only.arpa", socket.AF_INET6)
        if not answers:
            raise socket.gaierror
        return [(family, socket.SOCK_DGRAM, 17, "", (answer, 0, 0, 0)) for answer in answers]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await discover() == IPv6Network(found)
