"""Connections between nodes: two endpoints on simulated time, with both lanes; real sockets on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicProtocolVersion

from client.rig import daemon
from lanes import LANES, make_lane
from quicnet import SERVER, Client, Network
from quicpair import shared_configuration
from relay import __version__
from relay.config import Config, LimitsConfig, ListenConfig, NodeConfig
from relay.config_trunks import TrunkNode, TrunksConfig
from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.core.relay import Relay
from relay.core.trunk_greeting import Greeting, Identity, Said, Stage
from relay.edge import udp
from relay.edge.assembly import Node, NodeKeys
from relay.edge.driver import Driver, Sinks
from relay.edge.endpoint import Endpoint
from relay.edge.front import AddressTokens, Front
from relay.edge.generation import Places
from relay.edge.ids import ConnectionIds
from relay.edge.keep import Keep
from relay.edge.peer import MAX_BACKLOG
from relay.edge.trunks import Far, Trunks, identity_of, pins_of, way_to
from relay.errors import ErrorCode, LocalError
from relay.protocol import control, media, signed, trunk, trunk_control
from relay.protocol.address import Address
from relay.protocol.cid import CidCodec
from relay.protocol.keys import ClusterKey, write_key
from relay.protocol.trunk_control import ALPN, TrunkCode
from relay.quic.connection import RelayQuic
from relay.quic.trunk import TRUNK_STREAM_WINDOW, TRUNK_WINDOW, pin_of
from trunknet import NOWHERE, SEEDS, Sky, Station, fars, pin

NO_PROTOCOL = 0x100 + 120  # CRYPTO_ERROR with the alert no_application_protocol
LARGEST = 1170  # bytes of a datagram that fits a packet of 1200
PING = b"\0\x01" + bytes(6)
CARRIED = trunk.from_leg(media.encode_header(1, 0, 7) + bytes(60), 64)
FRA_KEY, IAD_KEY = (signed.public_of(SEEDS[node]) for node in ("fra-1", "iad-1"))


class Two(Sky):
    """fra-1, which dials, and iad-1."""

    def __init__(self, lane: str = "python", **iad: Any) -> None:
        super().__init__()
        self.fra = Station(self, "fra-1", lane)
        self.iad = Station(self, "iad-1", lane, **iad)

    def met(self) -> tuple[int, int]:
        """Dial, and give it time; the legs at both ends."""
        leg = self.fra.dial("iad-1")
        self.run(1.0)
        return leg, self.iad.told("trunk")[0][0]


@pytest.fixture(params=LANES)
def two(request: pytest.FixtureRequest) -> Two:
    return Two(request.param)


def quic(station: Station, leg: int) -> RelayQuic:
    return station.endpoint._by_leg[leg].quic


# ---------------------------------------------------------------- meeting


def test_a_node_that_is_dialed_is_told_by_its_key_and_tells_a_connection_without_one(two: Two) -> None:
    leg, other = two.met()
    assert two.fra.told("trunk") == [(leg, IAD_KEY, LARGEST)]
    assert two.iad.told("trunk") == [(other, None, LARGEST)]
    assert two.fra.told("opened") == two.iad.told("opened") == []


def test_who_is_dialed_has_a_stranger_half_open_and_who_dials_has_none(two: Two) -> None:
    two.fra.dial("iad-1")
    two.run(0.008)
    assert (two.fra.endpoint.half_open, two.iad.endpoint.half_open) == (0, 1)
    two.run(1.0)
    assert (two.fra.endpoint.half_open, two.iad.endpoint.half_open) == (0, 0)
    assert (two.fra.endpoint.handshakes, two.iad.endpoint.handshakes) == (1, 1)


def test_the_dialers_first_stream_carries_words_both_ways(two: Two) -> None:
    leg, other = two.met()
    two.fra.say(leg, b"ping")
    two.run(0.1)
    two.iad.say(other, b"challenge")
    two.run(0.1)
    assert two.iad.told("stream") == [(other, b"ping")]
    assert two.fra.told("stream") == [(leg, b"challenge")]


def test_packets_are_the_lanes_at_both_ends_and_a_ping_asks_for_an_acknowledgement(two: Two) -> None:
    leg, other = two.met()
    for station, number in ((two.fra, leg), (two.iad, other)):
        assert quic(station, number).can_send_media
        before = station.endpoint.handled["media"]
        station.endpoint.send_datagram(number, PING)
        two.run(0.2)
        assert station.lane.measure([number], two.now)[0].acked == 1
        assert station.endpoint.handled["media"] > before  # the acknowledgement, at least
    assert two.fra.told("datagram") == [(leg, PING)]
    assert two.iad.told("datagram") == [(other, PING)]


def test_another_key_than_the_pinned_one_is_closed_as_unknown_and_never_told_as_a_trunk(two: Two) -> None:
    nodes = fars() | {"iad-1": Far(fars()["iad-1"].address, frozenset({pin("sin-1")}))}
    two.fra.endpoint.trunks = Trunks(SEEDS["fra-1"], nodes)
    leg = two.fra.dial("iad-1")
    two.run(1.0)
    assert two.fra.facts == [("lost", leg, TrunkCode.PEER_UNKNOWN)]
    assert two.iad.told("lost") == [(two.iad.told("trunk")[0][0], TrunkCode.PEER_UNKNOWN)]


def test_either_of_two_pins_is_good_while_a_key_is_changed(two: Two) -> None:
    nodes = fars() | {"iad-1": Far(fars()["iad-1"].address, frozenset({pin("sin-1"), pin("iad-1")}))}
    two.fra.endpoint.trunks = Trunks(SEEDS["fra-1"], nodes)
    two.met()
    assert len(two.fra.told("trunk")) == 1


def test_who_does_not_answer_is_given_up_after_five_seconds_and_may_be_dialed_again() -> None:
    two = Two()
    two.fra.endpoint.trunks = Trunks(
        SEEDS["fra-1"], fars() | {"sin-1": Far(Address(*NOWHERE), frozenset({pin("sin-1")}))}
    )
    leg = two.fra.dial("sin-1")
    two.run(4.9)
    assert two.fra.facts == []
    assert two.fra.endpoint.dial("sin-1") is None  # one is under way
    two.run(0.2)
    assert two.fra.facts == [("lost", leg, 0)]
    assert two.fra.dial("sin-1") > leg


def test_nobody_is_dialed_who_is_not_configured_or_by_a_node_without_trunks() -> None:
    two = Two(has_trunks=False)
    assert two.fra.endpoint.dial("ams-9") is None
    assert two.iad.endpoint.dial("fra-1") is None


def test_a_node_without_trunks_refuses_the_protocol(two: Two) -> None:
    two.iad.endpoint.trunks = None
    leg = two.fra.dial("iad-1")
    two.run(3.0)
    assert two.fra.facts == [("lost", leg, NO_PROTOCOL)]
    assert two.iad.facts == []
    assert (len(two.fra.endpoint), len(two.iad.endpoint), two.iad.endpoint.half_open) == (0, 0, 0)
    assert two.fra.dial("iad-1") > leg


def test_who_dials_takes_a_retry_when_the_other_one_is_busy(two: Two) -> None:
    two.iad.endpoint.configure(LimitsConfig(retry_above_half_open=0), shared_configuration())
    leg, _ = two.met()
    assert two.iad.endpoint.answered["retry"] == 1
    assert two.fra.told("trunk") == [(leg, IAD_KEY, LARGEST)]


def test_a_node_that_drains_lets_nobody_in_and_who_dials_it_gives_up(two: Two) -> None:
    two.iad.endpoint.accepting = False
    leg = two.fra.dial("iad-1")
    two.run(6.0)
    assert (two.fra.facts, two.iad.facts) == ([("lost", leg, 0)], [])


def test_two_who_dial_each_other_at_once_have_two_connections_until_one_is_closed(two: Two) -> None:
    ours, theirs = two.fra.dial("iad-1"), two.iad.dial("fra-1")
    two.run(1.0)
    assert {fact[1] for fact in two.fra.told("trunk")} == {IAD_KEY, None}
    assert {fact[1] for fact in two.iad.told("trunk")} == {FRA_KEY, None}
    (answered,) = (fact[0] for fact in two.fra.told("trunk") if fact[1] is None)
    two.fra.endpoint.close(answered, TrunkCode.GLARE, "")
    two.run(1.0)
    assert two.iad.told("lost") == [(theirs, TrunkCode.GLARE)]
    two.fra.say(ours, b"still here")
    two.run(0.1)
    assert two.iad.heard() == b"still here"


def test_a_lost_connection_can_be_dialed_anew(two: Two) -> None:
    leg, other = two.met()
    two.iad.endpoint.close(other, ErrorCode.INTERNAL, "")
    two.run(1.0)
    assert two.fra.told("lost") == [(leg, ErrorCode.INTERNAL)]
    two.fra.dial("iad-1")
    two.run(1.0)
    assert len(two.fra.told("trunk")) == 2


def test_thirty_silent_seconds_end_a_connection_and_pings_keep_it(two: Two) -> None:
    leg, _ = two.met()
    for _ in range(8):
        two.fra.endpoint.send_datagram(leg, PING)
        two.run(5.0)
    assert two.fra.told("lost") == []
    two.run(31.0)
    assert [fact[0] for fact in two.fra.told("lost")] == [leg]


class Meeting(Station):
    """A station where the machine of a meeting says what the engine would."""

    def trunk_opened(self, leg: int, key: bytes | None, largest: int) -> None:
        super().trunk_opened(leg, key, largest)
        seed = SEEDS[self.node]
        own = Identity(
            node=self.node,
            cluster="demo",
            region="eu",
            version="1",
            variants=("control",),
            boot=seed[:8],
            seed=seed,
        )
        pins = {node: (pin(node),) for node in SEEDS}
        asked = {"dialed": "iad-1"} if key is not None else {"nonce": bytes(range(32))}
        self.greeting = Greeting(own, pins, self.sky.now, **asked)  # type: ignore[arg-type]  # settings by name
        self.reader = control.FrameReader()
        self.answer(leg, self.greeting.on_connected(key, 0))

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        for raw in self.reader.feed(data):
            frame = trunk_control.decode(raw)
            self.answer(leg, self.greeting.on_frame(frame, 0, 1_800_000_000_000))

    def answer(self, leg: int, said: tuple[Said, ...]) -> None:
        for message, id in said:
            self.endpoint.send_stream(leg, control.encode(message, id))
        self.sky.call_soon(self.endpoint.transmit_dirty)


@pytest.mark.parametrize("lane", LANES)
def test_two_nodes_prove_to_each_other_who_they_are(lane: str) -> None:
    sky = Sky()
    fra, iad = Meeting(sky, "fra-1", lane), Meeting(sky, "iad-1", lane)
    fra.dial("iad-1")
    sky.run(1.0)
    assert (fra.greeting.state, iad.greeting.state) == (Stage.MET, Stage.MET)
    assert fra.greeting.peer is not None
    assert iad.greeting.peer is not None
    assert (fra.greeting.peer.node, iad.greeting.peer.node) == ("iad-1", "fra-1")


# ---------------------------------------------------------------- keys, streams


@pytest.mark.parametrize("who", ["fra", "iad"])
def test_either_side_changes_the_keys_and_nothing_is_lost(two: Two, who: str) -> None:
    leg, other = two.met()
    ends = [(two.fra, leg), (two.iad, other)]
    (station, number), (far, far_number) = ends if who == "fra" else reversed(ends)
    quic(station, number).path.update_after = 16  # packets, most of them acknowledgements
    for count in range(400):
        far.endpoint.send_datagram(far_number, PING)
        if count % 10 == 0:
            station.endpoint.send_datagram(number, PING)
        two.run(0.02)
    two.run(0.5)
    updates = quic(station, number).path.key_updates
    assert updates >= 2
    assert quic(far, far_number).path.key_updates == updates
    assert (len(station.told("datagram")), len(far.told("datagram"))) == (400, 40)
    two.fra.say(leg, b"and words")
    two.run(0.1)
    assert two.iad.heard() == b"and words"


def test_a_stream_of_megabytes_arrives_whole_once_both_know_each_other(two: Two) -> None:
    leg, other = two.met()
    two.fra.endpoint.carry(leg)
    two.iad.endpoint.carry(other)
    two.fra.endpoint.transmit_dirty()
    two.iad.endpoint.transmit_dirty()
    two.run(0.5)
    assert quic(two.fra, leg)._remote_max_data >= TRUNK_WINDOW
    data = b"".join(number.to_bytes(4, "big") for number in range(500_000))
    for start in range(0, len(data), 16_384):
        two.fra.say(leg, data[start : start + 16_384])
    two.run(20.0)
    assert two.iad.heard() == data
    assert quic(two.iad, other)._streams[0].max_stream_data_local >= len(data) + TRUNK_STREAM_WINDOW // 2


def test_a_stranger_gets_no_more_window_than_a_leg_and_holds_no_more_here() -> None:
    two = Two()
    leg, _ = two.met()
    assert quic(two.fra, leg)._remote_max_data < 2 * 64 * 1024
    two.is_lost = lambda data: True
    two.fra.endpoint.send_stream(leg, bytes(MAX_BACKLOG))
    assert two.fra.told("lost") == []
    two.fra.endpoint.send_stream(leg, b"one more")
    assert two.fra.told("lost") == [(leg, ErrorCode.OVERLOADED)]


def test_a_known_node_that_does_not_read_is_closed_at_four_megabytes() -> None:
    two = Two()
    leg, _ = two.met()
    two.fra.endpoint.carry(leg)
    two.is_lost = lambda data: True
    two.fra.endpoint.send_stream(leg, bytes(TRUNK_WINDOW))
    assert two.fra.told("lost") == []
    two.fra.endpoint.send_stream(leg, b"one more")
    assert two.fra.told("lost") == [(leg, ErrorCode.OVERLOADED)]


def test_only_a_trunk_is_carried() -> None:
    net = Network()
    Client(net, 1001)
    net.run(1.0)
    net.endpoint.carry(1)
    net.endpoint.carry(99)
    assert net.endpoint._by_leg[1].most_backlog == MAX_BACKLOG


# ---------------------------------------------------------------- what it is not


def test_a_trunk_is_not_kept_for_a_process_after_a_crash(two: Two) -> None:
    keep = Keep.make(16, 16)
    two.fra.lane.use_marks(keep.fd, keep.count)
    two.fra.endpoint.keep = keep
    two.met()
    assert list(Keep.of(keep.fd).legs()) == []
    assert keep.full == 0
    os.close(keep.fd)


@pytest.mark.parametrize("generation", [0, 1])
def test_ids_of_a_dialed_connection_say_whose_generation_answers_are(generation: int) -> None:
    two = Two(generation=generation)
    leg = two.iad.dial("fra-1")
    two.run(1.0)
    ids = quic(two.iad, leg).host_ids
    assert len(ids) == 4
    assert {cid[-1] & 1 for cid in ids} == {generation}


class Stranger(Client):
    """A stock client with protocols and a version of its choice."""

    def __init__(self, network: Network, port: int, protocols: list[str], version: int | None = None) -> None:
        self.network = network
        self.addr = ("192.0.2.1", port)
        network.clients[self.addr] = self
        self.got: list[bytes] = []
        self.stream = b""
        self.ends: list[int] = []
        self.armed: float | None = None
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=protocols,
                verify_mode=ssl.CERT_NONE,
                max_datagram_frame_size=1200,
                original_version=version,
            )
        )
        self.quic.connect(SERVER, now=network.now)
        self.flush()

    def hear(self, event: Any) -> None:
        super().hear(event)
        if isinstance(event, ConnectionTerminated):
            self.ends.append(event.error_code)

    def shown(self) -> bytes:
        """Pin of the certificate that it was shown."""
        certificate = self.quic.tls._peer_certificate
        assert certificate is not None
        return pin_of(certificate)


class TrunkNetwork(Network):
    """The endpoint of quicnet.py, told of trunks."""

    def __init__(self, has_trunks: bool, lane: str = "python") -> None:
        super().__init__(lane=lane)
        if has_trunks:
            self.endpoint.trunks = Trunks(SEEDS["iad-1"], fars())

    def trunk_opened(self, leg: int, key: bytes | None, largest: int) -> None:
        self.facts.append(("trunk", leg, key))


def test_a_stock_client_that_offers_trunks_protocol_to_a_node_without_is_refused() -> None:
    net = TrunkNetwork(has_trunks=False)
    client = Stranger(net, 1001, [ALPN])
    net.run(2.0)
    assert client.ends == [NO_PROTOCOL]
    assert net.facts == []


def test_the_nodes_key_is_shown_for_trunks_alone_and_clients_keep_their_certificate() -> None:
    net = TrunkNetwork(has_trunks=True)
    trunk, person, both = (
        Stranger(net, 2001, [ALPN]),
        Stranger(net, 2002, ["vrl/1"]),
        Stranger(net, 2003, [ALPN, "vrl/1"]),
    )
    net.run(1.0)
    assert trunk.shown() == pin("iad-1")
    assert person.shown() == both.shown() != pin("iad-1")
    assert both.quic.tls.alpn_negotiated == "vrl/1"
    assert len(net.told("trunk")) == 1


def test_no_trunk_is_spoken_on_version_two() -> None:
    net = TrunkNetwork(has_trunks=True)
    second = Stranger(net, 2001, [ALPN], QuicProtocolVersion.VERSION_2)
    person = Stranger(net, 2002, ["vrl/1"], QuicProtocolVersion.VERSION_2)
    net.run(2.0)
    assert second.ends == [NO_PROTOCOL]
    assert person.ends == []
    assert net.told("trunk") == []


# ---------------------------------------------------------------- which socket


def bound(text: str) -> socket.socket:
    (sock,) = udp.bind(text, ListenConfig(receive_buffer=65_536, send_buffer=65_536))
    return sock


def test_the_first_socket_that_gets_there_is_taken_and_spells_the_address() -> None:
    v4, v6, loopback, dual = map(bound, ("0.0.0.0:0", "[::1]:0", "127.0.0.1:0", "[::]:0"))
    with v4, v6, loopback, dual:
        there = Address("192.0.2.1", 443)
        assert way_to(there, [loopback, v6, v4]) == (2, ("192.0.2.1", 443))
        assert way_to(there, [v6, dual]) == (1, ("::ffff:192.0.2.1", 443, 0, 0))
        assert way_to(there, [loopback, v6]) is None
        assert way_to(Address("2001:db8::1", 443), [v4, dual]) == (1, ("2001:db8::1", 443, 0, 0))
        assert way_to(Address("2001:db8::1", 443), [v4]) is None
        assert way_to(Address("127.0.0.1", 9), [v6, loopback]) == (1, ("127.0.0.1", 9))
    only_v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with only_v6:
        only_v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        only_v6.bind(("::", 0))
        assert way_to(Address("192.0.2.1", 443), [only_v6]) is None


def test_the_configured_nodes_are_dialed_and_not_ourselves() -> None:
    rows = tuple(
        TrunkNode(node, address, (pin(node).hex(),))
        for node, address in (("fra-1", "192.0.2.10:443"), ("iad-1", "[2001:db8::20]:443"))
    )
    trunks = Trunks.of(TrunksConfig("/key", rows), "fra-1", SEEDS["fra-1"])
    with bound("[::]:0") as sock:
        assert trunks.begin("fra-1", [sock]) is None
        assert trunks.begin("iad-1", [sock]) == (0, ("2001:db8::20", 443, 0, 0))
        assert trunks.begin("iad-1", [sock]) is None
        trunks.done("iad-1")
        assert trunks.begin("iad-1", []) is None
        assert trunks.begin("iad-1", [sock]) is not None


def test_a_node_tells_of_itself_what_is_configured() -> None:
    rows = (TrunkNode("iad-1", "192.0.2.20:443", (pin("iad-1").hex(), pin("sin-1").hex())),)
    config = Config(
        node=NodeConfig(id="fra-1", cluster="demo", region="eu"), trunks=TrunksConfig("/key", rows)
    )
    told = identity_of(config, SEEDS["fra-1"], b"booted!!")
    assert (told.node, told.cluster, told.region) == ("fra-1", "demo", "eu")
    assert (told.version, told.variants, told.boot) == (__version__, ("control",), b"booted!!")
    assert told.public == FRA_KEY
    assert pins_of(config.trunks) == {"iad-1": (pin("iad-1"), pin("sin-1"))}


# ---------------------------------------------------------------- the driver


class Recorder:
    """In the engine's place: notes what it is told, and says what the test wants."""

    def __init__(self) -> None:
        self.told: list[ev.Input] = []
        self.orders: deque[ev.Output] = deque()

    def handle(self, event: ev.Input, now: float, wall: float) -> None:
        self.told.append(event)

    def poll(self) -> ev.Output | None:
        return self.orders.popleft() if self.orders else None

    def next_deadline(self) -> float | None:
        return None

    def due(self, now: float) -> list[int]:
        return []


