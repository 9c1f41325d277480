"""Generated lives of TURN users: whatever they and time do, charges equal resources and nobody is touched by
another.

Time stands in the first seconds, so that ends meet in every order. RELAY_SEQUENCES says how many lives.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from core.test_relays import CALL, ELSEWHERE, Circle
from relay.core import turn_events as te
from relay.core.events import CompanyChanged
from relay.core.machine import Machine
from relay.protocol import stun, turn
from relay.protocol.turn import Method
from turnrig import V4, Rig, TurnClient, code_of, config

SEQUENCES = int(os.environ.get("RELAY_SEQUENCES", "100"))
STEPS = 40
WHO = [b"ann", b"bob", b"eve"]
HOSTS = ["8.8.8.8", "8.8.4.4", "8.8.1.1", "10.0.0.1", V4]
who, place, host = st.sampled_from(WHO), st.integers(0, 4), st.sampled_from(HOSTS)
often = st.integers(0, 9)
"""Mostly who acts is somebody who holds an allocation, at his place."""


class Lives(RuleBasedStateMachine):
    """Three people of two calls on five 5-tuples, and a back end that changes its mind."""

    @initialize(is_strict=st.booleans(), permissions=st.integers(1, 3))
    def begin(self, is_strict: bool, permissions: int) -> None:
        self.circle = Circle()
        fields: dict[str, Any] = {"allocations": 5, "permissions": permissions, "channels": 2}
        if is_strict:
            fields |= {"policy": "strict", "urls": ("turn:x",)}
        self.is_strict = is_strict
        self.rig = Rig(config(**fields), self.circle if is_strict else None)
        self.clients: dict[tuple[bytes, int], TurnClient] = {}
        self.circle.announce(b"ann", *HOSTS[:2])
        self.circle.announce(b"bob", *HOSTS[1:4])
        self.places = [self.rig.client(transport="tcp" if n == 4 else "udp").via for n in range(5)]

    def actor(self, id: bytes, place: int, often: int) -> tuple[bytes, int]:
        held = list(self.rig.engine.relays.by_via)
        if often < 2:
            return id, place
        if not held:
            self.client(id, place).allocate()
            return id, place
        via = held[often % len(held)]
        return self.rig.engine.relays.by_via[via].user.partition(b":")[2], self.places.index(via)

    def client(self, id: bytes, place: int) -> TurnClient:
        """A person at a place; several may try the same one. Each has a fresh name and nonce."""
        via = self.places[place]
        fresh = self.rig.client(id=id.decode(), client=via.client, transport=via.transport)
        old = self.clients.get((id, place))
        if old is not None:
            # As a browser does: the name its allocation was made with, as long as that lives.
            fresh._transaction = old._transaction
            if via in self.rig.engine.relays.by_via:
                fresh.user, fresh.password = old.user, old.password
        self.rig.run(1.0)  # the budget for strangers comes back
        fresh.challenged()
        self.clients[id, place] = fresh
        return fresh

    def others(self, place: int) -> dict[Any, Any]:
        """Everything that belongs to allocations elsewhere."""
        via = self.places[place]
        mine = self.rig.engine.relays.by_via.get(via)
        number = 0 if mine is None else mine.number
        return {
            "relays": {n: each for n, each in self.rig.relays.items() if n != number},
            "permits": {key: until for key, until in self.rig.permits.items() if key[0] != number},
        }

    def holds(self, id: bytes, place: int) -> bool:
        held = self.rig.engine.relays.by_via.get(self.places[place])
        if held is None:
            return False
        return held.owner.who == (id if self.is_strict else held.user) and held.user.endswith(b":" + id)

    # ------------------------------------------------------------ what people do

    @rule(id=who, place=place, opens=st.sampled_from([True, True, True, False]))
    def allocate(self, id: bytes, place: int, opens: bool) -> None:
        self.rig.opens = opens
        client = self.client(id, place)
        before = self.rig.engine.allocations
        code = code_of(client.allocate())
        assert code in (0, -1, 401, 437, 441, 486, 508)
        assert self.rig.engine.allocations - before == (code in (0, -1))
        self.rig.opens = True

    @rule(answer=st.sampled_from(["open", "full", "broken"]))
    def socket(self, answer: str) -> None:
        waiting = [each.number for each in self.rig.engine.relays.by_number.values() if not each.is_live]
        for number in waiting[:1]:
            if answer == "open":
                self.rig.open(number)
            else:
                self.rig.feed(te.RelayFailed(number, answer == "full"))

    @rule(id=who, place=place, often=often, seconds=st.sampled_from([0, 600, 900]))
    def refresh(self, id: bytes, place: int, often: int, seconds: int) -> None:
        id, place = self.actor(id, place, often)
        client, mine = self.client(id, place), self.holds(id, place)
        before = dict(self.rig.relays)
        code = code_of(client.refresh(seconds))
        assert code in (0, 401, 437, 441)
        if not mine:
            assert code != 0
            assert self.rig.relays == before

    @rule(id=who, place=place, often=often, host=host)
    def permit(self, id: bytes, place: int, often: int, host: str) -> None:
        id, place = self.actor(id, place, often)
        client, mine, before = self.client(id, place), self.holds(id, place), self.others(place)
        code = code_of(client.permit(host))
        assert code in (0, 401, 403, 437, 441, 508)
        assert mine or code != 0
        assert self.others(place) == before
        assert not (code == 0 and host == "10.0.0.1")

    @rule(id=who, place=place, often=often, host=host, number=st.integers(0x4000, 0x4002))
    def bind(self, id: bytes, place: int, often: int, host: str, number: int) -> None:
        id, place = self.actor(id, place, often)
        client, mine, before = self.client(id, place), self.holds(id, place), self.others(place)
        ports = [each.relayed.port for each in self.rig.engine.relays.by_number.values() if each.relayed]
        code = code_of(client.bind(number, host, ports[0] if host == V4 and ports else 9))
        assert code in (0, 400, 401, 403, 437, 441, 508)
        assert mine or code != 0
        assert self.others(place) == before

    @rule(id=who, place=place, often=often)
    def again(self, id: bytes, place: int, often: int) -> None:
        """The newest request once more: the same answer, or none, or a refusal; nothing changes."""
        id, place = self.actor(id, place, often)
        client = self.clients.get((id, place))
        if client is None or not client.sent:
            return
        before = dict(self.rig.relays), dict(self.rig.channels)
        method = stun.parse(client.sent).method
        answers = list(self.rig.answers.get(client.via, []))
        answer = client.send(client.sent)
        if answer is not None and code_of(answer) == 0 and method == Method.ALLOCATE and self.rig.opens:
            assert answer.raw in answers or self.rig.relays != before[0]
        elif method == Method.REFRESH and self.rig.relays != before[0]:
            assert code_of(answer) == 0

    @rule(place=place)
    def stream_ends(self, place: int) -> None:
        via = self.places[place]
        if via.is_stream:
            self.rig.feed(te.ClientGone(via))

    @rule(place=place, data=st.binary(max_size=40))
    def noise(self, place: int, data: bytes) -> None:
        before = dict(self.rig.relays)
        self.rig.feed(te.ClientPacket(self.places[place], data))
        assert self.rig.relays == before

    @rule(id=who, place=place, flip=st.integers(0, 10**6))
    def forge(self, id: bytes, place: int, flip: int) -> None:
        """A right request with one bit wrong in front of its sum does nothing."""
        client = self.client(id, place)
        before = dict(self.rig.relays), dict(self.rig.permits)
        data = bytearray(client.written(Method.REFRESH, [turn.lifetime(0)]))
        at = 20 + flip % (8 * (len(data) - 44)) // 8
        data[at] ^= 1 << flip % 8
        self.rig.feed(te.ClientPacket(client.via, bytes(data)))
        assert (self.rig.relays, self.rig.permits) == before

    # ------------------------------------------------------------ what the calls do

    @rule(id=who, hosts=st.lists(host, max_size=3))
    def announce(self, id: bytes, hosts: list[str]) -> None:
        self.circle.announce(id, *hosts)
        self.changed()

    @rule(id=who, shut=st.booleans(), gone=st.sampled_from([False, False, True]))
    def consent(self, id: bytes, shut: bool, gone: bool) -> None:
        owner = self.circle.people[id]
        for name, on in (("shut", shut), ("gone", gone)):
            people = getattr(self.circle, name)
            people.add(owner) if on else people.discard(owner)
        self.changed()

    def changed(self) -> None:
        if self.is_strict:
            for call in (CALL, ELSEWHERE):
                self.rig.feed(CompanyChanged(call))

    @rule(seconds=st.sampled_from([1.0, 4.0, 6.0, 6.0, 60.0, 60.0, 299.0, 301.0, 599.0, 901.0]))
    def time(self, seconds: float) -> None:
        self.rig.run(seconds)

    # ------------------------------------------------------------ what always holds

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "rig"):
            self.rig.check()
            assert all(until > self.rig.now for until in self.rig.permits.values())
            assert all(until > self.rig.now for _, until in self.rig.channels.values())

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.run(5000.0)
            self.rig.check()
            assert (self.rig.engine.allocations, self.rig.relays) == (0, {})
            assert self.rig.permits == self.rig.channels == {}
            assert self.rig.engine.relays.user_quota.keys() == 0
            opened = self.rig.engine.counters["turn_opened", ""]
            ended = sum(n for (name, _), n in self.rig.engine.counters.items() if name == "turn_closed")
            assert opened == ended
            assert self.rig.engine.next_deadline() is None


@pytest.mark.timeout(1200)
def test_whatever_happens_charges_equal_resources_and_nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: set[tuple[str, str, str]] = set()
    original = Machine._move

    def watched(self: Machine[Any], event: type) -> None:
        before = self.state
        original(self, event)
        moves.add((type(self).__name__, before.name, event.__name__))

    monkeypatch.setattr(Machine, "_move", watched)
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            derandomize="CI" in os.environ,
        ),
    )
    assert {name for name, _, _ in moves} == {"Allocation"}
    assert len(moves) == 3
