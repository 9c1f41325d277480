"""Voices are pulled, one number each; and nothing that is late is ever taken for another voice."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.trunk_receiving import ANSWER_S, REST_S, TRIES, Inlet, Out, Phase, Receiving
from relay.core.trunk_sending import Route, Sending, Voice
from relay.errors import ErrorCode
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk import MAX_ROUTE, MIN_ROUTE, ROUTES
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Pull, Stop

C = bytes(range(16))
ANN, BEN = Voice(C, 0), Voice(C, 1)
NOT_YET = Err(code=ErrorCode.FORBIDDEN, retry_ms=200)


def pull(voice: Voice = ANN, number: int = 64, term: int = 1, node: str = "h") -> Out:
    return Out(node, Pull(c=voice.c, p=voice.p, term=term, route=number))


def stop(number: int = 64, node: str = "h") -> Out:
    return Out(node, Stop(route=number))


def ready(*nodes: str) -> Receiving:
    """Trunks to these nodes are up."""
    receiving = Receiving()
    for node in nodes:
        assert receiving.on_up(node, 0.0) == ()
    return receiving


def asked() -> Receiving:
    """Ann's voice was asked for, on 64 from h."""
    receiving = ready("h")
    assert receiving.want(ANN, 1, "h", 100.0) == (pull(),)
    return receiving


def test_every_phase_has_a_row():
    assert set(Inlet.TRANSITIONS) == set(Phase)


def test_a_voice_may_come_before_the_answer_does():
    receiving = asked()
    assert receiving.phase_of(ANN) is Phase.ASKED
    assert receiving.voice_on(Route("h", 64)) == ANN
    assert (receiving.number_of(ANN), receiving.number_of(BEN)) == (64, None)
    assert receiving.voice_on(Route("g", 64)) is None
    assert receiving.carries("h")
    receiving.on_answer("h", pull().message, Ok(), 100.1)
    assert receiving.phase_of(ANN) is Phase.CARRYING
    assert receiving.next_deadline() is None
    assert len(receiving) == 1


def test_a_voice_is_pulled_once_however_often_the_home_says_so():
    receiving = asked()
    assert receiving.want(ANN, 1, "h", 100.1) == ()
    receiving.on_answer("h", pull().message, Ok(), 100.2)
    assert receiving.want(ANN, 2, "h", 100.3) == ()
    assert receiving.want(BEN, 2, "h", 100.3) == (pull(BEN, 65, 2),)


def test_nobody_hears_it_any_more():
    receiving = asked()
    assert receiving.unwant(ANN, 101.0) == (stop(),)
    assert receiving.unwant(ANN, 101.0) == ()
    assert receiving.voice_on(Route("h", 64)) is None
    assert receiving.phase_of(ANN) is None
    assert not receiving.carries("h")
    receiving.on_answer("h", pull().message, Ok(), 101.1)
    assert receiving.phase_of(ANN) is None


def full() -> Receiving:
    """Both numbers that it gives are in use."""
    receiving = Receiving(most=2)
    receiving.on_up("h", 0.0)
    for voice, number in ((ANN, 64), (BEN, 65)):
        assert receiving.want(voice, 1, "h", 100.0) == (pull(voice, number),)
        receiving.on_answer("h", pull(voice, number).message, Ok(), 100.0)
    return receiving


def test_a_number_rests_from_the_answer_to_its_stop_before_it_means_another_voice():
    receiving, cat = full(), Voice(C, 2)
    assert receiving.unwant(ANN, 101.0) == (stop(64),)
    assert receiving.want(cat, 1, "h", 102.0) == ()
    assert receiving.next_deadline() == 102.0 + REST_S
    receiving.on_stopped(Route("h", 64), 110.0)
    receiving.on_stopped(Route("h", 64), 111.0)
    assert receiving.due(132.0) == ()
    assert receiving.next_deadline() == 110.0 + REST_S
    assert receiving.due(139.9) == ()
    assert receiving.due(140.0) == (pull(cat, 64),)


def test_a_number_that_the_other_side_stopped_rests_from_then_on():
    receiving, cat = full(), Voice(C, 2)
    receiving.on_stop(Route("h", 64), 101.0)
    assert receiving.want(cat, 1, "h", 102.0) == ()
    assert receiving.due(131.0) == (pull(cat, 64),)


def test_when_all_numbers_are_in_use_it_waits():
    receiving = full()
    assert receiving.want(Voice(C, 2), 1, "h", 101.0) == ()
    assert receiving.next_deadline() == 101.0 + REST_S
    assert len(receiving) == 3


