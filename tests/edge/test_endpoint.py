"""The endpoint with stock clients on simulated time: handshakes, media, moves, goodbyes, floods."""

from __future__ import annotations

import errno
import socket
from typing import cast

import pytest

from lanes import LANES
from quicnet import DELAY, Client, Network
from quicpair import shared_configuration
from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.endpoint import RETIRED_IDS
from relay.edge.lane import RekeyWanted
from relay.protocol import media


def frame(ctr: int, flow: int = 1, kid: int = 0) -> bytes:
    head = media.encode_header(flow, kid, ctr)
    return head + bytes(100 - len(head))


@pytest.fixture(params=LANES)
def net(request: pytest.FixtureRequest) -> Network:
    return Network(lane=request.param)


@pytest.fixture
def plain() -> Network:
    """With the plain lane, whose parts a test can replace."""
    return Network()


def pair(net: Network) -> tuple[Client, Client]:
    """Two open legs; what the first says on flow 1 the second hears on flow 2."""
    first, second = Client(net, 1001), Client(net, 1002)
    net.run(1.0)
    net.lane.open_flow(1, 1, index=0, group=False)
    net.lane.route(1, 1, [(2, 2)], None)
    return first, second


def test_a_handshake_opens_a_leg_and_is_no_longer_half_open(net: Network) -> None:
    Client(net, 1001)
    net.run(1.0)
    assert net.told("opened") == [(1, True)]
    assert (net.endpoint.half_open, net.endpoint.handshakes, len(net.endpoint)) == (0, 1, 1)


def test_a_client_without_datagrams_is_told_as_such(net: Network) -> None:
    Client(net, 1001, datagrams=False)
    net.run(1.0)
    assert net.told("opened") == [(1, False)]


def test_the_first_bidirectional_stream_is_the_control_stream_both_ways(net: Network) -> None:
    client = Client(net, 1001)
    client.write(b"hello")
    net.run(1.0)
    assert net.told("stream") == [(1, b"hello")]
    net.endpoint.send_stream(1, b"welcome")
    net.endpoint.transmit_dirty()
    net.run(1.0)
    assert client.stream == b"welcome"


def test_other_streams_are_read_and_ignored(net: Network) -> None:
    client = Client(net, 1001)
    client.write(b"first")
    net.run(1.0)
    client.quic.send_stream_data(4, b"second stream")
    client.quic.send_stream_data(2, b"one way")
    client.flush()
    net.run(1.0)
    assert net.told("stream") == [(1, b"first")]


def test_media_goes_from_leg_to_leg_and_acks_ride_along(net: Network) -> None:
    first, second = pair(net)
    for ctr in range(100):
        first.say(frame(ctr))
        net.run(0.02)
    net.run(0.2)
    assert [data[0] for data in second.got] == [2] * 100
    assert net.endpoint.handled["media"] >= 100
    assert net.endpoint.media_lost == 0


def test_acks_leave_alone_when_no_audio_takes_them(net: Network) -> None:
    first, _ = pair(net)
    for ctr in range(50):
        first.say(frame(ctr))
        net.run(0.02)
    net.run(0.1)
    assert first.quic._loss.bytes_in_flight == 0


def test_an_ack_that_audio_took_along_does_not_delay_the_next_one(plain: Network) -> None:
    first, second = pair(plain)
    path = plain.endpoint._by_leg[1].quic.path
    seal = path.seal
    late: list[float] = []

    def watched(datagrams: list[bytes], now: float) -> bytes:
        if not datagrams:
            late.append(now - (path.ack_due or 0.0))
        return seal(datagrams, now)

    setattr(path, "seal", watched)  # noqa: B010 - a method, on one object
    start = plain.now
    plain.call_at(start, lambda: first.say(b"\0\0"))
    plain.call_at(start + 0.010, lambda: plain.endpoint.send_datagram(1, b"\0\0"))
    plain.call_at(start + 0.006, lambda: first.say(b"\0\0"))
    plain.call_at(start + 0.019, lambda: second.say(b"\0\0"))  # others wait their 20 ms behind it
    plain.run(0.2)
    assert len(late) == 1
    assert late[0] < 0.002


