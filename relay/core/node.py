"""What the engine's parts share: settings, keys, the present moment, the living, and the way out.

Parts read and write legs and calls here, and say what shall happen with `put`, `send` and `event`. Must
never live here: a decision.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from relay.config import Config
from relay.core.call import Call
from relay.core.deadlines import Deadlines
from relay.core.drain import Drain, DrainState
from relay.core.events import CallEvent, CloseLeg, EngineKeys, Flowing, Output, SendStream
from relay.core.guests import Guests
from relay.core.held import Held
from relay.core.leg import Leg, LegState
from relay.core.limits import Quota
from relay.core.memory import Memory
from relay.core.participant import Participant
from relay.core.policy import PolicyTable
from relay.core.reasons import Refusal
from relay.core.record import OF_CALL, EventKind
from relay.core.shedding import Shedding
from relay.core.tallies import Tallies
from relay.core.tenants import Tenants
from relay.core.vitals import Vitals
from relay.core.waiting import Waiting
from relay.errors import ErrorCode, PeerError
from relay.protocol import control
from relay.protocol.ids import CallId, Sub
from relay.rollout.mandate import Mandate

HERE = "here"  # the one key of a quota that belongs to the whole node

Due = tuple[str, int | CallId]
"""What a deadline is about: "leg", "drain", "pace", "standby", what is abroad (abroad.py), or of a call
"call", "pulse", "punch", "notice", "steer", "spare"."""


class Node:
    """The shared state of one engine."""

    def __init__(self, config: Config, keys: EngineKeys, draw: Callable[[int], bytes]) -> None:
        self.config = config
        self.keys = keys
        self.draw = draw
        self.now = 0.0
        self.wall = 0.0
        self.policy = PolicyTable(config.policy)
        self.tenants = Tenants(config)
        self.drain = Drain(config.drain)
        self.shedding = Shedding()
        self.mandate = Mandate()
        """What the state of rollouts lets this node do."""
        self.legs: dict[int, Leg] = {}
        self.calls: dict[CallId, Call] = {}
        self.counting: dict[tuple[int, int], Call] = {}
        """Uplink flows whose counters the lane still has to return."""
        self.deadlines: Deadlines[Due] = Deadlines()
        self.outputs: deque[Output] = deque()
        self.remembers = False
        """Whether calls are remembered for a process that comes after a crash (remembering.py)."""
        self.recall: Callable[[CallId], None] = lambda _: None
        """Somebody asks for this call: if it is remembered from before a crash, it is taken up now."""
        self.changed: dict[CallId, None] = {}
        """Calls that may have changed since that was last looked at."""
        self.has_spares = False
        """Whether it is known who takes calls up when this node is gone (spares.py)."""
        self.altered: dict[CallId, None] = {}
        """The same as `changed`, for them."""
        self.standbys: Callable[[Call], tuple[control.StandbyEntry, ...]] = lambda _: ()
        """Who that is."""
        self.spare_ticket: Callable[[Call, Participant], bytes | None] = lambda call, seat: None
        """This person's ticket for them."""
        self.visitor_gone: Callable[[Leg, int], None] = lambda leg, code: None
        """The leg of somebody whose call has its home elsewhere is over."""
        self.counters: Counter[tuple[str, str]] = Counter()
        self.tallies = Tallies()
        self.leg_quota: Quota[str] = Quota(config.limits.legs)
        self.call_quota: Quota[str] = Quota(config.limits.calls)
        self.device_quota: Quota[tuple[CallId, Sub]] = Quota(config.limits.ringing_legs)
        """Legs of one person in one call."""
        remembered = config.tokens.replay_entries
        self.ended: Memory[CallId] = Memory(remembered)
        self.moved: Memory[CallId] = Memory(remembered)
        """Over here alone: whoever shows a ticket for them may come back."""
        self.removed: Memory[tuple[CallId, Sub]] = Memory(remembered)
        self.held = Held(self)
        """Orders for who may yet come."""
        self.guests = Guests(self)
        self.waiting = Waiting(self)
        """Legs that stand by."""
        self.vitals = Vitals(self)
        # What becomes of their calls is followed like that of any, and its sums are nobody's.
        self._canary_vitals = Vitals(self)
        self._canary_tallies = Tallies()

    def on_config(self, config: Config) -> None:
        """A reload. What is running keeps what it was given; new things get the new settings."""
        self.config = config
        self.policy = PolicyTable(config.policy)
        self.tenants.on_config(config)
        self.drain.on_config(config.drain)
        self.leg_quota.ceiling = config.limits.legs
        self.call_quota.ceiling = config.limits.calls
        self.device_quota.ceiling = config.limits.ringing_legs

    # ------------------------------------------------------------ out

    def put(self, output: Output) -> None:
        """Queue one order for the edge."""
        self.outputs.append(output)

    def send(self, leg: int, message: control.Message, id: int = 0) -> None:
        """Send a control message."""
        self.outputs.append(SendStream(leg, control.encode(message, id)))

    def answer(self, leg: Leg, id: int) -> None:
        """Say `ok`, if an answer was wanted."""
        if id:
            self.send(leg.number, control.Ok(), id)

    def refuse(self, leg: Leg, error: PeerError, id: int = 0) -> None:
        """Say `err`. Closing a leg for a fatal one is the caller's next step."""
        self.count("refused", error.code.name.lower())
        message = control.Err(
            code=int(error.code),
            msg=error.message,
            fatal=error.fatal,
            retry_ms=error.retry_ms,
            data=error.data,
        )
        self.send(leg.number, message, id)

    def event(self, kind: EventKind, call: Call, **data: Any) -> None:
        """Tell the back end about a call."""
        has_part = call.variant and kind in OF_CALL
        part = {"rollout": call.rollout, "variant": call.variant} if has_part else {}
        data = {"call": call.cid.hex(), **part, **data}
        self.outputs.append(CallEvent(kind.value, self.wall, data, call.is_canary, call.issuer))

    def word(self, kind: EventKind, leg: Leg, cid: CallId, **data: Any) -> None:
        """Tell the back end what somebody said of a call that may be over."""
        call, data = self.calls.get(cid), {"call": cid.hex(), **data}
        issuer = self.tenants.name_of(leg.kid) if call is None else call.issuer
        self.outputs.append(CallEvent(kind.value, self.wall, data, leg.kid in self.tenants.canaries, issuer))

    def note(self, call: Call, one: Participant, kind: EventKind, **data: Any) -> None:
        """Tell the back end about somebody in a call."""
        self.event(kind, call, sub=one.sub.hex(), **data)

    def count(self, name: str, label: str = "") -> None:
        """One more of these."""
        self.counters[name, label] += 1

    def tell(self, people: list[Participant], message: control.Message) -> None:
        """Send a message to every leg of these people."""
        for one in people:
            for leg in one.legs:
                self.send(leg, message)

    # ------------------------------------------------------------ what counts where

    def vitals_of(self, call: Call) -> Vitals:
        """Where the call counts: among those of people, or of canaries."""
        return self._canary_vitals if call.is_canary else self.vitals

    def tallies_of(self, call: Call) -> Tallies:
        """The same for its quality."""
        return self._canary_tallies if call.is_canary else self.tallies

    def on_flowing(self, event: Flowing) -> None:
        """What the lane says of fresh calls' flows."""
        for vitals in (self.vitals, self._canary_vitals):
            vitals.on_flowing(event)

    def unheard(self) -> list[tuple[int, int]]:
        """Flows of which that is wanted."""
        return self.vitals.unheard() + self._canary_vitals.unheard()

    # ------------------------------------------------------------ the living

    def check_memory(self, cid: CallId, sub: Sub, *, is_told: bool = False) -> None:
        """PeerError CALL_ENDED or REMOVED for what was over or thrown out a short while ago.

        `is_told`: another node says of the call; one that went there may come back, when that one is gone.
        """
        has_moved = not is_told and self.moved.knows(cid, self.now, self.wall)
        if has_moved or self.ended.knows(cid, self.now, self.wall):
            raise PeerError(ErrorCode.CALL_ENDED, "the call has ended")
        if self.removed.knows((cid, sub), self.now, self.wall):
            raise PeerError(ErrorCode.REMOVED, "removed from the call")

    def is_closed(self, leg: Leg) -> bool:
        """Whether the leg is over, perhaps by the input that is being handled."""
        return leg.state is LegState.CLOSED

    def forget_leg(self, leg: Leg) -> None:
        """The leg is over, and in no call any more."""
        if leg.home is not None:
            self.visitor_gone(leg, ErrorCode.NO_ERROR)
        self.waiting.forget(leg)
        leg.on_closed()
        del self.legs[leg.number]
        self.leg_quota.release(HERE)
        if leg.issuer is not None:
            self.tenants.release(Refusal.LEGS, leg.issuer)
        self.deadlines.set(("leg", leg.number), None)

    def close_leg(self, leg: Leg, code: ErrorCode, reason: str = "") -> None:
        """End a leg that is in no call any more."""
        self.forget_leg(leg)
        self.count("leg_closed", code.name.lower())
        self.put(CloseLeg(leg.number, code, reason))

    def refuse_transport(self, leg: int, code: ErrorCode) -> None:
        """Close a transport that never became a leg."""
        self.count("leg_closed", code.name.lower())
        self.put(CloseLeg(leg, code))

    @property
    def is_closing(self) -> bool:
        """Whether not even somebody who returns is let in."""
        return self.drain.state in (DrainState.CLOSING, DrainState.STOPPED)

    def watch_leg(self, leg: Leg) -> None:
        """Take note of the leg's own deadline."""
        self.deadlines.set(("leg", leg.number), leg.next_deadline())

    def note_change(self, call: Call) -> None:
        """Something of the call may be another than before."""
        if self.remembers:
            self.changed[call.cid] = None
        if self.has_spares:
            self.altered[call.cid] = None

    def watch_call(self, call: Call) -> None:
        """Take note of the call's next deadline; one that is over waits for nothing."""
        self.note_change(call)
        if not call.is_over:
            when = call.next_deadline(lambda number: self.legs[number].heard)
            self.deadlines.set(("call", call.cid), when)
