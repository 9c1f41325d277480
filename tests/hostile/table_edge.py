"""Hostile packets: what the endpoint, the QUIC stack and the lane must make of each.

    Packet   one UDP packet for a node that never saw its sender   -> drop reason, or the name of the answer
    Frames   a payload under a connection's real keys               -> QUIC close code (RFC 9000 section 20.1)
    Tampered an authentic packet, changed                           -> drop reason
    Media    datagrams of an admitted leg for the lane              -> drop reason of the last
    Copies   what happens on the way to a listener                  -> drop reason of a copy

Must never live here: how a row is acted out (test_table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest.mock import patch

from hostile.scenes import STRANGER, Stage, foreign_id, initial
from relay.core import events
from relay.core.reasons import DropReason
from relay.edge.flow import WINDOW
from relay.edge.front import Front
from relay.edge.lane_py import SLOW_QUEUE, PyLane
from relay.errors import ErrorCode
from relay.protocol import media, trunk
from relay.protocol.demux import QUIC_V2, parse_long
from relay.protocol.trunk import HOP, MIN_ROUTE
from relay.quic.connection import RelayQuic

D, E = DropReason, ErrorCode


class Packet(NamedTuple):
    """`data`, or what it returns after it prepared the stage; `limits` of the node that differ."""

    id: str
    data: bytes | Callable[[Stage], bytes]
    outcome: DropReason | str
    limits: Mapping[str, Any] = {}


def short(cid: bytes, size: int) -> bytes:
    """A short-header packet of noise for a connection id."""
    return b"\x41" + cid + b"\x5a" * (size - 1 - len(cid))


OUR_ID = foreign_id(b"\0\1\0")
STUN = bytes.fromhex("000100002112a442") + bytes(12)


def retry(stage: Stage, addr: Any = STRANGER) -> tuple[bytes, bytes]:
    """(token, destination id) of the Retry that the node sends to `addr`."""
    stage.verdict(initial(), addr)
    header = parse_long(stage.sent[-1][0])
    return header.token, header.scid


def with_token(addr: Any = STRANGER, *, wait: float = 0.0, dcid: bytes | None = None, flip: int = -1) -> Any:
    """A first packet with a Retry token that was given to `addr`, a while ago, perhaps damaged."""

    def make(stage: Stage) -> bytes:
        token, destination = retry(stage, addr)
        stage.run(wait)
        if flip >= 0:
            token = token[:flip] + bytes((token[flip] ^ 1,)) + token[flip + 1 :]
        return initial(token=token, dcid=dcid or destination)

    return make


def twice(data: bytes) -> Callable[[Stage], bytes]:
    """The same packet came before."""

    def make(stage: Stage) -> bytes:
        stage.verdict(data)
        return data

    return make


def used_token(stage: Stage) -> bytes:
    """A token that already let somebody in."""
    data: bytes = with_token()(stage)
    stage.arrive(data)
    stage.run(6.0)  # the handshake it began has timed out
    return data


def flooded(stage: Stage) -> bytes:
    """Nothing of what stands in the queue of unknown packets was worked on yet."""
    for _ in range(SLOW_QUEUE + 1):  # one is in hand
        stage.arrive(short(b"unknown!", 30))
    return short(b"unknown!", 30)


def draining(stage: Stage) -> bytes:
    stage.endpoint.accepting = False
    return initial()


BUSY = {"retry_above_half_open": 0}

PACKETS = [
    Packet("an empty datagram", b"", D.MALFORMED),
    Packet("a single byte", b"\x00", D.MALFORMED),
    Packet("a STUN request while TURN is off", STUN, D.MALFORMED),
    Packet("the reserved first bytes 04 to 3F", b"\x20" * 100, D.MALFORMED),
    Packet("a long header without the fixed bit", initial(first=0x80), D.MALFORMED),
    Packet("a packet over 2048 bytes", initial(size=2049), D.TOO_LARGE),
    Packet("a long header cut after its version", initial()[:6], D.MALFORMED),
    Packet("a long header that is all there is", initial()[:7], D.MALFORMED),
    Packet("a first packet of 1199 bytes", initial(size=1199), D.MALFORMED),
    Packet("a first packet with a destination id of 7 bytes", initial(dcid=bytes(7)), D.MALFORMED),
    Packet("a first packet with a destination id of 21 bytes", initial(dcid=bytes(21)), D.MALFORMED),
    Packet("a first packet with a source id of 21 bytes", initial(scid=bytes(21)), D.MALFORMED),
    Packet("a token longer than the packet", initial()[:21] + b"\x7f\xff" + bytes(1177), D.MALFORMED),
    Packet(
        "a payload longer than the packet",
        initial()[:21] + b"\x00\x7f\xff" + bytes(1176),
        D.MALFORMED,
    ),
    Packet("a Handshake packet of nobody", initial(kind=2), D.UNKNOWN_ID),
    Packet("a 0-RTT packet of nobody", initial(kind=1), D.UNKNOWN_ID),
    Packet("a Retry sent to a server", initial(kind=3), D.UNKNOWN_ID),
    Packet("version 2 with the type bits of version 1", initial(version=QUIC_V2), D.UNKNOWN_ID),
    Packet("a version negotiation, an answer to nothing", initial(version=0), D.BAD_VERSION),
    Packet("an unknown version", initial(version=0x1A2A3A4A), "version_negotiation"),
    Packet("an unknown version in a small packet", initial(version=0x1A2A3A4A, size=1199), D.MALFORMED),
    Packet(
        "an unknown version with ids of 255 bytes",
        initial(version=0x1A2A3A4A, dcid=bytes(255), scid=bytes(255)),
        "version_negotiation",
    ),
    Packet(
        "unknown versions from one source without end",
        twice(initial(version=0x1A2A3A4A)),
        D.OVER_BUDGET,
        {"negotiations_per_source_per_s": 1},
    ),
    Packet(
        "unknown versions from everywhere",
        lambda stage: (stage.verdict(initial(version=9), ("203.0.113.9", 9)), initial(version=9))[1],
        D.OVER_BUDGET,
        {"negotiations_per_s": 1},
    ),
    Packet(
        "first packets of one source without end",
        lambda stage: (stage.verdict(initial()), initial(dcid=b"another1"))[1],
        D.OVER_BUDGET,
        {"initials_per_source_burst": 1},
    ),
    Packet(
        "first packets from many ports of one address",
        lambda stage: (stage.verdict(initial(), (STRANGER[0], 1)), initial(dcid=b"another1"))[1],
        D.OVER_BUDGET,
        {"initials_per_source_burst": 1},
    ),
    Packet("a first packet while handshakes pile up", initial(), "retry", BUSY),
    Packet("a made-up address token", initial(token=b"RA" + bytes(60)), D.UNPROVEN),
    Packet("an address token of two bytes", initial(token=b"RA"), D.UNPROVEN),
    Packet("an address token with a flipped bit", with_token(flip=20), D.UNPROVEN, BUSY),
    Packet("an address token with another nonce", with_token(flip=5), D.UNPROVEN, BUSY),
    Packet("an address token of another address", with_token(("192.0.2.8", 5000)), D.UNPROVEN, BUSY),
    Packet("an address token of another port", with_token((STRANGER[0], 5001)), D.UNPROVEN, BUSY),
    Packet("an address token of 11 seconds ago", with_token(wait=11.0), D.UNPROVEN, BUSY),
    Packet("an address token for another destination id", with_token(dcid=b"elsewher"), D.UNPROVEN, BUSY),
    Packet("an address token that was used", used_token, D.UNPROVEN, BUSY),
    Packet("a proven address while every handshake is taken", with_token(), D.QUOTA, BUSY | {"half_open": 0}),
    Packet("a first packet for a full node", initial(), D.QUOTA, {"legs": 0}),
    Packet("a first packet for a node that leaves", draining, D.DRAINING),
    Packet("a flood that fills the queue of unknown packets", flooded, D.OVER_BUDGET),
    Packet("a short header for nobody", short(b"unknown!", 100), D.UNKNOWN_ID),
    Packet("a short header of 4 bytes, as ChannelData", b"\x40\x00\x00\x00", D.UNKNOWN_ID),
    Packet("a short header with an id of another node", short(foreign_id(b"\0\2\0"), 100), D.UNKNOWN_ID),
    Packet(
        "a short header with an id of another cluster",
        short(foreign_id(b"\0\1\0", b"x" * 16), 100),
        D.UNKNOWN_ID,
    ),
    Packet("a short header for an old id", short(OUR_ID, 100), "stateless_reset"),
    Packet("a short header too small to answer", short(OUR_ID, 42), D.UNKNOWN_ID),
    Packet("short headers for old ids without end", twice(short(OUR_ID, 100)), D.UNKNOWN_ID),
]


class Frames(NamedTuple):
    """Packets, each a payload in hexadecimal, and the code that the connection is closed with."""

    id: str
    payloads: tuple[str, ...]
    code: int
    reserved: int = 0


FLOW_CONTROL, STREAM_LIMIT, STREAM_STATE, FINAL_SIZE = 0x03, 0x04, 0x05, 0x06
FRAME_ENCODING, TOO_MANY_IDS, VIOLATION, CRYPTO_BUFFER = 0x07, 0x09, 0x0A, 0x0D

FRAMES = [
    Frames("an acknowledgement of a packet never sent", ("02bfffffff000000",), VIOLATION),
    Frames("an acknowledgement with ECN of a packet never sent", ("03bfffffff000000000000",), VIOLATION),
    Frames("two acknowledgements, one of nothing ever sent", ("0200000000" + "02bfffffff000000",), VIOLATION),
    Frames("an acknowledgement that counts below zero", ("0201000005",), FRAME_ENCODING),
    Frames("an acknowledgement cut short", ("31026161" + "0241",), FRAME_ENCODING),
    Frames("HANDSHAKE_DONE from a client", ("1e",), VIOLATION),
    Frames("NEW_TOKEN from a client", ("0701aa",), VIOLATION),
    Frames("CRYPTO data far ahead", ("0680ffffff0161",), CRYPTO_BUFFER),
    Frames("a frame type nobody knows", ("21",), FRAME_ENCODING),
    Frames("a payload without frames", ("",), VIOLATION),
    Frames("a header with reserved bits set", ("01",), VIOLATION, reserved=3),
    Frames("a DATAGRAM longer than its packet", ("317fff6161",), FRAME_ENCODING),
    Frames("data on a stream that is ours to open", ("0a010161",), STREAM_STATE),
    Frames("data on our own one-way stream", ("0a030161",), STREAM_STATE),
    Frames("a fifth stream", ("0a100161",), STREAM_LIMIT),
    Frames("a fifth one-way stream", ("0a120161",), STREAM_LIMIT),
    Frames(
        "a fifth one-way stream when the others have ended",
        ("0b020161", "0b060161", "0b0a0161", "0b0e0161", "0a120161"),
        STREAM_LIMIT,
    ),
    Frames("a stream with a giant number", ("0abffffffc0161",), STREAM_LIMIT),
    Frames("stream data beyond the window of 16 KiB", ("0e008000400001" + "61",), FLOW_CONTROL),
    Frames(
        "holes in five streams beyond the window of the connection",
        (*(f"0e{stream:02x}7fff0161" for stream in (0, 4, 8, 12)), "0e02000161"),
        FLOW_CONTROL,
    ),
    Frames("a reset that claims more than the window", ("040080000001" + "80004001",), FLOW_CONTROL),
    Frames("data behind the end of a stream", ("0f02050161", "0e02090161"), FINAL_SIZE),
    Frames("a reset with another final size", ("0a02026161", "04020001"), FINAL_SIZE),
    Frames("a window for a stream we never send on", ("11024400",), STREAM_STATE),
    Frames("a stop for a stream we never send on", ("050200",), STREAM_STATE),
    Frames("a stop for a stream that is ours to open", ("050100",), STREAM_STATE),
    Frames("more than 2^60 streams allowed", ("12d000000000000001",), FRAME_ENCODING),
    Frames("more than 2^60 streams wanted", ("16d000000000000001",), FRAME_ENCODING),
    Frames("a connection id of no bytes", ("18050000" + "22" * 16,), FRAME_ENCODING),
    Frames("a connection id of 21 bytes", ("18050015" + "11" * 21 + "22" * 16,), FRAME_ENCODING),
    Frames("a connection id that retires later ones", ("18050608" + "11" * 8 + "22" * 16,), VIOLATION),
    Frames(
        "connection ids without end",
        tuple(f"18{n:02x}0008" + f"{n:02x}" * 8 + "22" * 16 for n in range(0x10, 0x20)),
        TOO_MANY_IDS,
    ),
    Frames("retiring an id that was never issued", ("1920",), VIOLATION),
    Frames("retiring the id in use", ("1900",), VIOLATION),
    Frames("a close with a reason cut short", ("1d0a7fff",), FRAME_ENCODING),
]


class Tampered(NamedTuple):
    """An authentic packet of an open connection becomes these packets; what is counted for the last.

    "quic": it might be of the next key phase, so the QUIC stack looks, and finds that it is not.
    """

    id: str
    change: Callable[[bytes], list[bytes]]
    outcome: DropReason | str


def _flip(at: int) -> Callable[[bytes], list[bytes]]:
    def change(packet: bytes) -> list[bytes]:
        where = at % len(packet)
        return [packet[:where] + bytes((packet[where] ^ 1,)) + packet[where + 1 :]]

    return change


def _as_initial(packet: bytes) -> bytes:
    return initial(dcid=packet[1:9])


TAMPERED = [
    Tampered("a flipped bit in the tag", _flip(-1), D.BAD_TAG),
    Tampered("a flipped bit in the ciphertext", _flip(35), D.BAD_TAG),
    Tampered("a flipped bit in the packet number", _flip(10), D.BAD_TAG),
    Tampered("bytes behind the tag", lambda packet: [packet + b"\0"], D.BAD_TAG),
    Tampered("a packet cut by one byte", lambda packet: [packet[:-1]], D.BAD_TAG),
    Tampered("the same packet again", lambda packet: [packet, packet], D.DUPLICATE),
    Tampered("the other key phase", lambda packet: [bytes((packet[0] ^ 4,)) + packet[1:]], D.BAD_TAG),
    Tampered("a long header under a known id", lambda packet: [_as_initial(packet)], "quic"),
    Tampered("the packet with an id cut short", lambda packet: [packet[:8]], D.UNKNOWN_ID),
]


class Media(NamedTuple):
    """Datagrams from the leg that owns uplink 4 of participant 2; the lane's verdict on the last."""

    id: str
    datagrams: list[bytes]
    reason: DropReason
    closed: DropReason | None = None
    group: bool = False


