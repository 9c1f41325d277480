"""Repair and adaptation in a closed loop on a simulated network: the bars that need no codec."""

from __future__ import annotations

import pytest

from impair import NETS, Net
from relay.core.adapt import Mode, State
from relay.core.steps import Level
from voicesim import Listener, Outcome, pinned

SEEDS = (1, 2, 3)


def over(name: str, rtt_ms: float, mode: Mode, *distances: int) -> tuple[float, float]:
    """Mean residual loss and bytes over those of the media, three minutes with three seeds."""
    runs = [Listener(NETS[name], rtt_ms, seed, pinned(mode, *distances)).run(60) for seed in SEEDS]
    assert [one.late_copies for one in runs] == [0, 0, 0]
    return sum(one.loss for one in runs) / len(runs), sum(one.wire for one in runs) / len(runs)


@pytest.mark.parametrize(
    ("name", "rtt_ms", "residual"),
    [("iid10", 40, 0.002), ("iid10", 80, 0.005), ("busy_wifi", 40, 0.01), ("b10_60", 40, 0.025),
     ("b10_60", 80, 0.03), ("b10_60", 100, 0.03)],
)  # fmt: skip
def test_repeats_leave_little_of_the_loss_for_a_third_more_bytes(
    name: str, rtt_ms: float, residual: float
) -> None:
    loss, wire = over(name, rtt_ms, Mode.REPEATS)
    assert loss < residual
    assert wire < 1.45


def test_at_a_long_round_trip_one_copy_at_a_distance_saves_most() -> None:
    plain, _ = over("b10_60", 150, Mode.OFF)
    repeats, _ = over("b10_60", 150, Mode.REPEATS)
    copied, wire = over("b10_60", 150, Mode.COPIES, 4)
    assert repeats > 0.8 * plain
    assert copied < 0.4 * plain
    assert wire < 1.8


def test_a_clean_leg_costs_not_one_byte_more() -> None:
    for rtt_ms in (10, 40, 150):
        outcome = Listener(NETS["clean"], rtt_ms, 1).run(60)
        assert (outcome.repair_bytes, outcome.lost) == (0, 0)
        assert {orders.state for _, orders in outcome.orders} == {State.CLEAN}


def test_jitter_alone_costs_less_than_one_per_cent() -> None:
    outcome = Listener(Net(delay=5, jitter=5), 40, 1).run(60)
    assert outcome.wire <= 1.01


@pytest.mark.parametrize("name", [name for name in NETS if name != "capacity"])
@pytest.mark.parametrize("rtt_ms", [20, 150])
def test_no_repeat_leaves_that_would_come_too_late_and_none_beyond_the_media(name: str, rtt_ms: int) -> None:
    outcome = Listener(NETS[name], rtt_ms, 4).run(30)
    assert outcome.late_copies == 0
    assert outcome.repair_bytes <= outcome.media_bytes


def dropped(hold: float, seed: int = 1) -> Outcome:
    """100 kb/s, 40 kb/s from second 20 on for `hold` seconds, 100 kb/s again."""
    net = Net(rates=((0, 100_000), (20, 40_000), (20 + hold, 100_000)), queue=300)
    return Listener(net, 40, seed).run(20 + hold + 40)


@pytest.mark.parametrize("hold", [10, 20, 30])
def test_the_queue_of_a_link_that_became_narrow_is_gone_in_two_seconds(hold: float) -> None:
    queue = dict(dropped(hold).queue)
    assert max(ms for at, ms in queue.items() if 20 < at < 22) > 150
    assert max(ms for at, ms in queue.items() if 22 <= at < 25) < 60


@pytest.mark.parametrize("hold", [10, 20, 30])
def test_the_rate_is_back_twenty_seconds_after_the_link_is(hold: float) -> None:
    asked = [orders.ask for at, orders in dropped(hold).orders if at >= 20 + hold + 20]
    assert set(asked) == {Level(24_000, 20)}


def test_a_live_leg_in_outages_is_found_and_repaired() -> None:
    outcome = Listener(NETS["b10_60"], 40, 1).run(60)
    assert outcome.orders[-1][1].state is State.LOSSY_B
    assert outcome.loss < 0.02
    assert outcome.wire < 1.45
