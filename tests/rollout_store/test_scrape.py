"""Metrics as nodes and Prometheus serve them, asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.rig import daemon, free_port
from prometheus.server import needs_prometheus
from relay.errors import ConfigError
from relay.rollout.bucket import Variant
from relay.rollout.readings import BEGAN, CALLS, bad, class_of, figure, of_class, valid
from relay.rollout.scrape import ScrapeError, check_url, open_pages, read_metrics, scrape
from rollout_store.traffic import INDICATORS, Node

CANDIDATE, CONTROL = Variant.CANDIDATE, Variant.CONTROL
READY_S = 30.0


async def test_every_guardrail_is_found_in_what_a_node_serves() -> None:
    node = Node(started=99.0)
    node.carry("candidate", 40, late=3, drop=2, setup_fail=1)
    node.carry("control", 150, late=10, poor_call=5)
    node.carry("control", 10, sdk="ios", poor_call=3)
    with node.serving() as url:
        [found], problems = await scrape([url], lambda: 1234.5)
    assert problems == []
    assert (found.node, found.at, found.started, found.region) == (url, 1234.5, 99.0, "eu-1")
    assert (found.health, found.state_age_s, found.state_rev) == ("ok", 3.0, 7)
    assert found.counts[figure(CANDIDATE, CALLS)] == found.counts[figure(CANDIDATE, BEGAN)] == 40
    assert found.counts[figure(CONTROL, BEGAN)] == 160
    told = {
        (variant, name): (
            found.counts[figure(variant, bad(name))],
            found.counts[figure(variant, valid(name))],
        )
        for variant in Variant
        for name in (*INDICATORS, "first_audio")
    }
    assert told[CANDIDATE, "drop"] == (2, 40)
    assert told[CANDIDATE, "setup_fail"] == (1, 40)
    assert told[CANDIDATE, "one_way"] == (0, 40)
    assert told[CANDIDATE, "first_audio"] == (6, 80)  # both sides
    assert told[CONTROL, "poor_call"] == (8, 160)
    assert told[CONTROL, "first_audio"] == (20, 320)
    by_class = {sdk: of_class(figure(CONTROL, bad("poor_call")), sdk) for sdk in ("ios", "other")}
    assert {sdk: found.counts[name] for sdk, name in by_class.items()} == {"ios": 3, "other": 5}


async def test_a_region_that_any_variant_knows_to_be_bad_is_bad() -> None:
    node = Node()
    node.health.labels("candidate", "bad").set(1)
    with node.serving() as url:
        [found], _ = await scrape([url])
    assert found.health == "bad"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("variant", list(Variant))
async def test_a_real_daemon_serves_what_a_gate_needs(tmp_path: Path, variant: Variant) -> None:
    with daemon(tmp_path, more=f'[state]\nvariant = "{variant.value}"') as node:
        url = f"http://127.0.0.1:{node.metrics_port}/metrics"
        [found], problems = await scrape([url])
    assert problems == []
    assert (found.region, found.health) == ("local", "unknown")
    assert abs(found.started - time.time()) < 120
    assert found.counts[figure(variant, BEGAN)] == 0
    assert {class_of(name) for name in found.counts} == {"", "py", "web", "ios", "android", "other"}
    for name in (*INDICATORS, "first_audio"):
        assert found.counts[figure(variant, valid(name))] == 0
        assert found.counts[figure(variant, bad(name))] == 0


async def test_nodes_that_do_not_answer_are_told_and_hold_up_no_other() -> None:
    nobody = f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}/metrics"
    with Node().serving() as url:
        elsewhere = url.replace("/metrics", "/metrics?name[]=relay_info")
        readings, problems = await scrape([nobody, url, elsewhere])
    assert [each.node for each in readings] == [url]
    assert [problem.startswith(each) for problem, each in zip(problems, (nobody, elsewhere), strict=True)]
    assert "no relay that counts calls by variant" in problems[1]


@pytest.mark.parametrize("text", ["<!doctype html>", "relay_info{", "relay_info 1\nx", "a 1\n" * 3])
def test_what_is_no_page_of_a_relay_is_refused(text: str) -> None:
    with pytest.raises(ScrapeError):
        read_metrics(text, "http://a", 0.0)


def test_an_address_may_leave_out_the_page() -> None:
    assert check_url("http://a:9464") == check_url("http://a:9464/") == "http://a:9464/metrics"
    assert check_url("https://a/relay/metrics") == "https://a/relay/metrics"
    for wrong in ("ftp://a", "http://", "a:9464"):
        with pytest.raises(ConfigError):
            check_url(wrong)


# ---------------------------------------------------------------- Prometheus

RULES = """
groups:
  - name: test
    rules:
      - {alert: Awake, expr: vector(1), labels: {severity: page}}
      - {alert: Asleep, expr: vector(1), labels: {severity: ticket}}
      - {alert: Never, expr: vector(0) > 1, labels: {severity: page}}
      - {alert: NotYet, expr: vector(1), for: 1h, labels: {severity: page}}
"""


@contextlib.contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    (folder / "rules.yml").write_text(RULES)
    (folder / "prometheus.yml").write_text("global: {evaluation_interval: 1s}\nrule_files: [rules.yml]\n")
    address = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        until = time.monotonic() + READY_S
        while not fires(f"http://{address}"):
            assert time.monotonic() < until
            time.sleep(0.2)
        yield f"http://{address}/"
    finally:
        process.terminate()
        process.wait(READY_S)


def fires(url: str) -> bool:
    """Whether the alerts are there by now."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/alerts", timeout=5) as answer:
            alerts = json.loads(answer.read())["data"]["alerts"]
    except OSError:
        return False
    return {"Awake", "Asleep", "NotYet"} <= {each["labels"]["alertname"] for each in alerts}


@needs_prometheus
@pytest.mark.timeout(120)
async def test_pages_that_are_open_at_a_real_prometheus_are_told_and_no_other_alert(tmp_path: Path) -> None:
    with prometheus(tmp_path) as url:
        assert await open_pages(url) == ("Awake",)


async def test_a_prometheus_that_does_not_tell_holds_like_a_page() -> None:
    [told] = await open_pages(f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}")
    assert told.startswith("nobody knows: ")
    with Node().serving() as url:
        [told] = await open_pages(url)  # it answers, and is none
    assert told.startswith("nobody knows: ")


def test_a_node_of_the_version_before_names_no_classes() -> None:
    page = (
        'relay_info{version="0.1.0",node="n",region="eu-1"} 1\nrelay_start_time_seconds 5\n'
        'relay_call_funnel_total{step="invited",client="phone",variant="control"} 3\n'
        'relay_sli_events_total{sli="drop",variant="control"} 3\n'
    )
    found = read_metrics(page, "http://a", 0.0)
    assert found.counts == {figure(CONTROL, BEGAN): 3, figure(CONTROL, valid("drop")): 3}
    assert found.version == "0.1.0"
