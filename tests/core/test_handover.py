"""What a node tells another of a call, and what it believes."""

import dataclasses

import pytest

from pair import ISSUER, TICKET_KEY, Client, World, config
from relay.config import NodeConfig
from relay.core import events as ev
from relay.core import handover as telling
from relay.core.call import Call
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, handover, token
from relay.protocol.ids import Sub


@pytest.fixture
def world() -> World:
    return World()


def call_of(world: World, one: Client) -> Call:
    return world.engine.node.calls[one.cid]


def described(world: World, one: Client) -> handover.HandedCall:
    return telling.describe(world.engine.node, call_of(world, one), one.index)


def test_a_ticket_reads_as_what_was_described(world):
    ann, bob = world.talking()
    blob = telling.seal(world.engine.node, call_of(world, ann), call_of(world, ann).seats[1])
    body = telling.read(world.engine.node, blob)
    assert body.bearer.claims.sub == bob.sub
    assert [seat.state for seat in body.seats] == [handover.ACCEPTED, handover.ACCEPTED]
    nobody = telling.read(world.engine.node, telling.seal(world.engine.node, call_of(world, ann), None))
    assert nobody.bearer is None
    assert nobody.made > body.made, "the younger of two counts"


def test_silence_is_told_with_its_age(world):
    ann, bob = world.talking()
    world.run(10, (ann, bob))
    bob.lose()
    world.run(7, (ann,))
    world.feed(ev.Tick())
    assert [(seat.state, seat.since) for seat in described(world, ann).seats] == [
        (handover.ACCEPTED, 0),
        (handover.AWAY, 7000),
    ]


def test_who_moved_is_away_and_who_moved_while_ringing_is_absent(world):
    ann, bob = world.talking()
    bob.ask(control.Moved(c=bob.cid, ok=True))
    assert described(world, ann).seats[1].state == handover.AWAY
    eve, dan = world.pair()
    dan.ask(control.Moved(c=dan.cid, ok=True))
    assert described(world, eve).seats[1].state == handover.ABSENT


def test_who_left_and_who_was_thrown_out_are_told_apart(world):
    ids = world.call()
    people = [world.client(ids.token(rol=int(not n), lim=(512, 512, 500, 4))).enter() for n in range(3)]
    people[1].hangup()
    people[0].mod("remove", 2)
    body = described(world, people[0])
    assert [seat.state for seat in body.seats] == [handover.JOINED, handover.LEFT, handover.LEFT]
    assert body.out == (people[2].sub,)


def test_a_call_that_fits_no_ticket_is_told_without_one(world):
    ids = world.call()
    peers = tuple(Sub(bytes([n]) * 16) for n in range(32))
    subs = peers[:32]
    for sub in subs:
        raw = token.mint(ids.claims(sub=sub, peer=peers, lim=(512, 512, 500, 32)), ISSUER)
        last = world.client(raw).enter()
    assert telling.seal(world.engine.node, call_of(world, last), None) is None
    assert world.engine.counters["handover_too_large", ""] == 1


@pytest.mark.parametrize(
    "changes",
    [{"exp": 1_699_999_999}, {"made": 1_700_000_031_000}, {"exp": 1_700_000_500}, {"aud": "relay-other"}],
)
def test_a_ticket_out_of_its_time_or_place_is_unknown(world, changes):
    ann, _ = world.talking()
    body = described(world, ann)
    if "aud" in changes:
        seats = tuple(
            dataclasses.replace(one, claims=dataclasses.replace(one.claims, **changes)) for one in body.seats
        )
        body = dataclasses.replace(body, seats=seats)
    blob = handover.seal(dataclasses.replace(body, **changes), TICKET_KEY, bytes(24))
    with pytest.raises(PeerError) as caught:
        telling.read(world.engine.node, blob)
    assert caught.value.code is ErrorCode.RESUME_UNKNOWN


def test_a_node_of_another_cluster_with_the_same_key_reads_nothing(world):
    ann, _ = world.talking()
    blob = telling.seal(world.engine.node, call_of(world, ann), None)
    other = World(config(node=NodeConfig(cluster="relay-elsewhere")))
    other.run(0)
    with pytest.raises(PeerError):
        telling.read(other.engine.node, blob)


def test_a_ticket_of_a_call_that_stays_names_its_home(world):
    ann, bob = world.talking(home=world.config.node.id)
    call = call_of(world, ann)
    node = world.engine.node
    assert (
        telling.read(node, telling.seal(node, call, call.seats[1], stays=True)).home == world.config.node.id
    )
    assert telling.read(node, telling.seal(node, call, call.seats[1])).home is None
    assert telling.read(node, telling.seal(node, call, None, stays=True)).home is None
    assert bob.index == 1


def test_a_guests_ticket_holds_one_person(world):
    _, bob = world.talking(home=world.config.node.id)
    node = world.engine.node
    body = telling.read(node, telling.seal_visit(node, node.legs[bob.leg]))
    assert (body.p, len(body.seats), body.flags) == (1, 1, handover.OF_GUEST)
    assert (body.home, body.bearer.claims.sub) == (world.config.node.id, bob.sub)