class Driven(Two):
    """fra-1 has a driver and an engine that records."""

    def __init__(self, lane: str) -> None:
        super().__init__(lane)
        self.engine = Recorder()
        station = self.fra
        self.driver = Driver(
            self,
            cast(Relay, self.engine),
            station.endpoint,
            station.lane,
            cast(Sinks, _Nobody()),
            clock=lambda: self.now,
            wall=lambda: 1_800_000_000.0 + self.now,
        )
        station.endpoint.attach(self.driver)

    def order(self, *orders: ev.Output) -> list[ev.Input]:
        """Have the engine say this now; what it was told since, but for what made it speak."""
        start = len(self.engine.told) + 1
        self.engine.orders.extend(orders)
        self.driver.feed(ev.Tick())
        return self.engine.told[start:]

    def look(self) -> list[ev.Input]:
        """What five looks a second tell."""
        start = len(self.engine.told)
        for _ in self.driver.report_trunks():
            pass
        for _ in self.driver.report_heard():
            pass
        return self.engine.told[start:]


class _Nobody:
    """Sinks for news that nobody makes."""

    def record(self, record: ev.CallRecord) -> None: ...
    def rated(self, rated: ev.Rated) -> None: ...
    def event(self, event: ev.CallEvent) -> None: ...
    def stopped(self) -> None: ...


