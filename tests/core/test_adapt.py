"""The controller: each state by its signs, and what must hold whatever the network does."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config_voice import AdaptConfig
from relay.core.adapt import (
    TICK_S,
    Bursty,
    Controller,
    Fed,
    HeavyGone,
    HeavyLoss,
    LossGone,
    Mode,
    Orders,
    QueueGone,
    QueueGrew,
    QueueStands,
    Reported,
    ReportsMissing,
    Signs,
    Spotty,
    Starving,
    State,
)
from relay.core.steps import Level

CONFIG = AdaptConfig()
FINE = Signs(
    loss=0.0,
    run=1.0,
    residual=0.0,
    queue=5.0,
    trend=0.0,
    age=0.0,
    rtt=40.0,
    ack_slack=10.0,
    maps_acks=True,
    slack=80.0,
    ptime=20.0,
    media_bps=58_000.0,
    sent_bps=60_000.0,
    acked_bps=60_000.0,
    report_age=100.0,
)
SPOTTY = replace(FINE, loss=0.03)
BURSTY = replace(FINE, loss=0.05, run=2.5)
HEAVY = replace(BURSTY, residual=0.04)
FULL = replace(FINE, queue=90.0, trend=1.0)
LATE = replace(FINE, age=101.0)
SHORT = replace(FINE, queue=30.0, acked_bps=40_000.0)
SILENT = replace(FINE, report_age=1001.0)
TIGHT = (State.CONGESTED, State.STARVED)


class Life:
    """A controller and its clock."""

    def __init__(self, config: AdaptConfig = CONFIG) -> None:
        self.controller = Controller(config)
        self.ticks = 0
        self.orders: Orders | None = None

    @property
    def now(self) -> float:
        return self.ticks * TICK_S

    def tick(self, signs: Signs, count: int = 1) -> Orders:
        for _ in range(count):
            self.orders = self.controller.on_tick(signs, self.now)
            self.ticks += 1
        assert self.orders is not None
        return self.orders

    def until(self, signs: Signs, state: State, limit: int = 400) -> int:
        """Ticks that it takes to get there."""
        for count in range(1, limit):
            if self.tick(signs).state is state:
                return count
        raise AssertionError(f"never {state}")


def seconds(time: float) -> int:
    """Ticks after which something has lasted so long: the first one only starts the clock."""
    return round(time / TICK_S) + 1


@pytest.mark.parametrize(
    ("signs", "state", "after"),
    [
        (SPOTTY, State.LOSSY_I, TICK_S),
        (BURSTY, State.LOSSY_B, TICK_S),
        (FULL, State.CONGESTED, 0.4),
        (LATE, State.CONGESTED, 0.0),
        (SHORT, State.CONGESTED, 1.0),
        (replace(FINE, queue=60.0, loss=0.11), State.CONGESTED, 1.0),
        (SILENT, State.DARK, 0.0),
        (replace(FINE, residual=0.04), State.HEAVY, 5.0),
    ],
    ids=["spotty", "bursty", "full", "late", "short", "loss with a queue", "silent", "heavy"],
)
def test_a_clean_leg_moves_by_its_signs_after_their_time(signs, state, after):
    life = Life()
    life.tick(FINE, 5)
    assert life.until(signs, state) == seconds(after)


@pytest.mark.parametrize(
    "signs",
    [
        FINE,
        replace(FINE, loss=None, residual=None),
        replace(FINE, loss=0.009),
        replace(SPOTTY, queue=50.0),
        replace(FINE, queue=200.0, trend=0.8),
        replace(FINE, acked_bps=0.0, queue=20.0),
        replace(FINE, loss=None, queue=60.0),
        replace(FINE, report_age=1000.0),
        replace(FINE, age=100.0),
    ],
)
def test_what_is_no_sign_of_anything_leaves_a_leg_clean(signs):
    assert Life().tick(signs, 200).state is State.CLEAN


def test_one_tick_of_loss_is_not_enough():
    life = Life()
    for _ in range(20):
        life.tick(SPOTTY)
        life.tick(FINE)
    assert life.tick(FINE).state is State.CLEAN


def test_single_losses_need_ten_seconds_of_rest_bursts_fifteen():
    for signs, state, rest in ((SPOTTY, State.LOSSY_I, 10.0), (BURSTY, State.LOSSY_B, 15.0)):
        life = Life()
        life.until(signs, state)
        assert life.tick(replace(FINE, loss=0.005), 200).state is state
        assert life.tick(replace(FINE, loss=0.004, queue=20.0), 200).state is state
        assert life.until(replace(FINE, loss=0.004), State.CLEAN) == seconds(rest)


def test_losses_that_become_bursts_are_treated_as_such_and_not_back():
    life = Life()
    life.until(SPOTTY, State.LOSSY_I)
    assert life.until(BURSTY, State.LOSSY_B) == seconds(TICK_S)
    assert life.tick(SPOTTY, 300).state is State.LOSSY_B


def test_heavy_loss_goes_back_to_bursts_when_repair_keeps_up():
    life = Life()
    life.until(HEAVY, State.HEAVY)
    assert life.tick(replace(HEAVY, residual=0.01), 300).state is State.HEAVY
    assert life.tick(replace(HEAVY, residual=None), 300).state is State.HEAVY
    assert life.until(replace(HEAVY, residual=0.0), State.LOSSY_B) == seconds(15.0)


def test_congestion_beats_every_loss():
    for signs, state in ((SPOTTY, State.LOSSY_I), (BURSTY, State.LOSSY_B), (HEAVY, State.HEAVY)):
        life = Life()
        life.until(signs, state)
        orders = life.tick(replace(signs, queue=60.0, loss=0.2), 6)
        assert (orders.state, orders.mode, orders.budget) == (State.CONGESTED, Mode.OFF, 0.0)


def test_congestion_ends_two_seconds_after_the_queue():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.tick(replace(FINE, queue=20.0), 5)
    assert life.until(FINE, State.CLEAN) == seconds(2.0)


def test_congestion_steps_down_when_a_second_and_the_queue_have_passed_and_it_stands():
    life = Life()
    life.until(FULL, State.CONGESTED)
    seen = [life.tick(replace(FULL, trend=0.0)) for _ in range(13)]
    assert [(orders.ask, orders.speakers) for orders in seen[::6]] == [
        (Level(24_000, 60), 2),
        (Level(16_000, 60), 1),
        (Level(12_000, 60), 1),
    ]
    assert all(orders.coalesce and not orders.hold_frame for orders in seen)


def test_no_further_step_is_taken_before_the_first_can_have_shown():
    life = Life()
    deep = replace(FULL, queue=290.0)
    life.until(deep, State.CONGESTED)
    assert {life.tick(deep).ask for _ in range(6)} == {Level(16_000, 60)}
    assert life.tick(deep).ask == Level(12_000, 60)


def test_a_deep_queue_is_answered_with_a_level_more():
    life = Life()
    assert life.until(replace(FULL, queue=101.0), State.CONGESTED)
    assert life.tick(replace(FULL, queue=101.0)).ask == Level(16_000, 60)


def test_a_queue_that_grows_steeply_is_congestion_at_the_second_look_and_answered_with_a_level_more():
    life = Life()
    assert life.tick(replace(FINE, queue=60.0, rise=60.0)).state is State.CLEAN
    orders = life.tick(replace(FINE, queue=90.0, rise=80.0))
    assert (orders.state, orders.ask) == (State.CONGESTED, Level(16_000, 60))


def test_one_late_look_is_no_queue_however_late():
    life = Life()
    for _ in range(50):
        life.tick(FINE)
        assert life.tick(replace(FINE, queue=400.0, rise=400.0)).state is State.CLEAN
        life.tick(replace(FINE, queue=19.0))


def test_what_overflowed_does_not_keep_the_rate_falling_while_the_queue_drains():
    life = Life()
    life.until(FULL, State.CONGESTED)
    drains = replace(FULL, queue=200.0, trend=-0.8, loss=0.2)
    assert life.tick(drains, 20).ask == Level(24_000, 60)


def test_congestion_does_not_step_down_while_the_queue_drains_away():
    life = Life()
    life.until(FULL, State.CONGESTED)
    assert life.tick(replace(FINE, queue=45.0), 20).ask == Level(24_000, 60)
    assert life.tick(replace(FINE, queue=140.0, trend=-0.4), 20).ask == Level(24_000, 60)
    assert life.tick(replace(FINE, queue=100.0, trend=-0.3)).ask == Level(16_000, 60)


def test_a_leg_at_the_lowest_rate_for_three_seconds_starves():
    life = Life()
    life.until(FULL, State.CONGESTED)
    while life.tick(FULL).ask.bps > 12_000:
        pass
    assert life.until(FULL, State.STARVED) == seconds(3.0)
    orders = life.tick(FULL)
    assert (orders.speakers, orders.hold_frame, orders.redundancy) == (1, True, False)


def test_a_leg_that_carries_hardly_anything_starves_and_goes_on_stepping_down():
    thin = replace(FULL, acked_bps=29_000.0)
    life = Life()
    life.until(thin, State.CONGESTED)
    assert life.until(thin, State.STARVED) == seconds(1.0)
    assert life.tick(thin, 10).ask == Level(12_000, 60)


def test_a_sender_who_says_little_does_not_starve():
    little = replace(FULL, trend=0.0, queue=30.0, sent_bps=5_000.0, acked_bps=5_000.0)
    life = Life()
    life.until(FULL, State.CONGESTED)
    assert life.tick(little, 20).state is State.CONGESTED
    assert life.tick(little, 10).state is State.CLEAN


def test_the_lowest_rate_without_a_queue_is_no_hunger():
    life = Life()
    life.until(FULL, State.CONGESTED)
    while life.tick(FULL).ask.bps > 12_000:
        pass
    stands = replace(FINE, queue=45.0, acked_bps=20_000.0, sent_bps=20_000.0)
    assert State.STARVED not in {life.tick(stands).state for _ in range(100)}


def test_a_step_up_that_begins_to_fill_a_queue_is_undone_before_it_is_congestion():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.until(FINE, State.CLEAN)
    while life.tick(FINE).ask != Level(24_000, 40):
        pass
    begin = replace(FINE, queue=36.0, trend=0.8)
    assert life.tick(begin).ask == Level(24_000, 40)
    assert life.tick(begin).ask == Level(16_000, 60)  # so that what it filled drains
    assert life.orders.state is State.CLEAN
    assert life.tick(FINE, 9).ask == Level(16_000, 60)
    assert life.tick(FINE, 2).ask == Level(24_000, 60)  # two seconds later where it stood before
    assert life.tick(FINE, 25).ask == Level(24_000, 60)
    assert life.tick(FINE, 5).ask == Level(24_000, 40)  # eight seconds after it was undone


def test_a_step_up_that_leaves_a_queue_standing_is_undone_too():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.until(FINE, State.CLEAN)
    while life.tick(FINE).ask != Level(24_000, 40):
        pass
    stands = replace(FINE, queue=51.0)
    assert life.tick(stands, 2).ask == Level(24_000, 40)
    assert life.tick(stands).ask == Level(16_000, 60)


def test_a_step_up_after_which_a_little_waits_most_of_the_time_is_undone_where_nobody_else_fills_the_way():
    """A way that is just as wide as what is asked for: the queue never grows for long, and never goes."""
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.until(FINE, State.CLEAN)
    while life.tick(FINE).ask != Level(24_000, 40):
        pass
    little = (22.0, 31.0, 19.0, 35.0, 28.0, 15.0, 24.0, 40.0, 21.0, 18.0)
    asked = [life.tick(replace(FINE, queue=queue)).ask for queue in little]
    assert asked == [Level(24_000, 40)] * 9 + [Level(16_000, 60)]
    while life.tick(FINE).ask != Level(24_000, 40):
        pass
    now_and_then = [life.tick(replace(FINE, queue=queue)).ask for queue in (0.0, 25.0, 0.0, 31.0) * 6]
    assert set(now_and_then) == {Level(24_000, 40)}


def beside_others(life: Life, seconds: int) -> set[State]:
    """Somebody's download fills the queue and empties it a little, again and again; some of ours is lost."""
    seen = set()
    for turn in range(5 * seconds):
        queue = (25.0, 40.0, 50.0, 60.0, 65.0, 60.0, 15.0)[turn % 7]
        signs = replace(FINE, queue=queue, trend=-0.4 if turn % 7 in (0, 6) else 0.6, loss=0.06, residual=0.0)
        seen.add(life.tick(replace(signs, acked_bps=50_000.0)).state)
    return seen


