"""The state of rollouts, obeyed by a node: who may call, which variant a call has, what a kill does."""

import pytest

from pair import ISSUER, World, canaries, config
from relay.config import DrainConfig
from relay.config_state import StateConfig
from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.ids import PersonId
from relay.region.routes import parse
from relay.rollout.bucket import bucket
from relay.rollout.lastgood import Offer, Serving
from relay.rollout.mandate import Mandate

HALF = 50.0
ROUTES = parse(
    {
        "local": {
            "relays": {
                "a": {"urls": ["quic://a.example:443"], "variant": "candidate"},
                "b": {"urls": ["quic://b.example:443"]},
            }
        }
    }
)


def opening(**changes) -> Offer:
    return Offer(**{"id": "o1", "salt": "s1", "kind": "open", "regions": {"local": HALF}} | changes)


def release(**changes) -> Offer:
    return Offer(**{"id": "r1", "salt": "s1", "regions": {"local": HALF}} | changes)


def node_of(variant: str = "control") -> World:
    return World(config(state=StateConfig(variant=variant), drain=DrainConfig(smear_s=10.0)))


def given(world: World, offer: Offer | None, serving: Serving = Serving.STATE, **changes) -> None:
    mandate = Mandate(serving, offer, serving is Serving.KILLED, ROUTES, **changes)
    world.feed(ev.MandateChanged(mandate))


def person(*, member: bool, of: Offer, start: int = 0) -> PersonId:
    """The first from `start` on who is in half of all, or is not."""
    people = (PersonId(number.to_bytes(16, "big")) for number in range(start, start + 1000))
    return next(each for each in people if (bucket(of.id, of.salt, each.hex()) < 5000) is member)


def call_ids(world: World, variant: str, of: Offer):
    """Ids of a call that gets this variant at a share of a half."""
    while True:
        ids = world.call()
        if (bucket(of.id, of.salt, ids.cid.hex()) < 5000) == (variant == "candidate"):
            return ids


def two_of(world: World, ids, **changes):
    people = [world.client(ids.token(**changes)).enter() for _ in range(2)]
    for one in people:
        one.accept()
    return people


def refused(world: World, ids, **changes) -> str:
    one = world.client(ids.token(**changes)).open()
    one.hello()
    answer = one.join()
    assert (answer.code, answer.fatal, one.closed) == (ErrorCode.NOT_ENABLED, True, ErrorCode.NOT_ENABLED)
    world.check()
    return str(answer.data["why"])


def variant_of(world: World, one) -> tuple[str, str, bool]:
    call = world.engine.node.calls[one.cid]
    return call.rollout, call.variant, call.is_sampled


def steered(world: World) -> dict[str, int]:
    return {label: n for (name, label), n in world.engine.counters.items() if name == "rollout_steered"}


# ---------------------------------------------------------------- open


def test_where_no_state_is_configured_everybody_calls_and_calls_have_no_variant():
    world = node_of()
    ann, _ = world.talking()
    assert variant_of(world, ann) == ("", "", False)
    ann.hangup()
    assert (world.records[0].rollout, world.records[0].variant, world.records[0].sampled) == ("", "", False)
    assert all("variant" not in event.data for event in world.events)


def test_who_is_no_member_begins_no_call_and_joins_none():
    world, offer = node_of(), opening()
    given(world, offer)
    inside, outside = person(member=True, of=offer), person(member=False, of=offer)
    assert refused(world, world.call(), ru=outside) == "not_member"
    assert world.engine.calls == 0
    ids = world.call()
    ann = world.client(ids.token(ru=inside)).enter()
    assert refused(world, ids, ru=outside) == "not_member"
    bob = world.client(ids.token(ru=person(member=True, of=offer, start=500))).enter()
    for one in (ann, bob):
        one.accept()
    assert ann.speak() is None
    assert variant_of(world, ann) == ("o1", "candidate", True)
    counters = world.engine.counters
    assert (counters["rollout_refused", "not_member"], counters["rollout_call", "candidate"]) == (2, 1)


