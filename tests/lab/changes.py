"""What happens to a network in mid-call: a new mapping, a new address, UDP that turns bad or is gone.

Must never live here: calls, measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from lab.nats import Builder, Site, rules
from lab.topology import Net

Weather = Literal["good", "bad", "blocked", "bad up", "bad down"]
BAD_LOSS: Final = 20  # of 100 packets, each way or one
_RELAYS_PORTS: Final = "{ 443, 3478 }"
_WEATHER: Final[dict[Weather, str]] = {
    "good": "",
    "bad": f"meta l4proto udp numgen random mod 100 < {BAD_LOSS} drop",
    "blocked": "meta l4proto udp drop",
    "bad up": f"udp dport {_RELAYS_PORTS} numgen random mod 100 < {BAD_LOSS} drop",
    "bad down": f"udp sport {_RELAYS_PORTS} numgen random mod 100 < {BAD_LOSS} drop",
}
_SECOND_GATEWAY: Final = "192.168.2.1"
_SECOND_CLIENT: Final = "192.168.2.10"


def rebind(net: Net, site: Site) -> None:
    """The router forgets: what the client sends next leaves from another port (a router of random ports)."""
    for router in site.routers:
        net.run(router, ["conntrack", "-F"])


def set_weather(net: Net, site: Site, weather: Weather) -> None:
    """How the router treats UDP from now on."""
    net.nft(
        site.router,
        "table ip weather {}\ndelete table ip weather\ntable ip weather {\n"
        "chain forward { type filter hook forward priority filter + 1;\n" + _WEATHER[weather] + "\n}\n}\n",
    )


@dataclass
class Mobile:
    """A client with two uplinks, eth0 (Wi-Fi, say) and eth1 (cellular), one of which is up."""

    net: Net
    site: Site
    is_on_second: bool = False

    @classmethod
    def build(cls, net: Net, builder: Builder, site: Site) -> Mobile:
        """Give a client behind a home's router a second way out, with an address of its own."""
        router = net.namespace("cellular")
        wan = "11.3.0.1"
        net.settings(router, ipv4__ip_forward=1)
        net.join(site.client, "eth1", router, "lan0")
        net.ip(router, f"address add {_SECOND_GATEWAY}/24 dev lan0")
        builder.line("cellular", router, [wan])
        net.nft(router, rules("port-restricted", wan))
        net.ip(site.client, "link set eth1 down")
        site.routers = (*site.routers, router)
        return cls(net, site)

    def switch(self) -> None:
        """One uplink goes, with its address; the other comes."""
        self.is_on_second = not self.is_on_second
        gone, here = ("eth0", "eth1") if self.is_on_second else ("eth1", "eth0")
        address = _SECOND_CLIENT if self.is_on_second else self.site.local
        gateway = _SECOND_GATEWAY if self.is_on_second else "192.168.1.1"
        self.net.ip(
            self.site.client,
            f"address flush dev {gone}",
            f"link set {gone} down",
            f"link set {here} up",
            f"address add {address}/24 dev {here}",
            f"route replace default via {gateway}",
        )
