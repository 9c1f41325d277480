"""Legs on streams, on a simulated clock: what comes in, what leaves when, and who is closed for what."""

from __future__ import annotations

import pytest

from lanes import LANES
from quicnet import Network
from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.peer import MAX_BACKLOG
from relay.edge.streams import CHUNK, LOOK_S, STUCK_S, Streams
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, media
from relay.protocol.address import Address
from relay.protocol.records import CONTROL

UP, DOWN = 4, 9
SOURCE = Address("192.0.2.7", 4433)


class Pipe:
    """A wire that the test makes busy or idle."""

    def __init__(self) -> None:
        self.idle = True
        self.written: list[bytes] = []
        self.closed: tuple[int, str] | None = None

    def is_idle(self) -> bool:
        return self.idle

    def write(self, message: bytes) -> None:
        self.written.append(message)

    def close(self, code: int, reason: str) -> None:
        self.closed = code, reason


class Stage:
    """Two legs on streams; what the first says on its flow reaches the second."""

    def __init__(self, lane: str = "python", limits: LimitsConfig | None = None) -> None:
        self.net = net = Network(limits, lane)
        self.streams = Streams(
            net,
            net.limits,
            net.lane,
            number=net.endpoint.new_leg,
            flush=net.endpoint.flush,
            clock=lambda: net.now,
        )
        self.streams.attach(net)
        net.endpoint.on_waiting = self.streams.pump
        net.endpoint.on_broken = self.streams.broken
        self.pipes = Pipe(), Pipe()
        self.one, self.two = (self.streams.open(pipe, SOURCE, "ws") for pipe in self.pipes)
        net.lane.open_flow(self.one, UP, index=0, group=False)
        net.lane.route(self.one, UP, [(self.two, DOWN)], None)

    def say(self, ctr: int, size: int = 80) -> bytes:
        head = media.encode_header(UP, 0, ctr)
        packet = head + bytes(size - len(head))
        self.streams.message(self.one, packet)
        return bytes((DOWN,)) + packet[1:]

    def settled(self) -> None:
        assert self.streams.imbalance() == 0
        assert self.net.lane.counters.imbalance() == 0


@pytest.fixture(params=LANES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


def test_audio_goes_from_stream_to_stream_at_once(stage: Stage) -> None:
    heard = [stage.say(ctr) for ctr in range(3)]
    stage.net.run(0.0)
    assert stage.pipes[1].written == heard
    assert stage.streams.handled == {"media": 3}
    assert stage.net.lane.counters.sent == 3
    stage.settled()


def test_audio_waits_for_a_busy_wire_200_ms_and_not_longer(stage: Stage) -> None:
    stage.pipes[1].idle = False
    for ctr in range(3):
        stage.say(ctr)
        stage.net.run(0.1)
    stage.pipes[1].idle = True
    stage.net.run(LOOK_S)
    assert [media.decode(copy).ctr for copy in stage.pipes[1].written] == [2]
    assert stage.net.lane.counters.dropped_out == {DropReason.STALE: 2}
    stage.settled()


def test_no_more_than_a_chunk_is_written_before_the_wire_is_asked_again() -> None:
    stage = Stage()
    for ctr in range(10):
        stage.say(ctr, 1000)
    stage.net.run(0.0)
    written = sum(map(len, stage.pipes[1].written))
    assert CHUNK <= written < CHUNK + 1000
    stage.pipes[1].idle = False
    stage.net.run(LOOK_S)
    assert sum(map(len, stage.pipes[1].written)) == written
    stage.pipes[1].idle = True
    stage.net.run(2 * LOOK_S)
    assert len(stage.pipes[1].written) == 10
    stage.settled()


def test_a_message_of_the_control_stream_is_a_frame_behind_c0() -> None:
    stage = Stage()
    ping = control.encode(control.Ping(t=5), 7)
    stage.streams.message(stage.one, bytes((CONTROL,)) + ping[2:])
    assert stage.net.facts[-1] == ("stream", stage.one, ping)
    stage.streams.message(stage.one, b"\0\1datagram")
    assert stage.net.facts[-1] == ("datagram", stage.one, b"\0\1datagram")
    stage.streams.send_stream(stage.one, ping + ping)
    assert stage.pipes[0].written == [bytes((CONTROL,)) + ping[2:]] * 2
    stage.settled()


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"", ErrorCode.PROTOCOL_VIOLATION, DropReason.MALFORMED),
        (b"\x40", ErrorCode.PROTOCOL_VIOLATION, DropReason.MALFORMED),
        (b"\xbf" * 9, ErrorCode.PROTOCOL_VIOLATION, DropReason.MALFORMED),
        (b"\xc1" * 9, ErrorCode.PROTOCOL_VIOLATION, DropReason.MALFORMED),
        (b"\xff", ErrorCode.PROTOCOL_VIOLATION, DropReason.MALFORMED),
        (b"\xc0" + bytes(16385), ErrorCode.TOO_LARGE, DropReason.TOO_LARGE),
    ],
    ids=["empty", "40", "bf", "c1", "ff", "too large"],
)
def test_what_is_neither_closes_by_name(data: bytes, code: ErrorCode, reason: DropReason) -> None:
    stage = Stage()
    stage.streams.message(stage.one, data)
    assert stage.pipes[0].closed is not None
    assert stage.pipes[0].closed[0] == code
    assert stage.net.facts[-1] == ("lost", stage.one, code)
    assert stage.streams.dropped == {reason: 1}
    stage.streams.message(stage.one, b"\0\1later")
    stage.streams.refuse(stage.one, PeerError(ErrorCode.PROTOCOL_VIOLATION, "later"))
    stage.streams.lost(stage.one, 0)
    assert stage.streams.received == 1
    assert len(stage.streams) == 1
    stage.settled()