@pytest.fixture(params=LANES)
def driven(request: pytest.FixtureRequest) -> Driven:
    return Driven(request.param)


def test_an_order_to_dial_is_answered_before_anything_else_and_then_the_trunk_opens(driven: Driven) -> None:
    told = driven.order(ev.DialTrunk("iad-1"))
    assert isinstance(told[0], ev.TrunkDialed)
    leg = told[0].leg
    assert told == [ev.TrunkDialed("iad-1", leg)]
    driven.run(1.0)
    assert driven.engine.told[-1] == ev.TrunkOpened(leg, IAD_KEY, LARGEST)
    assert driven.order(ev.DialTrunk("nobody")) == []


def test_words_and_datagrams_of_a_trunk_are_those_of_a_leg(driven: Driven) -> None:
    leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
    driven.run(1.0)
    other = driven.iad.told("trunk")[0][0]
    driven.order(ev.SendStream(leg, b"ping"), ev.SendDatagram(leg, PING))
    driven.run(0.2)
    assert driven.iad.told("stream") == [(other, b"ping")]
    assert driven.iad.told("datagram") == [(other, PING)]
    driven.iad.say(other, b"challenge")
    driven.iad.endpoint.send_datagram(other, b"\0\x02")
    driven.run(0.2)
    assert ev.StreamReceived(leg, b"challenge") in driven.engine.told
    assert ev.DatagramReceived(leg, b"\0\x02") in driven.engine.told
    driven.order(ev.CloseLeg(leg, TrunkCode.GLARE))
    driven.run(0.2)
    assert driven.iad.told("lost") == [(other, TrunkCode.GLARE)]
    assert ev.LegLost(leg, TrunkCode.GLARE) in driven.engine.told


