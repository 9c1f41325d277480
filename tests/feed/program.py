"""`relay feed` as a process, its configuration and its log, for tests and labs.

Must never live here: the endpoints (receiver.py), what is expected.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from client.rig import free_port
from feed.receiver import WAIT_S
from relay.config import EventsConfig
from relay.core.events import CallEvent
from relay.feed.signing import format_secret
from relay.ops.events import EventWriter

SECRET = bytes(range(32))
KINDS = ("call.ringing", "call.answered", "call.ended")


class Feed:
    """The program with its configuration, a daemon's writer of events, and what it logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "relay.toml"
        self.process: asyncio.subprocess.Process | None = None
        self.metrics_port = free_port(socket.SOCK_STREAM)
        self.writer: EventWriter | None = None
        self._log = folder / "log"
        (folder / "secret").write_text(format_secret(SECRET))

    def configure(self, *endpoints: dict[str, Any], **feed: Any) -> None:
        """Endpoints get a name `e0`, `e1`, ... and the secret unless they say otherwise."""
        settings = {
            "store": str(self.folder / "feed.sqlite"),
            "metrics": f"127.0.0.1:{self.metrics_port}",
            "retry_first_s": 0.1,
            "retry_most_s": 5.0,
            **feed,
        }
        lines = [
            "[events]",
            'sink = "socket"',
            f'path = "{self.folder}/events.sock"',
            "[feed]",
            *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
        ]
        for number, endpoint in enumerate(endpoints):
            whole = {"name": f"e{number}", "secret_file": str(self.folder / "secret"), **endpoint}
            lines += ["[[feed.webhooks]]", *(f"{key} = {json.dumps(value)}" for key, value in whole.items())]
        self.config.write_text("\n".join(lines) + "\n")

    async def start(self, *command: str, **environment: str) -> None:
        """Start it; not waited for."""
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(command or (sys.executable, "-m", "relay", "feed", "--config", str(self.config))),
                stdout=log, stderr=log,
                env={**os.environ, **environment},
            )  # fmt: skip

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        status = await asyncio.wait_for(self.process.wait(), WAIT_S)
        self.process = None
        return status

    def daemon(self) -> EventWriter:
        """The daemon's side, started once."""
        if self.writer is None:
            config = EventsConfig("socket", str(self.folder / "events.sock"), str(self.folder / "spool"))
            self.writer = EventWriter(config, "n1")
            self.writer.start()
        return self.writer

    def tell(self, count: int, first: int = 0) -> list[str]:
        """Events of the daemon; the calls they are about, which number them."""
        calls = [f"{number:032x}" for number in range(first, first + count)]
        for number, call in enumerate(calls, start=first):
            self.daemon().event(CallEvent(KINDS[number % 3], 1000.0, {"call": call}))
        return calls

    def log(self) -> str:
        return self._log.read_text()

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.rpartition(" ")[2] for line in lines if line.startswith((name + " ", name + "{"))]
        assert found, name
        return sum(map(float, found))

    async def run(self, *words: str) -> dict[str, Any]:
        """`relay feed ...` beside it; the one object that it prints."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "relay", "feed", *words, "--config", str(self.config), "--json"],
            capture_output=True, text=True, timeout=WAIT_S, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found
