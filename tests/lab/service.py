"""relay as a service of a box: what is put there, calls through it, what it and its manager say.

    service = Service(net, box, peer, folder)
    service.configure(); service.call(3.0); service.wait_until_it_serves()

Callers are `relay call`, the SDK as shipped, in a namespace of their own that only reaches the box. Must
never live here: judgements (systemd.py).
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from lab.box import Box
from lab.topology import LabError, Net, Process, end
from load.daemon import mint
from quicpair import certificate
from relay.config import Config, DrainConfig, IssuerConfig, NodeConfig, TlsConfig, TokenConfig, render
from relay.protocol import token
from relay.protocol.signed import public_of

BOX: Final = "198.51.100.1"
PEER: Final = "198.51.100.2"
UNIT: Final = "relay.service"
SOCKETS: Final = ("relay.socket", "relay-metrics.socket")
CLUSTER: Final = "lab"
START_S: Final = 20.0
PACKETS_A_SECOND: Final = 50
FETCH: Final = """
import sys, urllib.request
sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
"""
POKE: Final = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[3])):
    sock.sendto(b"@" + bytes(40), (sys.argv[1], int(sys.argv[2])))
"""
FLOOD: Final = """
import os, socket, sys, time
host, port, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
sock, sent, start = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0, time.monotonic()
while (now := time.monotonic() - start) < seconds:
    while sent < rate * now:
        sock.sendto(b"\\x40" + os.urandom(40), (host, port))
        sent += 1
    time.sleep(0.001)
print(sent)
"""


@dataclasses.dataclass
class Talk:
    """A call under way: both ends, and how long each speaks."""

    ends: list[Process]
    seconds: float

    def outcome(self) -> dict[str, Any]:
        """Wait for its end: was it a call for both, and the least share of what was said that one heard."""
        told = []
        for process in self.ends:
            try:
                out, _ = process.communicate(timeout=self.seconds + 40)
            except subprocess.TimeoutExpired:
                end(process)
                out = b""
            lines = [line for line in out.decode().splitlines() if line.startswith("{")]
            told.append(json.loads(lines[-1]) if lines else {"ok": False, "error": "it said nothing"})
        heard = [(one.get("stats") or {}).get("received", 0) for one in told]
        share = min(heard) / (self.seconds * PACKETS_A_SECOND)
        errors = [one.get("error") or one.get("why") for one in told if not one.get("ok")]
        return {"ok": not errors, "share": round(share, 3), "errors": errors}


