"""The way to one other node: down, being dialed, up, suspect, or leaving; and what is due on it.

    DOWN --dialed--> DIALLING --greeted--> UP --nothing acknowledged for long--> SUSPECT --acknowledged--> UP
    DOWN --greeted, dialed by the other one--> UP     all but DOWN --lost--> DOWN     UP --drained--> LEAVING
    SUSPECT for long: it is given up, so lost, and dialed anew if somebody needs it

A trunk outlives its connections; of two there is one in use, and `stays` decides which. The edge numbers
connections (`link`) and never uses a number twice. `chance` is a fresh random number from 0 to 1, so that
nodes that lost each other at once do not come back at once. Must never live here: who the other one is
(trunk_greeting.py), calls, and routes.

A node that restarts as planned is two processes for a while. So there are two ways to each node, and
everybody but who dials knows them by name: the node's id, and the same with a `+`.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, NamedTuple

from relay.core.machine import Machine, Table
from relay.protocol.trunk_messages import Greet

RETRY_S: Final = (0.2, 1.0, 2.0, 5.0)
"""After so long a lost trunk is dialed again, cut by up to half; the last one from then on."""
PING_S: Final = 5.0  # times 0.8 to 1.2
PROBE_S: Final = 0.1  # three of them in the least time after which a silent one is suspect
GIVE_UP_S: Final = 4.0
"""So long a trunk is suspect before it is given up.

