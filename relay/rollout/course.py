"""A rollout as its store has it, and every change of it by compare-and-set.

    ID/plan            the plan, never changed
    ID/standing        Record: how far it is (steps.py), the change that led there, parts of the traffic
    ID/PLACE/counts    Ledger (counts.py) of a region, or of a group
    ID/kill            whether everybody has the control, now
    _prior/REGION/days Days (prior.py): control calls of the last days, of no rollout

Who and why stand with each revision; `history` tells them. Two who change one rollout at once do not undo
each other: the second is told, but what narrows looks again and goes on. Must never live here: what may
follow what (steps.py), signing (publish.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from relay.errors import ConfigError, RelayError
from relay.rollout.counts import Ledger
from relay.rollout.gate import Stage
from relay.rollout.keys import BUCKET, LIVES, days_key, kill_key
from relay.rollout.plan import Document, parse_plan
from relay.rollout.prior import Days
from relay.rollout.steps import (
    Change,
    Entry,
    Order,
    Phase,
    Place,
    Refusal,
    Refused,
    Spot,
    Standing,
    World,
    apply,
    share_of,
)
from relay.rollout.store import MOST_WORDS, ConflictError, StateStore, StoreError
from relay.rollout.store import Entry as Stored

T = TypeVar("T")

NARROWING: Final = frozenset({Change.ROLLBACK, Change.KILL})
TRIES: Final = 16
"""Times that what narrows looks again when others write meanwhile."""
_STANDING: Final = "/standing"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A revision of a rollout. JSON value."""

    standing: Standing
    entry: Entry
    traffic: dict[str, float] = {}
    """Place -> its part of all calls everywhere, 0-1, as somebody said."""
    frozen_until: float | None = None
    """Unix seconds; None: until somebody thaws it."""


@dataclass(frozen=True, slots=True)
class Course:
    """A rollout at one moment."""

    plan: Document
    record: Record
    revision: int
    """Of the record in its store."""
    is_killed: bool

    @property
    def standing(self) -> Standing:
        """How far it is."""
        return self.record.standing

    @property
    def is_over(self) -> bool:
        """Whether it may be followed by another one: nobody can be widened by it any more."""
        if self.standing.phase in (Phase.DONE, Phase.KILLED):
            return True
        shares = (share_of(self.plan, place) for place in self.standing.places.values())
        return self.standing.phase is Phase.HALTED and not any(shares)

    def place(self, name: str) -> Place:
        """A region or group. ConfigError: it has not begun."""
        found = self.standing.places.get(name)
        if found is None:
            begun = ", ".join(self.standing.places) or "none"
            raise ConfigError("--region", f"{name} is not begun", f"begun are: {begun}")
        return found

    def stage(self, name: str) -> Stage:
        """The step at which a place is. ConfigError: it has not begun, or is through."""
        found = self.place(name)
        if found.spot in (Spot.OPEN, Spot.OUT):
            told = f"{name} is {found.spot.value}: there is nothing to decide"
            raise ConfigError("--region", told, "`relay rollout status` says which regions are on their way")
        return Stage(name, found.wave, found.step, found.since)

    def window(self, now: float) -> str:
        """Why an operator wants no change at this moment; "": nobody does."""
        if self.standing.phase is not Phase.FROZEN or self._is_freeze_over(now):
            return ""
        return f"{self.record.entry.who}: {self.record.entry.why}"

    def _is_freeze_over(self, now: float) -> bool:
        until = self.record.frozen_until
        return until is not None and now >= until