class Carried(NamedTuple):
    """Datagrams from a trunk on whose route 64 participant 2 speaks; the lane's verdict on the last.

    `second`: the last came by the trunk's other path.
    """

    id: str
    datagrams: list[bytes]
    reason: DropReason
    second: bool = False


UP, DOWN, INDEX = 4, 9, 2
KID = INDEX << 2


def voice(ctr: int = 1, *, flow: int = UP, kid: int = KID, size: int = 80, **bits: Any) -> bytes:
    """A media datagram; nobody here needs to open it."""
    head = media.encode_header(flow, kid, ctr, **bits)
    return head + bytes(max(size - len(head), 0))


def _head(h: int, *rest: int, size: int = 80) -> bytes:
    return bytes((UP, h, *rest)) + bytes(size - 2 - len(rest))


def carried(ctr: int = 1, *, route: int = MIN_ROUTE, hop: int = HOP, kid: int = KID) -> bytes:
    """The same as it comes by a trunk."""
    data = bytearray(trunk.from_leg(voice(ctr, kid=kid), route))
    data[2] = hop
    return bytes(data)


CARRIED = [
    Carried("a voice on a route that nobody gave", [carried(route=MIN_ROUTE + 1)], D.UNKNOWN_FLOW),
    Carried("a leg's datagram on a trunk", [voice()], D.UNKNOWN_FLOW),
    Carried("a voice that two nodes have passed on", [carried(hop=HOP + 1)], D.HOP_LIMIT),
    Carried("a voice that no node has passed on", [carried(hop=0)], D.HOP_LIMIT),
    Carried("a route in a spelling that is too long", [b"\x80\x00\x00\x40" + carried()[2:]], D.UNKNOWN_FLOW),
    Carried("the key id of somebody else by a trunk", [carried(kid=1 << 2)], D.WRONG_SENDER),
    Carried("a packet that came by the trunk before", [carried(7), carried(7)], D.DUPLICATE),
    Carried(
        "a packet that came by the other path before", [carried(7), carried(7)], D.SECOND_COPY, second=True
    ),
    Carried("a voice cut off behind its hop", [carried()[:3]], D.MALFORMED),
]

