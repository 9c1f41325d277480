"""Several engines joined by simulated trunks, on one clock, with lanes that know Route and OpenRoute alone.

    net = Net("a", "b")                                   nodes that know each other
    ids = net.call("a")                                   a call whose home is `a`
    ann, bob = net.enter("a", ids), net.enter("b", ids)
    net.ask(ann, control.Accept(c=ids.cid)) ...
    assert net.heard_of(ann) == [bob]

A connection delivers in order after `delay`; it can be cut (both are told), or stand still (nobody is). Must
never live here: sockets, sleeping, the real clock.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Callable
from typing import Any

from pair import CLUSTER, ISSUER, PUBLIC, TICKET_KEY, WALL, CallIds, Client, World, config
from relay.config import Config, NodeConfig
from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.core.relay import EngineKeys, Relay
from relay.core.trunk_greeting import Identity
from relay.errors import ErrorCode
from relay.protocol import control, token, trunk_proof
from relay.protocol.ids import CallId
from relay.protocol.trunk import MIN_ROUTE

DELAY = 0.02
KNOCK_S = 1.0


@dataclasses.dataclass
class Table:
    """One node's lane: which flows and routes there are, and who hears them."""

    open: dict[tuple[int, int], bool] = dataclasses.field(default_factory=dict)
    """(leg, flow or route) -> whether it is a trunk's."""
    targets: dict[tuple[int, int], tuple[tuple[int, int], ...]] = dataclasses.field(default_factory=dict)
    closed: dict[tuple[int, int], DropReason | None] = dataclasses.field(default_factory=dict)
    counts: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    legs: set[int] = dataclasses.field(default_factory=set)
    trunks: set[int] = dataclasses.field(default_factory=set)
    joined: dict[int, int] = dataclasses.field(default_factory=dict)
    """Connections that joined a trunk, by which leg it began; it lives as long as one of them."""
    widowed: set[int] = dataclasses.field(default_factory=set)

    def open_leg(self, leg: int, **_: int) -> None:
        assert leg >= 0, "a leg that no edge knows"
        self.legs.add(leg)

    def open_trunk(self, leg: int) -> None:
        self.trunks.add(leg)

    def open_flow(self, leg: int, flow: int, **_: Any) -> None:
        assert (leg, flow) not in self.open
        assert leg in self.legs
        self.open[leg, flow] = False

    def open_route(self, leg: int, route: int, *, index: int, group: bool, pps: int, up_bps: int) -> None:
        assert (leg, route) not in self.open
        assert leg in self.trunks
        assert route >= MIN_ROUTE
        assert pps > 0
        assert up_bps > 0
        self.open[leg, route] = True

    def route(
        self, leg: int, flow: int, targets: tuple[tuple[int, int], ...], closed: DropReason | None
    ) -> None:
        assert (leg, flow) in self.open, "a route of nothing"
        assert bool(targets) is (closed is None) or self.open[leg, flow]
        for to, number in targets:
            assert to >= 0
            assert (to in self.trunks) is (number >= MIN_ROUTE)
            assert not (to in self.trunks and self.open[leg, flow]), "a third relay"
        self.targets[leg, flow] = targets
        self.closed[leg, flow] = closed

    def close_flow(self, leg: int, flow: int) -> ev.FlowCounters:
        count = self.counts.pop((leg, flow), 0)
        self.open.pop((leg, flow), None)
        self.targets.pop((leg, flow), None)
        self.closed.pop((leg, flow), None)
        return ev.FlowCounters(received=count, accepted=count, copies=count)

    def join_trunk(self, leg: int, of: int) -> None:
        assert of in self.trunks
        self.joined[leg] = of

    def close_leg(self, leg: int) -> None:
        whole = self.joined.pop(leg, leg)
        if leg in self.joined.values():
            self.widowed.add(leg)
            return
        self._close(leg)
        if whole in self.widowed and whole not in self.joined.values():
            self.widowed.discard(whole)
            self._close(whole)

    def _close(self, leg: int) -> None:
        self.legs.discard(leg)
        self.trunks.discard(leg)
        for key in [key for key in self.open if key[0] == leg]:
            self.close_flow(*key)

    def shape(self, *_: Any) -> None:
        pass

    def flowing(self, _: Any) -> dict[tuple[int, int], tuple[float, int]]:
        return {}