def test_a_queue_that_others_fill_is_borne_and_what_is_lost_in_it_repaired():
    life = Life()
    life.until(FULL, State.CONGESTED)
    assert State.STARVED not in beside_others(life, 12)
    assert beside_others(life, 25) == {State.LOSSY_I}
    assert life.orders.mode is Mode.REPEATS
    assert life.orders.ask == Level(24_000, 20)


def test_a_queue_beyond_what_others_filled_is_congestion_again():
    life = Life()
    life.until(FULL, State.CONGESTED)
    beside_others(life, 15)
    life.until(replace(FULL, queue=66.0), State.CONGESTED)


def test_what_is_lost_is_not_what_waits():
    life = Life()
    lossy = replace(SHORT, loss=0.3, acked_bps=40_000.0)
    assert State.CONGESTED not in {life.tick(lossy).state for _ in range(50)}


def test_a_starved_leg_is_fed_after_five_seconds_in_which_what_is_sent_arrives():
    thin = replace(FULL, acked_bps=29_000.0)
    life = Life()
    life.until(thin, State.STARVED)
    assert life.tick(replace(FINE, acked_bps=40_000.0), 50).state is State.STARVED
    assert life.until(FINE, State.CLEAN) == seconds(5.0)


def test_the_rate_comes_back_in_steps_of_five_seconds():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.tick(FULL, 12)
    life.until(FINE, State.CLEAN)
    began, asked = life.ticks, [life.tick(FINE).ask]
    while asked[-1] != Level(24_000, 20):
        asked.append(life.tick(FINE).ask)
    assert (life.ticks - began) * TICK_S <= 20.2
    assert list(dict.fromkeys(asked)) == [
        Level(12_000, 60), Level(16_000, 60), Level(24_000, 60), Level(24_000, 40), Level(24_000, 20)
    ]  # fmt: skip