class ChangeRefusedError(RelayError):
    """A change that may not be. `refusal` is for machines."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.problem} ({refused.cure})")
        self.refusal = refused.refusal


class UnknownRolloutError(RelayError):
    """There is no such rollout in the store."""


class Helm:
    """What stands in one store, and its changes. `wall` is seconds since 1970."""

    def __init__(self, store: StateStore, wall: Callable[[], float]) -> None:
        self.store = store
        self.wall = wall

    # ------------------------------------------------------------ reading

    async def ids(self) -> list[str]:
        """Rollouts that have begun."""
        keys = await self.store.keys(BUCKET)
        return [key.removesuffix(_STANDING) for key in keys if key.endswith(_STANDING)]

    async def course(self, id: str) -> Course:
        """A rollout as it stands. UnknownRolloutError: there is none of that id."""
        found = await self._find(id)
        if found is None:
            known = ", ".join(await self.ids()) or "none"
            told = f"rollout {id} has not begun (`relay rollout begin`; begun are: {known})"
            raise UnknownRolloutError(told)
        return found

    async def rivals(self, id: str) -> dict[str, str]:
        """Place -> another rollout that is not over and has begun there."""
        found: dict[str, str] = {}
        for other in await self.ids():
            course = await self.course(other) if other != id else None
            if course is not None and not course.is_over:
                found |= dict.fromkeys(course.standing.places, other)
        return found

    async def is_killed(self, id: str) -> bool:
        """Whether its kill is on."""
        entry = await self.store.get(BUCKET, kill_key(id))
        return entry is not None and entry.value.strip() != LIVES

    async def history(self, id: str, limit: int = 64) -> list[dict[str, Any]]:
        """Changes and kills, oldest first, as JSON values: at, who, why, revision and what was changed."""
        told: list[dict[str, Any]] = []
        for stored in await self.store.history(BUCKET, id + _STANDING, limit):
            entry = _record(stored).entry
            told.append(
                {
                    "at": entry.at,
                    "revision": entry.revision,
                    "change": entry.change.value,
                    "place": entry.place,
                    "pct": entry.pct,
                    "phase": entry.phase.value,
                    "who": entry.who,
                    "why": entry.why,
                }
            )
        for stored in await self.store.history(BUCKET, kill_key(id), limit):
            change = "kill_off" if stored.value.strip() == LIVES else "kill_on"
            told.append(
                {"at": stored.ts, "revision": None, "change": change, "place": "", "pct": None, "phase": None}
                | {"who": stored.who, "why": stored.why}
            )
        return sorted(told, key=lambda row: row["at"])[-limit:]

    # ------------------------------------------------------------ changing

    async def begin(
        self, plan: Document, who: str, why: str, traffic: Mapping[str, float], expect: int | None = None
    ) -> Course:
        """Begin the plan's next wave, the first one if it has none yet.

        ChangeRefusedError: it may not be. ConfigError: another plan has this id.
        """
        id = plan.rollout.id
        course = await self._find(id)
        await self._check_plan(plan)
        if await self.is_killed(id):
            refused = Refused(Refusal.PHASE, f"{id} is killed", f"`relay rollout kill {id} --off` lifts it")
            raise ChangeRefusedError(refused)
        rivals = await self.rivals(id)
        if rivals:
            other = min(rivals.values())
            told = f"{other} is not over, and the signed state has room for one rollout"
            raise ChangeRefusedError(Refused(Refusal.RIVAL, told, f"let it end, or kill {other} for good"))
        standing = course.standing if course is not None else Standing(id)
        order = Order(Change.BEGIN, who, why, standing.revision if expect is None else expect)
        return await self._apply(plan, course, standing, order, traffic)

    async def change(
        self,
        id: str,
        make: Callable[[Standing], Order],
        *,
        traffic: Mapping[str, float] | None = None,
        frozen_until: float | None = None,
    ) -> Course:
        """Do what `make` wants of the standing that it is given. ChangeRefusedError: it may not be."""
        for _ in range(TRIES):
            found = await self.course(id)
            order = make(found.standing)
            try:
                course = await self._thawed(found)
                if order.expect == found.standing.revision:  # whoever looked knew that it would thaw
                    order = replace(order, expect=course.standing.revision)
                return await self._apply(
                    course.plan, course, course.standing, order, traffic or {}, frozen_until
                )
            except ChangeRefusedError as error:
                if error.refusal is not Refusal.CONFLICT or order.change not in NARROWING:
                    raise
        raise ChangeRefusedError(Refused(Refusal.CONFLICT, f"others write {id} all the time", "try again"))

    async def kill(self, id: str, *, is_off: bool, who: str, why: str) -> None:
        """Give everybody the control at once, or take that back."""
        for _ in range(TRIES):
            standing = await self.store.get(BUCKET, kill_key(id))
            expect = standing.revision if standing is not None else 0
            value = LIVES if is_off else b"true"
            try:
                await self.store.put(BUCKET, kill_key(id), value, expect=expect, who=who, why=why)
            except ConflictError:
                continue
            return
        raise ChangeRefusedError(Refused(Refusal.CONFLICT, f"others write {id} all the time", "try again"))

    # ------------------------------------------------------------ counts

    async def ledger(self, id: str, place: str) -> tuple[Ledger | None, int]:
        """What was counted of a place, and the revision of that; None and 0: nothing was."""
        stored = await self.store.get(BUCKET, _counts_key(id, place))
        if stored is None:
            return None, 0
        return _read(stored, Ledger), stored.revision

    async def put_ledger(self, id: str, ledger: Ledger, expect: int, who: str) -> None:
        """Store what was counted. ConflictError: somebody else has meanwhile."""
        place = ledger.stage.place
        value = msgspec.json.encode(ledger)
        await self.store.put(BUCKET, _counts_key(id, place), value, expect=expect, who=who, why="counted")

    async def days(self, region: str) -> tuple[Days, int]:
        """Control calls of a region's last days, and the revision of that; 0: none were counted."""
        stored = await self.store.get(BUCKET, days_key(region))
        return (Days(), 0) if stored is None else (_read(stored, Days), stored.revision)

    async def put_days(self, region: str, days: Days, expect: int, who: str) -> None:
        """Store them. ConflictError: somebody else has meanwhile."""
        value = msgspec.json.encode(days)
        await self.store.put(BUCKET, days_key(region), value, expect=expect, who=who, why="counted")

    # ------------------------------------------------------------ inside

    async def _find(self, id: str) -> Course | None:
        stored = await self.store.get(BUCKET, id + _STANDING)
        written = await self.store.get(BUCKET, _plan_key(id))
        if stored is None or written is None:
            return None
        plan = parse_plan(written.value.decode(), _plan_key(id))
        return Course(plan, _record(stored), stored.revision, await self.is_killed(id))

    async def _check_plan(self, plan: Document) -> None:
        """ConfigError unless it is the one that is stored, or none is."""
        written = await self.store.get(BUCKET, _plan_key(plan.rollout.id))
        if written is not None and parse_plan(written.value.decode(), "") != plan:
            told = f"{plan.rollout.id} has begun with another plan, and a plan never changes while it runs"
            raise ConfigError("rollout.id", told, "take a new id and a new salt, or the plan as it was")

    async def _thawed(self, course: Course) -> Course:
        """The same, with its freeze lifted if that was meant to be over by now."""
        if course.standing.phase is not Phase.FROZEN or course.window(self.wall()):
            return course
        why = f"frozen by {course.record.entry.who} until now: {course.record.entry.why}"[:MOST_WORDS]
        order = Order(Change.THAW, course.record.entry.who, why, course.standing.revision)
        return await self._apply(course.plan, course, course.standing, order, {})

    async def _apply(
        self,
        plan: Document,
        course: Course | None,
        standing: Standing,
        order: Order,
        traffic: Mapping[str, float],
        frozen_until: float | None = None,
    ) -> Course:
        order = replace(order, why=order.why[:MOST_WORDS])
        parts = {**(course.record.traffic if course is not None else {}), **traffic}
        found = apply(plan, standing, order, World(self.wall(), parts))
        if isinstance(found, Refused):
            raise ChangeRefusedError(found)
        record = Record(found.standing, found.entry, parts, frozen_until)
        id, by = standing.rollout, {"who": order.who, "why": order.why}
        try:
            if course is None and await self.store.get(BUCKET, _plan_key(id)) is None:
                value = msgspec.json.encode(plan.facts())
                await self.store.put(BUCKET, _plan_key(id), value, expect=0, **by)
            expect = course.revision if course is not None else 0
            value = msgspec.json.encode(record)
            revision = await self.store.put(BUCKET, id + _STANDING, value, expect=expect, **by)
        except ConflictError:
            told = f"somebody changed {id} meanwhile"
            raise ChangeRefusedError(Refused(Refusal.CONFLICT, told, "look again, then decide")) from None
        return Course(plan, record, revision, course is not None and course.is_killed)


def _plan_key(id: str) -> str:
    return f"{id}/plan"


def _counts_key(id: str, place: str) -> str:
    """A group's name may be any text, a key may not."""
    told = f"={place[1:].encode().hex()}" if place.startswith("@") else place
    return f"{id}/{told}/counts"


def _record(stored: Stored) -> Record:
    return _read(stored, Record)


def _read(stored: Stored, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(stored.value, type=type_)
    except msgspec.DecodeError as error:
        raise StoreError(f"{stored.key}, revision {stored.revision}: {error}") from None
