"""The lease under which a guest lets voices pass: both ends of one promise.

    home   beat {seq, ok: the newest seq that was answered} --every 5 s-->   guest
                                     <---------- ok to seq ----------        open for 15 s more, from when it
                                                                             said the ok that the beat names

So a beat that was under way for long prolongs nothing: what it names was said before it left. When a home has
said its last beat, all is shut at the guest 15 s later, whatever the network does; the home knows by when.
Must never live here: halves, and what shuts.
"""

from __future__ import annotations

from typing import Final

from relay.protocol.trunk_messages import Beat

BEAT_S: Final = 5.0
LEASE_S: Final = 15.0


class Lease:
    """A guest's end. It begins with a question that the home answered: `asked_at` is when that was asked."""

    def __init__(self, asked_at: float) -> None:
        self._since = asked_at
        self._said: dict[int, float] = {}
        """When we answered which beat."""

    @property
    def ends_at(self) -> float:
        """When everything shuts, unless another beat comes."""
        return self._since + LEASE_S

    def on_beat(self, beat: Beat, now: float) -> None:
        """A beat came, and is answered now."""
        self._since = max(self._since, self._said.get(beat.ok, self._since))
        self._said = {seq: at for seq, at in self._said.items() if seq > beat.ok}
        self._said[beat.seq] = now


class Beats:
    """A home's end, toward one guest."""

    def __init__(self, now: float) -> None:
        """From the first half there on: what it asked came before `now`."""
        self.heard_at = now
        """When its newest answer came: since then its people are away, if none comes any more."""
        self._seq = 0
        self._ok = 0
        self._granted_from = now
        self._next_at = now + BEAT_S
        self._is_withheld = False

    @property
    def seq(self) -> int:
        """Of the newest beat that left."""
        return self._seq

    @property
    def is_withheld(self) -> bool:
        """Whether the lease is let end."""
        return self._is_withheld

    @property
    def over_at(self) -> float:
        """By when all is shut at the guest, if it hears no further beat."""
        return self._granted_from + LEASE_S

    def withhold(self) -> None:
        """No more beats: a closing is not answered there."""
        self._is_withheld = True

    def resume(self, now: float) -> None:
        """It is answered, or all was shut meanwhile: beats go on at once."""
        if self._is_withheld:
            self._is_withheld = False
            self._next_at = now

    def next_deadline(self) -> float | None:
        """When the next beat is due."""
        return None if self._is_withheld else self._next_at

    def due(self, halves: int, now: float) -> Beat | None:
        """The beat to say now, if one is due, to a guest that has so many halves."""
        if self._is_withheld or now < self._next_at:
            return None
        self._seq += 1
        self._next_at = now + BEAT_S
        self._granted_from = max(self._granted_from, self.heard_at)
        return Beat(seq=self._seq, halves=halves, ok=self._ok)

    def on_ok(self, beat: Beat, now: float) -> None:
        """The guest answered this beat."""
        if beat.seq > self._ok:
            self._ok = beat.seq
            self.heard_at = now
