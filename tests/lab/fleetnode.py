"""One relay of a fleet and the feed beside it: started, killed, and asked what they say of themselves.

Must never live here: what is configured (fleetnodes.py), networks (fleetground.py).
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from lab.fleetground import Ground, Place
from lab.topology import Process

Variant = Literal["control", "candidate"]
METRICS_PORT: Final = 9464
LOOK_S: Final = 0.15


@dataclass
class FleetNode:
    """One relay and its feed."""

    id: str
    place: Place
    number: int
    """In its region, from 1 on."""
    variant: Variant
    ground: Ground
    folder: Path
    processes: dict[str, Process] = field(default_factory=dict)
    """By subcommand: serve, feed."""

    @property
    def address(self) -> str:
        """Where it is."""
        return self.place.node(self.number)

    @property
    def url(self) -> str:
        """Its first rung."""
        return f"quic://{self.address}:443"

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"http://{self.address}:{METRICS_PORT}"

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return self.processes["serve"].pid

    def start(self, what: str) -> None:
        """`serve` or `feed`."""
        command = [sys.executable, "-m", "relay", what, "--config", str(self.folder / "relay.toml")]
        namespace = self.ground.namespaces[self.place.name]
        self.processes[what] = self.ground.net.spawn(namespace, command, self.folder / f"{what}.log")

    def kill(self, what: str = "serve") -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.processes[what]
        if process.poll() is None:
            process.kill()
        process.wait()

    def fetch(self, page: str) -> str:
        """A page of its metrics port; "" if it does not answer."""
        try:
            return self.ground.fetch(self.place.name, self.address, METRICS_PORT, page)
        except (OSError, http.client.HTTPException):
            return ""

    def health(self) -> dict[str, Any]:
        """How it says that it is; nothing if it does not."""
        found: dict[str, Any] = json.loads(self.fetch("/health") or "{}")
        return found

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name with labels as they stand there."""
        lines = (line.rpartition(" ") for line in self.fetch("/metrics").splitlines())
        return {name: float(value) for name, _, value in lines if name and not name.startswith("#")}

    def figure(self, name: str) -> float | None:
        """One sample; None: it does not say."""
        return self.metrics().get(name)

    def complaints(self, what: str = "serve") -> list[str]:
        """Errors that it wrote."""
        text = (self.folder / f"{what}.log").read_text(errors="replace")
        return [line for line in text.splitlines() if '"level": "error"' in line or '"level":"error"' in line]


def until(holds: Callable[[], bool], within: float) -> float | None:
    """Seconds until it held; None: it did not within so many."""
    began = time.monotonic()
    while True:
        if holds():
            return time.monotonic() - began
        if time.monotonic() - began > within:
            return None
        time.sleep(LOOK_S)


def new_call() -> bytes:
    """An id."""
    return os.urandom(16)
