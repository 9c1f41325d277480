"""Which way media goes: by the relay, directly, or both while it is not certain which.

    RELAY --up--> PROVING --good for a while--> DIRECT --late, loses, moved--> DOUBT --good again--> DIRECT
      ^              |                            |                             |
      '--------------'-------- dead, closed ------'-----------------------------'

The relay never stops being there: it carries alone, beside the direct path, or stands by. Must never live
here: sockets, clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from relay.client.health import Health
from relay.client.ladder import is_bad
from relay.errors import LocalError

PROVE_S: Final = 0.5  # a new path carries beside the relay for so long
TRUST_S: Final = 0.3  # and one that was doubted, after its last doubt


class Way(Enum):
    """What carries."""

    RELAY = "relay"
    PROVING = "proving"  # both; the direct path is new
    DIRECT = "direct"
    DOUBT = "doubt"  # both; an answer on the direct path is late, or too many are missing


class Up:
    """The direct path is there and the other side proved who it is."""


class Good:
    """It answered in time for long enough."""


class Late:
    """An answer is late, the path loses what a voice needs, or an end of it moved: alone it is not enough."""


class Dead:
    """Nothing comes back, or the connection is closed."""


TRANSITIONS: Final[Mapping[Way, Mapping[type, Way]]] = {
    Way.RELAY: {Up: Way.PROVING, Dead: Way.RELAY},
    Way.PROVING: {Good: Way.DIRECT, Dead: Way.RELAY},
    Way.DIRECT: {Late: Way.DOUBT, Dead: Way.RELAY},
    Way.DOUBT: {Good: Way.DIRECT, Dead: Way.RELAY},
}


class Carrier:
    """The switch between a relay and one direct path."""

    def __init__(self) -> None:
        self.way = Way.RELAY
        self._since = 0.0
        self._doubted = 0  # the newest ping when an end of the path moved

    @property
    def by_relay(self) -> bool:
        """Whether the relay carries now."""
        return self.way is not Way.DIRECT

    @property
    def by_direct(self) -> bool:
        """Whether the direct path carries now."""
        return self.way is not Way.RELAY

    def on_up(self, now: float) -> None:
        """The direct path can carry."""
        self._move(Up)
        self._since, self._doubted = now, 0

    def on_closed(self) -> None:
        """The direct path is gone."""
        self._move(Dead)

    def on_moved(self, health: Health, now: float) -> None:
        """An end of the path moved: the relay carries too until the path answered what was asked since."""
        if self.way is Way.RELAY:
            return
        self._since, self._doubted = now, health.sent
        if self.way is Way.DIRECT:
            self._move(Late)

    def check(self, health: Health, now: float) -> None:
        """Look at how the direct path does; call it before each packet and often enough."""
        if self.way is Way.RELAY:
            return
        if health.is_dead(now):
            self._move(Dead)
        elif health.is_doubtful(now) or is_bad(health, now):
            self._since = now
            if self.way is Way.DIRECT:
                self._move(Late)
        elif self.way is not Way.DIRECT:
            patience = PROVE_S if self.way is Way.PROVING else TRUST_S
            if health.answered > self._doubted and now - self._since >= patience:
                self._move(Good)

    def _move(self, event: type) -> None:
        try:
            self.way = TRANSITIONS[self.way][event]
        except KeyError:
            raise LocalError(f"media by {self.way.value} takes no {event.__name__}") from None
