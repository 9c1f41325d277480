"""What a scrape shows, read back by Prometheus' own text parser."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from relay import __version__
from relay.core.reasons import DropReason
from relay.core.shedding import Shed
from relay.core.spread import FIRST_AUDIO, RESIDENCE, Spread
from relay.core.tallies import Tallies
from relay.edge.lane import LaneCounters, RelayCounters, RepairCounters
from relay.errors import ErrorCode
from relay.ops.engine_metrics import ENGINE
from relay.ops.families import STATES
from relay.ops.metrics import SINK_DROPS, Exporter
from relay.ops.region import Standing, State
from relay.ops.slis import Reading
from relay.ops.snapshot import PacketCounters, SinkCounters, Snapshot, TalkCounters, TurnCounters

Samples = dict[tuple[str, tuple[str, ...]], float]


def snapshot(**changes: object) -> Snapshot:
    base: dict[str, object] = {
        "node": "n1",
        "region": "eu",
        "datapath": "python",
        "engine": Counter(),
        "media": LaneCounters(),
        "relays": RelayCounters(),
    }
    return Snapshot(**(base | changes))  # type: ignore[arg-type]  # the tests name real fields


def scrape(now: Snapshot) -> Samples:
    body, content_type = Exporter(lambda: now).render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(body.decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    "metric", ["relay_media_dropped_total", "relay_media_dropped_out_total", "relay_turn_dropped_total"]
)
def test_every_drop_reason_is_exported_before_it_ever_happens(metric: str) -> None:
    shown = scrape(snapshot())
    assert {labels[0] for name, labels in shown if name == metric} == {reason.value for reason in DropReason}
    assert not any(value for (name, _), value in shown.items() if name == metric)


def test_every_drop_reason_is_exported_for_udp_packets_and_control_input() -> None:
    shown = scrape(snapshot())
    for metric in ("relay_udp_dropped_total", "relay_control_dropped_total"):
        assert {labels[0] for name, labels in shown if name == metric} == {r.value for r in DropReason}


@pytest.mark.parametrize("metric", ["relay_refused_total", "relay_legs_closed_total", "relay_commands_total"])
def test_every_close_code_is_exported_from_the_start(metric: str) -> None:
    shown = scrape(snapshot())
    codes = {labels[0] for name, labels in shown if name == metric}
    assert codes == {code.name.lower() for code in ErrorCode}


def test_every_reason_for_losing_events_and_records_is_exported_from_the_start() -> None:
    shown = scrape(snapshot())
    for metric in ("relay_events_dropped_total", "relay_records_dropped_total"):
        assert {labels[0] for name, labels in shown if name == metric} == set(SINK_DROPS)


def test_media_counters_are_shown_as_the_lane_counts_them() -> None:
    media = LaneCounters(media_in=10, accepted=7, copies=7, sent=5, queued=1)
    media.dropped[DropReason.GATE_CLOSED] = 3
    media.dropped_out[DropReason.STALE] = 1
    shown = scrape(snapshot(media=media))
    assert shown["relay_media_received_total", ()] == 10
    assert shown["relay_media_accepted_total", ()] == 7
    assert shown["relay_media_copies_total", ()] == 7
    assert shown["relay_media_sent_total", ()] == 5
    assert shown["relay_media_queued", ()] == 1
    assert shown["relay_media_dropped_total", ("gate_closed",)] == 3
    assert shown["relay_media_dropped_out_total", ("stale",)] == 1


def test_repeats_are_shown_by_form_and_kept_copies_by_fate() -> None:
    counted = RepairCounters(10, 6, 2, 1, 1, 4, 3, 2, 7, 900, 5)
    shown = scrape(snapshot(repairs=counted))
    assert {
        form: shown["relay_repair_repeats_total", (form,)] for form in ("beside", "distant", "alone", "asked")
    } == {
        "beside": 4,
        "distant": 3,
        "alone": 2,
        "asked": 7,
    }
    settled = _sum(shown, "relay_repair_settled_total")
    assert shown["relay_repair_kept_total", ()] == settled + shown["relay_repair_holding", ()] == 10
    assert shown["relay_repair_bytes_total", ()] == 900
    assert shown["relay_repair_refused_total", ()] == 5


def _sum(shown: Samples, name: str) -> float:
    return sum(value for (metric, _), value in shown.items() if metric == name)


def test_conservation_can_be_checked_from_one_scrape() -> None:
    media = LaneCounters(media_in=10, accepted=7, copies=14, sent=11, queued=1)
    media.dropped.update({DropReason.MUTED: 1, DropReason.DUPLICATE: 2})
    media.dropped_out[DropReason.QUEUE_FULL] = 2
    packets = PacketCounters(received=9, waiting=1, handled={"quic": 5}, dropped={DropReason.UNKNOWN_ID: 3})
    shown = scrape(snapshot(media=media, packets=packets))
    received, accepted = shown["relay_media_received_total", ()], shown["relay_media_accepted_total", ()]
    assert received == accepted + _sum(shown, "relay_media_dropped_total")
    out = shown["relay_media_sent_total", ()] + shown["relay_media_queued", ()]
    assert shown["relay_media_copies_total", ()] == out + _sum(shown, "relay_media_dropped_out_total")
    settled = _sum(shown, "relay_udp_handled_total") + _sum(shown, "relay_udp_dropped_total")
    assert shown["relay_udp_received_total", ()] == settled + shown["relay_udp_waiting", ()]


def test_engine_counters_get_their_family_and_label() -> None:
    engine = Counter({("refused", "call_full"): 2, ("stars", "4"): 4, ("admitted", "ws"): 1})
    shown = scrape(snapshot(engine=engine))
    assert shown["relay_refused_total", ("call_full",)] == 2
    assert shown["relay_call_stars_total", ("4",)] == 4
    assert shown["relay_legs_admitted_total", ("ws",)] == 1
    assert shown["relay_legs_admitted_total", ("quic",)] == 0


def test_an_engine_counter_nobody_listed_is_exported_all_the_same() -> None:
    assert scrape(snapshot(engine=Counter({("new_thing", "a"): 3})))["relay_new_thing_total", ("a",)] == 3


def test_node_facts_are_shown() -> None:
    now = snapshot(
        state="draining",
        is_ready=False,
        lag_s=0.25,
        certificate_until=5.0,
        legs={"in_call": 2},
        ways={"congested": 1},
        calls={"open": 1},
        trunk_paths={"first": 2, "second": 1},
        events=SinkCounters(3, 4, {"spool_full": 5}),
        log_suppressed=6,
    )
    shown = scrape(now)
    assert (
        shown["relay_info", ("n1", "eu", __version__)] == 1 or shown["relay_info", (__version__, "n1", "eu")]
    )
    assert shown["relay_lane_info", ("python",)] == 1
    assert [shown["relay_state", (state,)] for state in STATES] == [0, 0, 1, 0, 0, 0]
    assert shown["relay_ready", ()] == 0
    assert shown["relay_loop_lag_seconds", ()] == 0.25
    assert shown["relay_certificate_not_after_seconds", ()] == 5
    assert shown["relay_legs", ("in_call",)] == 2
    assert (shown["relay_ways", ("congested",)], shown["relay_ways", ("dark",)]) == (1, 0)
    assert shown["relay_calls", ("open",)] == 1
    assert (shown["relay_trunk_paths", ("first",)], shown["relay_trunk_paths", ("second",)]) == (2, 1)
    assert shown["relay_events_written_total", ()] == 3
    assert shown["relay_events_waiting", ()] == 4
    assert shown["relay_events_dropped_total", ("spool_full",)] == 5
    assert shown["relay_log_suppressed_total", ()] == 6


def test_process_facts_stand_beside_ours() -> None:
    shown = scrape(snapshot())
    assert shown["process_open_fds", ()] > 0
    assert shown["process_resident_memory_bytes", ()] > 0


def test_openmetrics_is_served_to_whom_asks_for_it() -> None:
    body, content_type = Exporter(snapshot).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert {"relay_media_dropped", "relay_udp_received", "relay_info"} <= names


def test_every_name_is_ours_or_the_librarys() -> None:
    for name, _ in scrape(snapshot()):
        assert name.startswith(("relay_", "process_", "python_")), name


def test_two_exporters_fit_in_one_process_and_registering_takes_no_snapshot() -> None:
    taken = []

    def count() -> Snapshot:
        taken.append(1)
        return snapshot()

    first, second = Exporter(count), Exporter(count)
    assert not taken
    first.render()
    second.render()
    assert len(taken) == 2


def test_no_two_engine_families_share_a_name() -> None:
    metrics = [family.metric for family in ENGINE.values()]
    assert len(set(metrics)) == len(metrics)


async def test_an_answer_is_made_of_one_snapshot_taken_before_its_text() -> None:
    counted = Counter({("stars", "5"): 1})
    taken: list[Snapshot] = []

    def take() -> Snapshot:
        taken.append(snapshot(engine=dict(counted)))
        return taken[-1]

    exporter = Exporter(take)
    body, _ = await exporter.answer("")
    assert b'relay_call_stars_total{stars="5"} 1.0' in body
    assert len(taken) == 1


def test_what_goes_through_relayed_addresses_is_shown_by_direction_and_adds_up() -> None:
    relays = RelayCounters()
    relays.up.taken, relays.up.passed, relays.up.bytes = 7, 4, 400
    relays.up.dropped[DropReason.NO_CHANNEL] = 3
    relays.down.taken, relays.down.waiting = 3, 2
    relays.down.dropped[DropReason.NO_CHANNEL] = 1
    shown = scrape(snapshot(relays=relays))
    assert shown["relay_turn_taken_total", ("up",)] == 7
    assert shown["relay_turn_bytes_total", ("up",)] == 400
    assert shown["relay_turn_passed_total", ("down",)] == 0
    assert shown["relay_turn_dropped_total", ("no_channel",)] == 4
    assert shown["relay_turn_waiting", ()] == 2


def test_what_turn_holds_and_refuses_is_shown_and_every_code_is_there_from_the_start() -> None:
    refused = {DropReason.QUOTA: 3}
    turn = TurnCounters(2, streams=1, accepted=4, failed=5, unused=6, refused=refused, dropped={})
    shown = scrape(snapshot(turn=turn, engine={("turn_refused", "403"): 7}))
    assert shown["relay_turn_allocations", ()] == 2
    assert shown["relay_turn_streams", ()] == 1
    assert shown["relay_turn_streams_refused_total", ("quota",)] == 3
    assert (shown["relay_turn_refused_total", ("403",)], shown["relay_turn_refused_total", ("486",)]) == (
        7,
        0,
    )
    assert shown["relay_turn_streams_dropped_total", ("queue_full",)] == 0


def test_quality_is_shown_in_fixed_buckets_that_add_up() -> None:
    tallies = Tallies()
    tallies.on_round_trip(0.05, "quic")
    tallies.on_round_trip(2.0, "quic")
    tallies.mos.add(3.0)
    tallies.on_state("heavy", 2.5)
    tallies.on_uplink(98, 2, "wt")
    shown = scrape(snapshot(tallies=tallies))
    assert shown["relay_leg_rtt_seconds_bucket", ("0.08", "quic")] == 1
    assert shown["relay_leg_rtt_seconds_bucket", ("+Inf", "quic")] == 2
    assert shown["relay_leg_rtt_seconds_count", ("quic",)] == 2
    assert shown["relay_leg_rtt_seconds_sum", ("quic",)] == 2.05
    assert shown["relay_leg_rtt_seconds_count", ("ws",)] == 0
    assert [shown["relay_call_mos_bucket", (bound,)] for bound in ("2.6", "3.1", "4.5", "+Inf")] == [
        0,
        1,
        1,
        1,
    ]
    assert shown["relay_leg_residual_loss_ratio_bucket", ("up", "0.02", "wt")] == 1
    assert shown["relay_leg_state_seconds_total", ("heavy",)] == 2.5
    assert shown["relay_leg_state_seconds_total", ("dark",)] == 0
    for name in ("relay_calls_judged", "relay_poor_calls", "relay_one_way_calls", "relay_gaps_60ms"):
        assert shown[name + "_total", ()] == 0


def talk() -> TalkCounters:
    audio = Spread(FIRST_AUDIO)
    audio.add(0.3)
    return TalkCounters(
        variant="control",
        setups={("ws", "fail"): 2},
        ended={("quic", "completed"): 3, ("tls", "gone"): 1},
        active={"quic": 4},
        counted={"drop": (1, 9), "stale": (2, 90)},
        classed={("drop", "ios"): (1, 6), ("drop", "other"): (0, 3)},
        first_audio={"caller": audio},
        funnel={("joined", "phone"): 5},
        leaks={("joined", "busy", "phone"): 1},
        talked_s=61.5,
        judged_s=30.0,
    )


def test_calls_are_shown_by_what_became_of_them_transport_and_variant_all_from_the_start() -> None:
    shown = scrape(snapshot(talk=talk()))
    assert shown["relay_call_setups_total", ("fail", "ws", "control")] == 2
    assert shown["relay_call_setups_total", ("ok", "quic", "control")] == 0
    assert shown["relay_calls_ended_total", ("completed", "quic", "control")] == 3
    assert shown["relay_calls_ended_total", ("gone", "tls", "control")] == 1
    assert shown["relay_calls_ended_total", ("drain", "wt", "control")] == 0
    assert shown["relay_calls_active", ("quic", "control")] == 4
    assert shown["relay_sli_events_total", ("ios", "drop", "control")] == 6
    assert shown["relay_sli_events_total", ("other", "drop", "control")] == 3
    assert shown["relay_sli_events_total", ("", "stale", "control")] == 90
    assert shown["relay_sli_bad_total", ("ios", "drop", "control")] == 1
    assert shown["relay_call_funnel_total", ("phone", "joined", "control")] == 5
    assert shown["relay_call_funnel_total", ("other", "ten_seconds", "control")] == 0
    assert shown["relay_call_leaks_total", ("phone", "busy", "joined", "control")] == 1
    assert shown["relay_call_seconds_total", ("control",)] == 61.5
    assert shown["relay_leg_seconds_total", ("down", "control")] == 30


def test_buckets_are_cumulative_and_end_with_infinity() -> None:
    shown = scrape(snapshot(talk=talk(), residence=Spread(RESIDENCE, [5, 3, 0, 0, 0, 0, 0, 0, 2], 1.5)))
    found = {
        key[1]: value for (name, key), value in shown.items() if name == "relay_residence_seconds_bucket"
    }
    assert list(found.values()) == [5, 8, 8, 8, 8, 8, 8, 8, 10]
    assert list(found)[-1] == "+Inf"
    assert shown["relay_residence_seconds_sum", ("python",)] == 1.5
    assert shown["relay_first_audio_seconds_count", ("caller", "control")] == 1


def test_how_the_region_is_is_shown_as_one_of_four_states_with_its_indicators() -> None:
    bad = Reading(0.05, 0.03, 200)
    standing = Standing("fra", "control", "1", State.DEGRADED, 50.0, "drop", 2, 4.0, {"drop": bad}, ())
    shown = scrape(snapshot(standing=standing, stress=0.4, state="draining"))
    states = {labels[0]: value for (name, labels), value in shown.items() if name == "relay_health_state"}
    assert states == {"ok": 0, "degraded": 1, "bad": 0, "unknown": 0}
    assert shown["relay_health_score", ("control",)] == 50
    assert shown["relay_health_age_seconds", ("control",)] == 4
    assert shown["relay_sli_value", ("drop", "control")] == 0.05
    assert shown["relay_sli_score", ("drop", "control")] == pytest.approx(50)
    assert shown["relay_sli_window_events", ("drop", "control")] == 200
    assert (shown["relay_stress_ratio", ()], shown["relay_draining", ()]) == (0.4, 1)


def test_what_a_full_node_gives_up_is_shown_with_how_full_it_is() -> None:
    shown = scrape(snapshot(pressure=0.97, shedding=Shed.SILENCE, engine={("shed", "silence"): 2}))
    given_up = {labels[0]: value for (name, labels), value in shown.items() if name == "relay_shedding"}
    assert given_up == {"redundancy": 1, "silence": 1, "calls": 0}
    assert shown["relay_pressure_ratio", ()] == 0.97
    assert shown["relay_shedding_steps_total", ("silence",)] == 2
    assert shown["relay_shedding_steps_total", ("nothing",)] == 0


def test_a_region_of_which_nothing_is_known_has_a_state_and_neither_score_nor_age() -> None:
    nothing = Standing("fra", "control", "1", State.UNKNOWN, None, "", 0, inf, {}, ())
    names = {name for name, _ in scrape(snapshot(standing=nothing))}
    assert "relay_health_state" in names
    assert not names & {"relay_health_score", "relay_health_age_seconds"}


def test_an_indicator_with_too_few_events_has_no_score_and_shows_how_few() -> None:
    few = {"drop": Reading(0.0, 0.0, 99), "one_way": Reading(0.0, 0.0, 100)}
    standing = Standing("fra", "control", "1", State.OK, 100.0, "", 1, 4.0, few, ("drop",))
    shown = scrape(snapshot(standing=standing))
    scores = {labels[0]: value for (name, labels), value in shown.items() if name == "relay_sli_score"}
    assert scores == {"one_way": 100}
    assert shown["relay_sli_window_events", ("drop", "control")] == 99
    assert shown["relay_sli_value", ("drop", "control")] == 0


def test_drops_and_media_of_all_parts_stand_in_one_family_each() -> None:
    media = LaneCounters(media_in=10, sent=5)
    media.dropped[DropReason.MUTED] = 3
    media.dropped_out[DropReason.STALE] = 1
    packets = PacketCounters(dropped={DropReason.MUTED: 2}, handled={"quic": 7})
    shown = scrape(snapshot(media=media, packets=packets, repairs=RepairCounters(beside=2, distant=1)))
    assert shown["relay_dropped_total", ("in", "muted")] == 5
    assert shown["relay_dropped_total", ("out", "stale")] == 1
    assert shown["relay_dropped_total", ("out", "muted")] == 0
    assert [
        shown["relay_packets_total", key] for key in (("in", "primary"), ("out", "copy"), ("out", "repeat"))
    ] == [10, 5, 3]
    assert shown["relay_packets_total", ("in", "control")] == 7
    bare = scrape(snapshot(relays=None))
    assert bare["relay_packets_total", ("out", "repeat")] == 0
