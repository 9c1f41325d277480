"""`relay status`: a running daemon's health and counters, read over its own listener.

Must never live here: what the counters mean (relay/ops/metrics.py).
"""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from relay.commands.terminal import Printer, Subcommands, declare
from relay.config import Config, load
from relay.errors import ConfigError, RelayError

TIMEOUT = 5.0
FINDING = ("severity", "name", "detail")
ROWS = (
    ("live calls", "relay_calls"),
    ("live legs", "relay_legs"),
    ("left at the generation before", "relay_leaving"),
    ("legs by transport", "relay_transports"),
    ("handshakes in progress", "relay_half_open"),
    ("calls ended", "relay_calls_ended_total"),
    ("requests refused", "relay_refused_total"),
    ("UDP packets in", "relay_udp_received_total"),
    ("UDP packets out", "relay_udp_sent_total"),
    ("UDP packets dropped", "relay_udp_dropped_total"),
    ("TCP connections", "relay_tcp_connections"),
    ("TCP connections refused", "relay_tcp_refused_total"),
    ("messages in", "relay_stream_received_total"),
    ("messages out", "relay_stream_sent_total"),
    ("messages dropped", "relay_stream_dropped_total"),
    ("media in", "relay_media_received_total"),
    ("media accepted", "relay_media_accepted_total"),
    ("media dropped", "relay_media_dropped_total"),
    ("copies sent", "relay_media_sent_total"),
    ("copies dropped", "relay_media_dropped_out_total"),
    ("events written", "relay_events_written_total"),
    ("events dropped", "relay_events_dropped_total"),
    ("records written", "relay_records_written_total"),
    ("records dropped", "relay_records_dropped_total"),
)

TIMES = ("first_audio", "residence", "leg_rtt")
"""Indicators in seconds; gaps are per minute, all others shares."""

REFUSED_ISSUER = "relay_issuer_refused_total"

Sample = tuple[str, dict[str, str], float]


def add(subcommands: Subcommands) -> None:
    """Declare `status`."""
    parser = declare(
        subcommands,
        "status",
        run,
        "show a running daemon's health, its packet path (lane) and its counters",
        "relay status\nrelay status --url http://127.0.0.1:9464 --json",
        epilog="exit status is 1 also when the node is there and not ready\n",
    )
    parser.add_argument("--url", help="the daemon's own listener (from --config, else http://127.0.0.1:9464)")
    parser.add_argument("--config", metavar="FILE", help="daemon's configuration: where it listens")


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Read /readyz, /health and /metrics, print all."""
    base = _base(arguments)
    is_ready, findings = _ready(base)
    health = _health(base)
    samples = _samples(base)
    if printer.is_json:
        numbers = {_spelled(name, labels): value for name, labels, value in samples}
        lane = _label(samples, "relay_lane_info", "datapath")
        facts = {
            "ok": is_ready,
            "state": _state(samples),
            "lane": lane,
            "findings": findings,
            "health": health,
        }
        printer.result(facts | {"metrics": numbers}, "")
    else:
        _show(is_ready, findings, health, samples)
    return 0 if is_ready else 1


def _base(arguments: argparse.Namespace) -> str:
    if arguments.url:
        if not arguments.url.startswith(("http://", "https://")):
            raise ConfigError(
                "--url", f"{arguments.url!r} is no HTTP URL", "for example http://127.0.0.1:9464"
            )
        return str(arguments.url).rstrip("/")
    config = load(arguments.config) if arguments.config else Config()
    if not config.listen.metrics:
        raise ConfigError("listen.metrics", "is empty, the daemon tells nothing", "give --url or an address")
    return f"http://{config.listen.metrics}"


def _get(url: str) -> str:
    """The body of an answer of any status. RelayError when there is none."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:  # 503 carries the findings
            return error.read().decode(errors="replace")
    except http.client.HTTPException:  # its text is the stranger's
        raise RelayError(f"{url}: something else answers; is the daemon there?") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        said = getattr(why, "strerror", None) or str(why) or type(why).__name__
        raise RelayError(f"{url}: {said}; is the daemon there?") from None


def _ready(base: str) -> tuple[bool, list[dict[str, str]]]:
    try:
        body: Any = json.loads(_get(base + "/readyz"))
        return bool(body["ok"]), [{key: str(found[key]) for key in FINDING} for found in body["findings"]]
    except (ValueError, KeyError, TypeError):
        raise RelayError(f"{base}/readyz: not an answer of relay") from None


def _health(base: str) -> dict[str, Any]:
    try:
        body: Any = json.loads(_get(base + "/health"))
        return {"state": str(body["state"]), **body}
    except (ValueError, KeyError, TypeError):
        raise RelayError(f"{base}/health: not an answer of relay") from None


def _samples(base: str) -> list[Sample]:
    try:
        families = list(text_string_to_metric_families(_get(base + "/metrics")))
    except (ValueError, IndexError):
        families = []
    found = [(each.name, dict(each.labels), each.value) for family in families for each in family.samples]
    if not any(name == "relay_info" for name, _, _ in found):
        raise RelayError(f"{base}/metrics: not an answer of relay")
    return found