def test_no_step_up_while_something_waits():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.until(FINE, State.CLEAN)
    assert life.tick(replace(FINE, queue=20.0), 100).ask == Level(24_000, 60)


def test_a_queue_that_comes_and_goes_with_each_packet_is_no_reason_to_step_up():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.until(FINE, State.CLEAN)
    for _ in range(50):
        assert life.tick(replace(FINE, queue=40.0)).ask == Level(24_000, 60)
        assert life.tick(FINE, 4).ask == Level(24_000, 60)
    assert life.tick(FINE).ask == Level(24_000, 40)


def test_a_step_up_that_fills_the_queue_at_once_waits_twice_as_long_and_no_longer():
    life = Life()
    life.until(FULL, State.CONGESTED)
    waits = []
    for _ in range(5):
        waits.append(next(count for count in range(300) if life.tick(FINE).ask == Level(24_000, 40)))
        life.until(replace(FULL, age=101.0), State.CONGESTED)
    assert [round(ticks * TICK_S) for ticks in waits] == [5, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("signs", "state", "ask"),
    [
        (SPOTTY, State.LOSSY_I, Level(24_000, 20)),
        (BURSTY, State.LOSSY_B, Level(24_000, 40)),
        (HEAVY, State.HEAVY, Level(24_000, 60)),
    ],
)
def test_losses_in_a_row_are_met_with_longer_packets(signs, state, ask):
    life = Life()
    life.until(signs, state)
    assert life.tick(signs, 20).ask == ask


