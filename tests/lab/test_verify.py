"""What the independent tools print, read; and what contradicts a kind of network."""

from __future__ import annotations

import pytest

from lab.expected import NETWORKS
from lab.nats import rules
from lab.verify import judge_reach, judge_tools, read_natdiscovery, read_stun


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Open", ("independent", "any", False)),
        (
            "Independent Mapping, Independent Filter, preserves ports, no hairpin",
            ("independent", "any", False),
        ),
        (
            "Independent Mapping, Port Dependent Filter, random port, will hairpin",
            ("independent", "port", True),
        ),
        ("Dependent Mapping, random port, no hairpin", ("dependent", None, False)),
        ("Blocked or could not reach STUN server", ("none", "none", False)),
        ("something new", (None, None, False)),
    ],
)
def test_the_line_of_stun_is_read(said: str, found: tuple[str | None, str | None, bool]) -> None:
    read = read_stun(f"STUN client version 0.97\nPrimary: {said}\t\nReturn value is 0x1\n")
    assert (read["mapping"], read["filtering"], read["hairpin"]) == found


def test_the_banners_of_natdiscovery_are_read() -> None:
    text = "NAT with Endpoint Independent Mapping!\n==\nNAT with Address and Port Dependent Filtering!\n"
    assert read_natdiscovery(text) == {"mapping": "independent", "filtering": "port"}
    assert read_natdiscovery("") == {"mapping": None, "filtering": None}


def test_a_tool_that_contradicts_the_kind_is_named() -> None:
    tools = {"natdiscovery": {"mapping": "dependent", "filtering": "port"}}
    assert judge_tools("port-restricted", tools) == ["natdiscovery: mapping dependent, not independent"]
    assert judge_tools("symmetric", tools) == []


def test_a_tool_that_said_nothing_proves_nothing() -> None:
    assert judge_tools("port-restricted", {"natdiscovery": read_natdiscovery("")}) != []


def test_a_firewall_that_lets_too_much_through_is_found() -> None:
    found = {
        "udp": {"443": False, "7000": False},
        "tcp": {"80": True, "443": True},
        "proxy": None,
        "load": None,
    }
    assert judge_reach("no-udp", found) == []
    assert judge_reach("only-443", found) == ["prober: tcp {'80': True, '443': True}"]


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "open"])
def test_every_router_drops_what_nobody_asked_for(kind: str) -> None:
    assert 'iifname "wan" ct state new drop' in rules(kind, "11.2.0.1")
