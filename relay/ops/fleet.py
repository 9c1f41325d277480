"""The daemon's look at commands of the whole fleet, four times a second: what is new is obeyed, in order.

    nodes.commands --look--> new lines --> engine --> GET /v1/commands, metrics, /readyz
    (relay feed)                                      (relay feed brings these to who gave the command)

The file stays while the feed or the store is away, and a daemon that is started again obeys it from the
beginning, before it lets anybody in: an order outlives both. Each command is given to the engine once, which
knows its id besides. Off while `nodes.commands` is "". Must never live here: whose a command is and what it
does (relay/core/orders.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from relay.config_nodes import NodesConfig
from relay.core.orders import ABSENT
from relay.core.spread import Bounds, Spread
from relay.errors import ErrorCode, PeerError
from relay.ops.families import counters, histogram
from relay.ops.snapshot import FleetCounters
from relay.protocol import dispatch
from relay.protocol.dispatch import Dispatched
from relay.protocol.ids import Kid

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
BEGIN_S: Final = 2.0
"""For how long the start waits for the disk."""
AT_ONCE: Final = 64
"""Commands of a look, some 6 ms of the loop."""
OLD_S: Final = 60.0
"""A path that nobody vouched for so long is told: the feed touches the file each five seconds."""
AGES: Final[Bounds] = (0.25, 0.5, 1, 2, 5, 30)  # seconds

Submit = Callable[[bytes, Callable[[ErrorCode, str], None]], None]
"""Give a command to the engine; the second is called with its outcome, within the call."""
Stamp = tuple[int, int, int]
Lines = Mapping[bytes, Dispatched | None]
"""Of a file, in its order. None: it was given to the engine, or is none."""


class Outcome(StrEnum):
    """What a command was to this node."""

    OBEYED = "obeyed"
    ABSENT = "absent"  # nobody here whom it is about: remembered for who comes
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Told:
    """One answer; it names the command and nobody."""

    number: int
    id: str
    code: ErrorCode
    age_s: float
    """From when the command was given, by the clock of who gave it, to when it was obeyed."""


class FleetWatch:
    """One daemon's. `config` gives the settings as they are now, `held` how many orders the engine keeps;
    `wall` is seconds since 1970."""

    def __init__(
        self,
        config: Callable[[], NodesConfig],
        submit: Submit,
        held: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._submit = submit
        self._held = held
        self._wall = wall
        self._began = wall()
        self._run = secrets.token_hex(8)
        """Answers of another process are not ours: it numbers its own."""
        self._path = ""
        self._seen: Stamp | None = None
        self._modified = 0.0
        self._is_failing = False
        self._lines: dict[bytes, Dispatched | None] = {}
        self._waiting: list[tuple[bytes, Dispatched]] = []
        self._looking: asyncio.Task[None] | None = None
        self._told: deque[Told] = deque(maxlen=dispatch.MOST)
        self._number = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._unreadable = 0
        self._ages = Spread(AGES)

    async def begin(self) -> None:
        """All that is there, before anybody is let in. A disk that hangs is not waited for without end."""
        self._looking = asyncio.create_task(self.look(most=dispatch.MOST))
        await asyncio.wait((self._looking,), timeout=BEGIN_S)

    async def run(self) -> None:
        """Look until cancelled."""
        if self._looking is not None:
            await self._looking
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self, most: int = AT_ONCE) -> None:
        """Read the file if it changed, give what is new. The disk is waited for in a thread: it may hang."""
        path = self._config().commands
        if path != self._path:
            self._path, self._seen, self._modified = path, None, 0.0
        if not path:
            return
        found = await asyncio.to_thread(self._read, path, self._lines)
        if found is not None:
            self._lines = found
            self._waiting = [(line, each) for line, each in found.items() if each is not None]
        if self._waiting:
            self._give(most)

    # ------------------------------------------------------------ the file

    def _read(self, path: str, known: Lines) -> dict[bytes, Dispatched | None] | None:
        """In a thread: its lines; those that were read before are as they are known. None: as it was."""
        try:
            now = os.stat(path)
            self._modified = now.st_mtime
            stamp = now.st_ino, now.st_size, now.st_mtime_ns
            if stamp == self._seen:
                return None
            with open(path, "rb") as file:
                found = dispatch.lines(file.read(dispatch.MOST_BYTES + 1))
        except FileNotFoundError:
            return None
        except (OSError, PeerError) as error:
            if not self._is_failing:
                log.error("the file of commands cannot be read, and is tried again: %s", error)
                self._unreadable += 1
            self._is_failing = True
            return None
        self._seen, self._is_failing = stamp, False
        return {line: known[line] if line in known else self._parse(line) for line in found}

    def _parse(self, line: bytes) -> Dispatched | None:
        try:
            return dispatch.read(line)
        except PeerError:
            self._unreadable += 1
            return None

    # ------------------------------------------------------------ the engine

    def _give(self, most: int) -> None:
        """In order; who is over the rate of its issuer waits, and so does all of that issuer's behind it."""
        slow: set[Kid] = set()
        left: list[tuple[bytes, Dispatched]] = []
        for position, (line, each) in enumerate(self._waiting):
            if position >= most:
                left += self._waiting[position:]
                break
            code = ErrorCode.RATE_LIMITED if each.kid in slow else self._order(each)
            if code is ErrorCode.RATE_LIMITED:
                slow.add(each.kid)
                left.append((line, each))
                continue
            self._lines[line] = None
            self._tell(each, code)
        self._waiting = left

    def _order(self, each: Dispatched) -> ErrorCode:
        said: list[ErrorCode] = []
        self._submit(each.raw, lambda code, _: said.append(code))
        return said[0] if said else ErrorCode.INTERNAL  # nothing is said where the engine met a bug of ours

    def _tell(self, each: Dispatched, code: ErrorCode) -> None:
        age = max(0.0, self._wall() - each.at)
        outcome = Outcome.ABSENT if code in ABSENT else Outcome.REFUSED
        if code is ErrorCode.NO_ERROR:
            outcome = Outcome.OBEYED
            if each.at >= self._began:  # what is obeyed again after a restart says nothing of the way here
                self._ages.add(age)
        self._outcomes[outcome] += 1
        self._number += 1
        self._told.append(Told(self._number, each.id.hex(), code, age))
        if outcome is not Outcome.ABSENT:
            facts = {"id": each.id, "outcome": outcome.value, "code": code.name, "age_s": round(age, 3)}
            log.info("a command of the fleet", extra=facts)

    # ------------------------------------------------------------ what is told

    def answers(self, run: str, since: int) -> dict[str, Any]:
        """For GET /v1/commands: what came of commands, above the number `since` of this process's `run`."""
        least = since if run == self._run else 0
        told = [
            {"n": one.number, "id": one.id, "code": one.code.name, "age_ms": round(1_000 * one.age_s)}
            for one in self._told
            if one.number > least
        ]
        return {"run": self._run, "answers": told}

    def counters(self) -> FleetCounters | None:
        """For the metrics. None: no file is configured."""
        if not self._config().commands:
            return None
        return FleetCounters(
            age_s=max(0.0, self._wall() - (self._modified or self._began)),
            waiting=len(self._waiting),
            held=self._held(),
            outcomes={each.value: self._outcomes[each] for each in Outcome},
            unreadable=self._unreadable,
            ages=self._ages.copy(),
        )

    def doubt(self) -> str:
        """For /readyz: what somebody should look after; "" if nothing."""
        now = self.counters()
        if now is None or now.age_s <= OLD_S:
            return ""
        return f"commands of the fleet may not come: nobody vouched for them for {now.age_s:.0f} s"


def families(now: FleetCounters) -> Iterator[Metric]:
    """Commands of the fleet, as this node has them."""
    names = tuple(each.value for each in Outcome)
    yield counters("relay_fleet_commands", "Commands of the fleet.", "outcome", now.outcomes, names)
    yield histogram(
        "relay_fleet_command_age_seconds",
        "From when an obeyed command was given to when it was obeyed.",
        (),
        {(): now.ages},
    )
    yield GaugeMetricFamily("relay_fleet_waiting", "Commands over their issuer's rate.", value=now.waiting)
    yield GaugeMetricFamily("relay_fleet_held", "Orders that wait for who may come.", value=now.held)
    yield GaugeMetricFamily(
        "relay_fleet_age_seconds", "Since the feed knew that there is no newer command.", value=now.age_s
    )
    yield CounterMetricFamily(
        "relay_fleet_unreadable", "Files and lines of commands that are none.", value=now.unreadable
    )
