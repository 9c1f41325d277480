"""The WebTransport leg with a stock HTTP/3 client, in both lanes: the same leg as any other."""

from __future__ import annotations

import pytest

from h3net import PAGE, WebClient, open_session
from lanes import LANES
from quicnet import Client, Network
from relay.core.reasons import DropReason
from relay.protocol import media


def frame(ctr: int, flow: int = 1, size: int = 100) -> bytes:
    head = media.encode_header(flow, 0, ctr)
    return head + bytes(size - len(head))


@pytest.fixture(params=LANES)
def net(request: pytest.FixtureRequest) -> Network:
    return Network(lane=request.param)


def test_a_session_opens_a_leg_and_a_connection_alone_does_not(net: Network) -> None:
    client = WebClient(net)
    assert (net.told("opened"), net.endpoint.half_open) == ([], 1)
    net.endpoint.origins = (PAGE,)
    assert client.ask() == 200
    assert net.facts == [("opened", 1, True)]
    assert (net.endpoint.half_open, net.endpoint.handshakes) == (0, 1)


def test_the_first_bidirectional_stream_of_the_session_is_the_control_stream_both_ways(net: Network) -> None:
    client = open_session(net)
    client.write(b"hello")
    net.run(0.1)
    client.write(b" again")
    net.run(0.1)
    assert net.told("stream") == [(1, b"hello"), (1, b" again")]
    net.endpoint.send_stream(1, b"welcome")
    net.endpoint.transmit_dirty()
    net.run(0.1)
    assert client.stream == b"welcome"


def test_audio_goes_between_a_web_page_and_any_other_client_by_the_lane(net: Network) -> None:
    page, other = open_session(net), Client(net, 1002)
    net.run(0.5)
    for leg, listener in ((1, 2), (2, 1)):
        net.lane.open_flow(leg, 1, index=0, group=False)
        net.lane.route(leg, 1, [(listener, 2)], None)
    taken = net.endpoint.handled["quic"]
    for ctr in range(50):
        page.say(frame(ctr))
        other.say(frame(ctr))
        net.run(0.02)
    net.run(0.2)
    expected = [media.with_flow(frame(ctr), 2, False) for ctr in range(50)]
    assert page.got == expected
    assert other.got == expected
    assert net.endpoint.media_lost == 0
    assert net.endpoint.handled["quic"] == taken


def test_the_largest_media_datagram_passes_both_ways(net: Network) -> None:
    page, other = open_session(net), open_session(net, 1002)
    net.lane.open_flow(1, 1, index=0, group=False)
    net.lane.route(1, 1, [(2, 2)], None)
    page.say(frame(0, size=1024))
    net.run(0.1)
    assert other.got == [media.with_flow(frame(0, size=1024), 2, False)]


def test_control_datagrams_go_to_the_handler_and_back(net: Network) -> None:
    client = open_session(net)
    client.say(b"\0\1ping")
    net.run(0.1)
    assert net.told("datagram") == [(1, b"\0\1ping")]
    net.endpoint.send_datagram(1, b"\0\2pong")
    net.run(0.1)
    assert client.got == [b"\0\2pong"]


def test_a_datagram_that_comes_with_other_frames_is_without_its_prefix_too(net: Network) -> None:
    client = open_session(net)
    client.inject(b"\x1a" + bytes(8) + b"\x31\x05\0\0\1hi" + b"\x31\x03\1\0\1")
    assert net.told("datagram") == [(1, b"\0\1hi")]
    assert net.lane.counters.dropped == {DropReason.UNKNOWN_FLOW: 1}


def test_a_datagram_of_another_session_is_of_an_unknown_flow(net: Network) -> None:
    client = open_session(net)
    client.quic.send_datagram_frame(b"\1\0\1hi")
    client.flush()
    net.run(0.1)
    assert net.told("datagram") == []
    assert net.lane.counters.dropped == {DropReason.UNKNOWN_FLOW: 1}