def test_a_wire_that_takes_nothing_for_ten_seconds_is_closed() -> None:
    stage = Stage()
    stage.pipes[1].idle = False
    stage.say(0)
    stage.net.run(STUCK_S - 0.1)
    assert stage.pipes[1].closed is None
    stage.net.run(0.2)
    assert stage.pipes[1].closed == (ErrorCode.OVERLOADED, "does not read")
    assert stage.net.lane.counters.dropped_out == {DropReason.PEER_GONE: 1}
    assert stage.pipes[1].written == []
    stage.settled()


def test_a_wire_that_was_idle_in_between_has_its_ten_seconds_again() -> None:
    stage = Stage()
    pipe = stage.pipes[1]
    for ctr in range(3):
        pipe.idle = False
        stage.say(ctr)
        stage.net.run(STUCK_S - 0.1)
        pipe.idle = True
        stage.net.run(LOOK_S * 2)
    assert pipe.closed is None
    stage.settled()


def test_control_messages_that_nobody_reads_are_bounded() -> None:
    stage = Stage()
    stage.pipes[0].idle = False
    frame = (16384).to_bytes(2, "big") + bytes(16384)
    for _ in range(MAX_BACKLOG // 16385):
        stage.streams.send_stream(stage.one, frame)
    assert stage.pipes[0].closed is None
    stage.streams.send_stream(stage.one, frame)
    assert stage.pipes[0].closed == (ErrorCode.OVERLOADED, "does not read")
    assert stage.pipes[0].written == []


def test_control_goes_before_audio_and_both_before_the_close() -> None:
    stage = Stage()
    pipe = stage.pipes[1]
    pipe.idle = False
    copy = stage.say(0)
    stage.net.run(0.0)
    ok = control.encode(control.Ok(), 1)
    stage.streams.send_stream(stage.two, ok)
    pipe.idle = True
    stage.net.run(LOOK_S)
    assert pipe.written == [bytes((CONTROL,)) + ok[2:], copy]
    pipe.idle = False
    stage.streams.send_stream(stage.two, ok)
    stage.streams.close(stage.two, ErrorCode.MOVED, "")
    assert len(pipe.written) == 3
    assert pipe.closed == (ErrorCode.MOVED, "")
    stage.streams.send_stream(stage.two, ok)
    stage.streams.send_datagram(stage.two, b"\0\2")
    stage.streams.close(stage.two, 0, "")
    assert len(pipe.written) == 3


def test_a_control_datagram_without_room_is_lost_and_counted() -> None:
    stage = Stage()
    stage.streams.send_datagram(stage.one, b"\0\2pong")
    stage.pipes[0].idle = False
    stage.streams.send_datagram(stage.one, b"\0\2pong")
    assert stage.pipes[0].written == [b"\0\2pong"]
    assert stage.streams.unsent == 1


def test_silence_ends_a_leg_and_any_sign_of_life_keeps_it() -> None:
    stage = Stage(limits=LimitsConfig(idle_s=30.0))
    stage.net.run(20.0)
    stage.streams.heard(stage.one)
    stage.net.run(15.0)
    assert stage.pipes[0].closed is None
    assert stage.pipes[1].closed == (ErrorCode.IDLE_TIMEOUT, "")
    assert stage.streams.last_heard(stage.one) == 20.0
    assert stage.streams.last_heard(stage.two) is None
    stage.net.run(15.1)
    assert stage.pipes[0].closed == (ErrorCode.IDLE_TIMEOUT, "")


def test_a_bug_met_by_one_legs_message_costs_that_leg_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stage.net, "datagram", broken)
    stage.streams.message(stage.one, b"\0\1")
    assert stage.pipes[0].closed == (ErrorCode.INTERNAL, "")
    assert stage.pipes[1].closed is None
    assert stage.streams.internal_errors == 1
    stage.settled()


@pytest.mark.parametrize("step", ["_enqueue", "dequeue"])
def test_a_bug_met_by_what_one_leg_hears_costs_that_leg_only(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()

    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(stage.net.lane, step, fail)
        stage.say(1)
        stage.net.run(LOOK_S)
    assert stage.pipes[1].closed == (ErrorCode.INTERNAL, "")
    assert stage.pipes[0].closed is None
    assert stage.streams.internal_errors == 1
    stage.net.lane.close_leg(stage.two)
    assert stage.net.lane.counters.queued == 0
    stage.settled()


def test_a_peer_that_goes_is_told_once() -> None:
    stage = Stage()
    stage.streams.lost(stage.two, ErrorCode.NO_ERROR)
    assert stage.net.facts[-1] == ("lost", stage.two, 0)
    stage.say(0)
    stage.net.run(0.0)
    assert stage.net.lane.counters.dropped_out == {DropReason.PEER_GONE: 1}
    assert stage.pipes[1].written == []
    stage.settled()