def test_a_dialed_connection_can_be_closed_before_it_is_there(driven: Driven) -> None:
    leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
    assert driven.order(ev.CloseLeg(leg, ErrorCode.NO_ERROR)) == [ev.LegLost(leg, ErrorCode.NO_ERROR)]
    driven.run(2.0)
    assert not [event for event in driven.engine.told if isinstance(event, ev.TrunkOpened)]
    assert driven.order(ev.DialTrunk("iad-1")) != []


def test_what_was_acknowledged_is_told_once_with_the_round_trip(driven: Driven) -> None:
    leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
    assert driven.look() == []
    driven.run(1.0)
    driven.look()  # of the handshake
    driven.run(0.2)
    assert driven.look() == []
    for order in (ev.SendDatagram(leg, PING), ev.SendStream(leg, b"ping")):
        driven.order(order)
        assert driven.look() == []
        driven.run(0.2)
        (told,) = driven.look()
        assert isinstance(told, ev.TrunkAcknowledged)
        assert list(told.of) == [leg]
        assert 0.005 < told.of[leg] < 0.2
        driven.run(0.2)
        assert driven.look() == []
    driven.is_lost = lambda data: True
    driven.order(ev.SendDatagram(leg, PING), ev.SendStream(leg, b"ping"))
    driven.run(1.0)
    assert driven.look() == []


