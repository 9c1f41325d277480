import pytest

from relay.core.ringing import CLOSE_CODES, ENDINGS, Cause, Glare, Ringing, Why, ending, told
from relay.errors import ErrorCode
from relay.protocol.ids import CallId

LOW, HIGH, OTHER = CallId(bytes(16)), CallId(b"\1" * 16), CallId(b"\2" * 16)
PAIR = frozenset({b"a", b"b"})


@pytest.mark.parametrize(
    ("cause", "unanswered", "answered"),
    [
        (Cause.HUNG_UP_BY_CALLER, "cancelled", "completed"),
        (Cause.HUNG_UP, "declined", "completed"),
        (Cause.DECLINED, "declined", "completed"),
        (Cause.BUSY, "busy", "completed"),
        (Cause.NO_ANSWER, "missed", "completed"),
        (Cause.TIME_UP, "expired", "expired"),
        (Cause.ORDERED, "cancelled", "completed"),
        (Cause.REMOVED, "removed", "removed"),
        (Cause.REVOKED, "revoked", "revoked"),
        (Cause.FAILED, "failed", "failed"),
    ],
)
def test_each_cause_has_a_word_before_and_after_the_answer(cause, unanswered, answered):
    assert ending(cause, answered=False) == unanswered
    assert ending(cause, answered=True) == answered


def test_the_tables_are_complete():
    assert set(ENDINGS) == set(Cause)
    assert set(CLOSE_CODES) == set(Why)
    assert CLOSE_CODES[Why.ANSWERED_ELSEWHERE] is ErrorCode.ANSWERED_ELSEWHERE


@pytest.mark.parametrize(("first", "second"), [(LOW, HIGH), (HIGH, LOW)])
def test_of_two_calls_for_one_pair_the_smaller_id_survives_whichever_came_first(first, second):
    ringing = Ringing()
    assert ringing.on_ring(first, [PAIR]) is None
    assert ringing.on_ring(second, [PAIR]) == Glare(loser=HIGH, survivor=LOW)


def test_the_same_call_may_ring_again_with_more_pairs():
    ringing = Ringing()
    assert ringing.on_ring(LOW, [PAIR]) is None
    assert ringing.on_ring(LOW, [PAIR, frozenset({b"c"})]) is None
    assert len(ringing) == 1


def test_a_call_that_is_answered_or_over_meets_nobody():
    ringing = Ringing()
    ringing.on_ring(LOW, [PAIR])
    ringing.on_settled(LOW)
    ringing.on_settled(OTHER)
    assert ringing.on_ring(HIGH, [PAIR]) is None
    assert len(ringing) == 1


def test_every_end_has_a_word_on_the_wire():
    assert {told(why) for why in Why} == {why.value for why in Why} - {"moved"}
    assert told(Why.MOVED) == "failed"
