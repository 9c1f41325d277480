"""Feeds the TURN engine, drains it, arms one timer; the rule stands in relay/edge/driver.py.

    UDP      endpoint --Stun-----------------> stun -----.            ,--> outbox, stream
    streams  turn_streams --requests--> packet, gone ----+--> engine -+--> doors: relay sockets
             lane --ToClient--> to_client --> the stream  |            '--> lane: permit, bind, forbid, close
    driver   CompanyChanged, Draining, TurnChanged -------'

Must never live here: a decision, a socket.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from aioquic.quic.connection import NetworkAddress

from relay.core import turn_events as te
from relay.core.credentials import Via
from relay.core.events import Tick
from relay.core.turn import Turn
from relay.edge.doors import FULL, Doors, network_address
from relay.edge.endpoint import Endpoint
from relay.edge.lane import Lane
from relay.edge.timers import Loop, Timer
from relay.errors import LocalError
from relay.protocol.address import Address

log = logging.getLogger("relay.turn")
UDP: Final = "udp"


class Stream(Protocol):
    """A client on TCP or TLS."""

    allocation: int | None
    """What it holds, while the lane knows of it."""

    def write(self, data: bytes) -> None:
        """Send whole messages; dropped when it takes no more."""

    def released(self) -> None:
        """Its allocation is over."""


class TurnDriver:
    """One TURN engine beside the endpoint and the lane of a node (`endpoint.TurnHandler`)."""

    def __init__(
        self,
        loop: Loop,
        engine: Turn,
        endpoint: Endpoint,
        lane: Lane,
        doors: Doors,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.engine = engine
        self.internal_errors = 0
        self.doors = doors
        self._loop = loop
        self._endpoint = endpoint
        self._lane = lane
        self._clock = clock
        self._wall = wall
        self._inputs: deque[te.TurnInput] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._asking: tuple[Via, NetworkAddress, int] | None = None
        """The UDP packet in work: what is answered is answered at once, by the socket it came by."""
        self._streams: dict[int, Stream] = {}
        self._holders: dict[int, Stream] = {}  # by allocation
        self._do: dict[type, Callable[[Any], None]] = {
            te.Answer: self._answer,
            te.OpenRelay: self._open,
            te.CloseRelay: self._close,
            te.Permit: lambda out: lane.permit(out.allocation, out.ip, out.until),
            te.Forbid: lambda out: lane.forbid(out.allocation, out.ip),
            te.BindChannel: self._bind_channel,
            te.Unbind: lambda out: lane.unbind_channel(out.allocation, out.channel),
        }

    # ------------------------------------------------------------ facts

    def stun(self, data: bytes, address: NetworkAddress, sock: int) -> None:
        """See `endpoint.TurnHandler`; so for the next one."""
        # The 5-tuple is named by the address it speaks to: its packets may move between that one's sockets.
        via = Via(UDP, Address.parse(address), self._endpoint.place_of(sock))
        self._asking = via, address, sock
        try:
            self.feed(te.ClientPacket(via, data))
        finally:
            self._asking = None

    def to_client(self, allocation: int, data: bytes) -> None:
        stream = self._holders.get(allocation)
        if stream is not None:
            stream.write(data)

    def joined(self, number: int, stream: Stream) -> None:
        """A stream is open. Its number is the `local` of its Via, and never used twice."""
        self._streams[number] = stream

    def left(self, via: Via) -> None:
        """A stream ended, and what it holds with it."""
        if self._streams.pop(via.local, None) is not None:
            self.feed(te.ClientGone(via))

    # ------------------------------------------------------------ the rule

    def feed(self, event: te.TurnInput) -> None:
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
                except Exception as error:  # a bug of ours: it costs this input, never the others
                    self.internal_errors += 1
                    log.error("internal error while handling %s", type(current).__name__, exc_info=error)
        finally:
            self._busy = False
        self._arm()

    def _one(self, event: te.TurnInput) -> None:
        self.engine.handle(event, self._clock(), self._wall())
        while (output := self.engine.poll()) is not None:
            self._do[type(output)](output)

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
        self._timer = self._timer_at = None
        self.feed(Tick())

    def close(self) -> None:
        """The node ends: no timer, no relay sockets."""
        if self._timer is not None:
            self._timer.cancel()
        self.doors.close_all()

    # ------------------------------------------------------------ orders

    def _answer(self, out: te.Answer) -> None:
        if out.via.is_stream:
            stream = self._streams.get(out.via.local)
            if stream is not None:
                stream.write(out.data)
        elif self._asking is not None and self._asking[0] == out.via:
            _, address, sock = self._asking
            self._endpoint.outbox.send(sock, out.data, address)

    def _open(self, out: te.OpenRelay) -> None:
        try:
            sock = self.doors.bind(out.family, out.is_even)
        except OSError as error:
            if error.errno not in FULL:
                log.error("no relay socket: %s", error)
            self._inputs.append(te.RelayFailed(out.allocation, is_full=error.errno in FULL))
            return
        host, port = sock.getsockname()[:2]
        relayed = self.doors.advertised(sock, out.family)
        try:
            self._tell_lane(out, relayed, sock.fileno())
        except (OSError, LocalError) as error:
            log.error("the packet path refused a relay socket: %s", error)
            sock.close()
            self._inputs.append(te.RelayFailed(out.allocation, is_full=False))
            return
        self.doors.keep(out.allocation, sock)
        self._inputs.append(te.RelayOpened(out.allocation, Address(host, port)))

    def _tell_lane(self, out: te.OpenRelay, relayed: NetworkAddress, fd: int) -> None:
        if out.via.is_stream:
            stream = self._streams[out.via.local]
            self._lane.open_relay_stream(out.allocation, relayed=relayed, fd=fd, pps=out.pps, bps=out.bps)
            stream.allocation = out.allocation
            self._holders[out.allocation] = stream
            return
        if self._asking is None:
            raise LocalError("an allocation of nobody")
        _, client, sock = self._asking
        self._lane.open_relay(out.allocation, client, sock, relayed=relayed, fd=fd, pps=out.pps, bps=out.bps)

    def _close(self, out: te.CloseRelay) -> None:
        self._lane.close_relay(out.allocation)
        self.doors.close(out.allocation)
        stream = self._holders.pop(out.allocation, None)
        if stream is not None:
            stream.allocation = None
            stream.released()

    def _bind_channel(self, out: te.BindChannel) -> None:
        self._lane.bind_channel(out.allocation, out.channel, network_address(out.peer), out.until)
