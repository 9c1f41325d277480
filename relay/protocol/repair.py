"""Which packets go again beside one that leaves anyway: the rule that relay and client both keep.

    earn -> choose | copies -> what to append, what to forget, what is left of the allowance

The ciphertext is repeated as it is, only bit R is set (media.py). Both ends do this for what the other
acknowledges, so the rule stands with the wire, and tests/vectors/repair.json pins it for every
implementation. Times are seconds of one monotonic clock. Must never live here: state, rings of packets,
what a network bears (the limits are arguments).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from relay.protocol.media import MIN_SEALED, PP_COMFORT, PP_REDUNDANT, MediaHeader

MOST: Final = 2  # repeats in one packet: a third is hardly ever the one that is missed
MAX_PACKET: Final = 1200  # bytes with repeats in it
LEAST_VOICE: Final = 10  # bytes of Opus: what is shorter is silence
RTTVAR_FACTOR: Final = 4
GRANULARITY: Final = 0.001  # s (RFC 9002 section 6.1.2)
LEAST_ACK_SLACK: Final = 0.010  # s: how long a peer holds an acknowledgement, at least
MOST_ACK_SLACK: Final = 0.025  # s: what a peer promises


class Sent(NamedTuple):
    """A packet that was sent to the peer and not acknowledged."""

    came: float
    """When its time began to run: see `reference`."""
    first_sent: float
    size: int
    """Bytes that it takes in a packet, frame header included."""
    worth: bool
    """See `is_worth`."""


class Path(NamedTuple):
    """What is known of the way to the peer and of its listener."""

    rtt: float
    """Smoothed."""
    rttvar: float
    ack_slack: float
    """How long the peer may hold an acknowledgement: see `ack_slack`."""
    max_age: float
    """What is older would come too late to be played."""


class Choice(NamedTuple):
    """What to do before the packet leaves. Positions in, or counters of, what was given."""

    append: tuple[int, ...]
    """Repeats, in this order."""
    forget: tuple[int, ...]
    """Never to be repeated any more."""
    left: float
    """Allowance after it, packets."""


def is_worth(header: MediaHeader, size: int) -> bool:
    """Whether a datagram of `size` bytes is ever repeated: speech is, silence and redundancy are not."""
    return header.pp not in (PP_COMFORT, PP_REDUNDANT) and size - header.size - MIN_SEALED >= LEAST_VOICE


def ack_slack(p95_ack_delay: float) -> float:
    """How long to wait for an acknowledgement beside the round trip, from what the peer was seen to take."""
    return min(max(p95_ack_delay, LEAST_ACK_SLACK), MOST_ACK_SLACK)


def reference(came: float, beside: float | None, behind: int, ptime: float) -> float:
    """When the time of a packet begins to run: when it came.

    One that came as a repeat, `behind` packets older than the one it came beside at time `beside`, has used
    up some of its time on the way here: it counts from when it would have come.
    """
    return came if beside is None else min(came, beside - behind * ptime)


def earn(left: float, budget: float, depth: float) -> float:
    """The allowance after one more packet of media: `budget` packets richer, at most `depth`."""
    return min(left + budget, depth)


def patience(path: Path) -> float:
    """How long an acknowledgement is waited for, seconds: what is missed for longer may go again."""
    return path.rtt + max(RTTVAR_FACTOR * path.rttvar, GRANULARITY) + path.ack_slack


def choose(
    unacked: Sequence[Sent], now: float, path: Path, left: float, room: int, most: int = MOST
) -> Choice:
    """What goes again in a packet with `room` bytes free, out of what the peer has not acknowledged.

    Earliest deadline first: after an outage the newest could wait, the oldest cannot. What has once been
    waited for goes again in each packet until it is acknowledged or too old. `most` is 1 for a packet that
    leaves for a repeat alone, in a pause of speech, for which nothing is earned.
    """
    wait = patience(path)
    append: list[int] = []
    forget: list[int] = []
    for position in sorted(range(len(unacked)), key=lambda at: unacked[at].came):
        one = unacked[position]
        if not one.worth or now - one.came > path.max_age:
            forget.append(position)
        elif now - one.first_sent >= wait:
            if len(append) == most or one.size > room or left < 1:
                break
            append.append(position)
            room -= one.size
            left -= 1
    return Choice(tuple(append), tuple(forget), left)


def copies(
    ring: Mapping[int, Sent], newest: int, distances: Sequence[int], now: float, max_age: float, left: float,
    room: int,
) -> Choice:  # fmt: skip
    """What goes again beside packet `newest` where acknowledgements come too late: what is so much older.

    `ring` holds what was sent of the same flow and key by counter; `distances` are oldest first.
    """
    append: list[int] = []
    for distance in distances:
        one = ring.get(newest - distance)
        if one is None or not one.worth or now - one.came > max_age:
            continue
        if len(append) == MOST or one.size > room or left < 1:
            break
        append.append(newest - distance)
        room -= one.size
        left -= 1
    return Choice(tuple(append), (), left)
