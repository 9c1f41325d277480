"""A home knows its halves elsewhere, and never thinks a voice shut that somebody still hears."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.trunk_closing import Certainty
from relay.core.trunk_guest import Guest
from relay.core.trunk_home import MOST, Home, There, Told
from relay.core.trunk_sending import Voice
from relay.errors import LocalError
from relay.protocol.messages import Limits
from relay.protocol.trunk_messages import Attached, Beat, Gate, Grant, Halves, Seat

C = bytes(range(16))
ANN, BEN = Voice(C, 0), Voice(C, 1)


def home(*people: tuple[str, Voice]) -> Home:
    """With halves of these people at these nodes, numbered from 0 at each."""
    one = Home()
    for node, person in people or (("g", ANN),):
        one.on_up(node, 100.0, is_new=True)
        assert one.attach(node, person, 1, 100.0) is not None
    return one


def halves(*numbers: int, seq: int | None = None, more: bool = False, term: int = 1) -> Halves:
    return Halves(of=tuple((C, term, number) for number in numbers), more=more, seq=seq)


# ---------------------------------------------------------------- halves


def test_halves_are_numbered_at_each_guest():
    one = home(("g", ANN), ("g", BEN), ("f", BEN))
    assert one.half("g", 0) == There(ANN, 1, 0)
    assert one.half("g", 1) == There(BEN, 1, 0)
    assert one.half("f", 0) == There(BEN, 1, 0)
    assert one.half("g", 2) is None
    assert one.half("x", 0) is None


def test_a_number_rests_before_it_means_another_half():
    one = home(("g", ANN), ("g", BEN))
    assert one.release("g", 0, 101.0).person == ANN
    assert one.half("g", 0) is None
    assert one.attach("g", ANN, 1, 102.0) == 2
    for node, number in (("g", 0), ("x", 0)):
        with pytest.raises(LocalError):
            one.release(node, number, 103.0)


def test_a_guest_has_so_many_halves():
    one = Home()
    assert [one.attach("g", ANN, 1, 0.0) for _ in range(MOST)] == list(range(MOST))
    assert one.attach("g", ANN, 1, 0.0) is None


def test_a_list_is_held_against_what_we_know():
    one = home(("g", ANN), ("g", BEN))
    assert one.on_halves("g", halves(0, 1)) == Told((), ())
    assert one.on_halves("g", halves(0, 7)) == Told((7,), (1,))
    assert one.on_halves("g", halves(0, 1, term=2)) == Told((0, 1), (0, 1))
    assert one.on_halves("g", Halves(of=((bytes(16), 1, 0), (C, 1, 1)))) == Told((0,), (0,))
    assert one.on_halves("x", halves(4)) == Told((4,), ())


def test_a_list_in_pieces_is_one_list():
    one = home(("g", ANN), ("g", BEN))
    assert one.on_halves("g", halves(1, 9, more=True)) == Told((9,), ())
    assert one.on_halves("g", halves(0)) == Told((), ())
    assert one.on_halves("g", halves(1)) == Told((), (0,))


def test_a_list_that_a_lost_trunk_cut_short_is_forgotten():
    one = home(("g", ANN), ("g", BEN))
    one.on_halves("g", halves(0, more=True))
    one.on_down("g")
    one.on_up("g", 101.0, is_new=False)
    assert one.on_halves("g", halves(1)) == Told((), (0,))


def test_a_half_that_may_be_on_its_way_is_not_missed():
    one = home()
    ((_, beat),) = one.on_timer(105.0)
    assert beat == Beat(seq=1, halves=1, ok=0)
    late = one.attach("g", BEN, 1, 105.1)
    assert one.on_halves("g", halves(seq=1)) == Told((), (0,))
    one.on_ok("g", beat, 105.2)
    ((_, beat),) = one.on_timer(110.0)
    assert one.on_halves("g", halves(0, seq=beat.seq)) == Told((), (late,))


# ---------------------------------------------------------------- beats


def test_beats_go_to_guests_that_have_halves_and_are_there():
    one = home(("g", ANN), ("f", BEN))
    assert one.next_deadline() == 105.0
    one.on_down("f")
    assert one.on_timer(104.9) == ()
    assert one.on_timer(105.0) == (("g", Beat(seq=1, halves=1, ok=0)),)
    one.on_ok("g", Beat(seq=1, halves=1, ok=0), 105.1)
    one.on_ok("x", Beat(seq=1, halves=1, ok=0), 105.1)
    assert (one.heard_at("g"), one.heard_at("f"), one.heard_at("x")) == (105.1, 100.0, None)
    one.on_up("f", 106.0, is_new=False)
    assert one.on_timer(106.0) == (("f", Beat(seq=1, halves=1, ok=0)),)
    one.release("g", 0, 107.0)
    assert one.next_deadline() == 111.0
    assert one.heard_at("g") is None


# ---------------------------------------------------------------- closings


def test_a_closing_is_sure_with_one_word_of_the_speakers_node():
    one = home(("f", ANN), ("g", BEN))
    assert one.close(1, "f", frozenset({"g"}), 101.0) is Certainty.PENDING
    assert one.on_gate_shut(1, "f", 101.1) is Certainty.PENDING
    assert one.on_grant_taken(1, "f", 101.2) is Certainty.SURE
    assert one.on_gate_shut(1, "g", 101.3) is Certainty.SURE
    assert one.on_grant_taken(9, "g", 101.3) is Certainty.SURE
    assert one.sure() == ()


def test_what_needs_no_word_is_sure_at_once():
    one = home(("g", BEN))
    assert one.close(1, None, frozenset({"g"}), 101.0) is Certainty.SURE
    assert one.next_deadline() == 105.0


@pytest.mark.parametrize(("speaker", "listeners"), [("x", {"g"}), ("g", {"x"}), (None, {"x"})])
def test_nobody_waits_for_a_node_without_halves(speaker, listeners):
    with pytest.raises(LocalError):
        home(("g", BEN)).close(1, speaker, frozenset(listeners), 101.0)


def test_the_silent_ones_get_no_beat_and_all_is_shut_when_their_lease_is_over():
    one = home(("f", ANN), ("g", BEN))
    one.close(1, "f", frozenset({"g"}), 101.0)
    assert one.next_deadline() == 102.0
    assert one.on_timer(102.0) == ()
    assert one.on_grant_taken(1, "g", 102.1) is Certainty.OVERDUE
    assert one.next_deadline() == 115.0
    assert one.on_timer(114.9) == ()
    beats = one.on_timer(115.0)
    assert one.sure() == (1,)
    assert one.sure() == ()
    assert {node for node, _ in beats} == {"f", "g"}
    assert one.on_grant_taken(1, "f", 116.0) is Certainty.SURE


def test_a_lease_ends_without_a_trunk_too():
    one = home(("f", ANN), ("g", BEN))
    one.close(1, "f", frozenset({"g"}), 101.0)
    one.on_timer(102.0)
    one.on_down("f")
    assert [node for node, _ in one.on_timer(115.0)] == ["g"]
    assert one.sure() == (1,)


def test_a_word_that_comes_late_brings_the_beats_back_at_once():
    one = home(("f", ANN), ("g", BEN))
    one.close(1, "f", frozenset({"g"}), 101.0)
    one.on_timer(102.0)
    assert one.on_gate_shut(1, "g", 107.0) is Certainty.SURE
    assert one.next_deadline() == 107.0
    assert {node for node, _ in one.on_timer(107.0)} == {"f", "g"}


def test_who_is_waited_for_twice_gets_no_beat_for_one_answer():
    one = home(("f", ANN), ("g", BEN), ("e", BEN))
    one.close(1, "f", frozenset({"g"}), 101.0)
    one.close(2, "f", frozenset({"e"}), 101.0)
    one.on_timer(102.0)
    assert one.on_gate_shut(1, "g", 103.0) is Certainty.SURE
    assert [node for node, _ in one.on_timer(103.0)] == ["g"]
    assert one.on_gate_shut(2, "e", 104.0) is Certainty.SURE
    assert {node for node, _ in one.on_timer(104.0)} == {"f", "e"}


def test_one_lease_of_several_listeners_is_not_enough():
    one = home(("f", ANN), ("g", BEN), ("e", BEN))
    one.on_timer(105.0)
    one.on_ok("g", Beat(seq=1, halves=1, ok=0), 105.1)
    one.on_ok("f", Beat(seq=1, halves=1, ok=0), 105.1)
    one.on_timer(110.0)
    one.close(1, "f", frozenset({"g", "e"}), 111.0)
    one.on_timer(112.0)
    one.on_timer(115.0)
    assert one.sure() == ()
    assert one.next_deadline() < 120.2
    one.on_timer(120.2)
    assert one.sure() == (1,)


def test_a_new_process_has_nothing_open():
    one = home(("f", ANN), ("g", BEN))
    one.close(1, "f", frozenset({"g"}), 101.0)
    one.on_timer(102.0)
    one.on_up("f", 103.0, is_new=True)
    assert one.sure() == (1,)
    assert one.on_halves("f", halves()) == Told((), (0,))


def test_a_guest_that_is_waited_for_is_kept_after_its_last_half():
    one = home(("f", ANN), ("g", BEN))
    one.close(1, "f", frozenset({"g"}), 101.0)
    one.release("f", 0, 101.0)
    one.release("g", 0, 101.0)
    one.on_timer(102.0)
    assert one.on_timer(115.0) == ()
    assert one.sure() == (1,)
    assert one.next_deadline() is None
    assert one.heard_at("f") is one.heard_at("g") is None


# ---------------------------------------------------------------- with guests


def attached(number: int, p: int) -> Attached:
    lim = Limits(up=80, dn=160, pps=100)
    return Attached(c=C, half=number, p=p, term=1, variant="control", joined=Seat(), lim=lim, standby=())


class World:
    """Ann at f, Ben at g, and their home: streams in order that stand still or are lost at any time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.home = Home()
        self.guests = {"f": Guest(), "g": Guest()}
        self.streams = defaultdict(list)  # by (guest, is toward the guest)
        self.is_lost = dict.fromkeys("fg", False)
        self.unseen = {"f": set(), "g": set()}  # who has not seen the loss
        self.is_open = False
        self.key = 0
        self.is_sure = False
        self.halves = {}
        for node, person in (("f", ANN), ("g", BEN)):
            self.home.on_up(node, self.now, is_new=True)
            self.halves[node] = self.guests[node].attach(C, 1, "h", self.now)
            number = self.home.attach(node, person, 1, self.now)
            self.guests[node].on_attached(1, attached(number, person.p))

    def say(self, node, is_down, *words) -> None:
        if not self.is_lost[node]:
            self.streams[node, is_down].append(words)

    def tell(self, node, key) -> None:
        """What may pass at this node, by what the home wants now."""
        if self.home.half(node, 0) is None:
            return
        if node == "f":
            self.say(node, True, "grant", Grant(half=0, to=("g",) if self.is_open else ()), key)
        else:
            at = {0: "f"} if self.is_open else {}
            self.say(node, True, "gate", Gate(half=0, open=len(at), ep=1, at=at), key)

    def open(self) -> None:
        self.is_open, self.is_sure = True, False
        self.key += 1
        for node in "fg":
            self.tell(node, 0)

    def close(self) -> None:
        if self.is_open and all(self.home.half(node, 0) for node in "fg"):
            self.is_open = False
            self.key += 1
            self.note(self.home.close(self.key, "f", frozenset("g"), self.now), self.key)
            for node in "fg":
                self.tell(node, self.key)

    def note(self, certainty, key) -> None:
        if certainty is Certainty.SURE and key == self.key:
            self.is_sure = True

    def down(self, node) -> None:
        """A message arrives at a guest."""
        if not self.streams[node, True]:
            return
        what, *words = self.streams[node, True].pop(0)
        guest = self.guests[node]
        if what == "beat":
            for piece in guest.on_beat("h", words[0], self.now):
                self.say(node, False, "halves", piece)
            self.say(node, False, "beat ok", words[0])
        elif what == "listed":
            guest.on_listed("h")
        elif guest.find("h", 0) is not None:
            (guest.on_gate if what == "gate" else guest.on_grant)(guest.find("h", 0), words[0])
            self.say(node, False, f"{what} ok", words[1])

    def up(self, node) -> None:
        """A message arrives at the home."""
        if not self.streams[node, False]:
            return
        what, *words = self.streams[node, False].pop(0)
        if what == "beat ok":
            self.home.on_ok(node, words[0], self.now)
        elif what == "grant ok":
            self.note(self.home.on_grant_taken(words[0], node, self.now), words[0])
        elif what == "gate ok":
            self.note(self.home.on_gate_shut(words[0], node, self.now), words[0])
        else:
            for number in self.home.on_halves(node, words[0]).gone:
                self.home.release(node, number, self.now)
            self.say(node, True, "listed")
            self.tell(node, 0)

    def lose(self, node) -> None:
        """The trunk is lost, and nobody knows yet."""
        if not self.is_lost[node]:
            self.is_lost[node] = True
            self.unseen[node] = {"home", "guest"}
            self.streams[node, True].clear()
            self.streams[node, False].clear()

    def see(self, node, who) -> None:
        """One of the two sees it; when both have, it is dialed again."""
        if who not in self.unseen[node]:
            return
        self.unseen[node].remove(who)
        if who == "home":
            self.home.on_down(node)
        else:
            self.guests[node].on_down("h", self.now)
        if not self.unseen[node]:
            self.is_lost[node] = False
            self.home.on_up(node, self.now, is_new=False)
            for piece in self.guests[node].on_up("h", self.now):
                self.say(node, False, "halves", piece)

    def tick(self, seconds) -> None:
        self.now += seconds
        for node, beat in self.home.on_timer(self.now):
            self.say(node, True, "beat", beat)
        for guest in self.guests.values():
            guest.on_timer(self.now)

    def check(self) -> None:
        for key in self.home.sure():
            self.note(Certainty.SURE, key)
        passes = "g" in self.halves["f"].goes_to and 0 in self.halves["g"].hears
        assert not (self.is_sure and passes), "the home thinks a voice shut that is heard"


