"""The operator's listener over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from relay.errors import ConfigError
from relay.ops.health import Finding, Report
from relay.ops.http import OpsServer

DEAD = Finding("stale_statistics", "dead", "9 s")
DRAINING = Finding("draining", "unready", "draining")
LANE = Finding("lane", "warning", "python")


class Stage:
    """A server whose findings the test sets."""

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.accepts: list[str] = []
        self.server = OpsServer(self.metrics, lambda: Report(self.findings), lambda: {"state": "bad"})

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        return b"relay_ready 1\n", "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.server.start("127.0.0.1:0")
    yield stage
    await stage.server.close()


async def get(stage: Stage, path: str, **options: object) -> tuple[int, str, dict[str, str]]:
    async with (
        ClientSession() as session,
        session.request(str(options.get("method", "GET")), f"http://{stage.server.address}{path}") as answer,
    ):
        return answer.status, await answer.text(), dict(answer.headers)


async def test_metrics_are_served_with_their_content_type(stage: Stage) -> None:
    status, body, headers = await get(stage, "/metrics")
    assert (status, body) == (200, "relay_ready 1\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert stage.accepts == ["*/*"]


async def test_how_the_region_is_stands_in_health_and_is_no_reason_to_restart(stage: Stage) -> None:
    status, body, headers = await get(stage, "/health")
    assert (status, json.loads(body)) == (200, {"state": "bad"})
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("findings", "alive", "ready"),
    [((), 200, 200), ((LANE,), 200, 200), ((DRAINING,), 200, 503), ((DEAD,), 503, 503)],
)
async def test_health_and_readiness_answer_by_severity(
    stage: Stage, findings: tuple[Finding, ...], alive: int, ready: int
) -> None:
    stage.findings = findings
    assert (await get(stage, "/healthz"))[0] == alive
    status, body, _ = await get(stage, "/readyz")
    assert status == ready
    told = json.loads(body)
    assert told["ok"] is (ready == 200)
    assert [finding["name"] for finding in told["findings"]] == [finding.name for finding in findings]


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/metrics", 405), ("GET", "/", 404)])
async def test_nothing_else_is_served(stage: Stage, method: str, path: str, status: int) -> None:
    assert (await get(stage, path, method=method))[0] == status


async def test_an_inherited_socket_serves_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        stage = Stage()
        await stage.server.start(sock)
        assert stage.server.address == f"127.0.0.1:{sock.getsockname()[1]}"
        assert (await get(stage, "/metrics"))[0] == 200
        await stage.server.close()


async def test_an_ipv6_address_is_told_in_brackets() -> None:
    stage = Stage()
    await stage.server.start("[::1]:0")
    assert stage.server.address.startswith("[::1]:")
    assert (await get(stage, "/healthz"))[0] == 200
    await stage.server.close()


async def test_an_address_in_use_is_a_configuration_error(stage: Stage) -> None:
    with pytest.raises(ConfigError, match=r"listen\.metrics: cannot listen"):
        await Stage().server.start(stage.server.address)


async def test_closing_twice_is_harmless(stage: Stage) -> None:
    await stage.server.close()
    await stage.server.close()