def test_as_many_numbers_as_there_are_and_no_more():
    receiving = ready("h")
    outs = [receiving.want(Voice(C, number), 1, "h", 100.0) for number in range(ROUTES + 1)]
    numbers = [out.message.route for (out,) in outs[:-1]]
    assert (numbers[0], numbers[-1], outs[-1]) == (MIN_ROUTE, MAX_ROUTE, ())


def test_a_pull_that_is_too_early_is_tried_ten_times_by_one_number():
    receiving, now = asked(), 100.0
    for _ in range(TRIES - 1):
        receiving.on_answer("h", pull().message, NOT_YET, now)
        assert receiving.phase_of(ANN) is Phase.WAITING
        assert receiving.next_deadline() == pytest.approx(now + 0.2)
        assert receiving.due(now + 0.1) == ()
        now += 0.2001
        assert receiving.due(now) == (pull(),)
    receiving.on_answer("h", pull().message, NOT_YET, now)
    assert receiving.phase_of(ANN) is Phase.ENDED
    assert receiving.voice_on(Route("h", 64)) is None
    assert receiving.next_deadline() is None


def test_who_does_not_say_when_is_asked_again_in_200_ms():
    receiving = asked()
    receiving.on_answer("h", pull().message, Err(code=ErrorCode.FORBIDDEN), 100.0)
    assert receiving.next_deadline() == pytest.approx(100.2)


@pytest.mark.parametrize("code", [TrunkCode.OLD_TERM, TrunkCode.ROUTE_LIMIT, ErrorCode.PROTOCOL_VIOLATION])
def test_any_other_refusal_is_the_last(code):
    receiving = asked()
    receiving.on_answer("h", pull().message, Err(code=code), 100.0)
    assert receiving.phase_of(ANN) is Phase.ENDED
    assert receiving.next_deadline() is None


def test_after_an_end_the_home_begins_anew():
    receiving = asked()
    receiving.on_answer("h", pull().message, Err(code=TrunkCode.OLD_TERM), 100.0)
    assert receiving.want(ANN, 2, "h", 101.0) == (pull(number=65, term=2),)
    assert receiving.unwant(ANN, 102.0) == (stop(65),)


def test_an_ended_one_that_nobody_hears_ends_silently():
    receiving = asked()
    receiving.on_answer("h", pull().message, Err(code=TrunkCode.OLD_TERM), 100.0)
    assert receiving.unwant(ANN, 101.0) == ()


def test_who_does_not_answer_within_five_seconds_is_not_waited_for():
    receiving = asked()
    assert receiving.next_deadline() == 100.0 + ANSWER_S
    assert receiving.due(104.9) == ()
    assert receiving.due(105.0) == (stop(),)
    assert (receiving.phase_of(ANN), receiving.next_deadline()) == (Phase.ENDED, None)
    receiving.on_answer("h", pull().message, Ok(), 106.0)
    assert receiving.phase_of(ANN) is Phase.ENDED
    assert receiving.voice_on(Route("h", 64)) is None


def test_an_answer_that_comes_twice_means_nothing_the_second_time():
    receiving = asked()
    receiving.on_answer("h", pull().message, Ok(), 100.0)
    receiving.on_answer("h", pull().message, NOT_YET, 100.1)
    assert receiving.phase_of(ANN) is Phase.CARRYING


def test_the_other_side_stops():
    receiving = asked()
    receiving.on_answer("h", pull().message, Ok(), 100.0)
    assert receiving.on_stop(Route("h", 64), 101.0) == ANN
    assert receiving.on_stop(Route("h", 64), 101.0) is None
    assert receiving.phase_of(ANN) is Phase.ENDED
    assert receiving.due(200.0) == ()


def test_a_voice_that_moved_is_asked_for_at_its_new_node():
    receiving = ready("h", "g")
    receiving.want(ANN, 1, "h", 100.0)
    assert receiving.want(ANN, 1, "g", 101.0) == (stop(), pull(node="g"))
    assert receiving.voice_on(Route("g", 64)) == ANN
    assert receiving.voice_on(Route("h", 64)) is None


def test_what_is_wanted_waits_for_the_trunk():
    receiving = Receiving()
    assert receiving.want(ANN, 1, "h", 100.0) == ()
    assert (receiving.phase_of(ANN), receiving.next_deadline()) == (Phase.WAITING, None)
    assert receiving.on_up("g", 101.0) == ()
    assert receiving.on_up("h", 102.0) == (pull(),)


