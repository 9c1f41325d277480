"""What is said on trunks: questions and answers by id, messages for the parts above, datagrams of the hop.

    ask    --id--> ... --Ok, Err, Attached with that id--> to who asked
    frames --> the greeting, until both have met; then each message once, whichever path brings it:
               answers to who asked, `Far.on_message` for all else
    ping, hop report, TrunkCounted --> trunk_reports.py

Must never live here: what a message means to calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relay.core import events as ev
from relay.core.trunk_links import Links
from relay.core.trunk_meeting import Meeting
from relay.core.trunk_paths import Link
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, datagram, trunk, trunk_control
from relay.protocol.control import Frame
from relay.protocol.messages import Bye, Challenge, Err, Message, Ok, Ping, Pong
from relay.protocol.trunk_messages import ANSWERED, Attached, Greet

MOST_ASKED: Final = 65_536  # questions of a connection without an answer; a peer that has more is broken
_U32: Final = 0xFFFF_FFFF

Answer = Ok | Err | Attached
Then = Callable[[Answer], None]
"""What is done with an answer; never called for one that the end of a connection took along."""


class Words:
    """Those of one node."""

    def __init__(self, links: Links, meeting: Meeting) -> None:
        self._links = links
        self._meeting = meeting

    def ask(self, node: str, message: Message, then: Then) -> bool:
        """Say something that is answered. False: there is no trunk, and nothing was said."""
        link = self._links.begun(node)
        if link is None:
            return False
        if len(link.asked) >= MOST_ASKED:
            self._links.close(link, ErrorCode.OVERLOADED)
            return False
        link.newest = link.newest % control.MAX_ID + 1
        link.asked[link.newest] = then
        self._links.send(link, message, link.newest)
        return True

    # ------------------------------------------------------------ what comes

    def on_stream(self, event: ev.StreamReceived) -> bool:
        """Bytes of a control stream. False: of no connection of ours."""
        link = self._links.get(event.leg)
        if link is None:
            return False
        try:
            for data in link.reader.feed(event.data):
                self._on_frame(link, trunk_control.decode(data))
                if self._links.get(event.leg) is None:
                    return True
            if event.end:
                raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "the control stream ended")
        except PeerError as error:
            self._links.node.count("refused", error.code.name.lower())
            self._links.close(link, error.code)
        return True

    def on_datagram(self, event: ev.DatagramReceived) -> bool:
        """A control datagram. False: of no connection of ours."""
        links = self._links
        link = links.get(event.leg)
        if link is None:
            return False
        try:
            value = trunk.decode(event.data)
        except PeerError:
            links.node.count("dropped", "malformed")
            return True
        if isinstance(value, datagram.Ping) and link.way:
            pong = datagram.Pong(value.ms, value.seq, links.now_ms & _U32)
            links.put(ev.SendDatagram(link.leg, trunk.encode(pong)))
            links.reports.on_ping(link.way, value, links.node.now)
        elif isinstance(value, trunk.HopReport) and link.way:
            links.reports.on_report(link.way, value)
        return True

    def on_counted(self, event: ev.TrunkCounted) -> None:
        """What came by a trunk: the node that sent it hears of it."""
        links = self._links
        there = links.in_use(event.leg)
        if there is None:
            return
        report = links.reports.on_counted(there.way, event, links.node.now)
        if report is not None:
            links.put(ev.SendDatagram(event.leg, trunk.encode(report)))
            there.on_sent(links.node.now)
            links.note(there)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if not link.way:
            self._meeting.on_frame(link, frame)
            return
        whole = link.whole
        assert whole.paths is not None  # it has met
        for fresh in whole.paths.fresh(link.leg, frame):
            if self._links.begun(whole.way) is whole:
                self._on_word(whole, fresh)

    def _on_word(self, link: Link, frame: Frame) -> None:
        match frame.body:
            case None:
                if frame.id:
                    self._links.send(link, Err(code=ErrorCode.VERSION), frame.id)
            case Ping(t=t):
                self._links.send(link, Pong(t=t), frame.id)
            case Pong():
                pass
            case Bye(code=code):
                self._links.close(link, code)
            case Ok() | Err() | Attached() as answer:
                then = link.asked.pop(frame.id, None)
                if then is not None:
                    then(answer)
            case Challenge() | Greet():
                raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "we have met")
            case message:
                if type(message) in ANSWERED and not frame.id:
                    raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "a message that is answered has an id")
                self._links.far.on_message(link.way, message, frame.id)