MEDIA = [
    Media("a datagram for a flow nobody gave", [voice(flow=5)], D.UNKNOWN_FLOW),
    Media("a datagram for flow 3F, which is reserved", [b"\x3f" + voice()[1:]], D.UNKNOWN_FLOW),
    Media("a flow number in two bytes, as trunks have", [b"\x40\x04" + voice()[1:]], D.UNKNOWN_FLOW),
    Media("an empty media datagram", [b""], D.UNKNOWN_FLOW),
    Media("a media datagram of 21 bytes", [voice(size=21)], D.MALFORMED),
    Media("a media datagram of 1025 bytes", [voice(size=1025)], D.TOO_LARGE),
    Media("header version 0", [_head(0x00)], D.BAD_VERSION),
    Media("header version 2", [_head(0x80)], D.BAD_VERSION),
    Media("header version 3", [_head(0xC0)], D.BAD_VERSION),
    Media("the reserved header bit", [_head(0x41, 0x80, KID)], D.MALFORMED),
    Media("a key id of two bytes", [_head(0x40, 0x90, 0, 9)], D.MALFORMED),
    Media("a counter of five bytes", [_head(0x40, 0x0C)], D.MALFORMED),
    Media("a key id in a longer spelling", [_head(0x40, 0x80, 1)], D.MALFORMED),
    Media("a counter in a longer spelling", [_head(0x40, 0x08, 1)], D.MALFORMED),
    Media("a header with no room for the tag", [_head(0x40, 0x8B, KID, 1, 0, 0, 0, size=22)], D.MALFORMED),
    Media("the key id of somebody else", [voice(kid=1 << 2)], D.WRONG_SENDER),
    Media("the key id of somebody else in a group", [voice(kid=3 << 3)], D.WRONG_SENDER, None, True),
    Media("a 1:1 key id in a group", [voice()], D.WRONG_SENDER, None, True),
    Media("a packet seen before", [voice(7), voice(7)], D.DUPLICATE),
    Media("a repeat of a packet that came", [voice(7), voice(7, repeat=True)], D.DUPLICATE),
    Media("a packet seen before, with another level", [voice(7), voice(7, level=3)], D.DUPLICATE),
    Media("a packet older than the window", [voice(1000), voice(1000 - WINDOW)], D.DUPLICATE),
    Media("a packet before anybody may hear it", [voice()], D.GATE_CLOSED, D.GATE_CLOSED),
    Media("a packet of somebody who is muted", [voice()], D.MUTED, D.MUTED),
    Media("a packet of somebody who is blocked", [voice()], D.BLOCKED, D.BLOCKED),
    Media("more packets at once than allowed", [voice(n) for n in range(101)], D.OVER_BUDGET),
    Media("more bytes at once than allowed", [voice(n, size=1024) for n in range(14)], D.OVER_BUDGET),
    Media("forged packets that only spend the budget", [_head(0x40, 0x10)] * 101, D.OVER_BUDGET),
]