def test_a_beat_that_stood_still_on_its_way_keeps_nothing_open_for_longer():
    world = World()
    world.open()
    for node in "fg":
        world.down(node)
    assert "g" in world.halves["f"].goes_to
    assert 0 in world.halves["g"].hears
    world.tick(5.0)  # a beat leaves, and stands still
    world.tick(1.0)
    world.close()
    world.tick(1.0)  # the closing is overdue: no more beats
    world.tick(7.0)
    for node in "fg":
        world.down(node)  # the beat comes, and what was said after it does not
    world.tick(0.9)
    world.check()
    assert not world.is_sure
    world.tick(0.1)
    world.check()
    assert world.is_sure


nodes = st.sampled_from("fg")
steps = st.one_of(
    st.just(("open",)),
    st.just(("close",)),
    st.tuples(st.sampled_from(("down", "up", "down", "up", "lose")), nodes),
    st.tuples(st.just("see"), nodes, st.sampled_from(("home", "guest"))),
    st.tuples(st.just("tick"), st.sampled_from((0.1, 1.0, 4.9, 5.0, 14.0))),
)


@given(st.lists(steps, max_size=60))
def test_whatever_the_network_does_no_voice_is_heard_that_the_home_thinks_shut(found):
    world = World()
    for name, *words in found:
        getattr(world, name)(*words)
        world.check()


@given(st.lists(steps, max_size=30))
def test_a_closing_is_sure_at_the_latest_when_a_lease_is_over(found):
    world = World()
    for name, *words in found:
        getattr(world, name)(*words)
    if world.is_open and all(world.home.half(node, 0) for node in "fg"):
        world.close()
        world.tick(1.0)
        world.tick(15.0)
        world.check()
        assert world.is_sure
