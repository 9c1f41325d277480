"""What a node may do by a state: who may call, which variant a unit has, and that nothing widens it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.protocol.signed import public_of
from relay.rollout.bucket import Rule, Variant, bucket
from relay.rollout.lastgood import (
    LIFE_S,
    Body,
    Kills,
    Offer,
    Serving,
    Standing,
    State,
    accepted,
    parse,
    seal,
    stand,
)
from relay.rollout.mandate import Closed, Mandate, Without

SEED = bytes(32)
NOW = 1_800_000_000
ANN = bytes(16)
OPEN = Offer(
    "o1",
    "s1",
    always=("staff",),
    never=("barred",),
    groups={"beta": 50.0},
    regions={"eu-1": 5.0, "us-1": 100.0},
    kind="open",
)
RELEASE = Offer("r1", "s1", regions={"eu-1": 5.0})


def signed(offer: Offer | None) -> State:
    return parse(seal(Body(1, NOW, NOW + LIFE_S, offer), SEED), accepted([public_of(SEED)]))


def at(
    offer: Offer | None, wall: float = NOW, kills: Kills | None = None, without: Without = "control"
) -> Mandate:
    return Mandate.of(stand(signed(offer), wall, kills or Kills()), without)


def in_share(mandate: Mandate, pct: float, *, member: bool) -> bytes:
    assert mandate.offer is not None
    offer = mandate.offer
    people = (number.to_bytes(16, "big") for number in range(10_000))
    return next(each for each in people if (bucket(offer.id, offer.salt, each.hex()) < 100 * pct) is member)


def test_without_a_configured_state_everybody_may_call() -> None:
    assert Mandate.of(None, "control") == Mandate()
    assert Mandate().closed(None, (), "eu-1") is None


def test_of_an_open_rollout_only_members_may_call_and_it_is_said_why() -> None:
    now = at(OPEN)
    inside, outside = in_share(now, 5, member=True), in_share(now, 50, member=False)
    for person, groups, region, why in (
        (inside, (), "eu-1", None),
        (outside, (), "eu-1", Closed.NOT_MEMBER),
        (outside, ("staff",), "eu-1", None),
        (inside, ("barred", "staff"), "eu-1", Closed.NOT_MEMBER),
        (outside, (), "us-1", None),
        (inside, (), "mars", Closed.NOT_MEMBER),
        (outside, ("beta",), "us-1", Closed.NOT_MEMBER),  # a group's share counts also where it is less
    ):
        assert now.closed(person, groups, region) is why, (groups, region)


def test_somebody_without_a_number_is_in_when_everybody_is() -> None:
    now = at(OPEN)
    assert now.closed(None, (), "us-1") is None
    assert now.closed(None, ("staff",), "eu-1") is None
    assert now.closed(None, (), "eu-1") is Closed.NO_PERSON
    assert now.closed(None, ("beta",), "us-1") is Closed.NO_PERSON
    assert now.closed(None, ("barred",), "us-1") is Closed.NOT_MEMBER
    nearly = at(Offer("o1", "s1", regions={"eu-1": 99.99}, kind="open"))
    assert bucket("o1", "s1", "") < 9_999  # whom nobody named would be in it by that number
    assert nearly.closed(None, (), "eu-1") is Closed.NO_PERSON


@pytest.mark.parametrize("without", ["control", "all"])
def test_an_open_rollout_that_is_known_opens_no_wider_when_its_state_counts_no_more(without: Without) -> None:
    for wall in (NOW + LIFE_S, NOW - 3_601):
        assert at(OPEN, wall, without=without).closed(ANN, ("staff",), "us-1") is Closed.NO_STATE
    for kills in (Kills(everything=True), Kills(ids=frozenset({"o1"}))):
        for wall in (NOW, NOW + LIFE_S):
            assert at(OPEN, wall, kills, without).closed(ANN, ("staff",), "us-1") is Closed.KILLED
    assert at(OPEN, NOW, Kills(ids=frozenset({"o2"})), without).closed(ANN, (), "us-1") is None


def test_a_state_that_names_no_rollout_opens_to_all_as_long_as_it_counts() -> None:
    assert at(None).closed(None, (), "eu-1") is None
    assert at(None, kills=Kills(everything=True)).closed(None, (), "eu-1") is None  # there is none to kill
    assert at(None, NOW + LIFE_S).closed(None, (), "eu-1") is Closed.NO_STATE
    assert at(None, NOW + LIFE_S, without="all").closed(None, (), "eu-1") is None
    none = stand(None, NOW, Kills())
    assert Mandate.of(none, "control").closed(ANN, (), "eu-1") is Closed.NO_STATE
    assert Mandate.of(none, "all").closed(ANN, (), "eu-1") is None


def test_of_a_release_everybody_may_call_whatever_becomes_of_its_state() -> None:
    everything = Kills(everything=True)
    for wall, kills in ((NOW, None), (NOW + LIFE_S, None), (NOW - 3_601, None), (NOW, everything)):
        assert at(RELEASE, wall, kills).closed(None, (), "eu-1") is None


def test_a_call_gets_the_candidate_by_its_id_and_control_when_the_state_counts_no_more() -> None:
    call = in_share(at(RELEASE), 5, member=True)
    for wall, kills, variant, rule in (
        (NOW, None, Variant.CANDIDATE, Rule.REGION),
        (NOW, Kills(ids=frozenset({"r1"})), Variant.CONTROL, Rule.KILL),
        (NOW + LIFE_S, None, Variant.CONTROL, Rule.NO_STATE),
        (NOW + LIFE_S, Kills(everything=True), Variant.CONTROL, Rule.KILL),
        (NOW - 3_601, None, Variant.CONTROL, Rule.NO_STATE),
    ):
        decision = at(RELEASE, wall, kills).decide(call, (), "eu-1")
        assert (decision.variant, decision.rule) == (variant, rule)
        assert decision.is_sampled is (rule is Rule.REGION)
        assert decision.bucket < 500


def test_what_a_kill_does_to_running_calls_is_of_the_offer_or_usual() -> None:
    for offer, usual in ((OPEN, "keep"), (RELEASE, "move")):
        assert at(offer).on_kill == usual
        assert at(Offer(offer.id, "s1", kind=offer.kind, on_kill="end")).on_kill == "end"
    assert at(RELEASE).killed is None
    assert at(RELEASE, kills=Kills(everything=True)).killed == "r1"
    assert at(None, kills=Kills(everything=True)).killed is None


def test_relays_are_those_of_the_variant_that_are_not_left_and_of_routes_that_can_be_read() -> None:
    urls = {"urls": ["quic://a:443"]}
    here = {
        "a": urls | {"variant": "candidate"},
        "b": urls | {"variant": "candidate", "drain": True},
        "c": urls,
    }
    standing = Standing(Serving.STATE, 1, RELEASE, {"eu-1": {"relays": here}}, RELEASE)
    mandate = Mandate.of(standing, "control")
    assert mandate.relays("eu-1", "candidate") == {"a": ("quic://a:443",)}
    assert list(mandate.relays("eu-1", "control")) == ["c"]
    assert mandate.relays("mars", "control") == {}
    left = Mandate.of(replace(standing, routes={"eu-1": {"relays": here, "drain": True}}), "control")
    assert left.relays("eu-1", "candidate") == {}
    assert Mandate.of(replace(standing, routes={"eu-1": {"relays": [here]}}), "control").routes == {}


@given(
    st.binary(min_size=16, max_size=16) | st.none(),
    st.sets(st.sampled_from(["staff", "barred", "beta"])),
    st.sampled_from(["eu-1", "us-1", "mars"]),
    st.sampled_from([NOW, NOW + LIFE_S, NOW - 3_601]),
    st.booleans(),
    st.sampled_from(["control", "all"]),
)
def test_nobody_may_call_whom_the_state_does_not_name(
    person: bytes | None, groups: set[str], region: str, wall: float, killed: bool, without: Without
) -> None:
    """Whatever else is so, an open rollout lets in whom its own valid state lets in, or fewer."""
    if at(OPEN, wall, Kills(everything=killed), without).closed(person, groups, region) is None:
        assert (wall, killed) == (NOW, False)
        assert at(OPEN).decide(person, groups, region).variant is Variant.CANDIDATE