def test_a_lossy_trunk_is_nobodys_listener_to_look_after(driven: Driven) -> None:
    leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
    driven.run(1.0)
    driven.is_lost = lambda data: True
    for _ in range(20):
        driven.order(ev.SendDatagram(leg, PING))
        driven.run(0.1)
    driven.is_lost = lambda data: False
    for _ in range(20):
        driven.order(ev.SendDatagram(leg, PING))
        driven.run(0.1)
    assert driven.fra.lane.measure([leg], driven.now)[0].lost > 0
    assert {type(told) for told in driven.look()} == {ev.TrunkAcknowledged}


def test_what_came_by_a_trunk_is_told_a_report_at_a_step_with_how_its_packets_fared(driven: Driven) -> None:
    assert list(driven.driver.report_routes()) == []
    leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
    assert list(driven.driver.report_routes()) == []  # it is not there yet
    driven.run(1.0)
    lane = driven.fra.lane
    lane.open_leg(50, pps=50, up_bps=10**6, down_bps=10**6)
    driven.order(ev.CarryTrunk(leg))
    routes = (*range(64, 64 + 81), 16383)
    head = media.encode_header(4, 0, 7)
    for route in routes:
        driven.order(
            ev.OpenRoute(leg, route, 0, group=False, up_bps=10**6, pps=50), ev.Route(leg, route, ((50, 9),))
        )
        assert lane.deliver(leg, trunk.from_leg(head + bytes(60), route), driven.now) is None
    start = len(driven.engine.told)
    steps = sum(1 for _ in driven.driver.report_routes())
    told = [event for event in driven.engine.told[start:] if isinstance(event, ev.TrunkCounted)]
    assert [len(event.routes) for event in told] == [80, 2]
    assert tuple(line.route for event in told for line in event.routes) == routes
    assert {(line.newest, line.came) for event in told for line in event.routes} == {(7, 1)}
    measured = lane.measure([leg], driven.now)[0]
    assert steps == 2
    assert {(event.leg, event.acked, event.lost) for event in told} == {(leg, measured.acked, measured.lost)}
    for _ in driven.driver.report_routes():
        assert driven.engine.told[-1] == ev.TrunkCounted(leg, measured.acked, measured.lost, [])


