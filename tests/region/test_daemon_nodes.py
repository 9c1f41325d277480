"""`relay serve` as a process beside a node list: it is handed out from the second it stands there."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

from load.daemon import Daemon
from relay import __version__
from relay.feed.nodes import announcement
from relay.protocol.signed import public_of
from relay.region.nodelist import Node, NodeList, seal
from test_daemon import has_logged, until

SEED = bytes(32)


def put(path: Path, rev: int) -> bytes:
    now = int(time.time())
    one = Node(id="fra-1", region="fra", urls=("quic://fra-1.example:443",), version="1.0")
    raw = seal(
        NodeList(v=1, cluster="relay", rev=rev, issued_at=now, not_after=now + 600, nodes=(one,)), SEED
    )
    beside = path.with_name("new")
    beside.write_bytes(raw)
    os.replace(beside, path)
    return raw


def get(daemon: Daemon, tag: str = "") -> tuple[int, bytes, str]:
    request = urllib.request.Request(daemon.metrics_url + "/v1/nodes")
    if tag:
        request.add_header("If-None-Match", tag)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers["ETag"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers.get("ETag", "")


def test_a_daemon_hands_the_list_out_after_a_reload_and_each_new_one(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    with Daemon.start() as daemon:
        assert get(daemon)[0] == 404
        config = daemon.folder / "relay.toml"
        head, _, _ = config.read_text().partition("\n[nodes]\n")
        given = f'file = {json.dumps(str(path))}\nkeys = ["{public_of(SEED).hex()}"]\n'
        config.write_text(f"{head}\n[nodes]\n{given}")
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: has_logged(daemon, "reloaded"), "the reload")
        until(lambda: get(daemon)[0] == 503, "a look")
        assert json.loads(get(daemon)[1]) == {"ok": False, "reason": "no_file"}
        first = put(path, 1)
        until(lambda: get(daemon)[:2] == (200, first), "the list")
        tag = get(daemon)[2]
        assert get(daemon, tag)[:2] == (304, b"")
        second = put(path, 2)
        until(lambda: get(daemon, tag)[:2] == (200, second), "the next one")
        assert daemon.metrics()["relay_nodes_revision"] == 2


def test_what_a_daemon_says_of_itself_can_be_announced() -> None:
    with Daemon.start() as daemon:
        with urllib.request.urlopen(daemon.metrics_url + "/health", timeout=10) as answer:
            told = announcement(answer.read())
        assert told is not None
        assert (told.node, told.version, told.state) == ("relay-1", __version__, "unknown")
        assert not told.draining