class Copies(NamedTuple):
    """`act` on a lane where leg 2 hears leg 1; the reason under which one copy or more were dropped."""

    id: str
    act: Callable[[PyLane], None]
    reason: DropReason


def _speak(lane: PyLane, count: int = 1, size: int = 80, now: float = 0.0) -> None:
    for ctr in range(count):
        assert lane.deliver(1, voice(ctr, size=size), now) is None


def _overfill(lane: PyLane) -> None:
    _speak(lane, 6)


def _stall(lane: PyLane) -> None:
    _speak(lane)
    assert lane.dequeue(2, 0.101) is None


def _leave(lane: PyLane) -> None:
    _speak(lane)
    lane.close_leg(2)


def _speak_to_the_dead(lane: PyLane) -> None:
    lane.close_leg(2)
    _speak(lane)
    assert lane.queue_depth(2) == 0


def _choke(lane: PyLane) -> None:
    lane.open_leg(2, pps=50, up_bps=8_000, down_bps=8_000)
    _speak(lane, 3, size=1024)
    assert lane.dequeue(2, 0.0) is not None
    assert lane.dequeue(2, 0.0) is not None
    assert lane.dequeue(2, 0.0) is None


def _pad(lane: PyLane) -> None:
    lane.shape(2, events.Shape(redundancy=False))
    for ctr in range(9):
        assert lane.deliver(1, voice(ctr, pp=media.PP_REDUNDANT), 0.0) is None


