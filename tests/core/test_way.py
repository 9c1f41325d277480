"""Measures and reports of one way become signs; a way on which all is well is not judged."""

from relay.config_voice import AdaptConfig
from relay.core.adapt import Mode, State
from relay.core.events import Measure
from relay.core.way import Way
from relay.protocol.datagram import FlowReport, LegReport

PACKET = 120
FINE = Measure(7, 0, 0, 0, 0, 0, 0.005, 0.0, (0.04, 0.04, 0.002, 0.04), 0, 0, 0, 0, 0)


class Life:
    """A way with ten packets in each 200 ms."""

    def __init__(self, **changes):
        self.way = Way(AdaptConfig(enabled=True, **changes))
        self.now = 100.0
        self.measure = FINE
        self.seq = 0

    def pass_(self, ticks=1, *, lost=0, runs=None, rtt=0.04, late=0, age=0.0, acked=None):
        """Time passes; what was ordered last in it, None if nothing was judged."""
        last = None
        for _ in range(ticks):
            self.now += 0.2
            came = 10 - lost if acked is None else acked
            before = self.measure
            self.measure = before._replace(
                acked=before.acked + came,
                lost=before.lost + lost,
                runs=before.runs + (lost if runs is None else runs),
                bytes_sent=before.bytes_sent + 10 * PACKET,
                bytes_acked=before.bytes_acked + came * PACKET,
                age=age,
                rtt=rtt and (rtt, 0.04, 0.002, 0.04),
                came=before.came + came,
                late=before.late + late,
            )
            last = self.way.on_measure(self.measure, self.now) or last
        return last

    def report(self, *, newest=0, bits=1, delay=0, jb=60, flow=9, kid=0):
        """The listener's report, 200 ms after the last."""
        self.seq += 1
        one = FlowReport(flow, kid, newest, bits, 0, delay, delay, 0, jb, 0, 0)
        self.way.on_report(LegReport(self.seq, 200 * self.seq, (one,)), self.now)


def test_a_way_is_armed_at_its_first_measure_and_then_left_alone():
    life = Life()
    first = life.pass_()
    assert (first.state, first.mode, first.budget, first.depth) == (State.CLEAN, Mode.REPEATS, 0.1, 10.0)
    assert first.max_age == 60.0  # what a listener holds who said nothing
    assert first.ack_slack == 10
    assert life.pass_(50) is None


def test_a_way_on_which_nothing_is_wrong_is_measured_once_a_second():
    life = Life()

    def due_in(ticks):
        due = []
        for tick in range(ticks):
            if life.way.is_due(life.now + 0.2):
                life.way.since_look(life.now + 0.2)
                life.pass_()
                due.append(tick)
            else:
                life.now += 0.2
        return due

    assert due_in(15) == [0, 1, 2, 3, 4, 9, 14]
    life.pass_(lost=1)
    life.way.since_look(life.now)
    assert due_in(5) == [0, 1, 2, 3, 4]  # of a leg that is lossy nothing is left out
    life.pass_(1, rtt=0.2)
    assert due_in(5) == [0, 1, 2, 3, 4]


def test_a_way_on_which_all_was_well_for_long_is_over():
    life = Life(armed_s=10.0)
    life.pass_(40)
    assert not life.way.is_over(life.now)
    life.pass_(lost=1)
    life.pass_(49)
    assert not life.way.is_over(life.now)
    life.pass_(2)
    assert life.way.is_over(life.now)
    life.pass_(5, lost=2)
    life.pass_(75)  # still lossy, officially
    assert not life.way.is_over(life.now)


def test_a_way_is_looked_at_again_for_as_long_when_somebody_tells_of_trouble():
    life = Life(armed_s=10.0)
    life.pass_(60)
    assert life.way.is_over(life.now)
    life.way.on_trouble(life.now)
    assert not life.way.is_over(life.now + 9.9)
    assert life.way.is_over(life.now + 10.0)


