"""A new connection becomes a trunk, or one more path of a trunk, once its greeting says whose it is.

    TrunkDialed, TrunkOpened --greeting--> met, joins nothing --> a trunk begins: CarryTrunk, `Far.on_up`
                                       --> met, joins a trunk --> a path of it: CarryTrunk(of=...)
                                       --> refused, or too late --> closed

Where two were dialed at once, one stays (`Trunk.stays`); a path joins only the very trunk that both mean.
Must never live here: the steps of a greeting (trunk_greeting.py), and whom we dial when (trunk_upkeep.py).
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.core import events as ev
from relay.core.trunk import node_of
from relay.core.trunk_greeting import Greeting, Identity, Pins, Said, Stage
from relay.core.trunk_links import Links, path_name
from relay.core.trunk_needs import Needs
from relay.core.trunk_paths import Link, Paths
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.control import Frame
from relay.protocol.messages import Ping
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Greet

MOST_GREETING: Final = 64  # connections whose other end is not known yet: each has five seconds


class Meeting:
    """All of one node's."""

    def __init__(self, links: Links, needs: Needs, own: Identity, pins: Pins) -> None:
        self._links = links
        self._needs = needs
        self._own = own
        self._pins = pins

    def dialed(self, event: ev.TrunkDialed, joins: bytes) -> None:
        """The edge dials for us. `joins`: the trunk that this is to be a path of, 32 bytes, or nothing."""
        greeting = Greeting(self._own, self._pins, self._links.node.now, dialed=event.node)
        link = Link(event.leg, greeting, dialed=event.node, second=event.second, joins=joins)
        self._links.open(link)
        self._links.watch(link)

    def on_opened(self, event: ev.TrunkOpened) -> None:
        """A handshake is done: of a connection that we dialed, or of one that dialed us."""
        links = self._links
        link = links.get(event.leg)
        if link is None:
            if links.strangers >= MOST_GREETING:
                links.put(ev.CloseLeg(event.leg, ErrorCode.OVERLOADED))
                return
            greeting = Greeting(self._own, self._pins, links.node.now, nonce=links.node.draw(32))
            link = Link(event.leg, greeting)
            links.open(link)
        self._go_on(link, link.greeting.on_connected(event.key, links.now_ms))

    def on_frame(self, link: Link, frame: Frame) -> None:
        """Something came before both know each other. PeerError ends the connection."""
        wall_ms = round(self._links.node.wall * 1000)
        self._go_on(link, link.greeting.on_frame(frame, self._links.now_ms, wall_ms))

    def on_timer(self, leg: int, now: float) -> None:
        """Time went by for a connection that has not met yet."""
        link = self._links.get(leg)
        assert link is not None  # it is watched as long as it is there
        link.greeting.on_timer(now)
        self._go_on(link, ())

    def _go_on(self, link: Link, said: tuple[Said, ...]) -> None:
        """What follows from a step of the greeting."""
        if link.greeting.state is Stage.REFUSED:
            self._links.node.count("trunk_refused")
            self._links.close(link, link.greeting.code)
        elif (peer := link.greeting.peer) is not None:
            link.second = link.second or peer.path == 2
            if link.joins or peer.joins is not None:
                self._join(link, peer, said)
            else:
                self._begin(link, peer, said)
        else:
            self._utter(link, said, self._links.joined(link))
            self._links.watch(link)

    def _utter(self, link: Link, said: tuple[Said, ...], joined: Link | None) -> None:
        """Say what a greeting says; `joined`: the trunk that it joins, all of whose words follow here."""
        for message, id in said:
            if isinstance(message, Greet):
                if (node_of(link.way) or link.dialed) in self._links.two:
                    message = msgspec.structs.replace(message, path=2 if link.second else 1)
                if joined is not None and joined.paths is not None:
                    at = joined.paths.join(link.leg)
                    message = msgspec.structs.replace(message, joins=joined.paths.nonce, at=at)
            self._links.put(ev.SendStream(link.leg, control.encode(message, id)))

    def _join(self, link: Link, peer: Greet, said: tuple[Said, ...]) -> None:
        """A connection becomes a path of the trunk that is there, if both mean the same one."""
        links = self._links
        there = links.ways.process(peer)
        whole = None if there is None else links.begun(there.way)
        paths = None if whole is None else whole.paths
        is_same = paths is not None and peer.joins == paths.nonce == (link.joins or peer.joins)
        if there is None or whole is None or paths is None or peer.at is None or not is_same:
            links.close(link, TrunkCode.GLARE)
            return
        if peer.node not in links.two:
            links.close(link, ErrorCode.NOT_ENABLED)
            return
        link.way, link.began = there.way, whole
        links.deadlines.set(link.leg, None)
        replaced = paths.on_joined(link.leg, link.second, peer.at)
        if replaced is not None:
            links.drop(replaced, TrunkCode.GLARE)
        links.node.count("trunk_path_up", path_name(link))
        links.put(ev.CarryTrunk(link.leg, whole.leg, link.second))
        self._utter(link, said, whole)
        links.note(there)

    def _begin(self, link: Link, peer: Greet, said: tuple[Said, ...]) -> None:
        """A connection is the trunk from now on, if it stays."""
        links = self._links
        there, former_newest = links.ways.settle(peer, links.node.now)
        if former_newest is not None:
            # Is it leaving, or was it killed? Who is gone acknowledges nothing.
            links.say(former_newest.way, Ping(t=links.now_ms))
        if not link.greeting.is_dialer and not there.stays(peer):
            links.close(link, TrunkCode.GLARE)
            return
        was_there = there.is_there
        link.way = there.way
        links.deadlines.set(link.leg, None)
        links.dialed.pop(peer.node, None)
        met = there.on_greeted(link.leg, peer, links.node.now, links.chance)
        if met.replaced is not None:
            paths = links.give_up(there.way)
            for leg in [met.replaced] if paths is None else [*paths.up, *paths.pending]:
                links.drop(leg, TrunkCode.GLARE)
        if was_there:
            links.far.on_down(there.way)  # whatever went on the former connection is over
        link.paths = Paths(link.greeting.nonce, link.leg, link.second)
        links.begin(there.way, link)
        links.node.count("trunk_up")
        links.reports.on_up(there.way, peer.region)
        links.node.count("trunk_path_up", path_name(link))
        links.put(ev.CarryTrunk(link.leg, second=link.second))
        self._utter(link, said, None)
        links.note(there)
        self._needs.on_met((peer.node,))
        links.far.on_up(there.way, is_new=met.is_new)
