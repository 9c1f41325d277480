"""`relay serve` as shipped, in the lab's relay box, with throw-away keys; and tokens for its calls.

TURN is served on the ports of QUIC and WebSocket, by a shared secret.

Must never live here: calls.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from lab.nats import RELAY
from lab.topology import LabError, Process
from lab.world import World
from quicpair import certificate
from relay.config import (
    ClusterConfig,
    Config,
    EventsConfig,
    IssuerConfig,
    ListenConfig,
    RecordsConfig,
    TlsConfig,
    TokenConfig,
    render,
)
from relay.config_turn import RelayAddress, TurnConfig
from relay.config_voice import AdaptConfig
from relay.protocol import token
from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.keys import write_key
from relay.protocol.signed import public_of

START_S: Final = 20.0
TOKEN_S: Final = 300
TURN_SECRET: Final = "the secret of the lab's back end"


@dataclass
class RelayBox:
    """The running daemon."""

    process: Process
    folder: Path
    seed: bytes
    ca: str
    lane: str

    @classmethod
    def start(cls, world: World, adapt: AdaptConfig | None = None) -> RelayBox:
        """Start it and wait until it serves. LabError if it does not."""
        folder = world.folder / "relay"
        folder.mkdir()
        seed = secrets.token_bytes(32)
        (folder / "cluster.key").write_text(write_key(secrets.token_bytes(32)))
        (folder / "cluster.key").chmod(0o600)
        cert, key = certificate(folder)
        listen: dict[str, Any] = {
            "udp": ("0.0.0.0:443", "0.0.0.0:3478"),
            "metrics": "127.0.0.1:9464",
            "command_socket": str(folder / "commands.sock"),
        }
        if any(field.name == "web" for field in fields(ListenConfig)):
            listen["web"] = ("0.0.0.0:443",)
        config = Config(
            listen=ListenConfig(**listen),
            adapt=adapt or AdaptConfig(),
            tls=TlsConfig(cert, key),
            cluster=ClusterConfig(str(folder / "cluster.key")),
            tokens=TokenConfig((IssuerConfig("lab", public_of(seed).hex()),)),
            records=RecordsConfig(str(folder / "records.sqlite")),
            events=EventsConfig("file", str(folder / "events.jsonl"), str(folder / "events.spool")),
            turn=TurnConfig(
                enabled=True,
                policy="open",
                addresses=(RelayAddress(bind=RELAY),),
                allocations_per_user=8,  # coturn's client makes several
                secret_file=str(folder / "turn.secret"),
                tcp=(),
                tls=(),
            ),
        )
        (folder / "turn.secret").write_text(TURN_SECRET)
        (folder / "turn.secret").chmod(0o600)
        (folder / "relay.toml").write_text(render(config))
        command = [*python_relay(), str(folder / "relay.toml")]
        process = world.net.spawn(world.relay, command, log=folder / "log")
        box = cls(process, folder, seed, cert, "")
        box.lane = str(box._wait_until_it_serves().get("lane"))
        return box

    @property
    def url(self) -> str:
        """The first rung, for an IPv4 client."""
        return f"quic://{RELAY}:443"

    def _wait_until_it_serves(self) -> dict[str, Any]:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.log():
                if line.get("message") == "serving":
                    return line
            time.sleep(0.05)
        raise LabError(f"the relay does not serve:\n{(self.folder / 'log').read_text()[-2000:]}")

    def log(self) -> list[dict[str, Any]]:
        """What it wrote so far."""
        text = (self.folder / "log").read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def token(self, call: bytes, device: bytes, *, relay_only: bool = False) -> str:
        """A token for one more person in the call: an accepted contact, an adult; `device` proves it."""
        now = int(time.time())
        net = token.NET_TCP_LEGS | (token.NET_RELAY_ONLY if relay_only else 0)
        claims = token.Claims(
            iss="lab",
            aud="relay",
            sub=Sub(secrets.token_bytes(16)),
            cid=CallId(call),
            iat=now,
            nbf=now,
            exp=now + TOKEN_S,
            jti=Jti(secrets.token_bytes(16)),
            prm=token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E | token.MAY_P2P,
            lim=(512, 512, 300, 2),
            net=net,
            age=token.AGE_ADULT,
            ctc=1,
            cnf=public_of(device),
        )
        return token.to_text(token.mint(claims, self.seed))


def python_relay() -> list[str]:
    """The daemon's command, but for the path of its configuration."""
    return [sys.executable, "-m", "relay", "serve", "--config"]
