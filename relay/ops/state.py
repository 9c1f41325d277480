"""The daemon's look at the last-known-good state, once a second: the engine goes by it, people hear of it.

    state.file, floor, kill files --Follower--> Standing --> Mandate, to the engine when it is another one
                                                   '-------> metrics, /health, /readyz, `relay status`

Off while `state.file` is "". Must never live here: what makes a state good (relay/rollout/lastgood.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric

from relay.config_state import StateConfig
from relay.ops.families import counters, gauges
from relay.ops.snapshot import StateCounters
from relay.rollout.lastgood import Refusal, Serving, Standing, accepted
from relay.rollout.lastgood_file import Follower, Places
from relay.rollout.mandate import Mandate

LOOK_S: Final = 1.0
BEGIN_S: Final = 2.0
"""For how long the start waits for the disk."""
OLD_S: Final = 300.0
"""A state that nobody vouched for so long is told."""


class StateWatch:
    """One daemon's. `config` gives the settings as they are now; `wall` is seconds since 1970."""

    def __init__(self, config: Callable[[], StateConfig], wall: Callable[[], float] = time.time) -> None:
        self._config = config
        self._wall = wall
        self._began = wall()
        self._used = StateConfig()
        self._follower: Follower | None = None
        self._looking: asyncio.Future[None] | None = None
        self._told = Mandate()
        self.on_changed: Callable[[Mandate], None] = lambda _: None
        """Something else counts from now on."""

    async def begin(self) -> None:
        """The first look, before anybody is let in. While a disk does not answer, no state counts."""
        await self._look(BEGIN_S)

    async def run(self) -> None:
        """Look until cancelled. The disk is waited for in a thread: it may hang."""
        while True:
            await self._look(LOOK_S)
            await asyncio.sleep(LOOK_S)

    async def _look(self, patience_s: float) -> None:
        """One at a time. A state grows too old while the disk does not answer, too."""
        if self._looking is None:
            self._configure()
            if self._follower is not None:
                self._looking = asyncio.ensure_future(asyncio.to_thread(self._follower.look))
        if self._looking is not None:
            await asyncio.wait((self._looking,), timeout=patience_s)
            if self._looking.done():
                self._looking.result()
                self._looking = None
        mandate = Mandate.of(self.standing(), self._config().without)
        if mandate != self._told:
            self._told = mandate
            self.on_changed(mandate)

    def standing(self) -> Standing | None:
        """What counts now. None: no state is configured."""
        return None if self._follower is None else self._follower.stand(self._wall())

    def routes(self) -> Mapping[str, Any]:
        """Region to relays, as signed last: past its time too, since nodes do not move with it."""
        standing = self.standing()
        return {} if standing is None else standing.routes

    def counters(self) -> StateCounters | None:
        """For the metrics."""
        standing, follower = self.standing(), self._follower
        if standing is None or follower is None:
            return None
        refused = {why.value: count for why, count in follower.refused.items()}
        return StateCounters(standing.revision, standing.serving.value, self._age(follower), refused)

    def body(self) -> dict[str, Any] | None:
        """JSON value for /health."""
        standing, follower = self.standing(), self._follower
        if standing is None or follower is None:
            return None
        return {
            "revision": standing.revision,
            "serving": standing.serving.value,
            "rollout": standing.offer.id if standing.offer is not None else None,
            "age_s": round(self._age(follower), 1),
            "problem": follower.problem.value if follower.problem is not None else "",
        }

    def doubt(self) -> str:
        """For /readyz: what somebody should look after; "" if nothing."""
        now = self.counters()
        if now is None:
            return ""
        if now.serving not in (Serving.STATE, Serving.KILLED):
            return f"everyone gets control: {now.serving}"
        return f"nobody vouched for it for {now.age_s:.0f} s" if now.age_s > OLD_S else ""

    def _age(self, follower: Follower) -> float:
        wall = self._wall()
        age = follower.age(wall)
        return max(0.0, wall - self._began) if age is None else age

    def _configure(self) -> None:
        config = self._config()
        if config == self._used:
            return
        self._used = config
        if not config.file:
            self._follower = None
            return
        keys = accepted(bytes.fromhex(key) for key in config.keys)
        places = Places(config.file, config.floor_file, (config.kill_file, f"{config.file}.kill"))
        if self._follower is None:
            self._follower = Follower(places, keys)
        else:
            self._follower.configure(places, keys)


def families(now: StateCounters) -> Iterator[Metric]:
    """The state of rollouts, as this node has it."""
    yield GaugeMetricFamily(
        "relay_state_revision", "Of the state that is gone by; 0: none.", value=now.revision
    )
    yield GaugeMetricFamily(
        "relay_state_age_seconds", "Since the feed knew this state to be the newest.", value=now.age_s
    )
    serving = {each.value: int(each.value == now.serving) for each in Serving}
    yield gauges(
        "relay_state_serving", "1 for what is served: the state, or control and why.", "why", serving
    )
    names = tuple(each.value for each in Refusal)
    yield counters("relay_state_refused", "Files of state that did not count.", "reason", now.refused, names)
