"""The parts of the lab of incidents that need no daemon: what was seen, what fired, what is drawn."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lab import gauges
from lab.hog import lane_threads
from lab.incidents import INCIDENTS, ROUNDS, STAGES, simulate
from lab.sightings import Look, Series, became, fired, known, series_of, words, worst_minute
from relay.ops.slis import BY_NAME

RULES = (Path(__file__).parents[2] / "config/prometheus/relay.rules.yml").read_text()


def look(at: float, state: str, worst: str = "") -> Look:
    return Look(at, state, worst, 50.0, 120, 1.0)


LOOKS = [look(1, "unknown"), look(2, "unknown"), look(3, "ok"), look(4, "bad", "drop"), look(5, "ok")]


def test_a_look_is_what_health_says_and_a_cold_one_has_no_indicators() -> None:
    body: dict[str, Any] = {"state": "unknown", "worst": "", "score": None, "age_s": None, "slis": {}}
    assert Look.of(3.0, body) == Look(3.0, "unknown", "", None, 0, None)
    warm = body | {"state": "ok", "score": 98.0, "age_s": 0.2, "slis": {"setup_fail": {"events": 140}}}
    assert Look.of(4.0, warm) == Look(4.0, "ok", "", 98.0, 140, 0.2)


def test_a_state_is_reached_at_the_first_look_at_it_since_then() -> None:
    assert became(LOOKS, ("ok",), 0.0) == LOOKS[2]
    assert became(LOOKS, ("ok",), 3.5) == LOOKS[4]
    assert became(LOOKS, ("degraded", "bad"), 0.0) == LOOKS[3]
    assert became(LOOKS, ("bad",), 4.5) is None


def test_states_are_told_in_order_and_each_once_until_it_changes() -> None:
    assert words(LOOKS) == ["unknown", "ok", "bad", "ok"]
    assert words([]) == []


def test_a_machine_is_judged_by_its_worst_minute() -> None:
    calm, busy = [0.001] * 600, [0.001] * 588 + [0.08] * 12
    assert worst_minute(calm + busy + calm, 600) == 0.08
    assert worst_minute(calm + [0.08] * 5 + calm, 600) == 0.001
    assert worst_minute([0.02], 600) == 0.02
    assert worst_minute([], 600) == 0.0


def alert(name: str, values: list[list[Any]], state: str = "firing", **labels: str) -> dict[str, Any]:
    return {"metric": {"alertname": name, "alertstate": state, **labels}, "values": values}


def test_an_alert_fired_when_its_first_sample_says_so_by_name_and_indicator() -> None:
    answer = [
        alert("RelayBurnsFast", [[30.5, "1"], [60.5, "1"]], sli="drop"),
        alert("RelayBurnsFast", [[90, "1"]], sli="setup_fail", insufficient="true"),
        alert("RelayBurnsFast", [[60, "1"]], sli="setup_fail"),
        alert("RelayBurnsFast", [[75, "1"]], sli="setup_fail", window="6h"),
        alert("RelayRegionBad", [[10, "1"]], state="pending"),
        alert("RelaySlow", []),
    ]
    assert fired(answer) == {"RelayBurnsFast drop": 30.5, "RelayBurnsFast setup_fail": 60.0}


def test_an_expected_alert_without_an_indicator_stands_for_all_of_them() -> None:
    assert known("RelayBurnsFast drop", ["RelayBurnsFast"])
    assert known("RelayBurnsFast drop", ["RelayBurnsFast drop"])
    assert not known("RelayBurnsFast drop", ["RelayBurnsFast setup_fail"])
    assert not known("RelayDown", ["RelayRegionBad"])


def test_series_bear_the_dashboards_legend_and_leave_out_what_has_no_value() -> None:
    answer = [
        {"metric": {"region": "fra", "direction": "up"}, "values": [[1, "NaN"], [2, "0.5"], [3, "1"]]},
        {"metric": {"region": "fra"}, "values": [[1, "NaN"]]},
    ]
    legend = "{{region}} {{transport}} {{direction}}"
    assert series_of(answer, legend) == [Series("fra  up", ((2.0, 0.5), (3.0, 1.0)))]


def test_the_panels_that_are_drawn_are_the_dashboards() -> None:
    found = gauges.panels()
    assert [panel["title"] for panel in found] == list(gauges.TITLES)
    assert all(target["expr"] for panel in found for target in panel["targets"])
    with pytest.raises(KeyError):
        gauges.panels(("No such panel",))


@pytest.mark.parametrize(
    ("unit", "told"), [("percentunit", (100, "%")), ("s", (1000, "ms")), ("short", (1, ""))]
)
def test_shares_are_drawn_in_per_cent_and_times_in_milliseconds(unit: str, told: tuple[float, str]) -> None:
    assert gauges.unit_of({"fieldConfig": {"defaults": {"unit": unit}}}) == told


def test_a_panel_is_read_as_grafana_would_with_all_regions() -> None:
    asked: list[dict[str, str]] = []

    class Server:
        def get(self, path: str, **parameters: str) -> Any:
            asked.append({"path": path, **parameters})
            return {"result": [{"metric": {"region": "fra"}, "values": [[1, "2"]]}]}

    panel = gauges.panels(("Score",))[0]
    lines = gauges.read(Server(), panel, 10.0, 20.0)  # type: ignore[arg-type]  # all that is asked of it
    assert lines == [Series("fra", ((1.0, 2.0),))]
    assert asked[0]["path"] == "query_range"
    assert (asked[0]["start"], asked[0]["end"]) == ("10.0", "20.0")
    assert '{region=~".*"}' in asked[0]["query"]


def test_a_line_moves_when_it_has_two_values() -> None:
    assert gauges.moves(Series("a", ((1.0, 2.0), (2.0, 3.0))))
    assert not gauges.moves(Series("a", ((1.0, 2.0), (2.0, 2.0))))


def test_a_picture_of_an_incident_is_small(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    times = range(0, 300, 5)
    series = {
        title: [Series(f"line {n}", tuple((float(at), n * at / 100) for at in times)) for n in range(4)]
        for title in gauges.TITLES
    }
    path = tmp_path / "incident.png"
    assert gauges.draw(series, path, "loss", 0.0, {"it begins": 100.0, "bad": 160.0})
    assert path.read_bytes().startswith(b"\x89PNG")


def test_each_incident_names_indicators_and_alerts_that_there_are() -> None:
    for one in INCIDENTS.values():
        assert set(one.named) <= set(BY_NAME)
        for name in (*one.pages, *one.may):
            assert f"alert: {name.split(' ')[0]}\n" in RULES
    assert set(INCIDENTS) < set(STAGES)
    assert len(STAGES) == len(set(STAGES)) == sum(map(len, ROUNDS))


def test_simulated_hours_count_each_look() -> None:
    seen = simulate(6, 3)
    assert sum(seen.values()) == 6 * 120 + 1
    assert seen["bad"] == 0
    assert seen["ok"] > 500


def test_threads_of_the_lane_are_known_by_their_names() -> None:
    prctl = ctypes.CDLL(None).prctl
    found: list[list[int]] = []

    def body() -> None:
        prctl(15, b"lane-7", 0, 0, 0)  # PR_SET_NAME
        found.append([threading.get_native_id(), *lane_threads(os.getpid())])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    mine, *named = found[0]
    assert mine in named
    assert os.getpid() not in named


def test_the_dashboard_is_valid_json_with_titles_that_are_unique() -> None:
    titles = [panel["title"] for panel in json.loads(gauges.DASHBOARD.read_text())["panels"]]
    assert len(titles) == len(set(titles))
