"""Brings commands of the whole fleet from the store to the daemons' file, and what came of them to the store.

    store, commands/<id>    one line of base64 --form, time--> nodes.commands, in the order of the store
    /v1/commands of a daemon (nodes.announce)  --while one is unanswered--> store, answers/<id>.<node id>

It verifies nothing and has no key that could: whose a command is, the daemon judges. What stands in the file
stays there until its time is over, also while the store is away and after this program was started again.
Must never live here: what a command does, how a store works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import aiohttp
import msgspec
from msgspec import Meta

from relay.config import Config
from relay.errors import PeerError
from relay.feed.together import together
from relay.protocol import dispatch
from relay.protocol.dispatch import Dispatched
from relay.rollout.keys import ANSWERS, COMMANDS, answer_key
from relay.rollout.lastgood_file import Files, OsFiles, replace
from relay.rollout.store import ConflictError, Entry, StateStore, StoreError

log = logging.getLogger(__name__)

MODE: Final = 0o640
"""Commands name people: the file is for its group, not for everybody on the machine."""
LIFE_S: Final = 300
"""No node obeys one that lives longer (relay/core/orders.py)."""
LOOK_S: Final = 1.0
TOUCH_S: Final = 5.0
"""Between two notes, in the file's own time, that the store has no newer command."""
OLD_S: Final = 10.0
"""A store that was not seen for longer proves nothing."""
ASK_S: Final = 0.1
"""Between two questions to a daemon, while something is unanswered."""
PATIENCE_S: Final = 10.0
"""For so long after it was given somebody may wait for what came of a command."""
ANSWER_S: Final = 2.0
WHO: Final = "relay-feed"
WHY: Final = "what came of a command"


class Refusal(StrEnum):
    """Why something in the store is not brought to the file."""

    MALFORMED = "malformed"
    OTHER_KEY = "other_key"  # stands under another id than its own
    EXPIRED = "expired"
    FULL = "full"


class _One(msgspec.Struct, frozen=True):
    n: int
    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    code: Annotated[str, Meta(max_length=64)]
    age_ms: Annotated[int, Meta(ge=0)]


class _Page(msgspec.Struct, frozen=True):
    """What GET /v1/commands says."""

    node: str
    run: str
    answers: tuple[_One, ...]


class Answer(msgspec.Struct, frozen=True):
    """What stands in the store of one node's answer."""

    code: str
    """A name of ErrorCode; NO_ERROR: it was obeyed."""
    age_ms: int


_PAGE: Final = msgspec.json.Decoder(_Page)


