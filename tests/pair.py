"""An engine and a lane on simulated time, and clients that speak the wire to them, byte for byte.

    world = World()
    call = world.call()                         # ids for one call
    ann, bob = world.client(call.token()), world.client(call.token())
    ann.enter(); bob.enter(); ann.accept(); bob.accept()
    ann.speak(); assert bob.heard == [...]

Time stands still until `world.run(seconds)`; the engine's own deadlines are kept to the tick. Must never
live here: sockets, sleeping, the real clock.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any, TypeVar

from relay.config import Config, IssuerConfig, NodeConfig, TokenConfig
from relay.core import events as ev
from relay.core.handover import seal
from relay.core.reasons import Refusal
from relay.core.relay import EngineKeys, Relay
from relay.edge.lane_py import PyLane
from relay.errors import ErrorCode, PeerError
from relay.protocol import command, control, datagram, media, signed, token
from relay.protocol.address import Address
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sub

M = TypeVar("M", bound=control.Message)

ISSUER = bytes(range(32))
PUBLIC = signed.public_of(ISSUER)
CLUSTER = "relay-test"
WALL = 1_700_000_000.0
TICKET_KEY = bytes(range(32, 64))

ADULT, TEEN, CHILD, UNKNOWN = token.AGE_ADULT, token.AGE_16_17, token.AGE_UNDER_16, token.AGE_UNKNOWN


def config(**changes: Any) -> Config:
    """A configuration for the test cluster, with some sections replaced."""
    return dataclasses.replace(Config(node=NodeConfig(cluster=CLUSTER)), **changes)


def canaries() -> Config:
    """The same, and the one issuer there is admits canaries."""
    return config(tokens=TokenConfig((IssuerConfig("canary", PUBLIC.hex(), canary=True),)))


class CallIds:
    """Tokens for one call."""

    def __init__(self, world: World, cid: CallId | None = None) -> None:
        self.world = world
        self.cid = cid or CallId(world.random.randbytes(16))

    def claims(self, **changes: Any) -> token.Claims:
        """Claims of a fresh person who may talk to anyone, valid now for two minutes."""
        draw = self.world.random.randbytes
        now = int(self.world.wall)
        base: dict[str, Any] = {
            "iss": "app",
            "aud": CLUSTER,
            "sub": Sub(draw(16)),
            "cid": self.cid,
            "iat": now,
            "nbf": now,
            "exp": now + 120,
            "jti": Jti(draw(16)),
            "lim": (512, 512, 500, 2),
            "age": ADULT,
            "ctc": 1,
        }
        if changes.pop("key", False):
            changes["cnf"] = signed.public_of(KEY)
        return token.Claims(**base | changes)

    def token(self, **changes: Any) -> bytes:
        """The same, signed."""
        return token.mint(self.claims(**changes), ISSUER)


KEY = bytes(range(64, 96))
"""The device key of tokens with `key=True`."""


class Client:
    """A test driver for one leg: says what it is told to, keeps what it hears."""

    def __init__(self, world: World, raw: bytes, transport: str = "quic") -> None:
        self.world = world
        self.raw = raw
        try:
            self.claims: token.Claims | None = token.decode_claims(token.parse(raw).body)
        except PeerError:  # hostile tokens are tokens too
            self.claims = None
        self.leg = world.next_leg()
        self.transport = transport
        self.got: list[control.Message] = []
        self.answers: dict[int, control.Message] = {}
        self.heard: list[bytes] = []
        self.datagrams: list[bytes] = []
        self.closed: ErrorCode | None = None
        self.gone = False
        self.ctr = 0
        self._reader = control.FrameReader()
        self._id = 0
        self._seen = 0
        self.joined: control.Joined | None = None
        self.gate: control.Gate | None = None
        self.ticket: bytes | None = None

    # ------------------------------------------------------------ what arrives

    def on_stream(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            _, id, body = control.decode(frame)
            assert body is not None
            self.got.append(body)
            if id:
                self.answers[id] = body
            if isinstance(body, control.Joined):
                self.joined, self.ticket = body, body.rt
            elif isinstance(body, control.Gate):
                self.gate = body
            elif isinstance(body, control.Ticket):
                self.ticket = body.rt

    def all(self, kind: type[M]) -> list[M]:
        """Every message of a type, in order."""
        return [message for message in self.got if isinstance(message, kind)]

    def last(self, kind: type[M]) -> M:
        """The newest message of a type."""
        return self.all(kind)[-1]

    def news(self) -> list[control.Message]:
        """What came since the last look."""
        fresh, self._seen = self.got[self._seen :], len(self.got)
        return fresh

    @property
    def hears(self) -> int:
        """Mask of the participants it was told it hears."""
        return self.gate.open if self.gate else 0

    # ------------------------------------------------------------ what it does

    def open(self, datagrams: bool = True) -> Client:
        host = f"192.0.2.{self.leg % 250 + 1}"
        self.world.clients[self.leg] = self
        self.world.feed(ev.LegOpened(self.leg, self.transport, Address(host, 4000), datagrams))
        return self

    def send(self, message: control.Message, id: int = 0) -> None:
        self.world.feed(ev.StreamReceived(self.leg, control.encode(message, id)))

    def ask(self, message: control.Message) -> Any:
        """Send with an id and return the answer."""
        self._id += 1
        self.send(message, self._id)
        return self.answers.get(self._id)

    def hello(self, key: bytes | None = None, **changes: Any) -> Any:
        """Say hello with the token, signing the challenge if the token wants it."""
        pop = None
        claims = self.claims
        if claims is not None and claims.cnf is not None:
            self.send(control.Ping(t=1))
            nonce = self.last(control.Challenge).n
            pop = token.pop_sign(key or KEY, nonce, claims.sub, claims.cid)
        fields: dict[str, Any] = {"tok": self.raw, "pop": pop, "leg": self.transport, "caps": self.world.caps}
        return self.ask(control.Hello(**fields | changes))

    def join(self) -> Any:
        return self.ask(control.Join(c=self.cid))

    def enter(self) -> Client:
        """Open, hello, join."""
        self.open()
        assert isinstance(self.hello(), control.Welcome), self.got
        assert isinstance(self.join(), control.Joined), self.got
        return self

    @property
    def cid(self) -> CallId:
        assert self.claims is not None
        return self.claims.cid

    @property
    def sub(self) -> Sub:
        assert self.claims is not None
        return self.claims.sub

    @property
    def index(self) -> int:
        assert self.joined is not None
        return self.joined.p

    def accept(self, **fields: Any) -> Any:
        return self.ask(control.Accept(c=self.cid, **fields))

    def decline(self, why: str = "declined") -> Any:
        return self.ask(control.Decline(c=self.cid, why=why))  # type: ignore[arg-type]  # literal at run time

    def hangup(self) -> Any:
        return self.ask(control.Hangup(c=self.cid))

    def mute(self, on: bool = True, **fields: Any) -> Any:
        return self.ask(control.Mute(c=self.cid, on=on, **fields))

    def mod(self, op: str, p: int | None = None) -> Any:
        return self.ask(control.Mod(c=self.cid, p=p, op=op))  # type: ignore[arg-type]  # literal at run time

    def block(self, p: int, on: bool = True) -> Any:
        return self.ask(control.Block(c=self.cid, p=p, on=on))

    def e2e(self, k: int = 0, b: bytes = b"sealed", to: int | None = None) -> Any:
        return self.ask(control.E2e(c=self.cid, to=to, k=k, b=b))

    def lose(self, code: int = 0) -> None:
        """The transport dies."""
        self.gone = True
        self.world.feed(ev.LegLost(self.leg, code))

    def resume(self, raw: bytes | None = None, key: bytes = KEY) -> Client:
        """A new leg of the same person: hello with the ticket, and a token if given; no rejoin yet."""
        again = Client(self.world, self.raw if raw is None else raw)
        again.ticket, again.ctr = self.ticket, self.ctr
        again.open()
        pop = None
        assert self.claims is not None
        if self.claims.cnf is not None:
            again.send(control.Ping(t=1))
            nonce = again.last(control.Challenge).n
            pop = token.pop_sign(key, nonce, self.sub, self.cid)
        again.ask(control.Hello(tok=raw, resume=self.ticket, pop=pop))
        return again

    def rejoin(self, ticket: bytes | None = None) -> Any:
        rt = ticket or self.ticket
        assert rt is not None
        return self.ask(control.Rejoin(c=self.cid, rt=rt))

    # ------------------------------------------------------------ media

    def packet(self, ctr: int | None = None) -> bytes:
        """A media datagram as it leaves this client; nobody can open it, nobody here needs to."""
        assert self.joined is not None
        assert self.claims is not None
        group = self.claims.lim[3] > 2
        number = self.ctr if ctr is None else ctr
        self.ctr = max(self.ctr, number) + 1
        kid = media.kid_of(self.index, 0, group)
        return media.encode_header(self.joined.up, kid, number) + bytes(40)

    def speak(self, ctr: int | None = None) -> Any:
        """Send one packet; returns why it was dropped, None if it went on."""
        reason = self.world.media(self, self.packet(ctr))
        self.world.deliver_media()
        return reason

    def ping(self) -> None:
        """A control datagram, to be heard of."""
        seq = self.world.random.randrange(2**32)
        self.world.feed(ev.DatagramReceived(self.leg, datagram.encode_datagram(datagram.Ping(1, seq))))


class World:
    """One node with everything around it."""

    def __init__(self, settings: Config | None = None, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.config = settings or config()
        keys = EngineKeys({token.kid_of(PUBLIC): PUBLIC}, [TICKET_KEY])
        self.engine = Relay(self.config, keys, self.random.randbytes)
        self.lane = PyLane()
        self.caps = control.Caps()
        """What clients say they can do."""
        self.now = 0.0
        self.wall = WALL
        self.clients: dict[int, Client] = {}
        self.events: list[ev.CallEvent] = []
        self.records: list[ev.CallRecord] = []
        self.commands: dict[int, ev.CommandDone] = {}
        self.outputs: list[ev.Output] = []
        self.is_stopped = False
        self._legs = 0
        self._refs = 0

    def next_leg(self) -> int:
        self._legs += 1
        return self._legs

    def call(self, cid: bytes | None = None) -> CallIds:
        return CallIds(self, None if cid is None else CallId(cid))

    def client(self, raw: bytes, transport: str = "quic") -> Client:
        return Client(self, raw, transport)

    def pair(self, **changes: Any) -> tuple[Client, Client]:
        """Two people in one call who have not accepted."""
        ids = self.call()
        return self.client(ids.token(**changes)).enter(), self.client(ids.token(**changes)).enter()

    def talking(self, **changes: Any) -> tuple[Client, Client]:
        """Two people who accepted."""
        ann, bob = self.pair(**changes)
        ann.accept()
        bob.accept()
        return ann, bob

    # ------------------------------------------------------------ the driver

    def feed(self, event: ev.Input) -> None:
        """One input, all outputs, as the rule says; counters come back before any other input."""
        inputs = [event]
        while inputs:
            current = inputs.pop(0)
            self.engine.handle(current, self.now, self.wall)
            while (output := self.engine.poll()) is not None:
                self.outputs.append(output)
                self._carry_out(output, inputs)
            if isinstance(current, ev.LegLost):
                self.lane.close_leg(current.leg)

    def _carry_out(  # noqa: C901 - one case per kind of order
        self, output: ev.Output, inputs: list[ev.Input]
    ) -> None:
        lane = self.lane
        match output:
            case ev.SendStream(leg, data):
                self.clients[leg].on_stream(data)
            case ev.SendDatagram(leg, data):
                self.clients[leg].datagrams.append(data)
            case ev.CloseLeg(leg, code):
                assert self.clients[leg].closed is None, "closed twice"
                self.clients[leg].closed = code
                lane.close_leg(leg)
            case ev.SetBudget(leg, up, down, pps):
                lane.open_leg(leg, pps=pps, up_bps=up, down_bps=down)
            case ev.OpenFlow(leg, flow, index, group, watched):
                lane.open_flow(leg, flow, index=index, group=group, watched=watched)
            case ev.SetShape(leg, shape):
                lane.shape(leg, shape)
            case ev.Route(leg, flow, targets, closed):
                lane.route(leg, flow, targets, closed)
            case ev.CloseFlow(leg, flow):
                inputs.insert(0, ev.FlowClosed(leg, flow, lane.close_flow(leg, flow)))
            case ev.CallEvent():
                self.events.append(output)
            case ev.CallRecord():
                self.records.append(output)
            case ev.CommandDone(ref):
                self.commands[ref] = output
            case ev.Stopped():
                self.is_stopped = True

    def run(self, seconds: float, alive: tuple[Client, ...] = ()) -> None:
        """Let time pass, deadline by deadline; `alive` are heard at once and every 5 s."""
        end = self.now + seconds
        beat = self.now
        while True:
            due = self.engine.next_deadline()
            if alive and beat <= end and (due is None or beat <= due):
                self._move_to(beat)
                self.feed(ev.Heard({one.leg: self.now for one in alive}))
                beat += 5.0
            elif due is not None and due <= end:
                self._move_to(due)
                self.feed(ev.Tick())
            else:
                break
        self._move_to(end)

    def _move_to(self, at: float) -> None:
        self.wall += max(0.0, at - self.now)
        self.now = max(at, self.now)

    # ------------------------------------------------------------ media, commands, facts

    def media(self, sender: Client, payload: bytes) -> Any:
        return self.lane.deliver(sender.leg, payload, self.now)

    def deliver_media(self) -> None:
        for leg in self.lane.take_ready():
            while (copy := self.lane.dequeue(leg, self.now)) is not None:
                self.clients[leg].heard.append(copy)

    def flow(self) -> None:
        """What the edge tells once a second: which flows of fresh calls are heard."""
        self.feed(ev.Flowing(self.lane.flowing(self.engine.unheard())))

    def command(self, op: str, *, is_fleet: bool = False, **fields: Any) -> ErrorCode:
        """Mint and give a command; its outcome."""
        now = int(self.wall)
        base: dict[str, Any] = {"op": op, "iat": now, "exp": now + 60, "id": Jti(self.random.randbytes(16))}
        return self.command_raw(command.mint(command.Command(**base | fields), ISSUER), is_fleet=is_fleet)

    def command_raw(self, raw: bytes, *, is_fleet: bool = False) -> ErrorCode:
        self._refs += 1
        self.feed(ev.CommandReceived(self._refs, raw, is_fleet))
        return self.commands[self._refs].code

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def check(self) -> None:
        """Packets conserved; charges equal resources."""
        node = self.engine.node
        assert self.lane.counters.imbalance() == 0
        assert node.leg_quota.total() == len(node.legs)
        assert node.call_quota.total() == len(node.calls)
        charged = Counter(leg.issuer for leg in node.legs.values() if leg.issuer is not None)
        opened = Counter(call.issuer for call in node.calls.values())
        for name in {"", *charged, *opened, *(one.name for one in node.tenants.standings())}:
            assert node.tenants.held(Refusal.LEGS, name) == charged[name]
            assert node.tenants.held(Refusal.CALLS, name) == opened[name]
        seated = Counter(
            (call.cid, seat.sub)
            for call in node.calls.values()
            for seat in call.here()
            for _ in seat.all_legs
        )
        assert node.device_quota.keys() == len(seated)
        assert all(node.device_quota.held(key) == number for key, number in seated.items())
        flows = {key for call in node.calls.values() for key in call.flows}
        assert flows == set(node.counting)
        assert all(not call.is_over for call in node.calls.values())


class Two:
    """Two nodes of a cluster on one clock: `old` leaves, `new` is where its people go."""

    def __init__(self, old: World, new: World) -> None:
        self.old, self.new = old, new
        self.new.wall = self.old.wall

    def run(self, seconds: float, alive: tuple[Client, ...] = ()) -> None:
        for world in (self.old, self.new):
            world.run(seconds, tuple(one for one in alive if one.world is world and not one.gone))

    def drain(self) -> None:
        """The old node leaves, and has asked everybody to move."""
        self.old.feed(ev.DrainRequested())
        self.run(1.0)

    def go(
        self, one: Client, ticket: bytes | None = None, key: bytes = KEY, tok: bytes | None = None
    ) -> Client:
        """A leg of this person at the new node, by the ticket of its `drain`; no rejoin yet."""
        again = Client(self.new, one.raw)
        again.ticket = ticket or one.last(control.Drain).ht
        again.ctr = one.ctr
        again.open()
        pop = None
        assert one.claims is not None
        if one.claims.cnf is not None:
            again.send(control.Ping(t=1))
            pop = token.pop_sign(key, again.last(control.Challenge).n, one.sub, one.cid)
        again.ask(control.Hello(tok=tok, resume=again.ticket, pop=pop))
        return again

    def move(self, one: Client) -> Client:
        """The whole way: there, in, and gone from the old node."""
        again = self.go(one)
        assert isinstance(again.rejoin(), control.Joined), again.got
        return again

    def tell(self) -> None:
        """The old node says of its calls what its other generation hears."""
        self.old.feed(ev.Tick())
        node = self.old.engine.node
        for call in [call for call in node.calls.values() if not call.is_over]:
            ticket = seal(node, call, None)
            assert ticket is not None
            self.new.feed(ev.CallTold(ticket))


PERSON = PersonId(bytes(16))
KID = Kid(token.kid_of(PUBLIC))