def _pad_a_full_node(lane: PyLane) -> None:
    lane.shed({media.PP_REDUNDANT})
    for ctr in range(9):
        assert lane.deliver(1, voice(ctr, pp=media.PP_REDUNDANT), 0.0) is None


COPIES = [
    Copies("a listener who takes nothing loses the oldest frame", _overfill, D.QUEUE_FULL),
    Copies("a frame older than 100 ms is not sent", _stall, D.STALE),
    Copies("a listener who leaves takes its queue along", _leave, D.PEER_GONE),
    Copies("nothing is queued for a listener who left", _speak_to_the_dead, D.PEER_GONE),
    Copies("a listener gets no more than its token allows", _choke, D.OVER_BUDGET),
    Copies("redundancy without end goes to nobody whose way does not bear it", _pad, D.NOT_WANTED),
    Copies("padding is the first that a full node passes on no more", _pad_a_full_node, D.SHED),
]


class Manner(NamedTuple):
    """How a whole connection behaves; `act` returns what came of it."""

    id: str
    act: Callable[[Stage], object]
    outcome: object
    limits: Mapping[str, Any] = {}


def _other_protocol(stage: Stage) -> int | None:
    return stage.visit(alpn="h2").closed


def _without_datagrams(stage: Stage) -> int | None:
    return stage.visit(datagrams=False).closed


