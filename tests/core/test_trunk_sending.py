"""Voices leave by trunks with a grant and a pull, and end with either."""

import pytest

from relay.core.trunk_sending import Route, Sending, Voice
from relay.errors import ErrorCode
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Pull

C = bytes(range(16))
ANN, BEN = Voice(C, 0), Voice(C, 1)
TOO_EARLY = Err(code=ErrorCode.FORBIDDEN, retry_ms=200)


def pull(voice: Voice = ANN, number: int = 64, term: int = 1) -> Pull:
    return Pull(c=voice.c, p=voice.p, term=term, route=number)


def granted(*nodes: str) -> Sending:
    sending = Sending()
    assert sending.grant(ANN, 1, frozenset(nodes)) == ()
    return sending


def test_a_voice_goes_where_it_is_granted_and_pulled():
    sending = granted("g", "h")
    assert sending.routes_of(ANN) == ()
    assert not sending.carries("g")
    assert sending.on_pull("g", pull(number=64)) == Ok()
    assert sending.on_pull("h", pull(number=64)) == Ok()
    assert sending.routes_of(ANN) == (Route("g", 64), Route("h", 64))
    assert sending.carries("g")


def test_a_pull_without_a_grant_is_worth_another_try():
    sending = Sending()
    assert sending.on_pull("g", pull()) == TOO_EARLY
    sending.grant(ANN, 1, frozenset({"h"}))
    assert sending.on_pull("g", pull()) == TOO_EARLY
    assert sending.routes_of(ANN) == ()
    sending.grant(ANN, 1, frozenset({"g"}))
    assert sending.on_pull("g", pull()) == Ok()


def test_what_is_granted_no_longer_ends_at_once():
    sending = granted("g", "h")
    sending.on_pull("g", pull(number=70))
    sending.on_pull("h", pull(number=71))
    assert sending.grant(ANN, 1, frozenset({"h"})) == (Route("g", 70),)
    assert sending.routes_of(ANN) == (Route("h", 71),)
    assert sending.on_pull("g", pull(number=72)) == TOO_EARLY
    assert sending.grant(ANN, 1, frozenset()) == (Route("h", 71),)


def test_the_same_pull_again_changes_nothing():
    sending = granted("g")
    for _ in range(2):
        assert sending.on_pull("g", pull()) == Ok()
    assert sending.routes_of(ANN) == (Route("g", 64),)


def test_a_voice_goes_to_a_node_once_by_the_number_that_was_given_last():
    sending = granted("g")
    sending.on_pull("g", pull(number=64))
    assert sending.on_pull("g", pull(number=65)) == Ok()
    assert sending.routes_of(ANN) == (Route("g", 65),)
    assert sending.on_stop(Route("g", 64)) is None
    assert sending.on_stop(Route("g", 65)) == ANN


def test_a_number_means_one_voice():
    sending = granted("g")
    sending.grant(BEN, 1, frozenset({"g"}))
    sending.on_pull("g", pull(ANN, 64))
    assert sending.on_pull("g", pull(BEN, 64)) == Err(code=ErrorCode.PROTOCOL_VIOLATION)
    assert (sending.routes_of(ANN), sending.routes_of(BEN)) == ((Route("g", 64),), ())


def test_another_node_has_so_many_routes_at_most():
    sending = Sending(most=1)
    for voice in (ANN, BEN):
        sending.grant(voice, 1, frozenset({"g", "h"}))
    assert sending.on_pull("g", pull(ANN, 64)) == Ok()
    assert sending.on_pull("g", pull(BEN, 65)) == Err(code=TrunkCode.ROUTE_LIMIT)
    assert sending.on_pull("g", pull(ANN, 66)) == Ok()
    assert sending.on_pull("h", pull(BEN, 64)) == Ok()
    sending.on_stop(Route("g", 66))
    assert sending.on_pull("g", pull(BEN, 65)) == Ok()


def test_a_stop_ends_a_route_and_a_second_one_nothing():
    sending = granted("g")
    sending.on_pull("g", pull())
    assert sending.on_stop(Route("g", 64)) == ANN
    assert sending.on_stop(Route("g", 64)) is None
    assert sending.on_stop(Route("h", 64)) is None
    assert sending.routes_of(ANN) == ()
    assert not sending.carries("g")


def test_a_trunk_that_is_down_takes_its_routes_along_and_leaves_the_grants():
    sending = granted("g", "h")
    sending.on_pull("g", pull())
    sending.on_pull("h", pull())
    assert sending.on_down("g") == (ANN,)
    assert sending.on_down("g") == ()
    assert sending.routes_of(ANN) == (Route("h", 64),)
    assert sending.on_pull("g", pull(BEN, 64)) == TOO_EARLY
    assert sending.on_pull("g", pull()) == Ok()


def test_who_leaves_takes_everything_along():
    sending = granted("g")
    sending.on_pull("g", pull())
    assert sending.forget(ANN) == (Route("g", 64),)
    assert sending.forget(ANN) == ()
    assert sending.on_pull("g", pull()) == TOO_EARLY


@pytest.mark.parametrize(
    ("term", "answer"), [(1, Err(code=TrunkCode.OLD_TERM)), (2, Ok()), (3, TOO_EARLY)], ids=str
)
def test_a_pull_is_of_the_term_of_the_grant(term, answer):
    sending = granted("g")
    sending.grant(ANN, 2, frozenset({"g"}))
    assert sending.on_pull("g", pull(term=term)) == answer


def test_routes_of_the_home_before_last_until_the_next_one_says_otherwise():
    sending = granted("g", "h")
    sending.on_pull("g", pull())
    sending.on_pull("h", pull())
    assert sending.grant(ANN, 2, frozenset({"h"})) == (Route("g", 64),)
    assert sending.grant(ANN, 1, frozenset()) == ()
    assert sending.routes_of(ANN) == (Route("h", 64),)
