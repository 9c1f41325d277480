from enum import Enum

import pytest

from relay.core.call import Call
from relay.core.drain import Drain
from relay.core.leg import Leg
from relay.core.machine import Machine
from relay.core.participant import Participant
from relay.core.trunk import Trunk
from relay.core.trunk_closing import Closing
from relay.core.trunk_greeting import Greeting
from relay.core.trunk_half import Half
from relay.core.trunk_receiving import Inlet
from relay.errors import LocalError


class Lamp(Enum):
    OFF = 0
    ON = 1


class Pressed: ...


class Broke: ...


class Switch(Machine[Lamp]):
    TRANSITIONS = {Lamp.OFF: {Pressed: Lamp.ON}, Lamp.ON: {Pressed: Lamp.OFF}}  # noqa: RUF012 - as the machines do

    def press(self) -> None:
        self._move(Pressed)

    def break_(self) -> None:
        self._move(Broke)


def test_a_machine_follows_its_table():
    switch = Switch(Lamp.OFF)
    switch.press()
    assert switch.state is Lamp.ON


def test_an_event_outside_the_table_is_a_bug_of_ours_and_changes_nothing():
    switch = Switch(Lamp.OFF)
    with pytest.raises(LocalError, match="Switch in OFF got Broke"):
        switch.break_()
    assert switch.state is Lamp.OFF


@pytest.mark.parametrize("machine", [Call, Drain, Leg, Participant, Greeting, Trunk, Inlet, Half, Closing])
def test_every_state_of_every_machine_has_a_row_and_is_reached(machine):
    table = machine.TRANSITIONS
    states = set(type(next(iter(table))))
    assert set(table) == states
    reached = {after for row in table.values() for after in row.values()}
    first = next(iter(table))
    assert states - reached <= {first}
