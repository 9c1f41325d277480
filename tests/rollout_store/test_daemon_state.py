"""`relay serve` as a process beside a file of state: it takes it by a reload, and each second what is new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from load.daemon import Daemon
from relay.protocol.signed import public_of
from relay.rollout.lastgood import LIFE_S, Body, Offer, accepted, seal
from relay.rollout.lastgood_file import OsFiles, copy
from test_daemon import has_logged, until

SEED = bytes(32)
GIVEN = ("file", "kill_file", "floor_file", "keys")


def put(path: Path, rev: int, share: float) -> None:
    now = int(time.time())
    raw = seal(Body(rev, now, now + LIFE_S, Offer("r1", "s1", regions={"local": share})), SEED)
    copy(OsFiles(), str(path), raw, accepted([public_of(SEED)]))


def test_a_daemon_goes_by_the_file_and_says_so(tmp_path: Path) -> None:
    path, kill, floor = tmp_path / "lastgood", tmp_path / "kill", tmp_path / "floor"
    with Daemon.start() as daemon:

        def metric(name: str) -> float | None:
            return daemon.metrics().get(name)

        def serving() -> list[str]:
            head = 'relay_state_serving{why="'
            shown = daemon.metrics().items()
            return [name[len(head) : -2] for name, value in shown if name.startswith(head) and value]

        assert metric("relay_state_revision") is None  # off by default
        put(path, 7, 5)
        config = daemon.folder / "relay.toml"
        head, _, tail = config.read_text().partition("\n[state]\n")
        lines = [line for line in tail.splitlines() if line.partition(" = ")[0] not in GIVEN]
        given = {"file": path, "kill_file": kill, "floor_file": floor, "keys": [public_of(SEED).hex()]}
        told = [
            f"{key} = {json.dumps(value if key == 'keys' else str(value))}" for key, value in given.items()
        ]
        config.write_text("\n".join([head, "[state]", *told, *lines]))
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: has_logged(daemon, "reloaded"), "the reload")
        until(lambda: metric("relay_state_revision") == 7, "the state")
        assert serving() == ["state"]
        assert floor.exists()
        began = time.monotonic()
        kill.write_text("r1\n")
        until(lambda: serving() == ["killed"], "the kill")
        assert time.monotonic() - began < 5
        kill.unlink()
        put(path, 8, 25)
        until(lambda: metric("relay_state_revision") == 8 and serving() == ["state"], "the next revision")
        path.write_bytes(b"torn")
        until(lambda: metric('relay_state_refused_total{reason="malformed"}') == 1, "a refusal")
        assert (metric("relay_state_revision"), serving()) == (8, ["state"])
        done = subprocess.run(
            [sys.executable, "-m", "relay", "status", "--url", daemon.metrics_url],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert "state of rollouts: revision 8, rollout r1" in " ".join(done.stdout.split())
        assert "refused: malformed" in " ".join(done.stdout.split())
