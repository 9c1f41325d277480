"""A real daemon on loopback with throw-away keys, for benches: a process of its own, ended by its id.

    with Daemon.start(limits=...) as daemon:
        daemon.server, daemon.pid, daemon.token(call), daemon.metrics()

Everything it writes stands in a temporary folder that goes with it. Must never live here: load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from prometheus_client.parser import text_string_to_metric_families

from quicpair import certificate
from relay.config import (
    ClusterConfig,
    Config,
    DrainConfig,
    EventsConfig,
    IssuerConfig,
    LimitsConfig,
    ListenConfig,
    RecordsConfig,
    TlsConfig,
    TokenConfig,
    render,
)
from relay.config_qlog import QlogConfig
from relay.config_turn import TurnConfig
from relay.config_voice import AdaptConfig
from relay.daemon import NO_NATIVE_LANE
from relay.protocol import token
from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.keys import write_key
from relay.protocol.signed import public_of

START_SECONDS = 20.0
TURN_SECRET = "the secret of a bench's back end"
SERVE = ("-m", "relay", "serve", "--config")


def mint(
    seed: bytes,
    call: bytes,
    cluster: str = "relay",
    life: int = 300,
    cnf: bytes | None = None,
    net: int = 0,
    lim: tuple[int, int, int, int] = (512, 512, 300, 2),
) -> bytes:
    """A capability token for one more person in `call`: an accepted contact, an adult.

    `lim`: kilobits per second up and down, packets per second, people.
    """
    now = int(time.time())
    return token.mint(
        token.Claims(
            iss="bench",
            aud=cluster,
            sub=Sub(secrets.token_bytes(16)),
            cid=CallId(call),
            iat=now,
            nbf=now,
            exp=now + life,
            jti=Jti(secrets.token_bytes(16)),
            lim=lim,
            net=net,
            age=token.AGE_ADULT,
            ctc=1,
            cnf=cnf,
        ),
        seed,
    )


class Daemon:
    """One running `relay serve`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, seed: bytes) -> None:
        self._process = process
        self.pid = process.pid
        self.folder = folder
        self.seed = seed
        self.server = ("127.0.0.1", 0)
        self.turn_ports: list[int] = []
        self.web_ports: list[int] = []
        self._metrics = ""
        self._cleanup = contextlib.ExitStack()

    @classmethod
    def start(
        cls,
        limits: LimitsConfig | None = None,
        command: Sequence[str] = SERVE,
        address: str = "127.0.0.1:0",
        lane: Literal["auto", "native", "python"] = "auto",
        lanes: int = 1,
        turn: TurnConfig | None = None,
        web: tuple[str, ...] = (),
        adapt: AdaptConfig | None = None,
        certificate_days: float = 7.0,
        issuers: tuple[IssuerConfig, ...] = (),
        qlog: QlogConfig | None = None,
    ) -> Daemon:
        """Start it with these limits and wait until /readyz says 200. `command` is given the config file.

        With `turn` its secret is `TURN_SECRET`, whatever file it names. `certificate_days`: browsers take no
        more than 14, and at seven an alert asks for a new one. `issuers`: besides the bench's own.
        """
        cleanup = contextlib.ExitStack()
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
        seed = secrets.token_bytes(32)
        (folder / "cluster.key").write_text(write_key(secrets.token_bytes(32)))
        (folder / "cluster.key").chmod(0o600)
        cert, key = certificate(folder, days=certificate_days)
        config = Config(
            listen=ListenConfig(
                udp=(address,),
                metrics="127.0.0.1:0",
                command_socket=str(folder / "commands.sock"),
                lanes=lanes,
                web=web,
            ),
            lane=lane,
            adapt=adapt or AdaptConfig(),
            tls=TlsConfig(cert, key),
            cluster=ClusterConfig(str(folder / "cluster.key")),
            tokens=TokenConfig((IssuerConfig("bench", public_of(seed).hex()), *issuers)),
            limits=limits or LimitsConfig(),
            records=RecordsConfig(str(folder / "records.sqlite")),
            events=EventsConfig("file", str(folder / "events.jsonl"), str(folder / "events.spool")),
            drain=DrainConfig(grace_s=0, smear_s=0, deadline_s=5, close_s=0.2),
            qlog=dataclasses.replace(qlog or QlogConfig(), path=str(folder / "qlog")),
        )
        if turn is not None:
            (folder / "turn.secret").write_text(TURN_SECRET)
            turn = dataclasses.replace(turn, secret_file=str(folder / "turn.secret"))
            config = dataclasses.replace(config, turn=turn)
        (folder / "relay.toml").write_text(render(config))
        log = cleanup.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, *command, str(folder / "relay.toml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        daemon = cls(process, folder, seed)
        daemon._cleanup = cleanup
        try:
            daemon._wait_ready()
        except BaseException:
            daemon.stop()
            raise
        return daemon

    def _wait_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"the daemon ended at its start:\n{(self.folder / 'log').read_text()}")
            serving = [line for line in self.log() if line.get("message") == "serving"]
            if serving:
                self.server = ("127.0.0.1", int(serving[0]["udp_ports"][0]))
                self.turn_ports = serving[0]["turn_ports"]
                self.web_ports = serving[0]["web_ports"]
                self._metrics = f"http://{serving[0]['metrics']}"
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(self._metrics + "/readyz", timeout=2).read()
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the daemon is not ready:\n{(self.folder / 'log').read_text()}")

    def token(self, call: bytes) -> bytes:
        """A token for one more person in this call."""
        return mint(self.seed, call)

    @property
    def metrics_url(self) -> str:
        """Where /metrics and /health are."""
        return self._metrics

    def metrics(self) -> dict[str, float]:
        """Every sample: `name{label="value"}` -> value."""
        return scrape(self._metrics)

    def log(self) -> list[dict[str, Any]]:
        """What it wrote so far; a line that is no JSON object stands under "raw"."""
        lines: list[dict[str, Any]] = []
        for line in (self.folder / "log").read_text(errors="replace").splitlines():
            try:
                parsed = json.loads(line)
            except ValueError:
                parsed = None
            lines.append(parsed if isinstance(parsed, dict) else {"raw": line})
        return lines

    def complaints(self) -> list[dict[str, Any]]:
        """Warnings, errors and whatever was not written by the log at all; which lane runs is none."""
        lines = [line for line in self.log() if line.get("message") != NO_NATIVE_LANE]
        return [line for line in lines if line.get("level") not in ("debug", "info")]

    def wait(self, seconds: float) -> int:
        """Until it ended by itself; its exit status. subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM, a second one, then SIGKILL; the exit status."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout if number == signal.SIGTERM else None)
        self._cleanup.close()
        return self._process.returncode

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def scrape(url: str) -> dict[str, float]:
    """Every sample that a daemon shows there: `name{label="value"}` -> value."""
    text = urllib.request.urlopen(url + "/metrics", timeout=10).read().decode()
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples


def total(samples: dict[str, float], name: str) -> float:
    """The sum of a family over all its labels."""
    return sum(value for key, value in samples.items() if key == name or key.startswith(name + "{"))


def imbalance(samples: dict[str, float]) -> float:
    """How far the conservation of packets is from holding in one scrape; 0 unless count was lost."""
    packets = total(samples, "relay_udp_received_total") - sum(
        total(samples, name)
        for name in ("relay_udp_handled_total", "relay_udp_dropped_total", "relay_udp_waiting")
    )
    inward = total(samples, "relay_media_received_total") - sum(
        total(samples, name) for name in ("relay_media_accepted_total", "relay_media_dropped_total")
    )
    outward = total(samples, "relay_media_copies_total") - sum(
        total(samples, name)
        for name in ("relay_media_sent_total", "relay_media_queued", "relay_media_dropped_out_total")
    )
    return abs(packets) + abs(inward) + abs(outward)
