"""Where calls go: the nearest region that is well, by weight there, with standbys of the same variant."""

from collections import Counter
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import LocalError
from relay.region.directory import OLD_S, Directory, Report, Tier
from relay.region.nodelist import Health, Node, NodeList

CALL = "101112131415161718191a1b1c1d1e1f"
NEAR = {"fra": 0.02, "iad": 0.09, "sin": 0.16}
WALL = 1_700_000_000.0


def node(name, **facts):
    return Node(id=name, region=name.split("-")[0], urls=(f"quic://{name}:443",), version="1", **facts)


def listed(*nodes, issued_at=int(WALL)):
    return NodeList(v=1, cluster="c", rev=1, issued_at=issued_at, not_after=int(WALL) + 9_999, nodes=nodes)


def directory(*nodes):
    found = Directory()
    found.on_list(listed(*(one if isinstance(one, Node) else node(one) for one in nodes)), 0.0, WALL)
    return found


def report(name, made=0.0, state="ok", score=100.0, stress=0.0, draining=False):
    return Report(name, state, score, stress, made, draining)


def well(*names, **facts):
    """A directory of these nodes, all of which just reported."""
    found = directory(*names)
    for name in names:
        assert found.on_report(report(name, **facts))
    return found


def home(found, call=CALL, variant="control", round_trips=NEAR, now=0.0):
    return found.place(call, variant, round_trips, now).home.id


def test_a_call_goes_to_the_nearest_region_with_two_standbys():
    found = well("iad-1", "iad-2", "fra-1", "fra-2", "fra-3", "fra-4")
    placement = found.place(CALL, "control", NEAR, 0.0)
    names = [placement.home.id, *(one.id for one in placement.standby)]
    assert len(set(names)) == 3
    assert {name[:3] for name in names} == {"fra"}
    assert placement.tier is Tier.WELL


def test_another_measurement_is_another_nearest():
    found = well("iad-1", "fra-1", "gru-1", "ams-1")
    assert home(found, round_trips={"fra": 0.1, "iad": 0.03}) == "iad-1"
    assert home(found, round_trips={"gru": 0.5}) == "gru-1"
    assert home(found, round_trips={}) == "ams-1"  # nobody measured: by name


def test_regions_that_are_equally_far_share_by_weight():
    found = well("ams-1", "cdg-1", "fra-1")
    far = {"fra": 0.0, "ams": 1.0, "cdg": 1.0}
    moved = Counter(found.target(f"c{n}", "fra-1", far, 0.0).id for n in range(60))
    assert set(moved) == {"ams-1", "cdg-1"}
    assert min(moved.values()) > 10


def test_a_node_that_is_not_listed_is_good_for_nothing():
    found = well("fra-1")
    assert found.knows("fra-1")
    assert found.tier("fra-1", 0.0) is Tier.WELL
    assert found.tier("fra-1", OLD_S + 1) is Tier.OLD
    assert not found.knows("fra-2")
    with pytest.raises(LocalError):
        found.tier("fra-2", 0.0)


def test_standbys_come_from_the_next_region_where_the_first_has_too_few():
    placement = well("fra-1", "iad-1", "sin-1").place(CALL, "control", NEAR, 0.0)
    assert [placement.home.id, *(one.id for one in placement.standby)] == ["fra-1", "iad-1", "sin-1"]


def test_one_node_alone_has_no_standby():
    assert well("fra-1").place(CALL, "control", NEAR, 0.0).standby == ()


def test_the_first_standby_takes_the_call_when_the_home_is_gone():
    names = ["fra-1", "fra-2", "fra-3", "fra-4"]
    for number in range(50):
        placement = well(*names).place(f"c{number}", "control", NEAR, 0.0)
        rest = well(*(name for name in names if name != placement.home.id))
        assert home(rest, call=f"c{number}") == placement.standby[0].id


