"""The plain twin of the native lane: readable first, and its oracle. Pure: no socket, no clock.

    receive   first byte -> connection id -> path.receive -> routes | queue for the loop
    flush     queues -> as many frames as fit one packet, with repeats (repeats.py) -> path.seal, with the
              acknowledgement that is due

Must never live here: sockets, and what happens once per call.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum

from aioquic.quic.connection import NetworkAddress
from aioquic.quic.rangeset import RangeSet

from relay.config import LimitsConfig
from relay.core.events import Measure, Repair
from relay.core.reasons import DropReason
from relay.edge.lane import (
    MAX_UDP,
    AckShown,
    Broken,
    ControlDatagram,
    FrontKeys,
    Gap,
    Item,
    Known,
    Packet,
    PacketCounts,
    RekeyWanted,
    RepairCounters,
    Stun,
    ToClient,
    Unknown,
    Waiting,
)
from relay.edge.marks import Marks
from relay.edge.path import EARLY, MEDIA_WINDOW, Opened, Path, Trouble
from relay.edge.relays import Relay, Relays
from relay.edge.repeats import Ring
from relay.edge.room import DATAGRAM_OVERHEAD, PACKET_OVERHEAD
from relay.edge.routes import Routes, _Leg
from relay.edge.trunk_line import Leaves, Trunk
from relay.errors import LocalError
from relay.protocol import frames
from relay.protocol.datagram import Nack
from relay.protocol.relayed import SEND, message_type, parse_channel_data
from relay.quic.acks import ACK_HOLD
from relay.quic.connection import MAX_PACKET

log = logging.getLogger("relay.lane")

SLOW_QUEUE = 4096  # of each queue, and of the control datagrams in the first
SLOW_PER_LEG = 128  # packets; twice those that a connection's whole window of control bytes takes
SLOW_PER_HALF_OPEN = 16  # packets; a few times what a handshake takes
NOTES_PER_LEG = 32  # control datagrams
STUN_QUEUE = 1024  # of strangers, and of all allocations
STUN_PER_RELAY = 8


class _Wait(Enum):
    """What something in the heap of `PyLane` waits for."""

    ACK = 0  # an acknowledgement that is held
    PAUSE = 1  # a pause of speech, in which something may be repeated
    HOLD = 2  # what may share a packet


class _Connection:
    __slots__ = ("awaits_pause", "holds", "ids", "leg", "look", "notes", "path", "shown", "waiting")

    def __init__(self, leg: int, path: Path) -> None:
        self.leg = leg
        self.path = path
        self.ids: set[bytes] = set()
        self.waiting = 0  # its packets in the slow queues
        self.notes = 0  # its control datagrams there
        self.shown: _Shown | None = None  # stands for the AckShown that waits there
        self.look: float | None = (
            None  # when to look for a due acknowledgement: heap entries of other times are void
        )
        self.awaits_pause = False  # in it, too
        self.holds = False  # in it: copies wait for what may share their packet


class _Shown:
    """The acknowledgements of one leg that wait for the loop, as one: delay and time are the newest's."""

    __slots__ = ("at", "delay", "largest", "ranges")

    def __init__(self, ack: frames.Ack, at: float) -> None:
        self.largest = ack.ranges[0][1]
        self.delay = ack.delay
        self.at = at
        self.ranges = RangeSet()

    def add(self, ack: frames.Ack, at: float) -> None:
        if ack.ranges[0][1] > self.largest:
            self.largest, self.delay, self.at = ack.ranges[0][1], ack.delay, at
        for start, stop in reversed(ack.ranges):
            self.ranges.add(start, stop)
        while len(self.ranges) > frames.MAX_RANGES:
            self.ranges.shift()

    def tell(self, leg: int) -> AckShown:
        ranges = tuple((part.start, part.stop) for part in reversed(self.ranges))
        return AckShown(leg, ranges, self.delay, self.at)


