"""What reads foreign bytes outside relay.protocol, as fuzz targets: edge, engine, SDK, settings.

Each docstring is the invariant that a finding would break. Stages are used again until an input ends them,
so a failure may need the inputs before it: the fuzzer's seed and round name those too.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock, patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz import Target
from golden import load
from hostile import table_engine as scenes
from hostile.scenes import STRANGER, Stage, Visitor, initial
from hostile.table_config import TEXTS
from hostile.table_edge import FRAMES, MEDIA, OUR_ID, UP, short, voice
from hostile.table_engine import PASSING, SAID, framed
from pair import World
from relay import config
from relay.client import agreement, frames, rungs
from relay.client.audio import opus_ticks
from relay.client.call import Call
from relay.client.e2ee import OpenKey, Suite
from relay.client.keyring import KeyRing
from relay.client.link import Credentials, Link
from relay.client.mending import BURST_S, Mending
from relay.client.reception import Reception
from relay.config import LimitsConfig
from relay.core import events
from relay.edge.front import Answer
from relay.edge.lane_py import PyLane
from relay.errors import PeerError
from relay.protocol import control, datagram, keys, media
from relay.protocol.address import Address
from relay.protocol.datagram import Nack
from relay.protocol.ids import CallId, Sub

logging.getLogger("quic").setLevel(logging.CRITICAL)  # its client complains about each close

LIFE = 500  # inputs that one stage sees


class Reused:
    """A value that is made anew after `LIFE` uses, or when `drop` was called."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._value: Any = None
        self._uses = 0

    def get(self) -> Any:
        self._uses += 1
        if self._value is None or self._uses > LIFE:
            self._value, self._uses = self._make(), 0
        return self._value

    def drop(self) -> None:
        self._value = None


# ---------------------------------------------------------------- the edge

_QUIET = Reused(Stage)
_BUSY = Reused(lambda: Stage(limits={"retry_above_half_open": 0, "initials_per_source_burst": 10**6}))


def _untouched(stage: Stage) -> None:
    assert stage.endpoint.internal_errors == 0
    assert stage.node.driver.internal_errors == 0


def judge(data: bytes) -> None:
    """The front answers with less than it was asked, or keeps silent, and never raises."""
    front = _BUSY.get().endpoint._front
    source = Address(*STRANGER)
    verdict = (
        front.judge_long(data, source, 0.0, 1.7e9, 64)
        if data[:1] >= b"\x80"
        else front.judge_short(data, 0.0)
    )
    if isinstance(verdict, Answer):
        assert len(verdict.data) <= len(data)


def arrive(data: bytes) -> None:
    """A packet of a stranger is counted, answered with less, and troubles nobody else."""
    stage = _QUIET.get()
    stage.sent.clear()
    known = len(stage.endpoint)
    stage.verdict(data)
    if len(stage.endpoint) == known:
        assert sum(len(answer) for answer, _ in stage.sent) <= len(data)
    _untouched(stage)


def _visited() -> tuple[Stage, Visitor]:
    stage = Stage()
    return stage, stage.visit()


_VISITED = Reused(_visited)


def inject(payload: bytes) -> None:
    """Frames of a connected client may close its connection; they never raise, and never reach others."""
    stage, visitor = _VISITED.get()
    stage.arrive(visitor.packet(payload), visitor.addr)
    stage.run(0.0)
    _untouched(stage)
    if not len(stage.endpoint) or stage.endpoint._by_leg[1].quic.is_closing:
        stage.run(40.0)
        assert not len(stage.endpoint)
        _VISITED.drop()


def _lane() -> PyLane:
    made = PyLane(LimitsConfig())
    for leg in (1, 2):
        made.open_leg(leg, pps=10**6, up_bps=10**9, down_bps=10**9)
    made.open_flow(1, UP, index=2, group=False)
    made.route(1, UP, [(2, 9)], None)
    return made


_LANE = Reused(_lane)


def forward(payload: bytes) -> None:
    """What the lane copies is well formed, its sender's own, and changed in flow number and repeat only."""
    lane = _LANE.get()
    reason = lane.deliver(1, payload, 0.0)
    copy = lane.dequeue(2, 0.0)
    assert (reason is None) == (copy is not None)
    if copy is not None:
        assert copy[2:] == payload[2:]
        assert media.index_of(media.decode(copy).kid, False) == 2
    assert lane.counters.imbalance() == 0


