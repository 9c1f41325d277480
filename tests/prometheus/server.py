"""A real Prometheus on loopback, with our rules and our example of a configuration, only faster if asked for.

    with serving(folder, "127.0.0.1:9464") as prometheus:
        prometheus.query("up")

Must never live here: what is asked.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.rig import free_port

CONFIG = Path(__file__).parents[2] / "config/prometheus"
HAS_PROMETHEUS = shutil.which("prometheus") is not None and shutil.which("promtool") is not None
needs_prometheus = pytest.mark.skipif(not HAS_PROMETHEUS, reason="no prometheus here (Debian: prometheus)")
READY_S = 30.0


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its API; what it says is wrong, as an AssertionError."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                body = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        result: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return result

    def until(self, holds: Callable[[], bool], what: str, seconds: float = READY_S) -> None:
        """Ask again and again, bounded."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return
            time.sleep(0.2)
        pytest.fail(f"not within {seconds:g} s: {what}")


@contextlib.contextmanager
def serving(folder: Path, target: str, every: str | None = "1s") -> Iterator[Prometheus]:
    """The server, scraping `target` and judging the rules each `every`; None: as often as shipped."""
    rules = (CONFIG / "relay.rules.yml").read_text()
    config = (CONFIG / "prometheus.yml").read_text().replace("127.0.0.1:9464", target)
    if every is not None:
        for interval in ("interval: 15s", "interval: 30s", "interval: 5m"):
            rules = rules.replace(interval, f"interval: {every}")
            config = config.replace(interval, f"interval: {every}")
    (folder / "relay.rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    prometheus = Prometheus(f"http://{address}")
    try:
        prometheus.until(lambda: is_ready(prometheus), "a server that answers")
        yield prometheus
    finally:
        process.terminate()
        process.wait(READY_S)


def is_ready(prometheus: Prometheus) -> bool:
    """Whether it answers at all."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=1).close()
        return True
    return False
