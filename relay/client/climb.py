"""The ladder at work: connections for its trials, pings on them, and the moves it decides.

Must never live here: the judgement (ladder.py), what a move does to a session (session.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

from relay.client.errors import RefusedError, SessionError
from relay.client.health import Direction
from relay.client.ladder import GiveUp, Ladder, Move, Race, Second, Stage, Try, Unite
from relay.client.leg import RelayLeg
from relay.client.transport import Trust
from relay.client.udp import source_toward
from relay.errors import ErrorCode

STEP_S: Final = 0.05
LOOK_S: Final = 1.0  # how often our own address is looked at


async def open_first(make: Callable[[int], RelayLeg], rungs: int, trust: Trust) -> RelayLeg:
    """Race the rungs; the leg of the first that is up. SessionError of the last that failed if none is."""
    loop = asyncio.get_running_loop()
    race = Race(rungs, loop.time())
    running: dict[asyncio.Task[None], RelayLeg] = {}
    error = SessionError(ErrorCode.GENERAL, "nowhere to connect to")
    try:
        while True:
            for rung in race.due(loop.time()):
                leg = make(rung)
                running[loop.create_task(leg.open(trust), name="rung")] = leg
            if not running:
                raise error
            at = race.next_deadline()
            timeout = None if at is None else max(0.0, at - loop.time())
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda one: running[one].rung):
                leg = running.pop(task)
                try:
                    task.result()
                except SessionError as failed:
                    error = failed
                    race.on_failed(leg.rung)
                else:
                    race.on_ready(leg.rung)
                    return leg
    finally:
        for task, leg in running.items():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SessionError):
                await task
            leg.close("another rung was first")


class Owner(Protocol):
    """What the climber needs of its session."""

    @property
    def main(self) -> RelayLeg | None:
        """The leg in use."""

    @property
    def second(self) -> tuple[RelayLeg, Direction] | None:
        """Of two legs that carry one way each the one that is not main, and its way."""

    @property
    def is_talking(self) -> bool:
        """Whether both accepted: nobody moves before."""

    @property
    def is_repaired(self) -> bool:
        """Whether the relay makes good what is lost on it."""

    @property
    def is_sheltered(self) -> bool:
        """Whether a leg at another node may be all that is needed when this one is silent."""

    def announce_move(self) -> None:
        """We send from another address."""

    def make_leg(self, rung: int) -> RelayLeg:
        """A leg that is not open."""

    async def move_to(self, leg: RelayLeg, *, keep: Direction | None = None) -> None:
        """Make this the leg in use; `keep`: for this way it stays the old one. RefusedError, SessionError."""

    async def unite(self, leg: RelayLeg) -> None:
        """Of two legs let this one carry all. RefusedError, SessionError."""


class Climber:
    """One session's ladder, as a task."""

    def __init__(self, owner: Owner, rungs: int, trust: Trust) -> None:
        self._owner = owner
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._ladder = Ladder(rungs, 0, self._loop.time())
        self._trials: dict[int, RelayLeg] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._source: str | None = None
        self._look_at = 0.0
        self._is_renewing = False
        self._spawn(self._run())

    def begin_anew(self, rungs: int, current: int) -> None:
        """The rungs are others now: we are at another node."""
        self._drop_trials()
        self._ladder = Ladder(rungs, current, self._loop.time())

    def renew(self) -> None:
        """The leg in use has no life of its own any more: take another on its rung, soon."""
        main = self._owner.main
        if main is not None and not self._is_renewing:
            self._is_renewing = True
            self._spawn(self._renew(main.rung))

    async def close(self) -> None:
        """End it all."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop_trials()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            main = self._owner.main
            if main is None or not self._owner.is_talking:
                continue
            now = self._loop.time()
            self._look(main, now)
            self._step(main, now)

    def _step(self, main: RelayLeg, now: float) -> None:
        other, second = None, None
        if self._owner.second is not None:
            other, way = self._owner.second
            second = Second(other.rung, way, other.health)
        for leg in (main, other):
            if leg is not None:
                leg.ping(now, busy=leg.health.is_doubtful(now) or self._ladder.looks_closely(now, second))
        for rung, leg in list(self._trials.items()):
            if leg.error is not None:
                del self._trials[rung]
            leg.ping(now, busy=True)
        if self._ladder.stage is Stage.STEADY:
            self._ladder.current = main.rung
        health = {rung: leg.health for rung, leg in self._trials.items()}
        decision = self._ladder.check(
            now,
            main.health,
            health,
            lost=main.error is not None,
            second=second,
            repaired=self._owner.is_repaired,
            sheltered=self._owner.is_sheltered,
        )
        if isinstance(decision, Try):
            for rung in decision.rungs:
                self._spawn(self._try(rung))
        elif isinstance(decision, Move):
            leg = self._trials.pop(decision.rung)
            self._drop_trials()
            self._spawn(self._take(leg, decision.keep))
        elif isinstance(decision, Unite):
            assert other is not None
            self._spawn(self._unite(other if decision.rung == other.rung else main))
        elif isinstance(decision, GiveUp):
            self._drop_trials()

    def _look(self, main: RelayLeg, now: float) -> None:
        """Whether we have another address."""
        other = self._owner.second
        quic = main.quic or (other[0].quic if other is not None else None)
        if now < self._look_at or quic is None:
            return
        self._look_at = now + LOOK_S
        source = source_toward(quic.peer.host)
        if source is not None and self._source is not None and source != self._source:
            self._owner.announce_move()
        self._source = source or self._source

    async def _try(self, rung: int) -> None:
        leg = self._owner.make_leg(rung)
        with contextlib.suppress(SessionError):
            await leg.open(self._trust)
            if self._ladder.stage is Stage.TRYING and rung not in self._trials:
                self._trials[rung] = leg
            else:
                leg.close("not needed any more")

    async def _take(self, leg: RelayLeg, keep: Direction | None) -> None:
        ok, ladder = False, self._ladder
        try:
            await self._owner.move_to(leg, keep=keep)
            ok = True
        except (RefusedError, SessionError):
            leg.close("could not move")
        finally:
            ladder.on_moved(leg.rung, self._loop.time(), ok=ok)

    async def _renew(self, rung: int) -> None:
        leg = self._owner.make_leg(rung)
        try:
            await leg.open(self._trust)
            await self._owner.move_to(leg)
        except (RefusedError, SessionError):
            leg.close("could not move")  # the next request tries again
        finally:
            self._is_renewing = False

    async def _unite(self, leg: RelayLeg) -> None:
        ok, ladder = False, self._ladder
        try:
            await self._owner.unite(leg)
            ok = True
        except (RefusedError, SessionError):
            pass  # the ladder weighs again
        finally:
            ladder.on_moved(leg.rung, self._loop.time(), ok=ok)

    def _drop_trials(self) -> None:
        for leg in self._trials.values():
            leg.close("not needed any more")
        self._trials.clear()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work, name="ladder")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
