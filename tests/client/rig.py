"""A real daemon on loopback for the SDK's own tests: throw-away keys, certificate, configuration."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from quicpair import certificate
from relay.protocol.ids import CallId, Jti, PersonId, Sub
from relay.protocol.keys import write_key
from relay.protocol.token import Claims, mint

CLUSTER = "test"
READY_S = 20


LOWEST_PORT = 10_240  # browsers refuse some below (10080 is the last, fetch.spec.whatwg.org/#port-blocking)
_given: set[int] = set()


def free_port(kind: int) -> int:
    """A port that nobody has and that the system gives to nobody who asks for any; never the same one twice.

    Between our look and a daemon's bind everybody else on this machine draws ports, too. Not by `random`,
    which Hypothesis seeds: two runs beside each other would draw the same ones.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ours = [port for port in range(LOWEST_PORT, int(limits[0])) if port not in _given]
    while True:
        port = secrets.choice(ours)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


@dataclass(frozen=True)
class Rig:
    url: str
    ca: str
    seed: bytes
    metrics_port: int
    pid: int
    web_port: int = 0
    cluster_key: str = ""

    @property
    def wss(self) -> str:
        return f"wss://127.0.0.1:{self.web_port}/vrl/1"

    @property
    def tls(self) -> str:
        return f"tls://127.0.0.1:{self.web_port}"

    def token(
        self,
        call: bytes,
        who: int,
        cnf: bytes | None = None,
        prm: int = 7,
        net: int = 2,
        sub: bytes = b"",
        at: float | None = None,
        home: str | None = None,
    ) -> bytes:
        """`sub`: 16 bytes, else the same for `who` in all calls. `at`: minted then. `home`: the node."""
        now = int(time.time() if at is None else at)
        claims = Claims(
            iss="app",
            aud=CLUSTER,
            sub=Sub(sub or bytes([who]) * 16),
            cid=CallId(call),
            iat=now,
            nbf=now,
            exp=now + 120,
            jti=Jti(os.urandom(16)),
            ru=PersonId(call[:15] + bytes([who])),
            age=3,
            prm=prm,
            ctc=1,
            net=net,
            cnf=cnf,
            home=home,
        )
        return mint(claims, self.seed)

    def metric(self, name: str) -> float:
        """Sum of a counter over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        found = [line.split() for line in lines if line.startswith((name + " ", name + "{"))]
        return sum(float(value) for _, value in found)


def public_of(seed: bytes) -> bytes:
    return bytes(SigningKey(seed).verify_key)


def prepare(
    folder: Path,
    lane: str = "auto",
    more: str = "",
    origin: str = "https://app.example",
    beside: Rig | None = None,
    canary: bytes = b"",
    keeps: bool = False,
    id: str = "relay-1",
    port: int = 0,
) -> tuple[Rig, list[str]]:
    """A node's files, and the command that starts it. `beside`: another one of its cluster and issuer.

    `canary`: the seed of a second issuer, of canaries; `keeps`: with records.sqlite and events.jsonl there;
    `port`: of `free_port`, where others know it before.
    """
    seed = beside.seed if beside else os.urandom(32)
    port, metrics = port or free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    web = free_port(socket.SOCK_STREAM)
    chain, key = certificate(folder)
    cluster_key = beside.cluster_key if beside else write_key(os.urandom(32))
    (folder / "relay.key").write_text(cluster_key)
    issuers = [f'{{ name = "app", public_key = "{public_of(seed).hex()}" }}']
    if canary:
        issuers.append(f'{{ name = "canary", public_key = "{public_of(canary).hex()}", canary = true }}')
    events = f'sink = "file"\npath = "{folder}/events.jsonl"\nspool = "{folder}/spool"'
    config = folder / "relay.toml"
    config.write_text(
        f"""
lane = "{lane}"
[node]
id = "{id}"
cluster = "{CLUSTER}"
[listen]
udp = ["127.0.0.1:{port}"]
web = ["127.0.0.1:{web}"]
web_origins = ["{origin}"]
metrics = "127.0.0.1:{metrics}"
command_socket = ""
[tls]
certificate = "{chain}"
key = "{key}"
[cluster]
key_file = "{folder / "relay.key"}"
[tokens]
issuers = [{", ".join(issuers)}]
[records]
path = "{folder / "records.sqlite" if keeps else ""}"
[events]
{events if keeps else 'sink = "off"'}
{more}
"""
    )
    program = f"from relay.config import load; from relay.daemon import run; run(load({str(config)!r}), None)"
    node = Rig(f"quic://127.0.0.1:{port}", chain, seed, metrics, 0, web, cluster_key)
    return node, [sys.executable, "-c", program]


@contextlib.contextmanager
def daemon(folder: Path, lane: str = "auto", tree: Path | None = None, **more: Any) -> Iterator[Rig]:
    """A running node; see `prepare`. `tree`: where its code is, if not here."""
    node, command = prepare(folder, lane, **more)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        notified.settimeout(READY_S)
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        if tree is not None:
            environment["PYTHONPATH"] = str(tree)
        process = subprocess.Popen(command, env=environment, cwd=tree)
        try:
            while b"READY=1" not in notified.recv(4096):
                pass
            yield replace(node, pid=process.pid)
        finally:
            process.kill()
            process.wait()
