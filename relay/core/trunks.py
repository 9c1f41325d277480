"""Trunks to the other nodes: connections dialed, met, chosen between, kept awake; messages and their answers.

    TrunkDialed, TrunkOpened --Greeting--> met --Trunk--> in use: CarryTrunk, `Far.on_up`
    frames of the one in use --> answers to who asked, `Far.on_message` for all else
    LegLost, an error, GLARE  --> `Far.on_down`: whatever went on the trunk is over
    a second path (trunk_paths.py) joins a trunk that is in use, and keeps it when the first is lost

Another process of a node that is there (`boot`) takes the other way to it (trunk.py): whatever is new goes to
that one, what there is stays with the one before as long as it answers. Everything leaves by `put`, in the
order in which it was decided: orders for the lane, then what tells of it. Must never live here: calls, halves
and routes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from relay.core import events as ev
from relay.core.deadlines import Deadlines
from relay.core.node import Node
from relay.core.trunk import Due, State, Trunk, beside, node_of
from relay.core.trunk_greeting import Greeting, Identity, Pins, Said, Stage
from relay.core.trunk_paths import Link, Paths
from relay.core.trunk_paths import State as PathState
from relay.core.trunk_reports import Reports
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, datagram, trunk, trunk_control
from relay.protocol.control import Frame
from relay.protocol.messages import Bye, Challenge, Err, Message, Ok, Ping, Pong
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import ANSWERED, Attached, Greet

MOST_GREETING: Final = 64  # connections whose other end is not known yet: each has five seconds
MEET_S: Final = 30.0  # a process that follows another one tries for so long to meet those whom that one knew
MOST_ASKED: Final = 65_536  # questions of a connection without an answer; a peer that has more is broken
DIAL_S: Final = 1.0  # the edge says at once that it dials; what it does not say by then it cannot
_MEETING: Final = "?"  # stands for what is due of all whom we want to meet; no node id
_NOWHERE: Final = -1  # stands for a connection that the edge has not named yet
_U32: Final = 0xFFFF_FFFF

Answer = Ok | Err | Attached
Then = Callable[[Answer], None]
"""What is done with an answer; never called for one that the end of a connection took along."""


class Far(Protocol):
    """Who is told of what comes by trunks. `node`: the way, so each process of a node by itself."""

    def on_up(self, node: str, *, is_new: bool) -> None:
        """A trunk is there; `is_new`: to a process that has forgotten everything."""

    def on_suspect(self, node: str) -> None:
        """It is silent."""

    def on_down(self, node: str) -> None:
        """It is not any more."""

    def on_message(self, node: str, message: Message, id: int) -> None:
        """The other node says this; with an `id` it wants an answer (`answer`). PeerError ends the trunk."""


class Trunks:
    """All of one node's."""

    def __init__(self, node: Node, own: Identity, pins: Pins, far: Far) -> None:
        self.own = own
        self.outputs: deque[ev.Output] = deque()
        """What the edge is to do, in order."""
        self.reports = Reports()
        self._node = node
        self._pins = pins
        self._newest = {name: name for name in pins if name != own.node}
        """The way to each node's newest process."""
        ways = (way for name in self._newest for way in (name, beside(name)))
        self._trunks = {way: Trunk(own.node, way) for way in ways}
        self._meeting: set[str] = set()
        """Nodes that are to hear of us, and do not know us yet."""
        self._two = {row.node for row in node.config.trunks.nodes if row.second}
        """To whom there is a second path."""
        self._links: dict[int, Link] = {}
        self._whole: dict[str, Link] = {}
        """Of each trunk that is there, by way, the connection by which it began."""
        self._needs: Counter[str] = Counter()
        self._deadlines: Deadlines[str | int] = Deadlines()
        self._dialed: dict[str, float] = {}
        """When the edge was told to dial, which has not said that it does."""
        self._far = far

    # ------------------------------------------------------------ to be asked

    def knows(self, node: str) -> bool:
        """Whether we may have a trunk to this node."""
        return node in self._newest

    def newest(self, node: str) -> str:
        """The way to a node's newest process; to one that we do not know there is none, whatever its name."""
        return self._newest.get(node, node)

    def met(self) -> list[str]:
        """The nodes to which there is a trunk, for the process that follows us."""
        return sorted({there.node for there in self._trunks.values() if there.is_there})

    def leg_of(self, node: str) -> int | None:
        """The connection that is in use; None: there is no trunk now."""
        there = self._trunks.get(node)
        return there.link if there is not None and there.is_there else None

    def peer_of(self, node: str) -> Greet | None:
        """What that node said of itself, while the trunk is there."""
        there = self._trunks.get(node)
        return there.peer if there is not None and there.is_there else None

    @property
    def paths(self) -> dict[str, int]:
        """How many connections are in use, by which of the two paths they are."""
        known = [whole.paths for whole in self._whole.values() if whole.paths is not None]
        names = {"first": False, "second": True}
        return {
            name: sum(paths[which].state is PathState.UP for paths in known) for name, which in names.items()
        }

    def round_trip(self, node: str) -> float:
        """Of the trunk to this node, seconds; 0 while it is not known."""
        there = self._trunks.get(node)
        return 0.0 if there is None else there.round_trip

    def takes_halves(self, node: str) -> bool:
        """Whether anything new may begin at a node: at its newest process."""
        there = self._trunks.get(self.newest(node))
        return there is not None and there.takes_halves

    # ------------------------------------------------------------ to be told

    def put(self, output: ev.Output) -> None:
        """Queue one order for the edge."""
        self.outputs.append(output)

    def need(self, node: str) -> None:
        """Somebody here needs a trunk to this node; `spare` takes that back."""
        node = node_of(node)
        self._needs[node] += 1
        if node in self._newest:
            way = self._newest[node]
            self._trunks[way].want(self._node.now)
            self._note(way)

    def spare(self, node: str) -> None:
        """One less does."""
        node = node_of(node)
        self._needs[node] -= 1
        if not self._needs[node]:
            del self._needs[node]
            if node in self._newest:
                way = self._newest[node]
                self._trunks[way].unwant()
                self._note(way)

    def meet(self, nodes: Iterable[str]) -> None:
        """Have these nodes know of us, as the newest process of ours; for half a minute."""
        self._meeting = {node for node in nodes if node in self._newest}
        for node in sorted(self._meeting):
            self.need(node)
        self._deadlines.set(_MEETING, self._node.now + MEET_S if self._meeting else None)

    def _has_met(self, nodes: Iterable[str]) -> None:
        for node in self._meeting & set(nodes):
            self._meeting.remove(node)
            self.spare(node)

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
        for way, there in self._trunks.items():
            dialed = there.on_drained()
            if dialed is not None and dialed in self._links:
                del self._links[dialed]
                self._deadlines.set(dialed, None)
                self.put(ev.CloseLeg(dialed, ErrorCode.DRAINING))
            self._dialed.pop(there.node, None)
            self._note(way)

    # ------------------------------------------------------------ connections

    def on_dialed(self, event: ev.TrunkDialed) -> None:
        """The edge dials."""
        way = self.newest(event.node)
        there, whole = self._trunks.get(way), self._whole.get(way)
        joins = b""
        paths = None if whole is None else whole.paths
        if paths is not None and paths[event.second].is_asked:
            paths[event.second].on_dialed(event.leg, self._node.now)
            joins = paths.nonce
        elif there is None or self._dialed.pop(event.node, None) is None:
            self.put(ev.CloseLeg(event.leg, ErrorCode.NO_ERROR))  # we want it no longer
            return
        else:
            there.on_dialed(event.leg)
        greeting = Greeting(self.own, self._pins, self._node.now, dialed=event.node)
        self._links[event.leg] = Link(
            event.leg, greeting, dialed=event.node, second=event.second, joins=joins
        )
        self._watch(self._links[event.leg])
        self._note(way)

    def on_opened(self, event: ev.TrunkOpened) -> None:
        """A handshake is done: of a connection that we dialed, or of one that dialed us."""
        link = self._links.get(event.leg)
        if link is None:
            strangers = sum(not one.way for one in self._links.values())
            if strangers >= MOST_GREETING:
                self.put(ev.CloseLeg(event.leg, ErrorCode.OVERLOADED))
                return
            greeting = Greeting(self.own, self._pins, self._node.now, nonce=self._node.draw(32))
            link = self._links[event.leg] = Link(event.leg, greeting)
        self._greet(link, link.greeting.on_connected(event.key, self._now_ms))

    def on_lost(self, leg: int) -> bool:
        """A connection is no more. False: it is none of ours."""
        link = self._links.pop(leg, None)
        if link is not None:
            self._lose(link)
        return link is not None

    def on_acknowledged(self, event: ev.TrunkAcknowledged) -> None:
        """The other ends are alive."""
        for leg, rtt in event.of.items():
            if (there := self._in_use(leg)) is not None:
                there.on_acknowledged(rtt, self._node.now)
                self._note(there.way)

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
        if isinstance(value, datagram.Ping) and link.way:
            pong = datagram.Pong(value.ms, value.seq, self._now_ms & _U32)
            self.put(ev.SendDatagram(link.leg, trunk.encode(pong)))
            self.reports.on_ping(link.way, value, self._node.now)
        elif isinstance(value, trunk.HopReport) and link.way:
            self.reports.on_report(link.way, value)
        return True

    def on_counted(self, event: ev.TrunkCounted) -> None:
        """What came by a trunk: the node that sent it hears of it."""
        there = self._in_use(event.leg)
        if there is None:
            return
        report = self.reports.on_counted(there.way, event, self._node.now)
        if report is not None:
            self.put(ev.SendDatagram(event.leg, trunk.encode(report)))
            there.on_sent(self._node.now)
            self._note(there.way)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if not link.way:
            wall_ms = round(self._node.wall * 1000)
            self._greet(link, link.greeting.on_frame(frame, self._now_ms, wall_ms))
            return
        whole = link.whole
        assert whole.paths is not None  # it has met
        for fresh in whole.paths.fresh(link.leg, frame):
            if self._whole.get(whole.way) is whole:
                self._on_word(whole, fresh)

    def _on_word(self, link: Link, frame: Frame) -> None:
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
                self._far.on_message(link.way, message, frame.id)

    def _greet(self, link: Link, said: tuple[Said, ...]) -> None:
        """What follows from a step of the greeting."""
        if link.greeting.state is Stage.REFUSED:
            self._node.count("trunk_refused")
            self._close(link, link.greeting.code)
        elif (peer := link.greeting.peer) is not None:
            link.second = link.second or peer.path == 2
            if link.joins or peer.joins is not None:
                self._join(link, peer, said)
            else:
                self._meet(link, peer, said)
        else:
            self._utter(link, said, self._joined(link))
            self._watch(link)

    def _utter(self, link: Link, said: tuple[Said, ...], joined: Link | None) -> None:
        """Say what a greeting says; `joined`: the trunk that it joins, all of whose words follow here."""
        for message, id in said:
            if isinstance(message, Greet):
                if (node_of(link.way) or link.dialed) in self._two:
                    message = msgspec.structs.replace(message, path=2 if link.second else 1)
                if joined is not None and joined.paths is not None:
                    at = joined.paths.join(link.leg)
                    message = msgspec.structs.replace(message, joins=joined.paths.nonce, at=at)
            self.put(ev.SendStream(link.leg, control.encode(message, id)))

    def _join(self, link: Link, peer: Greet, said: tuple[Said, ...]) -> None:
        """A connection becomes a path of the trunk that is there, if both mean the same one."""
        there = self._process(peer)
        whole = None if there is None else self._whole.get(there.way)
        paths = None if whole is None else whole.paths
        is_same = paths is not None and peer.joins == paths.nonce == (link.joins or peer.joins)
        if there is None or whole is None or paths is None or peer.at is None or not is_same:
            self._close(link, TrunkCode.GLARE)
            return
        if peer.node not in self._two:
            self._close(link, ErrorCode.NOT_ENABLED)
            return
        link.way, link.began = there.way, whole
        self._deadlines.set(link.leg, None)
        replaced = paths.on_joined(link.leg, link.second, peer.at)
        if replaced is not None:
            self._drop(replaced, TrunkCode.GLARE)
        self._node.count("trunk_path_up", _path(link))
        self.put(ev.CarryTrunk(link.leg, whole.leg, link.second))
        self._utter(link, said, whole)
        self._note(there.way)

    def _meet(self, link: Link, peer: Greet, said: tuple[Said, ...]) -> None:
        there = self._trunks[self._way_of(peer)]
        if not link.greeting.is_dialer and not there.stays(peer):
            self._close(link, TrunkCode.GLARE)
            return
        was_there = there.is_there
        link.way = there.way
        self._deadlines.set(link.leg, None)
        self._dialed.pop(peer.node, None)
        met = there.on_greeted(link.leg, peer, self._node.now, self._chance())
        if met.replaced is not None:
            former = self._whole.pop(there.way, None)
            paths = None if former is None else former.paths
            for leg in [met.replaced] if paths is None else [*paths.up, *paths.pending]:
                self._drop(leg, TrunkCode.GLARE)
        if was_there:
            self._far.on_down(there.way)  # whatever went on the former connection is over
        self._whole[there.way] = link
        link.paths = Paths(link.greeting.nonce, link.leg, link.second)
        self._node.count("trunk_up")
        self.reports.on_up(there.way, peer.region)
        self._node.count("trunk_path_up", _path(link))
        self.put(ev.CarryTrunk(link.leg, second=link.second))
        self._utter(link, said, None)
        self._note(there.way)
        self._has_met((peer.node,))
        self._far.on_up(there.way, is_new=met.is_new)

    def _process(self, peer: Greet) -> Trunk | None:
        """The trunk that is there to this very process of a node."""
        both = (self._trunks[peer.node], self._trunks[beside(peer.node)])
        return next((one for one in both if one.peer is not None and one.peer.boot == peer.boot), None)

    def _way_of(self, peer: Greet) -> str:
        """The way that a connection to this process takes. A process that we do not know is the newest."""
        way = self._newest[peer.node]
        newest, other = self._trunks[way], self._trunks[beside(way)]
        if not newest.is_there or newest.peer is None or newest.peer.boot == peer.boot:
            return way
        if other.is_there and other.peer is not None and other.peer.boot == peer.boot:
            return other.way
        self._newest[peer.node] = other.way
        if peer.node in self._needs:
            other.want(self._node.now)
        newest.unwant()
        # Is it leaving, or was it killed? Who is gone acknowledges nothing.
        self._send(self._whole[newest.way], Ping(t=self._now_ms), 0)
        return other.way

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When something has to be done."""
        return self._deadlines.next()

    def on_timer(self, now: float) -> None:
        """Time went by."""
        while (key := self._deadlines.pop(now)) is not None:
            if key == _MEETING:
                self._has_met(tuple(self._meeting))
            elif isinstance(key, str):
                self._on_trunk_due(self._trunks[key], now)
            else:
                link = self._links[key]
                link.greeting.on_timer(now)
                self._greet(link, ())

    def _on_trunk_due(self, there: Trunk, now: float) -> None:
        is_newest = there.way == self._newest[there.node]
        asked_at = self._dialed.get(there.node) if is_newest else None
        if asked_at is not None and now >= asked_at + DIAL_S:
            del self._dialed[there.node]
            there.on_lost(_NOWHERE, now, self._chance())
        for due in there.on_timer(now, self._chance()):
            if due is Due.DIAL:
                self._dialed[there.node] = now
                is_second = there.node in self._two and there.tries % 2 == 1
                there.on_dialed(_NOWHERE)
                self.put(ev.DialTrunk(there.node, is_second))
            elif due is Due.TELL:
                self._far.on_suspect(there.way)
            else:
                link = self._whole[there.way]
                assert link.paths is not None  # it is up
                if due is Due.PING:
                    self._send(link, Ping(t=self._now_ms), 0)
                else:
                    ping = datagram.Ping(self._now_ms & _U32, self._now_ms & _U32)
                    for leg in link.paths.up:
                        self.put(ev.SendDatagram(leg, trunk.encode(ping)))
                    there.on_sent(now)
        paths = self._lacking(there)
        for second in () if paths is None else paths.to_dial(now, self._chance()):
            self.put(ev.DialTrunk(there.node, second))
        if there.state is State.SUSPECT and not is_newest:
            self._close(self._whole[there.way], TrunkCode.GLARE)  # that process is gone, and another there
        self._note(there.way)

    def _lacking(self, there: Trunk) -> Paths | None:
        """The paths of a trunk that we dial where they are down: it began with us, and both want two.

        Who dials comes to the node's newest process: a path to one that leaves is not had again.
        """
        whole = self._whole.get(there.way)
        wants = there.is_ours and there.node in self._two and there.peer is not None and there.peer.path
        is_newest = there.way == self._newest[there.node]
        return whole.paths if whole is not None and wants and is_newest else None

    def _joined(self, link: Link) -> Link | None:
        """The trunk that a connection which we dialed is to join; None: it is gone, or it joins none."""
        both = (self._whole.get(link.dialed), self._whole.get(beside(link.dialed))) if link.joins else ()
        found = (whole for whole in both if whole is not None and whole.paths is not None)
        return next((whole for whole in found if whole.paths and whole.paths.nonce == link.joins), None)

    # ------------------------------------------------------------

    @property
    def _now_ms(self) -> int:
        return round(self._node.now * 1000)

    def _chance(self) -> float:
        return int.from_bytes(self._node.draw(2), "big") / 0x1_0000

    def _link(self, node: str) -> Link | None:
        return self._whole.get(node)

    def _in_use(self, leg: int) -> Trunk | None:
        link = self._links.get(leg)
        there = None if link is None else self._trunks.get(link.way)
        return there if link is not None and there is not None and there.link == link.whole.leg else None

    def _send(self, link: Link, message: Message, id: int) -> None:
        """Say something on a trunk, by each of its paths."""
        assert link.paths is not None  # it has met
        data = control.encode(message, id)
        for leg in link.paths.legs:
            self.put(ev.SendStream(leg, data))
        link.paths.sent += 1
        there = self._trunks[link.way]
        there.on_sent(self._node.now)
        self._note(there.way)

    def _close(self, link: Link, code: int) -> None:
        """We end a connection; if it is a trunk's, that with all its paths."""
        paths = link.whole.paths
        if paths is None:
            self._drop(link.leg, code)
            self._lose(link)
            return
        for leg in paths.up:
            self._drop(leg, code)
        self._end(link.whole, paths)

    def _drop(self, leg: int, code: int) -> None:
        """One connection goes, whatever it was part of."""
        self._deadlines.set(leg, None)
        if self._links.pop(leg, None) is not None:
            self.put(ev.CloseLeg(leg, trunk_control.code_of(code)))

    def _lose(self, link: Link) -> None:
        """A connection is over: was it a trunk's, or to join one, or the one that we dialed?"""
        self._deadlines.set(link.leg, None)
        now = self._node.now
        whole = link.whole if link.way else self._joined(link)
        paths = None if whole is None else whole.paths
        if whole is not None and paths is not None:
            if link.leg in paths.up:
                self._node.count("trunk_path_down", _path(link))
            paths.on_lost(link.leg, now, self._chance())
            self._note(whole.way)
            if not (paths.up and paths.is_whole):
                for leg in paths.up:
                    self._drop(leg, ErrorCode.IDLE_TIMEOUT)
                self._end(whole, paths)
        else:
            there = self._trunks.get(self.newest(link.dialed))
            if there is not None and there.on_lost(link.leg, now, self._chance()):
                self._note(there.way)

    def _end(self, whole: Link, paths: Paths) -> None:
        """A trunk is down."""
        there = self._trunks[whole.way]
        del self._whole[whole.way]
        for leg in paths.pending:
            self._drop(leg, ErrorCode.NO_ERROR)
        there.on_lost(whole.leg, self._node.now, self._chance())
        self._note(there.way)
        self._node.count("trunk_down")
        self.reports.on_down(there.way)
        self._far.on_down(there.way)

    def _watch(self, link: Link) -> None:
        self._deadlines.set(link.leg, link.greeting.next_deadline())

    def _note(self, way: str) -> None:
        there = self._trunks[way]
        dialed_at = self._dialed.get(there.node) if way == self._newest[there.node] else None
        lacking = self._lacking(there)
        found = (
            there.next_deadline(),
            None if dialed_at is None else dialed_at + DIAL_S,
            None if lacking is None else lacking.next_deadline(),
        )
        self._deadlines.set(way, min((when for when in found if when is not None), default=None))


def _path(link: Link) -> str:
    return "second" if link.second else "first"
