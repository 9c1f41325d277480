"""The TURN engine behind the endpoint: requests by UDP, relay sockets, what a peer says, how it all ends."""

from __future__ import annotations

import dataclasses
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lanes import LANES
from quicnet import Network
from relay.config import Config
from relay.config_turn import RelayAddress, TurnConfig
from relay.core import turn_events as te
from relay.core.company import OpenCompany
from relay.core.credentials import Via
from relay.core.turn import Turn
from relay.edge.doors import Doors, own_addresses
from relay.edge.turn import TurnDriver
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.relayed import encode_channel_data, parse_channel_data
from relay.protocol.stun import Class
from turnrig import KEYS, WALL, TurnClient, code_of

BIND, PEER = "127.0.0.3", "127.0.0.2"
CLIENT = Address("192.0.2.7", 5000)


class Watch:
    """Sockets that a loop would read."""

    def __init__(self) -> None:
        self.read: dict[int, tuple[Callable[[int], None], int]] = {}
        self.later: list[tuple[float, Callable[[int], None], int]] = []

    def add_reader(self, fd: int, callback: Callable[[int], None], number: int) -> None:
        self.read[fd] = callback, number

    def remove_reader(self, fd: int) -> bool:
        return self.read.pop(fd, None) is not None

    def call_later(self, delay: float, callback: Callable[[int], None], number: int) -> None:
        self.later.append((delay, callback, number))

    def look(self) -> None:
        """All of them have something to read."""
        for callback, number in list(self.read.values()):
            callback(number)


class Edge:
    """A node's UDP side with TURN, the loop and its clock simulated, the relay sockets real."""

    def __init__(self, lane: str, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "enabled": True,
            "policy": "open",
            "addresses": (RelayAddress(bind=BIND),),
            "secret_file": "/x",
            "allocations_per_user": 16,
            "lab_allow_private_peers": True,
        }
        self.config = Config(turn=TurnConfig(**fields | changes))
        self.net = net = Network(lane=lane)
        self.keys = KEYS
        self.wall = WALL
        self.answers: dict[Via, list[bytes]] = defaultdict(list)
        self.watch = Watch()
        engine = Turn(self.config, KEYS, OpenCompany(self.config.turn))
        self.doors = Doors(
            self.config.turn,
            net.endpoint,
            net.lane,
            None if lane == "native" else self.watch,
            clock=lambda: net.now,
            draw=lambda size: b"\1" * size,
        )
        self.driver = TurnDriver(
            net,
            engine,
            net.endpoint,
            net.lane,
            self.doors,
            clock=lambda: net.now,
            wall=lambda: WALL + net.now,
        )
        net.endpoint.attach_turn(self.driver)

    def feed(self, event: te.ClientPacket) -> None:
        """What turnrig's client says goes the way of a packet."""
        client = (event.via.client.host, event.via.client.port)
        before = len(self.net.sent)
        self.net.endpoint.receive(event.data, client, 0, self.net.now)
        self.net.run(0.01)
        self.answers[event.via] += [data for data, to in self.net.sent[before:] if to == client]

    def client(self, address: Address = CLIENT) -> TurnClient:
        return TurnClient(self, address)  # type: ignore[arg-type]  # what it uses of a rig is there


@pytest.fixture(params=LANES)
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    made = Edge(request.param)
    yield made
    made.driver.close()


@pytest.fixture
def plain() -> Iterator[Edge]:
    made = Edge("python")
    yield made
    made.driver.close()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((PEER, 0))
        sock.settimeout(10)
        yield sock


def relayed_address(answer: Any) -> Address:
    return stun.decode_xor_address(answer.get(turn.XOR_RELAYED_ADDRESS), answer.transaction)


def test_an_allocation_is_a_socket_of_the_port_range_and_goes_with_it(edge: Edge) -> None:
    ann = edge.client()
    relayed = relayed_address(ann.allocate())
    assert relayed.host == BIND
    assert 49_152 <= relayed.port <= 65_535
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(relayed)
        assert ann.refresh(0).cls is Class.SUCCESS
        other.bind(relayed)
    assert edge.driver.engine.allocations == len(edge.doors) == len(edge.watch.read) == 0


def test_what_client_and_peer_say_passes_both_ways(plain: Edge, peer: socket.socket) -> None:
    ann = plain.client()
    relayed = relayed_address(ann.allocate())
    assert ann.bind(0x4001, *peer.getsockname()).cls is Class.SUCCESS
    plain.net.endpoint.receive(encode_channel_data(0x4001, b"hello", is_stream=False), CLIENT, 0, 0.0)
    assert peer.recvfrom(100) == (b"hello", relayed)
    peer.sendto(b"yes?", relayed)
    plain.watch.look()
    assert [parse_channel_data(data) for data, to in plain.net.sent if to == CLIENT][-1] == (0x4001, b"yes?")


def test_without_a_permission_nothing_passes(plain: Edge, peer: socket.socket) -> None:
    ann = plain.client()
    relayed = relayed_address(ann.allocate())
    before = len(plain.net.sent)
    peer.sendto(b"hello?", relayed)
    plain.watch.look()
    assert len(plain.net.sent) == before
    assert plain.net.lane.relays.down.dropped.total() == 1


def test_what_is_over_in_time_is_closed_by_the_timer(edge: Edge) -> None:
    edge.client().allocate()
    edge.net.run(599)
    assert edge.driver.engine.allocations == 1
    edge.net.run(2)
    assert edge.driver.engine.allocations == len(edge.doors) == 0


