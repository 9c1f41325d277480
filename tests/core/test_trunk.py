"""A trunk: which of two connections stays, when it is dialed again, and when it is suspect."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.trunk import (
    CARRYING_S,
    GIVE_UP_S,
    PING_S,
    PROBE_S,
    RETRY_S,
    Acknowledged,
    Dialed,
    Drained,
    Due,
    Greeted,
    Lost,
    Met,
    Silent,
    State,
    Trunk,
    beside,
    node_of,
)
from trunkpair import greet


def trunk(own: str = "b") -> Trunk:
    """Our end of one, toward node m."""
    return Trunk(own, "m")


def up(own: str = "b", now: float = 100.0) -> Trunk:
    """One that we dialed and that is up, by connection 1; its ping is due in 5 s."""
    one = trunk(own)
    one.on_dialed(1)
    assert one.on_greeted(1, greet("m"), now, 0.5) == Met(True, None)
    return one


# The table of docs/protocol.md, section 14. Columns: dial, greeted, silent, acknowledged, lost, drain.
EVENTS = (Dialed, Greeted, Silent, Acknowledged, Lost, Drained)
TABLE = {
    "down": "dialling up . . . .",
    "dialling": ". up . . down down",
    "up": ". . suspect . down leaving",
    "suspect": ". up . up down leaving",
    "leaving": ". . . . down .",
}


def test_the_table_is_that_of_the_specification():
    found = {
        state.value: " ".join(
            "." if after is state else after.value for after in (row[event] for event in EVENTS)
        )
        for state, row in Trunk.TRANSITIONS.items()
    }
    assert found == TABLE
    assert all(set(row) == set(EVENTS) for row in Trunk.TRANSITIONS.values())
    assert set(Trunk.TRANSITIONS) == set(State)


def test_a_trunk_that_nobody_needs_is_not_dialed():
    one = trunk()
    assert one.next_deadline() is None
    assert one.on_timer(100.0, 0.0) == ()
    assert not one.is_there
    assert not one.takes_halves


def test_who_needs_it_dials_at_once():
    one = trunk()
    one.want(100.0)
    assert one.next_deadline() <= 100.0
    assert one.on_timer(100.0, 0.0) == (Due.DIAL,)
    one.on_dialed(1)
    assert (one.state, one.link, one.next_deadline()) == (State.DIALLING, 1, None)
    assert one.on_greeted(1, greet("m"), 100.1, 0.5) == Met(True, None)
    assert (one.state, one.is_there, one.takes_halves) == (State.UP, True, True)
    assert one.peer.node == "m"


def test_a_lost_one_is_dialed_again_ever_later_cut_by_up_to_half():
    one, now = up(), 200.0
    one.want(now)
    for number, wait in enumerate((*RETRY_S, RETRY_S[-1]), 2):
        assert one.on_lost(number - 1, now, 0.0)
        assert one.state is State.DOWN
        assert one.next_deadline() == now + wait
        assert one.on_timer(now + wait - 0.001, 0.0) == ()
        now += wait
        assert one.on_timer(now, 0.0) == (Due.DIAL,)
        one.on_dialed(number)
    one.on_lost(number, now, 1.0)
    assert one.next_deadline() == now + 0.5 * RETRY_S[-1]
    one.on_dialed(50)
    one.on_greeted(50, greet("m"), now, 0.0)
    one.on_lost(50, now, 0.0)
    assert one.next_deadline() == now + RETRY_S[0]


def test_a_need_hurries_once_until_it_was_up_again():
    one = up()
    one.on_lost(1, 200.0, 0.0)
    assert one.next_deadline() is None
    one.want(200.1)
    assert one.on_timer(200.1, 0.0) == (Due.DIAL,)
    one.on_dialed(2)
    one.on_lost(2, 200.2, 0.0)
    one.want(200.3)
    assert one.next_deadline() == pytest.approx(201.2)
    one.on_dialed(3)
    one.on_greeted(3, greet("m"), 202.0, 0.0)
    one.on_lost(3, 203.0, 0.0)
    one.want(203.0)
    assert one.next_deadline() == 203.0


def test_a_need_that_went_away_and_came_back_waits_for_its_turn():
    one = up()
    one.want(100.0)
    one.on_lost(1, 200.0, 0.0)
    one.unwant()
    assert (one.is_wanted, one.next_deadline()) == (False, None)
    one.want(200.05)
    assert one.is_wanted
    one.unwant()
    one.want(200.06)
    assert one.on_timer(200.06, 0.0) == (Due.DIAL,)
    one.on_dialed(2)
    one.on_lost(2, 200.1, 0.0)
    one.unwant()
    one.want(200.2)
    assert one.next_deadline() == pytest.approx(201.1)


# ---------------------------------------------------------------- of two connections


def test_of_two_dialed_at_once_the_smaller_nodes_stays():
    small, large = trunk("b"), trunk("z")
    small.on_dialed(1)
    large.on_dialed(1)
    assert not small.stays(greet("m"))
    assert large.stays(greet("m"))
    assert large.on_greeted(2, greet("m"), 100.0, 0.5) == Met(True, 1)
    assert large.link == 2
    assert not large.on_lost(1, 100.1, 0.0)
    assert large.state is State.UP


def test_the_smaller_nodes_stays_after_it_is_up_too():
    assert not up("b").stays(greet("m"))
    assert up("z").stays(greet("m"))


def test_a_new_process_is_never_turned_away():
    one = up("b")
    assert one.stays(greet("m", boot=2))
    assert one.on_greeted(2, greet("m", boot=2), 101.0, 0.5) == Met(True, 1)


def test_who_dialed_the_one_in_use_may_replace_it():
    one = trunk("b")
    assert one.stays(greet("m"))
    assert one.on_greeted(1, greet("m"), 100.0, 0.5) == Met(True, None)
    assert one.stays(greet("m"))
    assert one.on_greeted(2, greet("m"), 101.0, 0.5) == Met(False, 1)


def test_a_suspect_one_is_replaced():
    one = up("b")
    one.on_sent(100.0)
    assert one.on_timer(100.6, 0.0) == (Due.TELL,)
    assert one.state is State.SUSPECT
    assert one.stays(greet("m"))
    assert one.on_greeted(2, greet("m"), 101.0, 0.5) == Met(False, 1)
    assert one.state is State.UP


def test_the_same_process_by_another_connection_has_forgotten_nothing():
    one = up()
    one.on_lost(1, 200.0, 0.0)
    assert one.on_greeted(2, greet("m"), 201.0, 0.5) == Met(False, None)


class World:
    """Nodes b and z, whose connections open, break and are noticed to be broken at any time."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.trunks = {"b": Trunk("b", "z"), "z": Trunk("z", "b")}
        self.boots = {"b": 1, "z": 1}
        self.flying = []  # dialed, not answered yet: number, by whom
        self.broken = []  # number, and who has not seen it yet

    def dial(self, name) -> None:
        if self.trunks[name].state is State.DOWN:
            number = next(self.numbers)
            self.trunks[name].on_dialed(number)
            self.flying.append((number, name))

    def close(self, number) -> None:
        self.broken += [(number, name) for name in self.trunks]

    def answer(self) -> None:
        """What was dialed first arrives, and is proven."""
        number, name = self.flying.pop(0)
        other = "z" if name == "b" else "b"
        dialer, acceptor = self.trunks[name], self.trunks[other]
        if dialer.link != number:
            return  # given up meanwhile
        own = greet(name, self.boots[name])
        if not acceptor.stays(own):
            self.broken.append((number, name))
            return
        for met in (
            acceptor.on_greeted(number, own, 0.0, 0.5),
            dialer.on_greeted(number, greet(other, self.boots[other]), 0.0, 0.5),
        ):
            if met.replaced is not None:
                self.close(met.replaced)

    def notice(self) -> None:
        number, name = self.broken.pop(0)
        self.trunks[name].on_lost(number, 0.0, 0.5)

    def cut(self) -> None:
        if self.trunks["b"].link is not None:
            self.close(self.trunks["b"].link)

    def crash(self) -> None:
        """Node b is another process from now on."""
        link = self.trunks["b"].link
        self.trunks["b"] = Trunk("b", "z")
        self.boots["b"] += 1
        if link is not None:
            self.broken.append((link, "z"))

    def settle(self) -> None:
        """All that is under way arrives."""
        while self.flying or self.broken:
            if self.flying:
                self.answer()
            else:
                self.notice()


