"""The daemon that faults are put to: `relay serve` as shipped, kept by a supervisor, under the lab's shim.

    with Node.make(folder, lane="auto") as node:
        node.rig                     address, tokens, metrics
        node.shim                    what libc tells it
        node.disk                    where its records and events stand: a small file system of its own
        node.said(since)             lines of its log, `node.lines` of them at a moment

Must never live here: faults, bars.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Self

from client.rig import CLUSTER, Rig, free_port, public_of
from lab import threadless
from lab.faultshim import Shim
from load.daemon import scrape
from quicpair import certificate
from relay.config import (
    ClusterConfig,
    Config,
    DrainConfig,
    EventsConfig,
    IssuerConfig,
    LimitsConfig,
    ListenConfig,
    NodeConfig,
    RecordsConfig,
    TlsConfig,
    TokenConfig,
    render,
)
from relay.protocol.keys import write_key
from supervisor import Supervisor

DISK_MIB: Final = 24
RESTART_S: Final = 0.2  # RestartSec= of the unit
WATCHDOG_S: Final = 7  # WatchdogSec= of the unit
_MOUNT: Final = f'mount -t tmpfs -o size={DISK_MIB}m none "$0" && exec "$@"'


class Node:
    """One daemon."""

    def __init__(self, folder: Path, config: Config, rig: Rig, small: bool) -> None:
        self.folder = folder
        self.config = config
        self.rig = rig
        self.shim = Shim(folder)
        self.has_small_disk = small
        self._disk = folder / "disk"
        (folder / "site").mkdir()
        source = Path(threadless.__file__).read_text()
        (folder / "site" / "sitecustomize.py").write_text(source)
        self.write(config)
        self.supervisor = Supervisor(self._command(), folder / "log")

    @classmethod
    def make(
        cls, folder: Path, *, lane: str, small: bool = False, fed: bool = False, days: float = 30.0
    ) -> Self:
        """Its files. `small`: its disk is a tmpfs in a mount namespace of its own, which takes root.

        `fed`: its events go to the socket of a feed in the folder `feed`. `days`: until its certificate ends.
        """
        folder.mkdir()
        (folder / "disk").mkdir()
        (folder / "feed").mkdir()
        port, web, metrics = free_port(socket.SOCK_DGRAM), *(free_port(socket.SOCK_STREAM) for _ in range(2))
        seed = os.urandom(32)
        chain, key = certificate(folder, days=days)
        (folder / "relay.key").write_text(write_key(os.urandom(32)))
        disk = folder / "disk"
        to_file = EventsConfig("file", str(disk / "events.jsonl"), str(disk / "spool"))
        to_feed = EventsConfig("socket", str(folder / "feed" / "events.sock"), str(disk / "spool"))
        config = Config(
            lane=lane,  # type: ignore[arg-type]  # argparse knows the three words
            node=NodeConfig(cluster=CLUSTER),
            listen=ListenConfig(
                udp=(f"127.0.0.1:{port}",),
                web=(f"127.0.0.1:{web}",),
                metrics=f"127.0.0.1:{metrics}",
                command_socket=str(folder / "commands.sock"),
            ),
            tls=TlsConfig(chain, key),
            cluster=ClusterConfig(str(folder / "relay.key")),
            tokens=TokenConfig((IssuerConfig("app", public_of(seed).hex()),)),
            limits=LimitsConfig(initials_per_source_per_s=2000, initials_per_source_burst=2000),
            records=RecordsConfig(str(disk / "records.sqlite")),
            events=to_feed if fed else to_file,
            drain=DrainConfig(grace_s=0, smear_s=0, deadline_s=5, close_s=0.2),
        )
        rig = Rig(f"quic://127.0.0.1:{port}", chain, seed, metrics, 0, web)
        return cls(folder, config, rig, small)

    def _command(self) -> list[str]:
        site = f"{self.folder / 'site'}:{os.environ.get('PYTHONPATH', '')}"
        variables = {
            **self.shim.environment,
            "PYTHONPATH": site,
            "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000),
        }
        serve = [sys.executable, "-m", "relay", "serve", "--config", str(self.file)]
        command = ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *serve]
        if self.has_small_disk:
            return ["/usr/bin/unshare", "-m", "/bin/sh", "-c", _MOUNT, str(self._disk), *command]
        return command

    def __enter__(self) -> Self:
        try:
            self.supervisor.start()
        except BaseException:
            self.supervisor.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.supervisor.close()

    # ------------------------------------------------------------ its files

    @property
    def file(self) -> Path:
        """Its configuration."""
        return self.folder / "relay.toml"

    @property
    def disk(self) -> Path:
        """Where its records and events stand, as seen from here."""
        if not self.has_small_disk:
            return self._disk
        return Path(f"/proc/{self.supervisor.pid}/root{self._disk}")

    def write(self, config: Config) -> None:
        """Another configuration, which nobody reads yet."""
        self.file.write_text(render(config))

    def reload(self, signal_number: int) -> None:
        """Tell it to read its files again."""
        os.kill(self.supervisor.pid, signal_number)

    def check_config(self) -> tuple[int, list[str]]:
        """Exit status and lines of `relay check-config --files`."""
        words = [sys.executable, "-m", "relay", "check-config", str(self.file), "--files", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stderr.splitlines()

    # ------------------------------------------------------------ what it says

    @property
    def lines(self) -> int:
        """How many lines it wrote so far."""
        return len(self._text())

    def said(self, since: int = 0) -> list[dict[str, Any]]:
        """What it wrote after that line. What is no JSON object stands under "raw"."""
        return [parse(line) for line in self._text()[since:]]

    def _text(self) -> list[str]:
        return (self.folder / "log").read_text(errors="replace").splitlines()

    def metrics(self) -> dict[str, float]:
        """Every sample; OSError while it does not answer."""
        return scrape(f"http://127.0.0.1:{self.rig.metrics_port}")

    def findings(self) -> tuple[int, list[str]]:
        """What /readyz says: status, names of findings. Status 0: it does not answer."""
        url = f"http://127.0.0.1:{self.rig.metrics_port}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status, _names(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _names(error.read())
        except OSError:
            return 0, []

    def wait_ready(self, seconds: float) -> bool:
        """Until /readyz says 200."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.findings()[0] == 200:
                return True
            time.sleep(0.1)
        return False

    def revive(self, seconds: float) -> int | None:
        """Wait for its end, and start it again as its unit does; the exit status, None if it never ended."""
        until = time.monotonic() + seconds
        while self.supervisor.runs and time.monotonic() < until:
            time.sleep(0.005)
        status = self.supervisor.status
        if status is not None:
            time.sleep(RESTART_S)
            self.supervisor.start()
        return status


def parse(line: str) -> dict[str, Any]:
    """A line of the log."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"raw": line}


def _names(body: bytes) -> list[str]:
    return [finding["name"] for finding in json.loads(body)["findings"]]
