"""The connection subclass: one ACK state for fast path and aioquic, guards, windows, key update."""

from __future__ import annotations

import inspect
import random
from typing import Any

import aioquic
import pytest
from aioquic.h3.connection import H3Connection
from aioquic.quic import connection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair, HeaderProtection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, StreamDataReceived
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from quicpair import CLIENT, DELAY, SERVER, QuicPair
from relay.core.reasons import DropReason
from relay.edge.path import MEDIA_WINDOW, PATIENCE
from relay.quic.acks import AUDIO_ACK_HOLD
from relay.quic.connection import (
    MAX_PACKET,
    PRIVATE_NAMES,
    REPLACED,
    STREAM_WINDOW,
    BareHttp3,
    ClientQuic,
)

OWNERS = {
    "QuicConnection": lambda pair: pair.connected(),
    "QuicPacketRecovery": lambda pair: pair.connected()._loss,
    "CryptoPair": lambda pair: pair.connected()._cryptos[Epoch.ONE_RTT],
    "HeaderProtection": lambda pair: pair.connected()._cryptos[Epoch.ONE_RTT].send.hp,
    "QuicStreamSender": lambda pair: QuicStream().sender,
    "H3Connection": lambda pair: H3Connection(pair.connected()),
    "Context": lambda pair: pair.client.tls,
}


@pytest.fixture
def pair() -> QuicPair:
    return QuicPair()


def heard_by_client(pair: QuicPair) -> list[bytes]:
    return [event.data for event in pair.client_events if isinstance(event, DatagramFrameReceived)]


def test_aioquic_is_the_version_these_hooks_were_written_for() -> None:
    assert aioquic.__version__.startswith("1.7.")


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in PRIVATE_NAMES.items() for name in names]
)
def test_every_private_name_of_aioquic_that_we_use_exists(pair: QuicPair, owner: str, name: str) -> None:
    assert hasattr(OWNERS[owner](pair), name)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_handle_ack_frame", ["self", "context", "frame_type", "buf"]),
        ("_write_datagram_frame", ["self", "builder", "data", "frame_type"]),
        ("_payload_received", ["self", "context", "plain", "crypto_frame_required"]),
        ("_close_end", ["self"]),
        ("_replenish_connection_ids", ["self"]),
        ("_initialize", ["self", "peer_cid"]),
        ("_update_traffic_key", ["self", "direction", "epoch", "cipher_suite", "secret"]),
        ("_serialize_transport_parameters", ["self"]),
        ("_alpn_handler", ["self", "alpn_protocol"]),
        ("_write_connection_limits", ["self", "builder", "space"]),
        ("_write_stream_limits", ["self", "builder", "space", "stream"]),
    ],
)
def test_overridden_methods_keep_their_signature(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(QuicConnection, method)).parameters) == parameters


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("_get_local_settings", ["self"]), ("_decode_headers", ["self", "stream_id", "frame_data"])],
)
def test_overridden_methods_of_http3_keep_their_signature(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(H3Connection, method)).parameters) == parameters


def test_our_http3_settings_are_those_that_browsers_look_for(pair: QuicPair) -> None:
    http = BareHttp3(pair.connected())
    settings = http.sent_settings or {}
    assert {number: settings[number] for number in (0x33, 0x08, 0x2B603742, 0x14E9CD29)} == dict.fromkeys(
        (0x33, 0x08, 0x2B603742, 0x14E9CD29), 1
    )
    assert (settings[0x01], settings[0x07], settings[0x06]) == (0, 0, 4096)
    assert not {0xC671706A, 0x2C7CF000} & set(settings)
    assert type(http._decoder) is type(H3Connection(pair.connected())._decoder)


def test_key_and_recovery_classes_still_stand_where_they_did() -> None:
    assert {CryptoPair.__name__, HeaderProtection.__name__, QuicPacketRecovery.__name__} <= set(OWNERS)


