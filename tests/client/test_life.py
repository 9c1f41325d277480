"""The table of a call's life."""

from __future__ import annotations

import pytest

from relay.client.errors import CallEndedError, RefusedError, SessionError, name_of
from relay.client.life import (
    TRANSITIONS,
    CallState,
    Over,
    Parted,
    PeerAccepted,
    Reunited,
    WeAccepted,
    after,
)
from relay.errors import LocalError


@pytest.mark.parametrize("order", [(WeAccepted, PeerAccepted), (PeerAccepted, WeAccepted)])
def test_a_call_opens_whoever_accepts_first(order: tuple[type[WeAccepted], type[PeerAccepted]]) -> None:
    state = CallState.RINGING
    for event in order:
        state = after(state, event)
    assert state is CallState.OPEN
    assert after(after(state, Parted), Reunited) is CallState.OPEN


def test_every_state_can_end_and_an_ended_call_takes_nothing_else() -> None:
    assert set(TRANSITIONS) == set(CallState)
    assert all(after(state, Over) is CallState.ENDED for state in CallState)
    for event in (WeAccepted, PeerAccepted, Parted, Reunited):
        with pytest.raises(LocalError):
            after(CallState.ENDED, event)


def test_errors_name_their_code() -> None:
    assert str(SessionError(0x33, "")) == "IDLE_TIMEOUT"
    assert str(RefusedError(0x11, "no", 5)) == "TOKEN_INVALID: no"
    assert name_of(0x999) == "0x999"
    assert CallEndedError("missed").why == "missed"
