"""A real daemon on loopback for the SDK's own tests: throw-away keys, certificate, configuration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey
from quicpair import certificate

from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.keys import write_key
from relay.protocol.token import Claims, mint

CLUSTER = "test"


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Rig:
    url: str
    ca: str
    seed: bytes
    metrics: int
    pid: int

    def token(self, call: bytes, who: int, **claims: object) -> bytes:
        now = int(time.time())
        made = Claims(
            iss="app",
            aud=CLUSTER,
            sub=Sub(bytes([who]) * 16),
            cid=CallId(call),
            iat=now,
            nbf=now,
            exp=now + 120,
            jti=Jti(os.urandom(16)),
            age=3,
            ctc=1,
            **claims,  # type: ignore[arg-type]  # a test's own claims, checked by mint
        )
        return mint(made, self.seed)


def public_of(seed: bytes) -> bytes:
    return bytes(SigningKey(seed).verify_key)


@contextlib.asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[Rig]:
    seed, port, metrics = os.urandom(32), free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    chain, key = certificate(folder)
    (folder / "relay.key").write_text(write_key(os.urandom(32)))
    config = folder / "relay.toml"
    config.write_text(
        f'''
[node]
cluster = "{CLUSTER}"
[listen]
udp = ["127.0.0.1:{port}"]
metrics = "127.0.0.1:{metrics}"
command_socket = ""
[tls]
certificate = "{chain}"
key = "{key}"
[cluster]
key_file = "{folder / "relay.key"}"
[tokens]
issuers = [{{ name = "app", public_key = "{public_of(seed).hex()}" }}]
[records]
path = ""
[events]
sink = "off"
'''
    )
    program = f"from relay.config import load; from relay.daemon import run; run(load({str(config)!r}), None)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        await ready(metrics, process)
        yield Rig(f"quic://127.0.0.1:{port}", chain, seed, metrics, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ready(metrics: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", metrics)
            except OSError:
                if process.returncode is not None:
                    raise AssertionError("the daemon did not start") from None
                await asyncio.sleep(0.05)  # another process starts: there is no clock of ours to move
                continue
            writer.close()
            return