def test_control_datagrams_go_to_the_handler_and_back(net: Network) -> None:
    first, _ = pair(net)
    first.say(b"\0\1ping")
    net.run(0.1)
    assert net.told("datagram") == [(1, b"\0\1ping")]
    net.endpoint.send_datagram(1, b"\0\2pong")
    net.run(0.1)
    assert first.got == [b"\0\2pong"]


def test_a_moved_client_keeps_its_leg_and_hears_on_at_the_new_port(net: Network) -> None:
    first, second = pair(net)
    second.move(2002)
    second.say(b"\0\0")
    net.run(0.5)
    assert net.told("moved") == [(2, 2002)]
    first.say(frame(1))
    net.run(0.1)
    assert len(second.got) == 1


def lose_mapping(net: Network, client: Client, port: int) -> None:
    """A NAT forgot the client: it sends from another port now, and nothing reaches the old one."""
    del net.clients[client.addr]
    client.move(port)


def test_who_moved_is_heard_and_hears_on_before_the_new_address_is_proven(net: Network) -> None:
    first, second = pair(net)
    net.lane.open_flow(2, 1, index=1, group=False)
    net.lane.route(2, 1, [(1, 2)], None)
    lose_mapping(net, second, 2002)
    first.say(frame(1))
    second.say(frame(1, kid=4))
    net.run(0.8 * DELAY)
    first.say(frame(2))
    second.say(frame(2, kid=4))
    net.run(2.1 * DELAY)
    assert net.told("moved") == []  # the answer to our challenge is half way here
    assert [data[2:] for data in first.got] == [frame(1, kid=4)[2:], frame(2, kid=4)[2:]]
    assert [data[2:] for data in second.got] == [frame(2)[2:]]  # the first went to the old port
    net.run(DELAY)
    assert net.told("moved") == [(2, 2002)]
    first.say(frame(3))
    net.run(2 * DELAY)
    assert [data[2:] for data in second.got] == [frame(2)[2:], frame(3)[2:]]


