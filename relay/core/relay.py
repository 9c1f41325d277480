"""The engine: facts in, orders out, no socket, clock or chance inside.

    +-----------------------------------------------------------------------------------------+
    |  After every input, drain the outputs until the next deadline, before the next input.   |
    +-----------------------------------------------------------------------------------------+

    engine.handle(event, now, wall)     now: monotonic seconds; wall: seconds since 1970
    while (output := engine.poll()) is not None: ...
    engine.next_deadline()              give a Tick at that monotonic second

This file knows which part takes which input and which message; what is decided stands in the parts. Must
never live here: a rule of a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from relay.config import Config
from relay.core import events as ev
from relay.core.abroad import DUE as FAR_DUE
from relay.core.abroad import Abroad
from relay.core.absence import Absence
from relay.core.adapting import Adapting
from relay.core.admission import Admission
from relay.core.adoption import Adoption
from relay.core.call import Call
from relay.core.door import Door
from relay.core.events import EngineKeys
from relay.core.exchange import Exchange
from relay.core.guests import Guests
from relay.core.handover import seal
from relay.core.leaving import Leaving
from relay.core.leg import Leg, LegState
from relay.core.listening import Listening
from relay.core.missing import Missing
from relay.core.moderation import Moderation
from relay.core.node import Node
from relay.core.orders import Orders
from relay.core.participant import Participant
from relay.core.parting import Parting
from relay.core.punch import Punching
from relay.core.reasons import DropReason
from relay.core.remembering import Remembering
from relay.core.ringing import Ringing
from relay.core.seating import Seating
from relay.core.shedding import Shed
from relay.core.spares import Spares
from relay.core.steering import Steering
from relay.core.story import Kind
from relay.core.switch import Switch
from relay.core.talk import Talk
from relay.core.trunk_greeting import Identity, Pins
from relay.core.trunk_reports import Standing
from relay.core.vitals import Vitals
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, datagram
from relay.protocol.ids import CallId, Kid
from relay.protocol.token import kid_of

__all__ = ["EngineKeys", "Relay", "issuers_of"]

_U32: Final = 0xFFFF_FFFF
_DUE_AT_ONCE: Final = 4  # about 1 ms of work with all that follows from it
_CODES: Final = frozenset(int(code) for code in ErrorCode)
_WAITING: Final = (LegState.OPENED, LegState.CHALLENGED)


class Relay:
    """One node's engine."""

    def __init__(
        self,
        config: Config,
        keys: EngineKeys,
        draw: Callable[[int], bytes],
        trunks: Identity | None = None,
        pins: Pins | None = None,
    ) -> None:
        """`trunks`: who this node is to the others in `pins`; without it there are none."""
        self._node = node = Node(config, keys, draw)
        self._admission = Admission(config.node.cluster, config.tokens, keys.issuers, node.tenants)
        self._door = Door(node, self._admission)
        self._switch = Switch(node)
        ringing = Ringing()
        seating = Seating(node, self._door, self._switch)
        self._parting = Parting(node, self._switch, seating, ringing)
        self._steering = Steering(node, self._parting)
        self._exchange = exchange = Exchange(
            node, self._switch, seating, self._parting, ringing, self._steering
        )
        self._adoption = Adoption(node, self._admission, exchange, self._parting, self._switch)
        self._absence = Absence(
            node, self._door, self._switch, seating, self._parting, exchange, self._adoption
        )
        self._remembering = Remembering(node, self._adoption, self._switch)
        self._talk = Talk(node)
        self._punching = Punching(node)
        node.guests.announced = self._punching.announced
        self._moderation = Moderation(node, self._parting, self._switch)
        self._orders = Orders(node, self._admission, self._parting, self._moderation)
        self._leaving = Leaving(node, self._parting)
        self._spares = Spares(node, self._leaving.targets, self._door)
        self._adapting = Adapting(node)
        self._listening = Listening(node)
        self._missing = Missing(node, self._adapting)
        self._door.urls_of = self._leaving.targets.urls_of
        self._abroad = None if trunks is None else Abroad(node, trunks, pins or {}, self._door, self._take)
        self._leaving.visits = None if self._abroad is None else self._abroad.visiting
        self._inputs: dict[type, Callable[[Any], None]] = {
            ev.LegOpened: self._door.on_opened,
            ev.StreamReceived: self._on_stream,
            ev.DatagramReceived: self._on_datagram,
            ev.LegLost: self._on_lost,
            ev.AddressMoved: self._on_address,
            ev.Heard: self._on_heard,
            ev.Measured: self._adapting.on_measured,
            ev.RoundTrips: self._listening.on_round_trips,
            ev.Gap: self._missing.on_gap,
            ev.Flowing: node.on_flowing,
            ev.FlowClosed: self._parting.on_flow_closed,
            ev.CommandReceived: self._orders.on_command,
            ev.Pressed: self._on_pressed,
            ev.ConfigChanged: self._on_config,
            ev.MandateChanged: self._steering.on_changed,
            ev.DrainRequested: self._leaving.on_request,
            ev.Directed: self._leaving.on_directed,
            ev.CallsRemembered: self._remembering.on_remembered,
            ev.CallTold: lambda event: self._adoption.on_told(event.ticket),
            ev.TrunkOpened: lambda event: node.refuse_transport(event.leg, ErrorCode.NOT_ENABLED),
            ev.TrunksKnown: lambda _: None,
            ev.Tick: lambda _: None,
        }
        if self._abroad is not None:
            self._inputs |= self._abroad.inputs(dict(self._inputs))
        ex, mo, talk = self._exchange, self._moderation, self._talk
        self._in_call: Mapping[type, Callable[[Call, Participant, Leg, Any, int], None]] = {
            control.Accept: ex.on_accept,
            control.Decline: ex.on_decline,
            control.Hangup: lambda call, seat, leg, _, id: ex.on_hangup(call, seat, leg, id),
            control.Moved: ex.on_moved,
            control.Carry: ex.on_carry,
            control.Mod: mo.on_mod,
            control.Block: mo.on_block,
            control.Mute: mo.on_mute,
            control.E2e: talk.on_e2e,
            control.Rr: self._on_rr,
            control.Cand: self._punching.on_cand,
            control.Path: self._punching.on_path,
        }
        self._last_words: Mapping[type, Callable[[Leg, Any, int], None]] = {
            control.Feedback: talk.on_feedback,
            control.Report: self._on_report,
        }
        self._anytime: Mapping[type, Callable[[Leg, Any, int], None]] = {
            control.Ping: self._on_ping,
            control.Pong: self._punching.on_pong,
            control.Bye: self._on_bye,
        }
        self._admitted: Mapping[type, Callable[[Leg, Any, int], None]] = {
            control.Join: self._on_join,
            control.Rejoin: self._on_rejoin,
            control.TokenUpdate: self._on_token,
            control.Turn: self._on_turn,
        }

    # ------------------------------------------------------------ the rule

    def handle(self, event: ev.Input, now: float, wall: float) -> None:
        """Take one fact. A monotonic clock that steps back stands still instead."""
        node = self._node
        node.now = max(now, node.now)
        node.wall = wall
        self._take(event)
        self._run_deadlines()
        self._leaving.on_input_done()
        self._remembering.on_input_done()
        self._spares.on_input_done()
        if self._abroad is not None:
            self._abroad.settle()

    def _take(self, event: ev.Input) -> None:
        self._inputs[type(event)](event)

    def poll(self) -> ev.Output | None:
        """The next order for the edge, None when there is none."""
        outputs = self._node.outputs
        return outputs.popleft() if outputs else None

    def next_deadline(self) -> float | None:
        """Monotonic second at which a Tick is wanted."""
        return self._node.deadlines.next()

    # ------------------------------------------------------------ to be looked at

    @property
    def counters(self) -> Counter[tuple[str, str]]:
        """What happened so far, by (name, label)."""
        return self._node.counters

    @property
    def calls(self) -> int:
        """Calls that are not recorded yet."""
        return len(self._node.calls)

    @property
    def calls_by_stage(self) -> Counter[str]:
        """How many calls ring, run or wait for their counters."""
        return Counter(call.state._value_ for call in self._node.calls.values())

    @property
    def transports(self) -> Counter[str]:
        """How many legs are on which transport."""
        return Counter(leg.transport for leg in self._node.legs.values())

    @property
    def ways(self) -> Counter[str]:
        """How many listeners' ways that are looked at stand in which state."""
        return self._adapting.states()

    @property
    def legs(self) -> Counter[str]:
        """How many legs stand in which state."""
        # `_value_`: a scrape walks thousands in one turn of the loop, and `value` takes three times as long.
        return Counter(leg.state._value_ for leg in self._node.legs.values())

    def remember(self) -> None:
        """From now on say what must be remembered of calls (`ev.Remember`)."""
        self._node.remembers = True

    @property
    def is_taking_up(self) -> bool:
        """Whether calls of the process before wait to be taken up: the next inputs do it."""
        return self._remembering.is_taking_up

    @property
    def is_draining(self) -> bool:
        """Whether the node takes no new calls."""
        return not self._node.drain.takes_calls

    @property
    def drain_state(self) -> str:
        """running, emptying, draining, moving, closing or stopped."""
        return self._node.drain.state.value

    @property
    def shedding(self) -> Shed:
        """What is given up, since the node is full."""
        return self._node.shedding.level

    def watched(self) -> list[int]:
        """Legs of which `Measured` is wanted now and then, besides those that the lane names."""
        return self._adapting.watched()

    def due(self, now: float) -> list[int]:
        """Those of them of which it is wanted now; five times a second somebody asks."""
        return self._adapting.due(now)

    def unheard(self) -> list[tuple[int, int]]:
        """Uplink flows of which `Flowing` is wanted: of calls answered a moment ago, and of visitors."""
        flows = self._node.unheard()
        if self._abroad is None:
            return flows
        return [each for each in flows if each[0] >= 0] + self._abroad.visiting.parts.flows()

    @property
    def trunks(self) -> list[Standing]:
        """How trunks to other nodes are; to be read only."""
        return [] if self._abroad is None else list(self._abroad.trunks.reports.standings())

    @property
    def vitals(self) -> Vitals:
        """How its calls are, in sums; to be read only."""
        return self._node.vitals

    def call_ids(self) -> list[CallId]:
        """All calls that are not over."""
        return [call.cid for call in self._node.calls.values() if not call.is_over]

    def seated(self, call: CallId) -> list[ev.Seated] | None:
        """Its legs, of all who are there; None: no such call, or it is over."""
        found = self._node.calls.get(call)
        if found is None or found.is_over:
            return None
        # Below zero: of somebody at another node, which knows of transport and path.
        numbers = (number for one in found.here() for number in one.all_legs if number >= 0)
        legs = (self._node.legs[number] for number in numbers)
        return [ev.Seated(leg.number, leg.index, leg.transport, leg.up) for leg in legs]

    def describe(self, call: CallId) -> bytes | None:
        """A ticket of nobody, for the node's other generation; None: over, or too large for one."""
        found = self._node.calls.get(call)
        return None if found is None or found.is_over else seal(self._node, found, None)

    @property
    def met(self) -> list[str]:
        """The nodes to which there are trunks, for the node's next generation (`ev.TrunksKnown`)."""
        return [] if self._abroad is None else self._abroad.trunks.met()

    @property
    def spent_tokens(self) -> int:
        """Token ids remembered against replay."""
        return len(self._admission.spent)

    @property
    def guests(self) -> Guests:
        """The people of its calls, as the TURN engine asks about them."""
        return self._node.guests

    @property
    def node(self) -> Node:
        """The engine's whole state, for tests of invariants; to be read only."""
        return self._node

    @property
    def abroad(self) -> Abroad | None:
        """What it knows of other nodes, for tests of invariants; to be read only. None: it has no trunks."""
        return self._abroad

    # ------------------------------------------------------------ transports

    def _on_stream(self, event: ev.StreamReceived) -> None:
        leg = self._node.legs.get(event.leg)
        if leg is None:
            return
        leg.heard = self._node.now
        try:
            for frame in leg.reader.feed(event.data):
                self._on_frame(leg, frame)
                if self._node.is_closed(leg):
                    return
            if event.end:
                raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "the control stream ended")
        except PeerError as error:
            self._fail(leg, error, 0)

    def _on_frame(self, leg: Leg, data: bytes) -> None:
        if not leg.messages.take(1, self._node.now):
            wait = leg.messages.wait_ms(1)
            raise PeerError(ErrorCode.RATE_LIMITED, "too many control messages", retry_ms=wait)
        frame = control.decode(data)
        try:
            self._on_message(leg, frame, data)
        except PeerError as error:
            self._fail(leg, error, frame.id)

    def _fail(self, leg: Leg, error: PeerError, id: int) -> None:
        """Say what was wrong; end the leg if that is fatal."""
        self._node.refuse(leg, error, id)
        if error.fatal:
            self._absence.on_leg_gone(leg)
            self._node.close_leg(leg, error.code, error.message)

    def _on_lost(self, event: ev.LegLost) -> None:
        leg = self._node.legs.get(event.leg)
        if leg is not None:
            found = self._find(leg)
            if found is not None:
                found[1].story.add(self._node.wall, Kind.LOST, _known_code(event.code))
            self._absence.on_leg_gone(leg)
            self._node.forget_leg(leg)
            self._node.count("leg_lost", _known_code(event.code))

    def _on_address(self, event: ev.AddressMoved) -> None:
        leg = self._node.legs.get(event.leg)
        if leg is None:
            return
        leg.address = event.address
        leg.observations += 1
        self._node.count("address_moved")
        if leg.state not in _WAITING:
            seen = control.Obs(ip=event.address.host, port=event.address.port, seq=leg.observations)
            self._node.send(leg.number, seen)

    def _on_heard(self, event: ev.Heard) -> None:
        for number, at in event.at.items():
            leg = self._node.legs.get(number)
            if leg is not None:
                leg.heard = max(leg.heard, min(at, self._node.now))

    def _on_datagram(self, event: ev.DatagramReceived) -> None:
        node = self._node
        leg = node.legs.get(event.leg)
        if leg is None:
            return
        leg.heard = node.now
        if not leg.datagrams.take(1, node.now):
            node.count("dropped", DropReason.OVER_BUDGET.value)
            return
        try:
            value = datagram.decode_datagram(event.data)
        except PeerError:
            # A datagram may be damaged or old without the peer's fault: counted, never fatal.
            node.count("dropped", DropReason.MALFORMED.value)
            return
        node.count("control_datagram", type(value).__name__.lower() if value is not None else "unknown")
        leg.is_telling = True
        if isinstance(value, datagram.Ping):
            leg.pings.on_ping(value.seq)
            pong = datagram.Pong(value.ms, value.seq, round(node.now * 1000) & _U32)
            node.put(ev.SendDatagram(leg.number, datagram.encode_datagram(pong)))
        elif isinstance(value, datagram.Tally):
            tallied = datagram.Tallied(value.base, leg.pings.map(value.base))
            node.put(ev.SendDatagram(leg.number, datagram.encode_datagram(tallied)))
        elif isinstance(value, datagram.Nack):
            self._missing.on_nack(leg, value)
        elif isinstance(value, datagram.LegReport):
            self._adapting.on_report(leg, value)
            found = self._find(leg)
            if found is not None:
                self._listening.on_report(*found, leg, value)
            elif leg.home is not None and self._abroad is not None:
                self._abroad.visiting.parts.on_report(leg, value)
        elif isinstance(value, datagram.NewestWins) and isinstance(value.body, control.Rr):
            self._on_newest(leg, value, value.body)

    def _on_newest(self, leg: Leg, value: datagram.NewestWins, rr: control.Rr) -> None:
        if value.seq <= leg.newest.get(value.type, -1):
            self._node.count("dropped", DropReason.STALE.value)
            return
        leg.newest[value.type] = value.seq
        found = self._find(leg)
        if leg.home is not None and self._abroad is not None:
            self._abroad.visiting.on_rr(leg, rr)
        elif found is not None and found[0].cid == rr.c:
            self._talk.on_rr(*found, rr)

    # ------------------------------------------------------------ messages

    def _on_message(self, leg: Leg, frame: control.Frame, data: bytes) -> None:
        body = frame.body
        if leg.home is not None and leg.state is LegState.IN_CALL:
            assert self._abroad is not None  # else nobody is let in for another node's call
            self._abroad.visiting.on_message(leg, frame, data)
            return
        if body is None:
            # A newer client may say more than we know; it asked for an answer, so it gets one.
            if frame.id:
                raise PeerError(ErrorCode.VERSION, "unknown message type", fatal=False)
            return
        kind = type(body)
        if leg.state in _WAITING:
            self._on_first_message(leg, body, frame.id)
        elif kind in self._anytime:
            self._anytime[kind](leg, body, frame.id)
        elif kind in self._admitted:
            self._admitted[kind](leg, body, frame.id)
        elif kind in self._last_words:
            self._check_call(leg, body)
            self._last_words[kind](leg, body, frame.id)
        elif kind in self._in_call:
            self._check_call(leg, body)
            self._on_call_message(leg, body, frame.id)
        else:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, f"{kind.__name__} is not for the relay")

    def _on_first_message(self, leg: Leg, body: control.Message, id: int) -> None:
        if isinstance(body, control.Hello):
            self._door.on_hello(leg, body, id)
        elif isinstance(body, control.Ping) and leg.state is LegState.OPENED:
            self._door.on_ping(leg, body)
        elif isinstance(body, control.Bye):
            self._on_bye(leg, body, id)
        else:
            raise PeerError(ErrorCode.AUTH_REQUIRED, "hello comes first")

    def _on_call_message(self, leg: Leg, body: control.Message, id: int) -> None:
        found = self._find(leg)
        if found is None:  # it has had its call: see _check_call
            raise PeerError(ErrorCode.CALL_ENDED, "the call has ended", fatal=False)
        self._in_call[type(body)](*found, leg, body, id)

    def _check_call(self, leg: Leg, body: Any) -> None:
        """A message names the leg's own call, and comes after the join."""
        if leg.call is None:
            raise PeerError(ErrorCode.NOT_IN_CALL, "join first", fatal=False)
        if body.c != leg.call:
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call", fatal=False)

    def _find(self, leg: Leg) -> tuple[Call, Participant] | None:
        """The leg's call and seat while it is in one that is ours."""
        if leg.state is not LegState.IN_CALL or leg.call is None or leg.home is not None:
            return None
        call = self._node.calls[leg.call]
        return call, call.seats[leg.index]

    def _on_ping(self, leg: Leg, ping: control.Ping, id: int) -> None:
        self._node.send(leg.number, control.Pong(t=ping.t), id)

    def _on_bye(self, leg: Leg, bye: control.Bye, id: int) -> None:
        """A goodbye without an error is a hang-up; with one the person may come back."""
        found = self._find(leg)
        if found is not None and bye.code == ErrorCode.NO_ERROR and found[1].legs == [leg.number]:
            self._exchange.on_hangup(*found, leg, id)
        self._absence.on_leg_gone(leg)
        self._node.close_leg(leg, ErrorCode.NO_ERROR, "bye")

    def _on_join(self, leg: Leg, join: control.Join, id: int) -> None:
        if leg.state is not LegState.READY:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "one leg, one join")
        assert leg.claims is not None  # it was admitted
        if self._abroad is not None and leg.home is not None:
            self._abroad.visiting.on_join(leg, join, id)
        else:
            self._exchange.on_join(leg, leg.claims, join, id)

    def _on_rejoin(self, leg: Leg, rejoin: control.Rejoin, id: int) -> None:
        if leg.state is LegState.LINGERING:
            raise PeerError(ErrorCode.CALL_ENDED, "the call has ended", fatal=False)
        assert leg.claims is not None  # it was admitted
        if self._abroad is not None and leg.home is not None:
            self._abroad.visiting.on_join(leg, rejoin, id)
        else:
            self._absence.on_rejoin(leg, leg.claims, rejoin, id)

    def _on_token(self, leg: Leg, message: control.TokenUpdate, id: int) -> None:
        assert leg.claims is not None  # it was admitted
        verdict = self._door.check_token(leg, leg.claims, message)
        found = self._find(leg)
        if found is not None:
            self._exchange.on_rights(*found, verdict.claims, verdict.kid)
        self._door.grant(leg, verdict)
        self._node.answer(leg, id)

    def _on_turn(self, leg: Leg, turn: control.Turn, id: int) -> None:
        found = self._find(leg)
        if found is None:
            raise PeerError(ErrorCode.NOT_IN_CALL, "join first", fatal=False)
        self._node.guests.on_turn(*found, leg, turn, id)

    def _on_report(self, leg: Leg, report: control.Report, id: int) -> None:
        found = self._find(leg)
        roster = leg.roster if found is None else {one.index: one.sub for one in found[0].seats.values()}
        self._talk.on_report(leg, roster.get(report.p), report, id)

    def _on_rr(self, call: Call, seat: Participant, leg: Leg, rr: control.Rr, id: int) -> None:
        self._talk.on_rr(call, seat, rr)
        self._node.answer(leg, id)

    # ------------------------------------------------------------ time and settings

    def _run_deadlines(self) -> None:
        """A few deadlines that are due; the rest stays due, and `next_deadline` says so.

        When thousands vanish at once their deadlines come at once, and audio must pass between them.
        """
        node = self._node
        for _ in range(_DUE_AT_ONCE):
            due = node.deadlines.pop(node.now)
            if due is None:
                return
            kind, key = due
            if kind == "leg":
                assert isinstance(key, int)
                self._on_leg_due(node.legs[key])
            elif kind == "call":
                assert isinstance(key, bytes)
                self._absence.on_due(node.calls[key])
            elif kind == "pulse":
                assert isinstance(key, bytes)
                call = node.calls[key]
                node.vitals_of(call).on_due(call)
            elif kind == "steer":
                assert isinstance(key, bytes)
                self._steering.on_due(node.calls[key])
            elif kind == "punch":
                assert isinstance(key, bytes)
                self._punching.on_due(node.calls[key])
            elif kind == "spare":
                assert isinstance(key, bytes)
                self._spares.on_due(key)
            elif kind == "revive":
                self._remembering.on_turn()
            elif kind == "recall":
                assert isinstance(key, int)
                self._remembering.on_due(key)
            elif kind in FAR_DUE:
                assert self._abroad is not None
                self._abroad.on_due(kind, key)
            else:
                self._leaving.on_due(kind, key)

    def _on_leg_due(self, leg: Leg) -> None:
        """Too slow to say hello or to join, or done with its last words."""
        code = {
            LegState.READY: ErrorCode.TOKEN_EXPIRED,
            LegState.STANDBY: ErrorCode.TOKEN_EXPIRED,
            LegState.LINGERING: leg.last_code,
        }.get(leg.state, ErrorCode.AUTH_REQUIRED)
        self._node.close_leg(leg, code)

    def _on_pressed(self, event: ev.Pressed) -> None:
        node = self._node
        if node.shedding.on_pressure(event.pressure, node.now, node.config.overload):
            node.count("shed", node.shedding.level.name.lower())
            node.put(ev.SetShedding(node.shedding.classes))
            self._adapting.on_shedding()
            node.waiting.on_changed()

    def _on_config(self, event: ev.ConfigChanged) -> None:
        node = self._node
        if event.keys is not None:
            node.keys = event.keys
        node.on_config(event.config)
        self._adapting.on_config()
        self._leaving.targets.on_config()
        self._admission.on_config(event.config.tokens, node.keys.issuers)


def _known_code(code: int) -> str:
    """The name of a close code; peers choose theirs, and a counter for each number would grow without end."""
    return ErrorCode(code).name.lower() if code in _CODES else "other"


def issuers_of(config: Config) -> dict[Kid, bytes]:
    """The issuers' public keys by key id, as `EngineKeys` wants them."""
    keys = [key for one in config.tokens.issuers for key in (one.public_key, one.previous_public_key) if key]
    return {kid_of(public): public for public in map(bytes.fromhex, keys)}