@dataclasses.dataclass
class Wire:
    """One connection between two nodes."""

    ends: tuple[tuple[Peer, int], tuple[Peer, int]]
    stands: bool = False
    over: bool = False
    latest: float = 0.0
    second: bool = False

    def other(self, one: Peer) -> tuple[Peer, int]:
        return self.ends[1] if self.ends[0][0] is one else self.ends[0]


class Peer(World):
    """One node of several."""

    def __init__(self, net: Net, name: str, pins: dict[str, tuple[bytes, ...]], settings: Config) -> None:
        super().__init__(settings, seed=net.random.randrange(2**32))
        self.net = net
        self.name = name
        self.pins = pins
        self.table = Table()
        self.lane = self.table  # type: ignore[assignment]  # a lane that knows of routes, and of nothing else
        self.wires: dict[int, Wire] = {}
        self.heir: Peer | None = None
        """The process that follows this one."""
        self.begin()

    def feed(self, event: ev.Input) -> None:
        """As ever; whoever follows us hears of each call that changed."""
        seen = len(self.events)
        super().feed(event)
        if self.heir is not None:
            for cid in dict.fromkeys(each.data["call"] for each in self.events[seen:] if "call" in each.data):
                self.tell(CallId(bytes.fromhex(cid)))

    def tell(self, cid: CallId) -> None:
        ticket = self.engine.describe(cid)
        if ticket is not None and self.heir is not None:
            self.heir.feed(ev.CallTold(ticket))

    def begin(self) -> None:
        """A fresh process."""
        keys = EngineKeys({token.kid_of(PUBLIC): PUBLIC}, [TICKET_KEY])
        identity = Identity(
            node=self.name,
            cluster=CLUSTER,
            region="r",
            version="1",
            variants=("control",),
            boot=self.random.randbytes(8),
            seed=seed_of(self.name),
        )
        self.engine = Relay(self.config, keys, self.random.randbytes, identity, self.pins)

    def _carry_out(self, output: ev.Output, inputs: list[ev.Input]) -> None:
        match output:
            case ev.SendStream(leg, data) if leg in self.wires:
                self.net.send(self, leg, lambda there: ev.StreamReceived(there, data))
            case ev.SendDatagram(leg, data) if leg in self.wires:
                self.net.send(self, leg, lambda there: ev.DatagramReceived(there, data))
            case ev.CloseLeg(leg, code) if leg in self.wires:
                wire = self.wires.pop(leg)
                self.table.close_leg(leg)
                self.net.close(wire, self, int(code))
            case ev.DialTrunk(node, second):
                dialed = self.net.dial(self, node, second)
                if dialed is not None:
                    inputs.insert(0, dialed)
            case ev.CarryTrunk(leg, of):
                if leg in self.wires and of is not None:
                    self.table.join_trunk(leg, of)
                elif leg in self.wires:
                    self.table.open_trunk(leg)
            case ev.OpenRoute(leg, route, index, group, up_bps, pps):
                self.table.open_route(leg, route, index=index, group=group, pps=pps, up_bps=up_bps)
            case ev.SendStream(leg) if leg not in self.clients:
                raise AssertionError(f"{self.name}: nobody is on leg {leg}")
            case ev.SendStream(leg) | ev.SetBudget(leg) if self.clients[leg].gone:
                pass
            case _:
                super()._carry_out(output, inputs)

    def check(self) -> None:
        """Charges equal resources; whoever is elsewhere has no leg of the edge's."""
        node = self.engine.node
        assert node.leg_quota.total() == len(node.legs)
        assert node.call_quota.total() == len(node.calls)


def url_of(name: str) -> str:
    """Where people reach a node."""
    return f"quic://{name}.example:443"


