"""`relay status`: a running daemon's health and counters, read over its own listener.

Must never live here: what the counters mean (relay/ops/metrics.py).
"""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from relay.commands.terminal import Printer, Subcommands, declare
from relay.config import Config, load
from relay.errors import RelayError

TIMEOUT = 5.0
ROWS = (
    ("live calls", "relay_calls"),
    ("live legs", "relay_legs"),
    ("handshakes in progress", "relay_half_open"),
    ("calls ended", "relay_calls_ended_total"),
    ("requests refused", "relay_refused_total"),
    ("UDP packets in", "relay_udp_received_total"),
    ("UDP packets out", "relay_udp_sent_total"),
    ("UDP packets dropped", "relay_udp_dropped_total"),
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

Sample = tuple[str, dict[str, str], float]


def add(subcommands: Subcommands) -> None:
    """Declare `status`."""
    parser = declare(
        subcommands,
        "status",
        run,
        "show a running daemon's health and counters",
        "relay status\nrelay status --url http://127.0.0.1:9464 --json",
        epilog="exit status is 1 when the node is not ready or not there\n",
    )
    parser.add_argument("--url", help="the daemon's own listener (from --config, else http://127.0.0.1:9464)")
    parser.add_argument("--config", metavar="FILE", help="daemon's configuration: where it listens")


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Read /readyz and /metrics, print both."""
    base = _base(arguments)
    is_ready, findings = _ready(base)
    samples = _samples(_get(base + "/metrics"))
    if printer.is_json:
        numbers = {_spelled(name, labels): value for name, labels, value in samples}
        printer.result({"ok": is_ready, "findings": findings, "metrics": numbers}, "")
    else:
        _show(is_ready, findings, samples)
    return 0 if is_ready else 1


def _base(arguments: argparse.Namespace) -> str:
    if arguments.url:
        return str(arguments.url).rstrip("/")
    config = load(arguments.config) if arguments.config else Config()
    return f"http://{config.listen.metrics}"


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        raise
    except (urllib.error.URLError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise RelayError(f"{url}: {getattr(why, 'strerror', None) or why}; is the daemon there?") from None


def _ready(base: str) -> tuple[bool, list[dict[str, str]]]:
    try:
        body: dict[str, Any] = json.loads(_get(base + "/readyz"))
    except urllib.error.HTTPError as error:  # 503 carries the findings
        body = json.loads(error.read().decode() or "{}")
    return bool(body.get("ok")), list(body.get("findings", []))


def _samples(text: str) -> list[Sample]:
    families = text_string_to_metric_families(text)
    return [
        (sample.name, dict(sample.labels), sample.value) for family in families for sample in family.samples
    ]


def _spelled(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


def _show(is_ready: bool, findings: list[dict[str, str]], samples: list[Sample]) -> None:
    console = Console()
    node = next((labels for name, labels, _ in samples if name == "relay_info"), {})
    lane = next((labels for name, labels, _ in samples if name == "relay_lane_info"), {})
    state = next((labels["state"] for name, labels, value in samples if name == "relay_state" and value), "?")
    console.print(
        f"{node.get('node', '?')} in {node.get('region', '?')}, relay {node.get('version', '?')}, "
        f"packet path {lane.get('datapath', '?')}, {state}, {'ready' if is_ready else 'not ready'}",
        highlight=False,
    )
    for finding in findings:
        console.print(f"  {finding['severity']}: {finding['name']}: {finding['detail']}", highlight=False)
    table = Table("what", "total", "of which")
    for title, metric in ROWS:
        found = [(labels, value) for name, labels, value in samples if name == metric]
        parts = [f"{next(iter(labels.values()))} {value:.0f}" for labels, value in found if labels and value]
        table.add_row(title, f"{sum(value for _, value in found):.0f}", ", ".join(parts))
    console.print(table)
