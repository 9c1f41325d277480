"""Trunks as time goes by: dialed and dialed anew, kept awake, doubted, given up.

    a deadline of a trunk --> DialTrunk (trunk.py), for a path that is lacking too (trunk_paths.py)
                          --> a ping on its stream, a probe by each path, `Far.on_suspect`, closed
    DialTrunk --the edge--> TrunkDialed: it greets (trunk_meeting.py)     --nothing for a second--> lost
    of a greeting         --> it is too late

Must never live here: after how long something is due.
"""

from __future__ import annotations

from typing import Final

from relay.core import events as ev
from relay.core.trunk import Due, State, Trunk
from relay.core.trunk_links import DIAL_S, Links
from relay.core.trunk_meeting import Meeting
from relay.errors import ErrorCode
from relay.protocol import datagram, trunk
from relay.protocol.messages import Ping
from relay.protocol.trunk_control import TrunkCode

_NOWHERE: Final = -1  # stands for a connection that the edge has not named yet
_U32: Final = 0xFFFF_FFFF


class Upkeep:
    """That of all trunks of one node."""

    def __init__(self, links: Links, meeting: Meeting) -> None:
        self._links = links
        self._meeting = meeting

    # ------------------------------------------------------------ to be told

    def on_dialed(self, event: ev.TrunkDialed) -> None:
        """The edge dials."""
        links = self._links
        way = links.ways.newest(event.node)
        there, whole = links.ways.get(way), links.begun(way)
        joins = b""
        paths = None if whole is None else whole.paths
        if there is not None and paths is not None and paths[event.second].is_asked:
            paths[event.second].on_dialed(event.leg, links.node.now)
            joins = paths.nonce
        elif there is None or links.dialed.pop(event.node, None) is None:
            links.put(ev.CloseLeg(event.leg, ErrorCode.NO_ERROR))  # we want it no longer
            return
        else:
            there.on_dialed(event.leg)
        self._meeting.dialed(event, joins)
        links.note(there)

    def on_acknowledged(self, event: ev.TrunkAcknowledged) -> None:
        """The other ends are alive."""
        for leg, rtt in event.of.items():
            if (there := self._links.in_use(leg)) is not None:
                there.on_acknowledged(rtt, self._links.node.now)
                self._links.note(there)

    def carry(self, way: str, carries: bool) -> None:
        """Whether voices pass there now."""
        there = self._links.ways.get(way)
        if there is not None:
            there.carry(carries)
            self._links.note(there)

    def drain(self) -> None:
        """Our node leaves: nothing new begins, and nobody is dialed."""
        for there in self._links.ways:
            dialed = there.on_drained()
            if dialed is not None:
                self._links.drop(dialed, ErrorCode.DRAINING)
            self._links.dialed.pop(there.node, None)
            self._links.note(there)

    # ------------------------------------------------------------ time

    def on_timer(self, now: float) -> None:
        """Time went by."""
        while (key := self._links.deadlines.pop(now)) is not None:
            if isinstance(key, str):
                self._on_due(self._links.ways[key], now)
            else:
                self._meeting.on_timer(key, now)

    def _on_due(self, there: Trunk, now: float) -> None:
        links = self._links
        is_newest = links.ways.is_newest(there)
        asked_at = links.dialed.get(there.node) if is_newest else None
        if asked_at is not None and now >= asked_at + DIAL_S:
            del links.dialed[there.node]
            there.on_lost(_NOWHERE, now, links.chance)
        for due in there.on_timer(now, links.chance):
            if due is Due.DIAL:
                self._dial(there, now)
            elif due is Due.TELL:
                links.far.on_suspect(there.way)
            elif due is Due.GIVE_UP:
                self._close(there, ErrorCode.IDLE_TIMEOUT)
            elif due is Due.PING:
                links.say(there.way, Ping(t=links.now_ms))
            else:
                self._probe(there, now)
        paths = links.lacking(there)
        for second in () if paths is None else paths.to_dial(now, links.chance):
            links.put(ev.DialTrunk(there.node, second))
        if there.state is State.SUSPECT and not is_newest:
            self._close(there, TrunkCode.GLARE)  # that process is gone, and another there
        links.note(there)

    def _close(self, there: Trunk, code: int) -> None:
        link = self._links.begun(there.way)
        assert link is not None  # it is up
        self._links.close(link, code)

    def _dial(self, there: Trunk, now: float) -> None:
        self._links.dialed[there.node] = now
        is_second = there.node in self._links.two and there.tries % 2 == 1
        there.on_dialed(_NOWHERE)
        self._links.put(ev.DialTrunk(there.node, is_second))

    def _probe(self, there: Trunk, now: float) -> None:
        ping = datagram.Ping(self._links.now_ms & _U32, self._links.now_ms & _U32)
        for leg in self._links.legs(there.way):
            self._links.put(ev.SendDatagram(leg, trunk.encode(ping)))
        there.on_sent(now)
