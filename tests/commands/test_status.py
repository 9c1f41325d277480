"""`relay status` against the real listener: what it tells, and what it says when there is nothing to tell."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.cli import DONE, FAILED, USAGE, main
from relay.core.reasons import DropReason
from relay.core.spread import LOSS, Spread
from relay.edge.lane import LaneCounters
from relay.ops.health import Finding, Report
from relay.ops.http import OpsServer
from relay.ops.metrics import Exporter
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
        exporter = Exporter(lambda: self.now)
        self.region = Region("eu", "1.0")
        self.server = OpsServer(
            exporter.answer, lambda: Report(self.findings), lambda: self.region.standing(100.0).body()
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
    assert "│ too few │" in words
    assert "0 ms" in words
    _, out, _ = await node.status("--json")
    assert json.loads(out)["health"]["worst"] == "drop"


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
