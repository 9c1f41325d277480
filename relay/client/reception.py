"""The receiving side of a call, sans-I/O: from datagram to the jitter buffer, and the reports about it.

    media -> which peer's flow? -> opens? seen before? -> Opus frames -> jitter buffer -> pull
              unknown: hold 10 packets for 200 ms, because `gate` may come after the first of them

Must never live here: sockets, clocks, decoding of sound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from relay.client.audio import opus_ticks
from relay.client.frames import KIND_APP, KIND_BUNDLE, MediaFrame, decode_frame, open_, unbundle
from relay.client.jitter import JitterBuffer
from relay.client.keyring import KeyRing
from relay.errors import ErrorCode, PeerError
from relay.protocol import media
from relay.protocol.datagram import FlowReport, Nack
from relay.protocol.messages import RrEntry
from relay.protocol.nack import SPAN, Asker

HELD_PACKETS: Final = 10
HELD_S: Final = 0.200
CALM_TENTHS: Final = 200  # 20 ms over the fastest
_MAP_BITS: Final = 64
_U16: Final = 0xFFFF
_TENTHS: Final = 10  # reports count delays in 0.1 ms


@dataclass(slots=True)
class Arrivals:
    """What came of one sender under one KID: counters that never repeat make gaps visible."""

    first: int
    newest: int
    count: int = 0
    map: int = 0  # bit i: newest - i came

    def mark(self, ctr: int) -> None:
        """A packet that opened for the first time."""
        if ctr > self.newest:
            self.map = (self.map << min(ctr - self.newest, _MAP_BITS)) & ((1 << _MAP_BITS) - 1)
            self.newest = ctr
        if self.newest - ctr < _MAP_BITS:
            self.map |= 1 << (self.newest - ctr)
        self.first = min(self.first, ctr)
        self.count += 1

    @property
    def lost(self) -> int:
        """Counters between the first and the newest that have not come (yet)."""
        return self.newest - self.first + 1 - self.count

    def missing(self, span: int) -> int:
        """Bit i, of so many: newest - 1 - i has not come."""
        return ~(self.map >> 1) & ((1 << min(span, self.newest - self.first)) - 1)

    def report_map(self) -> tuple[int, int]:
        """(base, map) of the leg report: bit i is base + i, base = max(0, newest - 63)."""
        base = max(0, self.newest - (_MAP_BITS - 1))
        span = self.newest - base
        return base, sum(1 << (span - i) for i in range(span + 1) if self.map >> i & 1)


@dataclass(slots=True)
class Heard:
    """One peer as we hear it."""

    jitter: JitterBuffer = field(default_factory=JitterBuffer)
    flows: dict[int, int] = field(default_factory=dict)
    """On which flow of each leg."""
    arrivals: dict[int, Arrivals] = field(default_factory=dict)
    kid: int = 0
    newest_at: float = 0.0
    duplicates: int = 0
    recovered: int = 0
    unopened: int = 0
    no_key: int = 0

    @property
    def received(self) -> int:
        """Packets that opened, each once."""
        return sum(one.count for one in self.arrivals.values())

    @property
    def lost(self) -> int:
        """Packets that were sent to us, by their counters, and have not come."""
        return sum(one.lost for one in self.arrivals.values())


class Reception:
    """All that we hear in one call. `peer` is a participant index."""

    def __init__(self, ring: KeyRing, on_app: Callable[[int, bytes], None] | None = None) -> None:
        self._ring = ring
        self._on_app = on_app
        self._heard: dict[int, Heard] = {}
        self._flows: dict[tuple[int, int], int] = {}
        self._askers: dict[tuple[int, int], Asker] = {}
        self._held: deque[tuple[float, int, bytes]] = deque()
        self._reported: dict[int, int] = {}
        self._told: dict[int, tuple[int, int]] = {}
        self.ear = 0
        """The leg that brings us media: reports tell of its flows."""
        self.unknown = 0
        self.malformed = 0

    def heard(self, peer: int) -> Heard:
        """What we know of `peer`, made at the first question."""
        return self._heard.setdefault(peer, Heard())

    def on_gate(self, flows: Mapping[int, int], now: float, leg: int = 0) -> None:
        """Whom we hear on which flow of a leg from now on; what was held for one known now goes through."""
        self.forget_leg(leg)
        self._flows.update({(leg, flow): peer for peer, flow in flows.items()})
        for peer, flow in flows.items():
            self.heard(peer).flows[leg] = flow
        held, self._held = self._held, deque()
        for at, where, payload in held:
            if now - at <= HELD_S:
                self.on_media(payload, now, where)
            else:
                self.unknown += 1

    def forget_leg(self, leg: int) -> None:
        """A leg's flows mean nothing any more."""
        self._flows = {key: peer for key, peer in self._flows.items() if key[0] != leg}
        for heard in self._heard.values():
            heard.flows.pop(leg, None)
        self._askers = {key: asker for key, asker in self._askers.items() if key[0] != leg}

    def on_media(self, payload: bytes, now: float, leg: int = 0, *, direct_from: int | None = None) -> None:
        """A media datagram came: on a flow of a leg, or directly from a peer, whatever its flow says.

        Whatever is wrong with it is counted, never raised: the network may lie.
        """
        try:
            header = media.decode(payload)
        except PeerError:
            self.malformed += 1
            return
        peer = self._flows.get((leg, header.flow)) if direct_from is None else direct_from
        if peer is None:
            self._hold(payload, now, leg)
            return
        heard = self.heard(peer)
        try:
            plaintext = open_(self._ring, peer, header, payload, now)
            frame = decode_frame(plaintext) if plaintext is not None else None
            frames = unbundle(frame) if frame and frame.kind == KIND_BUNDLE else [frame] if frame else []
        except PeerError as error:
            if error.code is ErrorCode.NOT_IN_CALL:
                heard.no_key += 1
            else:
                heard.unopened += 1
            return
        if not frames:
            heard.duplicates += 1
            return
        self._mark(heard, header, now)
        for one in frames:
            self._play(peer, heard, one, now)

    def ask(self, leg: int, flow: int, now: float, rtt: float) -> Nack | None:
        """What to ask the relay for by name, now that something came on this flow of a leg; `rtt` to it."""
        peer = self._flows.get((leg, flow))
        heard = None if peer is None else self._heard.get(peer)
        if heard is None or heard.kid not in heard.arrivals:
            return None
        asker = self._askers.get((leg, flow))
        if asker is None:
            asker = self._askers[leg, flow] = Asker(flow)
        arrivals = heard.arrivals[heard.kid]
        slack = heard.jitter.target_ms / 1000
        return asker.on_packet(heard.kid, arrivals.newest, arrivals.missing(SPAN), now, rtt, slack)

    def flow_reports(self, now: float) -> tuple[FlowReport, ...]:
        """What came on each flow, for the leg report; empty if nothing came since the last one."""
        reports = []
        for peer, heard in self._heard.items():
            flow = heard.flows.get(self.ear)
            if flow is None or not heard.arrivals or self._reported.get(peer) == heard.received:
                continue
            self._reported[peer] = heard.received
            base, bits = heard.arrivals[heard.kid].report_map()
            delays = heard.jitter.delays()
            reports.append(
                FlowReport(
                    flow=flow,
                    kid=heard.kid,
                    base=base,
                    map=bits,
                    delay_min=_tenths(delays.least) if delays else None,
                    delay_mean=_tenths(delays.mean) if delays else None,
                    delay_p95=_tenths(delays.p95) if delays else None,
                    age_ms=min(round((now - heard.newest_at) * 1000), _U16),
                    jb_ms=round(heard.jitter.target_ms),
                    late=heard.jitter.stats.late & _U16,
                    recovered=heard.recovered & _U16,
                )
            )
        return tuple(reports[:8])

    def is_calm(self, flows: tuple[FlowReport, ...]) -> bool:
        """Whether these reports say that all came, in time, and nothing twice. Ask once for each."""
        is_calm = True
        for flow in flows:
            before = self._told.get(flow.flow, (flow.late, flow.recovered))
            self._told[flow.flow] = (flow.late, flow.recovered)
            is_calm &= before == (flow.late, flow.recovered)
            is_calm &= flow.map.bit_count() == flow.map.bit_length()
            is_calm &= (flow.delay_mean or 0) < CALM_TENTHS
        return is_calm

    def receiver_report(self) -> tuple[RrEntry, ...]:
        """The end-to-end report, once a second."""
        return tuple(
            RrEntry(
                p=peer,
                hi=heard.arrivals[heard.kid].newest,
                n=heard.received,
                lost=heard.lost,
                dup=heard.duplicates,
                late=heard.jitter.stats.late,
                plc=heard.jitter.stats.concealed * 20,
                nokey=heard.no_key,
            )
            for peer, heard in self._heard.items()
            if heard.arrivals
        )

    def newest(self) -> dict[int, int]:
        """Newest counter per peer, for `rejoin`."""
        return {p: heard.arrivals[heard.kid].newest for p, heard in self._heard.items() if heard.arrivals}

    # ------------------------------------------------------------ inside

    def _hold(self, payload: bytes, now: float, leg: int) -> None:
        while self._held and (now - self._held[0][0] > HELD_S or len(self._held) >= HELD_PACKETS):
            self._held.popleft()
            self.unknown += 1
        self._held.append((now, leg, payload))

    @staticmethod
    def _mark(heard: Heard, header: media.MediaHeader, now: float) -> None:
        arrivals = heard.arrivals.setdefault(header.kid, Arrivals(header.ctr, header.ctr))
        arrivals.mark(header.ctr)
        heard.recovered += header.repeat
        if arrivals.newest == header.ctr:
            heard.kid, heard.newest_at = header.kid, now

    def _play(self, peer: int, heard: Heard, frame: MediaFrame, now: float) -> None:
        if frame.kind == KIND_APP:
            if self._on_app is not None:
                self._on_app(peer, frame.body)
            return
        ticks = opus_ticks(frame.body)
        if not ticks:
            heard.unopened += 1
            return
        heard.jitter.push(frame.ts, ticks, frame.body, now)


def _tenths(ms: float) -> int:
    return min(round(ms * _TENTHS), _U16 - 1)  # FFFF means unknown