def test_a_datagram_before_the_session_is_nobodys(net: Network) -> None:
    client = WebClient(net)
    client.inject(b"\x31\x04\0\0\1h")
    assert net.told("datagram") == []
    assert net.lane.counters.dropped == {DropReason.UNKNOWN_FLOW: 1}
    net.endpoint.origins = (PAGE,)
    assert client.ask() == 200


def test_a_session_goes_on_from_another_port(net: Network) -> None:
    client = open_session(net)
    client.write(b"one")
    net.run(0.1)
    client.move(2001)
    client.say(b"\0\1ping")
    net.run(0.5)
    assert net.told("moved") == [(1, 2001)]
    net.endpoint.send_datagram(1, b"\0\2pong")
    client.write(b"two")
    net.run(0.5)
    assert client.got == [b"\0\2pong"]
    assert net.told("stream") == [(1, b"one"), (1, b"two")]


def test_other_streams_of_the_session_carry_nothing(net: Network) -> None:
    client = open_session(net)
    client.write(b"first")
    assert client.http is not None
    for one_way in (False, True):
        other = client.http.create_webtransport_stream(client.session, one_way)
        client.quic.send_stream_data(other, b"other")
    client.flush()
    net.run(0.1)
    assert net.told("stream") == [(1, b"first")]
    assert client.closed is None


def test_a_close_tells_the_page_our_code_and_text(net: Network) -> None:
    client = open_session(net)
    net.endpoint.close(1, 0x12, "too late")
    net.run(0.1)
    assert client.capsules == bytes.fromhex("68430c00000012") + b"too late"
    assert client.closed == 0x100
    assert net.told("lost") == [(1, 0x12)]


def test_a_page_that_does_not_leave_is_closed_three_seconds_later(net: Network) -> None:
    client = open_session(net)
    client.leaves = False
    net.endpoint.close(1, 0x12, "too late")
    assert net.told("lost") == [(1, 0x12)]
    client.say(b"\0\1ping")
    net.run(2.9)
    assert (client.closed, net.told("datagram")) == (None, [])
    net.run(0.2)
    assert client.closed == 0x100
    net.run(5.0)
    assert (len(net.endpoint), net.told("lost")) == (0, [(1, 0x12)])


def test_a_page_that_closes_its_session_has_gone_with_its_code(net: Network) -> None:
    client = open_session(net)
    client.capsule(0x2843, b"\0\0\0\x09bye")
    assert net.told("lost") == [(1, 9)]
    net.run(5.0)
    assert len(net.endpoint) == 0


def test_other_capsules_are_read_past_in_pieces_or_whole(net: Network) -> None:
    client = open_session(net)
    client.capsule(0x1234, b"whatever")
    assert client.http is not None
    for byte in b"\x68\x43\x04\0\0\0\x05":
        client.http.send_data(client.session, bytes((byte,)), False)
        client.flush()
        net.run(0.1)
    assert net.told("lost") == [(1, 5)]


def test_a_page_that_ends_the_sessions_stream_has_said_goodbye(net: Network) -> None:
    client = open_session(net)
    assert client.http is not None
    client.http.send_data(client.session, b"", True)
    client.flush()
    net.run(0.1)
    assert net.told("lost") == [(1, 0)]


def test_a_client_with_both_protocols_gets_ours_without_http(net: Network) -> None:
    client = Client(net, 1001)
    assert net.endpoint.configuration.alpn_protocols == ["vrl/1", "h3"]
    client.write(b"hello")
    net.run(1.0)
    assert net.told("stream") == [(1, b"hello")]
    assert client.stream == b""


def test_a_client_that_is_no_browser_sends_no_origin_and_passes(net: Network) -> None:
    assert WebClient(net).ask(origin=None) == 200


def test_later_drafts_name_the_protocol_otherwise(net: Network) -> None:
    assert WebClient(net).ask(origin=None, protocol="webtransport-h3") == 200
