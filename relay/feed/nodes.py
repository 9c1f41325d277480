"""Brings the node list from the store to the daemon's file, and how daemons are from them to the store.

    store, routes/nodes    signed by the hub --verify, copy--> nodes.file
    /health of a daemon    --each 10 s--> store, health/<node id>, which forgets it after 90 s

It signs nothing and has no key that could. What cannot be read or written is tried again; a daemon that does
not answer is announced by nobody, so that its last words grow old. Must never live here: what a list means
(relay/region), how a store works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import msgspec

from relay.config import Config
from relay.feed.together import together
from relay.protocol.signed import kid_of
from relay.region.making import Announcement, encode
from relay.region.nodelist import Keeper, ListError, Refusal
from relay.rollout.keys import HEALTH, NODES, ROUTES
from relay.rollout.lastgood_file import Files, OsFiles, replace
from relay.rollout.store import Entry, StateStore, StoreError

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
"""Between two announcements of a node; a hub that makes lists forgets it after nine that were missed."""
RETRY_S: Final = 1.0
ANSWER_S: Final = 5.0
WHO: Final = "relay-feed"
WHY: Final = "as it says each 10 s"


class NodesFeed:
    """One store, one file, some daemons. Both halves may be off (`nodes.file`, `nodes.announce`)."""

    def __init__(
        self,
        config: Config,
        store: StateStore,
        files: Files | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.refused: Counter[Refusal] = Counter()
        """Lists of the store that did not count, by why."""
        self.announced = 0
        """Times that a daemon's news were put into the store."""
        self.unheard = 0
        """Times that a daemon did not say, or the store did not take it."""
        self._config = config.nodes
        keys = [bytes.fromhex(key) for key in config.nodes.keys]
        self._keeper = Keeper(config.node.cluster, {kid_of(key): key for key in keys})
        self._store = store
        self._files = files or OsFiles()
        self._wall = wall
        self._raw = b""
        """What the file shall hold; nothing until the store said so."""
        self._is_written = True
        self._is_failing = False
        self._stop = asyncio.Event()

    @property
    def revision(self) -> int:
        """Of the list that was copied last; 0: none yet."""
        return self._keeper.list.rev if self._keeper.list is not None else 0

    def stop(self) -> None:
        """`run` returns soon."""
        self._stop.set()

    async def run(self) -> None:
        """Copy and announce until stopped."""
        if self._config.file:
            await asyncio.to_thread(self._begin)
        rounds = [self._announce(url) for url in self._config.announce]
        if self._config.file:
            rounds += [self._follow(), self._write_again()]
        try:
            await together(rounds, self._stop)
        finally:
            await self._store.close()

    # ------------------------------------------------------------ the list

    def _begin(self) -> None:
        """What stands in the file is known, so that no older list takes its place."""
        try:
            raw = self._files.read(self._config.file)
            if raw is not None:
                self._keeper.on_document(raw, self._wall())
        except (OSError, ListError):
            return  # no daemon takes it either

    async def _follow(self) -> None:
        async for entry in self._store.watch(ROUTES, NODES):
            if entry.key == NODES:
                self._take(entry)
                await self._write()

    def _take(self, entry: Entry) -> None:
        try:
            self._keeper.on_document(entry.value, self._wall())
        except ListError as error:
            self.refused[error.reason] += 1
            log.error("a node list of the store is refused: %s", error, extra={"by": entry.who})
            return
        # One that is known already is written again: the file may have been lost.
        self._raw, self._is_written = entry.value, False

    async def _write_again(self) -> None:
        """What the disk refused."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self._write()

    async def _write(self) -> None:
        if self._is_written:
            return
        raw = self._raw
        try:
            await asyncio.to_thread(replace, self._files, self._config.file, raw)
        except OSError as error:
            if not self._is_failing:
                log.error("the node list cannot be written, and is tried again: %s", error.strerror)
            self._is_failing = True
            return
        self._is_failing = False
        self._is_written = raw is self._raw

    # ------------------------------------------------------------ how daemons are

    async def _announce(self, url: str) -> None:
        timeout, before = aiohttp.ClientTimeout(total=ANSWER_S), ""
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                problem = await self._ask(session, url)
                if problem and not before:
                    log.warning("how a daemon is cannot be told: %s", problem, extra={"url": url})
                before = problem
                await asyncio.sleep(EVERY_S)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> str:
        """Bring its news to the store once; what went wrong, "" if nothing."""
        try:
            async with session.get(f"{url}/health", allow_redirects=False) as answer:
                told = announcement(await answer.read())
            if told is None:
                raise ValueError("it answers something else")
            await self._put(told)
        except (aiohttp.ClientError, OSError, StoreError, ValueError) as error:
            self.unheard += 1
            return str(error) or type(error).__name__
        self.announced += 1
        return ""

    async def _put(self, told: Announcement) -> None:
        standing = await self._store.get(HEALTH, told.node)
        expect = standing.revision if standing is not None else 0
        await self._store.put(HEALTH, told.node, encode(told), expect=expect, who=WHO, why=WHY)


def announcement(raw: bytes) -> Announcement | None:
    """What a daemon's /health says, as the store has it; None: it is no such answer."""
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, msgspec.ValidationError):
        body: Any = json.loads(raw)
        score = body["score"]
        facts = {
            "node": body["node"],
            "version": body["version"],
            "state": body["state"],
            "score": None if score is None else round(score),
            "stress": min(1_000, round(100 * body["stress"])),
            "draining": body["drain"] != "running",
        }
        return msgspec.convert(facts, Announcement)
    return None