def test_a_refusal_spends_no_call_and_what_is_wrong_besides_is_said_first():
    world = node_of()
    given(world, opening(regions={}))
    one = world.client(world.call().token()).open()
    one.hello()
    assert one.ask(control.Join(c=bytes(16))).code == ErrorCode.CALL_NOT_FOUND
    assert world.engine.counters["rollout_refused", "not_member"] == 0
    world.check()


def test_who_is_in_a_running_call_stays_in_it_whatever_comes():
    world, offer = node_of(), opening()
    given(world, offer)
    members = [person(member=True, of=offer, start=start) for start in (0, 500)]
    ids = world.call()
    raws = [ids.claims(ru=each, key=True) for each in members]
    ann, bob = (world.client(token.mint(raw, ISSUER)).enter() for raw in raws)
    for one in (ann, bob):
        one.accept()
    given(world, opening(regions={}))
    assert ann.speak() is None
    again = world.client(ids.token(ru=members[1], sub=bob.sub)).enter()  # another device of the same person
    again.accept()
    assert again.speak() is None
    ann.lose()
    assert isinstance(ann.resume().rejoin(), control.Joined)
    assert refused(world, world.call(), ru=members[0]) == "not_member"


@pytest.mark.parametrize("serving", [Serving.EXPIRED, Serving.EARLY])
@pytest.mark.parametrize("without", ["control", "all"])
def test_a_state_that_does_not_count_any_more_opens_to_nobody(serving, without):
    world = node_of()
    given(world, opening(regions={"local": 100.0}))
    world.pair()
    given(world, opening(regions={"local": 100.0}), serving, without=without)
    assert refused(world, world.call()) == "no_state"


@pytest.mark.parametrize("serving", [Serving.NONE, Serving.EXPIRED, Serving.EARLY])
def test_without_a_state_the_setting_says_who_may_call(serving):
    world = node_of()
    given(world, None, serving)
    assert refused(world, world.call()) == "no_state"
    given(world, None, serving, without="all")
    ann, _ = world.talking()
    assert variant_of(world, ann) == ("", "", False)


def test_canaries_call_before_anybody_may():
    world = World(canaries())
    given(world, opening(regions={}))
    ann, _ = world.talking()
    assert variant_of(world, ann) == ("", "", False)


@pytest.mark.parametrize(("on_kill", "goes_on"), [(None, True), ("keep", True), ("end", False)])
def test_a_kill_closes_calling_at_once_and_running_calls_go_on_or_end_as_the_offer_says(on_kill, goes_on):
    world, offer = node_of(), opening(regions={"local": 100.0}, on_kill=on_kill)
    given(world, offer)
    ann, bob = world.talking()
    eve, _ = world.pair()  # it rings
    given(world, offer, Serving.KILLED)
    world.run(0.1)
    assert refused(world, world.call()) == "killed"
    world.run(1, (ann, bob, eve))
    if goes_on:
        assert ann.speak() is None
        assert steered(world) == {"kept": 2}
        given(world, offer, Serving.KILLED, without="all")
        assert steered(world) == {"kept": 2}, "told once"
        return
    assert [(one.last(control.Ended).why, one.closed) for one in (ann, bob, eve)] == [
        ("completed", None),
        ("completed", None),
        ("cancelled", None),
    ]
    assert {(record.outcome, record.reason) for record in world.records} == {
        ("completed", "killed"),
        ("cancelled", "killed"),
    }
    assert steered(world) == {"ended": 2}
    world.check()


def test_a_call_that_ends_by_itself_before_its_turn_is_ended_once():
    world, offer = node_of(), opening(regions={"local": 100.0}, on_kill="end")
    given(world, offer)
    pairs = [world.talking() for _ in range(6)]
    last, _ = pairs[-1]
    killed = ev.MandateChanged(Mandate(Serving.KILLED, offer, is_killed=True))
    world.engine.handle(killed, world.now, world.wall)  # four at a time
    words = control.encode(control.Hangup(c=last.cid), 9)
    world.engine.handle(ev.StreamReceived(last.leg, words), world.now, world.wall)
    world.feed(ev.Tick())
    assert sorted(record.reason for record in world.records) == ["", *["killed"] * 5]
    world.check()


