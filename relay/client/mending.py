"""What a relay did not get of our media goes again: the rule of relay/protocol/repair.py on the way up.

    beside(packet)     it leaves, and these repeats with it
    alone()            nothing left for a while: one repeat, once per pause
    on_fate            a packet with this datagram came, or was lost
    asked              the relay names what it misses, to a client that sees no acknowledgements

While nothing is lost the relay holds its acknowledgements of audio (relay/quic/acks.py), so their absence
says nothing then, and only what later ones leave out goes again. Once losses are more than single ones the
relay hurries, and what is not acknowledged in time goes again. Nothing is added while round trips are much
longer than the least, nor beyond what the token grants. Pure: no socket, no clock. Must never live here: the
rule itself, packets.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from relay.errors import PeerError
from relay.protocol import media, nack, repair
from relay.protocol.datagram import Nack
from relay.quic.acks import ACK_HOLD, ACK_PROMISE, AGAIN_S, AUDIO_ACK_HOLD, TORN_S

RING: Final = 64  # datagrams kept
MAX_AGE_S: Final = 0.130  # what is older comes too late to be played: see `playout_ms` of the relay
QUEUE_S: Final = 0.050  # round trips that are so much longer than the least have a queue on their way
LEAST_OVER_S: Final = 10.0  # over which the least is taken; a path may change
GAP_S: Final = 0.070  # without a packet: speech comes each 60 ms at least
LATE_S: Final = 0.005  # by which a timer of the relay may be late
CALM_BUDGET: Final = (
    0.1,
    10.0,
)  # repeats earned per packet, saved up at most
TORN_BUDGET: Final = (1.0, 50.0)
SHARE: Final = 0.9  # of the rights: the relay's clock is not ours
BURST_S: Final = 0.2  # of the rights that may be used at once
DATAGRAM_OVERHEAD: Final = 3
_EARLY_S: Final = 0.002  # timers come a little early, and floats are not exact


@dataclass(slots=True)
class _Kept:
    sent: repair.Sent
    again: bytes  # with R set
    asked: int = 0  # so often it left because of that


@dataclass(slots=True)
class Mended:
    """What was repeated so far."""

    repeats: int = 0
    bytes: int = 0
    came: int = 0  # datagrams that were kept and came, by themselves or as repeats
    late: int = 0  # not known to have come while they could be played


class Mending:
    """One leg's uplink."""

    def __init__(self) -> None:
        self.counters = Mended()
        self._kept: dict[tuple[int, int], _Kept] = {}  # by KID and CTR, in the order in which they left
        self._left = CALM_BUDGET[1]
        self._asked_left = nack.SAVED
        self._lost_at = -inf
        self._torn_until = -inf
        self._left_at = -inf
        self._is_pause_used = True
        self._ptime = 0.020
        self._ctr: tuple[int, int] | None = None
        self._rtt: tuple[float, float] | None = None  # smoothed, variance
        self._minima = [(-inf, inf), (-inf, inf)]  # of two halves of LEAST_OVER_S: when it began, the least
        self._rights: tuple[float, float] | None = None  # bytes and packets per second
        self._bytes = self._packets = 0.0  # what may be used of them now
        self._filled_at = 0.0

    def grant(self, bits_per_s: float, packets_per_s: float, now: float) -> None:
        """What the relay takes from us: repeats are no reason to lose an original."""
        self._rights = SHARE * bits_per_s / 8, SHARE * packets_per_s
        self._bytes, self._packets = (one * BURST_S for one in self._rights)
        self._filled_at = now

    # ------------------------------------------------------------ what leaves

    def beside(self, payload: bytes, room: int, now: float) -> list[bytes]:
        """Repeats for the packet in which this datagram leaves; `room` bytes are free in it."""
        try:
            header = media.decode(payload)
        except PeerError:  # a control datagram
            return []
        budget, depth = TORN_BUDGET if now < self._torn_until else CALM_BUDGET
        self._left = repair.earn(self._left, budget, depth)
        self._asked_left = repair.earn(self._asked_left, nack.SHARE, nack.SAVED)
        self._charge(len(payload), now)
        self._pace(header, now)
        again = self._again(header, room, repair.MOST, now)
        self._left_at, self._is_pause_used = now, False
        if repair.is_worth(header, len(payload)):
            while len(self._kept) >= RING:
                del self._kept[next(iter(self._kept))]
            sent = repair.Sent(now, now, len(payload) + DATAGRAM_OVERHEAD, True)
            self._kept[header.kid, header.ctr] = _Kept(sent, media.with_flow(payload, header.flow, True))
        return again

    def alone(self, room: int, now: float) -> list[bytes]:
        """The repeat that leaves by itself, if any, when `pause_due` says so. There is one try in a pause."""
        self._is_pause_used = True
        return self._again(None, room, 1, now)

    def asked(self, ask: Nack, room: int, now: float) -> list[bytes]:
        """Repeats that the relay names: each twice at most, for one packet in five, one packet full."""
        self._expire(now)
        again: list[bytes] = []
        for (kid, ctr), one in self._kept.items():
            if one.asked >= nack.TRIES or not nack.wants(ask, kid, ctr):
                continue
            if one.sent.size > room or self._asked_left < 1 or not self._takes(len(one.again), now):
                break
            again.append(one.again)
            one.asked += 1
            room -= one.sent.size
            self._asked_left -= 1
        return again

    def pause_due(self) -> float | None:
        """When something should be repeated by itself if nothing leaves before; None: nothing to repeat."""
        path = self._path(self._left_at)
        if self._is_pause_used or not self._kept or path is None:
            return None
        first = next(iter(self._kept.values())).sent.first_sent
        return max(first + repair.patience(path), self._left_at + GAP_S) + _EARLY_S

    def _again(self, beside: media.MediaHeader | None, room: int, most: int, now: float) -> list[bytes]:
        self._expire(now)
        path, kept = self._path(now), list(self._kept)
        if path is None or path.rtt - self._least > QUEUE_S:
            return []
        is_too_long = path.rtt + path.ack_slack + self._ptime > MAX_AGE_S
        if is_too_long and beside is not None and now < self._torn_until:
            distance = max(1, int((MAX_AGE_S - 0.020) / self._ptime))
            ring = {ctr: one.sent for (kid, ctr), one in self._kept.items() if kid == beside.kid}
            far = repair.copies(ring, beside.ctr, (distance,), now, MAX_AGE_S, self._left, room)
            chosen, self._left = [(beside.kid, ctr) for ctr in far.append], far.left
        else:
            waiting = [self._kept[key].sent for key in kept]
            choice = repair.choose(waiting, now, path, self._left, room, most)
            chosen, self._left = [kept[at] for at in choice.append], choice.left
        again = [self._kept[key].again for key in chosen]
        return [one for one in again if self._takes(len(one), now)]

    def _takes(self, size: int, now: float) -> bool:
        """Whether our rights allow one more datagram."""
        if self._rights is not None:
            self._charge(0, now, packets=0)
            if self._bytes < size or self._packets < 1:
                return False
            self._charge(size, now)
        self.counters.repeats += 1
        self.counters.bytes += size
        return True

    def _charge(self, size: int, now: float, packets: int = 1) -> None:
        """Use up rights. Originals leave whatever is left: then the relay decides."""
        if self._rights is None:
            return
        seconds, self._filled_at = max(0.0, now - self._filled_at), max(now, self._filled_at)
        most_bytes, most_packets = (one * BURST_S for one in self._rights)
        self._bytes = max(0.0, min(most_bytes, self._bytes + seconds * self._rights[0]) - size)
        self._packets = max(0.0, min(most_packets, self._packets + seconds * self._rights[1]) - packets)

    # ------------------------------------------------------------ what came

    def on_fate(self, payload: bytes, came: bool, now: float) -> None:
        """A packet with this datagram, an original or a repeat, was acknowledged, or is lost."""
        try:
            header = media.decode(payload)
        except PeerError:
            return
        key = header.kid, header.ctr
        kept = self._kept.get(key)
        if came:
            if kept is not None:
                del self._kept[key]
                self.counters.came += 1
            return
        if kept is not None:  # nothing more is waited for
            kept.sent = kept.sent._replace(first_sent=-inf)
        if not header.repeat:
            if now - self._lost_at < AGAIN_S:  # the relay has noticed, and hurries from now on
                self._torn_until = now + TORN_S - 1.0
            self._lost_at = now

    def _expire(self, now: float) -> None:
        late = [key for key, one in self._kept.items() if now - one.sent.came > MAX_AGE_S]
        for key in late:
            del self._kept[key]
        self.counters.late += len(late)

    # ------------------------------------------------------------ the way

    def on_round_trip(self, seconds: float, hesitation: float, now: float) -> None:
        """The newest packet of an acknowledgement took so long, of which the relay hesitated."""
        begun, least = self._minima[-1]
        if now - begun > LEAST_OVER_S / 2:
            self._minima = [self._minima[-1], (now, seconds)]
        else:
            self._minima[-1] = (begun, min(least, seconds))
        sample = max(seconds - min(hesitation, ACK_PROMISE / 1000), self._least)
        if self._rtt is None:
            self._rtt = sample, sample / 2
            return
        smoothed, variance = self._rtt
        self._rtt = (
            0.875 * smoothed + 0.125 * sample,
            0.75 * variance + 0.25 * abs(smoothed - sample),  # RFC 9002 section 5.3
        )

    @property
    def _least(self) -> float:
        """The fastest round trip of the last seconds; with one much slower there is a queue on the way."""
        return min(least for _, least in self._minima)

    def _path(self, now: float) -> repair.Path | None:
        hold = ACK_HOLD if now < self._torn_until else AUDIO_ACK_HOLD
        return None if self._rtt is None else repair.Path(*self._rtt, hold + LATE_S, MAX_AGE_S)

    def _pace(self, header: media.MediaHeader, now: float) -> None:
        """Speech in one packet, by when the last two left."""
        if self._ctr == (header.kid, header.ctr - 1) and now - self._left_at < GAP_S:
            self._ptime += (now - self._left_at - self._ptime) / 8
        self._ctr = header.kid, header.ctr
