"""Answers to people that wait until other nodes have shut what was closed.

    ok  --nothing passes between other nodes-->  ok        --1 s without their word-->  INTERNAL, ask again

With an answer waits whatever comes after it on the same leg. Must never live here: what is closed, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Final

from relay.core import events as ev
from relay.core.trunk_closing import ANSWER_S
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.messages import Err, Ok

AGAIN_MS: Final = 1000
"""When to ask again, after an answer that could not be given."""

Letter = ev.SendStream | ev.CloseLeg
_OK: Final = control.encode(Ok(), 1)[2:4]  # how such a message begins, its id aside


@dataclass(slots=True)
class _Held:
    """What one leg is not told yet."""

    letters: list[Letter]
    closings: frozenset[int]
    until: float


class Answers:
    """Those of one node, by leg."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def on_letters(
        self, letters: Iterable[Letter], closings: frozenset[int], now: float
    ) -> tuple[Letter, ...]:
        """What may leave now. `closings`: those that began with the same input, and are not sure."""
        passing = []
        for letter in letters:
            held = self._held.get(letter.leg)
            if held is not None:
                held.letters.append(letter)
            elif closings and _is_ok(letter):
                self._held[letter.leg] = _Held([letter], closings, now + ANSWER_S)
            else:
                passing.append(letter)
        return tuple(passing)

    def on_lost(self, leg: int) -> None:
        """Nobody is there to hear it."""
        self._held.pop(leg, None)

    def next_deadline(self) -> float | None:
        """When the first of them cannot wait any longer."""
        return min((held.until for held in self._held.values()), default=None)

    def due(self, unsure: Set[int], now: float) -> tuple[Letter, ...]:
        """What need not wait any more, or has waited for too long."""
        out: list[Letter] = []
        for leg, held in list(self._held.items()):
            if held.closings.isdisjoint(unsure):
                out += self._held.pop(leg).letters
            elif now >= held.until:
                first, *rest = self._held.pop(leg).letters
                out += [_too_late(first), *rest]
        return tuple(out)


def _is_ok(letter: Letter) -> bool:
    return isinstance(letter, ev.SendStream) and letter.data[2:4] == _OK


def _too_late(letter: Letter) -> Letter:
    assert isinstance(letter, ev.SendStream)  # an `ok`
    _, id = control.peek(letter.data[2:])
    sorry = Err(code=ErrorCode.INTERNAL, msg="another node does not answer", retry_ms=AGAIN_MS)
    return ev.SendStream(letter.leg, control.encode(sorry, id))
