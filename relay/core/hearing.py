"""How well a listener hears a speaker, from the listener's reports: windows of 5 s, sums for the record.

    leg report of B --flow--> speaker A --Hearing--> Window --> Direction (quality.py)

Counters are those of the speaker, so what is missing in a report was lost on either hop: it is counted as
lost on the way down, and nothing on the way up. Must never live here: how a window is judged.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from relay.config import Config
from relay.core.losses import Gaps, Settled
from relay.core.quality import Direction, Window
from relay.core.rates import packet_ms
from relay.protocol.datagram import FlowReport

USUAL_PTIME_MS: Final = 20
FRESH_PACKETS: Final = 32  # what a report must tell beyond the last; its map has 64, and some are not settled
_U16: Final = 0xFFFF
_TENTHS: Final = 10  # reports count delays in 0.1 ms


class Hearing:
    """A -> B: the window that is open, and the direction so far."""

    def __init__(self, config: Config, now: float) -> None:
        self._config = config
        self._direction = Direction(config.quality)
        self._gaps = Gaps(config.quality.gap_ms)
        self._settled: dict[int, Settled] = {}  # by key
        self._late: int | None = None
        self._newest = (0, 0)  # counter, listener's ms
        self._ptime = USUAL_PTIME_MS
        self._missing = 0  # in a row, up to now
        self.window: Window | None = None
        """The newest that is over."""
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = now
        self._came = self._lost = self._came_late = 0
        self._silence = 0.0
        self._jitter: list[float] = []
        self._playout = 0
        self._bps = float(self._config.adapt.high_bps)

    @property
    def direction(self) -> Direction:
        """What was judged so far."""
        return self._direction

    def on_report(
        self,
        flow: FlowReport,
        at_ms: int,
        rtt_up: float | None,
        rtt_down: float | None,
        now: float,
        *,
        bps: float | None = None,
    ) -> bool:
        """What B says of A at `at_ms` by its clock. Round trips in seconds, None if nobody measured them.

        `bps`: what A was asked to speak with; the least of a window counts. None: as much as we ask for.
        True when a window begins, for which they should be known; `window` is the one before, if any. Reports
        that say hardly more than the last are left out: quality is judged of all listeners, and each five
        seconds only.
        """
        is_first = not self._settled
        self._bps = min(self._bps, float(self._config.adapt.high_bps) if bps is None else bps)
        came_at = at_ms - flow.age_ms  # in an outage the newest came long before the report
        fresh = flow.newest - self._newest[0]
        if flow.kid in self._settled:
            if 0 <= fresh < FRESH_PACKETS and now - self._since < self._config.quality.window_s:
                return False
            self._ptime = packet_ms(fresh, came_at - self._newest[1], self._ptime)
        else:
            self._settled.clear()  # one key at a time
            self._settled[flow.kid] = Settled(max(1, ceil(self._config.adapt.playout_ms / self._ptime)))
        self._newest = flow.newest, came_at
        ptime = self._ptime
        for came in self._settled[flow.kid].on_report(flow.base, flow.map):
            self._gaps.on_packet(came, ptime)
            self._came += came
            self._lost += not came
            self._missing = 0 if came else self._missing + 1
            self._silence = max(self._silence, float(self._missing * ptime))
        if self._late is not None:
            self._came_late += flow.late - self._late & _U16
        self._late = flow.late
        if flow.delay_p95 is not None and flow.delay_min is not None:
            self._jitter.append((flow.delay_p95 - flow.delay_min) / _TENTHS)
        self._playout = flow.jb_ms
        if now - self._since < self._config.quality.window_s:
            return is_first
        window = self._window(ptime, rtt_up, rtt_down, now)
        self._direction.on_window(window)
        self.window = window
        self._begin(now)
        return True

    def on_told(self, window: Window) -> None:
        """A window that another node saw."""
        self._direction.on_window(window)
        self.window = window

    def _window(self, ptime: int, rtt_up: float | None, rtt_down: float | None, now: float) -> Window:
        expected = self._came + self._lost
        return Window(
            expected=expected,
            seconds=now - self._since,
            ptime=float(ptime),
            bps=self._bps,  # what A is asked for; nobody counts what A does
            lost_up=0.0,
            lost_down=self._lost / expected if expected else None,
            late=min(1.0, self._came_late / expected) if expected else None,
            rtt_up=None if rtt_up is None else 1000 * rtt_up,
            rtt_down=None if rtt_down is None else 1000 * rtt_down,
            playout=float(self._playout),
            jitter=sum(self._jitter) / len(self._jitter) if self._jitter else None,
            gaps=self._gaps.take(),
            silence=self._silence,
        )
