"""A machine on which generations of the daemon follow each other: real processes, loopback.

    with Box(folder) as box:
        first = box.start()          ready when this returns
        second = box.start()         stands beside it, and takes over
        box.rig                      tokens, address, metrics of whoever is in service

Must never live here: calls, bars.
"""

from __future__ import annotations

import os
import select
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from client.rig import CLUSTER, READY_S, Rig, free_port, public_of
from quicpair import certificate
from relay.protocol.keys import write_key

_PROGRAM = """
import os, sys
for number, descriptor in enumerate(map(int, sys.argv[2:])):
    os.dup2(descriptor, 3 + number)
if sys.argv[2:]:
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sys.argv) - 2)}
    os.environ["LISTEN_FDNAMES"] = ":".join("public" for _ in sys.argv[2:])
from relay.config import load
from relay.daemon import run
sys.exit(run(load(sys.argv[1]), sys.argv[1]))
"""


class Box:
    """Configuration, sockets that a service manager would hold, and the processes started so far."""

    def __init__(
        self,
        folder: Path,
        *,
        lane: str = "auto",
        drain: str = "",
        lanes: int = 1,
        inherit: int = 0,
        id: str = "relay-1",
        port: int = 0,
        more: str = "",
        beside: Box | None = None,
    ) -> None:
        """`more`: of the configuration; `beside`: a node of its cluster; `port`: others know it before."""
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        port, metrics = port or free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        web, seed = free_port(socket.SOCK_STREAM), beside.rig.seed if beside else os.urandom(32)
        chain, key = certificate(folder)
        cluster_key = beside.rig.cluster_key if beside else write_key(os.urandom(32))
        (folder / "relay.key").write_text(cluster_key)
        self.config = folder / "relay.toml"
        self.handover = folder / "handover.sock"
        self.commands = folder / "commands.sock"
        self.config.write_text(
            f"""
lane = "{lane}"
[node]
id = "{id}"
cluster = "{CLUSTER}"
[listen]
udp = ["127.0.0.1:{port}"]
web = ["127.0.0.1:{web}"]
lanes = {lanes}
metrics = "127.0.0.1:{metrics}"
command_socket = "{self.commands}"
handover_socket = "{self.handover}"
[tls]
certificate = "{chain}"
key = "{key}"
[cluster]
key_file = "{folder / "relay.key"}"
[tokens]
issuers = [{{ name = "app", public_key = "{public_of(seed).hex()}" }}]
[records]
path = "{folder / "records.sqlite"}"
[events]
sink = "file"
path = "{folder / "events.jsonl"}"
spool = "{folder / "spool"}"
[drain]
{drain or "grace_s = 0"}
{more}
"""
        )
        self.rig = Rig(f"quic://127.0.0.1:{port}", chain, seed, metrics, 0, web, cluster_key)
        self._held = _held(port, inherit)
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))

    def start(self, wait: bool = True, tree: Path | None = None) -> subprocess.Popen[bytes]:
        """One more generation; RuntimeError if it is not ready in time. `tree`: its code, if not this."""
        number = len(self.processes)
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify")}
        if tree is not None:
            environment["PYTHONPATH"] = str(tree)
        descriptors = [sock.fileno() for sock in self._held]
        with (self.folder / f"log.{number}").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self.config), *map(str, descriptors)],
                env=environment,
                stderr=log,
                pass_fds=descriptors,
                cwd=tree,
            )
        self.processes.append(process)
        if wait:
            self.until_ready(process)
        return process

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for its word."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end and process.poll() is None:
            readable, _, _ = select.select([self._notified], [], [], 0.05)
            if readable and b"READY=1" in self._notified.recv(4096):
                return
        raise RuntimeError(f"not ready: {self.log(self.processes.index(process))[-600:]}")

    def log(self, number: int) -> str:
        """What the process of that number said."""
        return (self.folder / f"log.{number}").read_text()

    def records(self) -> list[tuple[str, str]]:
        """Call and outcome of every record, in the order of their ends."""
        with sqlite3.connect(self.folder / "records.sqlite") as database:
            return database.execute("SELECT call, outcome FROM calls ORDER BY ended_at").fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for sock in (*self._held, self._notified):
            sock.close()


def _held(port: int, count: int) -> Sequence[socket.socket]:
    """What a socket unit with ReusePort=yes and a line for each would hold."""
    found = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        found.append(sock)
    return found
