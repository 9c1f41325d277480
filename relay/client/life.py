"""A call's life as the SDK sees it: one table.

    RINGING --we accept--> WAITING --peer accepts--> OPEN --lost--> AWAY --back--> OPEN
        \\---peer accepts--> WANTED --we accept------^
    every state --over--> ENDED

Must never live here: messages, sockets, clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from relay.errors import LocalError


class CallState(Enum):
    """Where the call stands."""

    RINGING = "ringing"  # joined; nobody accepted
    WAITING = "waiting"  # we accepted, the other did not yet
    WANTED = "wanted"  # the other accepted, we did not yet
    OPEN = "open"  # both accepted: the relay carries media
    AWAY = "away"  # both accepted, one leg is gone for the moment
    ENDED = "ended"


class WeAccepted:
    """The relay confirmed our accept."""


class PeerAccepted:
    """The other's accept was told."""


class Parted:
    """A leg is gone: theirs (`peer away`) or ours."""


class Reunited:
    """The leg is back."""


class Over:
    """The call ended."""


Event = type[WeAccepted] | type[PeerAccepted] | type[Parted] | type[Reunited] | type[Over]

TRANSITIONS: Final[Mapping[CallState, Mapping[Event, CallState]]] = {
    CallState.RINGING: {
        WeAccepted: CallState.WAITING,
        PeerAccepted: CallState.WANTED,
        Parted: CallState.RINGING,
        Reunited: CallState.RINGING,
        Over: CallState.ENDED,
    },
    CallState.WAITING: {
        WeAccepted: CallState.WAITING,
        PeerAccepted: CallState.OPEN,
        Parted: CallState.WAITING,
        Reunited: CallState.WAITING,
        Over: CallState.ENDED,
    },
    CallState.WANTED: {
        WeAccepted: CallState.OPEN,
        PeerAccepted: CallState.WANTED,
        Parted: CallState.WANTED,
        Reunited: CallState.WANTED,
        Over: CallState.ENDED,
    },
    CallState.OPEN: {
        WeAccepted: CallState.OPEN,
        PeerAccepted: CallState.OPEN,
        Parted: CallState.AWAY,
        Reunited: CallState.OPEN,
        Over: CallState.ENDED,
    },
    CallState.AWAY: {
        WeAccepted: CallState.AWAY,
        PeerAccepted: CallState.AWAY,
        Parted: CallState.AWAY,
        Reunited: CallState.OPEN,
        Over: CallState.ENDED,
    },
    CallState.ENDED: {Over: CallState.ENDED},
}


def after(state: CallState, event: Event) -> CallState:
    """The next state; LocalError for a pair that is not in the table."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LocalError(f"a call that is {state.value} takes no {event.__name__}") from None
