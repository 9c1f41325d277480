from typing import get_args

from pair import TICKET_KEY
from relay.core import events as ev


def test_inputs_are_facts_and_outputs_orders_and_none_is_both():
    inputs, outputs = set(get_args(ev.Input)), set(get_args(ev.Output))
    assert not inputs & outputs
    assert all(kind.__doc__ for kind in inputs | outputs)


def test_ticket_keys_are_not_in_a_repr():
    keys = ev.EngineKeys({}, [TICKET_KEY])
    assert repr(TICKET_KEY) not in repr(keys)


def test_counters_of_a_flow_that_carried_nothing_are_zero():
    assert ev.FlowCounters().dropped == {}


def test_repair_that_only_pauses_is_not_none():
    assert ev.Repair().is_none
    assert not ev.Repair(max_age=0.1).is_none
    assert not ev.Repair(mode=ev.Mode.REPEATS).is_none
