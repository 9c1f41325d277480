"""Feeds the engine, drains it, arms one timer.

    +-----------------------------------------------------------------------------------------+
    |  After every input, drain the outputs until the next deadline, before the next input.   |
    +-----------------------------------------------------------------------------------------+

Facts of the endpoint become inputs; outputs become calls to the endpoint, the lane, and the sinks for
records, events and command answers. Must never live here: a decision.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from relay.core import events as ev
from relay.core.relay import Relay
from relay.edge.endpoint import Endpoint
from relay.edge.handler import Carrier
from relay.edge.keep import Keep
from relay.edge.lane import Lane
from relay.edge.timers import Loop, Timer
from relay.errors import ErrorCode
from relay.protocol.address import Address
from relay.protocol.ids import CallId
from relay.protocol.trunk import MAX_REPORTS, MAX_ROUTE, MIN_ROUTE

log = logging.getLogger("relay.driver")
TAKE_UP_S = 0.3  # before the first packet, for about a thousand calls; their audio waits for it
HEARD_AT_ONCE = 64  # legs, a fraction of a millisecond
MEASURED_AT_ONCE = 16  # legs, half a millisecond
MEASURED_MOST = 512  # legs in one turn


class Sinks(Protocol):
    """Where the engine's news go. None of these may block."""

    def record(self, record: ev.CallRecord) -> None:
        """A call ended."""

    def rated(self, rated: ev.Rated) -> None:
        """Stars for a call that is recorded."""

    def event(self, event: ev.CallEvent) -> None:
        """News for the product's back end."""

    def stopped(self) -> None:
        """The drain is complete."""