# ---------------------------------------------------------------- release


def test_a_call_has_its_variant_from_its_first_moment_on_in_events_and_record():
    world, offer = node_of("candidate"), release()
    given(world, offer)
    ann, _ = two_of(world, call_ids(world, "candidate", offer))
    assert variant_of(world, ann) == ("r1", "candidate", True)
    given(world, release(regions={}))  # taken back: what runs keeps its variant
    ann.hangup()
    record = world.records[0]
    assert (record.rollout, record.variant, record.sampled) == ("r1", "candidate", True)
    told = [event.data for event in world.events if event.kind.startswith("call.")]
    assert [(data["rollout"], data["variant"]) for data in told] == [("r1", "candidate")] * 3
    assert steered(world) == {}


def test_a_call_of_a_named_group_and_one_that_the_other_version_serves_are_no_sample():
    world, offer = node_of(), release(always=("dogfood",))
    given(world, offer)
    for claims, variant in (({"grp": ("dogfood",)}, "candidate"), ({}, "candidate"), ({}, "control")):
        ann, bob = two_of(world, call_ids(world, variant, offer), **claims)
        assert variant_of(world, ann) == ("r1", variant, variant == "control")
        bob.hangup()


def test_a_call_that_belongs_elsewhere_is_asked_to_move_there_once_it_is_answered():
    world, offer = node_of(), release()
    given(world, offer)
    ids = call_ids(world, "candidate", offer)
    ann = world.client(ids.token()).enter()
    bob = world.client(ids.token()).enter()
    ann.accept()
    assert ann.all(control.Drain) == []
    bob.accept()
    world.run(0.01)
    for one in (ann, bob):
        (notice,) = one.all(control.Drain)
        assert (notice.to, notice.in_ms, notice.by_ms) == (("quic://a.example:443",), 0, 30_000)
        assert notice.ht is not None
    assert steered(world) == {"asked": 1}
    world.run(30, (ann, bob))
    assert len(ann.all(control.Drain)) == 2, "who stays is asked again"
    assert ann.speak() is None
    given(world, offer)
    for one in (ann, bob):
        one.ask(control.Moved(c=one.cid, ok=True))
    assert world.records[0].outcome == "moved"
    world.run(60)
    world.check()


def test_a_call_that_belongs_elsewhere_stays_where_no_relay_is_named_and_is_counted():
    world, offer = node_of(), release()
    world.feed(ev.MandateChanged(Mandate(Serving.STATE, offer)))
    ann, bob = two_of(world, call_ids(world, "candidate", offer))
    world.run(60, (ann, bob))
    assert ann.all(control.Drain) == []
    assert ann.speak() is None
    assert steered(world) == {"stayed": 1}
    assert variant_of(world, ann) == ("r1", "candidate", False)


def test_a_group_that_belongs_elsewhere_stays_until_its_rollout_is_killed():
    world, offer = node_of("candidate"), release()
    given(world, offer)
    size = (512, 512, 500, 4)
    ann, _ = two_of(world, call_ids(world, "control", offer), lim=size)
    bob, _ = two_of(world, call_ids(world, "candidate", offer), lim=size)
    world.run(1)
    assert (ann.all(control.Drain), steered(world)) == ([], {"stayed": 1})
    given(world, offer, Serving.KILLED)
    world.run(0.1)
    assert bob.last(control.Drain).to == ("quic://b.example:443",)
    assert ann.all(control.Drain) == []


