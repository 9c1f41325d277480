"""The lab's end of a player: orders out, answers in, and which way its packets went by the kernel's count.

Must never live here: what was expected.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from lab import nat64
from lab.expected import Rung
from lab.nats import PROXY_PORT, RELAY, Site
from lab.topology import LabError, Net, python

ANSWER_S: Final = 15.0
_RELAYS: Final = (RELAY, nat64.synthesise(RELAY))
_LEGS: Final[dict[tuple[str, int], Rung]] = {
    ("udp", 443): "quic-443",
    ("udp", 3478): "quic-3478",
    ("tcp", 443): "ws-443",
}


class PlayerFailedError(LabError):
    """The player said that it failed, or nothing in time."""


class Person:
    """A player in a client's namespace."""

    def __init__(self, net: Net, site: Site) -> None:
        self.site = site
        self._net = net
        self._process = net.spawn(site.client, python("lab.player"))
        self._lines: deque[dict[str, Any]] = deque()
        self._rest = b""
        self.rungs: list[Rung] = self.wait("player")["rungs"]

    def order(self, do: str, **more: Any) -> None:
        """Tell the player to do something."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise PlayerFailedError("the player is gone") from None

    def wait(self, what: str, seconds: float = ANSWER_S) -> dict[str, Any]:
        """The next answer of that kind; others are passed over. PlayerFailedError if it failed."""
        until = time.monotonic() + seconds
        while True:
            while self._lines:
                line = self._lines.popleft()
                if line["is"] == what:
                    return line
                if line["is"] == "failed" and what != "synced":
                    raise PlayerFailedError(line["error"])
            self._read(until, what)

    def ask(self, do: str, answer: str, **more: Any) -> dict[str, Any]:
        """An order and its answer."""
        self.order(do, **more)
        return self.wait(answer)

    def sync(self) -> None:
        """Whatever was going on is over; answers from here on belong to what follows."""
        self.ask("sync", "synced")

    def traffic(self) -> dict[str, int]:
        """Bytes in and out by rung so far, as the kernel of the client's namespace counted them."""
        counted: dict[str, int] = {}
        for address, protocol, port, count in flows(self._net, self.site.client, "in", "out"):
            rung = rung_of(address, protocol, port)
            counted[rung] = counted.get(rung, 0) + count
        return counted

    def _read(self, until: float, what: str) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
            raise PlayerFailedError(f"no answer {what!r} in time")
        data = os.read(fd, 1 << 20)
        if not data:
            raise PlayerFailedError("the player ended")
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._lines += [json.loads(line) for line in whole]


def flows(net: Net, namespace: str, *sets: str) -> Iterator[tuple[str, str | int, int, int]]:
    """Address, protocol and port of each far end, and bytes so far (nats.count_flows)."""
    found = json.loads(net.run(namespace, ["nft", "-nn", "-j", "list", "ruleset"]))
    for entry in found["nftables"]:
        counted = entry.get("set", {})
        if counted.get("table") == "flows" and counted["name"] in sets:
            for element in counted.get("elem", ()):
                yield (*element["elem"]["val"]["concat"], element["elem"]["counter"]["bytes"])


def rung_of(address: str, protocol: str | int, port: int) -> str:
    """Which rung a flow with that far end is: a leg to the relay, or directly to somebody else."""
    name = {17: "udp", 6: "tcp"}.get(protocol, protocol) if isinstance(protocol, int) else protocol
    if name == "tcp" and port == PROXY_PORT:
        return "ws-443"  # nothing else goes by the proxy
    if address in _RELAYS:
        return _LEGS.get((str(name), port), "other")
    return "direct" if name == "udp" else "other"