def test_a_trunk_that_is_carried_takes_more_at_once(driven: Driven) -> None:
    leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
    driven.run(1.0)
    driven.fra.endpoint.carry(leg)
    driven.order(ev.SendStream(leg, bytes(2 * MAX_BACKLOG)))
    driven.run(0.1)
    assert not [event for event in driven.engine.told if isinstance(event, ev.LegLost)]


@pytest.mark.parametrize("lane", LANES)
def test_a_node_that_is_configured_with_a_key_is_known_by_it(lane: str) -> None:
    two = Two()
    rows = (TrunkNode("iad-1", "192.0.2.20:443", (pin("iad-1").hex(),)),)
    config = Config(lane=lane, node=NodeConfig(id="fra-1"), trunks=TrunksConfig("/key", rows))
    keys = NodeKeys.of([ClusterKey(bytes(32))], config, (), SEEDS["fra-1"])
    node = Node(
        config,
        keys,
        shared_configuration(),
        two,
        _Nobody(),
        clock=lambda: two.now,
        wall=lambda: 1_800_000_000.0 + two.now,
    )
    node.endpoint.attach_socket(cast(socket.socket, two.fra))
    two.fra.endpoint = node.endpoint
    leg = two.iad.dial("fra-1")
    two.run(1.0)
    assert two.iad.told("trunk") == [(leg, FRA_KEY, LARGEST)]
    assert node.endpoint.dial("iad-1") is not None
    assert node.driver.internal_errors == 0
    assert "trunk=" not in repr(keys)