def test_an_address_that_is_not_proven_gets_three_times_what_came_from_there_at_most(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair(net)
    del net.clients[second.addr]
    second.addr = (second.addr[0], 2002)  # where nobody hears: there will be no proof
    came = 0

    def arrive(data: bytes, addr: tuple[str, int]) -> None:
        nonlocal came
        came += len(data) if addr == second.addr else 0
        net.endpoint.receive(data, addr, 0, net.now)

    monkeypatch.setattr(net, "arrive", arrive)
    for ctr in range(1, 40):
        for flow in range(4):
            first.say(frame(4 * ctr + flow))
        second.say(b"\0\0")
        net.run(0.02)
        there = [len(data) for data, addr in net.sent if addr == second.addr]
        assert 0 < sum(there) <= 3 * came


def test_what_was_written_leaves_before_the_close(net: Network) -> None:
    client = Client(net, 1001)
    client.write(b"x")
    net.run(1.0)
    net.endpoint.send_stream(1, b"ended")
    net.endpoint.close(1, 0x24, "declined")
    net.run(0.1)
    assert client.stream == b"ended"
    assert client.quic._close_event is not None
    assert client.quic._close_event.error_code == 0x24
    assert net.told("lost") == [(1, 0x24)]
    net.run(5.0)
    assert len(net.endpoint) == 0


def test_closing_or_writing_to_an_unknown_leg_is_harmless(net: Network) -> None:
    net.endpoint.close(9, 0, "")
    net.endpoint.send_stream(9, b"x")
    net.endpoint.send_datagram(9, b"\0\0")
    assert net.endpoint.last_heard(9) is None
    assert net.endpoint.leg_facts(9) is None


def test_a_client_that_says_goodbye_is_forgotten_with_all_its_ids(net: Network) -> None:
    first, _ = pair(net)
    first.quic.close(error_code=0x09, reason_phrase="bye")
    first.flush()
    net.run(10.0)
    assert net.told("lost") == [(1, 0x09)]
    assert len(net.endpoint) == 1
    assert all(peer.leg == 2 for peer in net.endpoint._by_id.values())


def test_a_straggler_under_a_retired_id_is_no_strangers_packet(net: Network) -> None:
    first, second = pair(net)
    first.quic.send_datagram_frame(frame(1))
    ((late, _),) = first.quic.datagrams_to_send(net.now)
    first.quic.change_connection_id()
    first.say(frame(2))
    net.run(0.2)
    assert [data[0] for data in second.got] == [2]
    net.arrive(late, first.addr)
    net.run(0.2)
    assert not net.endpoint.dropped
    assert not net.endpoint.answered  # a stateless reset would end the connection


def test_only_the_last_few_retired_ids_are_kept(net: Network) -> None:
    first, _ = pair(net)
    for _ in range(20):
        first.quic.change_connection_id()
        first.say(b"\0\0")
        net.run(0.2)
    assert len(net.endpoint._by_leg[1].ids) <= 4 + RETIRED_IDS + 1
    assert len([peer for peer in net.endpoint._by_id.values() if peer.leg == 1]) <= 4 + RETIRED_IDS + 1


def test_a_vanished_client_is_lost_after_the_idle_time(net: Network) -> None:
    client = Client(net, 1001)
    net.run(1.0)
    net.clients.clear()
    client.armed = None
    net.run(29.0)
    assert net.told("lost") == []
    net.run(3.0)
    assert len(net.told("lost")) == 1
    assert len(net.endpoint) == 0


def test_a_handshake_that_does_not_finish_is_forgotten_at_its_deadline(net: Network) -> None:
    client = Client(net, 1001)
    net.clients.clear()
    client.armed = None
    net.run(2.0)
    assert net.endpoint.half_open == 1
    net.run(4.0)
    assert (net.endpoint.half_open, len(net.endpoint), net.endpoint.handshakes_expired) == (0, 0, 1)
    assert net.told("opened") == []


def test_under_retry_a_client_still_gets_in() -> None:
    net = Network(LimitsConfig(retry_above_half_open=0))
    Client(net, 1001)
    net.run(1.0)
    assert net.endpoint.answered["retry"] == 1
    assert net.told("opened") == [(1, True)]


def test_a_full_node_drops_newcomers_by_name() -> None:
    net = Network(LimitsConfig(legs=1))
    Client(net, 1001)
    net.run(0.5)
    Client(net, 1002)
    net.run(0.5)
    assert len(net.endpoint) == 1
    assert net.endpoint.dropped[DropReason.QUOTA] >= 1


def test_a_draining_node_drops_newcomers_by_name(net: Network) -> None:
    net.endpoint.accepting = False
    Client(net, 1001)
    net.run(0.5)
    assert net.endpoint.dropped[DropReason.DRAINING] >= 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DropReason.MALFORMED),
        (b"\x05abc", DropReason.MALFORMED),
        (b"\x90" * 50, DropReason.MALFORMED),
        (b"\xc0\0\0", DropReason.MALFORMED),
        (b"\x40" + bytes(2048), DropReason.TOO_LARGE),
        (b"\x40" + bytes(60), DropReason.UNKNOWN_ID),
        (b"\x40", DropReason.UNKNOWN_ID),
    ],
)
def test_noise_is_dropped_by_name_and_never_answered(net: Network, data: bytes, reason: DropReason) -> None:
    net.arrive(data, ("203.0.113.5", 9))
    net.run(0.1)
    assert net.endpoint.dropped[reason] == 1
    assert net.sent == []


def test_a_full_slow_queue_drops_by_name_and_audio_goes_on(net: Network) -> None:
    first, second = pair(net)
    for number in range(6000):
        net.endpoint.receive(
            b"\x41" + number.to_bytes(8, "big") + bytes(20),
            ("203.0.113.5", 9),
            0,
            net.now,
        )
    first.say(frame(1))
    net.run(0.5)
    assert net.endpoint.dropped[DropReason.OVER_BUDGET] == 6000 - 4096 - 1  # one is in hand
    assert len(second.got) == 1


def test_a_socket_that_takes_nothing_costs_packets_by_name(net: Network) -> None:
    first, _ = pair(net)
    net.sending_fails = True
    first.say(frame(1))
    net.run(0.1)
    assert net.lane.counters.dropped_out[DropReason.SEND_ERROR] == 1
    assert net.lane.packets().send_errors >= 1


