"""The ground that a fleet stands on: a namespace for each region and for the hub, distances between, NATS.

    hub ---5 ms---. internet .---0 ms--- eu: a leaf, eu-1, eu-2, people
                              :--20 ms--- us: a leaf, us-1, us-2, people
                              '--40 ms--- ap: a leaf, ap-1, ap-2, people

The internet is the lab's own process (internet.py): it holds a packet as long as the lines at both its ends
say, so that regions are 20, 40 and 60 ms apart one way, and knows no way out. Within a region packets go by
loopback. Must never live here: daemons and feeds (fleetnodes.py), people, judgement.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.nats import Builder
from lab.topology import LabError, Net, Process, environment, python
from lab.world import answer

START_S: Final = 20.0
FETCH_S: Final = 5.0
NATS_PORT: Final = 4222
LEAF_PORT: Final = 7422
NODES: Final = 2
_CLONE_NEWNET: Final = 0x40000000
_BESIDE: Final = Path(__file__).parents[2] / ".cache/nats/usr/sbin/nats-server"  # where scripts/test puts it
_PATH: Final = f"{os.defpath}:/usr/sbin"
PROGRAM: Final = str(_BESIDE) if _BESIDE.exists() else shutil.which("nats-server", path=_PATH)


@dataclass(frozen=True, slots=True)
class Place:
    """A region, or the hub."""

    name: str
    number: int
    delay_s: float
    """Of its line to the internet, one way."""

    def address(self, host: int) -> str:
        """Of a machine there."""
        return f"11.{self.number}.0.{host}"

    @property
    def server(self) -> str:
        """Where its nats-server is."""
        return self.address(1)

    @property
    def people(self) -> str:
        """Where its people call from."""
        return self.address(100)

    def node(self, number: int) -> str:
        """Where its relays are, from 1 on."""
        return self.address(10 + number)


HUB: Final = Place("hub", 9, 0.005)
REGIONS: Final = (Place("eu", 1, 0.0), Place("us", 2, 0.020), Place("ap", 3, 0.040))
BY_NAME: Final = {place.name: place for place in (*REGIONS, HUB)}


def round_trip_s(one: str, other: str) -> float:
    """Between two regions; within one next to nothing."""
    return 0.001 if one == other else 2 * (BY_NAME[one].delay_s + BY_NAME[other].delay_s)


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """Sockets that this thread makes meanwhile belong to the namespace, and stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {path}")
        yield
    finally:
        libc.setns(here, _CLONE_NEWNET)
        os.close(here)
        os.close(there)


class Ground:
    """What stands, and what became of it."""

    def __init__(self, net: Net, folder: Path) -> None:
        self.net = net
        self.folder = folder
        self.namespaces: dict[str, str] = {}
        self._internet: Process | None = None
        self._servers: dict[str, Process] = {}

    @classmethod
    @contextlib.contextmanager
    def build(cls, seed: int) -> Iterator[Ground]:
        """Build it, and take it all down at the end."""
        with tempfile.TemporaryDirectory(prefix="relay-fleet-") as name, Net() as net:
            ground = cls(net, Path(name))
            ground._lay_lines(seed)
            for place in (HUB, *REGIONS):
                ground.start_server(place)
            yield ground

    def _lay_lines(self, seed: int) -> None:
        builder = Builder(self.net, self.folder)
        for place in (HUB, *REGIONS):
            hosts = [place.server]
            if place is not HUB:
                hosts += [place.people, *(place.node(number) for number in range(1, NODES + 1))]
            self.namespaces[place.name] = builder.box(place.name, hosts)
        self._internet = self.net.spawn(self.namespaces[HUB.name], python("lab.internet"))
        self._order({"seed": seed, "lines": builder.lines})
        answer(self._internet)
        builder.connect()
        for place in (HUB, *REGIONS):
            self._line(place, 0.0)

    def _order(self, what: object) -> None:
        assert self._internet is not None
        assert self._internet.stdin is not None
        self._internet.stdin.write(json.dumps(what).encode() + b"\n")
        self._internet.stdin.flush()

    def _line(self, place: Place, loss: float) -> None:
        way = {"delay_s": place.delay_s, "loss": loss}
        self._order({"name": place.name, "up": way, "down": way})

    # ------------------------------------------------------------ what happens to it

    def cut(self, place: Place = HUB) -> None:
        """Nothing comes to it or from it any more, and nobody is told: a black hole."""
        self._line(place, 1.0)

    def heal(self, place: Place = HUB) -> None:
        """As before."""
        self._line(place, 0.0)

    def part(self, one: str, other: str) -> None:
        """Nothing passes between these two addresses any more, and nobody is told."""
        self._order({"part": [one, other]})

    def join(self, one: str, other: str) -> None:
        """As before."""
        self._order({"join": [one, other]})

    # ------------------------------------------------------------ what runs in it

    def within(self, place: str) -> list[str]:
        """The words before a command that runs there."""
        return ["nsenter", f"--net={self.net.path(self.namespaces[place])}", "--"]

    def run(self, place: str, words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Run to its end, whatever its status. LabError: it has none in time."""
        try:
            return subprocess.run(
                [*self.within(place), *words],
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                env=environment(),
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(words)}: no end within {seconds:g} s") from None

    def fetch(self, place: str, address: str, port: int, page: str) -> str:
        """A page of a web server there. OSError, http.client.HTTPException."""
        with inside(self.net.path(self.namespaces[place])):
            sock = socket.create_connection((address, port), timeout=FETCH_S)
        connection = http.client.HTTPConnection(address, port, timeout=FETCH_S)
        connection.sock = sock
        with contextlib.closing(connection):
            connection.request("GET", page)
            return connection.getresponse().read().decode()

    def start_server(self, place: Place) -> None:
        """Its nats-server; the name of the place is its JetStream domain. LabError: it does not listen."""
        assert PROGRAM is not None  # fleet.py refuses to begin
        folder = self.folder / "nats" / place.name
        folder.mkdir(parents=True, exist_ok=True)
        leafnodes = f"listen: {place.server}:{LEAF_PORT}"
        if place is not HUB:
            leafnodes = f'reconnect: 1, remotes: [{{ url: "nats://{HUB.server}:{LEAF_PORT}" }}]'
        config = folder / "nats.conf"
        config.write_text(
            f"server_name: {place.name}\nlisten: {place.server}:{NATS_PORT}\n"
            f'jetstream {{ store_dir: "{folder}/store", domain: {place.name}, '
            "max_memory_store: 16M, max_file_store: 64M }\n"
            f"leafnodes {{ {leafnodes} }}\n"
        )
        namespace = self.namespaces[place.name]
        self._servers[place.name] = self.net.spawn(namespace, [PROGRAM, "-c", str(config)], folder / "log")
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._servers[place.name].poll() is None:
            with contextlib.suppress(OSError), inside(self.net.path(namespace)):
                socket.create_connection((place.server, NATS_PORT), timeout=1.0).close()
                return
            time.sleep(0.02)
        raise LabError(f"nats-server {place.name} does not listen:\n{(folder / 'log').read_text()[-2000:]}")
