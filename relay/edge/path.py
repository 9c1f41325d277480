"""One leg's packets, in plain Python: the 1-RTT packet-number space that aioquic and the lane share.

    receive   one UDP packet -> its datagrams | a drop reason | None: not for the packet path
    seal      datagrams, and the acknowledgement that is due anyway -> one packet

There is one packet-number counter, one received set, one idle clock per connection: two ACK states were seen
to invent losses on a perfect path. aioquic reaches them through `relay.quic`; the native lane has the
same class, this one is its oracle. Pure: no socket, no clock.

Must never live here: what a datagram means, and anything that happens once per call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from aioquic.quic.connection import NetworkAddress
from aioquic.quic.packet import decode_packet_number

from relay.core.reasons import DropReason
from relay.edge.marks import Mark, Marks
from relay.edge.repeats import Ring
from relay.protocol import frames
from relay.quic.acks import AUDIO_ACK_HOLD, Owing
from relay.quic.connection import (
    AEAD,
    MAX_ACK_RANGES,
    MAX_PACKET,
    CryptoError,
    header_mask,
    packet_ciphers,
)
from relay.quic.space import KeySet

MEDIA_WINDOW = 16 * 1024  # bytes of media in flight; 2.4 kB, aioquic's floor, is 170 ms of one repaired voice
HEADER_AND_TAG = 1 + 2 + 16  # of a packet of ours beside the peer's id: first byte, number, AEAD tag
KEY_UPDATE_AFTER = 1 << 22  # half the AES-GCM limit (RFC 9001 section 6.6)
PATIENCE = 0.080  # seconds more for an acknowledgement while packets wait for a busy loop
EARLY = 0.001  # an acknowledgement due this soon leaves now: loop clocks tick in milliseconds
STALE_FLIGHT = 1.0  # an unacknowledged media packet counts as in flight for this long at most, seconds
DELAY_STEP = 0.002  # s: how far one acknowledgement moves what is known of the peer's hesitation
LARGEST_DELAY = 0.1  # s: a peer that names more is not believed
QUEUE = 0.02  # s: round trips that are this much longer than the least have a queue on their way
SILENT = 16  # packets of 60 ms, a second of them
SILENT_S = 1.0  # without any acknowledgement: the peer says nothing
SAMPLE_EVERY = 0.05  # seconds between RTT samples: each voice alone gives fifty acknowledgements a second
FIRST_SKIP = 29  # the first packet number left out, to catch optimistic ACKs (RFC 9000 section 21.4)
SKIP_GROWTH = 8  # so fast that two are never taken for losses: those come closer together
LARGEST_SKIP_GAP = 1 << 16
REMEMBERED_SKIPS = 8
WINDOW = 2 * MAX_ACK_RANGES  # packet numbers for which duplicates are told apart
SHORTEST = 29  # first byte, our id, 4 bytes of number at most, 16 of sample: shorter packets have no tag
OUR_ACK_EXPONENT = 3  # what we announce, and the default (RFC 9000 section 18.2)
PEER_ACK_DELAY = 0.025  # s: the peer's max_ack_delay before it is known: the default (as above)
Ranges = Sequence[tuple[int, int]]


class Trouble(Enum):
    """Whether something went wrong on the way to the peer since that was asked last.

    A packet was lost, round trips became longer, or nothing is acknowledged.
    """

    NONE = 0
    NEW = 1  # nobody was told
    NOTED = 2  # whoever asks is told


class Opened(NamedTuple):
    """A packet of the packet path: its datagrams, and its ACK if the QUIC stack waits for one."""

    datagrams: list[bytes]
    ack: frames.Ack | None


class _Flight(NamedTuple):
    sent_at: float
    size: int
    acked_up_to: int  # largest number acknowledged by an ACK frame inside, or -1
    place: int  # among those that carry datagrams, modulo 256


class _Window:
    """Which of the last 128 packet numbers came; what is older counts as received."""

    __slots__ = ("_bits", "_lower")

    def __init__(self) -> None:
        self._lower = 0
        self._bits = 0

    def __contains__(self, number: int) -> bool:
        return number < self._lower or bool(self._bits >> (number - self._lower) & 1)

    def add(self, number: int) -> None:
        if number < self._lower:
            return
        ahead = number - WINDOW + 1 - self._lower
        if ahead > 0:
            self._bits >>= ahead
            self._lower += ahead
        self._bits |= 1 << (number - self._lower)


class _RangeList:
    """Received numbers as ascending, disjoint, half-open ranges, the newest 64 of them."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[int, int]] = []

    def add(self, number: int) -> None:
        items = self.items
        at = len(items)
        while at and items[at - 1][0] > number:
            at -= 1
        start, stop = number, number + 1
        if at and items[at - 1][1] >= number:  # touches the one below, or lies in it
            at -= 1
            start, stop = items[at][0], max(items[at][1], stop)
            del items[at]
        if at < len(items) and items[at][0] <= stop:
            stop = max(items[at][1], stop)
            del items[at]
        items.insert(at, (start, stop))
        if len(items) > MAX_ACK_RANGES:
            del items[0]

    def subtract(self, stop: int) -> None:
        items = self.items
        while items and items[0][1] <= stop:
            del items[0]
        if items and items[0][0] < stop:
            items[0] = (stop, items[0][1])


