"""What one listener was sent and did not acknowledge, and what of it goes again: the state of repair.

    beside        a packet leaves anyway -> the repeats that go along, by relay/protocol/repair.py
    alone         nothing leaves for a while -> one repeat, once per pause
    asked         the listener names what it misses -> repeats by themselves, each copy twice at most
    left          which packet took what along          acknowledged   that packet came

A copy is kept until any packet that carried it was acknowledged, it is too old to be played, or its gate
closes: 64 of a flow, 24 KiB of a leg. The native lane has the same (relay/lane/src/repeats.rs), this one is
its oracle. Pure: no socket, no clock. Must never live here: the rule itself, and what a network bears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from relay.core.adapt import Mode
from relay.core.events import Repair
from relay.edge.lane import RepairCounters
from relay.edge.room import room_of
from relay.protocol import media, nack, repair
from relay.protocol.datagram import Nack

RING: Final = 64  # copies of one flow
RING_BYTES: Final = 24 * 1024  # of a leg: 64 of voice
BESIDE: Final = 192  # bytes that a kept copy takes in the native lane beside its buffer
CARRIERS: Final = 16  # packets of which one copy is remembered to be in, the newest
GAP: Final = 0.070  # s without a packet: speech comes each 60 ms at least
MARGIN: Final = 0.002  # s: timers come a little early, and floats are not exact


class _Kept:
    __slots__ = ("again", "asked", "carriers", "ctr", "kid", "out", "room", "sent")

    def __init__(self, out: int, kid: int, ctr: int, sent: repair.Sent, again: bytes, carrier: int) -> None:
        self.out = out
        self.kid = kid
        self.ctr = ctr
        self.sent = sent
        self.again = again  # with R set
        self.asked = 0  # so often it left because of that
        self.room = room_of(len(again)) + BESIDE
        self.carriers = [carrier]


class Ring:
    """One listener's. `all_counters` counts the same for the whole lane."""

    def __init__(self, all_counters: RepairCounters) -> None:
        self.counters = RepairCounters()
        self._both = (self.counters, all_counters)
        self._rule = Repair()
        self._left: float | None = None  # repeats that may leave; None: never told
        self._kept: list[_Kept] = []  # in the order in which they left
        self._held = 0
        self._going: list[_Kept] = []  # chosen for the packet that is about to leave
        self._is_asked = False  # these
        self._asked_left = nack.SAVED  # repeats that may be asked for
        self._left_at = 0.0
        self._is_pause_used = False

    def tell(self, rule: Repair) -> None:
        """Repair goes like this from now on. The first allowance is full: a first outage is repaired."""
        self._rule = rule
        if rule.mode is Mode.OFF:
            self.clear()
        else:
            self._left = rule.depth if self._left is None else min(self._left, rule.depth)

    # ------------------------------------------------------------ what leaves

    def beside(
        self,
        copies: Sequence[bytes],
        now: float,
        rtt: tuple[float, float] | None,
        room: int,
        takes: Callable[[int], bool],
    ) -> list[bytes]:
        """Repeats for a packet that leaves with these copies; `room` bytes are free in it.

        `rtt`: smoothed and variance. `takes` charges bytes to the listener's rights, or refuses.
        """
        rule = self._rule
        self._going, self._is_asked = [], False
        if rule.mode is Mode.OFF:
            return []
        assert self._left is not None  # it was told
        for _ in copies:
            self._left = repair.earn(self._left, rule.budget, rule.depth)
            self._asked_left = repair.earn(self._asked_left, nack.SHARE, nack.SAVED)
        self._expire(now)
        if rule.mode is Mode.COPIES:
            for copy in copies:
                room = self._distant(copy, now, room, takes)
        elif rtt is not None:
            self._again(now, rtt, room, repair.MOST, takes)
        return [one.again for one in self._going]

    def alone(
        self, now: float, rtt: tuple[float, float] | None, room: int, takes: Callable[[int], bool]
    ) -> list[bytes]:
        """The repeat that leaves by itself, if any, when `pause_due` says so. There is one try in a pause."""
        self._going, self._is_asked = [], False
        self._is_pause_used = True
        self._expire(now)
        if rtt is not None:
            self._again(now, rtt, room, 1, takes)
        return [one.again for one in self._going]

    def asked(self, ask: Nack, now: float, room: int, takes: Callable[[int], bool]) -> list[bytes]:
        """What leaves by itself since the listener asks for it: within its own allowance."""
        self._going = []
        self._expire(now)
        for one in self._kept:
            if one.out != ask.flow or one.asked >= nack.TRIES or not nack.wants(ask, one.kid, one.ctr):
                continue
            if one.sent.size > room or self._asked_left < 1 or not self._take(one, takes):
                break
            one.asked += 1
            room -= one.sent.size
            self._asked_left -= 1
        self._is_asked = True
        return [one.again for one in self._going]

    def pause_due(self, rtt: tuple[float, float] | None) -> float | None:
        """When something should be repeated by itself if nothing leaves before; None: nothing to repeat."""
        if self._rule.mode is not Mode.REPEATS or self._is_pause_used or not self._kept or rtt is None:
            return None
        wait = repair.patience(self._path(rtt))
        return max(self._kept[0].sent.first_sent + wait, self._left_at + GAP) + MARGIN

    def _again(
        self, now: float, rtt: tuple[float, float], room: int, most: int, takes: Callable[[int], bool]
    ) -> None:
        assert self._left is not None
        waiting = [one.sent for one in self._kept]
        choice = repair.choose(waiting, now, self._path(rtt), self._left, room, most)
        self._left = choice.left
        for position in choice.append:
            if not self._take(self._kept[position], takes):
                return

    def _distant(self, copy: bytes, now: float, room: int, takes: Callable[[int], bool]) -> int:
        assert self._left is not None
        rule, header = self._rule, media.decode(copy)
        ring = {
            one.ctr: one
            for one in self._kept
            if one.out == header.flow and one.kid == header.kid and one not in self._going
        }
        sent = {ctr: one.sent for ctr, one in ring.items()}
        choice = repair.copies(sent, header.ctr, rule.distances, now, rule.max_age, self._left, room)
        self._left = choice.left
        for ctr in choice.append:
            if not self._take(ring[ctr], takes):
                break
            room -= ring[ctr].sent.size
        return room

    def _take(self, one: _Kept, takes: Callable[[int], bool]) -> bool:
        if takes(len(one.again)):
            self._going.append(one)
            return True
        for counters in self._both:
            counters.refused += 1
        return False

    def _path(self, rtt: tuple[float, float]) -> repair.Path:
        return repair.Path(rtt[0], rtt[1], self._rule.ack_slack, self._rule.max_age)

    def left(self, number: int, copies: Sequence[tuple[float, bytes]], overhead: int, now: float) -> None:
        """Packet `number` left with what was chosen last and these copies, each with when it came.

        `overhead`: bytes that a copy takes in a packet besides itself.
        """
        for one in self._going:
            one.carriers.append(number)
            del one.carriers[:-CARRIERS]
        size = sum(len(one.again) for one in self._going)
        is_distant = self._rule.mode is Mode.COPIES
        is_asked, self._is_asked = self._is_asked, False
        for counters in self._both:
            counters.bytes += size
            if is_asked:
                counters.asked += len(self._going)
            elif not copies:
                counters.alone += len(self._going)
            elif is_distant:
                counters.distant += len(self._going)
            else:
                counters.beside += len(self._going)
        self._going = []
        if not copies:
            return
        self._left_at = now
        self._is_pause_used = False
        if self._rule.mode is Mode.OFF:
            return
        for came, copy in copies:
            self._keep(copy, came, number, overhead, now)

    def _keep(self, copy: bytes, came: float, number: int, overhead: int, now: float) -> None:
        header = media.decode(copy)
        if not repair.is_worth(header, len(copy)):
            return
        room = room_of(len(copy)) + BESIDE
        of_flow = [one for one in self._kept if one.out == header.flow]
        if len(of_flow) >= RING:
            self._end(of_flow[:1])
        while self._held + room > RING_BYTES:
            self._end(self._kept[:1])
        sent = repair.Sent(came, now, len(copy) + overhead, True)
        again = media.with_flow(copy, header.flow, True)
        self._kept.append(_Kept(header.flow, header.kid, header.ctr, sent, again, number))
        self._held += room
        for counters in self._both:
            counters.kept += 1
            counters.holding += 1

    # ------------------------------------------------------------ what is over

    def acknowledged(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Packets with these numbers came, and what was in them."""
        gone = [
            one
            for one in self._kept
            if any(start <= number < stop for number in one.carriers for start, stop in ranges)
        ]
        self._remove(gone)
        for counters in self._both:
            counters.acked += len(gone)

    def end(self, out: int) -> None:
        """The listener may no longer hear this flow."""
        self._end([one for one in self._kept if one.out == out])

    def clear(self) -> None:
        """Nothing is repeated any more."""
        self._end(self._kept)

    def _end(self, gone: list[_Kept]) -> None:
        count = len(gone)
        self._remove(gone)
        for counters in self._both:
            counters.ended += count

    def _expire(self, now: float) -> None:
        gone = [one for one in self._kept if now - one.sent.came > self._rule.max_age]
        self._remove(gone)
        for counters in self._both:
            counters.late += len(gone)

    def _remove(self, gone: list[_Kept]) -> None:
        if not gone:
            return
        self._held -= sum(one.room for one in gone)
        for counters in self._both:
            counters.holding -= len(gone)
        self._kept = [one for one in self._kept if one not in gone]
