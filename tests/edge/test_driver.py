"""The whole node over real QUIC, on simulated time: engine, lane, endpoint and driver with stock clients."""

from __future__ import annotations

import random
import socket
from dataclasses import replace
from typing import Any, cast

import pytest

from impair import Link, Net, Outages
from lanes import LANES
from quicnet import Client as QuicClient
from quicnet import Network
from quicpair import shared_configuration
from relay.config import Config, IssuerConfig, NodeConfig, TokenConfig
from relay.config_turn import RelayAddress, TurnConfig
from relay.config_voice import AdaptConfig
from relay.core import credentials
from relay.core import events as ev
from relay.edge.assembly import Node, NodeKeys
from relay.errors import ErrorCode
from relay.protocol import command, control, media, signed, token
from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.keys import ClusterKey

ISSUER = bytes(range(32))
CID = CallId(bytes(range(16)))
SPOKEN = 750  # packets


class World(Network):
    """A node in place of the bare endpoint; its sinks keep what they are told."""

    def __init__(self, config: Config | None = None, lane: str = "python") -> None:
        super().__init__()
        config = config or Config(
            node=NodeConfig(cluster="relay-test"),
            tokens=TokenConfig(issuers=(IssuerConfig("app", signed.public_of(ISSUER).hex()),)),
            adapt=AdaptConfig(enabled=True),
        )
        self.config = replace(config, lane=lane)
        self.keys = NodeKeys.of([ClusterKey(bytes(32))], self.config)
        self.records: list[ev.CallRecord] = []
        self.ratings: list[ev.Rated] = []
        self.news: list[ev.CallEvent] = []
        self.has_stopped = False
        self.rng = random.Random(9)
        self.node = Node(
            self.config,
            self.keys,
            shared_configuration(),
            self,
            self,
            clock=lambda: self.now,
            wall=self.wall,
            draw=self.rng.randbytes,
        )
        self.endpoint, self.lane = self.node.endpoint, self.node.lane
        self.endpoint.attach_socket(cast(socket.socket, self))
        self._beat()

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now

    def _beat(self) -> None:
        for _ in self.node.driver.report_heard():
            pass
        self.call_at(self.now + 1.0, self._beat)

    def record(self, record: ev.CallRecord) -> None:
        self.records.append(record)

    def rated(self, rated: ev.Rated) -> None:
        self.ratings.append(rated)

    def event(self, event: ev.CallEvent) -> None:
        self.news.append(event)

    def stopped(self) -> None:
        self.has_stopped = True


class Person(QuicClient):
    """A stock QUIC client that speaks the control protocol by hand."""

    def __init__(self, world: World, port: int, cid: CallId = CID, people: int = 2) -> None:
        super().__init__(world, port)
        self.people = people
        self.world = world
        self.cid = cid
        now = int(world.wall())
        self.sub = Sub(world.rng.randbytes(16))
        claims = token.Claims(
            iss="app",
            aud="relay-test",
            sub=self.sub,
            cid=cid,
            iat=now,
            nbf=now,
            exp=now + 120,
            jti=Jti(world.rng.randbytes(16)),
            lim=(512, 512, 500, people),
            age=token.AGE_ADULT,
            ctc=1,
            prm=token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E | token.MAY_TURN,
        )
        self.ids = 0
        self._reader = control.FrameReader()
        self._read = 0
        self.messages: list[control.Message] = []
        self.claims = claims
        self.say_message(self.hello())
        world.run(0.5)

    def hello(self) -> control.Hello:
        return control.Hello(tok=token.mint(self.claims, ISSUER))

    def say_message(self, message: control.Message) -> None:
        self.ids += 1
        self.write(control.encode(message, self.ids))

    def ask(self, message: control.Message) -> None:
        self.say_message(message)
        self.world.run(0.1)

    def all(self, kind: type[Any]) -> list[Any]:
        for raw in self._reader.feed(self.stream[self._read :]):
            body = control.decode(raw).body
            assert body is not None
            self.messages.append(body)
        self._read = len(self.stream)
        return [message for message in self.messages if isinstance(message, kind)]

    def join(self) -> control.Joined:
        self.ask(control.Join(c=self.cid))
        joined: control.Joined = self.all(control.Joined)[-1]
        return joined

    def media(self, ctr: int) -> bytes:
        joined = self.all(control.Joined)[-1]
        head = media.encode_header(joined.up, media.kid_of(joined.p, 0, self.people > 2), ctr)
        return head + bytes(100 - len(head))


