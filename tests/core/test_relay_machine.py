"""Generated lives of calls: two people, one engine, one lane, a faulty network, clocks that jump.

Whatever happens in whatever order:
  * no packet is copied to somebody who may not hear it, and an open gate does not drop (an oracle that
    knows only what was said on the wire decides),
  * charges equal resources, packets are conserved,
  * every move of every machine stands in its table,
  * when everybody is gone, nothing is left, and each call has left exactly one record.

RELAY_SEQUENCES says how many lives (300); each of some 28 operations.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from netem import POOR, Link
from pair import PUBLIC, CallIds, Client, World
from relay.core import events as ev
from relay.core.company import Owner
from relay.core.machine import Machine
from relay.core.participant import SETTLE_S
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.address import Address
from relay.protocol.ids import PersonId, Sub

SEQUENCES = int(os.environ.get("RELAY_SEQUENCES", "300"))
STEPS = 32
CONSENT_S = 30.0
ACCEPT_S = 60.0
TICKET_S = 90.0  # then the place is free, and what its owner had set there is gone
HOME = (("192.0.2.1", 40000),)
CLOSED = (DropReason.GATE_CLOSED, DropReason.MUTED, DropReason.BLOCKED)

who = st.integers(0, 1)
few = st.integers(0, 3)


class Person:
    """What the oracle knows of one side: only what was sent, answered, or timed."""

    def __init__(self, ids: CallIds, changes: dict[str, Any]) -> None:
        self.ids = ids
        self.changes = changes
        self.legs: list[Speaking] = []
        self.leg: Speaking | None = None
        self.old: Speaking | None = None  # the leg it moves away from, or one that carries one way
        self.mouth: Speaking | None = None  # which of two legs carries up, and which one down, if one does
        self.ear: Speaking | None = None
        self.divided_at = 0.0
        self.accepted = self.muted = self.hard = self.over = False
        self.lost_at: float | None = None

    def stand(self, leg: Speaking | None, old: Speaking | None) -> None:
        """On these legs, which both carry all."""
        self.leg, self.old, self.mouth, self.ear = leg, old, None, None

    def mint(self) -> bytes:
        return self.ids.token(**self.changes)

    @property
    def heard(self) -> float:
        """When the relay last heard its leg."""
        return self.leg.heard_at if self.leg else 0.0

    @heard.setter
    def heard(self, when: float) -> None:
        if self.leg is not None:
            self.leg.heard_at = when

    @property
    def newest(self) -> Speaking | None:
        return self.legs[-1] if self.legs else None


class Speaking(Client):
    """A client whose stream is cut anywhere, and whose answers the oracle reads."""

    def __init__(self, world: World, raw: bytes, person: Person) -> None:
        super().__init__(world, raw)
        self.person = person
        self.intents: dict[int, str] = {}
        self.heard_at = world.now
        person.legs.append(self)

    def say(self, intent: str, message: control.Message) -> Any:
        self.intents[self._id + 1] = intent
        return self.ask(message)

    def send(self, message: control.Message, id: int = 0) -> None:
        if self.closed is not None or self.gone:
            return
        self.mark()
        data = control.encode(message, id)
        cut = self.world.random.randrange(len(data) + 1)
        for part in (data[:cut], data[cut:]):
            self.world.feed(ev.StreamReceived(self.leg, part))

    def mark(self) -> None:
        """The relay hears from this leg now."""
        if self in (self.person.leg, self.person.old) and self.person.lost_at is None:
            self.heard_at = self.world.now

    @property
    def is_open(self) -> bool:
        return self.closed is None and not self.gone

    def on_stream(self, data: bytes) -> None:
        before = len(self.got)
        ids = len(self.answers)
        super().on_stream(data)
        for message in self.got[before:]:
            if isinstance(message, control.Ended) and message.why != "answered_elsewhere":
                self.person.over = True
                self.person.accepted = self.person.muted = False
        if len(self.answers) > ids:
            id, answer = list(self.answers.items())[-1]
            self._answered(self.intents.get(id, ""), answer)

    def _answered(self, intent: str, answer: control.Message) -> None:
        person = self.person
        if intent == "accept" and isinstance(answer, control.Ok):
            if not person.accepted or self not in (person.leg, person.old):
                person.lost_at, self.heard_at = None, self.world.now
                person.stand(self, person.old)
            person.accepted = True
        elif intent == "mute" and isinstance(answer, control.Ok):
            person.muted = True
        elif intent == "join" and isinstance(answer, control.Joined):
            person.accepted = person.over = False
            if person.lost_at is not None and self.world.now >= person.lost_at + TICKET_S:
                person.muted = False
        elif intent == "rejoin" and isinstance(answer, control.Joined):
            if person.lost_at is not None and self.world.now - person.lost_at >= ACCEPT_S:
                person.accepted = False
            carries = person.leg is not None and person.leg.is_open and person.accepted
            if person.leg is not self:
                person.stand(self, person.leg if carries and person.lost_at is None else None)
            person.lost_at, self.heard_at = None, self.world.now


class Life(RuleBasedStateMachine):
    """One node and two people who do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    @initialize(seed=st.integers(0, 2**32 - 1), key=st.booleans(), group=st.booleans(), warm=st.booleans())
    def begin(self, seed: int, key: bool, group: bool, warm: bool) -> None:
        self.world = World(seed=seed)
        weather = replace(POOR, jitter=0.2, duplicate=0.3) if seed % 2 else POOR
        self.net: Link[tuple[Speaking, bytes]] = Link(weather, seed)
        self.key, self.group = key, group
        self.spent: list[bytes] = []
        self.fresh_call()
        if warm:
            self.meet()

    def fresh_call(self) -> None:
        ids = self.world.call()
        draw = self.world.random.randbytes
        same = {"key": self.key, "lim": (512, 512, 500, 3 if self.group else 2)}
        self.people = [
            Person(ids, {"sub": Sub(draw(16)), "ru": PersonId(draw(16)), "prm": prm, **same})
            for prm in (15, 47)
        ]
        self.shuts_out = [False, False]  # each side's own half of the block

    # ------------------------------------------------------------ the oracle

    def lapse(self) -> None:
        """Silence counts from when it began, whenever the oracle looks."""
        for one in self.people:
            if one.old is not None and (one.over or not one.old.is_open):
                one.stand(one.leg, None)
            if one.leg is not None and not one.leg.is_open and one.old is not None:
                one.stand(one.old, None)  # the new one is gone: the old one again
            leg = one.leg
            if leg is None or one.lost_at is not None:
                continue
            heard = one.heard
            if one.mouth is not None and one.old is not None:
                heard = max(heard, one.old.heard_at)  # one of the two is enough
            if self.world.now >= heard + CONSENT_S and one.accepted:  # a sum, as deadlines are: equal is due
                one.lost_at = heard + CONSENT_S
            elif not leg.is_open:
                one.lost_at = self.world.now

    def may_hear(self, a: Person, b: Person) -> bool:
        self.lapse()
        ready = all(one.accepted and one.lost_at is None and not one.over for one in (a, b))
        return ready and not (a.muted or a.hard or any(self.shuts_out))

    def pass_on(self, sender: Speaking, payload: bytes) -> None:
        """One packet reaches the relay: whoever gets a copy must be allowed to hear it."""
        world = self.world
        self.lapse()
        a = next((one for one in self.people if sender in (one.leg, one.old)), None)
        b = None if a is None else self.people[1 - self.people.index(a)]
        before = {leg: world.lane.queue_depth(leg) for leg in world.clients}
        if sender.closed is None and not sender.gone:
            self.lapse()
            sender.mark()
            world.feed(ev.Heard({sender.leg: world.now}))
        dropped = world.lane.counters.dropped_out[DropReason.QUEUE_FULL]
        reason = world.media(sender, payload)
        got = [leg for leg, depth in before.items() if world.lane.queue_depth(leg) > depth]
        got += [0] * (world.lane.counters.dropped_out[DropReason.QUEUE_FULL] - dropped)
        if reason is None:
            assert a is not None
            assert b is not None
            assert b.leg is not None
            assert self.may_hear(a, b), "a byte passed a closed gate"
            legs = [each.leg for each in (b.leg, b.old) if each is not None and each.is_open]
            ear = legs[0] if b.ear is None else b.ear.leg
            if b.ear is not None and world.now >= b.divided_at + SETTLE_S:
                legs = [ear]
            assert set(got) <= {*legs, 0}
            assert {ear, 0} & set(got)
            assert sender is a.mouth or a.mouth is None or world.now < a.divided_at + SETTLE_S
        else:
            assert not got
            is_idle = a is not None and a.mouth not in (None, sender)
            if a is not None and b is not None and sender.joined and reason in CLOSED and not is_idle:
                assert not self.may_hear(a, b), f"an open gate dropped: {reason}"
        world.deliver_media()

    # ------------------------------------------------------------ coming and going

    def newcomer(self, one: Person, raw: bytes | None = None) -> Speaking:
        raw = one.mint() if raw is None else raw
        self.spent.append(raw)
        client = Speaking(self.world, raw, one)
        client.open()
        return client

    @rule(side=who)
    def join(self, side: int) -> None:
        if all(one.over or not one.legs for one in self.people) and any(one.over for one in self.people):
            self.fresh_call()
        one = self.people[side]
        client = self.newcomer(one)
        if client.closed is not None:  # the node is leaving
            return
        client.hello()
        client.say("join", control.Join(c=client.cid))

    @rule(side=who)
    def accept(self, side: int) -> None:
        one = self.people[side]
        if one.newest is not None:
            one.newest.say("accept", control.Accept(c=one.newest.cid))

    @rule()
    def meet(self) -> None:
        """The straight way, so that lives are mostly about calls that run."""
        for side in (0, 1):
            one = self.people[side]
            if one.over or one.newest is None or one.newest.closed is not None or one.newest.gone:
                self.join(side)
        for side in (0, 1):
            self.accept(side)
        for side in (0, 1):
            self.speak_twice(side)

    @rule(side=who, bye=st.booleans())
    def leave(self, side: int, bye: bool) -> None:
        one = self.people[side]
        if one.newest is None:
            return
        if bye:
            one.newest.send(control.Bye(code=0 if self.world.random.random() < 0.5 else 1))
        elif self.world.random.random() < 0.3:
            one.newest.hangup()
        else:
            self.world.random.choice([one.newest.decline, lambda: None])()

    @rule(side=who)
    def lose_leg(self, side: int) -> None:
        client = self.people[side].newest
        if client is not None and client.closed is None and not client.gone:
            client.lose()
            self.lapse()

    @rule(side=who)
    def rejoin(self, side: int) -> None:
        """By ticket: on the same leg, or a new one, with a proof or a fresh token."""
        one = self.people[side]
        old = one.newest
        if old is None or old.ticket is None:
            return
        self.lapse()
        if old.closed is None and not old.gone and self.world.random.random() < 0.3:
            old.say("rejoin", control.Rejoin(c=old.cid, rt=old.ticket))
            return
        raw = None if self.key else one.mint()
        again = Speaking(self.world, old.raw if raw is None else raw, one)
        again.ticket, again.ctr = old.ticket, old.ctr
        again.open()
        if again.closed is not None:  # the node is leaving
            return
        pop = None
        if self.key:
            again.send(control.Ping(t=1))
            nonce = again.last(control.Challenge).n
            pop = token.pop_sign(bytes(range(64, 96)), nonce, old.sub, old.cid)
        again.ask(control.Hello(tok=raw, resume=old.ticket, pop=pop))
        again.say("rejoin", control.Rejoin(c=old.cid, rt=old.ticket))

    @rule(side=who, ok=st.booleans())
    def moved(self, side: int, ok: bool) -> None:
        """Let go of the leg that was left; or nothing but an answer."""
        self.lapse()
        old = self.people[side].old
        if old is not None and old.is_open:
            old.ask(control.Moved(c=old.cid, ok=ok))
            assert (old.closed is not None) is ok

    @rule(side=who, older=st.booleans(), way=st.sampled_from(["up", "down", "both"]))
    def carry(self, side: int, older: bool, way: Any) -> None:
        """Share the ways out between two legs, or give all to one."""
        self.lapse()
        one = self.people[side]
        if one.old is None and one.accepted:
            self.rejoin(side)
            self.lapse()
        client, other = (one.old, one.leg) if older else (one.leg, one.old)
        if client is None or not client.is_open:
            return
        answer = client.say("carry", control.Carry(c=client.cid, way=way))
        if not isinstance(answer, control.Ok):
            return
        assert other is not None, "one leg has no ways to share out"
        if way == "both":
            one.stand(client, other)
        else:
            one.mouth, one.ear = (client, other) if way == "up" else (other, client)
            one.divided_at = self.world.now
        for _ in range(2):
            for each in self.people:
                for leg in (each.leg, each.old):
                    if leg is not None and leg.joined is not None:
                        self.pass_on(leg, leg.packet())
            self.world.run(SETTLE_S)

    @rule(side=who)
    def rebind(self, side: int) -> None:
        client = self.people[side].newest
        if client is not None and client.closed is None and not client.gone:
            port = self.world.random.randrange(1024, 65536)
            self.world.feed(ev.AddressMoved(client.leg, Address("198.51.100.7", port)))

    # ------------------------------------------------------------ talking

    @rule(side=who, count=few)
    def speak(self, side: int, count: int) -> None:
        """Into the network: lost, doubled or late there; what has arrived goes to the lane."""
        one = self.people[side]
        client = one.leg or one.newest
        if one.old is not None and self.world.random.random() < 0.5:
            client = one.old
        if client is not None and client.joined is not None:
            for _ in range(count + 1):
                payload = client.packet()
                self.net.send((client, payload), len(payload), self.world.now)
        self.arrive()

    @rule(side=who)
    def speak_twice(self, side: int) -> None:
        """The same packet again, and one of an old counter: a copy each at most."""
        client = self.people[side].leg
        if client is not None and client.joined is not None:
            payload = client.packet()
            self.pass_on(client, payload)
            accepted = self.world.lane.counters.accepted
            self.pass_on(client, payload)
            assert self.world.lane.counters.accepted == accepted

    def arrive(self) -> None:
        for client, payload in self.net.due(self.world.now):
            self.pass_on(client, payload)

    @rule(side=who, k=st.integers(0, 2))
    def blob(self, side: int, k: int) -> None:
        one, other = self.people[side], self.people[1 - side]
        if one.newest is None:
            return
        before = sum(len(leg.all(control.E2e)) for leg in other.legs)
        self.lapse()
        both = all(each.accepted and each.lost_at is None and not each.over for each in self.people)
        one.newest.e2e(k=k)
        if k and not both:
            assert sum(len(leg.all(control.E2e)) for leg in other.legs) == before

    @rule(side=who, gen=st.integers(0, 3), kind=st.sampled_from(["host", "relay"]), end=st.booleans())
    def addresses(self, side: int, gen: int, kind: Any, end: bool) -> None:
        """Sealed addresses reach the other only while both said yes; and rounds are for such pairs alone."""
        one, other = self.people[side], self.people[1 - side]
        if one.newest is None or one.newest.joined is None:
            return
        before = [len(leg.all(control.Cand)) for leg in other.legs]
        self.lapse()
        both = all(each.accepted and each.lost_at is None and not each.over for each in self.people)
        message = control.Cand(
            c=one.newest.cid, to=1 - one.newest.index, gen=gen, b=b"x", kinds=(kind,), acl=HOME, end=end
        )
        one.newest.say("cand", message)
        if not both or any(self.shuts_out):
            assert [len(leg.all(control.Cand)) for leg in other.legs] == before

    @rule(side=who, use=st.sampled_from(["direct", "relay"]))
    def path(self, side: int, use: Any) -> None:
        """What the media goes by, true or not."""
        client = self.people[side].newest
        if client is not None and client.joined is not None:
            client.say("path", control.Path(c=client.cid, p=1 - client.index, use=use))

    @rule(side=who)
    def ping(self, side: int) -> None:
        client = self.people[side].leg
        if client is not None and client.closed is None and not client.gone:
            self.lapse()
            client.mark()
            client.ping()

    # ------------------------------------------------------------ power

    @rule(side=who, on=st.booleans())
    def mute(self, side: int, on: bool) -> None:
        one = self.people[side]
        if one.newest is None:
            return
        if on:
            one.newest.say("mute", control.Mute(c=one.newest.cid, on=True))
        else:
            answer = one.newest.say("unmute", control.Mute(c=one.newest.cid, on=False))
            if isinstance(answer, control.Ok):
                one.muted = False

    @rule(on=st.booleans())
    def hard_mute(self, on: bool) -> None:
        """Person 1 moderates person 0."""
        boss, target = self.people[1].newest, self.people[0]
        if boss is None or not target.legs or target.newest is None or target.newest.joined is None:
            return
        answer = boss.mute(on=on, p=target.newest.index, hard=True)
        if isinstance(answer, control.Ok):
            target.hard = on

    @rule(op=st.sampled_from(["end", "remove", "revoke", "mute", "mute", "block"]), on=st.booleans())
    def command(self, op: str, on: bool) -> None:
        one, other = self.people
        if op in ("end", "remove", "revoke") and self.world.random.random() < 0.6:
            return
        fields: dict[str, Any] = {"cid": one.ids.cid, "sub": one.changes["sub"]}
        if op == "end":
            fields = {"cid": one.ids.cid}
        elif op == "revoke":
            fields = {"ru": one.changes["ru"]}
        elif op == "block":
            fields |= {"peer": other.changes["sub"], "on": on}
        elif op == "mute":
            fields["on"] = on
        code = self.world.command(op, **fields)
        if code is ErrorCode.NO_ERROR:
            if op == "mute":
                one.hard = on
            elif op == "block":  # the back end speaks for both
                self.shuts_out = [on, on]
            else:
                one.over = True
                one.accepted = one.muted = False
                if not self.group or op == "end":
                    other.over, other.accepted = True, False

    @rule(side=who, on=st.booleans())
    def block(self, side: int, on: bool) -> None:
        client, other = self.people[side].newest, self.people[1 - side].newest
        if client is None or other is None or other.joined is None or self.world.random.random() < 0.5:
            return
        answer = client.block(other.index, on)
        if isinstance(answer, control.Ok):
            self.shuts_out[side] = on

    # ------------------------------------------------------------ malice and misfortune

    @rule(pick=st.integers(0, 99))
    def replay_token(self, pick: int) -> None:
        """A token that was used: never without its key."""
        if not self.spent:
            return
        raw = self.spent[pick % len(self.spent)]
        thief = Client(self.world, raw)
        thief.open()
        claims = token.verify(raw, {token.kid_of(PUBLIC): PUBLIC})
        if thief.closed is not None:  # the node is leaving
            return
        answer = thief.ask(control.Hello(tok=raw))
        assert isinstance(answer, control.Err)
        expected = ErrorCode.POP_FAILED if claims.cnf else ErrorCode.TOKEN_REPLAYED
        other = (ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_INVALID, ErrorCode.FORBIDDEN)
        assert answer.code in (expected, *other)

    @rule(data=st.binary(min_size=1, max_size=12), stream=st.booleans(), side=who)
    def garbage(self, data: bytes, stream: bool, side: int) -> None:
        """On a leg of nobody: closed, or waiting for more. On a datagram: counted."""
        stranger = Client(self.world, b"").open()
        if stream:
            self.world.feed(ev.StreamReceived(stranger.leg, data))
        else:
            self.world.feed(ev.DatagramReceived(stranger.leg, b"\0" + data))
            one = self.people[side].leg
            if one is not None and one.closed is None and not one.gone:
                self.pass_on(one, data)
        stranger.lose()

    @rule(seconds=st.sampled_from([0.1, 0.1, 1.0, 1.0, 6.0, 6.0, 29.0, 31.0, 46.0, 61.0, 95.0]), alive=who)
    def time(self, seconds: float, alive: int) -> None:
        """Time passes; the living are heard of, unless the network keeps them quiet."""
        living = [
            one
            for one in self.people
            if one.leg is not None
            and one.leg.closed is None
            and not one.leg.gone
            and (alive or seconds < 6.0)
        ]
        end = self.world.now + seconds
        while self.world.now < end:
            step = min(5.0, end - self.world.now)
            self.lapse()
            for one in living:
                if one.leg is not None and one.lost_at is None and one.leg.closed is None:
                    one.heard = self.world.now
            legs = tuple(one.leg for one in living if one.leg is not None)
            self.world.feed(ev.Heard({leg.leg: self.world.now for leg in legs}))
            self.world.run(step)
            self.lapse()
            self.arrive()

    @rule(seconds=st.sampled_from([-3600.0, 3600.0, -40.0, 40.0]))
    def clock_jump(self, seconds: float) -> None:
        self.world.wall += seconds

    @rule(now=few)
    def drain(self, now: int) -> None:
        """Seldom; and then everything goes on, smaller."""
        if now == 3 and self.world.random.random() < 0.08:
            self.world.feed(ev.DrainRequested())

    # ------------------------------------------------------------ what always holds

    @invariant()
    def accounts_balance(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.check()
        for one, other in (self.people, self.people[::-1]):
            owner = Owner(one.ids.cid, one.changes["sub"])
            may = Address(*HOME[0]).packed in self.world.engine.node.guests.reach(owner)
            assert not may or (one.accepted and other.accepted), "TURN opens for nobody who said no"

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        for client in list(world.clients.values()):
            if client.closed is None and not client.gone:
                client.lose()
        world.run(400.0)
        world.check()
        assert world.engine.calls == 0
        assert not world.engine.legs
        opened = sum(count for (name, _), count in world.engine.counters.items() if name == "call_opened")
        assert len(world.records) == opened
        # A leg's packets are in a record, or they named a flow that was not there.
        counters = world.lane.counters
        recorded = sum(one.received for record in world.records for one in record.participants)
        assert recorded == counters.media_in - counters.dropped[DropReason.UNKNOWN_FLOW]


@pytest.mark.timeout(1200)
def test_whatever_happens_the_gate_the_books_and_the_tables_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: set[tuple[str, str, str, str]] = set()
    original = Machine._move

    def watched(self: Machine[Any], event: type) -> None:
        before = self.state
        original(self, event)
        assert self.TRANSITIONS[before][event] is self.state
        moves.add((type(self).__name__, before.name, event.__name__, self.state.name))

    monkeypatch.setattr(Machine, "_move", watched)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            # A change is judged by the same lives each time; new ones are searched by campaigns.
            derandomize="CI" in os.environ,
        ),
    )
    assert len(moves) >= 15