# ---------------------------------------------------------------- repair


def test_a_clean_leg_has_a_few_repeats_saved_and_asks_for_nothing():
    orders = Life().tick(FINE)
    assert (orders.mode, orders.budget, orders.depth) == (Mode.REPEATS, 0.1, 10.0)
    assert (orders.playout, orders.max_age, orders.fec) == (0, 80.0, 0)
    assert orders.ask == Level(24_000, 20)


def test_a_clean_leg_whose_acknowledgements_tell_nothing_has_no_repeats_saved():
    assert Life().tick(replace(FINE, maps_acks=False)).mode is Mode.OFF


def test_a_lossy_leg_gets_repeats_within_what_it_is_asked_to_hold():
    life = Life()
    life.until(BURSTY, State.LOSSY_B)
    orders = life.tick(replace(BURSTY, rtt=90.0))
    assert (orders.mode, orders.distances) == (Mode.REPEATS, ())
    assert (orders.budget, orders.depth, orders.playout) == (1.0, 50.0, 130)
    assert life.tick(replace(BURSTY, slack=150.0)).max_age == 130.0


def test_a_heavily_lossy_leg_holds_longer():
    life = Life()
    life.until(HEAVY, State.HEAVY)
    orders = life.tick(replace(HEAVY, slack=200.0))
    assert (orders.mode, orders.playout, orders.max_age) == (Mode.REPEATS, 200, 180.0)