def test_weights_are_what_the_nodes_have_left():
    found = well("fra-1", "fra-2")
    found.on_report(report("fra-2", made=1.0, stress=0.75))
    counts = Counter()
    for number in range(4_000):
        counts[home(found, call=f"c{number}", now=1.0)] += 1
        for name, stress in (("fra-1", 0.0), ("fra-2", 0.75)):
            found.on_report(report(name, made=1.0 + number * 1e-6 + 1e-7, stress=stress))
    assert counts["fra-2"] / 4_000 == pytest.approx(0.2, abs=0.02)


def test_calls_placed_since_a_report_weigh_until_the_next_one():
    found = well("fra-1", "fra-2")
    calls = [f"c{number}" for number in range(2_000)]
    first = next(call for call in calls if home(well("fra-1", "fra-2"), call=call) == "fra-1")
    # Each placed call takes 0.01 off: a rush spreads itself, even one of calls that all want the same node.
    assert {home(found, call=first, now=1.0) for _ in range(100)} == {"fra-1", "fra-2"}
    for name in ("fra-1", "fra-2"):
        found.on_report(report(name, made=2.0))
    assert home(found, call=first, now=2.0) == "fra-1"


def test_two_who_know_the_same_place_alike():
    names = ["fra-1", "fra-2", "fra-3", "iad-1"]
    one, other = well(*names), well(*reversed(names))
    assert [home(one, call=f"c{n}") for n in range(50)] == [home(other, call=f"c{n}") for n in range(50)]


def test_a_bad_node_gets_calls_only_where_nobody_is_well():
    found = well("fra-1", "fra-2", "iad-1")
    for name in ("fra-1", "fra-2"):
        found.on_report(report(name, made=1.0, state="bad", score=10.0 if name == "fra-1" else 20.0))
    assert home(found, now=1.0) == "iad-1"
    found.on_report(report("iad-1", made=1.0, state="bad", score=25.0))
    placement = found.place(CALL, "control", NEAR, 1.0)
    assert (placement.home.id, placement.tier) == ("fra-2", Tier.BAD)  # nearest region, least bad there
    assert [one.id for one in placement.standby] == ["fra-1", "iad-1"]


def test_of_equally_bad_ones_the_hash_decides():
    found = directory("fra-1", "fra-2")
    for name in ("fra-1", "fra-2"):
        found.on_report(report(name, state="bad", score=None))
    assert {home(found, call=f"c{n}") for n in range(40)} == {"fra-1", "fra-2"}


@pytest.mark.parametrize("state", ["ok", "degraded", "unknown"])
def test_what_is_not_bad_is_well_enough(state):
    found = well("fra-1", "iad-1")
    found.on_report(report("fra-1", made=1.0, state=state))
    assert home(found, now=1.0) == "fra-1"


def test_after_90_seconds_without_a_report_a_node_is_passed_over():
    found = well("fra-1", "iad-1")
    found.on_report(report("iad-1", made=50.0))
    assert home(found, now=OLD_S) == "fra-1"
    assert home(found, now=OLD_S + 0.1) == "iad-1"
    assert found.age("fra-1", OLD_S + 0.1) == OLD_S + 0.1


def test_when_all_reports_fail_calls_go_on_by_what_was_known():
    found = well("fra-1", "fra-2")
    found.on_report(report("fra-2", made=1.0, stress=1.0))
    placements = [found.place(f"c{n}", "control", NEAR, 10_000.0) for n in range(20)]
    assert {one.tier for one in placements} == {Tier.OLD}
    assert Counter(one.home.id for one in placements)["fra-1"] > 10


def test_a_node_that_never_reported_is_the_last_resort():
    found = directory("fra-1", "iad-1")
    found.on_report(report("iad-1"))
    assert home(found) == "iad-1"
    assert found.age("fra-1", 0.0) == inf


@pytest.mark.parametrize("by", ["list", "report"])
def test_a_draining_node_gets_no_call_even_if_it_is_alone(by):
    found = directory(node("fra-1", draining=by == "list"))
    found.on_report(report("fra-1", draining=by == "report"))
    assert found.place(CALL, "control", NEAR, 0.0) is None


