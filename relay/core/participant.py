"""One person in one call: devices that ring, the one that accepted, and how long an accept outlives silence.

    JOINED --accept--> ACCEPTED --silence--> AWAY --rejoin--> ACCEPTED
       ^                  |                    |--60 s--> ABSENT --rejoin--> JOINED
       '--- newer join ---'                    '--90 s--> LEFT

Two consents meet here: the network's, which lapses with silence (RFC 7675 section 5.1) and comes back with a
rejoin, and the user's, which outlives the leg for a while and must then be asked for anew. Must never live
here: other participants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final, Literal

from relay.config import LimitsConfig
from relay.core.events import FlowCounters
from relay.core.hearing import Hearing
from relay.core.limits import TokenBucket
from relay.core.machine import Machine, Table
from relay.core.reasons import DropReason
from relay.core.story import Story
from relay.protocol.ids import Kid, Sub
from relay.protocol.token import Claims

_BEATS = 30  # moments in a turn at which tickets are due


class Presence(Enum):
    """Whether and how somebody is there."""

    JOINED = "joined"  # one device or more rings
    ACCEPTED = "accepted"  # one leg, may hear and be heard
    AWAY = "away"  # said yes, but the leg is silent or gone
    ABSENT = "absent"  # no yes that counts, no leg
    LEFT = "left"  # out of the call


FADE_S: Final = 3.0  # a switch of legs takes two round trips; what is not over by then is not planned
SETTLE_S: Final = 0.5  # after a change of ways: two slow round trips
OVERLAP_EVERY_S: Final = 10.0  # two legs that carry the same are twice the packets: seldom, and not for long
OVERLAPS: Final = 3

Way = Literal["up", "down"]
_OTHER: Final[dict[Way, Way]] = {"up": "down", "down": "up"}


@dataclass(slots=True)
class Beside:
    """The second leg of a person: the one that is being left, or one that carries one way."""

    leg: int
    until: float | None
    """When it is let go; None: it stays as long as it is heard."""
    hearing: dict[int, int] = field(default_factory=dict)
    """Its downlink flows, per participant heard."""
    route: tuple[tuple[int, int], ...] = ()
    closed: DropReason | None = None
    told: tuple[int, dict[int, int], int] = (0, {}, 0)
    way: Way | None = None
    """What it carries, and the accepted leg does not; None: both carry all."""
    settles: float | None = None
    """Until then both carry all, whatever `way` says."""


class Joined:
    """A leg came with a `join`."""


class Accepted:
    """The user said yes."""


class Silenced:
    """The last leg is gone, or was not heard for too long."""


class Returned:
    """A leg came back with a ticket."""


class AcceptExpired:
    """The yes is too old."""


class Left:
    """Hung up, removed, or gone for good."""


class Participant(Machine[Presence]):
    """One seat of a call and who sits there."""

    TRANSITIONS: ClassVar[Table[Presence]] = {
        Presence.JOINED: {
            Joined: Presence.JOINED,
            Accepted: Presence.ACCEPTED,
            Silenced: Presence.ABSENT,
            Returned: Presence.JOINED,
            Left: Presence.LEFT,
        },
        Presence.ACCEPTED: {
            Joined: Presence.JOINED,
            Silenced: Presence.AWAY,
            Returned: Presence.ACCEPTED,
            Left: Presence.LEFT,
        },
        Presence.AWAY: {
            Joined: Presence.JOINED,
            Returned: Presence.ACCEPTED,
            AcceptExpired: Presence.ABSENT,
            Left: Presence.LEFT,
        },
        Presence.ABSENT: {Joined: Presence.JOINED, Returned: Presence.JOINED, Left: Presence.LEFT},
        Presence.LEFT: {Joined: Presence.JOINED},
    }

    def __init__(
        self,
        index: int,
        claims: Claims,
        limits: LimitsConfig,
        now: float,
        wall: float,
        began: float | None = None,
    ) -> None:
        super().__init__(Presence.JOINED)
        self.story = Story(wall if began is None else began)
        """What happened, since the call began."""
        self.index = index
        self.sub: Sub = claims.sub
        self.claims = claims
        self.kid: Kid | None = None
        """The issuer key behind the claims."""
        self.legs: list[int] = []
        """Devices that ring; exactly one after the accept, none while gone."""
        self.client: dict[str, str] = {}
        self.transport = ""
        """That of the leg which counts: the accepted one, else the last that rang."""
        self.suites: tuple[int, ...] = ()
        self.beside: Beside | None = None
        """A second leg: for the seconds of a move, or as long as each of the two carries one way."""
        self.hearing: dict[int, int] = {}
        """Downlink flow on the accepted leg, per participant heard."""
        self.route: tuple[tuple[int, int], ...] = ()
        """Listeners of the uplink as last told to the lane."""
        self.closed: DropReason | None = DropReason.GATE_CLOSED
        """Reason of an empty route as last told to the lane."""
        self.told: tuple[int, dict[int, int], int] = (0, {}, 0)
        """The last `gate`: mask heard, flows, epoch."""
        self.opaque = TokenBucket(limits.stranger_e2e_bytes_per_s, limits.stranger_e2e_bytes, now)
        self.is_expected = False
        """Known from another node's word alone: this person has not come here yet."""
        self.joined_wall = wall
        self.left_wall: float | None = None
        self.ever_accepted = False
        self.why = ""
        self.totals: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.quality: dict[int, dict[str, int]] = {}
        """Newest reception report of this listener, per participant heard."""
        self.hearings: dict[int, Hearing] = {}
        """How well this listener hears, per participant heard."""
        self.stars: int | None = None
        """What this person thought of the call, 1 to 5."""
        self.direct_s = 0.0
        """Seconds of media that went to others directly, past periods only."""
        self._overlaps = TokenBucket(1 / OVERLAP_EVERY_S, OVERLAPS, now)
        self._limits = limits
        self._accept_by: float | None = now + limits.ring_s
        self._away_at: float | None = None
        # Calls often begin together, after a restart above all. The pseudonym is random, so the first ticket
        # comes after half a turn and up to a whole one, and later ones are not one burst of all participants.
        half = limits.ticket_every_s / 2
        beat = limits.ticket_every_s / _BEATS
        self._ticket_at = self._on_beat(now + half + beat / 2 + (half - beat) * claims.sub[0] / 256)

    @property
    def is_here(self) -> bool:
        """Whether the seat is taken."""
        return self._state is not Presence.LEFT

    @property
    def is_accepted(self) -> bool:
        """Whether a yes stands, reachable or not."""
        return self._state in (Presence.ACCEPTED, Presence.AWAY)

    @property
    def leg(self) -> int | None:
        """The one leg that carries media, once accepted."""
        return self.legs[0] if self.legs and self.is_accepted else None

    @classmethod
    def expected(
        cls,
        index: int,
        claims: Claims,
        limits: LimitsConfig,
        now: float,
        wall: float,
        *,
        state: Presence,
        since: float,
        ever_accepted: bool,
    ) -> Participant:
        """Somebody who sat at another node: AWAY, ABSENT or LEFT here, `since` that monotonic second."""
        one = cls(index, claims, limits, now, wall)
        one._state = state
        one.is_expected = True
        one.ever_accepted = ever_accepted
        if state is Presence.LEFT:
            one.left_wall = wall
        else:
            one._away_at = since
        if state is not Presence.ABSENT:
            one._accept_by = None
        return one

    def on_joined(self, claims: Claims, leg: int, now: float) -> None:
        """One more device before the accept; instead of the old ones, unaccepted, after it."""
        self.is_expected = False
        if self._state is not Presence.JOINED:
            self._accept_by = now + self._limits.ring_s
        self._move(Joined)
        self.claims = claims
        self.legs.append(leg)
        self._away_at = self.left_wall = None

    def on_accepted(self, leg: int, suites: tuple[int, ...]) -> None:
        """This leg is the one. The others must have been let go."""
        self._move(Accepted)
        self.suites = suites
        self.ever_accepted = True
        self.legs = [leg]
        self._accept_by = None

    def on_silenced(self, now: float) -> None:
        """Not heard: the transport's consent is gone, the user's begins to age."""
        self._move(Silenced)
        self._away_at = now

    def on_returned(self, leg: int, now: float) -> None:
        """Back by ticket, on the same or another leg."""
        self.is_expected = False
        if self._state is Presence.ABSENT:
            self._accept_by = now + self._limits.ring_s
        self._move(Returned)
        if leg not in self.legs:
            self.legs = [leg] if self.is_accepted else [*self.legs, leg]
        self._away_at = None

    def on_accept_expired(self) -> None:
        """The user is asked anew, should the leg come back."""
        self._move(AcceptExpired)

    def on_left(self, why: str, wall: float) -> None:
        """Out."""
        self._move(Left)
        self.why = why
        self.left_wall = wall
        self.legs = []
        self._accept_by = self._away_at = None

    def drop_leg(self, leg: int) -> None:
        """One leg less, whatever the state."""
        if self.beside is not None and self.beside.leg == leg:
            self.beside = None
        else:
            self.legs.remove(leg)

    def fade(self, now: float) -> None:
        """The accepted leg gives its place to one that comes, and goes on carrying media for a while."""
        leg = self.legs.pop()
        self.beside = Beside(leg, now + FADE_S, self.hearing, self.route, self.closed, self.told)
        self.hearing = {}

    def recall(self) -> None:
        """The second leg is the accepted one again. That one must be gone itself."""
        old, self.beside = self.beside, None
        assert old is not None
        self._take_over(old)

    def divide(self, leg: int, way: Way, now: float) -> None:
        """This leg carries one way from now on, the other one the other way; both all for a moment."""
        beside = self.beside
        assert beside is not None
        beside.way = way if leg == beside.leg else _OTHER[way]
        beside.until = None
        beside.settles = now + SETTLE_S if self._overlaps.take(1, now) else None

    def unite(self, leg: int, now: float) -> bool:
        """This leg carries all from now on, the other one fades; False: it must go at once."""
        old = self.beside
        assert old is not None
        if leg == old.leg:
            self.beside = Beside(self.legs[0], None, self.hearing, self.route, self.closed, self.told)
            self._take_over(old)
        else:
            old.way = old.settles = None
        assert self.beside is not None
        self.beside.until = now + FADE_S
        return self._overlaps.take(1, now)

    def _take_over(self, old: Beside) -> None:
        self.legs = [old.leg]
        self.hearing, self.route, self.closed, self.told = old.hearing, old.route, old.closed, old.told

    @property
    def all_legs(self) -> list[int]:
        """Every leg that sits here, the second one last."""
        return self.legs if self.beside is None else [*self.legs, self.beside.leg]

    @property
    def places(self) -> list[Participant | Beside]:
        """What is known of the media of each leg, the second one last; of the accepted one in here."""
        return [self] if self.beside is None else [self, self.beside]

    def carries(self, place: Participant | Beside, way: Way) -> bool:
        """Whether media goes this way on that leg."""
        beside = self.beside
        if beside is None or beside.way is None or beside.settles is not None:
            return True
        return (place is beside) == (beside.way == way)

    def leg_for(self, way: Way) -> int | None:
        """The leg that carries this way; of two that do the accepted one. None before the accept."""
        beside = self.beside
        return beside.leg if beside is not None and beside.way == way else self.leg

    def beside_until(self, heard: float) -> float | None:
        """When the second leg is let go, if it was heard at `heard` last."""
        if self.beside is None:
            return None
        return self.lapses_at(heard) if self.beside.until is None else self.beside.until

    def count(self, counters: FlowCounters) -> None:
        """Add what the lane counted for one of this person's uplinks."""
        self.totals["received"] += counters.received
        self.totals["accepted"] += counters.accepted
        self.totals["copies"] += counters.copies
        self.totals["lost"] += counters.lost
        self.totals["mended"] += counters.mended
        self.dropped.update({reason.value: number for reason, number in counters.dropped.items()})

    def lapses_at(self, heard: float) -> float:
        """When silence since `heard` closes this person's gates."""
        return heard + self._limits.consent_s

    def accept_expires_at(self) -> float | None:
        """When an away person's yes is too old."""
        if self._state is Presence.AWAY and self._away_at is not None:
            return self._away_at + self._limits.accept_outlives_s
        return None

    def gone_at(self) -> float | None:
        """When nobody can come back with a ticket any more."""
        return None if self._away_at is None else self._away_at + self._limits.ticket_ttl_s

    def accept_by(self) -> float | None:
        """When somebody who rings is taken for not there; the call's own ring limit is no later."""
        return self._accept_by

    def ticket_at(self) -> float | None:
        """When the next ticket is due; None without a leg."""
        return self._ticket_at if self.legs else None

    @property
    def away_at(self) -> float | None:
        """Since when nobody is there, monotonic."""
        return self._away_at

    def on_ticket(self, now: float) -> None:
        """Tickets went out."""
        self._ticket_at = self._on_beat(now + self._limits.ticket_every_s)

    def _on_beat(self, when: float) -> float:
        """The nearest of the moments that all participants share.

        One by itself finds what it needs out of the processor's caches, of thirty in a row only the first.
        """
        beat = self._limits.ticket_every_s / _BEATS
        return round(when / beat) * beat