def test_what_would_be_repeated_too_old_for_it_is_copied_instead():
    life = Life()
    far = replace(HEAVY, rtt=155.0, slack=200.0)  # 155 + 10 + 20 is played, but nobody repeats it
    life.until(far, State.HEAVY)
    assert life.tick(far).mode is Mode.COPIES


@pytest.mark.parametrize("far", [{"rtt": 200.0}, {"maps_acks": False}])
def test_where_acknowledgements_come_too_late_or_tell_nothing_copies_go_at_a_distance(far):
    for signs, state, distances, playout in (
        (SPOTTY, State.LOSSY_I, (2,), 60),
        (BURSTY, State.LOSSY_B, (5,), 120),
        (replace(BURSTY, ptime=60.0), State.LOSSY_B, (1,), 80),
        (HEAVY, State.HEAVY, (8, 4), 180),
        (replace(HEAVY, ptime=100.0), State.HEAVY, (1,), 120),
    ):
        life = Life()
        life.until(replace(signs, **far), state)
        orders = life.tick(replace(signs, **far))
        assert (orders.mode, orders.distances, orders.playout) == (Mode.COPIES, distances, playout)


def test_packets_too_long_for_any_copy_get_none():
    life = Life()
    far = replace(BURSTY, rtt=200.0, ptime=130.0)
    life.until(far, State.LOSSY_B)
    orders = life.tick(far)
    assert (orders.mode, orders.playout) == (Mode.OFF, 0)


def test_a_leg_on_tcp_is_never_repaired():
    life = Life()
    stream = replace(BURSTY, is_stream=True)
    life.until(stream, State.LOSSY_B)
    assert life.tick(stream).mode is Mode.OFF


def test_the_form_of_repair_stays_for_five_seconds_but_stops_at_once():
    life = Life()
    life.until(BURSTY, State.LOSSY_B)
    far = replace(BURSTY, rtt=105.0)
    forms = [life.tick(far if n % 2 else BURSTY).mode for n in range(100)]
    changes = sum(one is not other for one, other in pairwise(forms))
    assert 2 <= changes <= 4
    assert life.tick(replace(far, queue=51.0)).mode is Mode.OFF
    assert life.tick(far).mode is not Mode.OFF


def test_after_congestion_repair_takes_half_of_what_the_leg_was_seen_to_carry_beyond_the_media():
    life = Life()
    life.until(FULL, State.CONGESTED)
    life.until(replace(FINE, acked_bps=87_000.0), State.CLEAN)
    life.until(BURSTY, State.LOSSY_B)
    orders = life.tick(BURSTY)
    assert orders.budget == pytest.approx(0.5 * 29 / 58)
    assert orders.depth == pytest.approx(50 * 0.25)
    assert life.tick(replace(BURSTY, media_bps=90_000.0)).budget == 0
    life.tick(BURSTY, 150)
    assert life.tick(BURSTY).budget == 1.0


def test_the_codec_protects_itself_only_against_single_losses_of_a_lossy_uplink():
    life = Life()
    life.until(SPOTTY, State.LOSSY_I)
    assert life.tick(replace(SPOTTY, uplink_loss=0.019)).fec == 0
    assert life.tick(replace(SPOTTY, uplink_loss=0.025)).fec == 3
    assert life.tick(replace(SPOTTY, uplink_loss=0.071)).fec == 8
    assert life.tick(replace(SPOTTY, uplink_loss=0.071, loss=None)).fec == 8
    assert life.tick(replace(BURSTY, uplink_loss=0.1), 3).fec == 0


