"""`relay status` against the real listener: what it tells, and what it says when there is nothing to tell."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.cli import DONE, FAILED, USAGE, main
from relay.core.reasons import DropReason, Refusal
from relay.core.spread import LOSS, Spread
from relay.core.tenants import Standing
from relay.edge.lane import LaneCounters
from relay.ops.health import Finding, Report
from relay.ops.http import OpsServer
from relay.ops.metrics import Exporter
from relay.ops.nodes import Answer
from relay.ops.region import Region, Sample
from relay.ops.snapshot import PacketCounters, Snapshot

DRAINING = Finding("draining", "unready", "draining")


class Node:
    """A daemon's own listener without the daemon: what it tells is set by the test."""

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.now = Snapshot(
            "n1",
            "eu",
            "native",
            {},
            LaneCounters(media_in=9, accepted=7, dropped=Counter({DropReason.GATE_CLOSED: 2})),
            packets=PacketCounters(received=12, sent=11),
            legs={"admitted": 2},
            calls={"talking": 1},
        )
        self.canary: dict[str, Any] | None = None
        self.rollout: dict[str, Any] | None = None
        exporter = Exporter(lambda: self.now)
        self.region = Region("eu", "1.0")
        self.server = OpsServer(
            exporter.answer,
            lambda: Report(self.findings),
            lambda: self.region.standing(100.0).body() | {"canary": self.canary, "rollout": self.rollout},
            lambda: Answer(404, b""),
            lambda run, since: {},
        )

    async def status(self, *words: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of `relay status --url URL WORDS`."""
        return await asyncio.to_thread(said, "--url", f"http://{self.server.address}", *words)


def said(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return main(["status", *words]), out.getvalue(), err.getvalue()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.server.start("127.0.0.1:0")
    yield node
    await node.server.close()


async def test_it_tells_people_state_lane_legs_calls_packets_and_drops(node: Node) -> None:
    status, out, _ = await node.status()
    assert status == DONE
    assert "lane native" in out
    assert "running, ready" in out
    words = " ".join(out.split())
    assert "live legs │ 2 │ admitted 2" in words
    assert "live calls │ 1 │ talking 1" in words
    assert "UDP packets in │ 12" in words
    assert "media dropped │ 2 │ gate_closed 2" in words


async def test_it_tells_machines_the_same_as_one_object(node: Node) -> None:
    status, out, _ = await node.status("--json")
    facts = json.loads(out)
    assert status == DONE
    assert (facts["ok"], facts["state"], facts["lane"], facts["findings"]) == (True, "running", "native", [])
    assert facts["metrics"]["relay_udp_received_total"] == 12
    assert facts["metrics"]['relay_lane_info{datapath="native"}'] == 1


async def test_a_node_that_is_not_ready_is_told_with_its_findings_and_exits_with_1(node: Node) -> None:
    node.findings = (DRAINING,)
    status, out, _ = await node.status("--json")
    facts = json.loads(out)
    assert status == FAILED
    assert facts["findings"] == [{"severity": "unready", "name": "draining", "detail": "draining"}]
    status, out, _ = await node.status()
    assert status == FAILED
    assert "not ready" in out
    assert "unready: draining: draining" in out


async def test_the_region_is_told_in_a_line_and_its_indicators_in_a_table_the_worst_first(node: Node) -> None:
    status, out, _ = await node.status()
    assert (status, "region eu: unknown, score -; no news yet" in out) == (DONE, True)
    counted = {"setup_fail": (0, 500), "drop": (25, 500), "one_way": (1, 20)}
    spread = {"leg_loss": {"quic down": Spread(LOSS, [0, 0, 0, 0, 500, 0, 0, 0, 0, 0])}}
    for at in (0.0, 30.0, 60.0, 90.0):
        now = Sample(at, at, counted, spread=spread, saturation=0.3) if at else Sample(at)
        node.region.on_sample(now)
    _, out, _ = await node.status()
    words = " ".join(out.split())
    assert "region eu: degraded, score 60, because of drop; last news 10 s ago" in words
    assert "│ drop │ 5 % │ 2.79 % │ 2 % │ 4 % │ 500 │ 60 │" in words
    assert "│ saturation │ 30 % │ 30 % │ 80 % │ 95 % │ - │ 100 │" in words
    assert words.index("│ drop") < words.index("│ saturation") < words.index("│ one_way")
    assert "│ one_way │ 5 % │ 0.279 % │ 0.5 % │ 1 % │ 20 │ - │" in words
    assert "0 ms" in words
    _, out, _ = await node.status("--json")
    assert json.loads(out)["health"]["worst"] == "drop"


async def test_issuers_are_told_with_what_they_hold_and_what_their_limits_refused(node: Node) -> None:
    none = dict.fromkeys(Refusal, 0)
    node.now = dataclasses.replace(
        node.now,
        issuers=(
            Standing("shop", 4, 2, 1, 90, none | {Refusal.JOINS: 7, Refusal.SHARED: 1}),
            Standing("app", 0, 0, 0, 0, none),
        ),
    )
    _, out, _ = await node.status()
    words = " ".join(out.split())
    assert "│ shop │ 2 │ 4 │ 1 │ 90 │ 8 │ joins 7, shared 1 │" in words
    assert "│ app │ 0 │ 0 │ 0 │ 0 │ 0 │ │" in words
    _, out, _ = await node.status("--json")
    metrics = json.loads(out)["metrics"]
    assert metrics['relay_issuer_refused_total{issuer="shop",reason="joins"}'] == 7
    assert metrics['relay_issuer_refused_total{issuer="app",reason="legs"}'] == 0
    assert metrics['relay_issuer_admitted_total{issuer="shop"}'] == 90


async def test_a_node_without_issuers_has_no_table_of_them(node: Node) -> None:
    _, out, _ = await node.status()
    assert "issuer" not in out


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A listener that says `answer` to whoever connects and closes; its host:port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "{}:{}".format(*server.getsockname())
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.0 {status}\r\nContent-Type: text/plain\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http("404 Not Found", "<h1>nothing here</h1>"), "not an answer of relay"),
        (http("200 OK", "[]"), "not an answer of relay"),
        (http("200 OK", '{"ok": true, "findings": []}'), "not an answer of relay"),
        (b"220 mail.example ready\r\n", "is the daemon there?"),
        (b"", "is the daemon there?"),
    ],
    ids=["not found", "other JSON", "no metrics", "no HTTP", "silence"],
)
def test_a_stranger_on_that_port_is_one_line_and_exits_with_1(answer: bytes, words: str) -> None:
    with answering(answer) as address:
        status, out, err = said("--url", f"http://{address}")
    assert (status, out) == (FAILED, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_nobody_there_is_one_line_with_the_address_and_exits_with_1() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*taken.getsockname())
        status, out, err = said("--url", f"http://{address}", "--json")
    assert status == FAILED
    assert json.loads(out)["ok"] is False
    assert address in err
    assert "Connection refused; is the daemon there?" in err


def test_what_is_no_url_and_a_daemon_that_tells_nothing_are_wrong_usage(tmp_path: Path) -> None:
    status, _, err = said("--url", "127.0.0.1:9464")
    assert status == USAGE
    assert "--url" in err
    (tmp_path / "relay.toml").write_text('listen = { metrics = "" }\n')
    status, _, err = said("--config", str(tmp_path / "relay.toml"))
    assert status == USAGE
    assert "listen.metrics" in err


async def test_a_canary_is_a_line_of_its_own(node: Node) -> None:
    newest = {
        "age_s": 12.0,
        "ok": False,
        "rung": "ws",
        "failed": ["loss", "mos"],
        "failing": 2,
        "is_silent": False,
    }
    for change, words in (
        ({}, "canary: failed (loss, mos) 12 s ago on ws; 2 failures running"),
        ({"ok": True, "failing": 0}, "canary: ok 12 s ago on ws; 0 failures running"),
        ({"is_silent": True, "age_s": 400.0}, "canary: silent for 400 s"),
    ):
        node.canary = newest | change
        _, out, _ = await node.status()
        assert words in " ".join(out.split())
    node.canary = None
    _, out, _ = await node.status()
    assert "canary:" not in out


async def test_the_state_of_rollouts_is_a_line_of_its_own(node: Node) -> None:
    newest = {"revision": 7, "serving": "state", "rollout": "r1", "age_s": 3.0, "problem": ""}
    for change, words in (
        ({}, "state of rollouts: revision 7, rollout r1, 3 s old"),
        ({"rollout": None}, "revision 7, no rollout, 3 s old"),
        ({"serving": "killed", "rollout": None}, "revision 7, control for everyone (killed), 3 s old"),
        ({"problem": "lower_rev"}, "rollout r1, 3 s old; the file there now is refused: lower_rev"),
    ):
        node.rollout = newest | change
        _, out, _ = await node.status()
        assert words in " ".join(out.split())
    node.rollout = None
    _, out, _ = await node.status()
    assert "state of rollouts" not in out
