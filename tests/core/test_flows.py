import pytest

from relay.core.flows import LAST, FlowNumbers
from relay.errors import LocalError


def test_numbers_run_from_1_to_62_and_then_there_is_none():
    flows = FlowNumbers(rest_s=30.0)
    assert [flows.allot(0.0) for _ in range(LAST)] == list(range(1, 63))
    assert flows.allot(0.0) is None
    assert flows.next_free() is None
    assert len(flows) == 62


def test_a_number_rests_before_it_is_used_again():
    flows = FlowNumbers(rest_s=30.0)
    for _ in range(LAST):
        flows.allot(0.0)
    flows.free(7, 1.0)
    assert flows.allot(30.9) is None
    assert flows.next_free() == 31.0
    assert flows.allot(31.0) == 7


def test_unused_numbers_go_before_rested_ones():
    flows = FlowNumbers(rest_s=0.0)
    flows.allot(0.0)
    flows.free(1, 0.0)
    assert flows.allot(10.0) == 2


def test_freeing_what_is_not_in_use_is_a_bug():
    flows = FlowNumbers(rest_s=30.0)
    with pytest.raises(LocalError):
        flows.free(1, 0.0)


def test_numbers_in_use_elsewhere_are_taken_and_those_below_them_rest():
    flows = FlowNumbers(rest_s=30.0)
    flows.take([2, 5], 1.0)
    assert len(flows) == 2
    assert flows.next_free() == 31.0
    assert [flows.allot(1.0) for _ in range(6, LAST + 1)] == list(range(6, 63))
    assert flows.allot(30.9) is None
    assert [flows.allot(31.0) for _ in range(4)] == [1, 3, 4, None]
    flows.free(5, 40.0)
    assert flows.allot(70.0) == 5


def test_the_numbers_of_a_trunk_are_others():
    routes = FlowNumbers(30.0, 64, 66)
    assert [routes.allot(0.0) for _ in range(4)] == [64, 65, 66, None]
    routes.free(65, 1.0)
    assert routes.next_free() == 31.0
    with pytest.raises(LocalError):
        FlowNumbers(30.0, 64, 66).take([63], 0.0)


def test_taking_none_changes_nothing():
    flows = FlowNumbers(rest_s=30.0)
    flows.take([], 1.0)
    assert (len(flows), flows.next_free(), flows.allot(1.0)) == (0, None, 1)


@pytest.mark.parametrize("flow", [0, 63])
def test_what_is_no_flow_number_cannot_be_taken(flow):
    flows = FlowNumbers(rest_s=30.0)
    with pytest.raises(LocalError):
        flows.take([1, flow], 0.0)
    assert (len(flows), flows.allot(0.0)) == (0, 1)