What is cut for less goes on as it stood. A node that was killed knows of no connection, and is met so much
later at most, and what dialing takes.
"""
SUSPECT_S: Final = 0.6
ROUND_TRIPS: Final = 3  # where so many are longer, they count
CARRYING_S: Final = 0.3  # the same while voices pass: then something is acknowledged all the time
CARRYING_ROUND_TRIPS: Final = 2
LATE_S: Final = 0.05  # who looks so much later than it wanted to was away itself: news may wait to be read


_SECOND: Final = "+"  # stands in no node id


def node_of(way: str) -> str:
    """The node of a way."""
    return way.removesuffix(_SECOND)


def beside(way: str) -> str:
    """The other one of the two ways to a node."""
    return node_of(way) if way.endswith(_SECOND) else way + _SECOND


class State(Enum):
    """What a trunk is good for."""

    DOWN = "down"  # nothing
    DIALLING = "dialling"  # handshake and greet of a connection that we dialed
    UP = "up"  # everything
    SUSPECT = "suspect"  # no new halves, no `pull`, no `attach`; routes go on
    LEAVING = "leaving"  # our node drains: no new halves


class Dialed:
    """We dial."""


class Greeted:
    """A connection is in use: both know each other."""


class Silent:
    """For too long nothing was acknowledged."""


class Acknowledged:
    """Something was."""


class Lost:
    """The connection in use is closed, or given up, or was idle for 30 s; or dialing failed."""


class Drained:
    """Our node leaves."""


class Due(Enum):
    """What a trunk is waiting to have done."""

    DIAL = "dial"
    PING = "ping"  # on the control stream
    PROBE = "probe"  # a datagram that asks for an acknowledgement
    TELL = "tell"  # it has become suspect
    GIVE_UP = "give_up"  # it has been for long: close it


class Met(NamedTuple):
    """What a connection that is in use now means for the trunk."""

    is_new: bool
    """The other process is not the one we knew: it has forgotten everything."""
    replaced: int | None
    """The connection that was in use, or being dialed: close it with GLARE."""


class Trunk(Machine[State]):
    """The trunk between our node and one other.

    Each state has a line for each event, most of which change nothing: two nodes see things in an order of
    their own.
    """

    TRANSITIONS: ClassVar[Table[State]] = {
        State.DOWN: {
            Dialed: State.DIALLING,
            Greeted: State.UP,
            Silent: State.DOWN,
            Acknowledged: State.DOWN,
            Lost: State.DOWN,
            Drained: State.DOWN,
        },
        State.DIALLING: {
            Dialed: State.DIALLING,
            Greeted: State.UP,
            Silent: State.DIALLING,
            Acknowledged: State.DIALLING,
            Lost: State.DOWN,
            Drained: State.DOWN,
        },
        State.UP: {
            Dialed: State.UP,
            Greeted: State.UP,
            Silent: State.SUSPECT,
            Acknowledged: State.UP,
            Lost: State.DOWN,
            Drained: State.LEAVING,
        },
        State.SUSPECT: {
            Dialed: State.SUSPECT,
            Greeted: State.UP,
            Silent: State.SUSPECT,
            Acknowledged: State.UP,
            Lost: State.DOWN,
            Drained: State.LEAVING,
        },
        State.LEAVING: {
            Dialed: State.LEAVING,
            Greeted: State.LEAVING,
            Silent: State.LEAVING,
            Acknowledged: State.LEAVING,
            Lost: State.DOWN,
            Drained: State.LEAVING,
        },
    }

    def __init__(self, own: str, way: str) -> None:
        """`own`: our node's id; `way`: one of those to the other node."""
        super().__init__(State.DOWN)
        self.way = way
        self.node = node_of(way)
        self.link: int | None = None
        """The connection in use, or the one that we dial."""
        self.peer: Greet | None = None
        """What the other node said of itself last."""
        self._own = own
        self._is_ours = False  # we dialed `link`
        self._is_wanted = False
        self._is_draining = False
        self._carries = False
        self._has_hurried = False  # dialed out of turn since it was up last
        self._tries = 0
        self._retry_at = 0.0
        self._ping_at: float | None = None
        self._sent_at = 0.0
        self._unanswered_since: float | None = None
        self._give_up_at = 0.0  # while it is suspect
        self._rtt = 0.0

    @property
    def is_there(self) -> bool:
        """Whether messages and voices pass."""
        return self._state in (State.UP, State.SUSPECT, State.LEAVING)

    @property
    def round_trip(self) -> float:
        """Seconds, smoothed; 0: nothing was acknowledged yet."""
        return self._rtt

    @property
    def takes_halves(self) -> bool:
        """Whether anything new may begin on it."""
        return self._state is State.UP

    @property
    def is_ours(self) -> bool:
        """We dialed the connection by which it began, and dial what it lacks."""
        return self._is_ours and not self._is_draining

    @property
    def is_wanted(self) -> bool:
        """Somebody here needs it."""
        return self._is_wanted

    @property
    def tries(self) -> int:
        """How often dialing was of no use since it was up."""
        return self._tries

    # ------------------------------------------------------------ who needs it

    def want(self, now: float) -> None:
        """Somebody needs it. One that is down is dialed at once, but so only once until it was up again."""
        self._is_wanted = True
        if now < self._retry_at and not self._has_hurried:
            self._retry_at = now
            self._has_hurried = True

    def unwant(self) -> None:
        """Nobody here does: it stays while it is there, and is not dialed again."""
        self._is_wanted = False

    def carry(self, carries: bool) -> None:
        """Whether voices pass on it now."""
        self._carries = carries
        if not carries and self._unanswered_since is not None and self._sent_at < self._unanswered_since:
            self._unanswered_since = None  # all that was sent is acknowledged

    # ------------------------------------------------------------ connections

    def on_dialed(self, link: int) -> None:
        """We dial, as was due; the connection is not there yet."""
        self._move(Dialed)
        self.link, self._is_ours = link, True

    def stays(self, greet: Greet) -> bool:
        """Whether a connection of this node's, proven by `greet`, takes the place of what there is.

        Of two that were dialed at once the smaller node's stays, on both sides alike. Not so where the other
        node cannot know the one that we use, or gave it up: it is a new process, or dialed that one itself,
        or we doubt it, too.
        """
        if self._state is State.DOWN or not self._is_ours or self._state is State.SUSPECT:
            return True
        is_new = self.is_there and self.peer is not None and self.peer.boot != greet.boot
        return is_new or self.node < self._own

    def on_greeted(self, link: int, greet: Greet, now: float, chance: float) -> Met:
        """Both know each other on `link`, ours or one that `stays`; from now on it is the one in use."""
        former = self.peer
        replaced = None if self.link == link else self.link
        self._is_ours = self.link == link and self._is_ours
        self._move(Greeted)
        if self._is_draining:
            self._move(Drained)
        self.link, self.peer = link, greet
        self._tries, self._has_hurried, self._retry_at = 0, False, 0.0
        self._sent_at, self._unanswered_since = now, None
        self._next_ping(now, chance)
        return Met(former is None or former.boot != greet.boot, replaced)

    def on_lost(self, link: int, now: float, chance: float) -> bool:
        """A connection is no more. Whether it was the one in use, or being dialed: the trunk is down then."""
        if link != self.link:
            return False
        self._move(Lost)
        self.link, self._ping_at, self._unanswered_since = None, None, None
        self._retry_at = now + RETRY_S[min(self._tries, len(RETRY_S) - 1)] * (1.0 - 0.5 * chance)
        self._tries += 1
        return True

    def on_drained(self) -> int | None:
        """Our node leaves: it dials no more. A connection that was being dialed, for the edge to close."""
        self._move(Drained)
        self._is_draining = True
        dialed = self.link if self._state is State.DOWN else None
        if dialed is not None:
            self.link = None
        return dialed

    # ------------------------------------------------------------ is it alive?

    def on_sent(self, now: float) -> None:
        """Something left that asks for an acknowledgement."""
        self._sent_at = now
        if self._unanswered_since is None:
            self._unanswered_since = now

    def on_acknowledged(self, rtt: float, now: float) -> None:
        """Something was. `rtt`: the round trip, seconds, smoothed."""
        self._rtt = rtt
        # While voices pass something is under way at any moment, and silence counts from here.
        self._unanswered_since = now if self._carries else None
        self._move(Acknowledged)

    def next_deadline(self) -> float | None:
        """When something is due."""
        give_up_at = self._give_up_at if self._state is State.SUSPECT else None
        found = [self._dial_at(), self._ping_at, self._probe_at(), self._suspect_at(), give_up_at]
        return min((when for when in found if when is not None), default=None)

    def on_timer(self, now: float, chance: float) -> tuple[Due, ...]:
        """Time went by: what has to be done now. `on_dialed` and `on_sent` follow it."""
        if self._state is State.SUSPECT and now >= self._give_up_at:
            if now < self._give_up_at + LATE_S:
                return (Due.GIVE_UP,)
            self._give_up_at = now + PROBE_S
        dial_at, suspect_at, probe_at = self._dial_at(), self._suspect_at(), self._probe_at()
        if suspect_at is not None and now >= suspect_at + LATE_S:
            self._unanswered_since = now - self._patience + PROBE_S
        due = []
        if suspect_at is not None and suspect_at <= now < suspect_at + LATE_S:
            self._move(Silent)
            self._give_up_at = now + GIVE_UP_S
            due.append(Due.TELL)
        if dial_at is not None and now >= dial_at:
            due.append(Due.DIAL)
        if self._ping_at is not None and now >= self._ping_at:
            self._next_ping(now, chance)
            due.append(Due.PING)
        if probe_at is not None and now >= probe_at:
            due.append(Due.PROBE)
        return tuple(due)

    def _next_ping(self, now: float, chance: float) -> None:
        self._ping_at = now + PING_S * (0.8 + 0.4 * chance)

    def _dial_at(self) -> float | None:
        is_due = self._state is State.DOWN and self._is_wanted and not self._is_draining
        return self._retry_at if is_due else None

    def _probe_at(self) -> float | None:
        is_asking = self.is_there and (self._carries or self._state is State.SUSPECT)
        return self._sent_at + PROBE_S if is_asking else None

    def _suspect_at(self) -> float | None:
        if self._state is not State.UP or self._unanswered_since is None:
            return None
        return self._unanswered_since + self._patience

    @property
    def _patience(self) -> float:
        if self._carries:
            return max(CARRYING_S, CARRYING_ROUND_TRIPS * self._rtt)
        return max(SUSPECT_S, ROUND_TRIPS * self._rtt)
