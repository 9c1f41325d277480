"""Generated lives of calls at three nodes: people who come, talk and vanish; trunks that fail; crashes; nodes
that restart as planned, and ask their people to go.

At every moment:

* nobody is heard by anybody before both said yes,
* what the home does not allow passes no longer than 1 s where messages pass, and never longer than a lease,
* no packet meets a third relay, and every route has somebody who wants it,

and in the end nothing of a call is left anywhere. `RELAY_LIVES` says how many, `RELAY_LIFE` which one alone.
"""

from __future__ import annotations

import os
import random

import pytest

from pair import Client
from relay.protocol import control, token
from trunkrig import Ids, Net

LIVES = int(os.environ.get("RELAY_LIVES", "200"))
ONE = os.environ.get("RELAY_LIFE")
STEPS = 25
NODES = ("a", "b", "c")
MAY = token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E | token.MAY_MODERATE
WORD_S = 1.0  # from a closing until a word of it reached one end
LEASE_S = 15.0
SLACK_S = 0.3  # two ways of a trunk, and the steps in which we look


class Life:
    """One call and everything that happens to it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.net = Net(*NODES, seed=seed, delay=self.random.choice((0.002, 0.02, 0.08)))
        self.home = self.random.choice(NODES)
        size = self.random.choice((2, 2, 3, 4))
        self.ids = Ids(self.net, self.home, {"prm": MAY, "lim": (512, 512, 500, 2 if size == 2 else 32)})
        self.people: list[Client] = []
        self.size = size
        self.yes: set[bytes] = set()
        self.wrong: dict[tuple[int, int], float] = {}
        self.disturbed_at = 0.0
        self.told: list[str] = []

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
        self.end()

    # ------------------------------------------------------------ what happens

    def step(self) -> None:
        choice = self.random.random()
        if len(self.people) < self.size or choice < 0.05:
            self.come()
        elif choice < 0.35:
            self.speak_up(self.random.choice(self.people))
        elif choice < 0.42:
            self.vanish(self.random.choice(self.people))
        elif choice < 0.50:
            self.come_back(self.random.choice(self.people))
        elif choice < 0.62:
            self.disturb()
        elif choice < 0.80:
            self.go()
        self.pass_time(self.random.choice((0.01, 0.1, 0.5, 0.5, 2.0, 6.0, 17.0)))

    def come(self) -> None:
        name = self.random.choice(NODES)
        self.told.append(f"{self.net.now:.2f} somebody comes to {name}")
        client = self.net[name].client(self.ids.token()).open()
        client.hello()
        if client.closed is None:
            client.join()
            self.people.append(client)

    def speak_up(self, one: Client) -> None:
        if one.joined is None or one.gone or one.closed is not None:
            return
        other = self.random.randrange(self.size)
        messages = {
            "yes": control.Accept(c=one.cid),
            "again yes": control.Accept(c=one.cid),
            "still yes": control.Accept(c=one.cid),
            "mute": control.Mute(c=one.cid, on=self.random.random() < 0.5),
            "block": control.Block(c=one.cid, p=other, on=self.random.random() < 0.5),
            "mod": control.Mod(c=one.cid, p=other, op=self.random.choice(("mute", "unmute"))),
            "no": control.Hangup(c=one.cid),
            "bye": control.Bye(),
        }
        word = self.random.choices(list(messages), (6, 3, 3, 4, 2, 2, 1, 0.3))[0]
        self.told.append(f"{self.net.now:.2f} {one.world.name}/{one.leg} says {messages[word]}")
        if word.endswith("yes"):
            self.yes.add(one.sub)
        one.ask(messages[word])

    def vanish(self, one: Client) -> None:
        if not one.gone and one.closed is None:
            self.told.append(f"{self.net.now:.2f} {one.world.name}/{one.leg} is lost")
            one.lose()

    def come_back(self, one: Client) -> None:
        if one.ticket is None:
            return
        name = self.random.choice(NODES)
        self.told.append(f"{self.net.now:.2f} {one.world.name}/{one.leg} comes back to {name}")
        raw = self.ids.token(sub=one.sub)
        again = self.net[name].client(raw).open()
        again.ticket = one.ticket
        again.hello(resume=one.ticket)
        if again.closed is None:
            again.rejoin()
            self.people.append(again)

    def go(self) -> None:
        """Somebody who was asked to does, and says so on the leg before, if the next one came in."""
        asked = [one for one in self.people if one.all(control.Drain) and not one.gone and one.closed is None]
        if not asked:
            return
        one = self.random.choice(asked)
        self.told.append(f"{self.net.now:.2f} {one.world.name}/{one.leg} follows")
        again = self.net.follow(one, token=self.ids.token(sub=one.sub))
        if again.closed is None:
            self.people.append(again)
        self.pass_time(self.random.choice((0.05, 0.3, 1.0)))
        if again.joined is not None and not one.gone and one.closed is None and self.random.random() < 0.8:
            one.send(control.Moved(c=one.cid, ok=True))

    def disturb(self) -> None:
        one, other = self.random.sample(NODES, 2)
        choice = self.random.random()
        self.disturbed_at = self.net.now
        if choice < 0.5:
            self.told.append(f"{self.net.now:.2f} cut {one} {other}")
            self.net.cut(one, other)
        elif choice < 0.9:
            self.told.append(f"{self.net.now:.2f} freeze {one} {other}")
            self.net.freeze(one, other)
            self.net.after(self.random.uniform(1, 30), lambda: self.thaw(one, other))
        elif choice < 0.95 and self.net[one] not in [old.heir for old in self.net.leaving]:
            self.told.append(f"{self.net.now:.2f} restart {one}")
            self.net.restart(one)
        else:
            self.told.append(f"{self.net.now:.2f} crash {one}")
            self.net.crash(one)

    def thaw(self, one: str, other: str) -> None:
        self.disturbed_at = self.net.now
        self.net.cut(one, other)

    # ------------------------------------------------------------ what must hold

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            step = min(0.1, seconds) if seconds < 1 else min(0.5, seconds)
            self.net.run(step)
            self.check()
            seconds -= step

    def check(self) -> None:
        now = self.net.now
        passing = set()
        for one in self.people:
            for other in self.net.heard_of(one):
                assert {one.sub, other.sub} <= self.yes, "heard before both said yes"
                if not self.is_allowed(one, other):
                    passing.add((id(one), id(other)))
        self.wrong = {pair: self.wrong.get(pair, now) for pair in passing}
        is_quiet = now - self.disturbed_at > LEASE_S + 6.0 and not self.is_frozen()
        for since in self.wrong.values():
            assert now - since <= (WORD_S if is_quiet else LEASE_S) + SLACK_S, "passes after it was closed"
        for node in self.net.all:
            node.check()
            abroad = node.engine.abroad
            assert abroad is not None
            routes = {key for key, is_route in node.table.open.items() if is_route}
            assert routes == abroad.voices.routes(), "a route without an owner"

    def is_frozen(self) -> bool:
        return any(wire.stands for node in self.net.all for wire in node.wires.values())

    def is_allowed(self, one: Client, other: Client) -> bool:
        """One of the home's processes lets it pass: of two each knows its own people best."""
        for home in [node for node in self.net.all if node.name == self.home]:
            call = home.engine.node.calls.get(one.cid)
            seats = (None, None) if call is None else (call.seat_of(one.sub), call.seat_of(other.sub))
            speaker, listener = seats
            if call is None or speaker is None or listener is None:
                continue
            if call.gate.hearers(speaker.index) >> listener.index & 1:
                return True
        return False

    def end(self) -> None:
        for one in self.people:
            self.vanish(one)
        for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
            self.net.cut(one, other)
        self.net.run(300.0)
        self.net.check_empty()


@pytest.mark.parametrize("block", range(10))
def test_generated_lives(block: int) -> None:
    seeds = [int(ONE)] if ONE is not None else range(block * LIVES // 10, (block + 1) * LIVES // 10)
    for seed in seeds:
        life = Life(seed)
        try:
            life.run()
        except Exception as error:
            raise AssertionError(f"life {seed}: {error!r}\n" + "\n".join(life.told)) from error