def test_a_call_keeps_to_nodes_of_its_variant():
    found = directory(node("fra-1"), node("fra-2", variant="candidate"), node("iad-1", variant="candidate"))
    for name in ("fra-1", "fra-2", "iad-1"):
        found.on_report(report(name))
    placement = found.place(CALL, "candidate", NEAR, 0.0)
    assert [placement.home.id, *(one.id for one in placement.standby)] == ["fra-2", "iad-1"]
    assert home(found) == "fra-1"
    assert found.place(CALL, "another", NEAR, 0.0) is None


def test_a_call_moves_to_one_target_of_its_variant_and_not_back():
    found = directory(node("fra-1", variant="candidate"), node("fra-2"), node("iad-1", variant="candidate"))
    assert found.target(CALL, "fra-1", {"fra": 0.0, "iad": 0.09}, 0.0).id == "iad-1"
    assert found.target(CALL, "fra-2", NEAR, 0.0) is None
    with pytest.raises(LocalError):
        found.target(CALL, "nobody", NEAR, 0.0)


def test_standbys_of_a_running_call_are_the_next_two_and_count_nowhere():
    found = well("fra-1", "fra-2", "fra-3", "fra-4", "iad-1")
    first = [one.id for one in found.standbys(CALL, "fra-1", NEAR, 0.0)]
    assert len(first) == 2
    assert "fra-1" not in first
    assert all([one.id for one in found.standbys(CALL, "fra-1", NEAR, 0.0)] == first for _ in range(100))
    assert found.target(CALL, "fra-1", NEAR, 0.0).id == first[0]
    with pytest.raises(LocalError):
        found.standbys(CALL, "nobody", NEAR, 0.0)


def test_a_move_counts_at_its_target():
    found = well("fra-1", "fra-2", "fra-3")
    spread = Counter(found.target("c1", "fra-1", NEAR, 0.0).id for _ in range(200))
    assert set(spread) == {"fra-2", "fra-3"}  # one call again and again: only the count moves it


def test_only_the_list_says_who_is_there():
    found = well("fra-1", "fra-2")
    assert not found.on_report(report("evil-1"))
    found.on_list(listed(node("fra-2")), 1.0, WALL)
    assert home(found, now=1.0) == "fra-2"
    assert not found.on_report(report("fra-1", made=2.0))
    assert found.age("fra-2", 1.0) == 1.0  # what was known stays
    with pytest.raises(LocalError):
        found.age("fra-1", 1.0)


def test_a_report_older_than_the_last_is_ignored():
    found = well("fra-1", made=5.0)
    assert not found.on_report(report("fra-1", made=5.0, state="bad"))
    assert not found.on_report(report("fra-1", made=4.0, state="bad"))
    assert found.place(CALL, "control", NEAR, 6.0).tier is Tier.WELL


def test_health_in_a_list_is_a_report_as_old_as_list_and_report_together():
    full = node("fra-1", health=Health(state="bad", score=7, stress=130, age_s=10))
    found = Directory()
    found.on_list(
        listed(full, node("iad-1", health=Health(state="unknown", stress=0, age_s=0))), 1_000.0, WALL + 30
    )
    assert found.age("fra-1", 1_000.0) == 40.0
    assert home(found, now=1_000.0) == "iad-1"
    assert found.place(CALL, "control", NEAR, 1_000.0 + 59.0).tier is Tier.WELL
    assert found.place(CALL, "control", NEAR, 1_000.0 + 61.0).tier is Tier.OLD


