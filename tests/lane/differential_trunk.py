"""The part of a generated life that is other nodes': trunks, routes that either gives, voices of both sides.

Must never live here: what the right output is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from relay.core.reasons import DropReason
from relay.protocol import frames, media, trunk
from relay.protocol.trunk import MAX_ROUTE, MIN_ROUTE

if TYPE_CHECKING:
    from lane.differential import Duel, _Client

TRUNKS = 2
FIRST, LAST = MIN_ROUTE, MAX_ROUTE
ROUTES = (*range(FIRST, FIRST + 12), 1000, LAST)  # so few that numbers meet
NO_ROUTES = (0, 9, 63, LAST + 1)
REASONS = (None, DropReason.MUTED, DropReason.BLOCKED)


class TrunkLife:
    """Acts on the lanes of a duel."""

    def __init__(self, duel: Duel) -> None:
        self.duel = duel
        self.rng: random.Random = duel.rng
        self.ctr = 0
        self.trunks: dict[int, _Client] = {}
        self.given: dict[int, dict[int, tuple[int, bool]]] = {}  # of each trunk, by route: index, group
        self.ways: dict[int, tuple[int, bool]] = {}  # connections that joined: which trunk, which path
        self.acts: list[tuple[int, Callable[[], None]]] = [
            (14, self.hear),
            (4, self.hear_badly),
            (8, self.acknowledge),
            (6, self.go_there),
            (4, self.come_from_there),
            (3, self.give),
            (1, self.take_back),
            (2, self.straight),
            (1, self.ask),
            (1, self.move),
            (1, self.renew),
            (1, self.say_control),
            (1, self.mistake),
            (1, self.redial),
            (1, self.join),
        ]
        for _ in range(TRUNKS):
            self.dial()

    def some(self) -> _Client:
        return self.trunks[self.rng.choice(list(self.trunks))]

    def dial(self) -> None:
        """Another node."""
        client = self.duel.join(b"")
        leg = client.leg
        self.trunks[leg] = client
        self.given[leg] = {}
        self.duel.both("open_trunk", lambda lane: lane.open_trunk(leg))
        for _ in range(3):
            self.give()

    def redial(self) -> None:
        """A trunk ends, another begins."""
        if self.rng.random() < 0.6:
            return
        leg = self.some().leg
        order = [lambda lane: lane.close_leg(leg), lambda lane: lane.close_path(leg)]
        for act in self.rng.sample(order, 2):
            self.duel.both("close", act)
        del self.trunks[leg], self.given[leg], self.duel.paths[leg]
        if self.ways.pop(leg, None) is None:
            self.dial()

    def join(self) -> None:
        """One more connection of a trunk, in place of another one of that path; or what cannot join."""
        leg = self.some().leg
        second = self.rng.random() < 0.7
        if self.rng.random() < 0.1:
            other = self.some().leg
            self.duel.both("mistake", lambda lane: lane.join_trunk(leg, other, second=second))
            return
        if len(self.ways) >= TRUNKS or leg in self.ways:
            return
        client = self.duel.join(b"")
        self.trunks[client.leg] = client
        self.given[client.leg] = self.given[leg]
        self.ways[client.leg] = leg, second
        self.duel.both("join_trunk", lambda lane: lane.join_trunk(client.leg, leg, second=second))

    def give(self) -> None:
        """A route for a voice from there; it may have another one's number."""
        leg = self.some().leg
        route = self.rng.choice(ROUTES)
        group = self.rng.random() < 0.5
        rights: dict[str, Any] = {
            "index": self.rng.randrange(4),
            "group": group,
            "pps": self.rng.choice((10, 50, 1000)),
            "up_bps": self.rng.choice((16_000, 512_000)),
        }
        self.duel.both("open_route", lambda lane: lane.open_route(leg, route, **rights))
        self.given[leg][route] = rights["index"], group
        if self.rng.random() < 0.8:
            self.route(leg, route)

    def take_back(self) -> None:
        """A route ends."""
        leg = self.some().leg
        route = self.rng.choice(ROUTES)
        self.given[leg].pop(route, None)
        self.duel.both("close_flow", lambda lane: lane.close_flow(leg, route))

    def come_from_there(self) -> None:
        """Others hear a voice from there."""
        leg = self.some().leg
        self.route(leg, self.rng.choice(list(self.given[leg]) or ROUTES))

    def route(self, leg: int, route: int) -> None:
        legs = [*self.duel.clients, *self.duel.streams]
        chosen = self.rng.sample(legs, self.rng.randrange(min(len(legs), 3) + 1))
        targets = [(listener, self.rng.randrange(1, 63)) for listener in chosen]
        if self.rng.random() < 0.05:
            targets.append((self.some().leg, self.rng.choice(ROUTES)))  # a third relay
        closed = self.rng.choice(REASONS)
        self.duel.both("route", lambda lane: lane.route(leg, route, targets, closed))

    def go_there(self) -> None:
        """A voice of this node goes to others, and to legs here."""
        leg = self.rng.choice([*self.duel.clients, *self.duel.clients, *self.duel.streams])
        flow = self.rng.choice(self.duel.flows[leg] or [9])
        count = self.rng.choice((1, 1, 2, 6))
        targets = [(self.some().leg, route) for route in self.rng.sample(ROUTES, count)]
        targets += [
            (other, self.rng.randrange(1, 63))
            for other in self.duel.clients
            if other != leg and self.rng.random() < 0.3
        ]
        closed = self.rng.choice(REASONS)
        self.duel.both("route", lambda lane: lane.route(leg, flow, targets, closed))

    def mistake(self) -> None:
        """What is no trunk, no leg or no route."""
        leg, trunk_leg = self.rng.choice(list(self.duel.clients)), self.some().leg
        rights = {"index": 0, "group": False, "pps": 50, "up_bps": 64_000}
        wrong: tuple[Callable[[Any], Any], ...] = (
            lambda lane: lane.open_trunk(leg),
            lambda lane: lane.open_trunk(0),
            lambda lane: lane.open_leg(trunk_leg, pps=1, up_bps=8, down_bps=8),
            lambda lane: lane.open_flow(trunk_leg, 9, index=0, group=False),
            lambda lane: lane.open_route(leg, 64, **rights),
            *(lambda lane, n=number: lane.open_route(trunk_leg, n, **rights) for number in NO_ROUTES),
            *(lambda lane, n=number: lane.route(leg, 9, [(trunk_leg, n)], None) for number in NO_ROUTES),
            lambda lane: lane.close_flow(leg, 64),
            lambda lane: lane.flowing([(leg, 64), (trunk_leg, 9)]),
        )
        self.duel.both("mistake", self.rng.choice(wrong))

    # ------------------------------------------------------------ what the other node says

    def voice(self, leg: int, route: int) -> bytes:
        index, group = self.given[leg].get(route, (0, False))
        kid = (index << 3 if group else index << 2) | self.rng.choice((0, 0, 0, 1))
        self.ctr += self.rng.choice((0, 1, 1, 1, 1, 2, 150))
        head = media.encode_header(1, kid, self.ctr, pp=self.rng.randrange(4))
        body = self.rng.randbytes(self.rng.choice((60, 60, 80, 300, 900)))
        return trunk.from_leg(head + body, route)

    def hear(self) -> None:
        """A packet with voices of several routes."""
        client = self.some()
        routes = list(self.given[client.leg]) or [FIRST]
        count = self.rng.choice((1, 2, 5, 8))
        voices = [self.voice(client.leg, self.rng.choice(routes)) for _ in range(count)]
        parts = [client.datagram(data) for data in voices]
        while sum(map(len, parts)) > 1900:
            parts.pop()
        if self.rng.random() < 0.5:
            parts.insert(0, self.duel._ack(client))
        self.duel._packet(client, client.frames_packet(b"".join(parts)))

    def hear_badly(self) -> None:
        """Datagrams that are not what they should be."""
        client = self.some()
        good = bytearray(self.voice(client.leg, self.rng.choice(ROUTES)))
        way = self.rng.randrange(5)
        if way == 0:
            good[self.rng.randrange(8)] ^= 1 << self.rng.randrange(8)
        elif way == 1:
            del good[self.rng.randrange(28) :]
        elif way == 2:
            good += bytes(self.rng.randrange(900, 1100))
        elif way == 3:
            good[2] = self.rng.choice((0, 2, 3, 0x3F, 0x40, 255))
        else:
            good = bytearray(b"\0" + self.rng.randbytes(self.rng.randrange(20)))
        self.duel._packet(client, client.frames_packet(client.datagram(bytes(good))))

    def acknowledge(self) -> None:
        """What left is acknowledged."""
        client = self.some()
        self.duel._packet(client, client.frames_packet(self.duel._ack(client)))

    def straight(self) -> None:
        """A voice that came through aioquic."""
        leg = self.some().leg
        payload = self.voice(leg, self.rng.choice(ROUTES))
        self.duel.both("deliver", lambda lane: lane.deliver(leg, payload, self.duel.now))

    # ------------------------------------------------------------ the loop

    def ask(self) -> None:
        """What is known of trunks."""
        legs = list(self.trunks)
        flows = [(leg, route) for leg in legs for route in ROUTES]
        self.duel.both("flowing", lambda lane: lane.flowing(flows))
        first, most = self.rng.choice((0, FIRST + 5, LAST)), self.rng.choice((1, 3, 80))
        for leg in (*legs, 0):
            self.duel.both("count_routes", lambda lane, leg=leg: lane.count_routes(leg, first, most))
        self.duel.both("measure", lambda lane: lane.measure(legs, self.duel.now))
        for leg in legs:
            self.duel.both_paths("room", leg, lambda path: path.room(self.duel.now))

    def move(self) -> None:
        """The way to a node takes nothing for a while, or does again."""
        client = self.some()
        active = self.rng.random() < 0.7
        self.duel.both_paths("facts", client.leg, lambda path: client.tell(path, active))

    def renew(self) -> None:
        """Keys of a new phase."""
        client = self.some()
        client.phase ^= 1
        key, iv = client.coming
        client.renew()
        client.up = (key, iv, client.masks[0])
        keys = client.suite, client.phase, client.up, client.down, client.coming
        self.duel.both_paths("keys", client.leg, lambda path: path.set_keys(*keys))
        client.path.set_keys(client.suite, client.phase, client.down, client.up, client.coming)

    def say_control(self) -> None:
        """A control datagram to a node, if there is room, and one from there."""
        client = self.some()
        data = b"\0\1" + self.rng.randbytes(8)
        if self.duel.both_paths("room", client.leg, lambda path: path.room(self.duel.now)):
            self.duel.both_paths("seal", client.leg, lambda path: path.seal([data], self.duel.now))
        self.duel._packet(client, client.frames_packet(frames.encode_datagram(data)))