# ---------------------------------------------------------------- dark


def test_a_silent_listener_is_frozen_then_floored():
    life = Life()
    life.until(BURSTY, State.LOSSY_B)
    asked = life.tick(BURSTY).ask
    dark = life.tick(replace(BURSTY, report_age=1001.0))
    assert (dark.state, dark.mode, dark.playout) == (State.DARK, Mode.OFF, 0)
    assert life.tick(replace(BURSTY, report_age=4000.0), 20).ask == asked
    assert life.tick(replace(BURSTY, report_age=4001.0), 20).ask == Level(12_000, 60)


@pytest.mark.parametrize(
    ("signs", "state"),
    [(FINE, State.CLEAN), (BURSTY, State.LOSSY_B), (FULL, State.CONGESTED), (HEAVY, State.HEAVY)],
)
def test_a_listener_who_is_back_stands_where_it_stood(signs, state):
    life = Life()
    life.until(signs, state)
    assert life.tick(replace(signs, report_age=2000.0)).state is State.DARK
    assert life.tick(signs).state is state


# ---------------------------------------------------------------- whatever happens

MILLIS = st.one_of(st.sampled_from([0.0, 19.0, 20.0, 50.0, 51.0, 100.0, 101.0]), st.floats(0, 1000))
SHARES = st.one_of(st.none(), st.sampled_from([0.0, 0.004, 0.01, 0.03, 0.04, 0.2]), st.floats(0, 1))
RATES = st.one_of(st.sampled_from([0.0, 19_000.0, 29_000.0, 60_000.0]), st.floats(0, 200_000))
ANY_SIGNS = st.builds(
    Signs,
    loss=SHARES,
    run=st.floats(1, 30),
    residual=SHARES,
    queue=MILLIS,
    trend=st.sampled_from([-1.0, 0.0, 0.8, 1.0]),
    age=MILLIS,
    rtt=MILLIS,
    ack_slack=st.floats(10, 25),
    maps_acks=st.booleans(),
    slack=st.floats(20, 250),
    ptime=st.sampled_from([20.0, 40.0, 60.0, 120.0]),
    media_bps=RATES,
    sent_bps=RATES,
    acked_bps=RATES,
    report_age=st.sampled_from([0.0, 0.0, 0.0, 1000.0, 1001.0, 4500.0, 16_000.0]),
    is_stream=st.booleans(),
    uplink_loss=st.floats(0, 1),
)
# A weather lasts, so that its timers run out: up to twenty seconds of the same.
WEATHERS = st.lists(st.tuples(ANY_SIGNS, st.sampled_from([1, 2, 3, 11, 30, 100])), max_size=20)
LASTS: Mapping[tuple[State, State], float] = {
    (State.CLEAN, State.LOSSY_I): TICK_S,
    (State.CLEAN, State.LOSSY_B): TICK_S,
    (State.CLEAN, State.HEAVY): 5.0,
    (State.LOSSY_I, State.LOSSY_B): TICK_S,
    (State.LOSSY_I, State.HEAVY): 5.0,
    (State.LOSSY_I, State.CLEAN): 10.0,
    (State.LOSSY_B, State.HEAVY): 5.0,
    (State.LOSSY_B, State.CLEAN): 15.0,
    (State.HEAVY, State.LOSSY_B): 15.0,
    (State.CONGESTED, State.CLEAN): 2.0,
    (State.CONGESTED, State.STARVED): 1.0,
    (State.STARVED, State.CLEAN): 5.0,
}


def lived(weathers):
    """Every tick of a life: (time, signs, orders)."""
    life = Life()
    return [(life.now, signs, life.tick(signs)) for signs, count in weathers for _ in range(count)], life


@settings(max_examples=60, deadline=None)
@given(WEATHERS)
def test_no_state_is_left_before_its_time(weathers):
    told, _ = lived(weathers)
    state, entered = State.CLEAN, 0.0
    for now, _, orders in told:
        if orders.state is not state:
            assert now - entered >= LASTS.get((state, orders.state), 0.0) - 0.03, (state, orders.state)
            state, entered = orders.state, now


