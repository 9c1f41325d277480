"""What a home has at other nodes: halves by number, their leases, and closings that wait for their word.

    closing OVERDUE --> its silent guests get no beat --by 15 s later--> all is shut there, and it is SURE
                                                      --ok--> SURE, and beats again

The caller names a closing by a number of its own, and says of each `ok` which closing's `grant` or `gate` it
answers. Must never live here: calls and their gates, and sending.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.core.deadlines import Deadlines
from relay.core.flows import FlowNumbers
from relay.core.trunk_closing import Certainty, Closing
from relay.core.trunk_lease import Beats
from relay.core.trunk_receiving import REST_S
from relay.core.trunk_sending import Voice
from relay.errors import LocalError
from relay.protocol.trunk_messages import Beat, Halves

MOST: Final = 16384  # halves of one guest


class There(NamedTuple):
    """A half at a guest."""

    person: Voice
    term: int
    since: int
    """The newest beat when it began: a list that follows a later one would name it."""


class Told(NamedTuple):
    """What a guest's list says."""

    unknown: tuple[int, ...]
    """Halves that we do not know, or know as something else: close them there, after the `ok`."""
    gone: tuple[int, ...]
    """Halves that are not there any more: `release` them."""


class _Guest:
    """One guest that has halves of our calls, or has not said that all is shut."""

    def __init__(self, now: float) -> None:
        self.numbers = FlowNumbers(REST_S, 0, 0xFFFF)
        self.halves: dict[int, There] = {}
        self.beats = Beats(now)
        self.listed: set[int] = set()
        """What it named so far, in a list of several pieces."""


