import pytest

from relay.config import DrainConfig
from relay.core.drain import Drain, DrainState
from relay.errors import LocalError

CONFIG = DrainConfig(grace_s=30.0, deadline_s=300.0, close_s=1.0)


def test_a_running_node_takes_everything_and_waits_for_nothing():
    drain = Drain(CONFIG)
    assert drain.takes_calls
    assert drain.takes_joins
    assert drain.next_deadline() is None


def test_a_drain_goes_through_all_states_in_time():
    drain = Drain(CONFIG)
    drain.on_request(100.0)
    assert drain.state is DrainState.DRAINING
    assert (drain.takes_calls, drain.takes_joins) == (False, True)
    assert drain.next_deadline() == 130.0
    drain.on_step_over(130.0)
    assert drain.state is DrainState.MOVING
    assert (drain.takes_calls, drain.takes_joins) == (False, False)
    assert drain.next_deadline() == 399.0
    drain.on_step_over(399.0)
    assert drain.state is DrainState.CLOSING
    assert drain.next_deadline() == 400.0
    drain.on_step_over(400.0)
    assert drain.state is DrainState.STOPPED
    assert drain.next_deadline() is None


def test_each_further_request_skips_a_state_until_there_is_none():
    drain = Drain(CONFIG)
    states = []
    for _ in range(5):
        drain.on_request(0.0)
        states.append(drain.state.value)
    assert states == ["draining", "moving", "closing", "closing", "closing"]
    assert drain.next_deadline() == 1.0


def test_a_request_after_the_end_changes_nothing():
    drain = Drain(CONFIG)
    for now in (0.0, 0.0, 0.0):
        drain.on_request(now)
    drain.on_step_over(1.0)
    drain.on_request(2.0)
    assert drain.state is DrainState.STOPPED


def test_a_reload_counts_from_the_next_state_on():
    drain = Drain(CONFIG)
    drain.on_request(0.0)
    drain.on_config(DrainConfig(close_s=7.0))
    assert drain.next_deadline() == 30.0
    drain.on_step_over(30.0)
    assert drain.next_deadline() == 293.0


def test_a_running_node_has_no_step_to_end():
    with pytest.raises(LocalError):
        Drain(CONFIG).on_step_over(0.0)


def test_a_mark_empties_the_node_and_can_be_taken_back():
    drain = Drain(CONFIG)
    assert drain.on_mark(True)
    assert drain.state is DrainState.EMPTYING
    assert (drain.takes_calls, drain.takes_joins) == (False, True)
    assert drain.next_deadline() is None  # it ends when the mark does
    assert not drain.on_mark(True)
    assert drain.on_mark(False)
    assert drain.state is DrainState.RUNNING
    assert not drain.on_mark(False)


def test_a_node_that_is_emptied_leaves_like_any_other_and_no_mark_changes_that():
    drain = Drain(CONFIG)
    drain.on_mark(True)
    drain.on_request(100.0)
    assert drain.state is DrainState.DRAINING
    assert drain.ends_at == 400.0
    assert not drain.on_mark(False)
    assert not drain.on_mark(True)
    assert drain.state is DrainState.DRAINING
