"""The same generated life in both lanes: whatever one gives out or counts, the other does too.

A `Duel` has a plain and a native lane, and a client per leg that seals real packets. Each step is one input
to both: packets that are honest, late, doubled, damaged or from elsewhere, changes of routes, rights, keys
and addresses, what aioquic does to the shared packet numbers, time. Outputs are compared at each step, all
that can be asked every so often. Must never live here: what the right output is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from lane.differential_trunk import TrunkLife
from lane.differential_turn import TurnLife
from relay.config import LimitsConfig
from relay.core.adapt import Mode
from relay.core.events import Repair, Shape
from relay.core.reasons import DropReason
from relay.edge.lane import Known, Lane
from relay.edge.lane_native import NativeLane
from relay.edge.lane_py import PyLane
from relay.edge.path import Path
from relay.errors import LocalError
from relay.protocol import frames, media
from relay.protocol.datagram import Nack
from relay.quic.space import KeySet, PathState

LEGS = 4
STREAMS = 2  # legs without packets
LOOK = 64  # steps between comparisons of all that can be asked
KEY_SIZES = (16, 32, 32)
REASONS = (None, DropReason.MUTED, DropReason.BLOCKED, DropReason.GATE_CLOSED)
FACTS = ("expected", "largest", "largest_at", "ack_at", "last_heard", "outstanding", "confirmed")
ASKED = ("ack_due", "media_in_flight", "media_lost", "key_updates")


class DisagreementError(AssertionError):
    """The lanes differ; the message has the step and both sides."""


class _Client:
    """The far end of a leg."""

    def __init__(self, rng: random.Random, leg: int) -> None:
        self.rng = rng
        self.leg = leg
        self.suite = rng.randrange(3)
        self.phase = 0
        self.masks = self._bytes(KEY_SIZES[self.suite]), self._bytes(KEY_SIZES[self.suite])
        self.host_cid = bytes((0x40 + leg % 64, 0x20)) + self._bytes(6)  # the relay's id for it
        self.peer_cid = self._bytes(rng.choice((0, 8, 8, 20)))
        self.prefix = b""  # of an HTTP/3 session
        self.address: Any = self._address()
        self.sock = 0
        self.path = Path()
        self.flow = (0, 0, False)  # number, index, group
        self.ctr = 0
        self.old: list[bytes] = []  # packets under way, or that came already
        self.renew()

    def _bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def _address(self) -> Any:
        port = self.rng.randrange(1024, 65536)
        if self.rng.random() < 0.5:
            return (f"192.0.2.{self.rng.randrange(1, 9)}", port)
        return (f"2001:db8::{self.rng.randrange(1, 9):x}", port, 0, 0)

    def renew(self) -> None:
        """Keys of a new phase."""
        size = KEY_SIZES[self.suite]
        self.up: KeySet = (self._bytes(size), self._bytes(12), self.masks[0])
        self.down: KeySet = (self._bytes(size), self._bytes(12), self.masks[1])
        self.coming = (self._bytes(size), self._bytes(12))  # opens what the client seals in the phase to come

    def move(self) -> None:
        """Another address."""
        self.address = self._address()

    def tell(self, path: PathState, active: bool = True) -> None:
        """What the relay knows of it."""
        path.set_prefix(self.prefix)
        path.set_facts(
            active=active,
            host_cid=self.host_cid,
            peer_cid=self.peer_cid,
            address=self.address,
            sock=self.sock,
            peer_acks=(3, 0.08),
        )

    def ready(self) -> None:
        """Its own end: the ids of 8 bytes that `Path` reads stand in its way, so only its sealing is used."""
        self.path.set_facts(
            active=True,
            host_cid=bytes(8),
            peer_cid=self.host_cid,
            address=("r", 1),
            sock=0,
            peer_acks=(3, 0.08),
        )
        self.path.set_keys(self.suite, self.phase, self.down, self.up, self.coming)

    def datagram(self, payload: bytes) -> bytes:
        """A DATAGRAM frame, of its session for most."""
        prefix = self.prefix if self.rng.random() < 0.95 else self.rng.choice((b"", b"\0", b"\1", b"\x40\0"))
        return frames.encode_datagram(prefix + payload)

    def frames_packet(self, plain: bytes) -> bytes:
        """A packet with these frames as they are, its number in any legal size."""
        path = self.path
        number = path._next
        path._next += self.rng.choice((1, 1, 1, 1, 2, 5))
        size = self.rng.choice((1, 2, 2, 2, 3, 4))
        first = 0x40 | path._phase << 2 | (size - 1)
        if self.rng.random() < 0.01:
            first |= self.rng.choice((0x08, 0x10))
        low = (number & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        assert path._seal is not None
        plain = plain.ljust(4, b"\0")
        body = path._seal.encrypt(plain, bytes((first,)) + self.host_cid + low, number)
        mask = path._seal_mask((low + body)[4:20])
        head = bytes((first ^ (mask[0] & 0x1F),)) + self.host_cid
        return head + bytes(a ^ b for a, b in zip(low, mask[1 : 1 + size], strict=True)) + body


class Duel:
    """Two lanes, one life. `run(steps)` raises DisagreementError at the first difference."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        limits = LimitsConfig()
        self.lanes: tuple[Lane, Lane] = (PyLane(limits), NativeLane(limits))
        self.now = 100.0
        self.step = 0
        self.inputs = 0
        self.done: dict[str, int] = {}
        self.sent: list[Any] = []
        self.clients: dict[int, _Client] = {}
        self.paths: dict[int, tuple[PathState, PathState]] = {}
        self.flows: dict[int, list[int]] = {}
        self._serial = 0
        for _ in range(LEGS):
            self._arrive()
        self.streams: dict[int, _Client] = {}
        for _ in range(STREAMS):
            self._connect()
        self._acts: list[tuple[int, Callable[[], Any]]] = [
            (40, self.speak),
            (4, self.mend),
            (6, self.speak_badly),
            (5, self.acknowledge),
            (3, self.frames_of_other_kinds),
            (4, self.again),
            (4, self.damaged),
            (2, self.noise),
            (2, self.from_elsewhere),
            (1, self.crowd),
            (1, self.notes),
            (1, self.confirm),
            (14, self.flush),
            (12, self.pass_time),
            (5, self.take),
            (3, self.route),
            (1, self.rights),
            (1, self.flow),
            (3, self.aioquic_sends),
            (3, self.aioquic_receives),
            (1, self.aioquic_hears_of_acks),
            (1, self.facts),
            (1, self.keys),
            (2, self.control),
            (2, self.repair),
            (3, self.resend),
            (2, self.shape),
            (1, self.measure),
            (1, self.come_and_go),
            (1, self.deliver),
            (1, self.not_taken),
            (6, self.stream_says),
            (8, self.drain),
            (1, self.streams_come_and_go),
            *TurnLife(self).acts,
            *TrunkLife(self).acts,
        ]

    def run(self, steps: int) -> None:
        """So many inputs to both."""
        acts = [act for _, act in self._acts]
        weights = [weight for weight, _ in self._acts]
        for act in self.rng.choices(acts, weights, k=steps):
            self.step += 1
            name = act.__name__
            self.done[name] = self.done.get(name, 0) + 1
            act()
            if self.step % LOOK == 0:
                self.compare_all()
        self.compare_all()

    # ------------------------------------------------------------ comparing

    def both(self, what: str, act: Callable[[Lane], Any]) -> Any:
        """Do the same to both lanes; what they gave, if it is the same."""
        self.inputs += 1
        given = []
        for lane in self.lanes:
            try:
                given.append(act(lane))
            except LocalError:
                given.append("LocalError")
        self._same(what, *given)
        return given[0]

    def both_paths(self, what: str, leg: int, act: Callable[[PathState], Any]) -> Any:
        """The same for a leg's path."""
        self.inputs += 1
        first, second = (act(path) for path in self.paths[leg])
        self._same(what, first, second)
        return first

    def _same(self, what: str, plain: Any, native: Any) -> None:
        if plain != native:
            where = f"seed {self.seed} step {self.step} at {self.now:.4f}"
            raise DisagreementError(f"{where}: {what}\n  plain:  {plain!r}\n  native: {native!r}")

    def compare_all(self) -> None:
        """All that can be asked."""
        for what in ("counters", "packets", "relays", "repairs", "next_ack"):
            found = []
            for lane in self.lanes:
                value = getattr(lane, what)
                found.append(value() if callable(value) else value.copy())
            self._same(what, *found)
        self.check_conserved()
        for leg, paths in self.paths.items():
            for name in (*FACTS, *ASKED):
                self._same(f"{name} of leg {leg}", *(getattr(path, name) for path in paths))
            self._same(f"ranges of leg {leg}", *(path.ranges() for path in paths))
            self._same(f"rtt of leg {leg}", *(path.rtt() for path in paths))

    def check_conserved(self) -> None:
        """Both equations hold in both lanes."""
        for lane in self.lanes:
            books = (lane.counters, lane.packets(), lane.relays, lane.repairs)
            if any(book.imbalance() for book in books):
                raise DisagreementError(f"seed {self.seed} step {self.step}: {lane.name} is out of balance")

    # ------------------------------------------------------------ legs

    def join(self, prefix: bytes) -> _Client:
        """Another connection, with keys."""
        self._serial += 1
        leg = self._serial
        client = _Client(self.rng, leg)
        client.prefix = prefix
        is_confirmed = self.rng.random() < 0.7
        first, second = (lane.open_path(leg) for lane in self.lanes)
        self.paths[leg] = (first, second)
        self.both("own", lambda lane: lane.own(leg, client.host_cid))
        for path in self.paths[leg]:
            path.set_keys(client.suite, 0, client.up, client.down, client.coming)
            path.confirmed = is_confirmed
            path.update_after = 200
            client.tell(path)
        client.ready()
        client.path.update_after = 1 << 60
        return client

    def _arrive(self) -> None:
        client = self.join(self.rng.choice((b"", b"", b"\0", b"\3")))
        leg = client.leg
        self.clients[leg] = client
        rights = {"pps": self.rng.choice((50, 300, 2000)), "up_bps": 512_000, "down_bps": 800_000}
        self.both("open_leg", lambda lane: lane.open_leg(leg, **rights))
        self.flows[leg] = []
        self._open_flow(leg)

    def _connect(self) -> None:
        """A leg without packets."""
        self._serial += 1
        leg = self._serial
        self.streams[leg] = self.clients[leg] = _Client(self.rng, leg)
        self.both("open_stream", lambda lane: lane.open_stream(leg))
        self.both("open_leg", lambda lane: lane.open_leg(leg, pps=300, up_bps=512_000, down_bps=800_000))
        self.flows[leg] = []
        self._open_flow(leg)
        del self.clients[leg]  # it seals nothing

    def _open_flow(self, leg: int) -> None:
        flow = self.rng.randrange(1, 63)
        group = self.rng.random() < 0.5
        index = leg % (4 if not group else 32)
        rights = {"index": index, "group": group, "watched": self.rng.random() < 0.5}
        self.both("open_flow", lambda lane: lane.open_flow(leg, flow, **rights))
        self.clients[leg].flow = flow, index, group
        self.flows[leg].append(flow)

    def some(self) -> _Client:
        """A client that is there."""
        return self.clients[self.rng.choice(list(self.clients))]

    def _packet(self, client: _Client, data: bytes, address: Any = None, sock: int | None = None) -> None:
        where = client.address if address is None else address
        door = client.sock if sock is None else sock
        # Threads have clocks of their own, a turn apart at most.
        now = self.now - self.rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 0.002))
        self.both("receive", lambda lane: lane.receive(data, where, door, now))
        client.old.append(data)
        del client.old[:-20]

    # ------------------------------------------------------------ what clients send

    def _voice(self, client: _Client, size: int | None = None) -> bytes:
        flow, index, group = client.flow
        client.ctr += self.rng.choice((1, 1, 1, 1, 1, 2, 3, 200))
        kid = index << 3 if group else index << 2
        kid |= self.rng.choice((0, 0, 0, 1, 2))
        head = media.encode_header(
            flow, kid, client.ctr, pp=self.rng.randrange(4), repeat=self.rng.random() < 0.1
        )
        size = size or self.rng.choice((60, 80, 120, 300, 900))
        return head + self.rng.randbytes(size)

    def speak(self) -> None:
        """Audio as it should be, one or several datagrams."""
        client = self.some()
        count = self.rng.choice((1, 1, 1, 2, 3))
        parts = [client.datagram(self._voice(client, 80 if count > 1 else None)) for _ in range(count)]
        if self.rng.random() < 0.3:
            parts.insert(0, self._ack(client))
        if self.rng.random() < 0.1:
            last = self._voice(client, 60)
            parts.append(b"\x30" + client.prefix + last)
        self._packet(client, client.frames_packet(b"".join(parts)))

    def mend(self) -> None:
        """Audio again as repeats, whether it came before or not."""
        client = self.some()
        flow, index, group = client.flow
        kid = index << 3 if group else index << 2
        first = max(client.ctr, 3)
        client.ctr = first + self.rng.choice((0, 0, 1))
        parts = [
            media.encode_header(flow, kid, ctr, repeat=is_again) + self.rng.randbytes(80)
            for ctr, is_again in (
                (client.ctr, self.rng.random() < 0.2),
                (first - self.rng.choice((1, 2, 3, 9, 200)) & 0xFFFF, True),
            )
        ]
        self._packet(client, client.frames_packet(b"".join(client.datagram(part) for part in parts)))

    def speak_badly(self) -> None:
        """Datagrams that are not what they should be."""
        client = self.some()
        good = bytearray(self._voice(client))
        way = self.rng.randrange(5)
        if way == 0:
            good[self.rng.randrange(min(6, len(good)))] ^= 1 << self.rng.randrange(8)
        elif way == 1:
            good = good[: self.rng.randrange(0, 26)]
        elif way == 2:
            good += bytes(self.rng.randrange(900, 1100))
        elif way == 3:
            good[0] = self.rng.randrange(256)
        else:
            good = bytearray(self.rng.randbytes(self.rng.randrange(0, 60)))
        self._packet(client, client.frames_packet(client.datagram(bytes(good))))

    def _ack(self, client: _Client) -> bytes:
        """An ACK of what the relay sent: honest for most."""
        plain = self.paths[client.leg][0]
        assert isinstance(plain, Path)
        top = max(plain._next - self.rng.choice((0, 0, 0, 1, 2, 5)), 1)
        if self.rng.random() < 0.02:
            top += self.rng.choice((1, 3, 1000))
        ranges = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 3, 6))):
            low = max(top - self.rng.choice((1, 2, 4, 9)), 0)
            if low >= top:
                break
            ranges.append((low, top))
            top = low - self.rng.choice((1, 2, 3))
            if top <= 0:
                break
        return frames.encode_ack(ranges[::-1], self.rng.choice((0, 10, 500, 4000)))

    def acknowledge(self) -> None:
        """An ACK alone, now and then with PADDING or PING."""
        client = self.some()
        plain = self._ack(client) + self.rng.choice((b"", b"", b"\0\0\0", b"\x01"))
        self._packet(client, client.frames_packet(plain))

    def frames_of_other_kinds(self) -> None:
        """What is aioquic's: streams, two ACKs, frames cut short, nothing at all."""
        client = self.some()
        plain = self.rng.choice(
            (
                b"\x08\0abc",
                b"\x1a" + bytes(8),
                self._ack(client) * 2,
                b"\x31\x44",
                b"\x02\x05\0\x01\0\x04\0",
                b"\0" * 10,
                b"\x01",
                b"\x03" + bytes(7),
                frames.encode_datagram(self._voice(client)) + b"\x08\0x",
                self.rng.randbytes(self.rng.randrange(1, 30)),
            )
        )
        self._packet(client, client.frames_packet(plain))

    def again(self) -> None:
        """A packet that came before."""
        client = self.some()
        if client.old:
            self._packet(client, self.rng.choice(client.old))

    def damaged(self) -> None:
        """A flipped bit, or cut short."""
        client = self.some()
        data = bytearray(client.frames_packet(frames.encode_datagram(self._voice(client))))
        if self.rng.random() < 0.7:
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        else:
            del data[self.rng.randrange(len(data)) :]
        self._packet(client, bytes(data))

    def noise(self) -> None:
        """Anything at all, also too long."""
        size = self.rng.choice((0, 1, 5, 6, 7, 20, 29, 100, 1200, 2048, 2049))
        data = bytearray(self.rng.randbytes(size))
        if size and self.rng.random() < 0.5:
            data[0] |= 0xC0
            if size > 5:
                data[5] = self.rng.choice((0, 8, 8, 20, 255))
            if size > 14 and self.rng.random() < 0.5:
                data[6:14] = self.some().host_cid
        self._packet(self.some(), bytes(data))

    def from_elsewhere(self) -> None:
        """A good packet from another address or socket."""
        client = self.some()
        data = client.frames_packet(frames.encode_datagram(self._voice(client)))
        if self.rng.random() < 0.5:
            self._packet(client, data, ("203.0.113.9", 9))
        else:
            self._packet(client, data, None, 1)

    def crowd(self) -> None:
        """More packets for aioquic than one leg may have waiting."""
        client = self.some()
        long = b"\xc0\0\0\0\1\x08" + client.host_cid
        for _ in range(self.rng.choice((3, 20, 140))):
            self._packet(client, long)

    def notes(self) -> None:
        """Many control datagrams in one packet, and acknowledgements for aioquic."""
        client = self.some()
        if self.rng.random() < 0.5:
            plain = frames.encode_datagram(client.prefix + b"\0") * self.rng.choice((1, 5, 30, 60, 280))
            self._packet(client, client.frames_packet(plain))
            return
        for path in self.paths[client.leg]:
            path.outstanding = True
        for _ in range(self.rng.randrange(1, 90)):
            self._packet(client, client.frames_packet(self._ack(client)))

    # ------------------------------------------------------------ the loop

    def flush(self) -> None:
        """Let packets out."""
        self.sent = self.both("flush", lambda lane: lane.flush(self.now))

    def not_taken(self) -> None:
        """The kernel refused one."""
        self.flush()
        if self.sent:
            packet = self.rng.choice(self.sent)
            self.both("unsent", lambda lane: lane.unsent(packet))

    def pass_time(self) -> None:
        """Some milliseconds, sometimes a second."""
        self.now += self.rng.choice((0.0003, 0.001, 0.004, 0.02, 0.02, 0.05, 0.11, 1.2))

    def take(self) -> None:
        """What waits for the loop; aioquic is done with it at once."""
        most = self.rng.choice((1, 4, 16, 64))
        items = self.both("take", lambda lane: lane.take(most))
        for item in items:
            if isinstance(item, Known) and item.leg in self.paths:
                for path in self.paths[item.leg]:
                    path.slow_done()

    # ------------------------------------------------------------ the engine

    def route(self) -> None:
        """Other listeners, or none."""
        everybody = [*self.clients, *self.streams]
        leg = self.rng.choice(everybody)
        others = [other for other in everybody if other != leg]
        chosen = self.rng.sample(others, self.rng.randrange(len(others) + 1))
        targets = [(other, self.rng.randrange(1, 63)) for other in chosen]
        if self.rng.random() < 0.05:
            targets.append((0, 1))  # nobody
        flow = self.rng.choice(self.flows[leg] or [9])
        closed = self.rng.choice(REASONS)
        self.both("route", lambda lane: lane.route(leg, flow, targets, closed))

    def rights(self) -> None:
        """Another budget in mid-call."""
        leg = self.rng.choice(list(self.clients))
        rights = {
            "pps": self.rng.choice((10, 50, 300)),
            "up_bps": self.rng.choice((16_000, 512_000)),
            "down_bps": self.rng.choice((16_000, 512_000)),
        }
        self.both("open_leg", lambda lane: lane.open_leg(leg, **rights))

    def flow(self) -> None:
        """A flow ends, another begins."""
        leg = self.rng.choice(list(self.clients))
        if self.flows[leg]:
            gone = self.flows[leg].pop(0)
            self.both("close_flow", lambda lane: lane.close_flow(leg, gone))
        self._open_flow(leg)

    def repair(self) -> None:
        """Another way to make good what a listener missed; now and then of one without a path."""
        leg = self.rng.choice([*self.clients, *self.clients, *self.streams, 0])
        mode = self.rng.choice((Mode.OFF, Mode.REPEATS, Mode.REPEATS, Mode.REPEATS, Mode.COPIES))
        rule = Repair(
            mode=mode,
            budget=self.rng.choice((0.1, 0.5, 1.0)),
            depth=self.rng.choice((0.0, 3.0, 10.0, 50.0)),
            distances=self.rng.choice(((2,), (4, 2), (1,), (300, 3))),
            max_age=self.rng.choice((0.0, 0.03, 0.12, 0.18, 3.0)),
            ack_slack=self.rng.choice((0.0, 0.01, 0.025)),
        )
        self.both("tell_repair", lambda lane: lane.tell_repair(leg, rule))

    def resend(self) -> None:
        """A listener asks for what it was sent, or was not."""
        leg = self.rng.choice([*self.clients, *self.clients, *self.streams, 0])
        plain = self.lanes[0]
        assert isinstance(plain, PyLane)
        ring = plain._ring(leg)
        kept = [] if ring is None else ring._kept
        out, kid, ctr = self.rng.randrange(1, 63), self.rng.randrange(256), self.rng.randrange(1 << 16)
        if kept and self.rng.random() < 0.9:
            one = self.rng.choice(kept)
            out, kid, ctr = one.out, one.kid, one.ctr
        bits = self.rng.choice((0xFFFF, 0x1FF, 1, self.rng.randrange(1 << 16)))
        ask = Nack(out, kid, ctr - self.rng.choice((0, 0, 3, 8, 16, 200)) & 0xFFFF, bits)
        self.both("resend", lambda lane: lane.resend(leg, ask, self.now))

    def shape(self) -> None:
        """A listener hears otherwise; now and then one that is not open."""
        leg = self.rng.choice([*self.clients, *self.clients, *self.streams, 0])
        shape = Shape(
            hold=self.rng.choice((0.0, 0.0, 0.005, 0.07)),
            frames=self.rng.choice((1, 1, 2)),
            redundancy=self.rng.random() < 0.7,
        )
        self.both("shape", lambda lane: lane.shape(leg, shape))

    def measure(self) -> None:
        """What is known of the ways to all listeners, and of which of them that is worth asking."""
        self.both("troubled", lambda lane: lane.troubled())
        if self.rng.random() < 0.5:
            return
        legs = [*self.clients, *self.streams, 0]
        self.both("measure", lambda lane: lane.measure(legs, self.now))

    def come_and_go(self) -> None:
        """A leg leaves; another comes."""
        if self.rng.random() < 0.5:
            return
        leg = self.rng.choice(list(self.clients))
        if self.rng.random() < 0.7:
            for flow in self.flows.pop(leg):
                self.both("close_flow", lambda lane, flow=flow: lane.close_flow(leg, flow))
        self.flows.pop(leg, None)
        order = [lambda lane: lane.close_leg(leg), lambda lane: lane.close_path(leg)]
        for act in self.rng.sample(order, 2):
            self.both("close", act)
        del self.clients[leg], self.paths[leg]
        self._arrive()

    def deliver(self) -> None:
        """Audio that came through aioquic."""
        client = self.some()
        payload = self._voice(client)
        self.both("deliver", lambda lane: lane.deliver(client.leg, payload, self.now))

    # ------------------------------------------------------------ streams

    def stream_says(self) -> None:
        """Audio that came by a stream."""
        client = self.rng.choice(list(self.streams.values()))
        payload = self._voice(client)
        self.both("deliver", lambda lane: lane.deliver(client.leg, payload, self.now))

    def drain(self) -> None:
        """The stream takes what is worth it; sometimes it is asked for a leg that has none."""
        leg = self.rng.choice([*self.streams, *self.streams, *self.clients])
        room = self.rng.choice((1, 200, 1000, 4096))
        self.both("drain", lambda lane: lane.drain(leg, self.now, room))

    def streams_come_and_go(self) -> None:
        """A stream breaks, another comes; its copies may still be on their way when it does."""
        leg = self.rng.choice(list(self.streams))
        self.flows.pop(leg)
        order = [lambda lane: lane.close_leg(leg), lambda lane: lane.close_path(leg)]
        for act in self.rng.sample(order, 2):
            self.both("close", act)
        del self.streams[leg]
        self._connect()

    # ------------------------------------------------------------ aioquic

    def aioquic_sends(self) -> None:
        """Packet numbers for aioquic, with or without audio in between."""
        leg = self.rng.choice(list(self.clients))
        first = self.both_paths("reserve", leg, lambda path: path.reserve(256))
        if self.rng.random() < 0.3:
            self.flush()
        following = first + self.rng.choice((0, 0, 1, 2, 256))
        self.both_paths("settle", leg, lambda path: path.settle(following))
        out = self.rng.random() < 0.3
        for path in self.paths[leg]:
            path.outstanding = out

    def aioquic_receives(self) -> None:
        """A packet number that aioquic took, new or old."""
        client = self.some()
        leg = client.leg
        number = max(client.path._next + self.rng.choice((-300, -130, -5, -1, 0, 1)), 0)
        client.path._next = max(client.path._next, number + 1)
        if self.both_paths("has", leg, lambda path: path.has(number)):
            return
        ack_at = self.now + 0.02
        for path in self.paths[leg]:
            path.add(number)
            path.expected = max(path.expected, number + 1)
            if number > path.largest:
                path.largest, path.largest_at = number, self.now
            if path.ack_at is None:
                path.ack_at = ack_at
            path.last_heard = self.now

    def aioquic_hears_of_acks(self) -> None:
        """An ACK that aioquic took; samples of its own."""
        leg = self.some().leg
        ack = frames.parse_ack(self._ack(self.clients[leg])[1:])
        assert ack is not None
        if self.both_paths("honest", leg, lambda path: path.honest(list(ack.ranges))):
            ranges = list(ack.ranges)
            self.both_paths("acknowledged", leg, lambda path: path.acknowledged(ranges, ack.delay, self.now))
        if self.rng.random() < 0.2:
            rtt = tuple(self.rng.choice((0.001, 0.02, 0.3)) for _ in range(4))
            self.both_paths("set_rtt", leg, lambda path: path.set_rtt(*rtt))
        if self.rng.random() < 0.3:
            stop = self.rng.randrange(0, 400)
            self.both_paths("subtract", leg, lambda path: path.subtract(stop))

    def facts(self) -> None:
        """A new address, another id, or out of the packet path for a while."""
        client = self.some()
        way = self.rng.randrange(4)
        if way == 0:
            client.move()
        elif way == 1:
            cid = bytes((0x40 + client.leg % 64, 0x20)) + self.rng.randbytes(6)
            self.both("own", lambda lane: lane.own(client.leg, cid))
            if self.rng.random() < 0.5:
                old = client.host_cid
                self.both("disown", lambda lane: lane.disown(old))
            client.host_cid = cid
        elif way == 2:
            client.sock ^= 1
        active = self.rng.random() < 0.9
        self.both_paths("facts", client.leg, lambda path: client.tell(path, active))

    def keys(self) -> None:
        """A key update that both ends make."""
        client = self.some()
        client.phase ^= 1
        key, iv = client.coming
        client.renew()
        client.up = (key, iv, client.masks[0])
        keys = client.suite, client.phase, client.up, client.down, client.coming
        if self.rng.random() < 0.3:  # the client is first: its packets are aioquic's until both have flipped
            client.path.set_keys(client.suite, client.phase, client.down, client.up, client.coming)
            self.speak()
            self.speak()
        self.both_paths("keys", client.leg, lambda path: path.set_keys(*keys))
        if self.rng.random() < 0.8:
            client.path.set_keys(client.suite, client.phase, client.down, client.up, client.coming)

    def confirm(self) -> None:
        """A handshake is done."""
        leg = self.some().leg
        for path in self.paths[leg]:
            path.confirmed = True

    def control(self) -> None:
        """A control datagram to the client, if there is room."""
        leg = self.some().leg
        data = bytes((0, 2)) + self.rng.randbytes(10)
        if self.both_paths("room", leg, lambda path: path.room(self.now)):
            self.both_paths("seal", leg, lambda path: path.seal([data], self.now))
