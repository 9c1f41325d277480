"""The operator's listener over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import ClientSession

from relay.errors import ConfigError
from relay.ops.health import Finding, Report
from relay.ops.http import OpsServer
from relay.ops.nodes import Answer

DEAD = Finding("stale_statistics", "dead", "9 s")
DRAINING = Finding("draining", "unready", "draining")
LANE = Finding("lane", "warning", "python")


class Stage:
    """A server whose findings the test sets."""

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.accepts: list[str] = []
        self.nodes = Answer(404, b'{"ok": false, "reason": "not_configured"}\n')
        self.server = OpsServer(
            self.metrics,
            lambda: Report(self.findings),
            lambda: {"state": "bad"},
            lambda: self.nodes,
            lambda run, since: {"run": run, "since": since},
        )

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        return b"relay_ready 1\n", "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.server.start("127.0.0.1:0")
    yield stage
    await stage.server.close()


async def get(
    stage: Stage, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str, Mapping[str, str]]:
    async with (
        ClientSession() as session,
        session.request(method, f"http://{stage.server.address}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.text(), answer.headers


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


async def test_a_node_list_is_given_as_it_was_signed_and_once_to_who_has_it(stage: Stage) -> None:
    stage.nodes = Answer(200, b'{"kid":"a"}', {"ETag": '"1a"', "Age": "7"})
    status, body, headers = await get(stage, "/v1/nodes")
    assert (status, body) == (200, '{"kid":"a"}')
    shown = (headers["Content-Type"], headers["ETag"], headers["Age"], headers["Cache-Control"])
    assert shown == ("application/json", '"1a"', "7", "no-cache")
    status, body, headers = await get(stage, "/v1/nodes", headers={"If-None-Match": 'W/"x", "1a"'})
    assert (status, body, headers["ETag"]) == (304, "", '"1a"')
    assert (await get(stage, "/v1/nodes", headers={"If-None-Match": '"1b"'}))[0] == 200


async def test_why_there_is_no_node_list_is_told(stage: Stage) -> None:
    status, body, headers = await get(stage, "/v1/nodes", headers={"If-None-Match": '"1a"'})
    assert (status, json.loads(body)) == (404, {"ok": False, "reason": "not_configured"})
    assert headers["Cache-Control"] == "no-store"
    stage.nodes = Answer(503, b'{"ok": false, "reason": "expired"}\n')
    assert (await get(stage, "/v1/nodes"))[0] == 503


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


@pytest.mark.parametrize(
    ("query", "run", "since"),
    [
        ("", "", 0),
        ("?run=a1&since=7", "a1", 7),
        ("?since=-7", "", 0),
        ("?since=9999999999999999", "", 0),
        ("?since=x", "", 0),
    ],
)
async def test_what_came_of_commands_is_told_from_a_number_on(
    stage: Stage, query: str, run: str, since: int
) -> None:
    status, body, headers = await get(stage, f"/v1/commands{query}")
    assert (status, json.loads(body)) == (200, {"run": run, "since": since})
    assert headers["Cache-Control"] == "no-store"