class CommandsFeed:
    """One store, one file, some daemons."""

    def __init__(
        self,
        config: Config,
        store: StateStore,
        files: Files | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.taken = 0
        """Commands of the store that came into the file."""
        self.refused: Counter[Refusal] = Counter()
        self.answered = 0
        """Answers that were put into the store."""
        self.unanswered = 0
        """Answers that a daemon did not give, or the store did not take."""
        self._path = config.nodes.commands
        self._skew = config.tokens.skew_s
        self._store = store
        self._files = files or OsFiles(MODE)
        self._wall = wall
        self._kept: dict[str, tuple[Dispatched, float]] = {}
        """By id, in the order in which they came; with the wall second until which they stay."""
        self._asked = [_Asked(url) for url in config.nodes.announce]
        self._news = asyncio.Event()
        self._is_written = True
        self._is_failing = False
        self._stop = asyncio.Event()

    def __len__(self) -> int:
        """Commands in the file."""
        return len(self._kept)

    def age(self) -> float:
        """Seconds since the store was there."""
        return self._store.age()

    def stop(self) -> None:
        """`run` returns soon."""
        self._stop.set()

    async def run(self) -> None:
        """Bring, ask and answer until stopped."""
        await asyncio.to_thread(self._begin)
        rounds = [self._follow(), self._keep(), *map(self._ask, self._asked)]
        try:
            await together(rounds, self._stop)
        finally:
            await self._store.close()

    # ------------------------------------------------------------ to the file

    def _begin(self) -> None:
        """What stands in the file stays, in its order: the store may be away, or may have been lost."""
        try:
            with open(self._path, "rb") as file:
                lines = dispatch.lines(file.read(dispatch.MOST_BYTES + 1))
        except (OSError, PeerError):
            lines = []
            self._is_written = False  # there shall be one, so that daemons know of the way
        for line in lines:
            with contextlib.suppress(PeerError):
                one = dispatch.read(line)
                self._kept[one.id.hex()] = one, self._until(one)

    async def _follow(self) -> None:
        async for entry in self._store.watch(COMMANDS):
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        if entry.key in self._kept:
            return  # the first that came under an id counts, as it does at the daemon
        try:
            one = dispatch.take(dispatch.from_text(entry.value), entry.ts)
        except PeerError:
            self._refuse(Refusal.MALFORMED, entry)
            return
        until = self._until(one)
        if one.id.hex() != entry.key:
            self._refuse(Refusal.OTHER_KEY, entry)
        elif until <= self._wall():
            self._refuse(Refusal.EXPIRED, entry)
        elif len(self._kept) >= dispatch.MOST:
            self._refuse(Refusal.FULL, entry)
        else:
            self._kept[entry.key] = one, until
            self.taken += 1
            self._is_written = False
            if self._wall() - entry.ts < PATIENCE_S:
                for each in self._asked:
                    each.add(entry.key, PATIENCE_S)
            self._news.set()

    def _refuse(self, why: Refusal, entry: Entry) -> None:
        self.refused[why] += 1
        if why is not Refusal.EXPIRED:  # those stay in the store a little longer than they count
            facts = {"why": why.value, "by": entry.who}
            log.error("a command of the store is not brought to daemons", extra=facts)

    def _until(self, one: Dispatched) -> float:
        """A clock that is ahead must not keep one there for longer than any may live."""
        return min(float(one.exp), self._wall() + LIFE_S) + self._skew + 1

    async def _keep(self) -> None:
        """Write what is new at once, take out what is over, and say that there is no more."""
        touched = 0.0
        while True:
            await self._write()
            if time.monotonic() - touched >= TOUCH_S:
                touched = time.monotonic()
                await self._touch()
            self._news.clear()
            if self._is_written or self._is_failing:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_S)
            self._clear()

    def _clear(self) -> None:
        wall = self._wall()
        over = [id for id, (_, until) in self._kept.items() if until <= wall]
        for id in over:
            del self._kept[id]
        self._is_written = self._is_written and not over

    async def _write(self) -> None:
        if self._is_written:
            return
        self._is_written = True  # what comes meanwhile says again that it is not
        data = dispatch.write(one for one, _ in self._kept.values())
        try:
            await asyncio.to_thread(replace, self._files, self._path, data)
        except OSError as error:
            self._is_written = False
            if not self._is_failing:
                log.error("commands cannot be written, and are tried again: %s", error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    async def _touch(self) -> None:
        """The file's time says until when it is known to have all."""
        age = self._store.age()
        if self._is_written and age < OLD_S:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._files.touch, self._path, self._wall() - age)

    # ------------------------------------------------------------ what came of them

    async def _ask(self, asked: _Asked) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                await asked.wait()
                try:
                    page = await asked.page(session)
                    told = [one for one in page.answers if one.id in asked]
                    for one in told:
                        await self._answer(page.node, one)
                        asked.drop(one.id)
                except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
                    why = str(error) or type(error).__name__
                    log.debug("a daemon does not say what came of commands: %s", why)
                self.unanswered += asked.give_up()
                await asyncio.sleep(ASK_S)

    async def _answer(self, node: str, one: _One) -> None:
        value = msgspec.json.encode(Answer(one.code, one.age_ms))
        try:
            await self._store.put(ANSWERS, answer_key(one.id, node), value, expect=0, who=WHO, why=WHY)
        except ConflictError:
            return  # a daemon that was started again obeys again: the first answer was the true one
        except StoreError as error:
            self.unanswered += 1
            log.warning("what came of a command cannot be told: %s", error)
        else:
            self.answered += 1


class _Asked:
    """One daemon: what it has not answered yet, and how far it was heard."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._open: dict[str, float] = {}
        """Ids, and until when somebody may wait for them, by the loop's clock."""
        self._news = asyncio.Event()
        self._run, self._since = "", 0

    def __contains__(self, id: object) -> bool:
        return id in self._open

    def add(self, id: str, patience_s: float) -> None:
        """It was told of this one."""
        self._open[id] = time.monotonic() + patience_s
        self._news.set()

    def drop(self, id: str) -> None:
        """It answered."""
        self._open.pop(id, None)

    def give_up(self) -> int:
        """How many it did not answer in time."""
        now = time.monotonic()
        late = [id for id, until in self._open.items() if until <= now]
        for id in late:
            del self._open[id]
        if not self._open:
            self._news.clear()
        return len(late)

    async def wait(self) -> None:
        """Until there is something to ask for."""
        await self._news.wait()

    async def page(self, session: aiohttp.ClientSession) -> _Page:
        """What it answered since it was asked last. msgspec.DecodeError: it says something else."""
        query: dict[str, Any] = {"run": self._run, "since": str(self._since)}
        async with session.get(f"{self._url}/v1/commands", params=query, allow_redirects=False) as answer:
            found = _PAGE.decode(await answer.read())
        least = self._since if found.run == self._run else 0  # another process numbers its own
        self._run, self._since = found.run, max((one.n for one in found.answers), default=least)
        return found