steps = st.sampled_from((("dial", "b"), ("dial", "z"), ("answer",), ("cut",), ("notice",), ("crash",)))


@given(st.lists(steps, max_size=30))
def test_two_nodes_agree_on_one_connection_whatever_happens_before(found):
    world = World()
    for name, *words in found:
        if (name != "answer" or world.flying) and (name != "notice" or world.broken):
            getattr(world, name)(*words)
    for _ in range(6):
        world.settle()
        for name in world.trunks:
            world.dial(name)
    world.settle()
    states = {(trunk.state, trunk.link) for trunk in world.trunks.values()}
    assert len(states) == 1
    assert states.pop()[0] is State.UP


# ---------------------------------------------------------------- is it alive?


def test_pings_are_due_every_five_seconds_give_or_take_a_fifth():
    one = up()
    assert one.next_deadline() == 100.0 + PING_S
    assert one.on_timer(104.9, 0.0) == ()
    assert one.on_timer(105.0, 0.0) == (Due.PING,)
    assert one.next_deadline() == 109.0
    assert one.on_timer(109.0, 1.0) == (Due.PING,)
    assert one.next_deadline() == 115.0


def test_600_ms_without_an_acknowledgement_make_it_suspect_and_one_ends_that():
    one = up()
    one.on_sent(101.0)
    one.on_sent(101.5)
    assert one.next_deadline() == pytest.approx(101.6)
    one.on_timer(101.59, 0.0)
    assert one.state is State.UP
    one.on_timer(101.61, 0.0)
    assert (one.state, one.is_there, one.takes_halves) == (State.SUSPECT, True, False)
    one.on_acknowledged(0.02, 101.61)
    assert (one.state, one.takes_halves) == (State.UP, True)
    assert one.next_deadline() == 105.0


