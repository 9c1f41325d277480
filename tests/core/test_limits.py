import pytest

from relay.core.limits import Full, Quota, Share, Shares, TokenBucket
from relay.errors import LocalError


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = TokenBucket(rate=2, burst=4, now=0.0)
    assert [bucket.take(1, 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert not bucket.take(1, 0.4)
    assert bucket.take(1, 0.5)
    assert bucket.take(4, 100.0)
    assert not bucket.take(1, 100.0)


def test_a_bucket_says_how_long_to_wait():
    bucket = TokenBucket(rate=2, burst=4, now=0.0)
    assert bucket.take(4, 0.0)
    assert bucket.wait_ms(1) == 500
    assert bucket.wait_ms(1000) == 2000
    bucket.take(0, 60.0)
    assert bucket.wait_ms(1) == 1


def test_a_clock_that_steps_back_refills_nothing():
    bucket = TokenBucket(rate=1, burst=1, now=10.0)
    assert bucket.take(1, 10.0)
    assert not bucket.take(1, 0.0)
    assert not bucket.take(1, 10.5)
    assert bucket.take(1, 11.0)


def test_a_quota_holds_its_ceiling_for_each_key_and_forgets_empty_ones():
    quota = Quota(2)
    assert [quota.charge("a") for _ in range(3)] == [True, True, False]
    assert quota.charge("b")
    assert (quota.held("a"), quota.total(), quota.keys()) == (2, 3, 2)
    quota.release("a")
    quota.release("a")
    assert (quota.held("a"), quota.total(), quota.keys()) == (0, 1, 1)
    assert quota.charge("a")


def test_releasing_what_was_never_charged_is_a_bug():
    quota = Quota(1)
    with pytest.raises(LocalError):
        quota.release("a")


def test_a_sharer_stops_at_its_own_ceiling_and_others_go_on():
    shares = Shares(4, {"a": Share(most=1)})
    shares.take("a")
    assert (shares.lacks("a"), shares.lacks("b")) == (Full.OWN, None)
    assert shares.lacks("a", is_return=True) is None
    for _ in range(3):
        shares.take("b")
    assert shares.lacks("b") is Full.SHARED
    assert shares.lacks("a", is_return=True) is Full.SHARED
    assert (shares.held("a"), shares.held("b"), shares.held("c")) == (1, 3, 0)


def test_a_reserve_is_kept_for_its_owner_and_no_larger_than_what_is_missing_of_it():
    shares = Shares(4, {"a": Share(reserved=2), "b": Share(reserved=1)})
    assert shares.lacks("c") is None
    shares.take("c")
    assert (shares.lacks("c"), shares.lacks("a"), shares.lacks("b")) == (Full.SHARED, None, None)
    shares.take("a")
    shares.take("a")
    assert (shares.lacks("a"), shares.lacks("c"), shares.lacks("b")) == (Full.SHARED, Full.SHARED, None)
    shares.release("c")
    assert shares.lacks("c") is None


def test_a_share_that_was_never_taken_cannot_be_released():
    shares = Shares(1, {})
    with pytest.raises(LocalError):
        shares.release("a")
    for _ in range(2):
        shares.take("a")
    shares.release("a")
    assert shares.held("a") == 1