def test_a_list_from_a_clock_ahead_of_ours_is_as_old_as_its_reports():
    found = Directory()
    found.on_list(listed(node("fra-1", health=Health(state="ok", stress=0, age_s=5))), 0.0, WALL - 500)
    assert found.age("fra-1", 0.0) == 5.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fra", "iad", "sin"]),
            st.sampled_from(["control", "candidate"]),
            st.sampled_from(["ok", "bad", "unknown", None]),
            st.floats(0, 3),
            st.floats(0, 200),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_a_call_is_refused_only_if_every_node_of_its_variant_drains(facts):
    nodes = [node(f"{r}-{i}", variant=v, draining=d) for i, (r, v, _, _, _, d) in enumerate(facts)]
    found = directory(*nodes)
    for one, (_, _, state, stress, made, _) in zip(nodes, facts, strict=True):
        if state is not None:
            found.on_report(report(one.id, made, state, 5.0, stress))
    open_ = [one.id for one in nodes if one.variant == "control" and not one.draining]
    placement = found.place(CALL, "control", NEAR, 200.0)
    assert (placement is None) == (not open_)
    if placement is not None:
        chosen = [placement.home.id, *(one.id for one in placement.standby)]
        assert set(chosen) <= set(open_)
        assert len(set(chosen)) == len(chosen) == min(3, len(open_))


# ---------------------------------------------------------------- rules of regions


def ruled(may_leave_to, *names):
    """Nodes that all just reported, on a list that says where calls of some regions may go."""
    found = Directory()
    made = msgspec.structs.replace(listed(*(node(name) for name in names)), may_leave_to=may_leave_to)
    found.on_list(made, 0.0, WALL)
    for name in names:
        found.on_report(report(name))
    return found


RULES = {"fra": ("iad",), "iad": (), "sin": ("fra", "iad")}


def test_no_call_is_moved_where_the_rules_of_its_region_forbid():
    found = ruled(RULES, "fra-1", "iad-1", "sin-1", "gru-1")
    assert found.target(CALL, "fra-1", {"fra": 0.0, "sin": 1.0, "iad": 2.0}, 0.0).id == "iad-1"
    assert found.target(CALL, "iad-1", NEAR, 0.0) is None
    assert found.target(CALL, "gru-1", NEAR, 0.0).id == "fra-1"  # of which nobody said anything
    assert [one.id for one in found.standbys(CALL, "fra-1", NEAR, 0.0)] == ["iad-1"]
    assert found.standbys(CALL, "iad-1", NEAR, 0.0) == []


def test_what_the_operator_allows_counts_beside_what_the_list_says():
    found = ruled(RULES, "fra-1", "fra-2", "iad-1", "sin-1")
    allowed = {"fra", "sin"}
    assert found.target(CALL, "fra-1", NEAR, 0.0, allowed).id == "fra-2"
    assert [one.id for one in found.standbys(CALL, "fra-1", NEAR, 0.0, allowed)] == ["fra-2"]
    assert found.target(CALL, "fra-1", NEAR, 0.0, set()) is None


def test_a_new_call_goes_by_the_rules_of_its_own_region_where_that_is_known():
    found = ruled(RULES, "fra-1", "iad-1", "sin-1")
    far = {"sin": 0.01, "fra": 0.1, "iad": 0.2}
    assert found.place(CALL, "control", far, 0.0).home.id == "sin-1"
    placement = found.place(CALL, "control", far, 0.0, "fra")
    assert (placement.home.id, [one.id for one in placement.standby]) == ("fra-1", ["iad-1"])
    placement = found.place(CALL, "control", far, 0.0, "iad")
    assert (placement.home.id, placement.standby) == ("iad-1", ())
    assert ruled({"gru": ()}, "fra-1").place(CALL, "control", NEAR, 0.0, "gru") is None


def test_else_its_standbys_go_by_the_rules_of_the_region_that_it_comes_to():
    placement = ruled(RULES, "fra-1", "sin-1", "iad-1").place(CALL, "control", NEAR, 0.0)
    assert (placement.home.id, [one.id for one in placement.standby]) == ("fra-1", ["iad-1"])


def test_a_new_list_brings_new_rules():
    found = ruled(RULES, "fra-1", "sin-1")
    assert found.target(CALL, "fra-1", NEAR, 0.0) is None
    found.on_list(listed(node("fra-1"), node("sin-1")), 0.0, WALL)
    assert found.target(CALL, "fra-1", NEAR, 0.0).id == "sin-1"


def test_where_people_reach_a_node_stands_on_the_list():
    found = directory("fra-1")
    assert found.urls("fra-1") == ("quic://fra-1:443",)
    assert found.urls("fra-9") == ()