def test_a_trunk_that_is_down_takes_its_numbers_along_and_what_is_wanted_comes_back():
    receiving = ready("h", "g")
    receiving.want(ANN, 1, "h", 100.0)
    receiving.on_answer("h", pull().message, Ok(), 100.0)
    receiving.want(BEN, 1, "g", 100.0)
    assert receiving.on_down("h") == (ANN,)
    assert receiving.on_down("h") == ()
    assert receiving.voice_on(Route("h", 64)) is None
    assert receiving.voice_on(Route("g", 64)) == BEN
    assert receiving.on_up("h", 101.0) == (pull(),)


def test_a_stop_that_a_lost_trunk_never_answers_holds_no_number():
    receiving = full()
    receiving.unwant(ANN, 101.0)
    receiving.on_down("h")
    receiving.unwant(BEN, 102.0)
    receiving.on_up("h", 103.0)
    assert receiving.want(ANN, 1, "h", 104.0) == (pull(),)
    receiving.on_stopped(Route("h", 64), 105.0)
    assert receiving.voice_on(Route("h", 64)) == ANN
    assert (receiving.number_of(ANN), receiving.number_of(BEN)) == (64, None)


def test_what_had_ended_stays_so_over_a_loss():
    receiving = asked()
    receiving.on_answer("h", pull().message, Err(code=TrunkCode.OLD_TERM), 100.0)
    assert receiving.on_down("h") == ()
    assert receiving.on_up("h", 101.0) == ()
    assert receiving.phase_of(ANN) is Phase.ENDED


# ---------------------------------------------------------------- three nodes

NODES = ("f", "g", "h")
VOICES = [Voice(C, 0), Voice(C, 1), Voice(bytes(16), 0), Voice(bytes(16), 1)]
AT = dict(zip(VOICES, ("f", "g", "g", "h"), strict=True))
LINKS = [(one, other) for one in NODES for other in NODES if one != other]