def test_where_round_trips_are_long_three_of_them_count():
    one = up()
    one.on_acknowledged(0.3, 100.5)
    one.on_sent(101.0)
    assert one.next_deadline() == pytest.approx(101.9)


def test_while_voices_pass_something_is_sent_every_100_ms():
    one = up()
    one.carry(True)
    assert one.next_deadline() == 100.1
    assert one.on_timer(100.1, 0.0) == (Due.PROBE,)
    one.on_sent(100.1)
    assert one.next_deadline() == pytest.approx(100.2)
    one.carry(False)
    assert one.next_deadline() == pytest.approx(100.7)


def test_while_voices_pass_300_ms_since_the_last_acknowledgement_are_enough():
    one = up()
    one.carry(True)
    for turn in range(1, 6):
        one.on_sent(100.0 + turn / 10)
        one.on_acknowledged(0.04, 100.04 + turn / 10)
    one.on_sent(100.6)
    one.on_timer(100.83, 0.0)
    assert one.state is State.UP
    one.on_timer(100.85, 0.0)
    assert one.state is State.SUSPECT
    one.on_acknowledged(0.04, 100.9)
    assert one.state is State.UP


def test_where_round_trips_are_long_two_of_them_count_while_voices_pass():
    one = up()
    one.carry(True)
    one.on_acknowledged(0.3, 101.0)
    one.on_sent(101.1)
    one.on_timer(101.59, 0.0)
    assert one.state is State.UP
    one.on_timer(101.61, 0.0)
    assert one.state is State.SUSPECT


def test_when_no_voice_passes_any_more_nothing_is_waited_for_that_was_not_sent():
    one = up()
    one.carry(True)
    one.on_sent(100.1)
    one.on_acknowledged(0.04, 100.2)
    one.carry(False)
    assert one.next_deadline() == 105.0


def test_who_was_away_itself_gives_the_other_one_another_100_ms():
    one = up()
    one.carry(True)
    one.on_sent(100.1)
    one.on_timer(101.0, 0.0)
    assert one.state is State.UP
    one.on_acknowledged(0.04, 101.01)
    assert one.state is State.UP
    one.on_sent(101.1)
    one.on_timer(102.0, 0.0)
    one.on_timer(102.11, 0.0)
    assert one.state is State.SUSPECT