def test_keys_change_in_mid_call_without_losing_a_packet(net: Network) -> None:
    first, second = pair(net)
    for leg in (1, 2):
        net.endpoint._by_leg[leg].quic.path.update_after = 50
    for ctr in range(400):
        first.say(frame(ctr))
        net.run(0.02)
    net.run(0.2)
    assert len(second.got) == 400
    assert net.endpoint._by_leg[2].quic.path.key_updates >= 5


def test_new_limits_and_certificate_serve_newcomers(net: Network) -> None:
    Client(net, 1001)
    net.run(0.5)
    net.endpoint.configure(LimitsConfig(legs=1), shared_configuration())
    Client(net, 1002)
    net.run(0.5)
    assert len(net.endpoint) == 1


def test_a_read_takes_a_bounded_batch_and_survives_socket_errors(net: Network) -> None:
    class Feed:
        reads = 0

        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
            self.reads += 1
            if self.reads == 3:
                raise ConnectionRefusedError
            return b"\x05noise", ("203.0.113.5", 9)

    feed = Feed()
    number = net.endpoint.attach_socket(cast(socket.socket, feed))
    assert net.endpoint.read(number) == 32
    assert net.endpoint.read(number, 5) == 5
    assert net.endpoint.dropped[DropReason.MALFORMED] == 37
    assert net.endpoint.read_errors == 1


def test_a_read_ends_with_an_error_that_stays_and_says_so_where_nothing_came_before(net: Network) -> None:
    class Feed:
        waiting = 1
        reads = 0

        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
            self.reads += 1
            if not self.waiting:
                raise OSError(errno.ENOBUFS, "no buffers")
            self.waiting -= 1
            return b"\x05noise", ("203.0.113.5", 9)

    feed = Feed()
    number = net.endpoint.attach_socket(cast(socket.socket, feed))
    assert (net.endpoint.read(number), net.endpoint.read(number)) == (1, None)
    assert (feed.reads, net.endpoint.read_errors) == (5, 4)
    feed.waiting = 1
    assert net.endpoint.read(number, 1) == 1


def test_a_read_stops_when_the_socket_is_empty(net: Network) -> None:
    class Feed:
        waiting = 7

        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
            if not self.waiting:
                raise BlockingIOError
            self.waiting -= 1
            return b"\x05noise", ("203.0.113.5", 9)

    assert net.endpoint.read(net.endpoint.attach_socket(cast(socket.socket, Feed()))) == 7
    assert net.endpoint.udp_in == 7


def test_a_bug_met_by_one_peers_packet_costs_that_peer_only(plain: Network) -> None:
    first, second = pair(plain)

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    for method in ("receive", "receive_datagram"):
        peer = plain.endpoint._by_leg.get(2)
        if peer is None:
            second = Client(plain, 1003)
            plain.run(1.0)
            peer = plain.endpoint._by_leg[3]
        owner = peer.quic.path if method == "receive" else peer.quic
        setattr(owner, method, explode)  # its own attribute: gone with the connection
        if method == "receive":
            second.say(frame(1))
        else:
            second.write(b"x")
        plain.run(0.1)
    assert plain.endpoint.internal_errors == 2
    assert plain.told("lost")[0][0] == 2
    assert 1 in plain.endpoint._by_leg
    first.say(frame(5))
    plain.run(0.1)


@pytest.mark.parametrize("way", ["transmit", "close", "flush"])
def test_a_bug_met_while_sending_costs_the_receiver_only(plain: Network, way: str) -> None:
    first, second = pair(plain)
    third = Client(plain, 1003)
    plain.run(1.0)
    plain.lane.route(1, 1, [(2, 2), (3, 2)], None)
    second.write(b"x")
    plain.run(0.1)

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    quic = plain.endpoint._by_leg[2].quic
    setattr(quic.path if way == "flush" else quic, "seal" if way == "flush" else "datagrams_to_send", explode)
    if way == "transmit":
        plain.endpoint.send_stream(2, b"news")
        plain.endpoint.transmit_dirty()
    elif way == "close":
        plain.endpoint.close(2, 0x24, "")
    first.say(frame(1))
    plain.run(0.1)
    assert len(third.got) == 1
    assert plain.endpoint.internal_errors == 1
    assert [leg for leg, _ in plain.told("lost")] == [2]


