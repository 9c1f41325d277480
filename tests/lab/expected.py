"""What each pair of networks must reach: written from theory, before any run, and never from a result.

    path(a, b)      (rung of a, rung of b): the best that the pair can have

A direct path between a and b begins with one packet that gets in. Both know the address that the relay saw of
the other. A packet of a gets in at b if

    b maps by endpoint-independence (RFC 4787 section 4.1): else nobody knows the port that b has for a, and
    b lets it in: always (filter "any"); because b has sent to a's address (filter "address"); because b has
    sent to a's address and port (filter "port"), which needs that a's port toward b is the one b was told,
    so that a maps by endpoint-independence too.

One way is enough: the answer goes back to where the packet came from, through the hole that it made itself.
No UDP on either side: no direct path (it is QUIC). Two behind one carrier meet at the carrier's own address:
it takes hairpinning (RFC 4787 section 6), as the homes' own addresses are not known to their clients.

Where no direct path is possible each side's leg counts by itself. Must never live here: what a run found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Rung = Literal["direct", "quic-443", "quic-3478", "ws-443"]
Mapping = Literal["independent", "dependent", "none"]
Filter = Literal["any", "address", "port", "none"]


@dataclass(frozen=True, slots=True)
class Network:
    """How a network treats what its client sends; "none" where UDP is blocked."""

    mapping: Mapping
    filtering: Filter
    leg: Rung
    """The best way from there to the relay."""
    carrier: bool = False
    """Both clients of this kind stand behind one carrier's NAT."""
    hairpin: bool = False
    """The carrier lets its customers meet at its outer address."""


NETWORKS: Final[dict[str, Network]] = {
    # A public address and no filter: everybody gets in.
    "open": Network("independent", "any", "quic-443"),
    # One mapping for all destinations, anyone may send to it.
    "full-cone": Network("independent", "any", "quic-443"),
    # One mapping; whom the client sent to may send, from any port.
    "address-restricted": Network("independent", "address", "quic-443"),
    # One mapping; only the very address and port that the client sent to: most homes.
    "port-restricted": Network("independent", "port", "quic-443"),
    # A mapping per destination, unforeseeable: many companies, some mobile networks.
    "symmetric": Network("dependent", "port", "quic-443"),
    # A home's NAT behind a carrier's, both port-restricted; together they behave as one port-restricted NAT
    # toward all who are not behind the same carrier.
    "cgn-hairpin": Network("independent", "port", "quic-443", carrier=True, hairpin=True),
    "cgn": Network("independent", "port", "quic-443", carrier=True),
    # 2 of 100 packets are lost beyond 64 kb/s. One call of 24 kb/s audio is below or just above that, and
    # Opus bears 2 %: UDP stays better than TCP, which would turn each loss into a pause. Else a home's NAT.
    "throttled": Network("independent", "port", "quic-443"),
    # A firewall that knows QUIC by its port; other UDP passes, so 3478 does, and punching too.
    "no-udp-443": Network("independent", "port", "quic-3478"),
    # UDP is blocked, TCP is not.
    "no-udp": Network("none", "none", "ws-443"),
    # Nothing but TCP to port 443.
    "only-443": Network("none", "none", "ws-443"),
    # Nothing at all leaves but by an HTTP proxy's CONNECT.
    "proxy": Network("none", "none", "ws-443"),
    # The client has IPv6 alone; 64:ff9b::/96 leads to IPv4 through a port-restricted translator (RFC 6146
    # demands endpoint-independent mapping). A peer's IPv4 address is reachable in that prefix, for a client
    # that puts it there (RFC 8305 section 7.1): theory allows the direct path, so it is expected.
    "nat64": Network("independent", "port", "quic-443"),
}

# "D": direct. ".": not possible. Rows and columns in the order of NETWORKS:
#   open, full-cone, address-, port-restricted, symmetric, cgn-hairpin, cgn, throttled, no-udp-443,
#   no-udp, only-443, proxy, nat64
GRID: Final = {
    "open": "DDDDDDDDD...D",
    "full-cone": "DDDDDDDDD...D",
    "address-restricted": "DDDDDDDDD...D",  # with symmetric too: it filters by address, not by port
    "port-restricted": "DDDD.DDDD...D",  # not with symmetric, whose port is not the one that was told
    "symmetric": "DDD..........",  # only with those who do not look at the port
    "cgn-hairpin": "DDDD.DDDD...D",
    "cgn": "DDDD.D.DD...D",  # with another carrier's customers, not with those of its own: no hairpin
    "throttled": "DDDD.DDDD...D",
    "no-udp-443": "DDDD.DDDD...D",
    "no-udp": ".............",
    "only-443": ".............",
    "proxy": ".............",
    "nat64": "DDDD.DDDD...D",
}


def is_direct(a: str, b: str) -> bool:
    """Whether the table has a direct path for this pair."""
    return GRID[a][list(NETWORKS).index(b)] == "D"


def path(a: str, b: str) -> tuple[Rung, Rung]:
    """The rungs of both that the table expects."""
    if is_direct(a, b):
        return "direct", "direct"
    return NETWORKS[a].leg, NETWORKS[b].leg


def theory_allows(a: str, b: str) -> bool:
    """The rule above, worked out; the table must say the same."""
    x, y = NETWORKS[a], NETWORKS[b]
    if "none" in (x.mapping, y.mapping):
        return False
    if x.carrier and a == b and not x.hairpin:
        return False
    return _gets_in(x, y) or _gets_in(y, x)


def _gets_in(sender: Network, receiver: Network) -> bool:
    if receiver.mapping != "independent":
        return False
    return receiver.filtering in ("any", "address") or sender.mapping == "independent"