def test_the_one_replaced_function_of_aioquic_gives_what_its_own_gives() -> None:
    assert list(REPLACED) == ["EPOCHS"]
    replacement = REPLACED["EPOCHS"]
    assert connection.EPOCHS is replacement
    assert list(inspect.signature(replacement).parameters) == ["shortcut"]
    for shortcut in ("IH01", "IH1", "01", "1"):  # all that aioquic asks for
        answers = [replacement.__wrapped__(shortcut) for _ in range(2)]
        assert answers[0] == answers[1] == replacement(shortcut)
        assert isinstance(replacement(shortcut), frozenset)  # nobody can change what all connections share


def test_media_of_the_client_takes_the_fast_path(pair: QuicPair) -> None:
    before = pair.slow
    for number in range(50):
        pair.client.send_datagram_frame(b"%03d" % number + bytes(100))
        pair.run(0.020)
    assert [payload[:3] for payload in pair.media] == [b"%03d" % number for number in range(50)]
    assert pair.slow == before


def test_media_reaches_the_client_and_its_acks_settle_what_is_in_flight(pair: QuicPair) -> None:
    for number in range(200):
        pair.send_media(b"%03d" % number + bytes(100))
        pair.run(0.020)
    pair.run(0.2)
    assert [payload[:3] for payload in heard_by_client(pair)] == [b"%03d" % n for n in range(200)]
    assert pair.connected().path.media_in_flight == 0
    assert pair.connected().path.media_lost == 0


def test_several_datagrams_share_a_packet(pair: QuicPair) -> None:
    pair.send_media(b"one", b"two", b"three")
    pair.run(0.1)
    assert heard_by_client(pair) == [b"one", b"two", b"three"]


def test_both_ways_at_once_no_packet_is_called_lost_and_no_ack_packet_is_sent(pair: QuicPair) -> None:
    server = pair.connected()
    sent_alone = 0
    for _ in range(500):
        pair.client.send_datagram_frame(bytes(100))
        pair.send_media(bytes(100))
        pair.run(0.020)
        sent_alone += len(server.datagrams_to_send(pair.now))
    assert server.path.media_lost == 0
    assert len(heard_by_client(pair)) == 500
    assert pair.client._loss._cc.ssthresh is None or pair.client._loss.congestion_window > 10_000
    assert sent_alone == 0


def test_streams_and_media_together_lose_nothing(pair: QuicPair) -> None:
    rng = random.Random(7)
    sent = b""
    for round_ in range(300):
        chunk = rng.randbytes(rng.randrange(0, 40))
        sent += chunk
        pair.client.send_stream_data(0, chunk)
        pair.client.send_datagram_frame(bytes(90))
        pair.send_media(bytes(90))
        if round_ % 100 == 50:
            pair.client.request_key_update()
        if round_ % 100 == 75:
            pair.client.change_connection_id()
        pair.run(0.020)
    pair.run(1.0)
    got = b"".join(event.data for event in pair.server_events if isinstance(event, StreamDataReceived))
    assert got == sent
    assert len(pair.media) + _slow_datagrams(pair) == 300
    # aioquic's client drops what is under way in the old key phase: one packet for each of its 3 updates.
    assert len(heard_by_client(pair)) == 297
    assert pair.connected().path.media_lost == 3


def _slow_datagrams(pair: QuicPair) -> int:
    return sum(isinstance(event, DatagramFrameReceived) for event in pair.server_events)


def test_lost_media_is_counted_once_and_leaves_the_flight(pair: QuicPair) -> None:
    for number in range(100):
        pair.send_media(bytes(100), lose=number % 10 == 0)
        pair.run(0.020)
    pair.run(0.5)
    assert pair.connected().path.media_lost == 10
    assert pair.connected().path.media_in_flight == 0


def test_a_silent_receiver_stops_the_flow_at_the_window(pair: QuicPair) -> None:
    sent = 0
    while pair.connected().path.room(pair.now) and sent < 1000:
        pair.send_media(bytes(100), lose=True)
        sent += 1
    assert sent * 100 < MEDIA_WINDOW + 200
    assert not pair.connected().path.room(pair.now)
    assert pair.connected().path.room(pair.now + 1.5)