# ---------------------------------------------------------------- the engine

STATES = (
    scenes.opened,
    scenes.challenged,
    scenes.ready,
    scenes.joined,
    scenes.talking,
    scenes.group,
    scenes.hosting,
    scenes.over,
)
_CASTS = [Reused(state) for state in STATES]


def _say(data: bytes, words: Callable[[scenes.Cast, bytes], None]) -> None:
    """The first byte chooses the state of the leg."""
    if not data:
        return
    reused = _CASTS[data[0] % len(_CASTS)]
    cast = reused.get()
    words(cast, data[1:])
    cast.world.run(0.02)
    cast.world.check()
    if cast.eve.closed is not None or cast.eve.all(control.Ended):
        reused.drop()
        assert cast.eve.leg not in cast.world.engine.node.legs or cast.eve.closed is None
    cast.eve.got.clear()


def _stream(cast: scenes.Cast, data: bytes) -> None:
    cast.world.feed(events.StreamReceived(cast.eve.leg, framed(data[:16384])))


def say(data: bytes) -> None:
    """Any frame, in any state: an answer, an error or the end of that leg; charges equal resources."""
    _say(data, _stream)


def _raw_stream(cast: scenes.Cast, data: bytes) -> None:
    for at in range(0, len(data), 7):
        cast.world.feed(events.StreamReceived(cast.eve.leg, data[at : at + 7]))


def trickle(data: bytes) -> None:
    """The same, cut anywhere and without true lengths."""
    _say(data, _raw_stream)


def _pass(cast: scenes.Cast, data: bytes) -> None:
    cast.world.feed(events.DatagramReceived(cast.eve.leg, b"\0" + data))
    assert cast.eve.closed is None


def pass_by(data: bytes) -> None:
    """A control datagram never ends a leg."""
    _say(data, _pass)


_WORLD = Reused(World)


def order(data: bytes) -> None:
    """A command has one answer, whatever it is."""
    world = _WORLD.get()
    world.command_raw(data)
    world.check()


# ---------------------------------------------------------------- the SDK


def _ring(index: int, seed: int = 1) -> KeyRing:
    rng = random.Random(seed + index)
    return KeyRing(bytes(16), index, Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)), rng.randbytes)


def _agreed() -> tuple[KeyRing, KeyRing, list[bytes]]:
    """Two rings that agreed, and every blob that went between them."""
    rings = (_ring(0), _ring(1))
    blobs: list[bytes] = []
    waiting = [(1, blob) for blob in rings[1].meet(0)]
    while waiting:
        sender, blob = waiting.pop(0)
        blobs.append(blob)
        waiting += [(1 - sender, answer) for answer in rings[1 - sender].on_blob(sender, blob)]
    return (*rings, blobs)


_RINGS = Reused(lambda: _agreed()[:2])
_FRESH = Reused(lambda: _ring(1))


def agree(data: bytes) -> None:
    """A blob read and written again is the same."""
    assert agreement.decode(data).encode() == data


def meet(data: bytes) -> None:
    """No blob raises but as the peer's fault, or undoes what was agreed."""
    ring = _RINGS.get()[1]
    try:
        ring.on_blob(0, data)
    finally:
        assert ring.keys(0) is not None


def meet_first(data: bytes) -> None:
    """The same, before anything was agreed."""
    _FRESH.get().on_blob(0, data)


def unseal(data: bytes) -> None:
    """A plaintext that a sender really sealed may be nonsense: counted, never raised, and reported still."""
    sender, receiver = _RINGS.get()
    sealer = sender.sealer(1)
    assert sealer is not None
    head = media.encode_header(9, sealer.kid, sealer.next_ctr)
    header = media.decode(head + bytes(19))
    reception = Reception(receiver)
    reception.on_gate({0: 9}, 1.0)
    reception.on_media(head + sealer.seal(media.aad(head, header), data[:900]), 1.0)
    for _ in range(3):
        reception.heard(0).jitter.pull(1.1)
    for report in (reception.flow_reports(1.2),):
        if report:
            datagram.encode_datagram(datagram.LegReport(0, 0, report))
    control.encode(control.Rr(c=bytes(16), s=reception.receiver_report()))


_RECEPTION = Reused(lambda: Reception(_agreed()[1]))