def _half_a_handshake(stage: Stage) -> tuple[int, int, int]:
    stage.is_deaf = True  # the client's second flight never comes
    visitor = stage.visit()
    visitor.addr = ("203.0.113.1", 1)
    stage.run(4.0)
    assert (stage.endpoint.half_open, len(stage.endpoint)) == (1, 1)
    stage.run(0.1)
    return stage.endpoint.half_open, len(stage.endpoint), stage.endpoint.handshakes_expired


def _silent(stage: Stage) -> int | None:
    visitor = stage.visit()
    stage.run(5.0)
    return visitor.closed


def _gone(stage: Stage) -> tuple[int, int]:
    stage.visit()
    stage.clients.clear()
    stage.run(40.0)
    return len(stage.endpoint), sum(stage.node.engine.legs.values())


def _garbage(stage: Stage) -> int | None:
    visitor = stage.visit()
    visitor.write(b"\x00\x03\xc1\xc1\xc1")
    stage.run(0.5)
    return visitor.closed


def _web_page(stage: Stage) -> int | None:
    visitor = stage.visit()
    visitor.write(b"GET / HTTP/1.1\r\n\r\n")
    stage.run(0.5)
    return visitor.closed


def _ended_stream(stage: Stage) -> int | None:
    visitor = stage.visit()
    visitor.quic.send_stream_data(0, b"", end_stream=True)
    visitor.flush()
    stage.run(0.5)
    return visitor.closed