def _spelled(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


def _label(samples: list[Sample], metric: str, label: str) -> str:
    return next((labels.get(label, "?") for name, labels, _ in samples if name == metric), "?")


def _state(samples: list[Sample]) -> str:
    return next((labels["state"] for name, labels, value in samples if name == "relay_state" and value), "?")


def _show(
    is_ready: bool, findings: list[dict[str, str]], health: dict[str, Any], samples: list[Sample]
) -> None:
    console = Console()
    node, region, version = (_label(samples, "relay_info", each) for each in ("node", "region", "version"))
    console.print(
        f"{node} in {region}, relay {version}, lane {_label(samples, 'relay_lane_info', 'datapath')}, "
        f"{_state(samples)}, {'ready' if is_ready else 'not ready'}",
        highlight=False,
    )
    for finding in findings:
        console.print(f"  {finding['severity']}: {finding['name']}: {finding['detail']}", highlight=False)
    _show_region(console, health)
    table = Table("what", "total", "of which")
    for title, metric in ROWS:
        found = [(labels, value) for name, labels, value in samples if name == metric]
        parts = [f"{next(iter(labels.values()))} {value:.0f}" for labels, value in found if labels and value]
        table.add_row(title, f"{sum(value for _, value in found):.0f}", ", ".join(parts))
    console.print(table)
    _show_issuers(console, samples)


def _show_issuers(console: Console, samples: list[Sample]) -> None:
    """What each holds, and what its limits refused; nothing where there is none."""
    table = Table("issuer", "calls", "legs", "TURN", "admitted", "refused", "of which")
    figures = ("relay_issuer_calls", "relay_issuer_legs", "relay_issuer_allocations")
    for name in [labels["issuer"] for metric, labels, _ in samples if metric == figures[0]]:
        mine = [(metric, labels, value) for metric, labels, value in samples if labels.get("issuer") == name]
        one = {metric: f"{value:.0f}" for metric, _, value in mine}
        refused = {
            labels["reason"]: value for metric, labels, value in mine if metric == REFUSED_ISSUER and value
        }
        parts = ", ".join(f"{reason} {value:.0f}" for reason, value in refused.items())
        held = [one[figure] for figure in (*figures, "relay_issuer_admitted_total")]
        table.add_row(name, *held, f"{sum(refused.values()):.0f}", parts)
    if table.row_count:
        console.print(table)


def _show_region(console: Console, health: dict[str, Any]) -> None:
    """The region in one line, then its indicators, the worst first."""
    score = "-" if health["score"] is None else f"{health['score']:.0f}"
    worst = f", because of {health['worst']}" if health["worst"] else ""
    age = "no news yet" if health["age_s"] is None else f"last news {health['age_s']:.0f} s ago"
    line = f"region {health['region']}: {health['state']}, score {score}{worst}; {age}"
    console.print(line, highlight=False)
    if health.get("canary"):
        console.print(_canary(health["canary"]), highlight=False)
    if health.get("rollout"):
        console.print(_rollout(health["rollout"]), highlight=False)
    table = Table("indicator, last 15 min", "value", "certain", "warn", "bad", "events", "score")
    # Those without a score, which too few events tell of, come last.
    rows = sorted(health["slis"].items(), key=lambda row: (row[1]["score"] is None, row[1]["score"] or 0))
    for name, one in rows:
        figures = [_figure(name, one[key]) for key in ("value", "judged", "warn", "bad")]
        events = "-" if name == "saturation" else str(one["events"])
        points = "-" if one["score"] is None else f"{one['score']:.0f}"
        table.add_row(name, *figures, events, points)
    console.print(table)


def _canary(one: dict[str, Any]) -> str:
    """Its newest call, and how many failed."""
    age = f"{one['age_s']:.0f} s"
    if one["is_silent"]:
        return f"canary: silent for {age}; what it said before does not count"
    became = "ok" if one["ok"] else f"failed ({', '.join(one['failed'])})"
    return f"canary: {became} {age} ago on {one['rung']}; {one['failing']} failures running"


def _rollout(one: dict[str, Any]) -> str:
    """Which state of rollouts is gone by."""
    served = {"state": f"rollout {one['rollout']}" if one["rollout"] else "no rollout"}
    told = served.get(one["serving"], f"control for everyone ({one['serving']})")
    problem = f"; the file there now is refused: {one['problem']}" if one["problem"] else ""
    return f"state of rollouts: revision {one['revision']}, {told}, {one['age_s']:.0f} s old{problem}"


def _figure(name: str, value: float) -> str:
    """With its unit."""
    if name in TIMES:
        return f"{1000 * value:.4g} ms"
    if name == "canary":
        return f"{value:.0f} running"
    if name == "gaps":
        return f"{value:.3g} /min"
    return f"{100 * value:.3g} %"