def test_the_time_between_two_looks_is_told_at_the_second():
    way = Way(AdaptConfig())
    assert [way.since_look(now) for now in (100.0, 100.25, 101.0)] == [0.0, 0.25, 0.75]


def test_a_queue_that_stood_before_anybody_looked_is_seen():
    life = Life()
    life.measure = FINE._replace(rtt=(0.14, 0.14, 0.0, 0.04))
    assert life.way.on_measure(life.measure, life.now).state is State.CLEAN
    life.pass_(rtt=0.15, acked=2)
    assert life.pass_(5, rtt=0.15, acked=2).state is State.CONGESTED


def test_single_losses_make_a_way_lossy_and_rest_makes_it_clean():
    life = Life()
    life.pass_(20)
    assert life.pass_(10, lost=1).state is State.LOSSY_I
    assert life.way.loss > 0.05
    assert life.pass_(90).state is State.CLEAN
    assert life.pass_(90) is None


def test_losses_in_a_row_are_bursts():
    life = Life()
    life.pass_(20)
    assert life.pass_(5, lost=3, runs=1).state is State.LOSSY_B


def heavy(life, *, late, missed):
    """Bursts for 12 s: so many of ten not acknowledged in time, so many reported as missing."""
    life.report(jb=90)
    life.pass_(20)
    for turn in range(1, 60):
        life.report(newest=10 * turn, bits=0x3FF & ~missed, jb=90)
        orders = life.pass_(lost=3, runs=1, late=late)
    return orders.state is State.HEAVY


def test_what_repair_does_not_save_makes_a_way_heavy():
    life = Life()
    life.pass_(20)
    assert life.pass_(60, lost=3, runs=1, late=2).state is State.LOSSY_B  # 60 ms: too soon to tell
    assert heavy(Life(), late=2, missed=0b1100)


def test_a_way_is_not_heavy_for_what_never_came_to_us_nor_for_what_came_and_was_not_acknowledged():
    assert not heavy(Life(), late=0, missed=0b1100)
    assert not heavy(Life(), late=2, missed=0)


def test_round_trips_that_grow_are_a_queue():
    life = Life()
    life.pass_(20)
    for turn in range(6):
        orders = life.pass_(rtt=0.04 + 0.03 * (turn + 1))
    assert orders.state is State.CONGESTED
    assert orders.mode is Mode.OFF


def test_what_overflowed_is_not_held_against_a_way_whose_queue_is_gone():
    life = Life()
    life.pass_(20)
    for turn in range(6):
        orders = life.pass_(rtt=0.04 + 0.03 * (turn + 1), lost=3)
    assert orders.state is State.CONGESTED
    while orders.state is State.CONGESTED:
        overflowed = life.way.loss
        orders = life.pass_()
    assert overflowed > 0.01  # from which a way is lossy
    assert (orders.state, life.way.loss) == (State.CLEAN, None)
    for _ in range(20):
        assert life.pass_().state is State.CLEAN
    assert life.way.loss == 0


def test_so_long_as_packets_reach_the_listener_in_time_it_is_not_the_way_down_that_is_full():
    life = Life()
    life.pass_(20)
    for turn in range(8):
        life.report(newest=10 * turn, bits=0x3FF, delay=30)
        assert life.pass_(rtt=0.04 + 0.03 * (turn + 1)) is None or turn == 0
    life.now += 1.0
    assert life.pass_(rtt=0.3) is not None  # what was reported is old by now


def test_packets_that_wait_here_are_congestion():
    life = Life()
    life.pass_(20)
    assert life.pass_(age=0.15).state is State.CONGESTED


def test_a_listener_who_neither_acknowledges_nor_reports_is_dark_and_a_word_is_enough():
    life = Life()
    life.pass_(20)
    assert life.pass_(7, acked=0).state is State.DARK
    life.report()
    assert life.pass_(acked=0).state is State.CLEAN


def test_a_listener_to_whom_nothing_is_sent_owes_nothing():
    life = Life()
    life.pass_()
    assert life.way.on_measure(life.measure, life.now + 60) is None