def _challenges(stage: Stage) -> bool:
    """Each is owed an answer (RFC 9000 section 8.2.2), but no more bytes than it had."""
    visitor = stage.visit()
    packets = [visitor.packet(b"\x1a" + number.to_bytes(8, "big")) for number in range(1000)]
    stage.sent.clear()
    for packet in packets:
        stage.arrive(packet, visitor.addr)
    stage.run(0.0)
    return sum(len(data) for data, _ in stage.sent) <= sum(map(len, packets))


def _deaf(stage: Stage) -> tuple[bool, int]:
    """The client speaks and acknowledges nothing; much is said to it. What is held for it has a bound."""
    visitor = stage.visit()
    visitor.write(b"\x00")
    stage.run(0.1)
    quic = stage.endpoint._by_leg[1].quic
    stage.clients.clear()
    held = 0
    for _ in range(200):
        stage.endpoint.send_stream(1, bytes(8192))
        stage.endpoint.transmit_dirty()
        held = max(held, quic.backlog(0))
    return held <= 256 * 1024, quic.close_code


def _greedy(stage: Stage) -> tuple[bool, int | None]:
    """One client floods the queue of packets that take long; what another says is heard."""
    first, second = stage.visit(1001), stage.visit(1002)
    second.quic.send_stream_data(0, b"\x00\x03\xc1\xc1\xc1")
    ((said, _),) = second.quic.datagrams_to_send(stage.now)
    for packet in [first.packet(b"\x1a" + bytes(8)) for _ in range(SLOW_QUEUE)]:
        stage.arrive(packet, first.addr)
    stage.arrive(said, second.addr)
    stage.run(0.1)
    return stage.endpoint.dropped[D.OVER_BUDGET] > SLOW_QUEUE // 2, second.closed


def _forged_from_elsewhere(stage: Stage) -> tuple[object, int]:
    """Packets with the right id and a wrong tag from another address move nothing."""
    visitor = stage.visit()
    stage.sent.clear()
    for packet in [visitor.packet(b"\x01" + bytes(40)) for _ in range(50)]:
        stage.arrive(packet[:-1] + bytes((packet[-1] ^ 1,)), STRANGER)
    stage.run(0.0)
    return stage.endpoint._by_leg[1].quic.get_peer_address(), len(stage.sent)


def _voice_before_hello(stage: Stage) -> dict[DropReason, int]:
    stage.visit().say(voice())
    stage.run(0.1)
    return dict(stage.lane.counters.dropped)


def _raise(*_: object, **__: object) -> None:
    raise IndexError("a defect")


def _slow_fault(stage: Stage) -> tuple[int, int, int | None]:
    """The QUIC stack raises on a packet of one of two connections."""
    first, second = stage.visit(1001), stage.visit(1002)
    stage.endpoint._by_leg[1].quic.receive_datagram = _raise
    first.inject(b"\x1a" + bytes(8))
    second.write(b"\x00\x03\xc1\xc1\xc1")
    stage.run(0.5)
    return stage.endpoint.internal_errors, len(stage.endpoint), second.closed


def _fast_fault(stage: Stage) -> tuple[int, int, int | None]:
    """The same on the path that media take."""
    first, second = stage.visit(1001), stage.visit(1002)
    stage.endpoint._by_leg[1].quic.path.receive = _raise
    first.say(voice())
    second.write(b"\x00\x03\xc1\xc1\xc1")
    stage.run(0.5)
    return stage.endpoint.dropped[D.INTERNAL], len(stage.endpoint), second.closed