def hear(data: bytes) -> None:
    """What the network makes up is counted, never raised."""
    reception = _RECEPTION.get()
    reception.on_gate({0: 9}, 1.0)
    reception.on_media(data, 1.0)


_KEY = OpenKey(Suite.AES_256_GCM_SHA512_128, bytes(64), 1)


def open_sealed(data: bytes) -> None:
    """Nothing opens that was not sealed."""
    assert _KEY.open(int.from_bytes(data[:4], "big"), data[4:8], data[8:]) is None


def read_frame(data: bytes) -> None:
    """A plaintext is a frame, or the sender's fault; so is a bundle; an Opus packet has at most 120 ms."""
    frame = frames.decode_frame(data)
    assert 0 <= opus_ticks(frame.body) <= 48
    assert sum(len(part.body) for part in frames.unbundle(frame)) <= len(data)


_LINK = Reused(lambda: Link(Credentials(Sub(bytes(16)), CallId(bytes(16)), token=b"x"), control.Cli()))


def answer(data: bytes) -> None:
    """Whatever a relay sends, the link reads it or says that the relay is wrong."""
    link = _LINK.get()
    link.feed(framed(data[:16384]))
    link.take()


def mend(data: bytes) -> None:
    """Whatever a relay acknowledges, loses and names, what goes again is what was sent, and within rights."""
    mending, now, ctr = Mending(), 0.0, 0
    mending.grant(80_000, 100, now)
    sent, repeats = set[bytes](), 0
    for kind, value in zip(data[::2], data[1::2], strict=False):
        again: list[bytes] = []
        now += value / 1000
        if kind % 4 == 0:
            payload = media.encode_header(4, 0, ctr, pp=value % 4) + bytes(20 + value)
            ctr += 1
            sent.add(payload)
            again = mending.beside(payload, 4 * value, now)
        elif kind % 4 == 1:
            came = media.encode_header(4, 0, max(0, ctr - value), repeat=kind > 127) + bytes(60)
            mending.on_fate(came, value % 2 == 0, now)
        elif kind % 4 == 2:
            mending.on_round_trip(value / 1000, kind / 1000, now)
            again = mending.alone(1000, now)
        else:
            again = mending.asked(
                Nack(4, kind % 2, max(0, ctr - value) & 0xFFFF, kind << 8 | value), 1000, now
            )
        assert {media.with_flow(one, 4, False) for one in again} <= sent
        repeats += sum(map(len, again))
    assert repeats <= 80_000 / 8 * (now + BURST_S)


class _Leg:
    """A leg that takes everything, and the part of an event loop that a call uses."""

    error = None
    media_unsent = 0
    media_repeated = 0

    def tell(self, message: control.Message) -> None:
        control.encode(message)

    def time(self) -> float:
        return 1.0

    def create_task(self, task: Any, name: str) -> Any:
        task.close()
        return Mock()


def _called() -> Call:
    with patch("asyncio.get_running_loop", _Leg):
        identity = Ed25519PrivateKey.from_private_bytes(bytes(32))
        return Call(_Leg(), control.Joined(c=bytes(range(16, 32)), p=1, up=1), identity)


_CALL = Reused(_called)


def obey(data: bytes) -> None:
    """A relay that lies to a client may end its call, or spoil it; the client does not break."""
    call = _CALL.get()
    with suppress(PeerError):
        for raw in control.FrameReader().feed(data):
            body = control.decode(raw).body
            if isinstance(body, control.Joined):
                call.on_joined(body)
            elif body is not None:
                call.on_message(body)
    call.on_media(data)
    call.on_leg_lost()
    call.stats()
    if data[-1:] == b"\0":
        _CALL.drop()


def read_url(data: bytes) -> None:
    """An address is taken apart, or the caller is told."""
    rungs.parse_url(data.decode("latin-1"))


# ---------------------------------------------------------------- settings and keys


def read_config(data: bytes) -> None:
    """A file is a configuration that renders and reads back alike, or an error that names a key."""
    tree = config.parse(data.decode("utf-8", "replace"))
    assert config.parse(config.render(tree)) == tree


def assign(data: bytes) -> None:
    """The same for what is written on the command line."""
    config.parse("", [data.decode("utf-8", "replace")])


def read_key(data: bytes) -> None:
    """A key file holds 32 bytes or is refused."""
    assert len(keys.read_key(data.decode("latin-1"))) == keys.KEY_SIZE


