"""What a call's rollout gave it: told in tickets, kept by the next node, and where such calls belong."""

import pytest

from pair import Two, World, config
from relay.config import DrainConfig
from relay.config_state import StateConfig
from relay.core import events as ev
from relay.core import variant
from relay.protocol import handover
from relay.region.routes import parse
from relay.rollout.lastgood import Offer, Serving
from relay.rollout.mandate import Mandate

RELEASE = Offer("r1", "s1", regions={"local": 100})
DRAIN = DrainConfig(grace_s=0.0, smear_s=1.0)


def node_of(variant: str, seed: int = 1) -> World:
    return World(config(state=StateConfig(variant=variant), drain=DRAIN), seed=seed)


def given(world: World, offer: Offer | None = RELEASE, **changes) -> Mandate:
    mandate = Mandate(**{"serving": Serving.STATE, "offer": offer} | changes)
    world.feed(ev.MandateChanged(mandate))
    return mandate


def call_of(world, one):
    return world.engine.node.calls[one.cid]


def moved(two, one, other):
    two.drain()
    return two.move(one), two.move(other)


def told(world, one):
    call = call_of(world, one)
    return call.rollout, call.variant, call.is_sampled


@pytest.mark.parametrize("share", [0, 100])
def test_a_call_that_moves_keeps_its_variant(share):
    two = Two(node_of("candidate"), node_of("control", seed=2))
    given(two.old, Offer("r1", "s1", regions={"local": share}))
    given(two.new, Offer("r1", "s1", regions={"local": 100 - share}))  # a newer state says otherwise there
    ann, bob = two.old.talking(key=True)
    kept = "candidate" if share else "control"
    assert told(two.old, ann) == ("r1", kept, share == 100)
    again, _ = moved(two, ann, bob)
    assert told(two.new, again) == ("r1", kept, False)


def test_it_tells_of_its_variant_as_long_as_it_is_served_by_it():
    two = Two(node_of("candidate"), node_of("candidate", seed=2))
    for world in (two.old, two.new):
        given(world)
    ann, bob = two.old.talking(key=True)
    again, _ = moved(two, ann, bob)
    assert told(two.new, again) == ("r1", "candidate", True)


def test_a_node_that_knows_no_rollout_keeps_the_variant_all_the_same():
    two = Two(node_of("candidate"), node_of("candidate", seed=2))
    given(two.old)
    ann, bob = two.old.talking(key=True)
    again, _ = moved(two, ann, bob)
    assert told(two.new, again) == ("", "candidate", True)


def test_a_call_of_no_rollout_and_one_of_an_older_node_have_none():
    world = node_of("control")
    ann, _ = world.talking()
    call = call_of(world, ann)
    assert variant.part_of(call) == 0
    variant.take_part(world.engine.node, call, handover.IS_PAIR)
    assert told(world, ann) == ("", "", False)


@pytest.mark.parametrize(("on_kill", "kept"), [(None, "control"), ("keep", "candidate")])
def test_a_candidate_call_that_comes_to_where_its_rollout_is_killed_is_the_controls(on_kill, kept):
    two = Two(node_of("candidate"), node_of("control", seed=2))
    given(two.old)
    given(two.new, Offer("r1", "s1", on_kill=on_kill), serving=Serving.KILLED, is_killed=True)
    ann, bob = two.old.talking(key=True)
    again, _ = moved(two, ann, bob)
    assert told(two.new, again) == ("r1", kept, False)


def relays(*ids, variant="candidate", **changes):
    return {id: {"urls": [f"quic://{id}:443"], "variant": variant} | changes for id in ids}


def test_a_call_belongs_to_a_relay_of_its_variant_in_this_region_and_all_name_the_same():
    world = node_of("control")
    own = world.config.node.id
    here = relays("a", "b", "c", own) | relays("d", variant="control") | relays("e", drain=True)
    routes = parse({"local": {"relays": here}, "elsewhere": {"relays": relays("g")}})
    given(world, routes=routes)
    node = world.engine.node
    homes = set()
    for _ in range(40):
        ann, _ = world.talking()
        (url,) = variant.home_of(node, call_of(world, ann))
        assert variant.home_of(node, call_of(world, ann)) == (url,)
        homes.add(url)
    assert homes == {f"quic://{id}:443" for id in "abc"}


def test_without_a_relay_that_is_known_or_a_variant_it_belongs_nowhere_else():
    world = node_of("control")
    node = world.engine.node
    alone, _ = world.talking()
    own = relays(world.config.node.id)
    for routes in ({}, {"local": {"relays": own}}, {"local": {"relays": relays("a"), "drain": True}}):
        given(world, routes=parse(routes))
        ann, _ = world.talking()
        assert variant.home_of(node, call_of(world, ann)) == ()
    given(world, routes=parse({"local": {"relays": relays("a")}}))
    assert variant.home_of(node, call_of(world, alone)) == ()


def test_of_a_rollout_of_calling_itself_there_are_no_two_versions():
    world = node_of("control")
    given(
        world,
        Offer("o1", "s1", always=("all",), kind="open"),
        routes=parse({"local": {"relays": relays("a")}}),
    )
    ann, _ = world.talking(grp=("all",))
    call = call_of(world, ann)
    assert told(world, ann) == ("o1", "candidate", False)
    assert variant.is_at_home(world.engine.node, call)
    assert variant.home_of(world.engine.node, call) == ()