class World:
    """Three nodes that speak by streams, in order; voices fly beside these and come when they like."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sending = {node: Sending() for node in NODES}
        self.receiving = {node: Receiving(most=2) for node in NODES}
        self.streams = defaultdict(list)  # by (from, to)
        self.flying = []  # (from, to, number, whose voice it is, connection, when it left)
        self.connection = dict.fromkeys((frozenset(link) for link in LINKS), 0)
        self.granted = {voice: frozenset() for voice in VOICES}
        self.wanted = set()  # (voice, node)
        for one, other in LINKS:
            self.receiving[one].on_up(other, 0.0)

    def say(self, source, outs) -> None:
        for out in outs:
            self.streams[source, out.node].append(out.message)

    def grant(self, voice, nodes) -> None:
        self.granted[voice] = frozenset(nodes) - {AT[voice]}
        home = AT[voice]
        for route in self.sending[home].grant(voice, 1, self.granted[voice]):
            self.say(home, [Out(route.node, Stop(route=route.number, out=True))])

    def hear(self, voice, node, on) -> None:
        if node == AT[voice]:
            return
        receiving = self.receiving[node]
        if on:
            self.wanted.add((voice, node))
            self.say(node, receiving.want(voice, 1, AT[voice], self.now))
        else:
            self.wanted.discard((voice, node))
            self.say(node, receiving.unwant(voice, self.now))

    def step(self, link) -> bool:
        """The next message of a stream arrives."""
        source, node = link
        if not self.streams[link]:
            return False
        message = self.streams[link].pop(0)
        if isinstance(message, Pull):
            answer = self.sending[node].on_pull(source, message)
            assert answer != Err(code=ErrorCode.PROTOCOL_VIOLATION), "a number with two meanings"
            self.streams[node, source].append((message, answer))
        elif isinstance(message, Stop) and message.out:
            self.receiving[node].on_stop(Route(source, message.route), self.now)
        elif isinstance(message, Stop):
            self.sending[node].on_stop(Route(source, message.route))
            self.streams[node, source].append((message, Ok()))
        elif isinstance(message[0], Stop):
            self.receiving[node].on_stopped(Route(source, message[0].route), self.now)
        else:
            self.receiving[node].on_answer(source, *message, self.now)
        return True

    def lose(self, link) -> None:
        """A trunk is lost on both sides, with all that was said on it, and is up again."""
        one, other = link
        self.connection[frozenset(link)] += 1
        for a, b in ((one, other), (other, one)):
            self.streams[a, b].clear()
            self.sending[a].on_down(b)
            self.receiving[a].on_down(b)
        for a, b in ((one, other), (other, one)):
            self.say(a, self.receiving[a].on_up(b, self.now))

    def speak(self) -> None:
        for voice in VOICES:
            node = AT[voice]
            for route in self.sending[node].routes_of(voice):
                assert route.node in self.granted[voice], "a voice without a grant"
                connection = self.connection[frozenset((node, route.node))]
                self.flying.append((node, route.node, route.number, voice, connection, self.now))

    def arrive(self, index) -> None:
        source, node, number, voice, connection, left = self.flying.pop(index % len(self.flying))
        if connection != self.connection[frozenset((source, node))] or self.now - left > REST_S:
            return  # its keys are gone; or so late that no network holds it
        heard = self.receiving[node].voice_on(Route(source, number))
        assert heard in (None, voice), "taken for another voice"

    def tick(self, seconds) -> None:
        self.now += seconds
        for node in NODES:
            self.say(node, self.receiving[node].due(self.now))

    def settle(self) -> None:
        for _ in range(80):  # longer than a number rests
            while any([self.step(link) for link in LINKS]):
                pass
            self.tick(0.5)


voices, nodes, links = st.sampled_from(VOICES), st.sampled_from(NODES), st.sampled_from(LINKS)
steps = st.one_of(
    st.tuples(st.just("grant"), voices, st.sets(nodes)),
    st.tuples(st.just("hear"), voices, nodes, st.booleans()),
    st.tuples(st.just("step"), links),
    st.tuples(st.just("step"), links),
    st.tuples(st.just("lose"), links),
    st.tuples(st.just("arrive"), st.integers(0, 50)),
    st.tuples(st.just("tick"), st.sampled_from((0.01, 0.3, 6.0, 31.0))),
)


@given(st.lists(steps, max_size=60))
def test_no_voice_goes_without_a_grant_or_is_taken_for_another_and_in_the_end_all_that_may_come_comes(found):
    world = World()
    for name, *words in found:
        if name != "arrive" or world.flying:
            getattr(world, name)(*words)
        world.speak()
    # What was refused ten times stays so until the home speaks again, as it does after each change.
    world.settle()
    for voice, node in sorted(world.wanted):
        world.hear(voice, node, True)
    world.settle()
    carried = {(voice, route.node) for voice in VOICES for route in world.sending[AT[voice]].routes_of(voice)}
    assert carried == {(voice, node) for voice, node in world.wanted if node in world.granted[voice]}
    for voice, node in carried:
        assert world.receiving[node].phase_of(voice) is Phase.CARRYING
    while world.flying:
        world.arrive(0)


def moving() -> Receiving:
    """Ann's voice comes from h, and is wanted from g from now on."""
    receiving = ready("h", "g")
    receiving.want(ANN, 1, "h", 1.0)
    receiving.on_answer("h", pull().message, Ok(), 1.0)
    assert receiving.want(ANN, 1, "g", 2.0) == (pull(node="g"),)
    assert receiving.former_of(ANN) == Route("h", 64)
    return receiving


def test_a_voice_comes_from_where_it_was_until_its_new_node_has_answered():
    receiving = moving()
    assert receiving.voice_on(Route("h", 64)) == receiving.voice_on(Route("g", 64)) == ANN
    receiving.on_answer("h", pull().message, Ok(), 2.1)  # of nobody that was asked
    assert receiving.phase_of(ANN) is Phase.ASKED
    receiving.on_answer("g", pull(node="g").message, Ok(), 2.1)
    assert receiving.settled(ANN) == (stop(),)
    assert receiving.settled(ANN) == ()
    assert (receiving.former_of(ANN), receiving.voice_on(Route("h", 64))) == (None, None)


def test_where_a_voice_was_may_stop_it_or_be_gone_before():
    receiving = moving()
    assert receiving.on_stop(Route("h", 64), 2.1) == ANN
    assert (receiving.former_of(ANN), receiving.phase_of(ANN)) == (None, Phase.ASKED)
    receiving = moving()
    assert receiving.on_down("h") == (ANN,)
    assert (receiving.former_of(ANN), receiving.phase_of(ANN)) == (None, Phase.ASKED)


def test_a_voice_on_its_way_that_nobody_hears_any_more_is_stopped_at_both():
    assert moving().unwant(ANN, 3.0) == (stop(), stop(node="g"))


def test_a_voice_that_moves_on_is_let_go_of_where_it_has_not_come_from():
    receiving = moving()
    receiving.on_up("f", 2.0)
    assert receiving.want(ANN, 1, "f", 3.0) == (stop(node="g"), pull(node="f"))
    assert receiving.former_of(ANN) == Route("h", 64)