def test_a_bug_in_a_timer_costs_its_peer_only(net: Network) -> None:
    pair(net)

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    setattr(net.endpoint._by_leg[1].quic, "handle_timer", explode)  # noqa: B010 - a method, on one object
    net.clients.clear()
    net.run(40.0)
    assert net.endpoint.internal_errors == 1
    assert len(net.endpoint) == 0


def test_a_bug_in_admission_is_counted_and_the_next_packet_is_judged(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(net.endpoint._front, "judge_long", explode)
        Client(net, 1001)
        net.run(0.05)
    assert net.endpoint.dropped[DropReason.INTERNAL] == 1
    net.run(2.0)
    assert net.told("opened") == [(1, True)]


def test_acknowledgements_of_others_do_not_wait_for_one_that_is_held_longer(net: Network) -> None:
    """A leg with packets that wait for the loop is looked at 80 ms later; others keep their 20 ms."""
    first, second = pair(net)
    held = net.endpoint._by_leg[1]
    held.quic.path.add(held.quic.path.largest + 1)
    held.quic.path.ack_at = net.now + 0.1
    net.endpoint.outbox.note_ack(held, net.now)
    net.run(0.001)
    peer = net.endpoint._by_leg[2]
    second.write(b"x")
    net.run(0.035)
    assert peer.quic.path.ack_at is None
    assert held.quic.path.ack_at is not None
    held.quic.path.ack_at = None
    held.quic.path.ack_at = net.now + 0.02  # what waited is done: due earlier than listed
    net.endpoint.outbox.note_ack(held, net.now)
    net.run(0.03)
    assert held.quic.path.ack_at is None
    assert first.quic._close_event is None


def test_a_wish_for_new_keys_that_the_peer_was_faster_to_fulfil_is_void(net: Network) -> None:
    first, second = pair(net)
    path = net.endpoint._by_leg[2].quic.path
    path.update_after = 20
    for ctr in range(60):
        first.say(frame(ctr))
        if path.update_asked:
            break
        net.run(0.02)
    net.run(0.1)
    before = path.key_updates
    assert before >= 1
    net.endpoint._deal_with(RekeyWanted(2), net.now)
    assert path.key_updates == before
    first.say(frame(500))
    net.run(0.2)
    assert second.got[-1][2:] == frame(500)[2:]


def test_who_sleeps_for_twenty_seconds_and_wakes_in_another_network_is_heard_at_once(net: Network) -> None:
    first, second = pair(net)
    second.move(2002)  # nothing leaves, nothing arrives: the machine is asleep
    net.run(20.0)
    second.say(bytes((0, 0)) + bytes(1000))  # a full-size packet proves the path with its answer
    net.run(0.05)
    assert net.told("moved") == [(2, 2002)]
    first.say(frame(7))
    net.run(0.05)
    assert [data[0] for data in second.got] == [2]
    assert net.told("lost") == []


def test_a_forged_or_repeated_packet_at_another_port_of_ours_moves_nothing(net: Network) -> None:
    first, second = pair(net)
    elsewhere: list[bytes] = []

    class Other:
        def sendto(self, data: bytes, addr: object) -> None:
            elsewhere.append(data)

    other = net.endpoint.attach_socket(cast(socket.socket, Other()))
    second.quic.send_datagram_frame(b"\0\0")
    ((real, _),) = second.quic.datagrams_to_send(net.now)
    net.arrive(real, second.addr)
    net.run(0.1)
    for packet in (real, real[:-1] + bytes((real[-1] ^ 1,))):
        net.endpoint.receive(packet, second.addr, other, net.now)
    net.run(0.1)
    first.say(frame(1))
    net.run(0.1)
    assert elsewhere == []
    assert len(second.got) == 1


def test_forged_packets_from_anywhere_never_get_to_aioquic(net: Network) -> None:
    first, _ = pair(net)
    cid = net.endpoint._by_leg[1].quic.host_cid
    handled = net.endpoint.handled["quic"]
    for number in range(500):
        forged = bytes((0x40 | number % 64,)) + cid + number.to_bytes(2, "big") * 20
        for addr in (first.addr, ("203.0.113.9", 9)):
            net.arrive(forged, addr)
    net.run(0.1)
    assert net.endpoint.handled["quic"] == handled
    assert net.endpoint.dropped[DropReason.BAD_TAG] == 1000