def test_a_new_port_is_validated_before_media_goes_there(pair: QuicPair) -> None:
    pair.client_addr = ("192.0.2.1", 50001)
    pair.client.send_datagram_frame(b"from the new port")
    pair.run(DELAY + 0.001)
    assert not pair.connected().can_send_media
    pair.run(1.0)
    assert pair.connected().can_send_media
    assert pair.connected().get_peer_address() == ("192.0.2.1", 50001)
    before = pair.fast
    pair.client.send_datagram_frame(b"again")
    pair.run(0.1)
    assert pair.fast == before + 1


def test_a_flipped_bit_drops_the_packet_as_bad_tag(pair: QuicPair) -> None:
    pair.client.send_datagram_frame(bytes(100))
    ((data, _),) = pair.client.datagrams_to_send(pair.now)
    pair.arrive(data[:-1] + bytes((data[-1] ^ 1,)), CLIENT)
    assert pair.dropped == [DropReason.BAD_TAG]
    pair.arrive(data, CLIENT)
    pair.arrive(data, CLIENT)
    assert pair.dropped == [DropReason.BAD_TAG, DropReason.DUPLICATE]
    assert len(pair.media) == 1


def test_the_same_packet_from_another_source_does_not_take_the_fast_path(pair: QuicPair) -> None:
    pair.client.send_datagram_frame(bytes(100))
    ((data, _),) = pair.client.datagrams_to_send(pair.now)
    assert pair.path.receive(data, ("203.0.113.9", 1), 0, pair.now) is None


def _acknowledge(pair: QuicPair, number: int) -> None:
    """The client claims to have received a packet number of our choice."""
    space = pair.client._spaces[pair.client._loss.spaces and list(pair.client._spaces)[-1]]
    space.ack_queue.add(number)
    space.largest_received_packet = max(space.largest_received_packet, number)
    space.largest_received_time = pair.now
    space.ack_at = pair.now


def test_acknowledging_a_packet_never_sent_closes_with_protocol_violation(pair: QuicPair) -> None:
    _acknowledge(pair, pair.connected()._packet_number + 1000)
    pair.run(0.5)
    ended = [event for event in pair.client_events if isinstance(event, ConnectionTerminated)]
    assert pair.connected().close_code == 0x0A
    assert ended == [] or ended[0].error_code == 0x0A


def test_acknowledging_a_skipped_number_closes_with_protocol_violation(pair: QuicPair) -> None:
    for _ in range(100):
        pair.send_media(bytes(50))
        pair.run(0.02)
    assert pair.connected().close_code == 0
    skipped = pair.path._skipped
    assert skipped
    _acknowledge(pair, skipped[-1][0])
    pair.run(0.5)
    assert pair.connected().close_code == 0x0A


def test_an_ack_of_very_many_ranges_is_judged_like_any_other(pair: QuicPair) -> None:
    for number in range(10_000, 10_300, 3):
        _acknowledge(pair, number)
    pair.run(0.5)
    assert pair.connected().close_code == 0x0A


def test_an_ack_that_does_not_fit_beside_the_audio_leaves_by_itself(pair: QuicPair) -> None:
    server = pair.connected()
    for number in range(1000, 1640, 40):  # a lossy path: 16 ranges
        server.path.add(number)
    server.path.largest = 1600
    server.path.ack_at = pair.now
    audio, _ = server.seal_media([bytes(567), bytes(567)], pair.now)
    assert len(audio) <= MAX_PACKET
    assert server.path.ack_due is not None
    server.seal_media([], pair.now)
    assert server.path.ack_due is None


def test_the_key_phase_flips_at_the_limit_without_a_lost_packet(pair: QuicPair) -> None:
    server = pair.connected()
    server.path.update_after = 64
    for number in range(400):
        if pair.path.wants_update():
            server.update_keys()
        pair.send_media(b"%03d" % number + bytes(60))
        pair.client.send_datagram_frame(bytes(60))
        pair.run(0.020)
    pair.run(0.5)
    assert server.path.key_updates >= 5
    assert len(heard_by_client(pair)) == 400
    assert len(pair.media) + _slow_datagrams(pair) == 400
    assert server.path.media_lost == 0