def test_what_the_listener_holds_is_how_old_a_repeat_may_be():
    life = Life()
    life.pass_(20)
    life.report(jb=84)
    assert life.pass_().max_age == 80.0
    life.report(newest=10, jb=87)
    assert life.pass_() is None
    life.report(newest=20, jb=0)
    assert life.pass_().max_age == 60.0


def test_without_a_round_trip_there_is_no_queue():
    life = Life()
    assert life.pass_(rtt=None).state is State.CLEAN


def test_the_length_of_packets_is_learned_from_what_came():
    life = Life()
    assert life.way.ptime == 20
    for newest, ptime in ((0, 20), (5, 40), (8, 60), (9, 60), (13, 60), (33, 10), (43, 20)):
        life.report(newest=newest)
        assert life.way.ptime == ptime


def test_a_report_without_delays_says_nothing_of_them():
    life = Life()
    life.pass_(20)
    one = FlowReport(9, 0, 0, 1, None, None, None, 0, 60, 0, 0)
    life.way.on_report(LegReport(1, 0, (one,)), life.now)
    for turn in range(6):
        orders = life.pass_(rtt=0.04 + 0.03 * (turn + 1))
    assert orders.state is State.CONGESTED


def test_packets_are_as_long_as_they_came_whenever_a_report_was_made():
    life = Life()
    for at, newest, age in ((200, 10, 0), (400, 15, 100), (600, 30, 0), (640, 31, 20), (800, 40, 0)):
        one = FlowReport(9, 0, newest, 1, 0, 0, 0, age, 60, 0, 0)
        life.way.on_report(LegReport(at // 40, at, (one,)), life.now)
        assert life.way.ptime == 20


def test_keys_that_come_and_go_take_no_more_and_more_memory():
    life = Life()
    for kid in range(200):
        life.report(kid=kid)
    assert len(life.way._settled) == len(life.way._newest) <= 64


def test_losses_are_told_to_whoever_looks_next():
    life = Life()
    assert life.way.losses == (0, 0)
    life.pass_(3, lost=2, runs=1)
    assert life.way.losses == (6, 3)
    later = Life()
    later.way = Way(AdaptConfig(), 6, 3)
    assert later.way.losses == (6, 3)
    later.measure = life.measure._replace(acked=9_000, lost=7, runs=4)
    assert later.way.on_measure(later.measure, later.now).state is State.CLEAN
    assert later.way.loss == 1 / 101  # one, of what is remembered


def test_two_lost_packets_after_a_long_time_are_noticed_at_once():
    life = Life()
    life.measure = FINE._replace(acked=9_000, lost=3, runs=2)
    life.way.on_measure(life.measure, life.now)
    assert life.pass_().state is State.LOSSY_B


def test_what_was_missed_before_repair_began_is_not_held_against_it():
    life = Life()
    life.report(jb=90)
    life.pass_(20)
    for turn in range(1, 40):
        life.report(newest=10 * turn, bits=0x3FF & ~(0b1100 if turn < 8 else 0), jb=90)
        orders = life.pass_(lost=3, runs=1, late=2 if turn < 8 else 0)
    assert orders.state is State.LOSSY_B


def test_a_queue_that_grows_when_somebody_begins_to_look_is_congestion_after_two_more_looks():
    life = Life()
    life.measure = FINE._replace(acked=9_000, rtt=(0.10, 0.07, 0.01, 0.04))
    life.way.on_measure(life.measure, life.now)
    assert life.pass_(rtt=0.105).state is State.CLEAN
    orders = life.pass_(rtt=0.110)
    assert (orders.state, orders.ask.ptime) == (State.CONGESTED, 60)


def test_a_queue_that_grows_steeply_is_congestion_at_the_second_look():
    life = Life()
    life.measure = FINE._replace(acked=9_000, rtt=(0.10, 0.07, 0.01, 0.04))
    life.way.on_measure(life.measure, life.now)
    orders = life.pass_(rtt=0.15)
    assert (orders.state, orders.ask.ptime) == (State.CONGESTED, 60)