@pytest.fixture(params=LANES)
def world(request: pytest.FixtureRequest) -> World:
    return World(lane=request.param)


def in_call(world: World) -> tuple[Person, Person]:
    ann, bob = Person(world, 1001), Person(world, 1002)
    for person in (ann, bob):
        person.join()
    for person in (ann, bob):
        person.ask(control.Accept(c=CID))
    return ann, bob


def test_nothing_passes_before_both_accepted_and_everything_after(world: World) -> None:
    ann, bob = Person(world, 1001), Person(world, 1002)
    ann.join()
    bob.join()
    ann.say(ann.media(0))
    world.run(0.1)
    ann.ask(control.Accept(c=CID))
    ann.say(ann.media(1))
    world.run(0.1)
    assert bob.got == []
    assert world.lane.counters.dropped[ev.DropReason.GATE_CLOSED] == 2
    bob.ask(control.Accept(c=CID))
    for ctr in range(2, 52):
        ann.say(ann.media(ctr))
        world.run(0.02)
    world.run(0.1)
    assert [media.decode(data).ctr for data in bob.got] == list(range(2, 52))


def test_a_hang_up_ends_the_call_for_both_and_writes_one_record(world: World) -> None:
    ann, bob = in_call(world)
    ann.say(ann.media(0))
    world.run(0.1)
    ann.ask(control.Hangup(c=CID))
    assert bob.all(control.Ended)[-1].why == "completed"
    assert [record.outcome for record in world.records] == ["completed"]
    assert sum(person.received for person in world.records[0].participants) == 1
    bob.say(bob.media(0))
    world.run(0.1)
    assert ann.got == []


def with_turn() -> World:
    turn = TurnConfig(enabled=True, addresses=(RelayAddress(bind="9.9.9.9"),), urls=("turn:x",))
    issuers = (IssuerConfig("app", signed.public_of(ISSUER).hex()),)
    return World(
        Config(node=NodeConfig(cluster="relay-test"), tokens=TokenConfig(issuers=issuers), turn=turn)
    )


def test_a_person_gets_turn_credentials_and_the_turn_engine_hears_of_the_calls_changes() -> None:
    world = with_turn()
    ann, bob = in_call(world)
    heard: list[ev.CompanyChanged] = []
    world.node.driver.on_company = heard.append
    bob.ask(control.Mute(c=CID, on=True))  # nobody uses TURN yet
    ann.ask(control.Turn())
    told = ann.all(control.Turn)[-1]
    expiry, _, id = told.user.partition(":")
    assert credentials.mint(id, int(expiry), world.keys.turn().rest[0]) == (told.user, told.password)
    assert heard == []
    bob.ask(control.Hangup(c=CID))
    assert heard[0].call == CID
    assert world.node.driver.internal_errors == 0


def test_a_change_of_company_that_no_turn_engine_waits_for_is_no_error() -> None:
    world = with_turn()
    ann, _ = in_call(world)
    ann.ask(control.Turn())
    ann.ask(control.Hangup(c=CID))
    assert world.node.driver.internal_errors == 0


def test_mute_holds_at_the_relay_before_it_is_confirmed(world: World) -> None:
    ann, bob = in_call(world)
    ann.ask(control.Mute(c=CID, on=True))
    ann.say(ann.media(0))
    world.run(0.1)
    assert bob.got == []
    assert world.lane.counters.dropped[ev.DropReason.MUTED] == 1


def test_a_vanished_person_is_away_and_its_leg_is_let_go(world: World) -> None:
    ann, bob = in_call(world)
    world.clients.pop(bob.addr)
    bob.armed = None
    for _ in range(40):
        ann.say(b"\0\0")
        world.run(1.0)
    assert [peer.ev for peer in ann.all(control.Peer)][-1] == "away"
    assert len(world.endpoint) == 1
    world.run(100.0)
    assert len(world.records) == 1


