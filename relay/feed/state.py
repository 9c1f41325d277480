"""Brings the state of rollouts from its store to the file that the daemon reads (docs/state.md).

    store, rollout/state        signed by an operator --copy--> state.file
    store, rollout/<id>/kill    --> state.file + ".kill", a kill file like any other

It signs nothing and has no key that could: what it may do is to bring a newer state, or to narrow. While the
store cannot be had, the files stay. Must never live here: what a state means, how a store works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from relay.config import NodeConfig
from relay.config_state import StateConfig
from relay.region.routes import RoutesError, home
from relay.region.routes import keep_days as days_of
from relay.region.routes import parse as parse_routes
from relay.rollout.keys import BUCKET, LIVES, STATE, killed_id
from relay.rollout.lastgood import Refusal, RefusedError, accepted, parse, read_kills, write_kills
from relay.rollout.lastgood_file import Files, OsFiles, copy, remove, replace
from relay.rollout.store import Entry, StateStore

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
TOUCH_S: Final = 5.0
"""Between two notes, in the file's own time, that the store has no newer state."""
OLD_S: Final = 10.0
"""A store that was not seen for longer proves nothing."""


def kill_path(path: str) -> str:
    """The kill file beside a state's file."""
    return path + ".kill"


def keep_days(config: StateConfig, node: NodeConfig, files: Files | None = None) -> float | None:
    """How long this node may keep what it knows of calls, days, by the rules in the state's file; infinite
    where these say nothing. None: there is no file that counts. OSError: the disk refuses."""
    raw = (files or OsFiles()).read(config.file)
    if raw is None:
        return None
    try:
        routes = parse_routes(parse(raw, accepted(bytes.fromhex(key) for key in config.keys)).body.routes)
    except (RefusedError, RoutesError):
        return None
    return days_of(routes, home(routes, node.id) or node.region)


class StateCopier:
    """One store, one file."""

    def __init__(
        self,
        config: StateConfig,
        store: StateStore,
        files: Files | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.revision = 0
        """Of the file, as far as it came from the store; 0: none yet."""
        self.refused: Counter[Refusal] = Counter()
        """States of the store that did not count, by why."""
        self._path = config.file
        self._keys = accepted(bytes.fromhex(key) for key in config.keys)
        self._store = store
        self._files = files or OsFiles()
        self._wall = wall
        self._wanted: Entry | None = None
        """The newest state of the store that is not dealt with yet."""
        self._is_newest = False
        self._killed = set(read_kills(self._files.read(kill_path(self._path))).ids)
        """Those of before stay until the store takes them back."""
        self._has_kills = True
        self._is_failing = False
        self._stop = asyncio.Event()

    def age(self) -> float:
        """Seconds since the store was there."""
        return self._store.age()

    def stop(self) -> None:
        """`run` returns soon."""
        self._stop.set()

    async def run(self) -> None:
        """Copy until stopped."""
        follow = asyncio.create_task(self._follow())
        touched = 0.0
        try:
            while not self._stop.is_set() and not follow.done():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), LOOK_S)
                await self._write()  # again, what the disk refused
                if time.monotonic() - touched >= TOUCH_S:
                    touched = time.monotonic()
                    await self._touch()
        finally:
            follow.cancel()
            results = await asyncio.gather(follow, return_exceptions=True)
            await self._store.close()
        if isinstance(results[0], Exception):
            raise results[0]

    async def _follow(self) -> None:
        async for entry in self._store.watch(BUCKET):
            if entry.key == STATE:
                self._wanted = entry
            elif (id := killed_id(entry.key)) is not None:
                (self._killed.discard if entry.value.strip() == LIVES else self._killed.add)(id)
                self._has_kills = False
                log.warning("a kill in the store", extra={"rollout": id, "killed": id in self._killed})
            else:
                continue
            await self._write()

    async def _write(self) -> None:
        """Kills first: they narrow."""
        try:
            if not self._has_kills:
                await asyncio.to_thread(self._write_kills, frozenset(self._killed))
                self._has_kills = True
            if self._wanted is not None:
                await self._write_state(self._wanted)
        except OSError as error:
            if not self._is_failing:
                log.error("the state cannot be written, and is tried again: %s", error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def _write_kills(self, ids: frozenset[str]) -> None:
        path = kill_path(self._path)
        if ids:
            replace(self._files, path, write_kills(ids))
        else:
            remove(self._files, path)

    async def _write_state(self, entry: Entry) -> None:
        try:
            state = await asyncio.to_thread(copy, self._files, self._path, entry.value, self._keys)
        except RefusedError as error:
            self.refused[error.why] += 1
            self._is_newest = False
            log.error("a state of the store is refused: %s", error, extra={"by": entry.who})
        else:
            if state.body.rev != self.revision:
                log.info("a state was copied", extra={"rev": state.body.rev, "by": entry.who})
            self.revision, self._is_newest = state.body.rev, True
        if self._wanted is entry:  # none came meanwhile
            self._wanted = None

    async def _touch(self) -> None:
        """The file's time says until when it is known to be the newest."""
        age = self._store.age()
        if self._is_newest and age < OLD_S:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._files.touch, self._path, self._wall() - age)
