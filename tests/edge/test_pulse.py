"""What proves that a node works: the judge on given looks, and probes through both lanes."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from lanes import LANES
from quicnet import Network
from relay.core.reasons import DropReason
from relay.edge.pulse import HUNDREDS, PROOF_LOOKS, Probe, Progress, Pulse, own_address

LAG_S = 0.25


class Seen:
    """A node as a pulse sees it: a second is some looks."""

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.progress = Progress()

    def look(self, *, late_s: float = 0.0, waiting: int = 0, **more: int) -> bool:
        """So much more of each count, then a look; whether that was a proof."""
        counts = {name: getattr(self.progress, name) + more[name] for name in more}
        self.progress = dataclasses.replace(self.progress, waiting=waiting, **counts)
        return self.pulse.look(late_s, LAG_S, self.progress)

    def second(self, *, late_s: float = 0.0, **more: int) -> int:
        """A second of looks, each with so much more of each count; how many proofs that gave."""
        return sum(self.look(late_s=late_s, **more) for _ in range(PROOF_LOOKS))


@pytest.fixture
def armed() -> Seen:
    seen = Seen()
    assert seen.second(received=2, taken=2, probes=2) == 1
    return seen


def test_a_node_whose_probes_come_back_is_proven_once_a_second(armed: Seen) -> None:
    assert [armed.second(received=2, taken=2, probes=2) for _ in range(5)] == [1] * 5


def test_a_loop_that_is_always_late_proves_nothing(armed: Seen) -> None:
    assert armed.second(late_s=0.3, received=2, taken=2, probes=2) == 0
    assert armed.pulse.missing == "loop_lag"


def test_a_busy_loop_that_is_in_time_for_one_look_of_many_is_proven(armed: Seen) -> None:
    assert armed.second(late_s=0.3, received=900, taken=90, probes=1) == 0
    assert armed.look(late_s=0.2, received=900, taken=90, probes=1)


def test_a_lane_that_brings_no_probe_back_proves_nothing(armed: Seen) -> None:
    assert [armed.second() for _ in range(10)] == [0] * 10
    assert armed.pulse.missing == "probe"


def test_a_lane_that_reads_probes_which_never_reach_the_loop_proves_nothing(armed: Seen) -> None:
    assert [armed.second(received=2, waiting=8) for _ in range(10)] == [0] * 10


def test_a_node_that_dies_is_not_proven_by_what_it_did_before(armed: Seen) -> None:
    assert [armed.look(received=2, taken=2, probes=2) for _ in range(3)] == [False] * 3
    assert not armed.look()
    assert armed.look(received=2, taken=2, probes=2)


def test_in_a_flood_that_drowns_the_probes_packets_that_pass_prove_as_much(armed: Seen) -> None:
    assert armed.second(received=HUNDREDS, waiting=0) == 1
    assert armed.second(received=HUNDREDS, taken=5, waiting=400) == 1


def test_a_flood_of_which_the_loop_takes_nothing_proves_nothing(armed: Seen) -> None:
    assert armed.second(received=100 * HUNDREDS, waiting=400) == 0


def test_where_no_probe_ever_came_back_the_loop_speaks_for_itself() -> None:
    seen = Seen()
    assert [seen.second() for _ in range(3)] == [1] * 3
    assert seen.second(late_s=0.3) == 0
    assert not seen.pulse.is_armed


@pytest.mark.parametrize(
    ("family", "bound", "only_6", "host"),
    [
        (socket.AF_INET, "0.0.0.0", 0, "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", 0, "127.0.0.1"),
        (socket.AF_INET6, "::", 0, "::ffff:127.0.0.1"),
        (socket.AF_INET6, "::", 1, "::1"),
        (socket.AF_INET6, "::1", 0, "::1"),
    ],
)
def test_a_packet_to_our_own_address_comes_in_by_the_socket_that_sent_it(
    family: socket.AddressFamily, bound: str, only_6: int, host: str
) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_6)
        sock.bind((bound, 0))
        sock.settimeout(5)
        assert own_address(sock)[0] == host
        sock.sendto(b"here", own_address(sock))
        assert sock.recv(10) == b"here"


@pytest.mark.parametrize("lane", LANES)
def test_a_probe_goes_through_the_lane_to_the_loop_and_is_accounted_for(lane: str) -> None:
    net = Network(lane=lane)
    sent: list[bytes] = []
    net.endpoint.outbox.send = lambda sock, packet, address: not sent.append(packet)  # type: ignore[method-assign, func-returns-value]  # a wire of the test's own
    probe = Probe(net.endpoint, lambda size: bytes(size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(100):  # more than wait for a connection whose handshake is under way
            probe.send([sock])
            net.endpoint.receive(sent.pop(), ("127.0.0.1", 443), 0, net.now)
            net.run(0.01)
    assert probe.heard == 100
    assert net.endpoint.handled["probe"] == 100
    assert net.endpoint.imbalance() == 0
    assert (len(net.endpoint), net.endpoint.half_open) == (0, 0)


@pytest.mark.parametrize("lane", LANES)
def test_what_only_looks_like_a_probe_is_a_strangers(lane: str) -> None:
    net = Network(lane=lane)
    probe = Probe(net.endpoint, lambda size: bytes(size))
    net.endpoint.receive(b"\x40" + bytes(8 + 32), ("127.0.0.1", 443), 0, net.now)
    net.run(0.1)
    assert probe.heard == 0
    assert net.endpoint.dropped[DropReason.UNKNOWN_ID] == 1