# ---------------------------------------------------------------- real sockets


class Real:
    """A node on loopback under a real loop, with the lane's own threads where it has some."""

    def __init__(self, node: str, lane: str) -> None:
        loop = asyncio.get_running_loop()
        server_id = bytes((0, sorted(SEEDS).index(node) + 1, 0))
        codec = CidCodec(b"k" * 16, server_id)
        ids = ConnectionIds(codec, b"r" * 32, 0)
        limits = LimitsConfig()
        self.lane = make_lane(lane, limits)
        self.endpoint = Endpoint(
            loop,
            limits,
            shared_configuration(),
            front=Front(
                limits,
                tokens=AddressTokens([bytes(32)], 10.0, lambda size: bytes(size)),
                ids=codec,
                server_id=server_id,
                reset_token=ids.reset_token,
                draw=lambda size: bytes(size),
            ),
            issue=ids.issue,
            lane=self.lane,
        )
        self.endpoint.attach(cast(Any, self))
        self.sock = bound("127.0.0.1:0")
        self.place = Address(*self.sock.getsockname())
        self.reader: Any
        if lane == "native":
            from relay.edge.threads import LaneThreads

            self.reader = LaneThreads(loop, cast(Any, self.lane), self.endpoint, Places([[self.sock]]))
        else:
            self.reader = udp.Reader(loop, self.sock, self.endpoint, 0.001)
        self.reader.start()
        self.trunks: list[int] = []
        self.keys: list[bytes | None] = []
        self.words: list[bytes] = []
        self.datagrams: list[bytes] = []
        self.ends: list[int] = []

    def trunk_opened(self, leg: int, key: bytes | None, largest: int) -> None:
        self.trunks.append(leg)
        self.keys.append(key)

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        self.words.append(data)

    def datagram(self, leg: int, data: bytes) -> None:
        self.datagrams.append(data)

    def lost(self, leg: int, code: int) -> None:
        self.ends.append(code)
        self.lane.close_leg(leg)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for it, half a minute at most."""
    end = time.monotonic() + 30.0
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("lane", LANES)
async def test_two_nodes_meet_and_talk_over_real_sockets(lane: str) -> None:
    fra, iad = Real("fra-1", lane), Real("iad-1", lane)
    try:
        for one, name, far, far_name in ((fra, "fra-1", iad, "iad-1"), (iad, "iad-1", fra, "fra-1")):
            one.endpoint.trunks = Trunks(SEEDS[name], {far_name: Far(far.place, frozenset({pin(far_name)}))})
        assert fra.endpoint.dial("iad-1") is not None
        fra.endpoint.transmit_dirty()
        await until(lambda: bool(fra.trunks and iad.trunks))
        leg, other = fra.trunks[0], iad.trunks[0]
        fra.endpoint.carry(leg)
        iad.endpoint.carry(other)
        data = bytes(range(256)) * 2000
        fra.endpoint.send_stream(leg, data)
        fra.endpoint.transmit_dirty()
        iad.endpoint.transmit_dirty()
        await until(lambda: sum(map(len, iad.words)) >= len(data))
        assert b"".join(iad.words) == data
        iad.endpoint.send_datagram(other, PING)
        await until(lambda: fra.datagrams == [PING])
        iad.endpoint.close(other, TrunkCode.GLARE, "")
        await until(lambda: fra.ends == [TrunkCode.GLARE])
    finally:
        fra.reader.close()
        iad.reader.close()


@pytest.mark.parametrize("lane", LANES)
async def test_the_daemon_as_it_is_shipped_can_be_dialed_and_shows_its_key(lane: str, tmp_path: Path) -> None:
    key = tmp_path / "trunk.key"
    key.write_text(write_key(SEEDS["fra-1"]))
    key.chmod(0o600)
    row = f'{{ node = "iad-1", address = "192.0.2.20:443", pins = ["{pin("iad-1").hex()}"] }}'
    iad = Real("iad-1", "python")
    try:
        with daemon(tmp_path, lane, more=f'[trunks]\nkey = "{key}"\nnodes = [{row}]') as rig:
            place = Address("127.0.0.1", int(rig.url.rpartition(":")[2]))
            far = {"relay-1": Far(place, frozenset({pin("fra-1")}))}
            iad.endpoint.trunks = Trunks(SEEDS["iad-1"], far)
            assert iad.endpoint.dial("relay-1") is not None
            iad.endpoint.transmit_dirty()
            await until(lambda: bool(iad.trunks))
            assert iad.keys == [FRA_KEY]
            assert rig.metric("relay_handshakes_total") == 1
    finally:
        iad.reader.close()


# ---------------------------------------------------------------- two paths


def test_the_second_address_is_dialed_beside_the_first_and_from_the_last_socket_that_gets_there() -> None:
    far = Far(Address("192.0.2.20", 443), frozenset({pin("iad-1")}), Address("198.51.100.20", 443))
    trunks = Trunks(SEEDS["fra-1"], {"iad-1": far})
    sockets = []
    try:
        for host in ("127.0.0.1", "0.0.0.0", "0.0.0.0"):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(sock)
            sock.bind((host, 0))
        assert trunks.begin("iad-1", sockets) == (1, ("192.0.2.20", 443))
        assert trunks.begin("iad-1", sockets, second=True) == (2, ("198.51.100.20", 443))
        assert trunks.begin("iad-1", sockets, second=True) is None
        trunks.done("iad-1", second=True)
        assert trunks.begin("iad-1", sockets) is None
        assert trunks.begin("iad-1", sockets, second=True) is not None
    finally:
        for sock in sockets:
            sock.close()


def test_a_node_without_a_second_address_is_not_dialed_by_it(driven: Driven) -> None:
    assert driven.order(ev.DialTrunk("iad-1", True)) == []
    assert driven.order(ev.DialTrunk("iad-1")) != []


def test_the_lane_keeps_a_trunk_as_long_as_one_of_its_connections_is_there(driven: Driven) -> None:
    legs = []
    for _ in range(2):
        leg = cast(ev.TrunkDialed, driven.order(ev.DialTrunk("iad-1"))[0]).leg
        driven.run(1.0)
        legs.append(leg)
    first, second = legs
    driven.order(ev.CarryTrunk(first), ev.CarryTrunk(second, first, True))
    driven.order(ev.OpenRoute(first, 64, index=0, group=False, up_bps=64_000, pps=50))
    lane = driven.fra.lane
    driven.order(ev.CloseLeg(first, TrunkCode.GLARE))
    driven.run(2.0)
    lane.route(first, 64, [], DropReason.MUTED)
    assert lane.deliver(second, CARRIED, driven.now) is DropReason.MUTED
    driven.order(ev.CloseLeg(second, TrunkCode.GLARE))
    driven.run(2.0)
    with pytest.raises(LocalError):
        lane.route(first, 64, [], DropReason.MUTED)