def url_to(urls: tuple[str, ...]) -> str:
    """Whose address that is."""
    return urls[0].removeprefix("quic://").removesuffix(".example:443")


def seed_of(name: str) -> bytes:
    """The key of a node."""
    return name.encode().ljust(32, b"-")[:32]


class Net:
    """Nodes, trunks and one clock."""

    def __init__(self, *names: str, seed: int = 1, delay: float = DELAY, **changes: Any) -> None:
        self.random = random.Random(seed)
        self.delay = delay
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        keys = {name: Identity(name, "", "", "", (), b"", seed_of(name)).public for name in names}
        pins = {name: (trunk_proof.pin_of(key),) for name, key in keys.items()}
        self.keys = keys
        self.unreachable: set[str] = set()
        self.leaving: list[Peer] = []
        """Processes that another one of their node has followed."""
        self.cut_paths: set[bool] = set()
        """By which of two paths nobody can be dialed."""
        self.nodes = {
            name: Peer(self, name, pins, config(node=NodeConfig(id=name, cluster=CLUSTER), **changes))
            for name in names
        }

    def __getitem__(self, name: str) -> Peer:
        return self.nodes[name]

    # ------------------------------------------------------------ people

    def call(self, home: str, **changes: Any) -> Ids:
        return Ids(self, home, changes)

    def arrive(self, name: str, ids: Ids, **changes: Any) -> Client:
        """Somebody says hello and asks to join; the answer is under way."""
        client = self.nodes[name].client(ids.token(**changes)).open()
        assert isinstance(client.hello(), control.Welcome), client.got
        client.join()
        return client

    def enter(self, name: str, ids: Ids, **changes: Any) -> Client:
        """Somebody comes in."""
        client = self.arrive(name, ids, **changes)
        self.run(1.0)
        assert client.joined is not None, client.got
        return client

    def ask(self, client: Client, message: control.Message) -> Any:
        """Say something and wait for the answer."""
        client.ask(message)
        self.run(0.5)
        return client.answers.get(client._id)

    def talking(self, home: str, *names: str, **changes: Any) -> list[Client]:
        """People at these nodes in one call, who all accepted."""
        ids = self.call(home, **changes)
        people = [self.enter(name, ids) for name in names]
        for one in people:
            assert isinstance(self.ask(one, control.Accept(c=ids.cid)), control.Ok)
        self.run(1.0)
        return people

    def follow(self, client: Client, *, token: bytes | None = None) -> Client:
        """A second leg where this one is asked to go, by the ticket that came with it; both stay."""
        notice = client.last(control.Drain)
        assert isinstance(client.world, Peer)
        name = url_to(notice.to) if notice.to else client.world.name
        again = self.nodes[name].client(client.raw).open()
        again.ticket = notice.ht
        again.hello(tok=token, resume=again.ticket)
        if again.closed is None:
            again.rejoin()
        return again

    # ------------------------------------------------------------ processes that leave

    def restart(self, name: str) -> Peer:
        """Another process of this node takes over as planned; the one before, which leaves a second later."""
        old = self.nodes[name]
        new = self.nodes[name] = Peer(self, name, old.pins, old.config)
        new.now, new.wall, old.heir = old.now, old.wall, new
        self.leaving.append(old)
        for cid in old.engine.call_ids():
            old.tell(cid)
        new.feed(ev.TrunksKnown(tuple(old.engine.met)))
        self.after(1.0, lambda: self.leave(old))
        return old

    def leave(self, node: Peer) -> None:
        """It asks its people to go, at once."""
        for _ in ("draining", "moving"):
            if node.engine.drain_state in ("running", "emptying", "draining"):
                node.feed(ev.DrainRequested())

    def _end(self) -> None:
        """Processes that have stopped are gone, and their connections with them."""
        for node in [each for each in self.leaving if each.is_stopped]:
            self.leaving.remove(node)
            for wire in list(node.wires.values()):
                self._break(wire, node)

    # ------------------------------------------------------------ voices

    def heard_of(self, client: Client) -> list[Client]:
        """Who gets the next packet of this one, on the number that the gate told them."""
        if client.joined is None or client.gone or client.closed is not None:
            return []
        node = client.world
        assert isinstance(node, Peer)
        return self._walk(node, client.leg, client.joined.up, client.index, 0)

    def _walk(self, node: Peer, leg: int, flow: int, index: int, relays: int) -> list[Client]:
        assert relays <= 1, "a loop"
        heard = []
        node.table.counts[leg, flow] = node.table.counts.get((leg, flow), 0) + 1
        for to, number in node.table.targets.get((leg, flow), ()):
            ways = [to, *(leg for leg, whole in node.table.joined.items() if whole == to)]
            wires = [node.wires[way] for way in ways if way in node.wires]
            if wires:
                carrying = [wire for wire in wires if not wire.stands]
                for there, end in [wire.other(node) for wire in carrying][:1]:  # the other copy is dropped
                    whole = there.table.joined.get(end, end)
                    if (whole, number) in there.table.open:
                        heard += self._walk(there, whole, number, index, relays + 1)
            elif to in node.clients and to in node.table.legs:
                heard.append(node.clients[to])
        return heard

    # ------------------------------------------------------------ trunks

    def dial(self, node: Peer, name: str, second: bool = False) -> ev.TrunkDialed | None:
        there = self.nodes.get(name)
        if there is None:
            return None
        ends = ((node, node.next_leg()), (there, there.next_leg()))
        wire = Wire(ends, second=second)
        node.wires[ends[0][1]] = wire
        self._knock(wire)
        return ev.TrunkDialed(name, ends[0][1], second)

    def _knock(self, wire: Wire) -> None:
        """Shake hands: again and again, as QUIC does, until somebody is there or who dials gives it up."""
        (one, leg), (there, _) = wire.ends
        if one.wires.get(leg) is not wire:
            return
        if wire.second in self.cut_paths or {one.name, there.name} & self.unreachable:
            self.after(KNOCK_S, lambda: self._knock(wire))
        else:
            self.after(2 * self.delay, lambda: self._opened(wire))

    def _opened(self, wire: Wire) -> None:
        (one, leg), (there, end) = wire.ends
        if not wire.over:
            there.wires[end] = wire
            there.feed(ev.TrunkOpened(end, None, 1200))
            if leg in one.wires:
                one.feed(ev.TrunkOpened(leg, self.keys[there.name], 1200))

    def send(self, node: Peer, leg: int, make: Callable[[int], ev.Input]) -> None:
        wire = node.wires[leg]
        there, end = wire.other(node)

        def arrive() -> None:
            if wire.stands or wire.over:
                return
            if end in there.wires:
                there.feed(make(end))
            self.after(self.delay, acknowledge)

        def acknowledge() -> None:
            if leg in node.wires and not wire.stands:
                node.feed(ev.TrunkAcknowledged({leg: 2 * self.delay}))

        wire.latest = max(wire.latest, self.now + self.delay)
        self.at(wire.latest, arrive)

    def close(self, wire: Wire, node: Peer, code: int) -> None:
        """One end has closed it."""
        there, end = wire.other(node)

        def arrive() -> None:
            wire.over = True
            if there.wires.pop(end, None) is not None:
                there.feed(ev.LegLost(end, code))

        wire.latest = max(wire.latest, self.now + self.delay)
        self.at(wire.latest, arrive)

    def wires(self, one: str, other: str) -> list[Wire]:
        """What there is between two nodes."""
        node = self.nodes[one]
        found = [wire for wire in node.wires.values() if wire.other(node)[0].name == other]
        return [wire for wire in found if not wire.over]

    def cut(self, one: str, other: str, *, second: bool | None = None) -> None:
        """All connections between the two fail, or those by one path, and both see it."""
        for wire in self.wires(one, other):
            if second not in (None, wire.second):
                continue
            wire.over = True
            for node, leg in wire.ends:
                if node.wires.pop(leg, None) is not None:
                    node.feed(ev.LegLost(leg, 0))

    def freeze(self, one: str, other: str, *, second: bool | None = None) -> None:
        """Nothing passes any more, or nothing by one path, and nobody is told."""
        for wire in self.wires(one, other):
            wire.stands = wire.stands or second in (None, wire.second)

    def thaw(self, one: str, other: str) -> None:
        """What comes from now on passes again."""
        for wire in self.wires(one, other):
            wire.stands = False

    def crash(self, name: str) -> None:
        """A process ends without a word, and another one begins."""
        node = self.nodes[name]
        for wire in list(node.wires.values()):
            self._break(wire, node)
        self._begin_anew(node)

    def kill(self, name: str) -> None:
        """A machine is gone: nobody is told, and nobody answers there until `start`."""
        node = self.nodes[name]
        for wire in node.wires.values():
            wire.stands = True
        node.wires.clear()
        self.unreachable.add(name)
        self._begin_anew(node)

    def start(self, name: str) -> None:
        """It is there again, with another process."""
        self.unreachable.discard(name)

    def _begin_anew(self, node: Peer) -> None:
        for client in node.clients.values():
            client.gone = True
        node.table.__init__()  # type: ignore[misc]  # the lane begins anew, too
        node.begin()

    def _break(self, wire: Wire, node: Peer) -> None:
        there, end = wire.other(node)
        wire.over = True
        node.wires = {leg: each for leg, each in node.wires.items() if each is not wire}
        self.after(self.delay, lambda: self._gone(there, end))

    def _gone(self, there: Peer, end: int) -> None:
        if there.wires.pop(end, None) is not None:
            there.feed(ev.LegLost(end, 0))

    # ------------------------------------------------------------ time

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.at(self.now + seconds, what)

    def run(self, seconds: float, alive: tuple[Client, ...] | None = None) -> None:
        """Let time pass; `alive` are heard every five seconds: None, all who are not gone."""
        end, beat = self.now + seconds, self.now
        while True:
            self._end()
            due = [(node.engine.next_deadline(), number) for number, node in enumerate(self.all)]
            when, number = min(((at, number) for at, number in due if at is not None), default=(end + 1, 0))
            first = self._queue[0][0] if self._queue else end + 1
            nearest = min(when, first, beat)
            if nearest > end:
                break
            self._move(nearest)
            if beat <= nearest:
                beat += 5.0
                self._hear(alive)
            elif first <= nearest:
                heapq.heappop(self._queue)[2]()
            else:
                self.all[number].feed(ev.Tick())
        self._move(end)

    @property
    def all(self) -> list[Peer]:
        """All processes."""
        return [*self.nodes.values(), *self.leaving]

    def _hear(self, alive: tuple[Client, ...] | None) -> None:
        for node in self.all:
            heard = {
                leg: self.now
                for leg, client in node.clients.items()
                if not client.gone and client.closed is None and (alive is None or client in alive)
            }
            if heard:
                node.feed(ev.Heard(heard))

    def _move(self, at: float) -> None:
        self.now = max(self.now, at)
        for node in self.all:
            node.now, node.wall = self.now, WALL + self.now

    # ------------------------------------------------------------ what must hold

    def check_empty(self) -> None:
        """Nothing of any call is left anywhere."""
        for node in self.all:
            abroad = node.engine.abroad
            assert abroad is not None
            assert not node.engine.node.calls
            assert not node.engine.node.legs
            assert not node.table.open
            assert not abroad.hosting
            assert not abroad.visiting
            assert not abroad.granting
            assert not abroad.voices
            node.check()


class Ids(CallIds):
    """Tokens for one call with a home."""

    def __init__(self, net: Net, home: str, changes: dict[str, Any]) -> None:
        super().__init__(next(iter(net.nodes.values())))
        self._changes = {"home": home} | changes

    def token(self, **changes: Any) -> bytes:
        return token.mint(self.claims(**self._changes | changes), ISSUER)


__all__ = ["DELAY", "ErrorCode", "Ids", "Net", "Peer"]
