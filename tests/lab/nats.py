"""The networks of expected.py, built from nft rules: a client, its router, sometimes a carrier's router.

    site = Builder(net, folder).site("symmetric", "a")

A router that lets an unsolicited packet through to itself keeps a conntrack entry of it, and that entry takes
the very port away which the client's own packet to that peer would have had: punching would fail in the lab
that succeeds at home. So every router drops what nobody asked for. Must never live here: what is expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab import nat64
from lab.expected import NETWORKS
from lab.topology import Net, python

RELAY: Final = "11.1.1.1"
VERIFIER: Final = ("11.1.2.1", "11.1.2.2")
PROXY_PORT: Final = 3128
THROTTLED_BYTES: Final = 8_000  # per second: 64 kb/s
THROTTLED_LOSS: Final = 2
_MSS: Final = 1360  # what a translated TCP segment may hold (IPv6's header is 20 bytes longer)
_HOME_GATEWAY: Final = "192.168.1.1"
_HOME_CLIENT: Final = {"a": "192.168.1.10", "b": "192.168.1.20"}

# What a router learns from what its clients send: who has the port, and whom the port has sent to.
_MEMORY = """
    map owners { type inet_service : ipv4_addr; flags dynamic,timeout; timeout 10m; size 65535; }
    set sent { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 10m; size 65535; }
    chain learn {
        type filter hook forward priority mangle;
        oifname "wan" meta l4proto udp update @owners { udp sport : ip saddr }
        oifname "wan" meta l4proto udp update @sent { ip daddr . udp sport }
    }
"""
_ENTRANCE: Final = {
    "full-cone": 'iifname "wan" meta l4proto udp dnat ip to udp dport map @owners',
    "address-restricted": 'iifname "wan" ip saddr . udp dport @sent dnat ip to udp dport map @owners',
}
_HAIRPIN = """iifname "lan*" ip daddr {wan} meta l4proto udp dnat ip to udp dport map @owners"""
_HAIRPIN_BACK = """oifname "lan*" ct status dnat ip saddr != {wan} snat ip to {wan}"""
_THROTTLE = (
    "{way} meta l4proto udp limit rate over {rate} bytes/second burst 4000 bytes "
    "numgen random mod 100 < {loss} drop"
)
_POLICY: Final = {
    "throttled": [
        _THROTTLE.format(way=f'{way} "wan"', rate=THROTTLED_BYTES, loss=THROTTLED_LOSS)
        for way in ("oifname", "iifname")
    ],
    "no-udp-443": ['oifname "wan" udp dport 443 drop'],
    "no-udp": ["meta l4proto udp drop"],
    "only-443": ['oifname "wan" tcp dport != 443 drop', 'oifname "wan" meta l4proto != tcp drop'],
    "proxy": ["drop"],
    "nat64": [f"tcp flags syn tcp option maxseg size set {_MSS}"],
}


@dataclass
class Site:
    """One client's place."""

    kind: str
    side: str
    client: str
    """Namespace of the client."""
    router: str
    """Namespace whose NAT is the client's own; the client's where there is none."""
    wan: str
    """The address that the internet sees."""
    local: str
    """The client's own address."""
    routers: tuple[str, ...] = ()
    proxy: str | None = None
    is_ipv6: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def reach(self, address: str) -> str:
        """How this client writes an IPv4 address in a URL."""
        return f"[{nat64.synthesise(address)}]" if self.is_ipv6 else address

    def forget(self, net: Net) -> None:
        """Drop all mappings: a pair must not live on the holes of the one before."""
        for router in self.routers:
            net.run(router, ["conntrack", "-F"])
            for name in ("map ip lab owners", "set ip lab sent"):
                net.run(router, ["nft", "flush", *name.split()])


def rules(kind: str, wan: str) -> str:
    """The ruleset of the router of `kind` with the public address `wan`."""
    entrance = [_ENTRANCE[kind]] if kind in _ENTRANCE else []
    after = []
    if kind == "cgn-hairpin":
        entrance.append(_HAIRPIN.format(wan=wan))
        after.append(_HAIRPIN_BACK.format(wan=wan))
    after.append('oifname "wan" masquerade' + (" random,fully-random" if kind == "symmetric" else ""))
    return "\n".join(
        [
            "table ip lab {",
            _MEMORY,
            "chain entrance { type nat hook prerouting priority dstnat;",
            *entrance,
            "}",
            "chain exit { type nat hook postrouting priority srcnat;",
            *after,
            "}",
            "chain own { type filter hook input priority filter;",
            'iifname "wan" ct state new drop',
            f'iifname "lan*" ip daddr {wan} drop',
            "}",
            "chain firewall { type filter hook forward priority filter;",
            *_POLICY.get(kind, []),
            "}",
            "}",
            "",
        ]
    )


def count_flows(net: Net, namespace: str) -> None:
    """Count what a client sends and gets, by the far end's address, protocol and port."""
    families = (("ip", "ip", "ipv4_addr", "protocol"), ("ip6", "ip6", "ipv6_addr", "nexthdr"))
    for table, header, kind, protocol in families:
        net.nft(
            namespace,
            f"""table {table} flows {{
    set out {{ type {kind} . inet_proto . inet_service; flags dynamic; size 65535; counter; }}
    set in {{ type {kind} . inet_proto . inet_service; flags dynamic; size 65535; counter; }}
    chain output {{ type filter hook output priority filter;
        oifname != "lo" meta l4proto {{ tcp, udp }} \
            update @out {{ {header} daddr . {header} {protocol} . th dport }}
    }}
    chain input {{ type filter hook input priority filter;
        iifname != "lo" meta l4proto {{ tcp, udp }} \
            update @in {{ {header} saddr . {header} {protocol} . th sport }}
    }}
}}
""",
        )


