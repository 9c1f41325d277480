"""Where two people meet whose node is silent, and who cannot ask each other: the first place that both reach.

    begin --> place 0 --250 ms, or 1 s if it is known to answer--> place 1 --> ...
                 '------- the other is there, too: `choice` -------'  the least of those

Both have the same list. Each goes to its places one after the other and stays at all of them, so that who
cannot reach one is met at the next. If both are at two places, the earlier one is chosen by both, whatever
each learned first: so who has met stays at earlier places for a while, and leaves later ones. Must never live
here: connections, clocks.
"""

from __future__ import annotations

from typing import Final

STAGGER_S: Final = 0.25
"""A place that said nothing for so long has a next one tried beside it (RFC 8305 section 8)."""
PATIENCE_S: Final = 1.0
"""The same for one that is known to answer, or has: there the other one may be a little late."""
OTHER_S: Final = 0.25
"""Who is at the warm place already is followed there so soon, as a rule."""
AGAIN_S: Final = (0.3, 1.0, 2.0, 4.0, 8.0)
STAY_S: Final = 10.0
"""So long after a choice the other may turn up at an earlier place: an attempt takes 6.5 s at most."""


class Meeting:
    """One person's. Times in seconds of one clock; places by their number in the list."""

    def __init__(self, places: int, now: float, warm: int | None = None) -> None:
        """`warm`: a place that answered lately."""
        self._places = places
        self._warm = warm
        self._due: dict[int, float] = {0: now} if places else {}
        self._begun = 0  # places that had their turn
        self._next_at = now
        self._failed = [0] * places
        self._here: set[int] = set()
        self._other: set[int] = set()
        self._warm_until = now + PATIENCE_S
        self._chose_at: float | None = None
        self.choice: int | None = None
        """Where to go over to, or where we went; None: nowhere yet."""

    def due(self, now: float) -> list[int]:
        """Places to try now. Answer with `on_here` or `on_gone`."""
        if self.choice is not None:
            return []
        found = sorted(place for place, at in self._due.items() if at <= now)
        for place in found:
            del self._due[place]
            if place == self._begun:
                self._begun += 1
                self._next_at = now + (PATIENCE_S if place == self._warm else STAGGER_S)
                if self._begun < self._places:
                    self._due[self._begun] = self._next_at
        return found

    def next_deadline(self) -> float | None:
        """When `due` or `is_over` may say something new."""
        if self._chose_at is not None:
            return self._chose_at + STAY_S
        return min(self._due.values(), default=None)

    def on_here(self, place: int, now: float) -> None:
        """We are there."""
        is_new = place not in self._here
        self._here.add(place)
        self._failed[place] = 0
        if is_new and place == self._warm:
            self._warm_until = now + OTHER_S
        if is_new and place + 1 == self._begun and place + 1 in self._due:
            self._due[place + 1] = max(self._due[place + 1], now + PATIENCE_S)
        self._choose(now)

    def on_other(self, place: int, now: float, *, is_there: bool) -> None:
        """The other is there, or is not any more."""
        (self._other.add if is_there else self._other.discard)(place)
        self._choose(now)

    def on_gone(self, place: int, now: float) -> None:
        """We did not come there, or are there no more: again, a little later."""
        self._here.discard(place)
        self._other.discard(place)
        if place == self._warm:
            self._warm_until = now
        again = AGAIN_S[min(self._failed[place], len(AGAIN_S) - 1)]
        self._failed[place] += 1
        self._due[place] = now + again
        if self._begun < self._places and self._begun in self._due:
            self._due[self._begun] = min(self._due[self._begun], now)

    def keeps(self, place: int) -> bool:
        """Whether to stay there, or to go on trying: not beyond the place that is chosen."""
        return self.choice is None or place <= self.choice

    def is_over(self, now: float) -> bool:
        """Whether nothing can change any more."""
        return self.choice == 0 or (self._chose_at is not None and now >= self._chose_at + STAY_S)

    def hopes(self, now: float) -> bool:
        """Whether both may yet meet at the warm place, so that nothing else need be opened meanwhile."""
        return self._warm is not None and self.choice is None and now < self._warm_until

    def _choose(self, now: float) -> None:
        both = self._here & self._other
        if both and (self.choice is None or min(both) < self.choice):
            self.choice, self._chose_at = min(both), now if self._chose_at is None else self._chose_at