def _engine_fault(stage: Stage) -> tuple[int, int, int | None]:
    """The engine raises on a control datagram of one of two legs."""
    first, second = stage.visit(1001), stage.visit(1002)
    stage.node.engine._inputs = {**stage.node.engine._inputs, events.DatagramReceived: _raise}
    first.say(bytes(2))
    second.write(b"\x00\x03\xc1\xc1\xc1")
    stage.run(0.5)
    return len(stage.endpoint), sum(stage.node.engine.legs.values()), second.closed


def _stranger_fault(stage: Stage) -> dict[DropReason, int]:
    """The front raises on a packet that no connection owns; the next one is judged as ever."""
    with patch.object(Front, "judge_short", _raise):
        stage.verdict(short(b"unknown!", 100))
    assert stage.verdict(short(b"unknown!", 100)) == [D.UNKNOWN_ID]
    return {reason: n for reason, n in stage.endpoint.dropped.items() if reason is not D.UNKNOWN_ID}


def _refusing_kernel(stage: Stage) -> dict[DropReason, int]:
    """A copy is sealed for leg 2, and the socket does not take it."""
    first, _ = stage.visit(1001), stage.visit(1002)
    for leg in (1, 2):
        stage.lane.open_leg(leg, pps=500, up_bps=512_000, down_bps=8_000_000)
    stage.lane.open_flow(1, UP, index=INDEX, group=False)
    stage.lane.route(1, UP, [(2, DOWN)], None)
    stage.sending_fails = True
    first.say(voice())
    stage.run(0.05)
    return dict(stage.lane.counters.dropped_out)


def _first_packet_fault(stage: Stage) -> tuple[int, int]:
    """The QUIC stack raises on a first packet: what was set aside for it comes back."""
    with patch.object(RelayQuic, "receive_datagram", _raise):
        stage.arrive(initial())
        stage.run(0.0)
    stage.run(6.0)
    return stage.endpoint.half_open, len(stage.endpoint)


MANNERS = [
    Manner("another application protocol", _other_protocol, 0x100 + 120),
    Manner("a client that takes no datagrams", _without_datagrams, E.DATAGRAM_REQUIRED),
    Manner("a handshake that never ends", _half_a_handshake, (0, 0, 1)),
    Manner("a client that never says hello", _silent, E.AUTH_REQUIRED),
    Manner("a client that vanishes", _gone, (0, 0)),
    Manner("a control stream of noise", _garbage, E.BAD_ENCODING),
    Manner("a web page asked for on the control stream", _web_page, E.TOO_LARGE),
    Manner("a control stream that ends", _ended_stream, E.PROTOCOL_VIOLATION),
    Manner("a thousand path challenges", _challenges, True),
    Manner("a client that never acknowledges what is said to it", _deaf, (True, E.OVERLOADED)),
    Manner("a client that floods what takes long", _greedy, (True, E.BAD_ENCODING)),
    Manner("forged packets from elsewhere", _forged_from_elsewhere, (("192.0.2.1", 1001), 0)),
    Manner("media before the hello", _voice_before_hello, {D.UNKNOWN_FLOW: 1}),
    Manner("a defect in the QUIC stack, met by one connection", _slow_fault, (1, 0, E.BAD_ENCODING)),
    Manner("a defect on the media path, met by one connection", _fast_fault, (1, 0, E.BAD_ENCODING)),
    Manner("a defect in the engine, met by one leg", _engine_fault, (0, 0, E.BAD_ENCODING)),
    Manner("a defect met by a packet of nobody", _stranger_fault, {D.INTERNAL: 1}),
    Manner("a kernel that refuses to send", _refusing_kernel, {D.SEND_ERROR: 1}),
    Manner("a defect met by a first packet", _first_packet_fault, (0, 0)),
]