def test_a_signed_command_ends_a_call_at_once(world: World) -> None:
    ann, _ = in_call(world)
    now = int(world.wall())
    order = command.Command(op="end", cid=CID, id=Jti(world.rng.randbytes(16)), iat=now, exp=now + 60)
    answers: list[tuple[ErrorCode, str]] = []
    world.node.driver.command(command.mint(order, ISSUER), lambda *answer: answers.append(answer))
    assert answers[0][0] is ErrorCode.NO_ERROR
    world.run(0.1)
    assert ann.all(control.Ended)
    world.node.driver.command(command.mint(order, ISSUER), lambda *answer: answers.append(answer))
    assert answers[1][0] is not ErrorCode.NO_ERROR


def test_a_client_that_says_nonsense_is_closed_with_its_code(world: World) -> None:
    person = Person(world, 1001)
    person.write(b"\xff\xff\xff")
    world.run(0.5)
    assert person.quic._close_event is not None
    assert person.quic._close_event.error_code == ErrorCode.TOO_LARGE
    world.run(5.0)
    assert len(world.endpoint) == 0


def test_a_drained_node_stops_when_its_people_are_gone(world: World) -> None:
    ann, _ = in_call(world)
    world.node.driver.feed(ev.DrainRequested())
    world.run(0.1)
    assert world.node.engine.is_draining
    ann.ask(control.Hangup(c=CID))
    world.run(120.0)
    assert world.has_stopped


def test_a_reload_leaves_running_calls_untouched(world: World) -> None:
    ann, bob = in_call(world)
    world.node.configure(world.config, world.keys, shared_configuration())
    ann.say(ann.media(0))
    world.run(0.1)
    assert len(bob.got) == 1


def test_who_stops_the_control_stream_is_closed_and_nobody_else(world: World) -> None:
    ann, bob = in_call(world)
    bob.quic.stop_stream(0, 1)
    bob.flush()
    world.run(0.2)
    ann.ask(control.Mute(c=CID, on=True))
    world.run(0.2)
    assert ann.quic._close_event is None
    assert bob.quic._close_event is not None
    assert bob.quic._close_event.error_code == ErrorCode.PROTOCOL_VIOLATION
    assert world.node.driver.internal_errors == 0


def test_a_bug_in_the_engine_costs_the_leg_that_met_it(world: World) -> None:
    ann, bob = in_call(world)
    handle = world.node.engine.handle

    def explode(event: ev.Input, now: float, wall: float) -> None:
        if isinstance(event, ev.StreamReceived) and event.leg == 1:
            raise ZeroDivisionError
        handle(event, now, wall)

    world.node.engine.handle = explode  # type: ignore[method-assign]  # a bug that we do not have
    ann.write(b"\0")
    world.run(0.5)
    assert world.node.driver.internal_errors == 1
    assert ann.quic._close_event is not None
    assert ann.quic._close_event.error_code == ErrorCode.INTERNAL
    assert bob.all(control.Peer)[-1].ev == "away"


def measure(world: World, *, adapts: bool = True) -> None:
    for _ in world.node.driver.measure_ways(adapts=adapts):
        pass


def test_a_leg_that_suffers_nothing_is_never_measured_and_kept_for(world: World) -> None:
    ann, bob = in_call(world)
    measured: list[ev.Measured] = []
    handle = world.node.engine._adapting.on_measured
    world.node.engine._inputs[ev.Measured] = lambda event: (measured.append(event), handle(event))
    for ctr in range(500):
        for person in (ann, bob):
            person.say(person.media(ctr))
        world.run(0.02)
        if ctr % 10 == 9:
            measure(world)
    assert len(ann.got) == len(bob.got) == 500
    assert measured == []
    assert (world.lane.repairs.kept, world.lane.repairs.bytes) == (0, 0)


