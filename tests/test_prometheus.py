"""Rules, alerts and dashboard: by promtool, and on a real Prometheus that scrapes a real daemon in a call."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.rig import Rig, daemon
from prometheus.server import CONFIG, Prometheus, needs_prometheus, serving
from relay import client

ROOT = Path(__file__).parent.parent
RULES = (CONFIG / "relay.rules.yml").read_text()
CASES = Path(__file__).parent / "prometheus/relay.test.yml"
DASHBOARD = json.loads((ROOT / "config/grafana/relay.json").read_text())
QUERIES = {
    f"{panel['title']}, {target['refId']}": target["expr"].replace("$region", ".*")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
ALERTS = sorted(set(re.findall(r"alert: (\w+)", RULES)))
RECORDED = set(re.findall(r"record: ([\w:]+)", RULES))


def run(*command: str) -> str:
    done = subprocess.run(
        ["promtool", *command], cwd=CASES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---------------------------------------------------------------- by themselves


@needs_prometheus
def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    run("check", "rules", "--lint-fatal", str(CONFIG / "relay.rules.yml"))
    run("check", "config", str(CONFIG / "prometheus.yml"))


@needs_prometheus
@pytest.mark.timeout(240)
def test_each_alert_fires_in_its_incident_and_none_in_a_healthy_hour() -> None:
    assert "SUCCESS" in run("test", "rules", CASES.name)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_healthy_hour_an_incident_and_a_row_in_the_documents(alert: str) -> None:
    cases = CASES.read_text()
    assert f"eval_time: 60m, alertname: {alert}, exp_alerts: []" in cases
    assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", cases)
    assert f"| `{alert}` |" in (ROOT / "docs/operations.md").read_text()


def test_each_alert_is_a_page_or_a_ticket_and_says_where() -> None:
    blocks = RULES.split("- alert: ")[1:]
    assert all(re.search(r"severity: (page|ticket)\b", block) for block in blocks)
    assert all(re.search(r"summary: .*\$labels\.(region|instance)", block) for block in blocks)


def names_in(expr: str) -> set[str]:
    """Metrics that an expression names: ours, without the suffixes of their kind."""
    found = re.findall(r"(?<![\w:])(relay_[a-z0-9_]+)(?![\w:(])", re.sub(r'"[^"]*"', "", expr))
    return {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in found}


def test_rules_and_panels_name_only_what_is_exported_or_recorded() -> None:
    from relay.ops.metrics import Exporter
    from test_docs import feed_families, snapshot

    text = Exporter(snapshot).render()[0].decode()
    families = {re.sub(r"_total$", "", name) for name in re.findall(r"^# TYPE (\w+)", text, re.M)}
    families |= {re.sub(r"_total$", "", name) for name in feed_families()}
    groups = set(re.findall(r"name: (relay_\w+)", RULES))
    named = names_in(RULES) - groups
    for expr in QUERIES.values():
        named |= names_in(expr)
        assert set(re.findall(r"region:relay_[\w:]+", expr)) <= RECORDED
    assert named - families == set()


# ---------------------------------------------------------------- on a real one


async def talk(rig: Rig, seconds: float, people: tuple[int, int] = (1, 2)) -> None:
    """A call of two who both speak. A pair has one call at a time."""
    call = os.urandom(16)
    trust = {"ca": rig.ca, "server_name": "localhost"}

    async def side(who: int) -> None:
        async with client.connect(rig.url, token=rig.token(call, who), **trust) as session:
            mine = await session.join()
            await mine.accept()
            await mine.peer_accepted()
            await mine.talk(client.ToneSource(440, seconds), client.CallbackSink(lambda pcm: None))
            if who == people[0]:
                await mine.hangup()
            else:
                await mine.ended()

    await asyncio.gather(*map(side, people))


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen a call of twelve seconds."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "relay").mkdir()
    with (
        daemon(folder / "relay") as rig,
        serving(folder, f"127.0.0.1:{rig.metrics_port}") as prometheus,
    ):
        prometheus.until(lambda: bool(prometheus.query("up == 1")), "a scrape")
        asyncio.run(talk(rig, 12.5))
        ended = 'sum(relay_calls_ended_total{reason="completed"}) == 1'
        prometheus.until(lambda: bool(prometheus.query(ended)), "the call's end")
        slow = "region:relay_sli:bad_ratio_rate3d"
        prometheus.until(lambda: bool(prometheus.query(slow)), "rules that were evaluated twice")
        yield prometheus


@needs_prometheus
@pytest.mark.timeout(120)
@pytest.mark.parametrize("title", QUERIES)
def test_a_panels_query_runs_on_a_real_prometheus_and_finds_something(
    scraped: Prometheus, title: str
) -> None:
    expr = QUERIES[title]
    found = scraped.query(expr)
    is_filtered = re.search(r"> 0$", expr) or "topk" in expr
    unsaid = title.startswith(("Score", "What each", "Alerts"))  # nothing is known of one call
    if not (is_filtered or unsaid):
        assert found, expr


@needs_prometheus
@pytest.mark.timeout(120)
def test_a_real_prometheus_takes_all_rules_and_no_alert_fires_after_a_good_call(scraped: Prometheus) -> None:
    groups = scraped.get("rules")["groups"]
    rules: list[dict[str, Any]] = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(ALERTS) | RECORDED
    assert [rule.get("lastError", "") for rule in rules if rule["health"] == "err"] == []
    firing = {
        one["labels"]["alertname"] for one in scraped.get("alerts")["alerts"] if one["state"] == "firing"
    }
    # The rig's certificate is made for a day, and its lane is what this build has.
    assert firing <= {"RelayCertificateEndsSoon"}


@needs_prometheus
@pytest.mark.timeout(120)
def test_the_funnel_of_a_good_call_has_no_leak(scraped: Prometheus) -> None:
    funnel = "sum by(step) (relay_call_funnel_total)"
    steps = {one["metric"]["step"]: one["value"][1] for one in scraped.query(funnel)}
    assert steps == dict.fromkeys(("invited", "joined", "accepted", "first_audio", "ten_seconds"), "1")
