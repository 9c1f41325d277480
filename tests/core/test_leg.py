import pytest

from pair import World
from relay.config import LimitsConfig
from relay.core.leg import LINGER_S, Leg, LegState
from relay.errors import ErrorCode, LocalError
from relay.protocol.address import Address
from relay.protocol.ids import CallId

IDS = World().call()


def leg() -> Leg:
    return Leg(1, "quic", Address("192.0.2.1", 9), LimitsConfig(), 100.0)


def test_a_leg_goes_from_opened_to_closed_and_its_patience_with_it():
    one = leg()
    assert one.next_deadline() == 105.0
    one.on_challenged(bytes(32))
    assert (one.state, one.nonce, one.next_deadline()) == (LegState.CHALLENGED, bytes(32), 105.0)
    claims = IDS.claims()
    one.on_admitted(claims, None, 150.0)
    assert (one.state, one.claims, one.next_deadline()) == (LegState.READY, claims, 150.0)
    one.on_entered(CallId(bytes(16)), 3, 1)
    assert (one.state, one.index, one.up, one.next_deadline()) == (LegState.IN_CALL, 3, 1, None)
    one.on_call_over({3: claims.sub}, ErrorCode.BUSY, 200.0)
    assert (one.state, one.last_code, one.next_deadline()) == (
        LegState.LINGERING,
        ErrorCode.BUSY,
        200.0 + LINGER_S,
    )
    one.on_closed()
    assert (one.state, one.next_deadline()) == (LegState.CLOSED, None)


def test_a_leg_joins_once():
    one = leg()
    one.on_admitted(IDS.claims(), None, 150.0)
    one.on_entered(CallId(bytes(16)), 0, 1)
    with pytest.raises(LocalError):
        one.on_entered(CallId(bytes(16)), 0, 1)


def test_a_newer_token_prolongs_the_patience_of_a_leg_that_has_not_joined():
    one = leg()
    one.on_admitted(IDS.claims(), None, 150.0)
    newer = IDS.claims()
    one.on_renewed(newer, None, 250.0)
    assert (one.claims, one.next_deadline()) == (newer, 250.0)
    one.on_entered(CallId(bytes(16)), 0, 1)
    one.on_renewed(newer, None, 350.0)
    assert one.next_deadline() is None


def test_the_round_trip_is_what_acknowledgements_tell_and_else_what_a_ping_measured():
    one = leg()
    assert one.round_trip is None
    one.rtt = 0.2
    assert one.round_trip == 0.2
    one.path_rtt = 0.04
    assert one.round_trip == 0.04


def test_a_leg_that_stands_by_waits_long_and_is_as_any_other_once_it_is_needed():
    one = leg()
    one.on_challenged(bytes(32))
    claims, newer = IDS.claims(), IDS.claims()
    one.on_standby(claims, None, 9000.0)
    assert (one.state, one.claims, one.next_deadline()) == (LegState.STANDBY, claims, 9000.0)
    with pytest.raises(LocalError):
        one.on_entered(CallId(bytes(16)), 0, 1)
    one.on_called(newer, None, 205.0)
    assert (one.state, one.claims, one.next_deadline()) == (LegState.READY, newer, 205.0)