class Listener(QuicLoggerTrace):
    """Keeps what aioquic tells."""

    def __init__(self) -> None:
        super().__init__(is_client=False, odcid=b"")
        self.told: list[tuple[str, dict[str, Any]]] = []

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        self.told.append((event, data))

    def frames(self, event: str) -> list[str]:
        return [frame["frame_type"] for name, data in self.told if name == event for frame in data["frames"]]


def test_a_log_hears_of_what_goes_through_aioquic_from_now_on_and_of_nothing_afterwards(
    pair: QuicPair,
) -> None:
    server, log = pair.connected(), Listener()
    server.trace(log)
    pair.client.send_stream_data(0, bytes(STREAM_WINDOW))
    pair.run(0.5)
    server.send_stream_data(0, b"b" * 40)
    pair.run(0.5)
    assert "stream" in log.frames("packet_received")
    assert {"stream", "max_stream_data"} <= set(log.frames("packet_sent"))
    assert "metrics_updated" in [name for name, _ in log.told]
    server.trace(None)
    before = len(log.told)
    pair.client.send_stream_data(0, b"a" * 40)
    pair.run(0.5)
    assert len(log.told) == before


def test_a_connection_that_ends_with_a_log_lets_go_of_it(pair: QuicPair) -> None:
    server, log = pair.connected(), Listener()
    server.trace(log)
    pair.client.close(error_code=3)
    pair.run(1.0)
    assert "connection_close" in log.frames("packet_received")
    assert isinstance(pair.server_events[-1], ConnectionTerminated)
    assert server._quic_logger is None


def test_a_log_does_not_hear_of_the_packet_paths_media(pair: QuicPair) -> None:
    log = Listener()
    pair.connected().trace(log)
    for _ in range(20):
        pair.client.send_datagram_frame(b"x" * 60)
        pair.run(0.02)
    assert pair.fast > 15
    assert "datagram" not in log.frames("packet_received")


def test_holes_in_a_stream_do_not_grow_the_window(pair: QuicPair) -> None:
    """Each frame ends at the limit known so far; a window that follows the highest offset would double."""
    stream = pair.client._get_or_create_stream_for_send(0)
    pair.run(0.1)
    highest = 0
    for _ in range(11):
        limit = stream.max_stream_data_remote
        if limit - 1 <= highest:
            break
        highest = limit - 1
        sender = stream.sender
        sender._buffer = bytearray(b"x")
        sender._buffer_start = highest
        sender._buffer_stop = highest + 1
        sender._pending.add(highest, highest + 1)
        sender.buffer_is_empty = False
        sender.highest_offset = highest
        pair.run(0.3)
    received = pair.connected()._streams[0].receiver
    assert received.highest_offset <= STREAM_WINDOW
    assert len(received._buffer) <= STREAM_WINDOW


def test_a_fifth_stream_closes_the_connection(pair: QuicPair) -> None:
    pair.client._remote_max_streams_bidi = 128
    for number in range(5):
        pair.client.send_stream_data(4 * number, b"x")
    pair.run(0.5)
    assert pair.connected().close_code == 0x04  # STREAM_LIMIT_ERROR, RFC 9000 section 20.1


def test_zero_length_client_ids_work() -> None:
    pair = QuicPair(zero_length_ids=True)
    for _ in range(20):
        pair.client.send_datagram_frame(bytes(80))
        pair.send_media(bytes(80))
        pair.run(0.02)
    assert len(pair.media) == 20
    assert len(heard_by_client(pair)) == 20


def test_aes_128_is_chosen_when_both_can(pair: QuicPair) -> None:
    assert pair.connected().suite == "AES_128_GCM_SHA256"


def test_released_connections_leave_nothing_behind(pair: QuicPair) -> None:
    server = pair.connected()
    server.release()
    assert vars(server) == {}


