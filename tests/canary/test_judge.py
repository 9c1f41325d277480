"""Each check of a canary call fails by its own bound, with its value, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.canary.judge import BOUNDS, Direction, Facts, figure, judge, told
from relay.ops.canary import CHECKS, Failed

GOOD = Direction(said=1000, active_s=20.0, came=1000, first_s=0.1, delays_ms=(45.0,) * 1000)


def facts(**changes: Any) -> Facts:
    """A good call, in which one of the two directions is another."""
    return Facts(setup_s=0.1, rtt_ms=3.0, ways=(GOOD, replace(GOOD, **changes)))


def names(of: Facts) -> list[str]:
    return [one.check for one in judge(of).failed]


def test_a_good_call_fails_nothing_and_every_figure_is_told() -> None:
    verdict = judge(facts())
    assert verdict.ok
    assert verdict.numbers == {
        "setup": 0.1,
        "first_audio": 0.1,
        "loss": 0.0,
        "delay": 111.5,  # 45 from codec to codec, 20 of recording, 6.5 of look-ahead, 40 of devices
        "stale": 0.0,
        "mos": 4.41,
        "rtt_ms": 3.0,
        "relay_drops": None,
        "said": 2000,
    }


@pytest.mark.parametrize(
    ("changes", "below", "check"),
    [
        ({"first_s": 2.01}, {"first_s": 2.0}, "first_audio"),
        ({"came": 969}, {"came": 971}, "loss"),
        ({"delays_ms": (334.0,) * 100}, {"delays_ms": (333.0,) * 100}, "delay"),
        ({"unsent": 11}, {"unsent": 10}, "stale"),
        ({"late": 11}, {"late": 10}, "stale"),
    ],
)
def test_one_direction_beyond_a_bound_fails_that_check_by_name(
    changes: dict[str, Any], below: dict[str, Any], check: str
) -> None:
    (failed,) = judge(facts(**changes)).failed
    assert (failed.check, failed.bound) == (check, BOUNDS[check])
    assert failed.value is not None
    assert failed.value > BOUNDS[check]
    assert names(facts(**below)) == []


def test_a_slow_set_up_fails_and_late_packets_are_loss_as_well() -> None:
    assert names(replace(facts(), setup_s=5.1)) == ["setup"]
    assert names(replace(facts(), setup_s=5.0)) == []
    assert names(facts(late=32)) == ["loss", "stale"]


def test_much_loss_is_a_poor_estimate_too() -> None:
    verdict = judge(facts(came=700))
    assert [one.check for one in verdict.failed] == ["loss", "mos"]
    assert verdict.failed[1].value == verdict.numbers["mos"]


def test_who_spoke_for_three_seconds_and_was_not_heard_is_one_way() -> None:
    silent = {"came": 0, "first_s": None, "delays_ms": ()}
    found = {one.check: one for one in judge(facts(**silent)).failed}
    assert found["one_way"] == Failed("one_way", 20.0, 3.0)
    assert found["loss"].value == 1.0
    assert "one_way" not in names(facts(**silent, active_s=2.98, said=149))


def test_a_call_that_broke_says_at_which_step_and_what_it_measured() -> None:
    assert names(Facts(broken=("reach", "no answer"))) == ["reach"]
    verdict = judge(Facts(broken=("reach", "no answer")))
    assert (verdict.ok, verdict.numbers["mos"], verdict.numbers["said"]) == (False, None, 0)
    assert names(replace(facts(came=500), broken=("ended", "the call is over"))) == ["ended", "loss", "mos"]


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        (Failed("loss", 0.124, 0.03), "loss 12.4 % (at most 3 %)"),
        (Failed("mos", 2.5, 3.1), "mos 2.5 (at least 3.1)"),
        (Failed("delay", 512.3, 400.0), "delay 512.3 ms (at most 400 ms)"),
        (Failed("one_way", 20.0, 3.0), "one_way: nothing heard of 20 s of speech"),
        (Failed("token", detail="TOKEN_INVALID: unknown key"), "token: TOKEN_INVALID: unknown key"),
        (Failed("ended"), "ended"),
    ],
)
def test_a_failed_check_is_told_with_value_and_bound(failed: Failed, words: str) -> None:
    assert told(failed) == words


def test_all_that_can_fail_has_a_name_that_metrics_know() -> None:
    assert set(BOUNDS) <= set(CHECKS)
    assert figure("mos", 4.412) == "4.412"