@pytest.mark.parametrize("carries", [True, False])
def test_a_suspect_one_is_probed_whether_or_not_voices_pass(carries):
    one = up()
    one.carry(carries)
    one.on_sent(100.0)
    one.on_timer(one.next_deadline() if not carries else 100.31, 0.0)
    assert one.state is State.SUSPECT
    one.on_sent(100.65)
    assert one.next_deadline() == pytest.approx(100.75)
    assert one.on_timer(100.76, 0.0) == (Due.PROBE,)


def suspect(at: float) -> Trunk:
    """One that somebody needs, and that becomes suspect at this time."""
    one = up()
    one.want(100.0)
    one.carry(True)
    one.on_acknowledged(0.0, at - CARRYING_S)
    one.on_sent(at)
    assert Due.TELL in one.on_timer(at, 0.0)
    return one


def test_one_that_stays_suspect_is_given_up_and_dialed_anew():
    one = suspect(101.0)
    end = 101.0 + GIVE_UP_S
    assert Due.GIVE_UP not in one.on_timer(end - 0.01, 0.0)
    one.on_sent(end - 0.01)
    assert one.next_deadline() == end
    assert one.on_timer(end, 0.0) == (Due.GIVE_UP,)
    one.on_lost(1, end, 0.0)
    assert one.next_deadline() == end + RETRY_S[0]
    assert one.on_timer(end + RETRY_S[0], 0.0) == (Due.DIAL,)


def test_one_that_speaks_again_is_not_given_up_and_is_given_as_long_the_next_time():
    one = suspect(101.0)
    one.on_acknowledged(0.04, 101.0 + GIVE_UP_S - 0.1)
    assert Due.GIVE_UP not in one.on_timer(101.0 + GIVE_UP_S, 0.0)
    assert one.state is State.UP
    one.on_sent(106.0)
    one.on_acknowledged(0.04, 110.0)
    assert one.on_timer(110.0 + CARRYING_S, 0.0)[0] is Due.TELL
    one.on_sent(114.0)
    assert Due.GIVE_UP not in one.on_timer(114.2, 0.0)


def test_who_was_away_itself_gives_nobody_up_for_what_waits_to_be_read():
    one = suspect(101.0)
    assert Due.GIVE_UP not in one.on_timer(111.0, 0.0)
    one.on_sent(111.0)
    assert one.next_deadline() == pytest.approx(111.0 + PROBE_S)
    assert one.on_timer(111.0 + PROBE_S, 0.0) == (Due.GIVE_UP,)


# ---------------------------------------------------------------- leaving


def test_a_draining_node_takes_no_halves_and_dials_no_more():
    one = up()
    one.want(100.0)
    assert one.on_drained() is None
    assert (one.state, one.is_there, one.takes_halves) == (State.LEAVING, True, False)
    one.on_lost(1, 200.0, 0.0)
    one.want(200.1)
    assert (one.state, one.next_deadline()) == (State.DOWN, None)


def test_a_draining_node_gives_up_what_it_dials():
    one = trunk()
    one.want(100.0)
    one.on_dialed(1)
    assert one.on_drained() == 1
    assert (one.state, one.link, one.next_deadline()) == (State.DOWN, None, None)


def test_a_node_that_lost_a_draining_one_may_come_back_to_it_for_what_is_left():
    one = trunk()
    assert one.on_drained() is None
    one.on_greeted(1, greet("m"), 100.0, 0.5)
    assert (one.state, one.takes_halves) == (State.LEAVING, False)


def test_a_node_has_two_ways_by_turns():
    assert (beside("fra-1"), beside("fra-1+")) == ("fra-1+", "fra-1")
    assert (node_of("fra-1"), node_of("fra-1+")) == ("fra-1", "fra-1")
    assert Trunk("iad-1", "fra-1+").node == "fra-1"


def test_who_dialed_it_dials_what_it_lacks_until_its_node_leaves():
    made = Trunk("a", "b")
    made.want(0.0)
    made.on_dialed(1)
    assert made.on_lost(1, 0.0, 0.0)
    assert made.tries == 1
    made.on_dialed(2)
    made.on_greeted(2, greet("b"), 1.0, 0.5)
    assert (made.tries, made.is_ours) == (0, True)
    made.on_drained()
    assert not made.is_ours


def test_the_round_trip_is_that_of_the_newest_acknowledgement():
    trunk = Trunk("a", "b")
    assert trunk.round_trip == 0
    trunk.on_acknowledged(0.08, 1.0)
    assert trunk.round_trip == 0.08