def test_the_server_address_constant_is_not_the_client(pair: QuicPair) -> None:
    assert SERVER != CLIENT


def test_an_ack_does_not_overtake_packets_that_wait_for_aioquic(pair: QuicPair) -> None:
    """The peer would call them lost: three numbers later, or 9/8 of a short round trip."""
    path = pair.path
    for payload in (b"early", b"late"):
        pair.client.send_datagram_frame(payload + bytes(50))
        ((data, _),) = pair.client.datagrams_to_send(pair.now)
        if payload == b"early":
            waiting = data
            path.slow += 1  # as the lane counts what it keeps for the loop
        else:
            pair.arrive(data, CLIENT)
    largest = path.largest
    pair.send_media(bytes(60))
    assert path.ack_due is not None
    pair.connected().receive_datagram(waiting, CLIENT, pair.now)
    path.slow_done()
    pair.send_media(bytes(60))
    assert path.ack_due is None
    assert path.ranges()[-1][1] == largest + 1
    pair.run(0.2)
    assert pair.client._loss._cc.bytes_in_flight == 0


def test_a_stuck_loop_does_not_silence_acknowledgements(pair: QuicPair) -> None:
    pair.path.slow += 1
    pair.client.send_datagram_frame(bytes(50))
    ((data, _),) = pair.client.datagrams_to_send(pair.now)
    pair.arrive(data, CLIENT)
    due = pair.path.ack_due
    assert due is not None
    assert due == pytest.approx(pair.now + AUDIO_ACK_HOLD + PATIENCE)
    pair.path.seal([bytes(60)], due - 0.0015)
    assert pair.path.ack_due is not None
    pair.path.seal([bytes(60)], due - 0.0005)
    assert pair.path.ack_due is None


def test_an_ack_that_comes_over_an_unproven_path_settles_media_too(pair: QuicPair) -> None:
    for _ in range(3):
        pair.send_media(bytes(60))
    pair.client_addr = ("192.0.2.1", 50002)
    pair.run(1.0)
    assert pair.path.media_lost == 0
    assert pair.path.media_in_flight == 0


def test_a_client_is_told_what_became_of_its_datagrams_and_how_long_the_way_is() -> None:
    pair = QuicPair(client=ClientQuic)
    client = pair.client
    assert isinstance(client, ClientQuic)
    fates: list[tuple[bytes, bool]] = []
    ways: list[tuple[float, float]] = []
    client.send_datagram_frame(b"\x05before" + bytes(100))
    pair.run(0.2)
    client.watch_datagrams(lambda data, came: fates.append((data[:2], came)), lambda *way: ways.append(way))
    client.send_datagram_frame(b"\x051" + bytes(100))
    pair.run(0.2)
    assert fates == [(b"\x051", True)]
    assert [round(seconds - hesitation, 3) for seconds, hesitation in ways] == [2 * DELAY]
    client.send_datagram_frame(b"\x052" + bytes(100))
    client.datagrams_to_send(pair.now)  # lost
    for number in range(3, 8):
        client.send_datagram_frame(b"\x05%d" % number + bytes(100))
        pair.run(0.02)
    pair.run(0.2)
    assert sorted(fates[1:]) == [(b"\x05%d" % number, number != 2) for number in range(2, 8)]
    assert not client.has_waiting
    for _ in range(40):
        client.send_datagram_frame(b"\x059" + bytes(1000))
    client.datagrams_to_send(pair.now)
    assert client.has_waiting


def test_what_the_packet_path_measured_since_is_not_overwritten_by_what_aioquic_only_holds() -> None:
    pair = QuicPair()
    pair.run(0.5)
    server, newest = pair.connected(), (0.5, 0.4, 0.1, 0.02)
    pair.path.set_rtt(*newest)
    server.refresh()
    assert pair.path.rtt() == newest
    server.send_ping(1)  # an acknowledgement that aioquic takes a sample from
    pair.run(0.5)
    found = pair.path.rtt()
    assert found is not None
    assert found[0] == pytest.approx(2 * DELAY, abs=0.03)