def test_a_port_range_that_is_used_up_is_508_and_the_next_one_is_had_when_it_is_free(edge: Edge) -> None:
    few = Edge(edge.net.lane.name, first_port=50_001, last_port=50_002)
    first, second, third = (few.client(Address("192.0.2.7", port)) for port in (1, 2, 3))
    ports = {relayed_address(each.allocate()).port for each in (first, second)}
    assert ports == {50_001, 50_002}
    assert code_of(third.allocate()) == 508
    assert first.refresh(0).cls is Class.SUCCESS
    assert relayed_address(third.allocate()).port in ports
    few.driver.close()
    for each in (second, third):
        each.refresh(0)


def test_an_even_port_is_even(edge: Edge) -> None:
    for number in range(4):
        ann = edge.client(Address("192.0.2.7", 6000 + number))
        wanted = turn.Attribute(turn.EVEN_PORT, b"\0")
        assert relayed_address(ann.allocate(wanted)).port % 2 == 0


def test_an_address_that_is_not_ours_is_500(edge: Edge) -> None:
    elsewhere = Edge(edge.net.lane.name, addresses=(RelayAddress(bind="192.0.2.1"),))
    assert code_of(elsewhere.client().allocate()) == 500
    assert elsewhere.driver.engine.allocations == 0


def test_peers_are_told_the_address_in_front_of_a_1_to_1_nat(edge: Edge) -> None:
    behind = Edge(edge.net.lane.name, addresses=(RelayAddress(bind=BIND, advertise="9.9.9.9"),))
    assert relayed_address(behind.client().allocate()).host == "9.9.9.9"
    behind.driver.close()


def test_ipv6_is_relayed_on_sockets_of_its_own(edge: Edge) -> None:
    six = Edge(edge.net.lane.name, addresses=(RelayAddress(bind="::1"),))
    ann = six.client()
    assert code_of(ann.allocate()) == 440
    assert relayed_address(ann.allocate(turn.family(stun.IPV6))).host == "::1"
    assert ann.bind(0x4001, "fc00::9").cls is Class.SUCCESS
    six.driver.close()


def test_a_client_behind_a_dual_stack_socket_is_answered_in_the_form_it_came(edge: Edge) -> None:
    mapped = ("::ffff:192.0.2.7", 5000, 0, 0)
    request = stun.build(turn.Method.ALLOCATE, Class.REQUEST, bytes(12), [turn.transport()])
    edge.net.endpoint.receive(request, mapped, 0, 0.0)
    edge.net.run(0.01)
    assert [to for _, to in edge.net.sent] == [mapped]


def test_the_5_tuple_is_named_by_the_address_not_by_the_socket_of_it(edge: Edge) -> None:
    edge.net.endpoint.use_sockets([edge.net] * 4, 2)  # type: ignore[list-item]  # as in quicnet
    assert [edge.net.endpoint.place_of(sock) for sock in range(4)] == [0, 1, 0, 1]


def test_a_relay_socket_that_cannot_be_read_is_left_alone_until_it_can_or_is_closed(plain: Edge) -> None:
    ann = plain.client()
    ann.allocate()
    doors = plain.net.endpoint.outbox.doors
    [(allocation, sock)] = doors.items()
    broken = socket.socket()  # each read is refused: ENOTCONN
    doors[allocation] = broken
    plain.watch.read = {broken.fileno(): (plain.watch.read[sock.fileno()])}
    sock.close()
    for wanted in (0.001, 0.002):
        plain.watch.look()
        assert plain.watch.read == {}
        [(delay, again, number)] = plain.watch.later
        plain.watch.later.clear()
        assert delay == wanted
        again(number)
        assert list(plain.watch.read) == [broken.fileno()]
    assert plain.net.endpoint.read_errors == 4
    plain.watch.look()
    plain.doors.close(allocation)
    [(_, again, number)] = plain.watch.later
    again(number)
    assert plain.watch.read == {}


def test_a_bug_met_by_one_input_costs_that_input_only(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = edge.client()
    with monkeypatch.context() as broken:
        broken.setattr(edge.driver.engine, "handle", lambda *_: 1 / 0)
        assert ann.bare(turn.Method.ALLOCATE) is None
    assert edge.driver.internal_errors == 1
    assert ann.allocate().cls is Class.SUCCESS


def test_a_lane_that_refuses_a_socket_is_500_and_leaves_nothing(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    ann = edge.client()
    with monkeypatch.context() as broken:
        broken.setattr(edge.net.lane, "open_relay", refuse)
        assert code_of(ann.allocate()) == 500
    assert edge.driver.engine.allocations == len(edge.doors) == 0
    assert ann.allocate().cls is Class.SUCCESS


def test_draining_refuses_allocations_and_reloading_replaces_the_secrets(edge: Edge) -> None:
    edge.driver.feed(te.TurnChanged(edge.config, dataclasses.replace(KEYS, rest=[b"another secret"])))
    assert code_of(edge.client().allocate()) == 401
    edge.driver.feed(te.TurnChanged(edge.config, KEYS))
    edge.driver.feed(te.Draining())
    assert code_of(edge.client().allocate()) == 508


def test_the_machines_own_addresses_are_read_as_linux_lists_them(tmp_path: Path) -> None:
    (tmp_path / "if_inet6").write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe800000000000000000000000000005 02 40 20 80     eth0\n"
    )
    (tmp_path / "fib_trie").write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n"
        "           |-- 192.0.2.9\n              /32 host LOCAL\n"
        "           |-- 192.0.2.255\n              /32 link BROADCAST\n"
    )
    link_local = bytes.fromhex("fe800000000000000000000000000005")
    assert own_addresses(tmp_path) == {bytes((192, 0, 2, 9)), bytes(15) + b"\1", link_local}
    assert own_addresses(tmp_path / "none") == frozenset()
    assert bytes((127, 0, 0, 1)) in own_addresses()
