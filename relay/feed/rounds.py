"""The life of one endpoint: ask its courier, do what it says, write down what came of it.

Each endpoint has a task of its own and one letter under way, so that none waits for another. Must never live
here: a decision (courier.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from relay.config_feed import FeedConfig, WebhookConfig
from relay.feed.answers import Answer, Fate
from relay.feed.courier import Courier, Expire, Letter, Limits, Rest, Try, Verdict
from relay.feed.notices import REASONS, Notices, Outage
from relay.feed.post import Poster
from relay.feed.store import Store

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0  # seconds; then also what another process changed in the file is seen
PAUSE: Final = 1.0  # seconds, after the disk refused


class Round:
    """One endpoint."""

    def __init__(
        self,
        config: FeedConfig,
        webhook: WebhookConfig,
        store: Store,
        poster: Poster,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = webhook.name
        self.delivered = 0
        self.failed: Counter[Answer] = Counter()
        limits = Limits(config.retry_first_s, config.retry_most_s, config.max_age_s, config.attempts)
        self._courier = Courier(limits)
        self._store = store
        self._poster = poster
        self._wall = wall
        self._news = asyncio.Event()
        self._stopping = False
        self._notices = Notices()
        self._last_error = ""
        self._was_closed = False

    def wake(self) -> None:
        """There may be a new letter."""
        self._news.set()

    def stop(self) -> None:
        """Begin nothing new; `run` returns once the letter under way is settled."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopping:
            try:
                pause = await self._step()
            except sqlite3.Error as error:
                name = getattr(error, "sqlite_errorname", None) or type(error).__name__
                log.error("the feed's file refuses: %s", name, extra={"endpoint": self.name})
                pause = PAUSE
            if pause and not self._stopping:
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), pause)

    async def _step(self) -> float:
        """Do one thing; how long to wait before the next, seconds."""
        self._look_whether_closed()
        self._tell_deaths()
        now = self._wall()
        step = self._courier.next(self._store.view(self.name), now)
        if isinstance(step, Try):
            await self._try(step.letter)
            return 0.0
        if isinstance(step, Expire):
            self._store.expire(self.name, step.before, now)
            return 0.0
        return min(LOOK_EVERY, step.until - now) if isinstance(step, Rest) else LOOK_EVERY

    def _look_whether_closed(self) -> None:
        is_closed = self._store.is_closed(self.name)
        if is_closed and not self._was_closed:
            self._courier.close()
            log.error(
                "the endpoint answered 410: no letters go there until `relay feed replay --endpoint` says so",
                extra={"endpoint": self.name},
            )
        elif self._was_closed and not is_closed:
            self._courier.reopen()
            log.info("the endpoint gets letters again", extra={"endpoint": self.name})
        self._was_closed = is_closed

    async def _try(self, letter: Letter) -> None:
        try:
            id, body = self._store.content(letter.number)
        except KeyError:
            return
        outcome = await self._poster.post(id, body, self._wall())
        now = self._wall()
        verdict = self._courier.on_answer(
            letter, outcome.answer, now, chance=random.random(), asked_s=outcome.asked_s
        )
        if verdict.fate is Fate.DONE:
            self.delivered += 1
        else:
            self.failed[outcome.answer] += 1
        self._tell(verdict, outcome.told)
        self._store.settle(self.name, letter, verdict, outcome.told, now)

    def _tell(self, verdict: Verdict, told: str) -> None:
        if verdict.fate is not Fate.DONE:
            self._last_error = told
        news = self._notices.on_try(verdict)
        if news is Outage.BEGAN:
            extra = {"endpoint": self.name, "error": told}
            log.warning("an endpoint does not take letters, they wait", extra=extra)
        elif news is Outage.ENDED:
            log.info("an endpoint takes letters again", extra={"endpoint": self.name})

    def _tell_deaths(self) -> None:
        dead = {why: self._store.dead[self.name, why] for why in REASONS}
        for why, count in self._notices.on_deaths(dead, asyncio.get_running_loop().time()):
            log.error(
                "letters were given up and are dead letters now (see `relay feed list`, put it right, then "
                "`relay feed replay`)",
                extra={"endpoint": self.name, "why": why, "letters": count, "error": self._last_error},
            )