@settings(max_examples=60, deadline=None)
@given(WEATHERS)
def test_no_more_is_allowed_than_the_budget_and_nothing_on_top_of_a_queue(weathers):
    told, _ = lived(weathers)
    tight_at = None
    may_be_others = False  # what was there before may come again, and is borne then: see standing.py
    for now, signs, orders in told:
        most = 150 if may_be_others else 50
        may_be_others |= signs.queue >= 20
        is_off = orders.mode is Mode.OFF
        assert 0 <= orders.budget <= 1
        assert 0 <= orders.depth <= 50
        assert is_off or (orders.mode is Mode.COPIES) == bool(orders.distances)
        assert not is_off or (orders.budget, orders.depth, orders.distances) == (0, 0, ())
        if signs.queue > most or signs.is_stream or orders.state in (*TIGHT, State.DARK):
            assert is_off
        if orders.state in TIGHT:
            tight_at = now
        if orders.state is State.CLEAN:
            assert orders.budget <= 0.1
            assert orders.depth <= 10
        if tight_at is not None and now - tight_at < 30 and not is_off:
            peak = max(one.acked_bps for _, one, _ in told)
            assert orders.budget * signs.media_bps <= 0.5 * max(0.0, peak - signs.media_bps) + 1e-6
        assert orders.max_age <= 180
        assert orders.max_age <= signs.slack
        assert 1 <= orders.speakers <= 3


@settings(max_examples=60, deadline=None)
@given(WEATHERS)
def test_the_ask_moves_no_faster_than_its_timers(weathers):
    told, _ = lived(weathers)
    asked, moved, lowered = Level(24_000, 20), -100.0, -100.0
    for now, _, orders in told:
        if orders.ask == asked:
            continue
        if (orders.ask.bps, -orders.ask.ptime) > (asked.bps, -asked.ptime):
            assert now - moved >= 5.0 - 1e-6
        else:
            assert now - lowered >= 1.0 - 1e-6
            lowered = now
        asked, moved = orders.ask, now


@settings(max_examples=60, deadline=None)
@given(WEATHERS)
def test_a_leg_is_dark_exactly_while_reports_are_missing(weathers):
    told, _ = lived(weathers)
    for _, signs, orders in told:
        assert (orders.state is State.DARK) == (signs.report_age > 1000)


@settings(max_examples=60, deadline=None)
@given(WEATHERS, ANY_SIGNS)
def test_congestion_always_ends_when_the_queue_is_gone(weathers, last):
    _, life = lived(weathers)
    gone = replace(last, queue=19.0, age=0.0, report_age=0.0, sent_bps=60_000.0, acked_bps=60_000.0)
    life.tick(gone, 1 + seconds(2.0))
    assert life.tick(gone).state is not State.CONGESTED
    life.tick(gone, seconds(5.0))
    assert life.tick(gone, 10).state not in TIGHT


def test_every_finding_has_a_place_in_the_table():
    told = {event for row in Controller.TRANSITIONS.values() for event in row}
    assert told == {
        Bursty, Fed, HeavyGone, HeavyLoss, LossGone, QueueGone, QueueGrew, QueueStands, Reported,
        ReportsMissing, Spotty, Starving,
    }  # fmt: skip
    assert set(Controller.TRANSITIONS) == set(State)


def test_a_leg_rests_when_a_tick_with_nothing_wrong_would_change_nothing():
    life = Life()
    assert life.controller.is_at_rest(life.now)
    life.tick(SPOTTY)  # one tick of two
    assert not life.controller.is_at_rest(life.now)
    life.tick(FINE)
    assert life.controller.is_at_rest(life.now)
    life.until(SPOTTY, State.LOSSY_I)
    assert not life.controller.is_at_rest(life.now)
    life.until(FULL, State.CONGESTED)
    life.until(FINE, State.CLEAN)
    before = life.tick(FINE)
    assert not life.controller.is_at_rest(life.now)  # the step back up, and what it may add
    life.tick(FINE, seconds(CONFIG.probation_s))
    assert life.controller.is_at_rest(life.now)
    assert life.tick(FINE).budget >= before.budget
