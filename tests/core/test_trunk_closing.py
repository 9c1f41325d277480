"""A closing is sure when one end of every route is, and never before."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.trunk_closing import Certainty, Closing


def closing(speaker: str | None = "s", *listeners: str) -> Closing:
    return Closing(speaker, frozenset(listeners), 100.0)


def test_every_state_has_a_row():
    assert set(Closing.TRANSITIONS) == set(Certainty)


def test_our_own_speaker_is_shut_before_anything_is_said():
    one = closing(None, "a", "b")
    assert (one.state, one.silent(), one.next_deadline()) == (Certainty.SURE, frozenset(), None)


def test_with_no_listener_elsewhere_there_is_nothing_to_wait_for():
    assert closing("s").state is Certainty.SURE


def test_the_speakers_node_is_enough():
    one = closing("s", "a", "b")
    assert one.silent() == {"s", "a", "b"}
    one.on_grant_taken("a")
    assert one.state is Certainty.PENDING
    one.on_grant_taken("s")
    assert (one.state, one.silent()) == (Certainty.SURE, frozenset())
    one.on_gate_shut("a")
    one.on_grant_taken("s")
    assert one.state is Certainty.SURE


def test_so_are_all_the_listeners_nodes_and_not_less():
    one = closing("s", "a", "b")
    one.on_gate_shut("a")
    one.on_gate_shut("s")
    assert (one.state, one.silent()) == (Certainty.PENDING, {"s", "b"})
    one.on_gate_shut("b")
    assert one.state is Certainty.SURE


def test_after_a_second_without_a_word_it_is_overdue_and_may_still_become_sure():
    one = closing("s", "a")
    assert one.next_deadline() == 101.0
    one.on_timer(100.9)
    assert one.state is Certainty.PENDING
    one.on_timer(101.0)
    assert (one.state, one.silent(), one.next_deadline()) == (Certainty.OVERDUE, {"s", "a"}, None)
    one.on_timer(200.0)
    assert one.state is Certainty.OVERDUE
    one.on_gate_shut("a")
    assert one.state is Certainty.SURE
    one.on_timer(300.0)


def test_a_lease_that_is_over_shuts_a_node_whatever_it_was():
    for node in ("s", "a"):
        one = closing("s", "a")
        one.on_timer(101.0)
        one.on_lease_over(node)
        assert one.state is Certainty.SURE


nodes = st.sampled_from("sab")


@given(
    st.none() | nodes,
    st.frozensets(nodes),
    st.lists(st.tuples(st.sampled_from(("grant", "gate", "lease", "time")), nodes), max_size=12),
)
def test_it_is_sure_exactly_when_no_route_has_two_open_ends(speaker, listeners, words):
    one = Closing(speaker, listeners, 0.0)
    source_shut, shut, now = speaker is None, set(), 0.0
    for word, node in [("time", "s"), *words]:
        if word == "time":
            now += 0.6
            one.on_timer(now)
        elif word == "grant":
            one.on_grant_taken(node)
        elif word == "gate":
            one.on_gate_shut(node)
        else:
            one.on_lease_over(node)
        source_shut |= word in ("grant", "lease") and node == speaker
        shut |= {node} if word in ("gate", "lease") else set()
        assert (one.state is Certainty.SURE) is (source_shut or listeners <= shut)
        assert bool(one.silent()) is (one.state is not Certainty.SURE)
