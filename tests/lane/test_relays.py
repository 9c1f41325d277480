"""TURN's data path in both lanes: who is heard by whom, until when, in what form, and how many packets."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp
from aioquic.tls import CipherSuite

from lanes import LANES, make_lane
from relay.core.reasons import DropReason
from relay.edge.ids import ConnectionIds
from relay.edge.lane import Lane, RelayCounters, Stun, ToClient, Unknown
from relay.errors import LocalError
from relay.protocol.cid import CidCodec
from relay.protocol.demux import QUIC_V1
from relay.protocol.relayed import PeerAddress, encode_channel_data, encode_data_indication

D = DropReason
NOW, LATER = 100.0, 400.0
CLIENT, OTHER = ("192.0.2.7", 5000), ("192.0.2.8", 6000)
PEER = ("198.51.100.9", 7000)
RELAYED, RELAYED_2 = ("203.0.113.1", 50000), ("203.0.113.1", 50001)
RIGHTS = {"fd": -1, "pps": 1000, "bps": 10**7}
CHANNEL = 0x4001
SUITE = CipherSuite.AES_128_GCM_SHA256


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return make_lane(request.param)


def host(address: Any) -> bytes:
    return bytes(int(part) for part in address[0].split("."))


def at(address: Any) -> PeerAddress:
    return PeerAddress(host(address), address[1])


def send_indication(peer: Any, payload: bytes, extra: bytes = b"") -> bytes:
    """As a client writes it: with the attributes of a Data indication, which are the same."""
    data = encode_data_indication(5, at(peer), payload)
    body = data[20:] + extra
    return b"\x00\x16" + len(body).to_bytes(2, "big") + data[4:20] + body


def stun(kind: int = 0x0003, size: int = 0) -> bytes:
    return kind.to_bytes(2, "big") + size.to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12 + size)


def channel(payload: bytes, number: int = CHANNEL) -> bytes:
    return encode_channel_data(number, payload, is_stream=False)


def open_relay(lane: Lane, allocation: int = 1, **rights: Any) -> None:
    client, relayed = (CLIENT, RELAYED) if allocation == 1 else (OTHER, RELAYED_2)
    lane.open_relay(allocation, client, 0, relayed=relayed, **{**RIGHTS, **rights})


def bound(lane: Lane) -> None:
    """An allocation with a permission and a channel."""
    open_relay(lane)
    lane.permit(1, host(PEER), LATER)
    lane.bind_channel(1, CHANNEL, PEER, LATER)


def dropped(lane: Lane) -> dict[DropReason, int]:
    """What both directions dropped; the books are right."""
    counters = lane.relays
    assert counters.imbalance() == 0
    assert lane.packets().imbalance() == 0
    return dict(counters.up.dropped + counters.down.dropped)


def receive(lane: Lane, data: bytes, now: float = NOW, client: Any = CLIENT, sock: int = 0) -> list[Any]:
    lane.receive(data, client, sock, now)
    return lane.flush_relays()


def hear(lane: Lane, data: bytes, peer: Any = PEER, now: float = NOW, allocation: int = 1) -> list[Any]:
    lane.receive_relay(allocation, data, peer, now)
    return lane.flush(now)


# ------------------------------------------------------------ from the client


def test_channel_data_goes_to_the_peer_that_the_number_stands_for(lane: Lane) -> None:
    bound(lane)
    assert receive(lane, channel(b"hello")) == [(1, b"hello", PEER)]
    assert receive(lane, channel(b"hello") + bytes(3)) == [(1, b"hello", PEER)]
    assert receive(lane, channel(b"")) == [(1, b"", PEER)]
    assert (lane.relays.up.passed, lane.relays.up.bytes) == (3, 10)
    assert (lane.packets().relayed, lane.packets().sent) == (3, 3)
    assert dropped(lane) == {}


def test_a_send_indication_needs_a_permission_and_no_channel(lane: Lane) -> None:
    open_relay(lane)
    assert receive(lane, send_indication(PEER, b"one")) == []
    assert dropped(lane) == {D.NO_PERMISSION: 1}
    lane.permit(1, host(PEER), LATER)
    assert receive(lane, send_indication(PEER, b"one")) == [(1, b"one", PEER)]
    elsewhere = (PEER[0], 9)
    assert receive(lane, send_indication(elsewhere, b"")) == [(1, b"", elsewhere)]


def test_the_first_peer_of_a_send_indication_counts(lane: Lane) -> None:
    bound(lane)
    second = encode_data_indication(5, at(("198.51.100.66", 1)), b"")[20:32]
    assert receive(lane, send_indication(PEER, b"x", second)) == [(1, b"x", PEER)]


def test_a_send_indication_that_asks_for_what_we_do_not_do_is_malformed(lane: Lane) -> None:
    bound(lane)
    assert receive(lane, send_indication(PEER, b"x", b"\x00\x1a\x00\x00")) == []
    assert receive(lane, send_indication(PEER, b"x", b"\x80\x22\x00\x01a\0\0\0")) != []
    assert receive(lane, stun(0x0016)) == []
    assert dropped(lane) == {D.MALFORMED: 2}


def test_permissions_and_channels_end_by_the_clock_of_the_packet(lane: Lane) -> None:
    bound(lane)
    for packet in (channel(b"x"), send_indication(PEER, b"x")):
        assert receive(lane, packet, LATER - 0.001)
        assert receive(lane, packet, LATER) == []
    assert hear(lane, b"y", now=LATER - 0.001)
    assert hear(lane, b"y", now=LATER) == []
    assert dropped(lane) == {D.NO_CHANNEL: 1, D.NO_PERMISSION: 2}


def test_who_is_forbidden_is_reached_by_no_channel_either(lane: Lane) -> None:
    bound(lane)
    lane.forbid(1, host(PEER))
    assert receive(lane, channel(b"x")) == receive(lane, send_indication(PEER, b"x")) == []
    assert hear(lane, b"y") == []
    assert dropped(lane) == {D.NO_CHANNEL: 1, D.NO_PERMISSION: 2}


def test_a_channel_that_is_unbound_stands_for_nobody(lane: Lane) -> None:
    bound(lane)
    lane.unbind_channel(1, CHANNEL)
    assert receive(lane, channel(b"x")) == []
    assert dropped(lane) == {D.NO_CHANNEL: 1}
    assert hear(lane, b"y")[0][1] == encode_data_indication(1, at(PEER), b"y")


def test_a_number_stands_for_one_peer_and_a_peer_for_one_number(lane: Lane) -> None:
    bound(lane)
    lane.bind_channel(1, 0x4002, PEER, LATER)
    assert receive(lane, channel(b"x")) == []
    assert receive(lane, channel(b"x", 0x4002)) == [(1, b"x", PEER)]
    other = ("198.51.100.10", 1)
    lane.bind_channel(1, 0x4002, other, LATER)
    assert receive(lane, channel(b"x", 0x4002)) == [(1, b"x", other)]


def test_the_5_tuple_is_address_port_and_our_socket(lane: Lane) -> None:
    bound(lane)
    for client, sock in ((OTHER, 0), ((CLIENT[0], 5001), 0), (CLIENT, 1)):
        assert receive(lane, channel(b"x"), client=client, sock=sock) == []
    assert lane.relays == RelayCounters()
    assert [type(item) for item in lane.take(9)] == [Unknown] * 3


def test_a_client_that_sends_more_than_its_budget_is_held_back(lane: Lane) -> None:
    open_relay(lane, pps=10, bps=10**6)
    lane.permit(1, host(PEER), LATER)
    sent = [receive(lane, send_indication(PEER, b"x")) for _ in range(11)]
    assert [len(packets) for packets in sent] == [1] * 10 + [0]
    assert dropped(lane) == {D.OVER_BUDGET: 1}
    assert hear(lane, b"y")  # the other direction has its own
    assert receive(lane, send_indication(PEER, b"x"), NOW + 0.2)


def test_bits_are_budgeted_too(lane: Lane) -> None:
    open_relay(lane, bps=8 * 2048)
    lane.permit(1, host(PEER), LATER)
    assert [len(hear(lane, bytes(1024))) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert dropped(lane) == {D.OVER_BUDGET: 1}


# ------------------------------------------------------------ from peers


def test_a_peer_is_heard_by_its_channel_if_it_is_that_very_peer(lane: Lane) -> None:
    bound(lane)
    assert hear(lane, b"hello") == [(0, channel(b"hello"), CLIENT)]
    elsewhere = (PEER[0], 9)
    assert hear(lane, b"hello", elsewhere) == [
        (0, encode_data_indication(1, at(elsewhere), b"hello"), CLIENT)
    ]
    assert (lane.relays.down.passed, lane.relays.down.bytes) == (2, 10)


def test_a_peer_without_permission_is_not_heard(lane: Lane) -> None:
    open_relay(lane)
    lane.bind_channel(1, CHANNEL, PEER, LATER)
    assert hear(lane, b"hello") == []
    assert dropped(lane) == {D.NO_PERMISSION: 1}


def test_a_peers_packet_over_2048_bytes_goes_no_further(lane: Lane) -> None:
    bound(lane)
    assert hear(lane, bytes(2049)) == []
    assert len(hear(lane, bytes(2048))[0][1]) == 2052
    assert dropped(lane) == {D.TOO_LARGE: 1}


def test_peers_with_ipv6_are_named_under_the_whole_mask(lane: Lane) -> None:
    peer = ("2001:db8:1::5", 7000, 0, 0)
    packed = bytes.fromhex("20010db8000100000000000000000005")
    lane.open_relay(1, CLIENT, 0, relayed=("2001:db8::1", 50000, 0, 0), **RIGHTS)
    lane.permit(1, packed, LATER)
    where = PeerAddress(packed, 7000)
    assert hear(lane, b"y", peer)[0][1] == encode_data_indication(1, where, b"y")
    message = encode_data_indication(9, where, b"x")
    assert receive(lane, b"\x00\x16" + message[2:]) == [(1, b"x", peer)]


# ------------------------------------------------------------ inside the node


def hairpin(lane: Lane, *, permitted: bool = True) -> None:
    open_relay(lane, 1)
    open_relay(lane, 2)
    lane.permit(1, host(RELAYED_2), LATER)
    if permitted:
        lane.permit(2, host(RELAYED), LATER)


def test_two_allocations_of_the_node_reach_each_other_inside(lane: Lane) -> None:
    hairpin(lane)
    lane.bind_channel(1, CHANNEL, RELAYED_2, LATER)
    assert receive(lane, channel(b"hello")) == []
    assert lane.flush(NOW) == [(0, encode_data_indication(1, at(RELAYED), b"hello"), OTHER)]
    assert (lane.relays.up.passed, lane.relays.down.passed) == (1, 1)
    assert dropped(lane) == {}


def test_inside_the_receiving_allocation_judges_as_if_it_came_by_the_network(lane: Lane) -> None:
    hairpin(lane, permitted=False)
    assert receive(lane, send_indication(RELAYED_2, b"hello")) == lane.flush(NOW) == []
    assert lane.close_relay(1).up.passed == 1
    assert dropped(lane) == dict(lane.close_relay(2).down.dropped) == {D.NO_PERMISSION: 1}


def test_nothing_else_on_a_host_of_relayed_addresses_is_reached(lane: Lane) -> None:
    hairpin(lane)
    for port in (22, 443, 50002):
        assert receive(lane, send_indication((RELAYED[0], port), b"hello")) == []
    lane.close_relay(2)
    assert receive(lane, send_indication(RELAYED_2, b"hello")) == []
    assert lane.flush(NOW) == []
    assert dropped(lane) == {D.NO_PERMISSION: 4}


# ------------------------------------------------------------ clients on streams


def open_stream(lane: Lane) -> None:
    lane.open_relay_stream(1, relayed=RELAYED, **RIGHTS)
    lane.permit(1, host(PEER), LATER)
    lane.bind_channel(1, CHANNEL, PEER, LATER)


def test_messages_of_a_stream_pass_like_packets(lane: Lane) -> None:
    open_stream(lane)
    assert lane.relay_from_client(1, channel(b"hello") + bytes(3), NOW) is None
    assert lane.relay_from_client(1, send_indication(PEER, b"x"), NOW) is None
    assert lane.flush_relays() == [(1, b"hello", PEER), (1, b"x", PEER)]
    assert lane.relay_from_client(1, channel(b"x", 0x4002), NOW) is D.NO_CHANNEL
    assert lane.relay_from_client(1, stun(), NOW) is D.MALFORMED
    assert lane.relay_from_client(2, channel(b"x"), NOW) is D.UNKNOWN_ID
    assert dropped(lane) == {D.NO_CHANNEL: 1, D.MALFORMED: 1}
    assert lane.packets().received == 0


def test_what_a_client_on_a_stream_hears_waits_for_the_loop_as_one_piece(lane: Lane) -> None:
    open_stream(lane)
    elsewhere = (PEER[0], 9)
    assert hear(lane, b"hello") == hear(lane, b"x", elsewhere) == []
    assert lane.relays.down.waiting == 2
    wanted = channel(b"hello") + bytes(3) + encode_data_indication(1, at(elsewhere), b"x")
    assert lane.take(9) == [ToClient(1, wanted)]
    assert lane.take(9) == []
    assert (lane.relays.down.waiting, lane.relays.down.passed, lane.relays.down.bytes) == (0, 2, 6)
    assert hear(lane, b"again") == []
    assert len(lane.take(9)) == 1
    assert dropped(lane) == {}


def test_a_stream_that_is_not_fetched_loses_the_oldest(lane: Lane) -> None:
    open_stream(lane)
    for number in range(70):
        hear(lane, bytes((number,)))
    (item,) = lane.take(9)
    assert isinstance(item, ToClient)
    assert item.data == b"".join(channel(bytes((number,))) + bytes(3) for number in range(6, 70))
    assert dropped(lane) == {D.QUEUE_FULL: 6}


def test_what_waits_for_a_stream_goes_with_its_allocation(lane: Lane) -> None:
    open_stream(lane)
    hear(lane, b"hello")
    assert lane.close_relay(1).down.dropped == {D.PEER_GONE: 1}
    assert lane.take(9) == []
    assert dropped(lane) == {D.PEER_GONE: 1}


# ------------------------------------------------------------ life


def test_an_allocation_that_is_closed_has_counted_all(lane: Lane) -> None:
    bound(lane)
    receive(lane, channel(b"hello"))
    receive(lane, channel(b"hello", 0x4FFF))
    hear(lane, b"yes")
    counted = lane.close_relay(1)
    assert (counted.up.taken, counted.up.passed, counted.up.bytes) == (2, 1, 5)
    assert counted.up.dropped == {D.NO_CHANNEL: 1}
    assert (counted.down.passed, counted.down.bytes) == (1, 3)
    assert counted.imbalance() == 0
    assert receive(lane, channel(b"hello")) == hear(lane, b"no") == []
    assert lane.close_relay(1) == RelayCounters()
    lane.forbid(1, host(PEER))
    lane.unbind_channel(1, CHANNEL)


def test_numbers_and_addresses_belong_to_one_allocation(lane: Lane) -> None:
    open_relay(lane)
    for number, client, relayed in ((1, OTHER, RELAYED_2), (2, CLIENT, RELAYED_2), (2, OTHER, RELAYED)):
        with pytest.raises(LocalError):
            lane.open_relay(number, client, 0, relayed=relayed, **RIGHTS)
    lane.close_relay(1)
    open_relay(lane)


def test_nothing_is_allowed_to_an_allocation_that_is_not_there(lane: Lane) -> None:
    with pytest.raises(LocalError):
        lane.permit(1, host(PEER), LATER)
    with pytest.raises(LocalError):
        lane.bind_channel(1, CHANNEL, PEER, LATER)


# ------------------------------------------------------------ STUN for the loop


def on(lane: Lane, *, stun: bool = True) -> None:
    lane.tell_front(accepting=True, half_open=0, is_full=False, stun=stun)


def test_stun_of_strangers_is_malformed_until_somebody_answers_it(lane: Lane) -> None:
    receive(lane, stun())
    assert lane.packets().dropped == {D.MALFORMED: 1}
    on(lane)
    receive(lane, stun())
    assert lane.take(9) == [Stun(stun(), CLIENT, 0)]
    on(lane, stun=False)
    receive(lane, stun())
    assert lane.packets().dropped == {D.MALFORMED: 2}


def test_stun_of_the_wrong_form_is_malformed(lane: Lane) -> None:
    on(lane)
    good = stun(size=8)
    for bad in (good[:-1], good[:-4], good + bytes(4), good[:4] + b"\0" + good[5:], b"\x04" + good[1:]):
        receive(lane, bad)
    assert lane.packets().dropped == {D.MALFORMED: 5}


def test_send_indications_of_strangers_are_nobodys(lane: Lane) -> None:
    on(lane)
    receive(lane, send_indication(PEER, b"x"))
    assert lane.take(9) == []
    assert lane.packets().dropped == {D.UNKNOWN_ID: 1}


def test_requests_of_a_client_reach_the_loop_before_those_of_strangers(lane: Lane) -> None:
    on(lane)
    open_relay(lane)
    for number in range(1030):
        receive(lane, stun(), client=("198.51.100.1", number + 1))
    for _ in range(9):
        receive(lane, stun())
    assert lane.packets().dropped == {D.OVER_BUDGET: 7}
    items = lane.take(2000)
    assert [item.address for item in items[:9]] == [CLIENT] * 8 + [("198.51.100.1", 1)]  # type: ignore[union-attr]  # all are Stun
    assert len(items) == 8 + 1024
    assert lane.packets().imbalance() == 0
    receive(lane, stun())
    assert len(lane.take(9)) == 1


def test_floods_of_stun_and_of_quic_do_not_keep_out_each_other(lane: Lane) -> None:
    on(lane)
    for number in range(20):
        receive(lane, stun(), client=("198.51.100.1", number + 1))
        receive(lane, b"\x40" * 40, client=("198.51.100.1", number + 1))
    kinds = [type(item) for item in lane.take(40)]
    assert kinds == [Stun, Unknown] * 20


# ------------------------------------------------------------ one port for all


def test_a_5_tuple_that_speaks_quic_and_turn_is_never_misread(lane: Lane) -> None:
    """A quarter of all short headers begin like ChannelData; none under an id of ours has its length."""
    rng = random.Random(5)
    lane.open_relay(1, CLIENT, 0, relayed=RELAYED, fd=-1, pps=10**9, bps=10**12)
    lane.bind_channel(1, CHANNEL, PEER, 1e9)
    path = lane.open_path(7)
    secrets = rng.randbytes(32), rng.randbytes(32)
    up, down = (derive_key_iv_hp(cipher_suite=SUITE, secret=secret, version=QUIC_V1) for secret in secrets)
    path.set_keys(0, 0, up, down, (up[0], up[1]))
    path.confirmed = True
    seal = CryptoContext()
    seal.setup(cipher_suite=SUITE, secret=secrets[0], version=QUIC_V1)
    ids = ConnectionIds(CidCodec(bytes(16), b"\0\1\0"), bytes(32), 5)
    channels = short = alike = misread = 0
    for number in range(100_000):
        now = NOW + number * 1e-4
        if number % 1000 == 0:
            cid = ids.issue().cid
            lane.own(7, cid)
            path.set_facts(
                active=True,
                host_cid=cid,
                peer_cid=b"",
                address=CLIENT,
                sock=0,
                peer_acks=(3, 0.08),
            )
        if rng.random() < 0.5:
            payload = rng.randbytes(rng.choice((0, 1, 2, 20, 160, 170, 171)))
            data = channel(payload) + (bytes(-len(payload) % 4) if rng.random() < 0.5 else b"")
            wanted = [(1, payload, PEER)]
            channels += 1
        else:
            head = b"\x41" + cid + (short & 0xFFFF).to_bytes(2, "big")
            data = seal.encrypt_packet(head, b"\x01" + bytes(rng.choice((4, 60, 160, 1160))), short)
            wanted = []
            short += 1
            alike += data[0] < 0x50
        misread += receive(lane, data, now) != wanted
        if number % 64 == 0:
            lane.flush(now)
    counts = lane.packets()
    assert misread == 0
    assert (counts.relayed, counts.media) == (channels, short)
    assert channels + short == 100_000
    assert alike > short // 5
    assert counts.imbalance() == 0
