"""A real daemon and the file of a canary: what it answers, from its first look on."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.rig import Rig, daemon
from relay.ops.canary import SILENT_S, Book, Failed, Run, write

URL = "quic://relay.example"


def runs(ages: list[float], *, ok: bool) -> Book:
    now = time.time()
    failed = () if ok else (Failed("loss", 0.2, 0.03),)
    return Book(runs=tuple(Run(now - age, URL, "quic", ok, failed) for age in ages))


def answers(folder: Path, book: Book | None, told: Callable[[Rig], None]) -> tuple[dict[str, Any], list[str]]:
    """What /health says, and the findings of /readyz, after the first look."""
    path = folder / "canary.json"
    if book is not None:
        write(path, book)
    with daemon(folder, more=f'[health]\ncanary_file = "{path}"') as rig:
        base = f"http://127.0.0.1:{rig.metrics_port}"

        def get(what: str) -> Any:
            with urllib.request.urlopen(base + what, timeout=5) as answer:
                return json.load(answer)

        for _ in range(100):  # the first look comes with the first second
            health = get("/health")
            if health["slis"]:
                break
            time.sleep(0.1)
        told(rig)
        return health, [one["name"] for one in get("/readyz")["findings"]]


def test_failures_running_are_a_floor_that_health_and_metrics_show(tmp_path: Path) -> None:
    def metrics(rig: Rig) -> None:
        assert rig.metric("relay_canary_failing") == 3
        assert 60 <= rig.metric("relay_canary_age_seconds") < 120
        assert rig.metric('relay_health_state{state="degraded",variant="control"}') == 1
        assert rig.metric('relay_sli_score{sli="canary",variant="control"}') == 50

    health, findings = answers(tmp_path, runs([180, 120, 60], ok=False), metrics)
    assert (health["state"], health["score"], health["worst"]) == ("degraded", 50.0, "canary")
    assert health["canary"]["failed"] == ["loss"]
    assert "canary_silent" not in findings


def test_success_alone_gives_no_ok(tmp_path: Path) -> None:
    health, _ = answers(tmp_path, runs([180, 120, 60], ok=True), lambda rig: None)
    assert (health["state"], health["canary"]["ok"]) == ("unknown", True)


def test_a_silent_canary_is_a_warning_and_no_floor(tmp_path: Path) -> None:
    old = [SILENT_S + 100 - step for step in range(12)]
    health, findings = answers(tmp_path, runs(old, ok=False), lambda rig: None)
    assert (health["state"], health["canary"]["is_silent"]) == ("unknown", True)
    assert "canary_silent" in findings


def test_without_a_file_there_is_nothing_of_a_canary(tmp_path: Path) -> None:
    def metrics(rig: Rig) -> None:
        assert rig.metric("relay_canary_runs_total") == 0

    health, findings = answers(tmp_path, None, metrics)
    assert (health["state"], health["canary"], findings) == ("unknown", None, [])
    assert "canary" not in health["slis"]
