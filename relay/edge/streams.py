"""Legs on byte streams: what a message of theirs is, and when what is for them may leave.

    in    00 control datagram -> handler     01-3F media -> lane     C0 control message -> handler
    out   control messages wait here, media waits in the lane; each is written when what went before has left

So nothing grows old in a buffer where nobody can drop it, and a peer that does not read holds 256 KiB at most
and is closed after 10 s. Must never live here: sockets, HTTP, what a message means.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.handler import Handler
from relay.edge.lane import Lane
from relay.edge.peer import MAX_BACKLOG
from relay.edge.timers import Loop, Timer
from relay.errors import ErrorCode, PeerError
from relay.protocol.address import Address
from relay.protocol.control import MAX_FRAME
from relay.protocol.records import CONTROL, LAST_DATAGRAM

log = logging.getLogger("relay.streams")

CHUNK = 4096  # bytes written before the wire is asked again: as much as the kernel may hold unsent
LOOK_S = 0.010  # between two looks at a wire that was not idle: half a frame
STUCK_S = 10.0  # a wire that takes nothing for so long has nobody at its end


class Wire(Protocol):
    """What carries the messages of one leg."""

    def is_idle(self) -> bool:
        """What was written has left, up to a frame of it."""

    def write(self, message: bytes) -> None:
        """Send one message, whole."""

    def close(self, code: int, reason: str) -> None:
        """Tell the peer this close code after what was written, then end; within a bounded time."""


class _Leg:
    __slots__ = ("control", "heard", "held", "idle", "number", "stuck_since", "timer", "wire")

    def __init__(self, number: int, wire: Wire, now: float) -> None:
        self.number = number
        self.wire = wire
        self.heard = now
        self.control: deque[bytes] = deque()
        self.held = 0  # bytes of `control`
        self.stuck_since: float | None = None
        self.timer: Timer | None = None  # the next look at the wire
        self.idle: Timer | None = None  # the next look at the peer's silence


class Streams:
    """All legs on streams. `attach` a handler before the first of them."""

    def __init__(
        self,
        loop: Loop,
        limits: LimitsConfig,
        lane: Lane,
        *,
        number: Callable[[], int],
        flush: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._lane = lane
        self._number = number
        self._flush = flush
        self._clock = clock
        self._legs: dict[int, _Leg] = {}
        self._handler: Handler
        self.received = 0
        """Messages of peers: received = sum(handled) + sum(dropped)."""
        self.handled: Counter[str] = Counter()
        """By kind: media, datagram, control."""
        self.dropped: Counter[DropReason] = Counter()
        self.sent = 0
        """Messages written."""
        self.unsent = 0
        """Control datagrams for which there was no room."""
        self.internal_errors = 0

    def attach(self, handler: Handler) -> None:
        """Name who hears the facts."""
        self._handler = handler

    def configure(self, limits: LimitsConfig) -> None:
        """Limits for legs that come from now on."""
        self._limits = limits

    def __len__(self) -> int:
        return len(self._legs)

    def imbalance(self) -> int:
        """How far `received = handled + dropped` is from holding."""
        return abs(self.received - sum(self.handled.values()) - sum(self.dropped.values()))

    def last_heard(self, leg: int) -> float | None:
        """When the leg last sent anything, monotonic seconds."""
        known = self._legs.get(leg)
        return known.heard if known is not None else None

    # ------------------------------------------------------------ coming and going

    def open(self, wire: Wire, address: Address, transport: str) -> int:
        """A peer finished its handshake: a leg begins. Its number."""
        now = self._clock()
        leg = _Leg(self._number(), wire, now)
        self._legs[leg.number] = leg
        self._lane.open_stream(leg.number)
        self._watch(leg, now)
        self._handler.opened(leg.number, address, True, transport, self)
        return leg.number

    def _watch(self, leg: _Leg, now: float) -> None:
        """Silence ends a leg (as RFC 9000 section 10.1 has it for the others)."""
        leg.idle = None
        due = leg.heard + self._limits.idle_s
        if due <= now:
            self.close(leg.number, ErrorCode.IDLE_TIMEOUT, "")
        else:
            leg.idle = self._loop.call_at(due, lambda: self._watch(leg, self._clock()))

    def lost(self, number: int, code: int) -> None:
        """The peer is gone, with this code; nothing if we closed the leg."""
        leg = self._forget(number)
        if leg is not None:
            self._handler.lost(number, code)

    def close(self, leg: int, code: int, reason: str) -> None:
        """Close with an application code, after what was written before."""
        gone = self._forget(leg)
        if gone is None:
            return
        for message in gone.control:
            self._write(gone, message)
        gone.wire.close(code, reason)
        self._handler.lost(leg, code)

    def broken(self, number: int) -> None:
        """The lane met a bug of ours over this leg: it costs the leg."""
        if number in self._legs:
            self.internal_errors += 1
            self.close(number, ErrorCode.INTERNAL, "")

    def _forget(self, number: int) -> _Leg | None:
        leg = self._legs.pop(number, None)
        if leg is not None:
            self._lane.close_path(number)
            for timer in (leg.timer, leg.idle):
                if timer is not None:
                    timer.cancel()
        return leg

    # ------------------------------------------------------------ in

    def heard(self, number: int) -> None:
        """The peer gave a sign of life that is no message."""
        leg = self._legs.get(number)
        if leg is not None:
            leg.heard = self._clock()

    def message(self, number: int, data: bytes) -> None:
        """One message of the peer."""
        leg = self._legs.get(number)
        if leg is None:
            return
        self.received += 1
        leg.heard = self._clock()
        try:
            self._message(leg, data)
        except Exception as error:  # a bug of ours: it costs this leg
            self.internal_errors += 1
            self.dropped[DropReason.INTERNAL] += self.imbalance()  # 1 unless it was counted already
            log.error("internal error while handling a message", exc_info=error)
            self.close(number, ErrorCode.INTERNAL, "")

    def _message(self, leg: _Leg, data: bytes) -> None:
        first = data[0] if data else 0xFF
        if first == 0:
            self.handled["datagram"] += 1
            self._handler.datagram(leg.number, data)
        elif first <= LAST_DATAGRAM:
            self.handled["media"] += 1
            self._lane.deliver(leg.number, data, leg.heard)
            self._flush()
        elif first != CONTROL:
            self.dropped[DropReason.MALFORMED] += 1
            self.close(leg.number, ErrorCode.PROTOCOL_VIOLATION, "neither a datagram nor a control message")
        elif len(data) > 1 + MAX_FRAME:
            self.dropped[DropReason.TOO_LARGE] += 1
            self.close(leg.number, ErrorCode.TOO_LARGE, "control frame too large")
        else:
            self.handled["control"] += 1
            frame = data[1:]
            self._handler.stream(leg.number, len(frame).to_bytes(2, "big") + frame, False)

    def refuse(self, number: int, error: PeerError) -> None:
        """The peer sent what is no message."""
        if number in self._legs:
            self.received += 1
            is_long = error.code == ErrorCode.TOO_LARGE
            self.dropped[DropReason.TOO_LARGE if is_long else DropReason.MALFORMED] += 1
            self.close(number, error.code, error.message)

    # ------------------------------------------------------------ out

    def send_stream(self, leg: int, data: bytes) -> None:
        """Send whole frames of the control stream, each as a message, as soon as the wire takes them."""
        known = self._legs.get(leg)
        if known is None:
            return
        for message in _messages(data):
            known.held += len(message)
            known.control.append(message)
        if known.held > MAX_BACKLOG:
            self._give_up(known)
        else:
            self.pump(leg)

    def send_datagram(self, leg: int, data: bytes) -> None:
        """Send a control datagram now, if the leg can take one."""
        known = self._legs.get(leg)
        if known is None:
            return
        if known.timer is None and known.wire.is_idle():
            self._write(known, data)
        else:
            self.unsent += 1

    def pump(self, leg: int) -> None:
        """Something waits for the leg: write it, or look again when the wire may be idle."""
        known = self._legs.get(leg)
        if known is not None and known.timer is None:
            self._pump(known)

    def _pump(self, leg: _Leg) -> None:
        leg.timer = None
        now = self._clock()
        if not leg.wire.is_idle():
            if leg.stuck_since is None:
                leg.stuck_since = now
            elif now - leg.stuck_since > STUCK_S:
                self._give_up(leg)
                return
        else:
            leg.stuck_since = None
            if self._write_some(leg, now):
                return
        leg.timer = self._loop.call_at(now + LOOK_S, partial(self._pump, leg))

    def _write_some(self, leg: _Leg, now: float) -> bool:
        """Write up to a chunk; True when nothing waits any more."""
        room = CHUNK
        while room > 0:
            if leg.control:
                message = leg.control.popleft()
                leg.held -= len(message)
                copies = [message]
            else:
                copies = self._lane.drain(leg.number, now, room)
                if not copies:
                    return True
            for copy in copies:
                self._write(leg, copy)
                room -= len(copy)
        return False

    def _write(self, leg: _Leg, message: bytes) -> None:
        self.sent += 1
        leg.wire.write(message)

    def _give_up(self, leg: _Leg) -> None:
        leg.control.clear()  # it reads nothing: no use
        self.close(leg.number, ErrorCode.OVERLOADED, "does not read")


def _messages(data: bytes) -> Iterator[bytes]:
    """Whole frames of a control stream, without their lengths, as messages."""
    at = 0
    while at < len(data):
        following = at + 2 + int.from_bytes(data[at : at + 2], "big")
        yield bytes((CONTROL,)) + data[at + 2 : following]
        at = following