def _try(aead: AEAD | None, sealed: bytes, header: bytes, number: int) -> bytes | None:
    try:
        return None if aead is None else aead.decrypt(sealed, header, number)
    except CryptoError:
        return None


class Path:
    """The packet-number space of one leg, its keys and what is in flight."""

    def __init__(self, marks: Marks | None = None) -> None:
        self.active = False
        self._marks = marks
        self._mark: Mark | None = None
        self.confirmed = False  # the handshake is: from now on numbers are left out now and then
        self.outstanding = False  # aioquic has packets of its own out: it wants to see acknowledgements
        # what arrived; aioquic and the lane both say so, and the later word counts, in whichever order
        self._expected = 0
        self._largest = -1
        self._largest_at: float | None = None
        self._last_heard = 0.0
        self.ack_at: float | None = None
        self.slow = 0  # packets that came and wait for aioquic: not in the ranges yet
        self._owing = Owing()
        self._ranges = _RangeList()
        self._received = _Window()
        # what leaves
        self._next = 0
        self._reserved_to = 0
        self._skipped: deque[tuple[int, int]] = deque(maxlen=REMEMBERED_SKIPS)
        self._next_skip = FIRST_SKIP
        self._skip_gap = FIRST_SKIP
        self._flight: dict[int, _Flight] = {}
        self.window = MEDIA_WINDOW  # bytes of media in flight, at most
        self.media_in_flight = 0
        self.ring: Ring | None = None  # what may be repeated
        self.trouble = Trouble.NONE
        # what became of packets with datagrams: all of this counts up but `ack_delay`
        self.media_acked = 0
        self.media_lost = 0
        self.loss_runs = 0  # how often one was lost and the one before it was not
        self.bytes_sent = 0
        self.bytes_acked = 0
        self.ack_delay = 0.0  # what the peer takes to acknowledge, seconds: 95 of 100 take no longer
        self._place = 0
        self._lost: tuple[int, int] | None = None  # number and place of the one lost last
        # keys
        self.update_after = KEY_UPDATE_AFTER
        self.key_updates = 0
        self._suite = -1
        self._phase = 0
        self._phase_start = 0
        self._largest_acked = -1
        self._sealed = 0
        self._is_update_asked = False
        self._open: AEAD | None = None
        self._old_open: AEAD | None = None  # packets of the key phase before may still be under way
        self._coming_open: AEAD | None = None
        self._seal: AEAD | None = None
        self._open_mask: Callable[[bytes], bytes]
        self._seal_mask: Callable[[bytes], bytes]
        # facts
        self._host_cid = b""
        self._peer_cid = b""
        self.address: NetworkAddress | None = None
        self.sock = 0
        self._peer_exponent = OUR_ACK_EXPONENT
        self._peer_ack_delay = PEER_ACK_DELAY
        self.prefix = b""
        # round trip: latest, smoothed, variance, least; seconds
        self._rtt: tuple[float, float, float, float] | None = None
        self._next_sample = 0.0

    # ------------------------------------------------------------ facts from the QUIC stack

    def set_facts(
        self,
        *,
        active: bool,
        host_cid: bytes,
        peer_cid: bytes,
        address: NetworkAddress | None,
        sock: int,
        peer_acks: tuple[int, float],
    ) -> None:
        """Which packets are the packet path's: this id of ours, from this validated address and socket."""
        self.active = active
        self._host_cid = host_cid
        self._peer_cid = peer_cid
        self.address = address
        self.sock = sock
        self._peer_exponent, self._peer_ack_delay = peer_acks

    def set_prefix(self, prefix: bytes) -> None:
        """With what every datagram begins: a session's name on HTTP/3 (RFC 9297 section 2.1).

        At most one byte, which is enough for as many streams as we allow; empty: no HTTP/3. ValueError.
        """
        if len(prefix) > 1:
            raise ValueError("a prefix has one byte at most")
        self.prefix = prefix

    def set_keys(
        self, suite: int, phase: int, recv: KeySet, send: KeySet, coming: tuple[bytes, bytes]
    ) -> None:
        """The 1-RTT keys of a key phase; those before open stragglers. The masks' keys never change.

        `coming`: key and IV that open the peer's packets of the phase to come, which are aioquic's: so they
        are told from forged ones.
        """
        aead, _ = packet_ciphers(suite)
        if self._open is None:
            self._open_mask = header_mask(suite, recv[2])
            self._seal_mask = header_mask(suite, send[2])
        else:
            self.key_updates += 1
        self._old_open = self._open
        self._open = AEAD(aead, recv[0], recv[1])
        self._seal = AEAD(aead, send[0], send[1])
        self._coming_open = AEAD(aead, *coming)
        self._suite, self._phase = suite, phase
        self._phase_start = self._next
        self._sealed = 0
        self._is_update_asked = False

    def rtt(self) -> tuple[float, float, float, float] | None:
        """Round-trip time, seconds: latest, smoothed, variance, least; None before the first sample."""
        return self._rtt

    def set_rtt(self, latest: float, smoothed: float, variance: float, minimum: float) -> None:
        """Samples that the QUIC stack took."""
        self._rtt = (latest, smoothed, variance, minimum)

    # ------------------------------------------------------------ packet numbers, shared

    @property
    def expected(self) -> int:
        """The packet number after the largest that came; it never falls."""
        return self._expected

    @expected.setter
    def expected(self, number: int) -> None:
        self._expected = max(self._expected, number)
        if self._mark is not None:
            self._mark.came(self._expected)

    @property
    def largest(self) -> int:
        """The largest packet number that came; -1: none. It never falls."""
        return self._largest

    @largest.setter
    def largest(self, number: int) -> None:
        self._largest = max(self._largest, number)

    @property
    def largest_at(self) -> float | None:
        """When that was; never earlier than before."""
        return self._largest_at

    @largest_at.setter
    def largest_at(self, when: float | None) -> None:
        if when is not None:
            self._largest_at = when if self._largest_at is None else max(self._largest_at, when)

    @property
    def last_heard(self) -> float:
        """When something authentic came last; never earlier than before."""
        return self._last_heard

    @last_heard.setter
    def last_heard(self, when: float) -> None:
        self._last_heard = max(self._last_heard, when)

    def reserve(self, count: int) -> int:
        """The first of `count` packet numbers that are the caller's from now on; `settle` ends it."""
        if self.confirmed:
            self._skip_number()
        first = self._next
        self._next = self._reserved_to = first + count
        self._note_used()
        return first

    def keep(self, place: int) -> None:
        """Note the numbers there from now on. ValueError: no such place (`Lane.use_marks`)."""
        if self._marks is None:
            raise ValueError("no such place")
        self._mark = self._marks.place(place)
        self._mark.uses(self._next)
        self._mark.came(self._expected)

    def _note_used(self) -> None:
        if self._mark is not None:
            self._mark.uses(self._next)

    def settle(self, following: int) -> None:
        """Numbers below `following` were used; the others are free again, or left out for good."""
        if self._next == self._reserved_to:
            self._next = following
        elif following < self._reserved_to:
            self._skipped.append((following, self._reserved_to))
        self._reserved_to = 0
        self._note_used()

    def _skip_number(self) -> None:
        if self._next >= self._next_skip:
            self._skipped.append((self._next, self._next + 1))
            self._next += 1
            self._skip_gap = min(SKIP_GROWTH * self._skip_gap, LARGEST_SKIP_GAP)
            self._next_skip = self._next + self._skip_gap

    def has(self, number: int) -> bool:
        """The packet came before, or is too old to tell."""
        return number in self._received

    def add(self, number: int) -> None:
        """The QUIC stack received this packet."""
        self._ranges.add(number)
        self._received.add(number)

    def slow_done(self) -> None:
        """aioquic has dealt with a packet that waited for it."""
        self.slow = max(self.slow - 1, 0)

    def ranges(self) -> list[tuple[int, int]]:
        """Numbers to acknowledge: ascending, half-open, at most 64 ranges."""
        return list(self._ranges.items)

    def subtract(self, stop: int) -> None:
        """Numbers below `stop` need no further acknowledgement."""
        self._ranges.subtract(stop)
        if not self._ranges.items:  # a straggler below what the peer knows we have: nothing to say
            self.ack_at = None

    def honest(self, ranges: Ranges) -> bool:
        """Whether these acknowledged ranges (newest first) hold only numbers that were sent."""
        if ranges[0][1] > self._next:
            return False
        return not any(
            start < skipped_stop and skipped < stop
            for skipped, skipped_stop in self._skipped
            for start, stop in ranges
        )

    @property
    def ack_due(self) -> float | None:
        """When a held acknowledgement must leave at the latest.

        Acknowledging what overtook a packet that waits for aioquic would make the peer call that one lost, so
        it is held longer then: being late costs the peer a probe, a false loss half its window.
        """
        if self.ack_at is None or not self.active:
            return None
        return self.ack_at + PATIENCE if self.slow else self.ack_at

    @property
    def last_number(self) -> int:
        """The number of the packet that was sealed last."""
        return self._next - 1

    # ------------------------------------------------------------ in

    def receive(
        self, data: bytes, address: NetworkAddress, sock: int, now: float
    ) -> Opened | DropReason | None:
        """Open a packet: what it carries, a drop reason, or None when aioquic must see it.

        Only what opens gets to aioquic, wherever it came from: a forged packet costs no more than the try.
        None leaves every state untouched, so the same packet can be given to `receive_datagram`.
        """
        if self._open is None:
            return None
        if len(data) < SHORTEST:
            return DropReason.BAD_TAG
        mask = self._open_mask(data[13:SHORTEST])
        first = data[0] ^ (mask[0] & 0x1F)
        size = (first & 3) + 1
        end = 9 + size
        number = int.from_bytes(data[9:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        header = bytes((first,)) + data[1:9] + number.to_bytes(size, "big")
        number = decode_packet_number(number, size * 8, self._expected)
        is_aioquics = first & 0x18 != 0  # judged of proven packets (RFC 9000 section 17.3.1)
        if first >> 2 & 1 == self._phase:
            plain = _try(self._open, data[end:], header, number)
        else:
            plain = _try(self._old_open, data[end:], header, number)
            if plain is None:
                plain = _try(self._coming_open, data[end:], header, number)
                is_aioquics = True
        if plain is None:
            return DropReason.BAD_TAG
        if number in self._received:
            return DropReason.DUPLICATE
        is_known_way = address == self.address and sock == self.sock and data[1:9] == self._host_cid
        if is_aioquics or not is_known_way or not self.active:
            return None
        payload = frames.parse(plain)
        if payload is None or (payload.ack is not None and not self.honest(payload.ack.ranges)):
            return None
        self._record(number, payload.eliciting, bool(payload.datagrams), now)
        datagrams = [self._bare(datagram) for datagram in payload.datagrams]
        if payload.ack is None:
            return Opened(datagrams, None)
        self.acknowledged(payload.ack.ranges, payload.ack.delay, now)
        return Opened(datagrams, payload.ack if self.outstanding else None)

    def _bare(self, datagram: bytes) -> bytes:
        """Without its prefix; empty, which belongs to no flow, when it begins otherwise."""
        return datagram[len(self.prefix) :] if datagram.startswith(self.prefix) else b""

    def _record(self, number: int, eliciting: bool, is_audio: bool, now: float) -> None:
        # What waits for aioquic is not missing, and what is not told from it neither. `_expected` does not
        # tell: aioquic leaves it as it is when just the packet comes that it expected.
        missing = number - self._largest - 1
        is_gap = missing != 0 and self.slow == 0
        if is_gap:
            self._owing.on_gap(missing, now)
        if number >= self._expected:
            self._expected = number + 1
            if self._mark is not None:
                self._mark.came(self._expected)
        if number > self._largest:
            self._largest = number
            self._largest_at = now
        self._ranges.add(number)
        self._received.add(number)
        if eliciting:
            hold = self._owing.on_packet(is_gap=is_gap, is_audio=is_audio, audio_hold=AUDIO_ACK_HOLD, now=now)
            due = now + hold
            self.ack_at = due if self.ack_at is None else min(self.ack_at, due)
        self._last_heard = now

    def acknowledged(self, ranges: Ranges, delay: int, now: float) -> None:
        """Settle media packets: acknowledged, lost (3 packets or 9/8 RTT behind), or still out.

        `ranges` newest first, half-open; `delay` as encoded by the peer.
        """
        largest = ranges[0][1] - 1
        self._largest_acked = max(self._largest_acked, largest)
        if self.ring is not None:
            self.ring.acknowledged(ranges)
        flight = self._flight
        if not flight:
            return
        newest = flight.get(largest)
        latest, smoothed = self._rtt[:2] if self._rtt else (0.0, 0.0)
        limit = 9 / 8 * max(smoothed, latest, 0.001)
        newest_start = ranges[0][0]
        for number in [n for n in flight if n <= largest]:
            packet = flight[number]
            if number >= newest_start or any(start <= number < stop for start, stop in ranges):
                if packet.acked_up_to >= 0:
                    self.subtract(packet.acked_up_to + 1)
                self.media_acked += 1
                self.bytes_acked += packet.size
            elif largest - number >= 3 or now - packet.sent_at > limit:
                self._lose(number, packet)
            else:
                continue
            del flight[number]
            self.media_in_flight -= packet.size
        if newest is None:
            return
        seconds = (delay << self._peer_exponent) / 1e6
        self._note_delay(seconds)
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_EVERY
            self._sample(now - newest.sent_at, seconds)

    def worsened(self) -> None:
        """Something went wrong on this way."""
        if self.trouble is Trouble.NONE:
            self.trouble = Trouble.NEW

    def _lose(self, number: int, packet: _Flight) -> None:
        self.worsened()
        self.media_lost += 1
        before, self._lost = self._lost, (number, packet.place)
        is_next = before is not None and packet.place == (before[1] + 1) % 256 and number - before[0] < 256
        self.loss_runs += not is_next

    def _note_delay(self, seconds: float) -> None:
        """A quantile without a history: one above lifts it nineteen times as far as one below lowers it."""
        if min(seconds, LARGEST_DELAY) > self.ack_delay:
            self.ack_delay += 0.95 * DELAY_STEP
        else:
            self.ack_delay = max(0.0, self.ack_delay - 0.05 * DELAY_STEP)

    def _sample(self, latest: float, ack_delay: float) -> None:
        """RFC 9002 section 5.3; aioquic takes no sample from packets of ours."""
        latest = max(latest, 0.001)
        if self._rtt is None:
            self._rtt = (latest, latest, latest / 2, latest)
            return
        _, smoothed, variance, least = self._rtt
        least = min(least, latest)
        delay = min(ack_delay, self._peer_ack_delay)
        latest = max(latest - delay, least)  # rtt.rs tells why it is not as in the RFC
        variance = 0.75 * variance + 0.25 * abs(smoothed - latest)
        before, smoothed = smoothed, 0.875 * smoothed + 0.125 * latest
        if before <= least + QUEUE < smoothed:
            self.worsened()
        self._rtt = (latest, smoothed, variance, least)

    # ------------------------------------------------------------ out

    def room(self, now: float) -> bool:
        """May another media packet leave now? Packets silent for long no longer count as in flight."""
        if not self.active or self._sealed >= 2 * self.update_after:
            return False
        if len(self._flight) >= SILENT and now - next(iter(self._flight.values())).sent_at > SILENT_S:
            self.worsened()
        if self.media_in_flight < self.window:
            return True
        for number, packet in list(self._flight.items()):
            if now - packet.sent_at <= STALE_FLIGHT:
                break
            del self._flight[number]
            self.media_in_flight -= packet.size
            self._lose(number, packet)
        return self.media_in_flight < self.window

    @property
    def update_asked(self) -> bool:
        """A key update was asked for, and none has come since."""
        return self._is_update_asked

    def wants_update(self) -> bool:
        """Whether so many packets were sealed under one key that it must change; True once per key phase.

        Not before a packet of this phase was acknowledged (RFC 9001 section 6.1).
        """
        if self._is_update_asked or self._sealed < self.update_after:
            return False
        self._is_update_asked = self._largest_acked >= self._phase_start
        return self._is_update_asked

    def seal(self, datagrams: list[bytes], now: float) -> bytes:
        """One 1-RTT packet with these datagrams, and the acknowledgement that is due anyway.

        Without datagrams it is that acknowledgement alone; empty when none is due (any more). Requires
        `active`; the caller keeps the sum within `MAX_PACKET`.
        """
        acked_up_to = -1
        peer = self._peer_cid
        parts = [frames.encode_datagram(self.prefix + datagram) for datagram in datagrams]
        due = self.ack_due
        if due is not None and (not self.slow or now + EARLY >= due):
            arrived = now if self._largest_at is None else self._largest_at
            delay = int((now - arrived) * 1e6) >> OUR_ACK_EXPONENT
            ack = frames.encode_ack(self._ranges.items, max(delay, 0))
            # An ACK of many ranges may not fit beside the audio: it stays due, and leaves by itself.
            if HEADER_AND_TAG + len(peer) + len(ack) + sum(map(len, parts)) <= MAX_PACKET:
                parts.insert(0, ack)
                acked_up_to = self._largest
                self.ack_at = None
                self._owing.unacknowledged = 0
        if not parts:
            return b""
        self._skip_number()
        number = self._next
        self._next = number + 1
        self._note_used()
        first = 0x41 | self._phase << 2
        low = number & 0xFFFF
        assert self._seal is not None
        body = self._seal.encrypt(b"".join(parts), bytes((first,)) + peer + low.to_bytes(2, "big"), number)
        mask = self._seal_mask(body[2:18])
        packet = b"".join(
            (
                bytes((first ^ (mask[0] & 0x1F),)),
                peer,
                (low ^ (mask[1] << 8 | mask[2])).to_bytes(2, "big"),
                body,
            )
        )
        self._sealed += 1
        if datagrams:  # an ACK alone is neither in flight nor acknowledged
            size = len(packet)
            self._place = (self._place + 1) % 256
            self._flight[number] = _Flight(now, size, acked_up_to, self._place)
            self.media_in_flight += size
            self.bytes_sent += size
        return packet
