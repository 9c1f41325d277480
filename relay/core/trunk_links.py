"""All connections to other nodes: whose each is, what goes by it, when something is due of it, how it ends.

    drop    one connection goes, whatever it was part of
    lose    it is gone --> its trunk goes on by the other path, or ends: `Far.on_down`
    close   a trunk goes with all its paths

A trunk is known by the connection by which it began (`begun`), also when that one is itself no more.
Everything leaves by `put`, in the order in which it was decided: orders for the lane, then what tells of it.
Must never live here: who the other one is (trunk_meeting.py), what a message means (trunk_words.py), and what
is done when something is due (trunk_upkeep.py).
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from relay.core import events as ev
from relay.core.deadlines import Deadlines
from relay.core.node import Node
from relay.core.trunk import Trunk, beside
from relay.core.trunk_paths import Link, Paths
from relay.core.trunk_paths import State as PathState
from relay.core.trunk_reports import Reports
from relay.core.trunk_ways import Ways
from relay.errors import ErrorCode
from relay.protocol import control, trunk_control
from relay.protocol.messages import Message

DIAL_S: Final = 1.0  # the edge says at once that it dials; what it does not say by then it cannot


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


class Links:
    """Those of one node."""

    def __init__(self, node: Node, ways: Ways, far: Far) -> None:
        self.node = node
        self.ways = ways
        self.far = far
        self.outputs: deque[ev.Output] = deque()
        """What the edge is to do, in order."""
        self.reports = Reports()
        self.two = {row.node for row in node.config.trunks.nodes if row.second}
        """To whom there is a second path."""
        self.deadlines: Deadlines[str | int] = Deadlines()
        """When something is due of a trunk, by way, or of a greeting, by leg."""
        self.dialed: dict[str, float] = {}
        """When the edge was told to dial, which has not said that it does; by node."""
        self._links: dict[int, Link] = {}
        self._begun: dict[str, Link] = {}
        """Of each trunk that is there, by way, the connection by which it began."""

    # ------------------------------------------------------------ to be asked

    @property
    def now_ms(self) -> int:
        """Milliseconds of the monotonic clock."""
        return round(self.node.now * 1000)

    @property
    def chance(self) -> float:
        """A fresh random number from 0 to 1."""
        return int.from_bytes(self.node.draw(2), "big") / 0x1_0000

    @property
    def strangers(self) -> int:
        """Connections whose other end is not known yet."""
        return sum(not one.way for one in self._links.values())

    @property
    def paths(self) -> dict[str, int]:
        """How many connections are in use, by which of the two paths they are."""
        known = [whole.paths for whole in self._begun.values() if whole.paths is not None]
        names = {"first": False, "second": True}
        return {
            name: sum(paths[which].state is PathState.UP for paths in known) for name, which in names.items()
        }

    def get(self, leg: int) -> Link | None:
        """The connection of this number; None: it is none of ours, or not any more."""
        return self._links.get(leg)

    def begun(self, way: str) -> Link | None:
        """The connection by which the trunk by this way began; None: there is none."""
        return self._begun.get(way)

    def legs(self, way: str) -> list[int]:
        """The connections by which the trunk by this way goes now."""
        whole = self._begun.get(way)
        return [] if whole is None or whole.paths is None else whole.paths.up

    def in_use(self, leg: int) -> Trunk | None:
        """The trunk that a connection is a path of."""
        link = self._links.get(leg)
        there = None if link is None else self.ways.get(link.way)
        return there if link is not None and there is not None and there.link == link.whole.leg else None

    def joined(self, link: Link) -> Link | None:
        """The trunk that a connection which we dialed is to join; None: it is gone, or it joins none."""
        both = (self._begun.get(link.dialed), self._begun.get(beside(link.dialed))) if link.joins else ()
        found = (whole for whole in both if whole is not None and whole.paths is not None)
        return next((whole for whole in found if whole.paths and whole.paths.nonce == link.joins), None)

    def lacking(self, there: Trunk) -> Paths | None:
        """The paths of a trunk that we dial where they are down: it began with us, and both want two.

        Who dials comes to the node's newest process: a path to one that leaves is not had again.
        """
        whole = self._begun.get(there.way)
        wants = there.is_ours and there.node in self.two and there.peer is not None and there.peer.path
        return whole.paths if whole is not None and wants and self.ways.is_newest(there) else None

    # ------------------------------------------------------------ to be told

    def put(self, output: ev.Output) -> None:
        """Queue one order for the edge."""
        self.outputs.append(output)

    def open(self, link: Link) -> None:
        """A connection is under way: it has to greet in time."""
        self._links[link.leg] = link

    def begin(self, way: str, link: Link) -> None:
        """A trunk begins by this connection, which has met."""
        self._begun[way] = link

    def give_up(self, way: str) -> Paths | None:
        """Nothing is said any more on the trunk by this way; its paths, for the caller to drop."""
        former = self._begun.pop(way, None)
        return None if former is None else former.paths

    def say(self, way: str, message: Message, id: int = 0) -> bool:
        """Say something that is not answered; `id`: of what it answers. False: there is no trunk."""
        link = self._begun.get(way)
        if link is None:
            return False
        self.send(link, message, id)
        return True

    def send(self, link: Link, message: Message, id: int) -> None:
        """Say something on a trunk, by each of its paths."""
        assert link.paths is not None  # it has met
        data = control.encode(message, id)
        for leg in link.paths.legs:
            self.put(ev.SendStream(leg, data))
        link.paths.sent += 1
        there = self.ways[link.way]
        there.on_sent(self.node.now)
        self.note(there)

    def watch(self, link: Link) -> None:
        """Something is due of its greeting at another time."""
        self.deadlines.set(link.leg, link.greeting.next_deadline())

    def note(self, there: Trunk) -> None:
        """Something is due of a trunk at another time."""
        dialed_at = self.dialed.get(there.node) if self.ways.is_newest(there) else None
        lacking = self.lacking(there)
        found = (
            there.next_deadline(),
            None if dialed_at is None else dialed_at + DIAL_S,
            None if lacking is None else lacking.next_deadline(),
        )
        self.deadlines.set(there.way, min((when for when in found if when is not None), default=None))

    # ------------------------------------------------------------ how they end

    def close(self, link: Link, code: int) -> None:
        """We end a connection; if it is a trunk's, that with all its paths."""
        paths = link.whole.paths
        if paths is None:
            self.drop(link.leg, code)
            self._lose(link)
            return
        for leg in paths.up:
            self.drop(leg, code)
        self._end(link.whole, paths)

    def drop(self, leg: int, code: int) -> None:
        """One connection goes, whatever it was part of."""
        self.deadlines.set(leg, None)
        if self._links.pop(leg, None) is not None:
            self.put(ev.CloseLeg(leg, trunk_control.code_of(code)))

    def on_lost(self, leg: int) -> bool:
        """A connection is no more. False: it is none of ours."""
        link = self._links.pop(leg, None)
        if link is not None:
            self._lose(link)
        return link is not None

    def _lose(self, link: Link) -> None:
        """A connection is over: was it a trunk's, or to join one, or the one that we dialed?"""
        self.deadlines.set(link.leg, None)
        now = self.node.now
        whole = link.whole if link.way else self.joined(link)
        paths = None if whole is None else whole.paths
        if whole is not None and paths is not None:
            if link.leg in paths.up:
                self.node.count("trunk_path_down", path_name(link))
            paths.on_lost(link.leg, now, self.chance)
            self.note(self.ways[whole.way])
            if not (paths.up and paths.is_whole):
                for leg in paths.up:
                    self.drop(leg, ErrorCode.IDLE_TIMEOUT)
                self._end(whole, paths)
        else:
            there = self.ways.get(self.ways.newest(link.dialed))
            if there is not None and there.on_lost(link.leg, now, self.chance):
                self.note(there)

    def _end(self, whole: Link, paths: Paths) -> None:
        """A trunk is down."""
        there = self.ways[whole.way]
        del self._begun[whole.way]
        for leg in paths.pending:
            self.drop(leg, ErrorCode.NO_ERROR)
        there.on_lost(whole.leg, self.node.now, self.chance)
        self.note(there)
        self.node.count("trunk_down")
        self.reports.on_down(there.way)
        self.far.on_down(there.way)


def path_name(link: Link) -> str:
    """Which path a connection goes by, as counters name it."""
    return "second" if link.second else "first"