def _overhead(path: Path) -> int:
    """Bytes that a copy takes in a packet besides itself."""
    return DATAGRAM_OVERHEAD + len(path.prefix)


def _smoothed(path: Path) -> tuple[float, float] | None:
    """Round trip, smoothed, and its variance; None before the first sample."""
    rtt = path.rtt()
    return None if rtt is None else (rtt[1], rtt[2])


class PyLane(Routes, Relays):
    """The lane in plain Python. See `relay.edge.lane.Lane` for the contract of each method."""

    name = "python"

    def __init__(self, limits: LimitsConfig | None = None) -> None:
        limits = limits or LimitsConfig()
        Routes.__init__(self, limits)
        self._marks: Marks | None = None
        Relays.__init__(self, limits)
        self._connections: dict[int, _Connection] = {}
        self._ids: dict[bytes, _Connection] = {}
        # Taken in this order, the last two in turns. Of those known, a connection without an item stands for
        # its `shown`, an allocation without one for the bytes that wait for its client's stream.
        self._announced: deque[Waiting | Broken] = deque()  # of legs without a path
        self._known: deque[tuple[Item | None, _Connection | Relay]] = deque()
        self._half_open: deque[tuple[Known, _Connection]] = deque()
        self._unknown: deque[Unknown] = deque()
        self._stun: deque[Stun] = deque()
        self._was_stun = False  # the last of strangers
        self._owned = 0  # STUN packets in `_known`
        self._takes_stun = False
        self._relayed = 0
        self._packets = 0  # in `_known`
        self._troubled: list[int] = []
        self._controls = 0
        self._notes_lost = 0
        self._acks: list[tuple[float, int, _Connection, _Wait]] = []  # a heap
        self.repairs = RepairCounters()
        self._order = 0
        self._outgoing: list[tuple[Packet, int]] = []  # and how many copies are inside
        self._copies_of: dict[bytes, int] = {}  # packets of the last flush
        self._received = 0
        self._sent = 0
        self._send_errors = 0
        self._media = 0
        self._waiting = 0
        self._taken = 0
        self._dropped: Counter[DropReason] = Counter()

    # ------------------------------------------------------------ connections

    def use_marks(self, fd: int, count: int) -> None:
        self._marks = Marks(fd, count)

    def open_path(self, leg: int) -> Path:
        path = Path(self._marks)
        self._connections[leg] = _Connection(leg, path)
        return path

    def close_path(self, leg: int) -> None:
        super().close_path(leg)
        gone = self._connections.pop(leg, None)
        if gone is not None:
            if gone.path.ring is not None:
                gone.path.ring.clear()
            for cid in gone.ids:
                del self._ids[cid]
            gone.ids.clear()

    def own(self, leg: int, cid: bytes) -> None:
        self.disown(cid)
        owner = self._connections[leg]
        owner.ids.add(cid)
        self._ids[cid] = owner

    def disown(self, cid: bytes) -> None:
        owner = self._ids.pop(cid, None)
        if owner is not None:
            owner.ids.discard(cid)

    # ------------------------------------------------------------ repair

    def tell_repair(self, leg: int, repair: Repair) -> None:
        owner = self._connections.get(leg)
        if owner is None or leg in self._trunks:
            return
        path = owner.path
        if repair.is_none:
            if path.ring is not None:
                path.ring.clear()
            path.ring = None
            return
        if path.ring is None:
            path.ring = Ring(self.repairs)
        path.ring.tell(repair)

    def resend(self, leg: int, ask: Nack, now: float) -> int:
        owner = self._connections.get(leg)
        ring = None if owner is None else owner.path.ring
        if owner is None or ring is None or not owner.path.room(now):
            return 0
        again = ring.asked(ask, now, MAX_PACKET - PACKET_OVERHEAD, self._charger(owner, now))
        if again:
            self._seal(owner, again, 0, now)
            ring.left(owner.path.last_number, [], 0, now)
        return len(again)

    def open_trunk(self, leg: int, *, second: bool = False) -> None:
        owner = self._connections.get(leg)
        if owner is None:
            raise LocalError(f"no connection to be a trunk: {leg}")
        super().open_trunk(leg, second=second)
        self._widen(owner)

    def join_trunk(self, leg: int, trunk: int, *, second: bool) -> None:
        owner = self._connections.get(leg)
        if owner is None:
            raise LocalError(f"no connection to join a trunk: {leg}")
        super().join_trunk(leg, trunk, second=second)
        self._widen(owner)

    def _widen(self, owner: _Connection) -> None:
        path = owner.path
        if path.ring is not None:
            path.ring.clear()
        path.ring = None
        path.window = self._trunks[owner.leg].window

    def _is_cut(self, leg: int) -> bool:
        return leg not in self._connections

    def _close_trunk(self, gone: Trunk) -> None:
        super()._close_trunk(gone)
        owner = self._connections.get(gone.number)
        if owner is not None:
            owner.path.window = MEDIA_WINDOW

    def close_leg(self, leg: int) -> None:
        super().close_leg(leg)
        ring = self._ring(leg)
        if ring is not None:
            ring.clear()

    def _purge(self, listener: _Leg | Trunk, out: int, reason: DropReason) -> None:
        super()._purge(listener, out, reason)
        ring = self._ring(listener.number)
        if ring is not None and self._legs.get(listener.number) is listener:
            ring.end(out)

    def _ring(self, leg: int) -> Ring | None:
        owner = self._connections.get(leg)
        return owner.path.ring if owner is not None else None

    def troubled(self) -> list[int]:
        troubled, self._troubled = self._troubled, []
        return sorted(troubled)

    def _note_trouble(self, owner: _Connection) -> None:
        """What went wrong is told once until it was measured. Nobody adapts the way to another node."""
        if owner.path.trouble is Trouble.NEW and owner.leg not in self._trunks:
            owner.path.trouble = Trouble.NOTED
            self._troubled.append(owner.leg)

    def measure(self, legs: Sequence[int], now: float) -> list[Measure]:
        owners = (self._connections[leg] for leg in legs if leg in self._connections)
        return [self._measure(owner, now) for owner in owners]

    def _measure(self, owner: _Connection, now: float) -> Measure:
        path = owner.path
        if path.trouble is Trouble.NOTED:
            path.trouble = Trouble.NONE
        oldest = self.oldest(owner.leg)
        kept = RepairCounters() if path.ring is None else path.ring.counters
        return Measure(
            owner.leg,
            path.media_acked,
            path.media_lost,
            path.loss_runs,
            path.bytes_sent,
            path.bytes_acked,
            path.ack_delay,
            0.0 if oldest is None else max(0.0, now - oldest),
            path.rtt(),
            kept.acked,
            kept.late,
            kept.beside + kept.distant + kept.alone + kept.asked,
            kept.bytes,
            self.mended(owner.leg),
        )

    # ------------------------------------------------------------ in

    def receive(self, data: bytes, address: NetworkAddress, sock: int, now: float) -> None:
        self._received += 1
        size = len(data)
        first = data[0] if size else 0
        if size <= MAX_UDP and self._receive_turn(data, address, sock, now):
            return
        if size > MAX_UDP or first < 0x40 or 0x80 <= first < 0xC0:
            self._dropped[DropReason.TOO_LARGE if size > MAX_UDP else DropReason.MALFORMED] += 1
            return
        if first < 0x80:
            owner = self._ids.get(data[1:9])
            if owner is not None and self._receive_fast(owner, data, address, sock, now):
                return
        elif size < 7:
            self._dropped[DropReason.MALFORMED] += 1
            return
        else:
            owner = self._ids.get(data[6 : 6 + data[5]])
        if owner is not None:
            self._wait(owner, Known(owner.leg, data, address, sock))
        elif len(self._unknown) >= SLOW_QUEUE:
            self._dropped[DropReason.OVER_BUDGET] += 1
        else:
            self._waiting += 1
            self._unknown.append(Unknown(data, address, sock))

    def _receive_turn(self, data: bytes, address: NetworkAddress, sock: int, now: float) -> bool:
        """False: neither STUN nor ChannelData, or not for us."""
        message = parse_channel_data(data)
        kind = None if message else message_type(data)
        if message is None and kind is None:
            return False
        relay = self.owner_of(address, sock)
        if relay is None and (message is not None or not self._takes_stun):
            return False  # QUIC's, if anybody's
        if relay is not None and (message is not None or kind == SEND):
            self._relayed += 1
            if message is not None:
                self.to_peer(relay, message, now)
            else:
                self.send_indication(relay, data, now)
        elif kind == SEND:
            self._dropped[DropReason.UNKNOWN_ID] += 1  # nobody answers an indication
        else:
            self._wait_stun(relay, Stun(data, address, sock))
        return True

    def _wait_stun(self, relay: Relay | None, packet: Stun) -> None:
        """Clients with an allocation are among the known, strangers for themselves."""
        waiting = len(self._stun) if relay is None else self._owned
        if waiting >= STUN_QUEUE or (relay is not None and relay.waiting >= STUN_PER_RELAY):
            self._dropped[DropReason.OVER_BUDGET] += 1
            return
        self._waiting += 1
        if relay is None:
            self._stun.append(packet)
        else:
            relay.waiting += 1
            self._owned += 1
            self._known.append((packet, relay))

    def receive_relay(self, allocation: int, data: bytes, address: NetworkAddress, now: float) -> None:
        relay = self._relays.get(allocation)
        if relay is not None:
            self._received += 1
            self._relayed += 1
            self.from_peer(relay, data, address, now)

    def _send_to(self, client: tuple[NetworkAddress, int], message: bytes) -> None:
        self._outgoing.append(((client[1], message, client[0]), 0))

    def _tell(self, relay: Relay) -> None:
        self._known.append((None, relay))

    def _wait(self, owner: _Connection, packet: Known) -> None:
        """Let a packet wait for the loop. Strangers who do not finish their handshake crowd out nobody."""
        confirmed = owner.path.confirmed
        count, most = (
            (self._packets, SLOW_PER_LEG) if confirmed else (len(self._half_open), SLOW_PER_HALF_OPEN)
        )
        if count >= SLOW_QUEUE or owner.waiting >= most:
            self._dropped[DropReason.OVER_BUDGET] += 1
            return
        self._waiting += 1
        owner.waiting += 1
        owner.path.slow += 1
        if confirmed:
            self._packets += 1
            self._known.append((packet, owner))
        else:
            self._half_open.append((packet, owner))

    def _show(self, owner: _Connection, ack: frames.Ack, now: float) -> None:
        if owner.shown is None:
            owner.shown = _Shown(ack, now)
            self._known.append((None, owner))
        owner.shown.add(ack, now)

    def _control(self, owner: _Connection, note: ControlDatagram | Gap) -> None:
        if owner.notes >= NOTES_PER_LEG or self._controls >= SLOW_QUEUE:
            self._notes_lost += 1
            return
        owner.notes += 1
        self._controls += 1
        self._known.append((note, owner))

    def _receive_fast(
        self, owner: _Connection, data: bytes, address: NetworkAddress, sock: int, now: float
    ) -> bool:
        """True when the packet is settled; False when aioquic must see it."""
        try:
            opened = owner.path.receive(data, address, sock, now)
        except Exception as error:  # a bug of ours: one peer's packet must not stop the others
            self._dropped[DropReason.INTERNAL] += 1
            self._blame(owner.leg, error)
            return True
        if opened is None:
            return False
        if isinstance(opened, DropReason):
            self._dropped[opened] += 1
            return True
        self._media += 1
        self._note_trouble(owner)
        try:
            self._settle(owner, opened, now)
        except Exception as error:  # as above
            self._blame(owner.leg, error)
        return True

    def _settle(self, owner: _Connection, opened: Opened, now: float) -> None:
        if self.queue_depth(owner.leg):  # its window may have opened, and nothing else may come for it
            self._ready[owner.leg] = None
        if opened.ack is not None:
            self._show(owner, opened.ack, now)
        for payload in opened.datagrams:
            if payload[:1] == b"\0":
                self._control(owner, ControlDatagram(owner.leg, payload))
            else:
                self.deliver(owner.leg, payload, now)
        self._list_ack(owner)

    def _mended(self, leg: int) -> None:
        owner = self._connections.get(leg)
        if owner is not None:
            owner.path.worsened()
            self._note_trouble(owner)

    def _gap(self, leg: int, flow: int, kid: int, newest: int, missing: int) -> None:
        owner = self._connections.get(leg)
        if owner is not None:
            self._control(owner, Gap(leg, flow, kid, newest, missing))

    def deliver(self, leg: int, payload: bytes, now: float) -> DropReason | None:
        try:
            return super().deliver(leg, payload, now)
        except Exception as error:  # over a listener it is contained already: this is the speaker's
            self._blame(leg, error)
            return DropReason.INTERNAL

    def _blame(self, leg: int, error: Exception) -> None:
        log.error("internal error on the packet path", exc_info=error)
        super()._blame(leg, error)
        owner = self._connections.get(leg)
        if owner is not None:
            self._known.append((Broken(leg), owner))
        elif leg in self._streams:
            self._announced.append(Broken(leg))

    def take(self, most: int) -> list[Item]:
        taken: list[Item] = []
        for _ in range(most):
            if not (self._announced or self._known or self._half_open or self._unknown or self._stun):
                break
            if self._announced:
                taken.append(self._announced.popleft())
            elif self._known:
                item = self._told(*self._known.popleft())
                if item is None:
                    continue
                taken.append(item)
            elif self._half_open:
                packet, owner = self._half_open.popleft()
                owner.waiting -= 1
                taken.append(packet)
            else:
                taken.append(self._take_stranger())
            if isinstance(taken[-1], Known | Unknown | Stun):
                self._waiting -= 1
                self._taken += 1
        return taken

    def _take_stranger(self) -> Item:
        """STUN and QUIC in turns, so that a flood of the one does not keep out the other."""
        self._was_stun = bool(self._stun) and (not self._was_stun or not self._unknown)
        return self._stun.popleft() if self._was_stun else self._unknown.popleft()

    def _told(self, item: Item | None, owner: _Connection | Relay) -> Item | None:
        if isinstance(owner, Relay):
            if item is None:
                data = self.fetch(owner)
                return ToClient(owner.number, data) if data else None
            owner.waiting -= 1
            self._owned -= 1
        elif isinstance(item, Known):
            owner.waiting -= 1
            self._packets -= 1
        elif isinstance(item, ControlDatagram | Gap):
            owner.notes -= 1
            self._controls -= 1
        elif item is None:
            shown, owner.shown = owner.shown, None
            assert shown is not None  # it waits once
            return shown.tell(owner.leg)
        return item

    # ------------------------------------------------------------ out

    def flush(self, now: float) -> list[Packet]:
        for leg in self.take_ready():
            self._flush_held(leg, now)
        due = []
        while self._acks and self._acks[0][0] <= now + EARLY:
            due.append(heapq.heappop(self._acks))
        for at, _, owner, wait in due:
            if wait is _Wait.PAUSE:
                owner.awaits_pause = False
            elif wait is _Wait.HOLD:
                owner.holds = False
            elif at == owner.look:
                owner.look = None
            else:
                continue  # it was due earlier, and was looked at
            if owner.leg in self._connections:
                try:
                    if wait is _Wait.PAUSE:
                        self._flush_alone(owner, now)
                    elif wait is _Wait.HOLD:
                        self._flush_held(owner.leg, now)
                    else:
                        self._flush_ack(owner, now)
                except Exception as error:  # the others' leave all the same
                    self._blame(owner.leg, error)
        outgoing, self._outgoing = self._outgoing, []
        self._copies_of = {packet[1]: copies for packet, copies in outgoing}
        return [packet for packet, _ in outgoing]

    def _flush_ack(self, owner: _Connection, now: float) -> None:
        due = owner.path.ack_due
        if due is None:
            return
        if due > now + EARLY:  # or earlier, when what waits for aioquic is done
            self._push_ack(owner, min(due, now + ACK_HOLD) if owner.path.slow else due)
        else:
            self._seal(owner, [], 0, now)

    def _full(self, leg: int, now: float) -> None:
        self._flush_leg(leg, now)

    def _announce(self, leg: int) -> None:
        self._announced.append(Waiting(leg))

    def _flush_held(self, leg: int, now: float) -> None:
        """As `_flush_leg`, once nothing is waited for any more."""
        carrier = self._trunks.get(leg)
        if carrier is not None:
            self._flush_trunk(carrier, now, Leaves.DUE)
            return
        due = self.held_until(leg)
        owner = self._connections.get(leg)
        if due is None or due <= now + EARLY or owner is None:
            self._flush_leg(leg, now)
        elif not owner.holds:
            owner.holds = True
            self._push(due, owner, _Wait.HOLD)

    def _flush_leg(self, leg: int, now: float) -> None:
        """Seal the audio that waits for a leg, as far as its path takes it."""
        owner = self._connections.get(leg)
        if owner is None:
            return
        batch: list[tuple[float, bytes]] = []
        try:
            while owner.path.room(now):
                batch = self._batch(owner, now)
                if not batch:
                    break
                self._send(owner, batch, now)
                batch = []
        except Exception as error:  # the other listeners go on
            self.counters.sent -= len(batch)
            self._blame(leg, error)
        self._note_trouble(owner)

    def _flush_trunk(self, carrier: Trunk, now: float, leaves: Leaves) -> None:
        owner = self._connections.get(carrier.number)
        if owner is None:
            return
        path = owner.path
        waits: float | None = None
        batch: list[bytes] = []
        try:
            while (due := carrier.due) is not None:
                is_due = leaves is Leaves.DUE and due <= now
                if not (carrier.is_full or is_due or leaves is Leaves.ALL):
                    waits = due
                    break
                rtt = path.rtt()
                round_trip = None if rtt is None else rtt[1] + path.ack_delay
                path.window = carrier.widen(path.bytes_acked, round_trip, now)
                if not path.room(now):  # an acknowledgement will open it
                    break
                batch = self.take_carried(carrier, now)
                if not batch:
                    break
                self._seal(owner, batch, len(batch), now)
                batch = []
        except Exception as error:  # the others go on
            self.counters.sent -= len(batch)
            self._blame(carrier.number, error)
        if waits is not None and leaves is Leaves.DUE and not owner.holds:
            owner.holds = True
            self._push(waits, owner, _Wait.HOLD)

    def _is_moving(self, leg: int) -> bool:
        owner = self._connections.get(leg)
        return owner is not None and owner.path.confirmed and not owner.path.active

    def _batch(self, owner: _Connection, now: float) -> list[tuple[float, bytes]]:
        """Copies for one packet, each with when its time began to run."""
        leg = owner.leg
        first = self.take_copy(leg, now)
        if first is None:
            return []
        batch = [first]
        overhead = _overhead(owner.path)
        room = MAX_PACKET - PACKET_OVERHEAD - DATAGRAM_OVERHEAD - len(first[1]) - overhead
        while self.queue_depth(leg):
            more = self.take_copy(leg, now, room)
            if more is None:
                break
            batch.append(more)
            room -= len(more[1]) + overhead
        return batch

    def _send(self, owner: _Connection, batch: list[tuple[float, bytes]], now: float) -> None:
        """One packet with these copies, and with what goes again beside them."""
        path = owner.path
        copies = [copy for _, copy in batch]
        if path.ring is None:
            self._seal(owner, copies, len(copies), now)
            return
        overhead = _overhead(path)
        room = MAX_PACKET - PACKET_OVERHEAD - sum(len(copy) + overhead for copy in copies)
        again = path.ring.beside(copies, now, _smoothed(path), room, self._charger(owner, now))
        self._seal(owner, copies + again, len(copies), now)
        path.ring.left(path.last_number, batch, overhead, now)
        self._list_pause(owner)

    def _flush_alone(self, owner: _Connection, now: float) -> None:
        """Nothing left for a while: one repeat may go by itself, since the next packet may come too late."""
        path, ring = owner.path, owner.path.ring
        due = None if ring is None else ring.pause_due(_smoothed(path))
        if ring is None or due is None:
            return
        if due > now + EARLY:  # something left meanwhile
            self._list_pause(owner)
            return
        if not path.room(now):
            return
        room = MAX_PACKET - PACKET_OVERHEAD
        again = ring.alone(now, _smoothed(path), room, self._charger(owner, now))
        if again:
            self._seal(owner, again, 0, now)
            ring.left(path.last_number, [], 0, now)

    def _list_pause(self, owner: _Connection) -> None:
        ring = owner.path.ring
        if owner.awaits_pause or ring is None:
            return
        due = ring.pause_due(_smoothed(owner.path))
        if due is not None:
            owner.awaits_pause = True
            self._push(due, owner, _Wait.PAUSE)

    def _charger(self, owner: _Connection, now: float) -> Callable[[int], bool]:
        return lambda size: self.charge(owner.leg, size, now)

    def _seal(self, owner: _Connection, datagrams: list[bytes], copies: int, now: float) -> None:
        path = owner.path
        packet = path.seal(datagrams, now)
        assert path.address is not None  # it is active
        self._sent += 1
        self._outgoing.append(((path.sock, packet, path.address), copies))
        if path.wants_update():
            self._known.append((RekeyWanted(owner.leg), owner))

    def unsent(self, packet: Packet) -> None:
        copies = self._copies_of.get(packet[1], 0)
        self._sent -= 1
        self._send_errors += 1
        self.counters.sent -= copies
        self.counters.dropped_out[DropReason.SEND_ERROR] += copies

    def unsent_to_peer(self) -> None:
        self._sent -= 1
        self._send_errors += 1

    def next_ack(self) -> float | None:
        return self._acks[0][0] if self._acks else None

    def _list_ack(self, owner: _Connection) -> None:
        """The peer may have to be acknowledged: at the latest in a while, by itself if no audio leaves."""
        due = owner.path.ack_at
        if due is not None and (owner.look is None or due < owner.look):
            self._push_ack(owner, due)

    def _push_ack(self, owner: _Connection, due: float) -> None:
        owner.look = due
        self._push(due, owner, _Wait.ACK)

    def _push(self, due: float, owner: _Connection, wait: _Wait) -> None:
        self._order += 1
        heapq.heappush(self._acks, (due, self._order, owner, wait))

    def use_front(self, keys: FrontKeys, limits: LimitsConfig) -> None: ...

    def limit_front(self, limits: LimitsConfig) -> None: ...

    def tell_front(self, *, accepting: bool, half_open: int, is_full: bool, stun: bool) -> None:
        self._takes_stun = stun

    # ------------------------------------------------------------ counted

    def packets(self) -> PacketCounts:
        return PacketCounts(
            received=self._received,
            sent=self._sent + self._relayed_sent,
            send_errors=self._send_errors,
            media=self._media,
            waiting=self._waiting,
            taken=self._taken,
            answered={},
            dropped=dict(self._dropped),
            notes_lost=self._notes_lost,
            relayed=self._relayed,
        )
