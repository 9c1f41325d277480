"""Which calls are traced, for how long, and how their files fill: `relay qlog`, and the share of `[qlog]`.

    flagged, or begun --look--> each leg: a trace that aioquic fills, counters of the lane each second
                                  `--> records --> folder, until a limit, the leg's end, the call's end

A call that is not flagged is never looked at. Must never live here: what a qlog may hold (quic/qlog.py),
files (ops/qlogs.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from relay.config_qlog import QlogConfig
from relay.core import events as ev
from relay.core.record import EventKind
from relay.edge.assembly import Node
from relay.edge.timers import Loop
from relay.errors import ErrorCode
from relay.ops.commands import Answer, QlogWish
from relay.ops.qlogs import Chunk, QlogFolder, name_of
from relay.protocol.ids import CallId
from relay.quic.qlog import Trace

log = logging.getLogger("relay.qlogs")

BEGINNINGS: Final = frozenset((EventKind.RINGING.value, EventKind.ADOPTED.value))
LAST_ROOM: Final = 256  # bytes that the last record takes at most
LONGEST: Final = 32  # digits of a call's id
TIDY_EVERY: Final = 3_600.0
MOST_ENDED: Final = 64  # legs whose last records wait; of more, while the disk does not answer, they are lost


@dataclass(slots=True)
class _Traced:
    """A leg and its file."""

    name: str
    trace: Trace
    written: int = 0
    why: str = ""
    """Why nothing more is written; empty while it is."""


@dataclass(slots=True)
class _Flagged:
    """A call."""

    cid: CallId
    until: float
    legs: dict[int, _Traced] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [leg.name for leg in self.legs.values()]


def is_sampled(cid: CallId, share: float) -> bool:
    """Whether the call is of the share: by its id, so that all nodes agree."""
    if share <= 0.0:
        return False
    drawn = int.from_bytes(hashlib.sha256(b"qlog|" + cid).digest()[:8], "big") / 2**64
    return drawn < share


class Qlogs:
    """Those of one daemon."""

    def __init__(
        self,
        config: QlogConfig,
        node: Node,
        loop: Loop,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self._node = node
        self._loop = loop
        self._clock = clock
        self._wall = wall
        self._folder = QlogFolder()
        self._calls: dict[CallId, _Flagged] = {}
        self._ended: list[_Traced] = []
        """Legs that are over, until their last record is handed on."""
        self._begun = 0
        self._will_look = False
        self._tidy_at = clock()

    # ------------------------------------------------------------ which calls

    def order(self, wish: QlogWish) -> Answer:
        """Flag a call that runs, or let go of it."""
        digits = wish.qlog.lower()
        if not self.config.path:
            return ErrorCode.NOT_ENABLED, "qlog.path is empty: name a folder, reload", {}
        if not 0 < len(digits) <= LONGEST:
            return ErrorCode.CALL_NOT_FOUND, "no call runs here whose id begins so", {}
        known = [cid for cid in self._node.engine.call_ids() if cid.hex().startswith(digits)]
        if len(known) != 1:
            why = f"{len(known)} calls begin so: give more digits" if known else "no such call runs here"
            return ErrorCode.CALL_NOT_FOUND, why, {}
        return self._switch_on(known[0]) if wish.on else self._switch_off(known[0])

    def _switch_on(self, cid: CallId) -> Answer:
        if not self._flag(cid):
            why = f"{len(self._calls)} calls are flagged already: qlog.calls"
            return ErrorCode.QUOTA, why, {}
        self.look()
        flagged = self._calls.get(cid)
        if flagged is None:  # a write of a moment ago failed
            return ErrorCode.INTERNAL, "qlogs cannot be written: the log says why", {}
        files = [f"{self.config.path}/{name}" for name in flagged.names()]
        facts = {"call": cid.reference, "seconds": self.config.seconds, "files": files}
        return ErrorCode.NO_ERROR, "", facts

    def _switch_off(self, cid: CallId) -> Answer:
        flagged = self._calls.get(cid)
        if flagged is None:
            return ErrorCode.CALL_NOT_FOUND, "the call is not flagged", {}
        files = [f"{self.config.path}/{name}" for name in flagged.names()]
        self._end(flagged, "order")
        self.look()
        return ErrorCode.NO_ERROR, "", {"call": cid.reference, "files": files}

    def _flag(self, cid: CallId) -> bool:
        """From now on, or for as long again; False: there are too many."""
        flagged = self._calls.get(cid)
        until = self._clock() + self.config.seconds
        if flagged is not None:
            flagged.until = until
            return True
        if len(self._calls) >= self.config.calls:
            return False
        self._calls[cid] = _Flagged(cid, until)
        log.info("a qlog begins", extra={"call": cid.reference})
        return True

    def on_event(self, event: ev.CallEvent) -> None:
        """A call began that is of the share; or somebody came to one that is flagged."""
        share = self.config.share
        if not self._calls and (share <= 0.0 or not self.config.path):
            return
        if "call" not in event.data:
            return
        cid = CallId(bytes.fromhex(event.data["call"]))
        if self.config.path and event.kind in BEGINNINGS and is_sampled(cid, share):
            self._flag(cid)
        if cid in self._calls and not self._will_look:
            self._will_look = True
            self._loop.call_soon(self.look)  # the engine is in the middle of something

    # ------------------------------------------------------------ what is traced

    def look(self) -> None:
        """Once a second: whose legs came and went, what the lane counted, what a limit ends; then write."""
        self._will_look = False
        now = self._clock()
        if problem := self._folder.problem():
            log.warning("qlogs cannot be written", extra={"why": problem})
            for flagged in list(self._calls.values()):
                self._end(flagged, "disk")
            self._ended.clear()
            return
        if not self._calls and not self._ended:
            if now >= self._tidy_at and self.config.path and not self._folder.is_busy:
                self._tidy_at = now + TIDY_EVERY
                self._folder.write(self.config, [])  # each new file tidies up, too
            return
        for flagged in list(self._calls.values()):
            seats = self._node.engine.seated(flagged.cid)
            if seats is None:
                self._end(flagged, "call_over")
            elif now >= flagged.until:
                self._end(flagged, "qlog.seconds")
            else:
                self._follow(flagged, seats, now)
        self._write()

    def _follow(self, flagged: _Flagged, seats: list[ev.Seated], now: float) -> None:
        """A trace for each leg, and none for those that are gone."""
        here = {seat.leg for seat in seats}
        for leg in [leg for leg in flagged.legs if leg not in here]:
            self._end_leg(leg, flagged.legs.pop(leg), "leg_gone")
        for seat in seats:
            if seat.leg not in flagged.legs:
                flagged.legs[seat.leg] = self._begin(flagged.cid, seat)
        traced = [seat for seat in seats if not flagged.legs[seat.leg].why]
        ways = {way.leg: way for way in self._node.lane.measure([seat.leg for seat in traced], now)}
        flows = [(seat.leg, seat.up) for seat in traced if seat.up is not None]
        heard = {leg: count for (leg, _), (_, count) in self._node.lane.flowing(flows).items()}
        for seat in traced:
            trace = flagged.legs[seat.leg].trace
            way = ways.get(seat.leg)
            if way is not None and way.rtt is not None:
                trace.note("recovery:metrics_updated", _round_trip(way.rtt))
            trace.note("relay:lane", _counted(heard.get(seat.leg, 0), way))

    def _begin(self, cid: CallId, seat: ev.Seated) -> _Traced:
        reference = cid.reference
        trace = Trace(
            f"call {reference}, participant {seat.index} by {seat.transport}",
            reference,
            clock=self._clock,
            wall=self._wall,
        )
        self._node.endpoint.trace(seat.leg, trace)
        self._begun += 1  # a leg may be flagged twice in a second
        return _Traced(name_of(reference, seat.index, self._wall(), self._begun), trace)

    def _end(self, flagged: _Flagged, why: str) -> None:
        del self._calls[flagged.cid]
        for number, leg in flagged.legs.items():
            self._end_leg(number, leg, why)
        log.info("a qlog ends", extra={"call": flagged.cid.reference, "why": why})

    def _end_leg(self, number: int, leg: _Traced, why: str) -> None:
        """Nothing more is told of it; what was told is written with the next look."""
        if leg.why:
            return
        leg.why = why
        self._node.endpoint.trace(number, None)
        if len(self._ended) < MOST_ENDED:
            self._ended.append(leg)

    # ------------------------------------------------------------ out

    def _write(self) -> None:
        """All that was told since the last time; nothing while the disk has not taken that."""
        if self._folder.is_busy:
            return
        chunks: list[Chunk] = []
        for flagged in self._calls.values():
            for number, leg in flagged.legs.items():
                if not leg.why and (data := self._fill(leg)):
                    if leg.why:
                        self._node.endpoint.trace(number, None)
                    chunks.append((leg.name, data))
        for leg in self._ended:
            data = self._fill(leg)
            chunks.append((leg.name, data + leg.trace.last(leg.why)))
        self._ended.clear()
        if chunks:
            self._folder.write(self.config, chunks)

    def _fill(self, leg: _Traced) -> bytes:
        """What fits of what was told; with the last record, and `why`, once that is not all."""
        most = self.config.file_bytes - LAST_ROOM
        fitting = bytearray()
        for record in leg.trace.take():
            if leg.written + len(fitting) + len(record) > most:
                if not leg.why:
                    leg.why = "qlog.file_bytes"
                    fitting += leg.trace.last(leg.why)
                break
            fitting += record
        leg.written += len(fitting)
        return bytes(fitting)

    async def close(self) -> None:
        """The daemon ends: write what there is."""
        for flagged in list(self._calls.values()):
            self._end(flagged, "daemon_stopped")
        await asyncio.to_thread(self._folder.settle)
        self._write()
        await asyncio.to_thread(self._folder.close)


def _round_trip(rtt: tuple[float, float, float, float]) -> dict[str, float]:
    """What the lane measured, as a qlog has it: ms."""
    names = ("latest_rtt", "smoothed_rtt", "rtt_variance", "min_rtt")
    return {name: round(seconds * 1000, 3) for name, seconds in zip(names, rtt, strict=True)}


def _counted(heard: int, way: ev.Measure | None) -> dict[str, Any]:
    """The lane's counters of a leg since it began. Without a packet path, on TCP, it has but the first."""
    found: dict[str, Any] = {"up_forwarded": heard}
    if way is not None:
        found |= {
            "down_acked": way.acked,
            "down_lost": way.lost,
            "down_loss_runs": way.runs,
            "down_bytes": way.bytes_sent,
            "down_bytes_acked": way.bytes_acked,
            "ack_delay": round(way.ack_delay * 1000, 3),
            "oldest_waiting": round(way.age * 1000, 3),
            "repeats": way.repeats,
            "repeat_bytes": way.repeat_bytes,
            "repairs_in_time": way.came,
            "repairs_late": way.late,
            "up_mended": way.mended,
        }
    return found
