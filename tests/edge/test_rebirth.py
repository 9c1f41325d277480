"""Audio outlives a crash: a node dies without a word, another one goes on with what was kept."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from edge.test_driver import CID, ISSUER, Person, World
from lanes import LANES
from quicnet import Handle
from quicpair import shared_configuration
from relay.core.reasons import DropReason
from relay.core.remembering import AT_ONCE
from relay.edge import driver
from relay.edge.assembly import Node
from relay.edge.keep import Keep
from relay.edge.marks import BLOCK
from relay.errors import ErrorCode
from relay.protocol import command, control, media, token
from relay.protocol.datagram import NewestWins, decode_datagram
from relay.protocol.ids import CallId, Jti


class Life:
    """Loop and socket of one process: nothing of it happens after its end."""

    def __init__(self, world: Mortal) -> None:
        self.world = world
        self.is_over = False

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        return self.world.call_at(when, lambda: None if self.is_over else callback())

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_at(self.world.now, callback)

    def sendto(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.is_over:
            self.world.sendto(data, addr)


class Mortal(World):
    """A world whose node can die and come back."""

    def __init__(self, lane: str) -> None:
        super().__init__(lane=lane)
        self.keep = Keep.make(128, 32)
        self.numbers: list[tuple[tuple[str, int], bytes]] = []
        self.begin()

    def begin(self) -> None:
        """A process starts."""
        self.life = Life(self)
        self.node = Node(
            self.config,
            self.keys,
            shared_configuration(),
            self.life,
            self,
            clock=lambda: self.now,
            wall=self.wall,
            draw=self.rng.randbytes,
        )
        self.endpoint, self.lane = self.node.endpoint, self.node.lane
        self.node.remember(self.keep)
        self.endpoint.attach_socket(cast(socket.socket, self.life))

    def crash(self) -> None:
        """It dies; what it wrote stands."""
        self.keep.beat(self.now)
        self.life.is_over = True
        self.crash_again()

    def crash_again(self) -> None:
        """The next one begins."""
        self.keep = Keep.of(self.keep.fd)
        self.begin()
        self.node.driver.revive(self.keep)


@pytest.fixture(params=LANES)
def world(request: pytest.FixtureRequest) -> Mortal:
    return Mortal(request.param)


class Returned(Person):
    """Somebody who comes back by a new connection, with the ticket of the old one."""

    def __init__(self, former: Person, port: int) -> None:
        self.former = former
        super().__init__(former.world, port)

    def hello(self) -> control.Hello:
        former = self.former
        ticket = former.all(control.Joined)[-1].rt
        now = int(self.world.wall())
        claims = replace(
            former.claims, iat=now, nbf=now, exp=now + 120, jti=Jti(self.world.rng.randbytes(16))
        )
        return control.Hello(tok=token.mint(claims, ISSUER), resume=ticket)

    def rejoin(self) -> control.Joined:
        ticket = self.former.all(control.Joined)[-1].rt
        self.ask(control.Rejoin(c=CID, rt=ticket))
        joined: control.Joined = self.all(control.Joined)[-1]
        return joined


def in_call(world: Mortal) -> tuple[Person, Person]:
    ann, bob = Person(world, 1001), Person(world, 1002)
    for person in (ann, bob):
        person.join()
    for person in (ann, bob):
        person.ask(control.Accept(c=CID))
    return ann, bob


def talk(world: Mortal, people: tuple[Person, ...], first: int, count: int) -> None:
    for ctr in range(first, first + count):
        for person in people:
            person.say(person.media(ctr))
        world.run(0.02)
    world.run(0.1)


def heard(person: Person) -> list[int]:
    return [media.decode(data).ctr for data in person.got if data[0]]


def test_audio_goes_on_both_ways_after_a_crash_without_a_handshake(world: Mortal) -> None:
    ann, bob = in_call(world)
    talk(world, (ann, bob), 0, 50)
    world.crash()
    talk(world, (ann, bob), 50, 100)
    assert heard(ann) == heard(bob) == list(range(150))
    assert world.endpoint.handshakes == 0
    assert ann.quic._close_event is None
    assert world.endpoint.imbalance() == 0


def test_no_packet_number_is_used_twice(world: Mortal) -> None:
    ann, bob = in_call(world)
    seen: dict[tuple[str, int], set[int]] = {ann.addr: set(), bob.addr: set()}
    twice: list[Any] = []
    for person in (ann, bob):
        space = person.quic._spaces[next(reversed(person.quic._spaces))]
        numbers = seen[person.addr]
        add = space.received_packets.add

        def note(number: int, add: Any = add, numbers: set[int] = numbers) -> None:
            twice.extend([number] if number in numbers else [])
            numbers.add(number)
            add(number)

        space.received_packets.add = note  # type: ignore[method-assign]  # we listen
    first = 0
    for _ in range(4):
        talk(world, (ann, bob), first, 30)
        first += 30
        world.crash()
    assert twice == []
    assert heard(bob) == list(range(first))
    assert max(seen[bob.addr]) > 3 * BLOCK  # each life begins behind what the one before might have used


def test_who_was_muted_stays_muted(world: Mortal) -> None:
    ann, bob = in_call(world)
    ann.ask(control.Mute(c=CID, on=True))
    world.crash()
    talk(world, (ann,), 0, 10)
    assert heard(bob) == []
    assert world.lane.counters.dropped[DropReason.MUTED] == 10


def test_a_call_that_ended_is_not_opened_again(world: Mortal) -> None:
    ann, bob = in_call(world)
    talk(world, (ann, bob), 0, 5)
    ann.ask(control.Hangup(c=CID))
    world.crash()
    talk(world, (ann, bob), 5, 10)
    assert heard(bob) == list(range(5))


def test_who_has_not_accepted_hears_nothing_after_a_crash(world: Mortal) -> None:
    ann, bob = Person(world, 1001), Person(world, 1002)
    for person in (ann, bob):
        person.join()
    ann.ask(control.Accept(c=CID))
    world.crash()
    talk(world, (ann, bob), 0, 10)
    assert heard(ann) == heard(bob) == []


def test_control_of_a_leg_without_a_quic_stack_is_dropped_by_name(world: Mortal) -> None:
    ann, _ = in_call(world)
    world.crash()
    ann.say_message(control.Mute(c=CID, on=True))
    world.run(1.0)
    assert world.endpoint.dropped[DropReason.PEER_GONE] > 0
    assert world.endpoint.imbalance() == 0


def asked_back(person: Person) -> int:
    """How often this person was asked to come back, by a datagram."""
    told = [decode_datagram(data) for data in person.got if data[0] == 0]
    return sum(isinstance(one, NewestWins) and isinstance(one.body, control.Drain) for one in told)


def test_everybody_is_asked_to_come_back_until_they_do(world: Mortal) -> None:
    ann, bob = in_call(world)
    world.crash()
    talk(world, (ann, bob), 0, 150)
    assert asked_back(ann) >= 2
    assert asked_back(bob) >= 2
    back = Returned(bob, 2002)
    assert back.rejoin().gate == 1
    talk(world, (ann, back), 150, 200)
    before = asked_back(bob)
    talk(world, (ann, back), 350, 100)
    assert asked_back(bob) == before  # the leg that was left is closed
    assert asked_back(ann) > 4


def test_who_is_back_and_who_is_not_yet_hear_each_other(world: Mortal) -> None:
    ann, bob = in_call(world)
    world.crash()
    talk(world, (ann, bob), 0, 20)
    back = Returned(bob, 2002)
    back.rejoin()
    talk(world, (ann, back), 20, 30)
    assert heard(ann) == list(range(50))
    assert heard(back) == list(range(20, 50))
    assert [one for one in heard(bob) if one >= 20]  # both legs carry media in the middle of a move
    back.ask(control.Mute(c=CID, on=True))
    talk(world, (back,), 50, 10)
    assert heard(ann) == list(range(50))  # what is said on the new leg holds for the old one of the other


def test_a_call_ends_once_with_its_first_times(world: Mortal) -> None:
    ann, bob = in_call(world)
    answered = world.wall()
    world.run(20.0)
    for person in (ann, bob):
        person.say(person.media(0))
    world.run(0.1)
    world.crash()
    world.run(0.5)
    back = Returned(bob, 2002)
    back.rejoin()
    back.ask(control.Hangup(c=CID))
    [record] = world.records
    assert record.outcome == "completed"
    assert record.answered_at == pytest.approx(answered, abs=1.0)
    world.run(6.0)  # time for last words
    assert list(world.keep.calls()) == []
    assert len(world.endpoint.revived) == 0  # type: ignore[arg-type]  # there is one since the crash


def test_consent_lapses_by_the_clock_that_it_had(world: Mortal) -> None:
    ann, bob = in_call(world)
    world.clients.pop(bob.addr)  # bob is gone
    bob.armed = None
    for ctr in range(20):
        ann.say(ann.media(ctr))
        world.run(1.0)
    world.crash()
    for ctr in range(20, 60):
        ann.say(ann.media(ctr))
        world.run(1.0)
    dropped = world.lane.counters.dropped
    assert 28 <= dropped[DropReason.GATE_CLOSED] <= 31  # bob was silent for 20 s before, and has 30


def test_a_process_that_comes_much_later_opens_nothing(world: Mortal) -> None:
    ann, bob = in_call(world)
    world.keep.beat(world.now)
    world.life.is_over = True
    world.run(100.0)
    world.crash_again()
    ann.say(ann.media(0))
    bob.say(bob.media(0))
    world.run(0.2)
    assert heard(ann) == heard(bob) == []


def many(world: Mortal) -> list[CallId]:
    """More calls than are taken up in a turn."""
    calls = [CallId(bytes([number]) * 16) for number in range(6 * AT_ONCE)]
    people = [Person(world, 1000 + 2 * n + side, cid) for n, cid in enumerate(calls) for side in (0, 1)]
    for person in people:
        person.join()
    for person in people:
        person.ask(control.Accept(c=person.cid))
    return calls


def test_all_calls_are_taken_up_before_the_first_packet(world: Mortal) -> None:
    calls = many(world)
    world.crash()
    assert world.node.engine.calls == len(calls)


def test_a_call_that_is_asked_for_before_its_turn_is_there(
    world: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TAKE_UP_S", 0.0)  # as with thousands of calls
    calls = many(world)
    world.crash()
    assert 0 < world.node.engine.calls < len(calls)  # a few at a time
    now = int(world.wall())
    answers = []
    for cid in reversed(calls):
        id = Jti(world.rng.randbytes(16))
        order = command.Command(op="end", cid=cid, id=id, iat=now, exp=now + 60)
        world.node.driver.command(command.mint(order, ISSUER), lambda *answer: answers.append(answer))
    assert [code for code, _ in answers] == [ErrorCode.NO_ERROR] * len(calls)


def test_what_cannot_be_read_any_more_is_let_go_with_its_legs(world: Mortal) -> None:
    in_call(world)
    world.keep.call(CID, b"noise")
    world.crash()
    assert world.node.engine.calls == 0
    assert world.node.engine.counters["revive_refused", ""] == 1
    assert world.endpoint.revived is not None
    assert len(world.endpoint.revived) == 0
    assert list(Keep.of(world.keep.fd).calls()) == []
    assert list(Keep.of(world.keep.fd).legs()) == []
