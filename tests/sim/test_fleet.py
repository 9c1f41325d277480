"""The fleet simulator: its formulas against figures worked by hand, its day in balance, its accidents."""

import json

import pytest

from relay.region import rendezvous
from relay.region.pace import SHARE
from sim import accidents, box, fleet, world
from sim.inputs import INPUTS, MEASURED, Figures, parse

GIVEN = Figures()


def run(capsys, *words):
    status = fleet.main([*words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_quick_form_holds_its_bars_and_says_what_it_reckoned_with(capsys):
    status, found = run(capsys, "--quick")
    assert status == 0
    assert found["ok"]
    assert {bar["ok"] for bar in found["bars"]} == {True}
    assert set(found["inputs"]) == set(INPUTS)
    assert found["inputs"]["join_us"]["measured"]
    assert not found["inputs"]["box_month"]["measured"]
    assert found["asked"]["as given"]["first_limit"] == "event loop"


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    first, again, other = (
        world.live(20_000, 22, GIVEN, seed=seed, begin=0.0, seconds=1_200) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.begun != other.begun


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--set", "cores"], "NAME=NUMBER"),
        (["--set", "cores=-1"], "from 0 on"),
        (["--set", "wings=2"], "no input named wings"),
        (["--spare", "audio"], "there are ping, leg_report, rr"),
        (["--calls", "10"], "--calls from 1000 on"),
        (["--boxes", "3"], "--boxes from 22 on"),
    ],
)
def test_what_it_cannot_reckon_with_is_refused_in_a_line(capsys, words, why):
    with pytest.raises(SystemExit) as caught:
        fleet.main(words)
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


def test_a_replaced_input_counts_and_is_no_longer_called_measured():
    given = parse(["join_us=1000"])
    assert given.join_us == 1000
    assert (given.listed()["join_us"]["measured"], given.listed()["join_us"]["from"]) == (
        False,
        "replaced for this run",
    )


def test_every_measured_input_says_where():
    assert all(one.where not in ("", "a guess: replace it") for one in MEASURED.values())


# ---------------------------------------------------------------- a box


def test_how_full_a_box_is_by_hand():
    given = GIVEN.but(across=0, troubled=0, many_legs_cost=1, nodes=1)
    full = box.use(box.Load(1_000, 10), given)
    # 2,000 legs: 23 us, 5 pings, a report and an rr a second; 20 joins a second
    loop = 2_000 * (23 + 5 * 23.2 + 36.7 + 165.5) + 20 * 3_424
    assert full["event loop"] == pytest.approx(loop / 1e6)
    # 100,000 packets a second, and what each leg says passes the lane; six threads at 0.9
    lane = 100_000 * 5.11 + 2_000 * (5 * 12.8 + 14.2 + 16.2)
    assert full["lane threads"] == pytest.approx(lane / 1e6 / 5.4)
    assert full["network bits"] == pytest.approx(100_000 * 223 * 8 / 1e10)
    assert full["limits.legs"] == pytest.approx(0.2)


def test_a_call_across_has_one_leg_here_and_as_much_audio():
    here, across = (box.use(box.Load(1_000, 0, share), GIVEN) for share in (0.0, 1.0))
    assert across["memory"] == pytest.approx(here["memory"] / 2)
    assert across["network bits"] == here["network bits"]


def test_a_box_carries_what_fills_its_first_limit_to_the_headroom():
    calls = box.carries(GIVEN)
    assert box.first_limit(box.steady(calls, GIVEN), GIVEN)[1] <= 0.7
    assert box.first_limit(box.steady(calls + 2, GIVEN), GIVEN)[1] > 0.7


def test_more_nodes_on_a_box_carry_more_until_lanes_lack_cores():
    each = {nodes: box.carries(GIVEN.but(nodes=nodes)) for nodes in range(1, 7)}
    best = box.best(GIVEN).nodes
    assert each[best] == max(each.values())
    assert 1 < best < 6


def test_what_the_loop_is_spared_it_does_not_pay():
    spared = box.spare(GIVEN, ["ping", "rr", "leg_report"])
    full = box.use(box.Load(1_000, 0), spared)["event loop"]
    assert full == pytest.approx(2_000 * (23 + 0.1 * 50 * 3.01) / 1e6)  # tickets, and legs under repair


# ---------------------------------------------------------------- a day


def test_calls_of_a_day_are_conserved_and_as_many_as_arrivals_times_length():
    busiest, _ = world.busiest()
    day = world.live(50_000, 44, GIVEN, seed=3, begin=busiest - 900, seconds=1_800)
    assert day.imbalance == 0
    assert day.begun > 400_000
    assert day.most == pytest.approx(50_000, rel=0.05)  # Little's law


def test_an_imbalance_would_show():
    assert world.Day(begun=5, ended=3, left=1, at_start=0).imbalance == 1


def test_a_box_that_reports_stress_gets_less():
    region = world.Region(world.PLACES[0], [500, 500], [0.9, 0.1], [0.0, 0.0], [5.0, 5.0])
    weights = world._weights(region, GIVEN, 20.0, 10.0)
    assert weights == [rendezvous.weight(0.9), rendezvous.weight(0.1)]


def test_a_report_that_is_due_replaces_what_was_counted():
    region = world.Region(world.PLACES[0], [500, 500], [0.9, 0.1], [50.0, 50.0], [5.0, 15.0])
    world._weights(region, GIVEN, 35.0, 10.0)
    assert (region.reported[0] < 0.5, region.placed[0]) == (True, 0.0)
    assert (region.reported[1], region.placed[1]) == (0.1, 50.0)


def test_drawing_by_weight_is_what_hashing_does():
    weights = {"a": 1.0, "b": 0.5, "c": 0.25}
    assert world.hashed(weights, 7_000) < 0.01
    assert world.hashed(weights, 1) > 0.4  # one call is no share


def test_boxes_are_shared_out_by_people_and_none_is_lost():
    found = world.share_out(300)
    assert sum(found.values()) == 300
    assert found["bom"] == max(found.values())
    assert min(found.values()) >= 2


def test_round_trips_are_those_of_the_map():
    places = {place.name: place for place in world.PLACES}
    assert world.round_trip_s(places["fra"], places["mad"]) < 0.035
    assert 0.09 < world.round_trip_s(places["fra"], places["iad"]) < 0.12


# ---------------------------------------------------------------- accidents


def test_a_storm_lasts_as_long_as_the_loops_need():
    calm = accidents.storm(2_000, 10, GIVEN, busy=0.0, seed=1)
    busy = accidents.storm(2_000, 10, GIVEN, busy=0.8, seed=1)
    assert calm["back_p99_s"] == pytest.approx(0.62 + 200 * 0.006, abs=0.15)
    assert busy["back_p99_s"] == pytest.approx(0.62 + 200 * 0.006 / 0.2, rel=0.2)
    assert calm["never"] == busy["never"] == 0


def test_a_storm_beyond_the_handshakes_at_once_turns_people_away_and_takes_them_later():
    found = accidents.storm(5_000, 1, GIVEN, busy=0.0, seed=1)
    assert found["refused_tries"] > 0
    assert found["back_p99_s"] > 5_000 * 0.006 * 0.9
    assert found["later_than_10_s"] > 0.3


def test_after_a_crash_a_loop_that_was_busy_takes_people_slower_than_they_are_asked():
    assert accidents.crash(2_000, GIVEN, busy=0.0)["back_after_s"] == pytest.approx(26.0)
    assert accidents.crash(2_000, GIVEN, busy=0.5)["loop_while_asked"] < 1
    assert accidents.crash(2_000, GIVEN, busy=0.7)["loop_while_asked"] > 1
    assert accidents.crash(2_000, GIVEN, busy=0.7)["back_after_s"] == pytest.approx(40.0)


def test_a_region_leaves_at_its_pace_and_its_neighbour_pays_in_joins():
    found = accidents.drain([500, 500], 4, GIVEN, busy=0.2)
    assert found["per_second"] == 1_000 * SHARE
    assert found["most_in_a_second"] <= found["per_second"]
    assert 49 <= found["takes_s"] <= 52
    assert found["loop_of_a_target"] == pytest.approx(0.2 + 2 * 20 / 4 * 0.006, abs=0.01)


def test_a_stop_takes_a_way_a_file_and_a_look():
    found = accidents.stop(44, GIVEN, seed=1, runs=20)
    assert 1.0 < found["all_stopped_worst_s"] < 1.5
    slow = accidents.stop(44, GIVEN.but(reread_s=10), seed=1, runs=5)
    assert slow["all_stopped_worst_s"] > 5


def test_a_list_of_all_boxes_is_really_made_and_signed():
    few, many = (accidents.messages(boxes, GIVEN)["list_bytes"] for boxes in (22, 300))
    assert 150 < (many - few) / 278 < 300  # bytes a node


def test_trunks_grow_with_pairs_that_share_a_call():
    none = accidents.trunks(10_000, 44, GIVEN.but(across=0))
    assert (none["trunks_per_box"], none["audio_packets_per_s_out"]) == (0.0, 0)
    some = accidents.trunks(10_000, 44, GIVEN)
    assert 0 < some["trunks_per_box"] < 44
