"""Trunks to the other nodes: connections dialed, met, chosen between, kept awake; messages and their answers.

    TrunkDialed, TrunkOpened --Greeting--> met --Trunk--> in use: CarryTrunk, `Far.on_up`
    frames of the one in use --> answers to who asked, `Far.on_message` for all else
    LegLost, an error, GLARE  --> `Far.on_down`: whatever went on the trunk is over

Everything leaves by `put`, in the order in which it was decided: orders for the lane, then what tells of it.
Must never live here: calls, halves and routes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from relay.core import events as ev
from relay.core.deadlines import Deadlines
from relay.core.node import Node
from relay.core.trunk import Due, Trunk
from relay.core.trunk_greeting import Greeting, Identity, Pins, Said, Stage
from relay.core.trunk_reports import Reports
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, datagram, trunk, trunk_control
from relay.protocol.control import Frame, FrameReader
from relay.protocol.messages import Bye, Challenge, Err, Message, Ok, Ping, Pong
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import ANSWERED, Attached, Greet

MOST_GREETING: Final = 64  # connections whose other end is not known yet: each has five seconds
MOST_ASKED: Final = 65_536  # questions of a connection without an answer; a peer that has more is broken
DIAL_S: Final = 1.0  # the edge says at once that it dials; what it does not say by then it cannot
_NOWHERE: Final = -1  # stands for a connection that the edge has not named yet
_U32: Final = 0xFFFF_FFFF

Answer = Ok | Err | Attached
Then = Callable[[Answer], None]
"""What is done with an answer; never called for one that the end of a connection took along."""


class Far(Protocol):
    """Who is told of what comes by trunks."""

    def on_up(self, node: str, *, is_new: bool) -> None:
        """A trunk is there; `is_new`: to a process that has forgotten everything."""

    def on_suspect(self, node: str) -> None:
        """It is silent."""

    def on_down(self, node: str) -> None:
        """It is not any more."""

    def on_message(self, node: str, message: Message, id: int) -> None:
        """The other node says this; with an `id` it wants an answer (`answer`). PeerError ends the trunk."""


@dataclass(slots=True)
class _Link:
    """One connection."""

    leg: int
    greeting: Greeting
    reader: FrameReader = field(default_factory=FrameReader)
    node: str = ""
    """Whose it is, once that is proven."""
    dialed: str = ""
    """Whom we dialed; "": it was dialed by the other one."""
    asked: dict[int, Then] = field(default_factory=dict)
    newest: int = 0


class Trunks:
    """All of one node's."""

    def __init__(self, node: Node, own: Identity, pins: Pins, far: Far) -> None:
        self.own = own
        self.outputs: deque[ev.Output] = deque()
        """What the edge is to do, in order."""
        self.reports = Reports()
        self._node = node
        self._pins = pins
        self._trunks = {name: Trunk(own.node, name) for name in pins if name != own.node}
        self._links: dict[int, _Link] = {}
        self._needs: Counter[str] = Counter()
        self._deadlines: Deadlines[str | int] = Deadlines()
        self._dialed: dict[str, float] = {}
        """When the edge was told to dial, which has not said that it does."""
        self._far = far

    # ------------------------------------------------------------ to be asked

    def knows(self, node: str) -> bool:
        """Whether we may have a trunk to this node."""
        return node in self._trunks

    def leg_of(self, node: str) -> int | None:
        """The connection that is in use; None: there is no trunk now."""
        there = self._trunks.get(node)
        return there.link if there is not None and there.is_there else None

    def peer_of(self, node: str) -> Greet | None:
        """What that node said of itself, while the trunk is there."""
        there = self._trunks.get(node)
        return there.peer if there is not None and there.is_there else None

    def takes_halves(self, node: str) -> bool:
        """Whether anything new may begin there."""
        there = self._trunks.get(node)
        return there is not None and there.takes_halves

    # ------------------------------------------------------------ to be told

    def put(self, output: ev.Output) -> None:
        """Queue one order for the edge."""
        self.outputs.append(output)

    def need(self, node: str) -> None:
        """Somebody here needs this trunk; `spare` takes that back."""
        self._needs[node] += 1
        if node in self._trunks:
            self._trunks[node].want(self._node.now)
            self._note(node)

    def spare(self, node: str) -> None:
        """One less does."""
        self._needs[node] -= 1
        if not self._needs[node]:
            del self._needs[node]
            if node in self._trunks:
                self._trunks[node].unwant()
                self._note(node)

    def carry(self, node: str, carries: bool) -> None:
        """Whether voices pass there now."""
        there = self._trunks.get(node)
        if there is not None:
            there.carry(carries)
            self._note(node)

    def ask(self, node: str, message: Message, then: Then = lambda _: None) -> bool:
        """Say something that is answered. False: there is no trunk, and nothing was said."""
        link = self._link(node)
        if link is None:
            return False
        if len(link.asked) >= MOST_ASKED:
            self._close(link, ErrorCode.OVERLOADED)
            return False
        link.newest = link.newest % control.MAX_ID + 1
        link.asked[link.newest] = then
        self._send(link, message, link.newest)
        return True

    def say(self, node: str, message: Message) -> bool:
        """Say something that nobody answers. False: there is no trunk."""
        link = self._link(node)
        if link is None:
            return False
        self._send(link, message, 0)
        return True

    def answer(self, node: str, id: int, message: Answer) -> None:
        """Answer what came with this id; one that has to wait does not outlive the trunk."""
        link = self._link(node)
        if link is not None and id:
            self._send(link, message, id)

    def drain(self) -> None:
        """Our node leaves: nothing new begins, and nobody is dialed."""
        for name, there in self._trunks.items():
            dialed = there.on_drained()
            if dialed is not None and dialed in self._links:
                del self._links[dialed]
                self._deadlines.set(dialed, None)
                self.put(ev.CloseLeg(dialed, ErrorCode.DRAINING))
            self._dialed.pop(name, None)
            self._note(name)

    # ------------------------------------------------------------ connections

    def on_dialed(self, event: ev.TrunkDialed) -> None:
        """The edge dials."""
        there = self._trunks.get(event.node)
        if there is None or self._dialed.pop(event.node, None) is None:
            self.put(ev.CloseLeg(event.leg, ErrorCode.NO_ERROR))  # we want it no longer
            return
        there.on_dialed(event.leg)
        greeting = Greeting(self.own, self._pins, self._node.now, dialed=event.node)
        self._links[event.leg] = _Link(event.leg, greeting, dialed=event.node)
        self._watch(self._links[event.leg])
        self._note(event.node)

    def on_opened(self, event: ev.TrunkOpened) -> None:
        """A handshake is done: of a connection that we dialed, or of one that dialed us."""
        link = self._links.get(event.leg)
        if link is None:
            strangers = sum(not one.node for one in self._links.values())
            if strangers >= MOST_GREETING:
                self.put(ev.CloseLeg(event.leg, ErrorCode.OVERLOADED))
                return
            greeting = Greeting(self.own, self._pins, self._node.now, nonce=self._node.draw(32))
            link = self._links[event.leg] = _Link(event.leg, greeting)
        self._greet(link, link.greeting.on_connected(event.key, self._now_ms))

    def on_lost(self, leg: int) -> bool:
        """A connection is no more. False: it is none of ours."""
        link = self._links.pop(leg, None)
        if link is not None:
            self._forget(link)
        return link is not None

    def on_acknowledged(self, event: ev.TrunkAcknowledged) -> None:
        """The other ends are alive."""
        for leg, rtt in event.of.items():
            if (there := self._in_use(leg)) is not None:
                there.on_acknowledged(rtt, self._node.now)
                self._note(there.node)

    # ------------------------------------------------------------ what comes

    def on_stream(self, event: ev.StreamReceived) -> bool:
        """Bytes of a control stream. False: of no connection of ours."""
        link = self._links.get(event.leg)
        if link is None:
            return False
        try:
            for data in link.reader.feed(event.data):
                self._on_frame(link, trunk_control.decode(data))
                if event.leg not in self._links:
                    return True
            if event.end:
                raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "the control stream ended")
        except PeerError as error:
            self._node.count("refused", error.code.name.lower())
            self._close(link, error.code)
        return True

    def on_datagram(self, event: ev.DatagramReceived) -> bool:
        """A control datagram. False: of no connection of ours."""
        link = self._links.get(event.leg)
        if link is None:
            return False
        try:
            value = trunk.decode(event.data)
        except PeerError:
            self._node.count("dropped", "malformed")
            return True
        if isinstance(value, datagram.Ping) and link.node:
            pong = datagram.Pong(value.ms, value.seq, self._now_ms & _U32)
            self.put(ev.SendDatagram(link.leg, trunk.encode(pong)))
            self.reports.on_ping(link.node, value, self._node.now)
        elif isinstance(value, trunk.HopReport) and link.node:
            self.reports.on_report(link.node, value)
        return True

    def on_counted(self, event: ev.TrunkCounted) -> None:
        """What came by a trunk: the node that sent it hears of it."""
        there = self._in_use(event.leg)
        if there is None:
            return
        report = self.reports.on_counted(there.node, event, self._node.now)
        if report is not None:
            self.put(ev.SendDatagram(event.leg, trunk.encode(report)))
            there.on_sent(self._node.now)
            self._note(there.node)

    def _on_frame(self, link: _Link, frame: Frame) -> None:
        if not link.node:
            wall_ms = round(self._node.wall * 1000)
            self._greet(link, link.greeting.on_frame(frame, self._now_ms, wall_ms))
            return
        match frame.body:
            case None:
                if frame.id:
                    self._send(link, Err(code=ErrorCode.VERSION), frame.id)
            case Ping(t=t):
                self._send(link, Pong(t=t), frame.id)
            case Pong():
                pass
            case Bye(code=code):
                self._close(link, code)
            case Ok() | Err() | Attached() as answer:
                then = link.asked.pop(frame.id, None)
                if then is not None:
                    then(answer)
            case Challenge() | Greet():
                raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "we have met")
            case message:
                if type(message) in ANSWERED and not frame.id:
                    raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "a message that is answered has an id")
                self._far.on_message(link.node, message, frame.id)

    def _greet(self, link: _Link, said: tuple[Said, ...]) -> None:
        """What follows from a step of the greeting."""
        if link.greeting.state is Stage.REFUSED:
            self._node.count("trunk_refused")
            self._close(link, link.greeting.code)
        elif link.greeting.peer is not None:
            self._meet(link, link.greeting.peer, said)
        else:
            for message, id in said:
                self._send(link, message, id)
            self._watch(link)

    def _meet(self, link: _Link, peer: Greet, said: tuple[Said, ...]) -> None:
        there = self._trunks[peer.node]
        if not link.greeting.is_dialer and not there.stays(peer):
            self._close(link, TrunkCode.GLARE)
            return
        was_there = there.is_there
        link.node = peer.node
        self._deadlines.set(link.leg, None)
        self._dialed.pop(peer.node, None)
        met = there.on_greeted(link.leg, peer, self._node.now, self._chance())
        if met.replaced in self._links:
            former = self._links.pop(met.replaced)
            self._deadlines.set(former.leg, None)
            self.put(ev.CloseLeg(former.leg, TrunkCode.GLARE))
        if was_there:
            self._far.on_down(peer.node)  # whatever went on the former connection is over
        self._node.count("trunk_up")
        self.reports.on_up(peer.node, peer.region)
        self.put(ev.CarryTrunk(link.leg))
        for message, id in said:
            self._send(link, message, id)
        self._note(peer.node)
        self._far.on_up(peer.node, is_new=met.is_new)

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When something has to be done."""
        return self._deadlines.next()

    def on_timer(self, now: float) -> None:
        """Time went by."""
        while (key := self._deadlines.pop(now)) is not None:
            if isinstance(key, str):
                self._on_trunk_due(self._trunks[key], now)
            else:
                link = self._links[key]
                link.greeting.on_timer(now)
                self._greet(link, ())

    def _on_trunk_due(self, there: Trunk, now: float) -> None:
        asked_at = self._dialed.get(there.node)
        if asked_at is not None and now >= asked_at + DIAL_S:
            del self._dialed[there.node]
            there.on_lost(_NOWHERE, now, self._chance())
        for due in there.on_timer(now, self._chance()):
            if due is Due.DIAL:
                self._dialed[there.node] = now
                there.on_dialed(_NOWHERE)
                self.put(ev.DialTrunk(there.node))
            elif due is Due.TELL:
                self._far.on_suspect(there.node)
            else:
                assert there.link is not None  # it is up
                link = self._links[there.link]
                if due is Due.PING:
                    self._send(link, Ping(t=self._now_ms), 0)
                else:
                    ping = datagram.Ping(self._now_ms & _U32, self._now_ms & _U32)
                    self.put(ev.SendDatagram(link.leg, trunk.encode(ping)))
                    there.on_sent(now)
        self._note(there.node)

    # ------------------------------------------------------------

    @property
    def _now_ms(self) -> int:
        return round(self._node.now * 1000)

    def _chance(self) -> float:
        return int.from_bytes(self._node.draw(2), "big") / 0x1_0000

    def _link(self, node: str) -> _Link | None:
        leg = self.leg_of(node)
        return None if leg is None else self._links[leg]

    def _in_use(self, leg: int) -> Trunk | None:
        link = self._links.get(leg)
        there = None if link is None else self._trunks.get(link.node)
        return there if there is not None and there.link == leg else None

    def _send(self, link: _Link, message: Message, id: int) -> None:
        self.put(ev.SendStream(link.leg, control.encode(message, id)))
        there = self._in_use(link.leg)
        if there is not None:
            there.on_sent(self._node.now)
            self._note(there.node)

    def _close(self, link: _Link, code: int) -> None:
        """We end a connection."""
        self._links.pop(link.leg, None)
        self.put(ev.CloseLeg(link.leg, trunk_control.code_of(code)))
        self._forget(link)

    def _forget(self, link: _Link) -> None:
        """A connection is over: was it the one in use, or the one that we dialed?"""
        self._deadlines.set(link.leg, None)
        there = self._trunks.get(link.node or link.dialed)
        was_there = there is not None and there.is_there
        if there is None or not there.on_lost(link.leg, self._node.now, self._chance()):
            return
        self._note(there.node)
        if was_there:
            self._node.count("trunk_down")
            self.reports.on_down(there.node)
            self._far.on_down(there.node)

    def _watch(self, link: _Link) -> None:
        self._deadlines.set(link.leg, link.greeting.next_deadline())

    def _note(self, node: str) -> None:
        there, dialed_at = self._trunks[node], self._dialed.get(node)
        found = (there.next_deadline(), None if dialed_at is None else dialed_at + DIAL_S)
        self._deadlines.set(node, min((when for when in found if when is not None), default=None))