class Driver:
    """One engine, one endpoint, one lane, one timer."""

    def __init__(
        self,
        loop: Loop,
        engine: Relay,
        endpoint: Endpoint,
        lane: Lane,
        sinks: Sinks,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self.engine = engine
        self.internal_errors = 0
        self.on_company: Callable[[ev.CompanyChanged], None] = lambda _: None
        """Where the TURN engine hears that a call's company changed, if there is one."""
        self._loop = loop
        self._endpoint = endpoint
        self._lane = lane
        self._sinks = sinks
        self._inputs: deque[ev.Input] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._heard: dict[int, float] = {}
        self._live: dict[int, Carrier] = {}
        self._asked: set[int] = set()  # whose round trip the engine wants
        self._to_measure: dict[int, None] = {}
        self._trunks: dict[int, tuple[int, int] | None] = {}  # what was acknowledged; None: not open yet
        self._joined: dict[int, int] = {}  # connections that joined a trunk: by which leg it began
        self._widowed: set[int] = set()  # legs by which one began that lives on by such
        self._commands: dict[int, Callable[[ErrorCode, str], None]] = {}
        self._next_command = 1
        self._do: dict[type, Callable[[Any], None]] = {
            ev.Remember: self._remember,
            ev.SendStream: self._send_stream,
            ev.SendDatagram: self._send_datagram,
            ev.CloseLeg: self._close_leg,
            ev.SetBudget: self._set_budget,
            ev.OpenFlow: lambda out: lane.open_flow(
                out.leg, out.flow, index=out.index, group=out.group, watched=out.watched
            ),
            ev.SetShedding: lambda out: lane.shed(out.classes),
            ev.SetShape: lambda out: lane.shape(out.leg, out.shape),
            ev.Resend: self._resend,
            ev.AskRoundTrip: lambda out: self._asked.add(out.leg),
            ev.SetRepair: lambda out: lane.tell_repair(out.leg, out.repair),
            ev.Route: lambda out: lane.route(out.leg, out.flow, out.targets, out.closed),
            ev.CloseFlow: self._close_flow,
            ev.CallEvent: sinks.event,
            ev.CallRecord: sinks.record,
            ev.Rated: sinks.rated,
            ev.CommandDone: self._command_done,
            ev.DialTrunk: self._dial_trunk,
            ev.CarryTrunk: self._carry_trunk,
            ev.OpenRoute: lambda out: lane.open_route(
                out.leg, out.route, index=out.index, group=out.group, pps=out.pps, up_bps=out.up_bps
            ),
            ev.CompanyChanged: lambda out: self.on_company(out),
            ev.Stopped: lambda _: sinks.stopped(),
        }

    # ------------------------------------------------------------ facts from the endpoint

    def opened(
        self,
        leg: int,
        address: Address,
        datagrams: bool,
        transport: str = "quic",
        carrier: Carrier | None = None,
    ) -> None:
        """See `handler.Handler`; so for the next six."""
        self._live[leg] = carrier or self._endpoint
        self.feed(ev.LegOpened(leg, transport, address, datagrams))

    def trunk_opened(self, leg: int, key: bytes | None, largest: int) -> None:
        self._live[leg] = self._endpoint
        self._trunks[leg] = 0, 0
        self.feed(ev.TrunkOpened(leg, key, largest))

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        self.feed(ev.StreamReceived(leg, data, end))

    def datagram(self, leg: int, data: bytes) -> None:
        self.feed(ev.DatagramReceived(leg, data))

    def gap(self, leg: int, flow: int, kid: int, newest: int, missing: int) -> None:
        self.feed(ev.Gap(leg, flow, kid, newest, missing))

    def moved(self, leg: int, address: Address) -> None:
        self.feed(ev.AddressMoved(leg, address))

    def lost(self, leg: int, code: int) -> None:
        self._live.pop(leg, None)
        self._heard.pop(leg, None)
        self._trunks.pop(leg, None)
        self.feed(ev.LegLost(leg, code))

    def command(self, raw: bytes, done: Callable[[ErrorCode, str], None], *, is_fleet: bool = False) -> None:
        """A signed command; `done` is called with its outcome, within this call."""
        ref = self._next_command
        self._next_command += 1
        self._commands[ref] = done
        self.feed(ev.CommandReceived(ref, raw, is_fleet))

    # ------------------------------------------------------------ the rule

    def feed(self, event: ev.Input) -> None:
        """Give the engine one input and carry out all it says, in order."""
        self._inputs.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inputs:
                current = self._inputs.popleft()
                try:
                    self._one(current)
                except Exception as error:  # a bug of ours: it may cost this leg, never the others
                    self._quarantine(current, error)
                if isinstance(current, ev.LegLost):  # only now: its flows' counters were asked for above
                    self._let_go(current.leg)
                if not self._inputs:
                    self._endpoint.transmit_dirty()
        finally:
            self._busy = False
        self._arm()

    def _one(self, event: ev.Input) -> None:
        self.engine.handle(event, self._clock(), self._wall())
        output = self.engine.poll()
        while output is not None:
            self._do[type(output)](output)
            output = self.engine.poll()

    def _quarantine(self, event: ev.Input, error: Exception) -> None:
        self.internal_errors += 1
        log.error("internal error while handling %s", type(event).__name__, exc_info=error)
        leg = getattr(event, "leg", None)
        if leg in self._live and not isinstance(event, ev.LegLost):
            self._live[leg].close(leg, ErrorCode.INTERNAL, "")

    def _let_go(self, leg: int) -> None:
        """A connection is over; the lane keeps a trunk's routes as long as one of its connections is not."""
        whole = self._joined.pop(leg, leg)
        if leg in self._joined.values():
            self._widowed.add(leg)
            return
        self._lane.close_leg(leg)
        if whole in self._widowed and whole not in self._joined.values():
            self._widowed.discard(whole)
            self._lane.close_leg(whole)

    def _arm(self) -> None:
        due = self.engine.next_deadline()
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = None
        self.feed(ev.Tick())

    def report_heard(self) -> Iterator[None]:
        """Tell the engine which legs were heard since the last report, a few hundred at a step.

        Run it through about once a second, with other work between the steps.
        """
        legs = [leg for leg in self._live if leg not in self._trunks]
        for start in range(0, len(legs), HEARD_AT_ONCE):
            fresh: dict[int, float] = {}
            for leg in legs[start : start + HEARD_AT_ONCE]:
                carrier = self._live.get(leg)
                at = carrier.last_heard(leg) if carrier is not None else None
                if at is not None and at != self._heard.get(leg):
                    fresh[leg] = at
            self._heard.update(fresh)
            if self._endpoint.keep is not None:
                for leg, at in fresh.items():
                    self._endpoint.keep.heard(leg, at)
            if fresh:
                self.feed(ev.Heard(fresh))
            yield

    def report_flowing(self) -> Iterator[None]:
        """Tell the engine what goes on of the flows that it asks about, those of fresh calls; some at a step.

        Run it through about once a second.
        """
        flows = self.engine.unheard()
        for start in range(0, len(flows), HEARD_AT_ONCE):
            found = self._lane.flowing(flows[start : start + HEARD_AT_ONCE])
            if found:
                self.feed(ev.Flowing(found))
            yield

    def report_routes(self) -> Iterator[None]:
        """Tell the engine what came by each trunk and what was lost on its way there; a report at a step.

        Run it through about once a second.
        """
        for leg in [leg for leg, known in self._trunks.items() if known is not None]:
            first = MIN_ROUTE
            while first <= MAX_ROUTE:
                lines = self._lane.count_routes(leg, first, MAX_REPORTS)
                for way in self._lane.measure([leg], self._clock()):
                    self.feed(ev.TrunkCounted(leg, way.acked, way.lost, lines))
                first = lines[-1].route + 1 if len(lines) == MAX_REPORTS else MAX_ROUTE + 1
                yield

    def measure_ways(self, *, adapts: bool) -> Iterator[None]:
        """Tell the engine what it asked of legs, and if it `adapts`, of those that suffer; some at a step.

        Run it through five times a second. Most legs suffer nothing, and cost nothing here. When very many
        do, it is a network of ours, or this machine: each has to wait then, as the packet path must not.
        """
        asked, self._asked = list(self._asked), set()
        for start in range(0, len(asked), HEARD_AT_ONCE):
            ways = self._lane.measure(asked[start : start + HEARD_AT_ONCE], self._clock())
            self.feed(ev.RoundTrips({way.leg: way.rtt[1] for way in ways if way.rtt is not None}))
            yield
        if not adapts:
            return
        suffering = [*self._lane.troubled(), *self.engine.due(self._clock())]
        self._to_measure.update(dict.fromkeys(leg for leg in suffering if leg not in self._trunks))
        legs = list(itertools.islice(self._to_measure, MEASURED_MOST))
        for start in range(0, len(legs), MEASURED_AT_ONCE):
            part = legs[start : start + MEASURED_AT_ONCE]
            for leg in part:
                del self._to_measure[leg]
            ways = self._lane.measure(part, self._clock())
            if ways:
                self.feed(ev.Measured(ways))
            yield

    def report_trunks(self) -> Iterator[None]:
        """Tell the engine on which trunks something was acknowledged. Run it through ten times a second."""
        trunks = [leg for leg, known in self._trunks.items() if known is not None]
        for start in range(0, len(trunks), HEARD_AT_ONCE):
            news: dict[int, float] = {}
            for way in self._lane.measure(trunks[start : start + HEARD_AT_ONCE], self._clock()):
                came = way.acked, self._endpoint.acknowledged(way.leg)  # by the lane, and by aioquic
                if self._trunks.get(way.leg, came) != came:
                    self._trunks[way.leg] = came
                    news[way.leg] = way.rtt[1] if way.rtt is not None else 0.0
            if news:
                self.feed(ev.TrunkAcknowledged(news))
            yield

    # ------------------------------------------------------------ outputs

    def _set_budget(self, out: ev.SetBudget) -> None:
        self._lane.open_leg(out.leg, pps=out.pps, up_bps=out.up_bps, down_bps=out.down_bps)

    def _remember(self, out: ev.Remember) -> None:
        if self._endpoint.keep is not None:
            self._endpoint.keep.call(out.call, out.data)

    def revive(self, keep: Keep) -> int:
        """Take up what a process left that crashed; before the first packet. How many legs go on."""
        revived = self._endpoint.revive(keep)
        for leg in revived.legs():
            self._live[leg] = revived
        calls = {CallId(cid): data for cid, data in keep.calls()}
        self.feed(ev.CallsRemembered(calls, revived.legs(), keep.beaten))
        until = self._clock() + TAKE_UP_S
        while self.engine.is_taking_up and self._clock() < until:
            self.feed(ev.Tick())
        return len(revived)

    def _resend(self, out: ev.Resend) -> None:
        self._lane.resend(out.leg, out.nack, self._clock())

    def _send_stream(self, out: ev.SendStream) -> None:
        if out.leg in self._live:
            self._live[out.leg].send_stream(out.leg, out.data)

    def _send_datagram(self, out: ev.SendDatagram) -> None:
        if out.leg in self._live:
            self._live[out.leg].send_datagram(out.leg, out.data)

    def _close_leg(self, out: ev.CloseLeg) -> None:
        if out.leg in self._live:
            self._live[out.leg].close(out.leg, out.code, out.reason)

    def _dial_trunk(self, out: ev.DialTrunk) -> None:
        leg = self._endpoint.dial(out.node, second=out.second)
        if leg is not None:
            self._live[leg] = self._endpoint
            self._trunks[leg] = None
            self._inputs.appendleft(ev.TrunkDialed(out.node, leg, out.second))

    def _carry_trunk(self, out: ev.CarryTrunk) -> None:
        self._endpoint.carry(out.leg)
        if out.of is None:
            self._lane.open_trunk(out.leg, second=out.second)
        else:
            self._lane.join_trunk(out.leg, out.of, second=out.second)
            self._joined[out.leg] = out.of

    def _close_flow(self, out: ev.CloseFlow) -> None:
        counters = self._lane.close_flow(out.leg, out.flow)
        self._inputs.appendleft(ev.FlowClosed(out.leg, out.flow, counters))

    def _command_done(self, out: ev.CommandDone) -> None:
        done = self._commands.pop(out.ref, None)
        if done is not None:
            done(out.code, out.message)
