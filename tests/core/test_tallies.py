"""What metrics show of quality: fixed buckets, calls counted once, nothing of people."""

from dataclasses import replace

from core.test_adapting import MEASURE, ON
from core.test_quality import FINE
from pair import World, config
from relay.config import Config
from relay.core import events as ev
from relay.core.quality import Direction
from relay.core.tallies import MOS, Histogram, Tallies
from relay.protocol import control


def summary(**changes):
    direction = Direction(Config().quality)
    for _ in range(3):
        direction.on_window(replace(FINE, **changes))
    return direction.summary()


def test_a_value_counts_up_to_each_bound_that_is_not_below_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.add(value)
    assert (histogram.cumulative(), histogram.total) == ([2, 4, 5], 14.0)


def test_a_call_is_poor_once_however_many_directions_are():
    tallies = Tallies()
    good, poor = summary(), summary(lost_down=0.2)
    silent = summary(silence=4000.0)
    tallies.on_call([good, poor, poor], 3.0)
    tallies.on_call([good, silent], 3.0)
    tallies.on_call([], 3.0)
    tallies.on_call([Direction(Config().quality).summary()], 3.0)  # nobody reported anything
    assert (tallies.judged, tallies.poor, tallies.one_way) == (2, 2, 1)
    assert tallies.mos.cumulative()[-1] == 5
    assert tallies.mos.bounds == MOS


def test_what_nobody_measured_is_not_counted_as_good():
    tallies = Tallies()
    tallies.on_window(replace(FINE, gaps=2, lost_down=None), "quic")
    assert (tallies.gaps, dict(tallies.loss)) == (2, {})
    tallies.on_call([summary(late=None, silence=4000.0)], 3.0)  # that nothing came was seen all the same
    assert tallies.mos.cumulative()[-1] == 0
    assert (tallies.judged, tallies.one_way) == (1, 1)


def test_a_copy_stays_as_it_was():
    tallies = Tallies()
    tallies.on_window(replace(FINE, gaps=2, lost_down=0.01), "quic")
    before = tallies.copy()
    tallies.on_window(replace(FINE, gaps=3, lost_down=0.4), "quic")
    assert (before.gaps, tallies.gaps) == (2, 5)
    assert before.loss["quic", "down"].cumulative()[-1] == 1
    assert tallies.loss["quic", "down"].cumulative()[-1] == 2


def test_the_engine_counts_uplinks_round_trips_and_the_states_of_ways():
    world = World(replace(config(), adapt=ON))
    ann, bob = world.talking()
    tallies = world.engine.node.tallies
    world.feed(ev.RoundTrips({ann.leg: 0.05, bob.leg: 0.5, 999: 1.0}))
    assert tallies.rtt["quic"].cumulative() == [0, 0, 1, 1, 1, 1, 2, 2]
    for _ in range(6):
        world.now += 0.2
        world.feed(ev.Measured([MEASURE._replace(leg=bob.leg)]))
    assert round(tallies.state_s["clean"], 3) == 1.0
    for ctr in (0, 1, 3):
        ann.speak(ctr)
    ann.hangup()
    assert tallies.loss["quic", "up"].total == 0.25
    assert tallies.judged == 0


def test_stars_stand_in_the_record_if_they_come_before_it_and_are_told_if_they_come_after():
    world = World()
    ann, bob = world.talking()
    ann.ask(control.Feedback(c=ann.cid, stars=4))
    bob.hangup()
    (record,) = world.records
    assert [one.quality.get("stars") for one in record.participants] == [4.0, None]
    bob.ask(control.Feedback(c=bob.cid, stars=2))
    told = [output for output in world.outputs if isinstance(output, ev.Rated)]
    assert told == [ev.Rated(bob.cid.hex(), bob.sub.hex(), 2)]