class Home:
    """One node as the home of its calls."""

    def __init__(self) -> None:
        self._guests: dict[str, _Guest] = {}
        self._up: set[str] = set()
        self._closings: dict[int, Closing] = {}
        self._sure: list[int] = []
        self._deadlines: Deadlines[str | int] = Deadlines()

    # ------------------------------------------------------------ halves

    def attach(self, node: str, person: Voice, term: int, now: float) -> int | None:
        """A half for this person at that node; its number. None: the guest has all that it may have."""
        guest = self._guests.get(node)
        if guest is None:
            guest = self._guests[node] = _Guest(now)
            self._note(node)
        number = guest.numbers.allot(now) if len(guest.halves) < MOST else None
        if number is not None:
            guest.halves[number] = There(person, term, guest.beats.seq)
        return number

    def half(self, node: str, number: int) -> There | None:
        """What a guest calls so; None: HALF_UNKNOWN."""
        guest = self._guests.get(node)
        return None if guest is None else guest.halves.get(number)

    def release(self, node: str, number: int, now: float) -> There:
        """A half is over. LocalError for one that is not there."""
        guest = self._guests.get(node)
        if guest is None or number not in guest.halves:
            raise LocalError("no such half")
        guest.numbers.free(number, now)
        there = guest.halves.pop(number)
        self._tidy(node)
        return there

    def heard_at(self, node: str) -> float | None:
        """When a guest answered a beat last: its people are away from then on, if it never does again."""
        guest = self._guests.get(node)
        return None if guest is None else guest.beats.heard_at

    def on_halves(self, node: str, halves: Halves) -> Told:
        """A guest says what it has. Of what it leaves out is told with the last piece of the list."""
        guest = self._guests.get(node)
        if guest is None:
            return Told(tuple(number for _, _, number in halves.of), ())
        unknown = []
        for cid, term, number in halves.of:
            there = guest.halves.get(number)
            if there is not None and (there.person.c, there.term) == (cid, term):
                guest.listed.add(number)
            else:
                unknown.append(number)
        if halves.more:
            return Told(tuple(unknown), ())
        gone = tuple(
            number
            for number, there in guest.halves.items()
            if number not in guest.listed and (halves.seq is None or there.since < halves.seq)
        )
        guest.listed.clear()
        return Told(tuple(unknown), gone)

    # ------------------------------------------------------------ trunks

    def on_up(self, node: str, now: float, *, is_new: bool) -> None:
        """The trunk to a node is there; `is_new`: to a process that has forgotten everything."""
        self._up.add(node)
        if node in self._guests:
            self._guests[node].listed.clear()
            if is_new:
                self._shut(node, now)
            self._note(node)

    def on_down(self, node: str) -> None:
        """It is not: the guest shuts all when it sees that, and else with its lease."""
        self._up.discard(node)
        self._note(node)

    def on_ok(self, node: str, beat: Beat, now: float) -> None:
        """A guest answered a beat."""
        guest = self._guests.get(node)
        if guest is not None:
            guest.beats.on_ok(beat, now)

    # ------------------------------------------------------------ closings

    def close(self, key: int, speaker: str | None, listeners: frozenset[str], now: float) -> Certainty:
        """A voice is to be heard at other nodes no more, or fewer; how sure that is. LocalError for others.

        `speaker` is the node of who speaks, None if it is ours; `listeners` are the others where it is heard.
        """
        others = listeners if speaker is None else listeners | {speaker}
        if not others <= self._guests.keys():
            raise LocalError("a node without halves")
        closing = self._closings[key] = Closing(speaker, listeners, now)
        self._deadlines.set(key, closing.next_deadline())
        return self._settle(key, now)

    def on_grant_taken(self, key: int, node: str, now: float) -> Certainty:
        """The speaker's node answered the `grant` of a closing; how sure that one is now."""
        if key in self._closings:
            self._closings[key].on_grant_taken(node)
        return self._settle(key, now)

    def on_gate_shut(self, key: int, node: str, now: float) -> Certainty:
        """A listeners' node answered the last `gate` of a closing there; how sure that one is now."""
        if key in self._closings:
            self._closings[key].on_gate_shut(node)
        return self._settle(key, now)

    def sure(self) -> tuple[int, ...]:
        """The closings that the end of a lease made sure, since this was asked last."""
        keys = tuple(self._sure)
        self._sure.clear()
        return keys

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When a beat, a closing or the end of a lease is due."""
        return self._deadlines.next()

    def on_timer(self, now: float) -> tuple[tuple[str, Beat], ...]:
        """Time went by; the beats to say, and to whom."""
        beats: list[tuple[str, Beat]] = []
        while (key := self._deadlines.pop(now)) is not None:
            if isinstance(key, int):
                self._overdue(self._closings[key], now)
                continue
            guest = self._guests[key]
            if guest.beats.is_withheld:
                self._shut(key, now)
            if key in self._guests:
                beat = guest.beats.due(len(guest.halves), now) if key in self._up else None
                if beat is not None:
                    beats.append((key, beat))
                self._note(key)
        return tuple(beats)

    def _overdue(self, closing: Closing, now: float) -> None:
        closing.on_timer(now)
        for node in closing.silent():
            self._guests[node].beats.withhold()
            self._note(node)

    # ------------------------------------------------------------

    def _shut(self, node: str, now: float) -> None:
        """All is shut at this node."""
        for key, closing in list(self._closings.items()):
            closing.on_lease_over(node)
            if self._settle(key, now) is Certainty.SURE:
                self._sure.append(key)
        if node in self._guests:
            self._resume(node, now)

    def _settle(self, key: int, now: float) -> Certainty:
        closing = self._closings.get(key)
        if closing is None:
            return Certainty.SURE
        if closing.state is Certainty.SURE:
            del self._closings[key]
            self._deadlines.set(key, None)
            for node in list(self._guests):
                self._resume(node, now)
        return closing.state

    def _resume(self, node: str, now: float) -> None:
        """Beats go on, if no closing waits for this node any more."""
        if not self._is_awaited(node):
            self._guests[node].beats.resume(now)
            self._tidy(node)

    def _is_awaited(self, node: str) -> bool:
        return any(node in closing.silent() for closing in self._closings.values())

    def _tidy(self, node: str) -> None:
        if not self._guests[node].halves and not self._is_awaited(node):
            del self._guests[node]  # the guest's lease ends with its last half, too
        self._note(node)

    def _note(self, node: str) -> None:
        guest = self._guests.get(node)
        if guest is None:
            self._deadlines.set(node, None)
        elif guest.beats.is_withheld:
            self._deadlines.set(node, guest.beats.over_at)
        else:
            self._deadlines.set(node, guest.beats.next_deadline() if node in self._up else None)