def test_a_node_that_leaves_sends_a_call_to_its_variant_and_others_to_where_the_operator_says():
    world = World(config(drain=DrainConfig(grace_s=1.0, smear_s=0.0, to=("quic://next:443",))))
    other, _ = world.talking()
    offer = release()
    given(world, offer)
    lost, dan = two_of(world, call_ids(world, "candidate", offer))
    ann, _ = two_of(world, call_ids(world, "control", offer))
    assert len(lost.all(control.Drain)) == 1, "since it belongs elsewhere"
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    world.run(0.1)
    assert [one.last(control.Drain).to for one in (other, ann, lost)] == [
        ("quic://next:443",),
        ("quic://b.example:443",),
        ("quic://a.example:443",),
    ]
    world.run(31, (lost, dan))
    assert len(lost.all(control.Drain)) == 3, "from then on for one reason alone"


def test_a_kill_gives_new_calls_to_control_and_asks_running_candidates_to_move():
    world, offer = node_of("candidate"), release()
    given(world, offer)
    calls = [two_of(world, call_ids(world, "candidate", offer)) for _ in range(4)]
    ringing = world.client(call_ids(world, "candidate", offer).token()).enter()
    stays, _ = two_of(world, call_ids(world, "control", offer))
    world.run(0.1)
    before = len(stays.all(control.Drain))
    given(world, offer, Serving.KILLED)
    assert variant_of(world, ringing) == ("r1", "control", False)
    told = []
    for _ in range(40):
        told.append(sum(bool(ann.all(control.Drain)) for ann, _ in calls))
        world.run(0.25)
    assert [told[n] for n in (1, 7, 9, 15, 17, 23, 25, -1)] == [1, 1, 2, 2, 3, 3, 4, 4], "over drain.smear_s"
    for ann, _ in calls:
        assert ann.last(control.Drain).to == ("quic://b.example:443",)
        assert variant_of(world, ann) == ("r1", "control", False)
    assert len(stays.all(control.Drain)) == before
    assert steered(world) == {"asked": 5}
    ann, _ = two_of(world, call_ids(world, "candidate", offer))
    assert variant_of(world, ann) == ("r1", "control", False)
    given(world, offer)  # the kill is taken back: what it did stays done
    assert variant_of(world, ringing)[1] == "control"


def test_a_kill_where_control_serves_lets_calls_stay_that_were_asked_to_go():
    world, offer = node_of(), release()
    given(world, offer)
    ann, bob = two_of(world, call_ids(world, "candidate", offer))
    world.run(0.1)
    given(world, offer, Serving.KILLED)
    world.run(60, (ann, bob))
    assert len(ann.all(control.Drain)) == 1
    assert variant_of(world, ann) == ("r1", "control", False)


@pytest.mark.parametrize("serving", [Serving.EXPIRED, Serving.EARLY])
def test_a_release_whose_state_does_not_count_any_more_gives_everybody_control(serving):
    world, offer = node_of(), release(regions={"local": 100.0})
    given(world, offer, serving)
    ann, _ = world.talking()
    assert variant_of(world, ann) == ("r1", "control", False)


def test_a_kill_counts_over_a_state_that_is_too_old_as_well():
    world, offer = node_of("candidate"), release()
    given(world, offer)
    ann, _ = two_of(world, call_ids(world, "candidate", offer))
    world.feed(ev.MandateChanged(Mandate(Serving.EXPIRED, offer, is_killed=True, routes=ROUTES)))
    world.run(0.1)
    assert ann.last(control.Drain).to == ("quic://b.example:443",)


def test_a_call_that_ended_is_asked_nothing():
    world, offer = node_of("candidate"), release()
    given(world, offer)
    ann, bob = two_of(world, call_ids(world, "candidate", offer))
    eve, dan = two_of(world, call_ids(world, "candidate", offer))
    words = control.encode(control.Hangup(c=eve.cid), 9)
    gone = ev.StreamReceived(eve.leg, words)
    world.engine.handle(gone, world.now, world.wall)  # it is over, and its counters are on their way
    given(world, offer, Serving.KILLED)
    world.run(20, (ann, bob))
    assert dan.all(control.Drain) == []
    assert steered(world) == {"asked": 1}