_STREAMED = [words for row in SAID for words in row.words if isinstance(words, bytes)]
_MESSAGES = [bytes.fromhex(row["frame"]) for row in load("control")["frames"]]
# Each state's own call in the place of the goldens' one, or nothing would get past the first check.
_CALLS = [bytes(state().eve.cid) for state in STATES]
_STATED = [
    bytes((number,)) + each[2:].replace(bytes(range(16, 32)), cid).replace(bytes(16), cid)
    for number, cid in enumerate(_CALLS)
    for each in _STREAMED + _MESSAGES
]
_DATAGRAMS = [bytes.fromhex(row["datagram"])[1:] for row in load("datagram")["datagrams"]]
_INITIALS = [
    initial(),
    initial(version=9),
    initial(token=b"RA" + bytes(60)),
    initial(kind=2),
    initial(version=0),
]
_FIRST_FLIGHT = Stage()
_TALK = [each for each in _MESSAGES if each[3] in (0x13, 0x14, 0x15, 0x17, 0x20, 0x25, 0x38)]
_TALK += [
    control.encode(message)
    for message in (
        control.Joined(
            c=bytes(range(16, 32)),
            p=1,
            up=1,
            roster=(control.RosterEntry(p=0, sub=bytes(16), st="accepted"),),
        ),
        control.Peer(c=bytes(range(16, 32)), p=0, ev="join"),
        control.Ended(c=bytes(range(16, 32)), why="completed"),
        *(control.E2e(c=bytes(range(16, 32)), k=0, b=blob, p=0) for blob in _agreed()[2]),
    )
]
_CAPTURED: list[bytes] = []
_FIRST_FLIGHT.arrive = lambda data, addr=None: _CAPTURED.append(data)
_FIRST_FLIGHT.visit()

TARGETS = [
    Target("edge-front", judge, [*_INITIALS, short(OUR_ID, 100)]),
    Target("edge-packet", arrive, [*_INITIALS, *_CAPTURED[:1], short(OUR_ID, 100), b"", b"\x40\0\0\0"]),
    Target("edge-frames", inject, [bytes.fromhex(each) for row in FRAMES for each in row.payloads]),
    Target("edge-media", forward, [voice(n) for n in range(4)] + [row.datagrams[-1] for row in MEDIA]),
    Target("engine-frame", say, _STATED),
    Target("engine-stream", trickle, [each[:1] + framed(each[1:]) for each in _STATED]),
    Target(
        "engine-datagram",
        pass_by,
        [bytes((state,)) + each for state in range(len(STATES)) for each in _DATAGRAMS]
        + [b"\x04" + each[1:] for row in PASSING for each in row.data[:2]],
    ),
    Target("engine-command", order, [bytes.fromhex(row["command"]) for row in load("command")["commands"]]),
    Target("client-blob", agree, _agreed()[2]),
    Target("client-keyring", meet, _agreed()[2]),
    Target("client-hello", meet_first, _agreed()[2]),
    Target("client-frame", read_frame, [b"\0\0\0opus", b"\0\0\x40\x01\x08\x03abcdef", b"\0\0\x20abc\x02"]),
    Target("client-sealed", open_sealed, [bytes(40)]),
    Target(
        "client-plain",
        unseal,
        [b"\0\0\0opus", b"\0\0\x40\x01\x08\x03abcdef", b"\0\0\x20abc\x02", b"\0\0\x80hi"],
    ),
    Target("client-media", hear, [bytes.fromhex(row["datagram"]) for row in load("media-sealed")["packets"]]),
    Target("client-link", answer, [each[2:] for each in _MESSAGES]),
    Target("client-call", obey, [each + other for each in _TALK for other in _TALK]),
    Target("client-mending", mend, [bytes((0, 20)) * 9 + bytes((1, 0, 2, 1, 3, 9)) * 9, bytes(range(64))]),
    Target("client-url", read_url, [b"quic://[::1]:443", b"quic://relay.example"], local_errors=True),
    Target(
        "config",
        read_config,
        [row.toml.encode() for row in TEXTS] + [config.render(config.Config()).encode()],
    ),
    Target(
        "config-assign",
        assign,
        [b"limits.legs=5", b"node.id=a", b"policy=[]", b"tokens.issuers=[{name='a'}]"],
    ),
    Target("key-file", read_key, [b"A" * 43 + b"=\n"]),
]