def _rank(side: str) -> int:
    """0 for "a", 1 for "b", 2 for "a1", ..."""
    return 2 * int(side[1:] or 0) + (side[0] == "b")


class Builder:
    """Makes sites and remembers the lines that their routers need to the lab's internet."""

    def __init__(self, net: Net, folder: Path) -> None:
        self.net = net
        self._folder = folder
        self._carriers: dict[str, tuple[str, str]] = {}
        self._later: list[tuple[str, str]] = []
        self.lines: list[dict[str, Any]] = []

    def line(self, name: str, namespace: str, addresses: list[str], **more: str) -> None:
        """A line to the internet: its device "wan" exists once the internet runs."""
        path = self.net.path(namespace)
        self.lines.append({"name": name, "path": path, "device": "wan", "addresses": addresses, **more})
        for address in addresses:
            self._later.append((namespace, f"address add {address}/32 dev wan"))
        self._later.append((namespace, "link set wan up mtu 1500"))
        self._later.append((namespace, "route add default dev wan"))

    def connect(self) -> None:
        """The internet runs: give its devices their addresses."""
        for namespace, command in self._later:
            self.net.ip(namespace, command)
        self._later = []

    def box(self, name: str, addresses: list[str]) -> str:
        """A machine with public addresses; its namespace."""
        namespace = self.net.namespace(name)
        self.line(name, namespace, addresses)
        return namespace

    def site(self, kind: str, side: str) -> Site:
        """A client's place in a network of `kind`; `side` is "a" or "b", or "a1", "a2", ... for more."""
        number = list(NETWORKS).index(kind)
        wan = f"11.2.{number}.{_rank(side) + 1}"
        name = f"{side}-{number}"
        client = self.net.namespace(f"{name}-client")
        count_flows(self.net, client)
        if kind == "open":
            self.line(name, client, [wan])
            return Site(kind, side, client, client, wan, wan)
        router = self.net.namespace(f"{name}-router")
        routers = [router]
        self.net.settings(router, ipv4__ip_forward=1)
        self.net.join(client, "eth0", router, "lan0")
        if kind == "nat64":
            local = self._ipv6(client, router, name, wan)
            return Site(kind, side, client, router, wan, local, (router,), is_ipv6=True)
        local = _HOME_CLIENT[side[0]]
        self.net.ip(client, f"address add {local}/24 dev eth0", f"route add default via {_HOME_GATEWAY}")
        self.net.ip(router, f"address add {_HOME_GATEWAY}/24 dev lan0")
        if NETWORKS[kind].carrier:
            carrier, wan = self._carrier(kind, wan)
            routers.append(carrier)
            home = self._uplink(carrier, router, side)
            self.net.nft(router, rules("port-restricted", home))
        else:
            self.line(name, router, [wan])
            self.net.nft(router, rules(kind, wan))
        site = Site(kind, side, client, router, wan, local, tuple(routers))
        if kind == "proxy":
            site.proxy = f"http://{_HOME_GATEWAY}:{PROXY_PORT}"
            command = [*python("lab.proxy"), _HOME_GATEWAY, str(PROXY_PORT)]
            self.net.spawn(router, command, log=self._folder / f"proxy-{side}.log")
        return site

    def _carrier(self, kind: str, wan: str) -> tuple[str, str]:
        if kind not in self._carriers:
            carrier = self.net.namespace(kind)
            self.net.settings(carrier, ipv4__ip_forward=1)
            self.line(kind, carrier, [wan])
            self.net.nft(carrier, rules(kind, wan))
            self._carriers[kind] = carrier, wan
        return self._carriers[kind]

    def _uplink(self, carrier: str, home: str, side: str) -> str:
        """A home's line to its carrier; the home's address there (RFC 6598)."""
        base = 4 * _rank(side)
        self.net.join(home, "wan", carrier, f"lan-{side}")
        address, gateway = f"100.64.0.{base + 2}", f"100.64.0.{base + 1}"
        self.net.ip(home, f"address add {address}/30 dev wan", f"route add default via {gateway}")
        self.net.ip(carrier, f"address add {gateway}/30 dev lan-{side}")
        return address

    def _ipv6(self, client: str, router: str, name: str, wan: str) -> str:
        local, gateway = str(nat64.CLIENT6), "2001:db8:64::1"
        self.net.settings(client, ipv6__conf__all__accept_dad=0, ipv6__conf__eth0__accept_dad=0)
        self.net.settings(router, ipv6__conf__all__forwarding=1, ipv6__conf__lan0__accept_dad=0)
        self.net.ip(
            client, f"address add {local}/64 dev eth0 nodad", f"route add default via {gateway} dev eth0"
        )
        self.net.ip(router, f"address add {gateway}/64 dev lan0 nodad")
        self.line(name, router, [wan])
        path = self.net.path(router)
        self.lines.append(
            {"name": f"{name}-64", "path": path, "device": "xlat", "addresses": [], "kind": "nat64"}
        )
        self._later.append((router, "link set xlat up mtu 1500"))
        self._later.append((router, f"route add {nat64.CLIENT4}/32 dev xlat"))
        self._later.append((router, "route add 64:ff9b::/96 dev xlat"))
        self.net.nft(router, rules("nat64", wan))
        return local
