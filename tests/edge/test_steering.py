"""Which socket of an address the kernel gives a packet: real sockets on loopback, packets from any port."""

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from relay.edge.ids import ConnectionIds
from relay.edge.steering import Plan, steer
from relay.errors import LocalError
from relay.protocol.cid import CidCodec

RANDOM = random.Random(3)


Group = Callable[..., list[socket.socket]]


@pytest.fixture
def group() -> Iterator[Group]:
    with contextlib.ExitStack() as stack:
        yield lambda count, host="127.0.0.1": [stack.enter_context(sock) for sock in bound(count, host)]


def bound(count: int, host: str) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made: list[socket.socket] = []
    for _ in range(count):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, made[0].getsockname()[1] if made else 0))
        sock.setblocking(False)
        made.append(sock)
    return made


def drained(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(2048))
        except BlockingIOError:
            return found


def where(sockets: list[socket.socket], packet: bytes) -> int:
    """The socket that got it; loopback delivers before `sendto` returns."""
    with socket.socket(sockets[0].family, socket.SOCK_DGRAM) as sender:
        sender.sendto(packet, sockets[0].getsockname()[:2])
    found = [number for number, sock in enumerate(sockets) if drained(sock)]
    assert len(found) == 1
    return found[0]


def short(cid: bytes) -> bytes:
    return b"\x41" + cid + bytes(20)


def long(cid: bytes, kind: int = 0xE0) -> bytes:
    return bytes((kind, 0, 0, 0, 1, len(cid))) + cid + bytes(40)


def ids(generation: int | None, count: int) -> list[bytes]:
    issuer = ConnectionIds(CidCodec(bytes(16), b"\0\1\0"), bytes(32), 77, generation)
    return [issuer.issue().cid for _ in range(count)]


def stranger() -> bytes:
    """An id that a client chose; one in 256 begins like ours."""
    return bytes((0x11,)) + RANDOM.randbytes(7)


def turn(note: int) -> list[bytes]:
    """What a client of TURN sends: STUN, and ChannelData of all sizes."""
    stun = bytes((0, note & 1, 0, 0, 0x21, 0x12, 0xA4, 0x42)) + bytes(12)
    return [
        stun,
        *(b"\x40" + bytes((note,)) + struct.pack(">H", size) + bytes(size) for size in (0, 1, 160, 1200)),
    ]


def test_ids_of_a_generation_have_its_bit_and_no_two_are_alike():
    for generation in (0, 1):
        found = ids(generation, 200)
        assert {cid[-1] & 1 for cid in found} == {generation}
        assert len(set(found)) == 200
    assert {cid[-1] & 1 for cid in ids(None, 200)} == {0, 1}


def test_one_connection_id_finds_one_socket_from_every_port_and_in_both_forms(group: Group):
    sockets = group(2)
    steer(sockets[0], Plan(lanes=2))
    homes = {}
    for _ in range(3):
        for cid in ids(None, 40):
            for packet in (short(cid), long(cid)):
                home = where(sockets, packet)
                assert homes.setdefault(cid, home) == home
    assert set(homes.values()) == {0, 1}


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("newcomers", [0, 1])
def test_two_generations_share_an_address_and_no_socket(group: Group, lanes: int, newcomers: int):
    sockets = group(2 * lanes)
    steer(sockets[0], Plan(lanes=lanes, newcomers=newcomers, is_split=True))
    for generation in (0, 1):
        homes = {}
        for cid in ids(generation, 60):
            homes[cid] = {where(sockets, short(cid)), where(sockets, long(cid))}
        assert all(len(home) == 1 for home in homes.values())
        used = set.union(*homes.values())
        assert used == set(range(generation, 2 * lanes, 2))
    for kind in (0xC0, 0xD0):  # Initial, 0-RTT
        assert {where(sockets, long(stranger(), kind)) % 2 for _ in range(40)} == {newcomers}
    assert where(sockets, long(RANDOM.randbytes(20))) % 2 == newcomers
    assert {where(sockets, packet) % 2 for packet in turn(1)} == {newcomers}


def test_all_goes_to_one_generation_while_there_is_one(group: Group):
    sockets = group(4)
    steer(sockets[3], Plan(lanes=2, newcomers=1))
    packets = [*map(short, ids(0, 20)), *map(long, ids(1, 20)), *turn(7), long(stranger())]
    assert {where(sockets, packet) for packet in packets} == {1, 3}


def test_turn_may_stay_with_the_generation_that_holds_allocations(group: Group):
    sockets = group(4)
    steer(sockets[0], Plan(lanes=2, newcomers=1, is_split=True, turn=0))
    assert {where(sockets, packet) % 2 for note in range(20) for packet in turn(note)} == {0}
    assert where(sockets, long(stranger())) % 2 == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_one_client_of_turn_sends_comes_to_one_socket_and_clients_spread(group: Group, host: str):
    sockets = group(2, host)
    steer(sockets[0], Plan(lanes=2))
    homes = [0, 0]
    for note in range(40):
        source = socket.socket(sockets[0].family, socket.SOCK_DGRAM)
        source.bind((host, 0))
        packets = turn(note)
        for packet in packets:
            source.sendto(packet, sockets[0].getsockname()[:2])
        source.close()
        found = [len(drained(sock)) for sock in sockets]
        assert sorted(found) == [0, len(packets)]
        homes[found[0] == 0] += 1
    assert min(homes) > 4


@pytest.mark.parametrize("packet", [b"", b"\x41", b"\x41\xff\xff\xff", b"\xc0\0\0\0\x01\x08\xff\xff\xff"])
def test_what_is_too_short_to_steer_goes_to_the_first_of_who_takes_newcomers(group: Group, packet: bytes):
    sockets = group(4)
    steer(sockets[0], Plan(lanes=2, newcomers=1, is_split=True))
    assert where(sockets, packet) == 1


def test_a_change_of_plan_loses_no_packet(group: Group):
    sockets = group(4)
    cids = ids(0, 50) + ids(1, 50)
    plans = [
        Plan(lanes=2, newcomers=0),
        Plan(lanes=2, newcomers=1, is_split=True),
        Plan(lanes=2, newcomers=1),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        for plan in plans:
            steer(sockets[0], plan)
            for cid in cids:
                source.sendto(short(cid), sockets[0].getsockname())
    assert sum(len(drained(sock)) for sock in sockets) == 3 * len(cids)


def test_there_is_no_plan_without_a_lane(group: Group):
    with pytest.raises(LocalError):
        steer(group(1)[0], Plan(lanes=0))
