"""All halves of our node: what keeps those of a home open, and what a home that was away is told.

    attach --attached--> open under a lease --no lease, or no trunk--> orphans --halves, ok--> in their calls

After each call here `changed` gives the halves that may hear others, or be heard elsewhere, than before. Must
never live here: one half's life (trunk_half.py), legs, routes, and sending.
"""

from __future__ import annotations

from relay.core.deadlines import Deadlines
from relay.core.trunk_half import Half, HalfState
from relay.core.trunk_lease import Lease
from relay.errors import LocalError
from relay.protocol.trunk_messages import MAX_HALVES, Attached, Beat, Gate, Grant, Halves


class Guest:
    """The halves of one node, by leg, and the leases of their homes, by node id."""

    def __init__(self) -> None:
        self._halves: dict[int, Half] = {}
        self._legs: dict[tuple[str, int], int] = {}
        """By home and number, of those that are attached."""
        self._leases: dict[str, Lease] = {}
        self._listed: dict[str, float] = {}
        """When a home was told what we have, which has not answered yet."""
        self._deadlines: Deadlines[int | str] = Deadlines()
        self._changed: dict[int, Half] = {}

    def __len__(self) -> int:
        return len(self._halves)

    def half_of(self, leg: int) -> Half | None:
        """That of a leg."""
        return self._halves.get(leg)

    def find(self, home: str, number: int) -> Half | None:
        """That which this home calls so; None: HALF_UNKNOWN."""
        leg = self._legs.get((home, number))
        return None if leg is None else self._halves[leg]

    def changed(self) -> tuple[Half, ...]:
        """The halves that something happened to since the last call, those that are gone included."""
        halves = tuple(self._changed.values())
        self._changed.clear()
        return halves

    # ------------------------------------------------------------ one half

    def attach(self, cid: bytes, leg: int, home: str, now: float) -> Half:
        """Somebody on this leg wants into a call of that home, which is asked now. LocalError if in one."""
        if leg in self._halves:
            raise LocalError("a leg is in one call")
        half = self._halves[leg] = Half(cid, leg, home, now)
        self._note(half)
        return half

    def on_attached(self, leg: int, attached: Attached) -> bool:
        """The home took it. False if nobody waits for that, or for a number that is another's: tell it so."""
        half = self._halves.get(leg)
        if half is None or half.state is not HalfState.ASKED or (half.home, attached.half) in self._legs:
            return False
        half.on_attached(attached)
        self._legs[half.home, attached.half] = leg
        # Of a home that we hear already this proves nothing: it may be about to let its lease end.
        if half.home not in self._leases:
            self._lease(half.home, half.asked_at)
        self._note(half)
        return True

    def on_gate(self, half: Half, gate: Gate) -> None:
        """Whom it hears."""
        half.on_gate(gate)
        self._note(half)

    def on_grant(self, half: Half, grant: Grant) -> None:
        """Where its voice may go."""
        half.on_grant(grant)
        self._note(half)

    def on_rehomed(self, half: Half, home: str, term: int, now: float) -> bool:
        """Another node is home; whether it is to be asked."""
        former, number = half.home, half.number
        if not half.on_rehomed(home, term, now):
            return False
        self._forget(former, number)
        self._note(half)
        return True

    def on_closed(self, half: Half, code: int) -> None:
        """The home says that it is over, or refused it."""
        half.on_closed(code)
        self._note(half)

    def on_leg_gone(self, leg: int, code: int) -> Half | None:
        """The person is out; the half that its home has to be told of, if there is one."""
        half = self._halves.get(leg)
        if half is not None:
            half.on_leg_gone(code)
            self._note(half)
        return half

    # ------------------------------------------------------------ a home

    def on_up(self, home: str, now: float) -> tuple[Halves, ...]:
        """The trunk to a home is there; what to say first, if it is nothing too."""
        return self._list(home, None, now)

    def on_down(self, home: str, now: float) -> None:
        """It is not there any more: whatever this home opened shuts, at once."""
        self._listed.pop(home, None)
        self._orphan(home, now)

    def on_beat(self, home: str, beat: Beat, now: float) -> tuple[Halves, ...]:
        """A beat, which is answered now; what to say besides, if the two of us do not count the same."""
        lease = self._leases.get(home)
        if lease is not None:
            lease.on_beat(beat, now)
            self._deadlines.set(home, lease.ends_at)
        states = [half.state for half in self._of(home) if half.number is not None]
        if len(states) == beat.halves and HalfState.ORPHAN not in states:
            return ()
        return self._list(home, beat.seq, now)

    def on_listed(self, home: str) -> None:
        """The home answered the last of what `on_up` or `on_beat` gave. It closes what it does not know."""
        listed_at = self._listed.pop(home, None)
        halves = [half for half in self._of(home) if half.number is not None]
        if listed_at is None or not halves:
            return
        if home not in self._leases:
            self._lease(home, listed_at)
        for half in halves:
            half.on_known()
            self._note(half)

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When a lease or somebody's patience ends."""
        return self._deadlines.next()

    def on_timer(self, now: float) -> None:
        """Time went by."""
        while (key := self._deadlines.pop(now)) is not None:
            if isinstance(key, str):
                self._orphan(key, now)
            else:
                half = self._halves[key]
                half.on_timer(now)
                self._note(half)

    # ------------------------------------------------------------

    def _of(self, home: str) -> list[Half]:
        return [half for half in self._halves.values() if half.home == home]

    def _lease(self, home: str, asked_at: float) -> None:
        lease = self._leases[home] = Lease(asked_at)
        self._deadlines.set(home, lease.ends_at)

    def _forget(self, home: str, number: int | None) -> None:
        """A half is that home's no more."""
        if number is not None:
            del self._legs[home, number]
        # The next half there begins a lease of its own, since the home counts its beats anew.
        if not any(half.number is not None for half in self._of(home)):
            self._leases.pop(home, None)
            self._deadlines.set(home, None)

    def _orphan(self, home: str, now: float) -> None:
        self._leases.pop(home, None)
        self._deadlines.set(home, None)
        for half in self._of(home):
            half.on_orphaned(now)
            self._note(half)

    def _list(self, home: str, seq: int | None, now: float) -> tuple[Halves, ...]:
        of = [(half.cid, half.term, half.number) for half in self._of(home) if half.number is not None]
        self._listed[home] = now
        ends = range(MAX_HALVES, len(of) + MAX_HALVES, MAX_HALVES) or (0,)
        return tuple(
            Halves(of=tuple(of[max(0, end - MAX_HALVES) : end]), more=end < len(of), seq=seq) for end in ends
        )

    def _note(self, half: Half) -> None:
        self._changed[half.leg] = half
        self._deadlines.set(half.leg, half.next_deadline())
        if half.state is HalfState.GONE and self._halves.pop(half.leg, None) is not None:
            self._forget(half.home, half.number)
