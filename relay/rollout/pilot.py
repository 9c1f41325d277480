"""Takes one place of a rollout through its steps, without a person: looks, then does what the gate says.

    every so often: publish what is not yet --> look --> promote: advance, publish
                                                         rollback: take back, publish, end
                                                         else: wait

It ends when the place is open, taken back, or out of time. It may be stopped and started at any moment, and
several may run at once: all that is known stands in the store. A change is stored before it is published, so
one that is cut off in between is published at the next look. What cannot be signed is not widened, and a
rollback that cannot be kills the whole rollout, for which no key is needed. Must never live here: verdicts
(gate.py), which change may be (steps.py), how a terminal is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.errors import RelayError
from relay.rollout.course import ChangeRefusedError, Course, Helm
from relay.rollout.gate import EXIT, Verdict
from relay.rollout.inquiry import Look, Source, look
from relay.rollout.publish import Signer, check_rules, is_published, publish
from relay.rollout.steps import Change, Order, Phase, Spot, follow, share_of
from relay.rollout.store import MOST_WORDS, UnreachableError

Tell = Callable[[dict[str, Any], str], None]
"""An event as JSON value, and one line for people."""

OPEN: Final = EXIT[Verdict.PROMOTE]
HELD: Final = EXIT[Verdict.HOLD]
BACK: Final = EXIT[Verdict.ROLLBACK]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often."""

    every_s: float
    """Between two looks."""
    is_waiting: bool = True
    """Whether it goes on until the end; else it looks once and does at most one thing."""
    timeout_s: float | None = None
    """It ends after so long, wherever it is; None: it does not."""


@dataclass(frozen=True, slots=True)
class Pilot:
    """One place of one rollout. `signer` None: nothing is changed, only told what would be."""

    helm: Helm
    id: str
    place: str
    source: Source
    who: str
    signer: Signer | None
    tell: Tell
    why: str = ""
    """Beside what the gate says."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def fly(self, pace: Pace) -> int:
        """Until it ends; the exit status: 0 through its steps, 20 taken back, or the last look's."""
        until = None if pace.timeout_s is None else self.helm.wall() + pace.timeout_s
        while True:
            try:
                status, is_end = await self._turn()
            except UnreachableError as error:
                if not pace.is_waiting:
                    raise
                self._tell("unreachable", str(error))
                status, is_end = EXIT[Verdict.NO_DATA], False
            is_late = until is not None and self.helm.wall() + pace.every_s > until
            if is_end or is_late or not pace.is_waiting:
                if pace.is_waiting and not is_end and status == OPEN:
                    status = HELD  # one step further, and not through
                self._tell("end", f"exit status {status}", exit=status)
                return status
            await self.sleep(pace.every_s)

    async def _turn(self) -> tuple[int, bool]:
        """One look, and what follows from it: the exit status if this was the last one, and whether it is."""
        lack = await self._publish()
        ended = self._ended(await self.helm.course(self.id))
        if ended is not None:
            return ended, True
        found = await look(self.helm, self.id, self.place, self.source, self.who)
        self.tell({"event": "look", "at": self.helm.wall(), **found.facts()}, told(found))
        order = follow(found.answer, found.course.standing, self.who)
        if order is None:
            return found.answer.exit_status, False
        if self.signer is None:
            self._tell("would", order.change.value)
            return found.answer.exit_status, True
        if lack and order.change is Change.ADVANCE:
            return HELD, False
        why = f"{self.why}: {order.why}" if self.why else order.why
        return await self._obey(replace(order, why=why), self.signer)

    async def _obey(self, order: Order, signer: Signer) -> tuple[int, bool]:
        try:
            if order.change is Change.ADVANCE:
                await check_rules(self.helm, [self.place], signer.keys)
            course = await self.helm.change(self.id, lambda _: order)
        except ChangeRefusedError as error:
            self._tell("refused", str(error), refusal=error.refusal.value)
            return HELD, False
        place = course.place(self.place)
        self._tell(
            order.change.value,
            f"{self.place} gets {share_of(course.plan, place):g} % ({order.why})",
            pct=share_of(course.plan, place),
            state_rev=course.standing.revision,
        )
        lack = await self._publish()
        if lack and order.change is Change.ROLLBACK:
            why = f"{self.place} is taken back, and that cannot be signed: {lack}"[:MOST_WORDS]
            await self.helm.kill(self.id, is_off=False, who=self.who, why=why)
            self._tell("killed", why)
        ended = self._ended(course)
        return (OPEN, False) if ended is None else (ended, True)

    async def _publish(self) -> str:
        """Why what stands cannot be signed; "": it is."""
        if self.signer is None:
            return ""
        try:
            if await is_published(self.helm, self.id, self.signer.keys):
                return ""
            body = await publish(self.helm, self.id, self.signer, self.who)
        except UnreachableError:
            raise
        except RelayError as error:
            self._tell("unsigned", str(error))
            return str(error)
        self._tell("published", f"the signed state is revision {body.rev}", rev=body.rev)
        return ""

    def _ended(self, course: Course) -> int | None:
        """The exit status of a place that is through; None: it is on the way."""
        spot = course.place(self.place).spot
        if course.standing.phase is Phase.KILLED or spot is Spot.OUT:
            self._tell("back", f"{self.place} has the control")
            return BACK
        if spot is Spot.STEPPING:
            return None
        self._tell("open", f"{self.place} is through its steps")
        return OPEN

    def _tell(self, event: str, text: str, **more: Any) -> None:
        facts = {"event": event, "at": self.helm.wall(), "rollout": self.id, "place": self.place}
        self.tell(facts | {"text": text} | more, f"{event}: {text}")


def told(found: Look) -> str:
    """A look in one line, for people."""
    answer = found.answer
    why = "; ".join(f"{each.why.value}: {each.detail}" for each in answer.reasons) or "as good as is asked"
    doubts = "".join(f" [{each}]" for each in found.problems)
    return f"{answer.stage.place} at {answer.pct:g} %: {answer.verdict.value} ({why}){doubts}"