def test_round_trips_are_told_when_they_are_asked_for(world: World) -> None:
    ann, bob = in_call(world)
    for ctr in range(20):
        ann.say(ann.media(ctr))
        world.run(0.02)
    (leg, *_) = (leg for leg, known in world.node.engine.node.legs.items() if known.index == 1)
    world.node.driver._do[ev.AskRoundTrip](ev.AskRoundTrip(leg))
    measure(world, adapts=False)
    rtt = world.node.engine.node.legs[leg].path_rtt
    assert rtt is not None
    assert 0 < rtt < 1
    assert bob.got


def talk_to_six(lane: str, share: float) -> tuple[World, Person, Person, list[Person]]:
    """15 s of speech; the first listener loses that share of what comes, in outages of 60 ms."""
    world = World(lane=lane)
    speaker, lossy, *others = people = [Person(world, 1001 + n, people=7) for n in range(7)]
    for person in people:
        person.join()
    for person in people:
        person.ask(control.Accept(c=CID))
    world.sent.clear()
    outages = Link(Net(loss=Outages(share, 60.0)), 7) if share else None
    for ctr in range(SPOKEN):
        world.clients[lossy.addr] = lossy
        if outages is not None:
            outages.send(ctr, 200, world.now)
            if not outages.due(world.now):
                del world.clients[lossy.addr]
        speaker.say(speaker.media(ctr))
        world.run(0.02)
        if ctr % 10 == 9:
            measure(world)
    return world, speaker, lossy, others


@pytest.mark.parametrize("lane", LANES)
def test_who_hears_well_hears_the_same_beside_one_who_loses_a_lot(lane: str) -> None:
    calm, calm_speaker, _, before = talk_to_six(lane, 0.0)
    rough, speaker, lossy, others = talk_to_six(lane, 0.15)
    heard = {media.decode(data).ctr for data in lossy.got}
    assert 0.94 * SPOKEN < len(heard) < SPOKEN  # it does lose, and is repaired
    assert rough.lane.repairs.beside > 0.1 * SPOKEN
    assert [other.got for other in others] == [other.got for other in before]
    assert [len(other.got) for other in others] == [SPOKEN] * 5
    sizes = [
        sum(len(data) for data, addr in world.sent if addr in {one.addr for one in people})
        for world, people in ((calm, before), (rough, others))
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert speaker.all(control.Rate) == calm_speaker.all(control.Rate)


def test_a_way_that_loses_packets_in_a_row_is_repaired_and_nothing_leaves_twice_before(world: World) -> None:
    ann, bob = in_call(world)
    sent = 0
    for ctr in range(1000):
        is_deaf = ctr >= 250 and ctr % 20 in (4, 5)  # a tenth, two in a row
        world.clients.pop(bob.addr, None)
        if not is_deaf:
            world.clients[bob.addr] = bob
        ann.say(ann.media(ctr))
        world.run(0.02)
        if ctr == 249:
            sent = world.lane.repairs.beside + world.lane.repairs.alone
        if ctr % 10 == 9:
            measure(world)
    assert sent == 0  # nothing was lost
    headers = [media.decode(data) for data in bob.got]
    heard = {header.ctr for header in headers}
    missed = [ctr for ctr in range(300, 990) if ctr not in heard]
    assert missed == []
    assert sum(header.repeat for header in headers) >= 70
    assert 70 <= world.lane.repairs.beside <= 160
    assert world.lane.repairs.imbalance() == 0
    assert [stats.mp for stats in bob.all(control.LegStats)] == [world.config.adapt.playout_ms]
    assert ann.all(control.LegStats) == []


def test_a_fresh_call_has_audio_as_soon_as_both_are_heard_whichever_lane_carries_it(world: World) -> None:
    people = in_call(world)
    for one in people:
        one.say(one.media(0))
    world.run(0.2)
    assert len(list(world.node.driver.report_flowing())) == 1
    vitals = world.node.engine.vitals
    assert vitals.counted["setup_fail"] == [0, 1]
    assert vitals.first_audio["caller"].total == vitals.first_audio["callee"].total == 1
    assert world.lane.residence.total == 2
    world.run(12.0)
    assert list(world.node.driver.report_flowing()) == []
