"""One call: its seats, its gate, its clock.

    RINGING --two accepted--> ACTIVE --ended--> ENDED --last counters in--> SETTLED
       '------------------- ended ---------------^

The one who came first is the caller and rings the others. A seat keeps its index for the life of the call,
because end-to-end keys carry it. Must never live here: messages, legs' state, other calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import ClassVar, Literal

from relay.config import LimitsConfig
from relay.core.consent import SIZE, Fact, Gate
from relay.core.machine import Machine, Table
from relay.core.participant import Participant, Presence
from relay.core.paths import Pair as PathPair
from relay.core.policy import OPEN, Terms
from relay.core.ringing import Pair, Why
from relay.errors import ErrorCode, PeerError
from relay.protocol import token
from relay.protocol.handover import HandedCall
from relay.protocol.ids import CallId, Sub
from relay.protocol.token import Claims

PAIR = 2  # a call of two has its own rules: it ends with the first hang-up, and KIDs are shorter


class Stage(Enum):
    """How far the call has come."""

    RINGING = "ringing"  # not answered
    ACTIVE = "active"  # two accepted, once
    ENDED = "ended"  # nobody is in it; the lane's counters are on their way
    SETTLED = "settled"  # recorded


class Answered:
    """A second person accepted."""


class Ended:
    """It is over."""


class Settled:
    """All counters are in."""


class Call(Machine[Stage]):
    """State of one call. The exchange owns it and reads its fields."""

    TRANSITIONS: ClassVar[Table[Stage]] = {
        Stage.RINGING: {Answered: Stage.ACTIVE, Ended: Stage.ENDED},
        Stage.ACTIVE: {Ended: Stage.ENDED},
        Stage.ENDED: {Settled: Stage.SETTLED},
        Stage.SETTLED: {},
    }

    def __init__(self, cid: CallId, opener: Claims, limits: LimitsConfig, now: float, wall: float) -> None:
        super().__init__(Stage.RINGING)
        self.cid = cid
        self.capacity = max(PAIR, min(opener.lim[3], limits.participants))
        self.is_pair = opener.lim[3] <= PAIR
        self.host_admits = opener.gate == token.GATE_HOST_ADMITS
        self.gate = Gate()
        self.seats: dict[int, Participant] = {}
        self.past: list[Participant] = []
        """People whose seat went to somebody else."""
        self.flows: dict[tuple[int, int], Participant] = {}
        """Uplink flows the lane still counts, by (leg, flow)."""
        self.paths: dict[tuple[int, int], PathPair] = {}
        """Direct paths that were spoken of, by (lower index, higher index)."""
        self.epoch = 0
        self.terms: Terms = OPEN
        self.started_wall = wall
        self.answered_wall: float | None = None
        self.ended_wall: float | None = None
        self.why: Why | None = None
        self.reason = ""
        self.retry_flows_at: float | None = None
        """When a listener without a free flow number may get one."""
        self.handed_at: int | None = None
        """When another node told of this call last, by its clock, wall milliseconds; None: it began here."""
        self.taken_up: HandedCall | None = None
        """What the ticket said by which it came here, until what we tell is compared with it (spares.py)."""
        self.was_here = True
        """Whether anybody ever came to this node for it: a call that was only announced leaves no record."""
        self.is_canary = False
        """Whether nobody talks in it: `relay canary` placed it."""
        self.issuer = ""
        """The name of the issuer that admitted who opened it, and that it is charged to."""
        self.circle = ""
        """Whose people may be in it (tenants.py)."""
        self.rollout = ""
        """The id of the rollout that it is part of; "": none."""
        self.variant = ""
        """What that gave it, for as long as it runs, but for a kill: control, candidate; "": no rollout."""
        self.is_sampled = False
        """Whether chance alone decided that, and it was served so from the start: it tells of its variant."""
        self.errand: Literal["", "move", "end"] = ""
        """What its rollout wants of it now (steering.py)."""
        self._limits = limits
        self._by_sub: dict[Sub, int] = {}
        self._ring_until: float | None = now + limits.ring_s
        self._answered_at: float | None = None

    # ------------------------------------------------------------ who is there

    @property
    def is_over(self) -> bool:
        """Whether nobody can do anything in it any more."""
        return self._state in (Stage.ENDED, Stage.SETTLED)

    @property
    def was_answered(self) -> bool:
        """Whether two people ever accepted."""
        return self.answered_wall is not None

    def here(self) -> list[Participant]:
        """Everyone whose seat is taken, by index."""
        return [seat for seat in self.seats.values() if seat.is_here]

    def everyone(self) -> Iterator[Participant]:
        """Everyone who was ever in it."""
        yield from self.past
        yield from self.seats.values()

    def others(self, one: Participant) -> list[Participant]:
        """Everyone here but one."""
        return [seat for seat in self.here() if seat is not one]

    def seat_of(self, sub: Sub) -> Participant | None:
        """Where this person sits, or sat last."""
        index = self._by_sub.get(sub)
        return None if index is None else self.seats[index]

    def is_caller(self, one: Participant) -> bool:
        """Whether this person opened the call."""
        return one.index == 0 and not self.past

    # ------------------------------------------------------------ seats

    def seat(self, claims: Claims, now: float, wall: float) -> Participant:
        """A new seat for someone who never sat here. PeerError CALL_FULL when there is none."""
        if len(self.here()) >= min(self.capacity, max(PAIR, claims.lim[3])):
            raise PeerError(ErrorCode.CALL_FULL, "the call is full")
        index = self._free_index()
        former = self.seats.get(index)
        if former is not None:
            self.past.append(former)
            self.gate.clear(index)
            del self._by_sub[former.sub]
        newcomer = Participant(index, claims, self._limits, now, wall, self.started_wall)
        self.seats[index] = newcomer
        self._by_sub[claims.sub] = index
        return newcomer

    def expect(self, one: Participant) -> None:
        """A seat as another node gave it, in place of one that nobody came for."""
        former = self.seats.get(one.index)
        if former is not None:
            self.gate.clear(one.index)
            del self._by_sub[former.sub]
        self.seats[one.index] = one
        self._by_sub[one.sub] = one.index

    def _free_index(self) -> int:
        """The lowest index never used, else that of the seat left longest ago."""
        if len(self.seats) < SIZE:
            return len(self.seats)
        left = [seat for seat in self.seats.values() if not seat.is_here]
        return min(left, key=lambda seat: (seat.left_wall or 0.0, seat.index)).index

    def admit_rights(self, one: Participant) -> None:
        """What the person's token says about sending, hearing and waiting for the host."""
        claims, index = one.claims, one.index
        self.gate.set(
            Fact.SENDS, index, bool(claims.prm & token.MAY_SEND) and claims.rol != token.ROLE_LISTENER
        )
        self.gate.set(Fact.LISTENS, index, bool(claims.prm & token.MAY_RECEIVE))
        if not self.host_admits or claims.rol == token.ROLE_HOST:
            self.gate.set(Fact.ADMITTED, index, True)

    # ------------------------------------------------------------ direct paths

    def paths_of(self, index: int) -> list[PathPair]:
        """Those of one participant."""
        return [pair for key, pair in self.paths.items() if index in key]

    def part_paths(self, index: int, now: float) -> None:
        """A participant is out: so are its direct paths."""
        for pair in self.paths_of(index):
            pair.on_lost(now)
            del self.paths[min(pair.sides), max(pair.sides)]

    # ------------------------------------------------------------ life

    def on_answered(self, now: float, wall: float) -> None:
        """Two people said yes."""
        self._move(Answered)
        self._ring_until = None
        self._answered_at = now
        self.answered_wall = wall

    def rang_elsewhere(self, seconds: float) -> None:
        """It rang for so long before it came here."""
        if self._ring_until is not None:
            self._ring_until -= seconds

    def on_ended(self, why: Why, reason: str, wall: float) -> None:
        """It is over, for this reason."""
        self._move(Ended)
        self.why = why
        self.reason = reason
        self.ended_wall = wall
        self._ring_until = None
        self.retry_flows_at = None

    def on_settled(self) -> None:
        """The record can be written."""
        self._move(Settled)

    def ring_until(self) -> float | None:
        """When ringing ends, None once answered or over."""
        return self._ring_until

    def ends_at(self) -> float | None:
        """When the longest allowed time is over: the least of the policy's minutes and the tokens' `dur`."""
        if self._answered_at is None or self.is_over:
            return None
        spans = [float(seat.claims.dur) for seat in self.here() if seat.claims.dur is not None]
        if self.terms.minutes is not None:
            spans.append(60.0 * self.terms.minutes)
        return self._answered_at + min(spans) if spans else None

    def next_deadline(self, heard: Callable[[int], float]) -> float | None:
        """The nearest of everything this call waits for. `heard` tells when a leg was last heard."""
        found = [self._ring_until, self.ends_at(), self.retry_flows_at]
        for seat in self.here():
            found += [seat.accept_expires_at(), seat.gone_at(), seat.ticket_at()]
            if seat.beside is not None:
                found += [seat.beside.settles, seat.beside_until(heard(seat.beside.leg))]
            if seat.state is Presence.ACCEPTED:
                found.append(seat.lapses_at(heard(seat.legs[0])))
            if self._state is Stage.ACTIVE:
                found.append(seat.accept_by())
        return min((when for when in found if when is not None), default=None)

    # ------------------------------------------------------------ glare

    def pairs(self) -> list[Pair]:
        """The pairs this ringing 1:1 call is about, as far as the tokens tell: persons, and pseudonyms."""
        seats = self.here()
        if not self.is_pair or self._state is not Stage.RINGING:
            return []
        found: list[Pair] = []
        if len(seats) == PAIR:
            found.append(frozenset(seat.sub for seat in seats))
            persons = [seat.claims.ru for seat in seats]
            if None not in persons:
                found.append(frozenset(bytes(person) for person in persons if person is not None))
        else:
            found += [frozenset((seat.sub, peer)) for seat in seats for peer in seat.claims.peer or ()]
        # What another tenant calls its people is no pair of ours.
        return [pair | {self.circle.encode()} for pair in found] if self.circle else found
