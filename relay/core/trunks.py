"""Trunks to the other nodes: the table of contents of what knows of connections between nodes.

    TrunkDialed, TrunkOpened --trunk_meeting.py--> met --trunk_links.py--> in use: CarryTrunk, `Far.on_up`
    frames of the one in use --trunk_words.py--> answers to who asked, `Far.on_message` for all else
    LegLost, an error, GLARE --trunk_links.py--> `Far.on_down`: whatever went on the trunk is over
    time, TrunkAcknowledged  --trunk_upkeep.py--> dialed, kept awake, doubted

Another process of a node that is there takes the other way to it (trunk_ways.py), and whom we need is dialed
(trunk_needs.py). Must never live here: calls, halves and routes, and decisions of the parts.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.core import events as ev
from relay.core.node import Node
from relay.core.trunk_greeting import Identity, Pins
from relay.core.trunk_links import Far, Links
from relay.core.trunk_meeting import Meeting
from relay.core.trunk_needs import Needs
from relay.core.trunk_upkeep import Upkeep
from relay.core.trunk_ways import Ways
from relay.core.trunk_words import Answer, Then, Words
from relay.protocol.messages import Message
from relay.protocol.trunk_messages import Greet


class Trunks:
    """All of one node's."""

    def __init__(self, node: Node, own: Identity, pins: Pins, far: Far) -> None:
        self.own = own
        self._ways = Ways(own.node, pins)
        self._links = Links(node, self._ways, far)
        self._needs = Needs(self._links)
        self._meeting = Meeting(self._links, self._needs, own, pins)
        self._words = Words(self._links, self._meeting)
        self._upkeep = Upkeep(self._links, self._meeting)
        self.outputs = self._links.outputs
        """What the edge is to do, in order."""
        self.reports = self._links.reports

    # ------------------------------------------------------------ to be asked

    @property
    def paths(self) -> dict[str, int]:
        """How many connections are in use, by which of the two paths they are."""
        return self._links.paths

    def knows(self, node: str) -> bool:
        """Whether we may have a trunk to this node."""
        return self._ways.knows(node)

    def newest(self, node: str) -> str:
        """The way to a node's newest process; to one that we do not know there is none, whatever its name."""
        return self._ways.newest(node)

    def met(self) -> list[str]:
        """The nodes to which there is a trunk, for the process that follows us."""
        return sorted({there.node for there in self._ways if there.is_there})

    def leg_of(self, node: str) -> int | None:
        """The connection that is in use; None: there is no trunk now."""
        there = self._ways.there(node)
        return None if there is None else there.link

    def peer_of(self, node: str) -> Greet | None:
        """What that node said of itself, while the trunk is there."""
        there = self._ways.there(node)
        return None if there is None else there.peer

    def round_trip(self, node: str) -> float:
        """Of the trunk to this node, seconds; 0 while it is not known."""
        there = self._ways.get(node)
        return 0.0 if there is None else there.round_trip

    def takes_halves(self, node: str) -> bool:
        """Whether anything new may begin at a node: at its newest process."""
        there = self._ways.get(self._ways.newest(node))
        return there is not None and there.takes_halves

    # ------------------------------------------------------------ to be told

    def put(self, output: ev.Output) -> None:
        """Queue one order for the edge."""
        self._links.put(output)

    def need(self, node: str) -> None:
        """Somebody here needs a trunk to this node; `spare` takes that back."""
        self._needs.need(node)

    def spare(self, node: str) -> None:
        """One less does."""
        self._needs.spare(node)

    def meet(self, nodes: Iterable[str]) -> None:
        """Have these nodes know of us, as the newest process of ours; for half a minute."""
        self._needs.meet(nodes)

    def carry(self, node: str, carries: bool) -> None:
        """Whether voices pass there now."""
        self._upkeep.carry(node, carries)

    def ask(self, node: str, message: Message, then: Then = lambda _: None) -> bool:
        """Say something that is answered. False: there is no trunk, and nothing was said."""
        return self._words.ask(node, message, then)

    def say(self, node: str, message: Message) -> bool:
        """Say something that nobody answers. False: there is no trunk."""
        return self._links.say(node, message)

    def answer(self, node: str, id: int, message: Answer) -> None:
        """Answer what came with this id; one that has to wait does not outlive the trunk."""
        if id:
            self._links.say(node, message, id)

    def drain(self) -> None:
        """Our node leaves: nothing new begins, and nobody is dialed."""
        self._upkeep.drain()

    # ------------------------------------------------------------ what comes

    def on_dialed(self, event: ev.TrunkDialed) -> None:
        """The edge dials."""
        self._upkeep.on_dialed(event)

    def on_opened(self, event: ev.TrunkOpened) -> None:
        """A handshake is done: of a connection that we dialed, or of one that dialed us."""
        self._meeting.on_opened(event)

    def on_lost(self, leg: int) -> bool:
        """A connection is no more. False: it is none of ours."""
        return self._links.on_lost(leg)

    def on_acknowledged(self, event: ev.TrunkAcknowledged) -> None:
        """The other ends are alive."""
        self._upkeep.on_acknowledged(event)

    def on_stream(self, event: ev.StreamReceived) -> bool:
        """Bytes of a control stream. False: of no connection of ours."""
        return self._words.on_stream(event)

    def on_datagram(self, event: ev.DatagramReceived) -> bool:
        """A control datagram. False: of no connection of ours."""
        return self._words.on_datagram(event)

    def on_counted(self, event: ev.TrunkCounted) -> None:
        """What came by a trunk: the node that sent it hears of it."""
        self._words.on_counted(event)

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When something has to be done."""
        found = (self._links.deadlines.next(), self._needs.next_deadline())
        return min((when for when in found if when is not None), default=None)

    def on_timer(self, now: float) -> None:
        """Time went by."""
        self._upkeep.on_timer(now)
        self._needs.on_timer(now)