class Service:
    """The unit in its box."""

    def __init__(self, net: Net, box: Box, peer: str, folder: Path) -> None:
        self.box = box
        self._net = net
        self._peer = peer
        self._folder = folder
        self._seed = secrets.token_bytes(32)
        cert, key = certificate(folder)
        self._cert, self._key = Path(cert), Path(key)
        self.config = Config(
            node=NodeConfig(cluster=CLUSTER),
            tls=TlsConfig(),
            tokens=TokenConfig((IssuerConfig("bench", public_of(self._seed).hex()),)),
            drain=DrainConfig(grace_s=0, smear_s=0, deadline_s=10, close_s=0.2),
        )

    # ------------------------------------------------------------ what is put there

    def configure(self, config: Config | None = None, path: str = "/etc/relay/relay.toml") -> None:
        """This configuration, or the lab's."""
        self.box.write(path, render(config or self.config))

    def certify(self) -> None:
        """Certificate and key, readable by the group that an installation made."""
        for source, name in ((self._cert, "fullchain.pem"), (self._key, "privkey.pem")):
            self.box.write(f"/etc/relay/tls/{name}", source.read_text())
            self.box.run("chown", "root:relay-tls", f"/etc/relay/tls/{name}")
            self.box.run("chmod", "0640", f"/etc/relay/tls/{name}")

    def drop_in(self, text: str | None, unit: str = UNIT) -> None:
        """What the lab adds to a unit; None takes it away. The unit is not restarted."""
        path = f"/etc/systemd/system/{unit}.d/lab.conf"
        if text is None:
            self.box.path(path).unlink(missing_ok=True)
        else:
            self.box.write(path, text)
        self.box.run("systemctl", "daemon-reload")

    # ------------------------------------------------------------ life

    def start_by_socket(self) -> None:
        """Sockets first; the daemon is started by the first packet."""
        self.box.run("systemctl", "start", *SOCKETS)
        self.poke(443, 1)
        self.wait_until_it_serves()

    def restart(self) -> dict[str, str]:
        """Restart; its properties then."""
        self.box.run("systemctl", "restart", *SOCKETS, UNIT)
        return self.wait_until_it_serves()

    def stop(self) -> None:
        """With its sockets, so that no packet starts it."""
        self.box.run("systemctl", "stop", *SOCKETS, UNIT)

    def wait_until_it_serves(self, unit: str = UNIT, after: int = 0) -> dict[str, str]:
        """Properties of the unit once it is active, with another main process than `after`."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            found = self.properties(unit)
            if found["ActiveState"] == "active" and int(found["MainPID"]) not in (0, after):
                return found
            time.sleep(0.05)
        said = "\n".join(self.box.journal(unit)[-15:])
        raise LabError(f"{unit} does not serve within {START_S:g} s: {self.properties(unit)}\n{said}")

    def properties(self, unit: str = UNIT) -> dict[str, str]:
        """What the manager knows."""
        names = (
            "ActiveState",
            "MainPID",
            "NRestarts",
            "Result",
            "StatusText",
            "NFileDescriptorStore",
            "ExecMainStartTimestampMonotonic",
            "ActiveEnterTimestampMonotonic",
        )
        return self.box.show(unit, *names)

    def signal(self, name: str, unit: str = UNIT) -> None:
        """To the main process."""
        self.box.run("systemctl", "kill", "-s", name, "--kill-who=main", unit)

    def resident_mib(self) -> float:
        """Memory of the main process."""
        status = self.box.run("cat", f"/proc/{self.properties()['MainPID']}/status").stdout
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    def metrics(self, at: str = Config().listen.metrics, **labels: str) -> dict[str, float]:
        """Sums of the samples of each name that have these labels, over /metrics in the box."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(self.fetch("/metrics", at)):
            for sample in family.samples:
                if labels.items() <= sample.labels.items():
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def fetch(self, path: str, at: str = Config().listen.metrics) -> str:
        """What the operator's side of a program in the box answers."""
        return self.box.run("python3", "-c", FETCH, f"http://{at}{path}").stdout

    # ------------------------------------------------------------ from outside

    def talk(self, seconds: float, url: str = f"quic://{BOX}:443") -> Talk:
        """Two people begin to call each other through it."""
        call = secrets.token_bytes(16)
        ends = []
        for _ in range(2):
            name = self._folder / f"{secrets.token_hex(4)}.tok"
            name.write_text(token.to_text(mint(self._seed, call, CLUSTER, net=token.NET_TCP_LEGS)))
            words = ["--token-file", str(name), "--ca", str(self._cert), "--server-name", "localhost"]
            sound = ["--tone", "440", "--seconds", f"{seconds:g}", "--json"]
            command = [sys.executable, "-m", "relay", "call", "--url", url, *words, *sound]
            ends.append(self._net.spawn(self._peer, command))
        return Talk(ends, seconds)

    def flood(self, port: int, rate: float, seconds: float) -> Process:
        """Packets of nobody, so many a second; it prints how many."""
        command = [sys.executable, "-c", FLOOD, BOX, str(port), str(rate), str(seconds)]
        return self._net.spawn(self._peer, command)

    def poke(self, port: int, packets: int) -> None:
        """So many packets of nobody, and they are sent when this returns."""
        self._net.run(self._peer, [sys.executable, "-c", POKE, BOX, str(port), str(packets)])

    def hog(self) -> Process:
        """A process that wants a whole CPU until it is ended."""
        return self._net.spawn(self._peer, [sys.executable, "-c", "while True: pass"])
