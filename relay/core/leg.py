"""One participant's transport, from its handshake to its end.

    OPENED --challenge--> CHALLENGED --hello--> READY --join--> IN_CALL --ended--> LINGERING --> CLOSED
      \\                     |                   ^ ^
       \\                    '- hello {stand} -> STANDBY --rejoin
        '-------------------- hello (token without cnf)

A leg belongs to one call at most, because a token names one call. Must never live here: sockets, and what
a message means for a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from relay.config import LimitsConfig
from relay.core.adapt import State
from relay.core.events import Repair, Shape
from relay.core.flows import FlowNumbers
from relay.core.hints import Teller, Wish
from relay.core.limits import TokenBucket
from relay.core.machine import Machine, Table
from relay.core.tally import Pings
from relay.core.way import Way
from relay.errors import ErrorCode
from relay.protocol.address import Address
from relay.protocol.control import FrameReader
from relay.protocol.ids import CallId, Kid, Sub
from relay.protocol.nack import Asker
from relay.protocol.token import Claims

LINGER_S = 5.0  # after `ended`: time for a last feedback or report, then the leg is closed


class LegState(Enum):
    """How far the leg has come."""

    OPENED = "opened"  # handshake done, nobody known
    CHALLENGED = "challenged"  # has a nonce to sign
    READY = "ready"  # token admitted, no call yet
    STANDBY = "standby"  # a hand-over ticket admitted; its call is elsewhere, and shall stay there
    IN_CALL = "in_call"  # rings, talks, or is silent, in a call
    LINGERING = "lingering"  # its call is over
    CLOSED = "closed"  # told to close, or gone


class Challenged:
    """A nonce was sent."""


class Admitted:
    """The hello was good."""


class StoodBy:
    """The hello was good, and says that the leg is not needed yet."""


class Called:
    """Now it is."""


class Entered:
    """The leg is in a call now."""


class CallOver:
    """Its call ended; the leg may say a last word."""


class Closed:
    """The leg is over."""


class Leg(Machine[LegState]):
    """State of one leg. The engine owns it and reads its fields."""

    TRANSITIONS: ClassVar[Table[LegState]] = {
        LegState.OPENED: {
            Challenged: LegState.CHALLENGED,
            Admitted: LegState.READY,
            Closed: LegState.CLOSED,
        },
        LegState.CHALLENGED: {
            Admitted: LegState.READY,
            StoodBy: LegState.STANDBY,
            Closed: LegState.CLOSED,
        },
        LegState.STANDBY: {Called: LegState.READY, Closed: LegState.CLOSED},
        LegState.READY: {Entered: LegState.IN_CALL, Closed: LegState.CLOSED},
        LegState.IN_CALL: {CallOver: LegState.LINGERING, Closed: LegState.CLOSED},
        LegState.LINGERING: {Closed: LegState.CLOSED},
        LegState.CLOSED: {},
    }

    def __init__(
        self, number: int, transport: str, address: Address, limits: LimitsConfig, now: float
    ) -> None:
        super().__init__(LegState.OPENED)
        self.number = number
        self.transport = transport
        self.address = address
        self.reader = FrameReader()
        self.messages = TokenBucket(limits.control_per_s, limits.control_burst, now)
        self.datagrams = TokenBucket(limits.control_per_s, limits.control_burst, now)
        self.reports = TokenBucket(limits.report_per_min / 60, limits.report_per_min, now)
        self.uplinks = FlowNumbers(limits.flow_rest_s)
        self.downlinks = FlowNumbers(limits.flow_rest_s)
        self.nonce: bytes | None = None
        self.claims: Claims | None = None
        self.kid: Kid | None = None
        """The issuer key that admitted it."""
        self.issuer: str | None = None
        """The name of the issuer that this leg is charged to; None: of nobody yet."""
        self.client: dict[str, str] = {}
        self.home: str | None = None
        """The node that decides about its call, if that is another one (visiting.py)."""
        self.call: CallId | None = None
        self.index = 0
        """Place in the call, once in one."""
        self.up: int | None = None
        """The uplink flow, once in a call."""
        self.roster: Mapping[int, Sub] = {}
        """Who sat where in the call that is over, for a last report."""
        self.last_code = ErrorCode.NO_ERROR
        """What it is closed with when it lingers too long."""
        self.heard = now
        self.observations = 0
        self.pings = Pings()
        """Which pings of its own came."""
        self.rtt: float | None = None
        """Round trip, seconds, as a `ping` of ours measured it."""
        self.asked_ms: int | None = None
        """The `t` of a ping of ours that is not answered."""
        self.newest: dict[int, int] = {}
        """Newest sequence number per type of newest-wins datagram."""
        self.way: Way | None = None
        """What is known of the way to it, while something is, or was lately, wrong with it."""
        self.losses = (0, 0)
        """Packets lost on it, and times in a row, when nobody looked any more."""
        self.adapted = State.CLEAN
        """The state of that way when it was told last; with it go the next three."""
        self.repair = Repair()
        self.shape = Shape()
        self.playout = 0
        self.needs = 0
        """What the listener must hold for repair on its own way, ms; with what others need: `playout`."""
        self.mended = 0
        """Packets of its own that came as repeats alone, and when the last of them was told."""
        self.mended_at: float | None = None
        self.wish: Wish | None = None
        """What whoever it hears is asked for on its behalf; None: nothing special."""
        self.teller: Teller | None = None
        """Its own encoder was asked for something."""
        self.nacks = False
        """Its client sees no acknowledgements: what it sends is watched, and asked for again by name."""
        self.asker: Asker | None = None
        """What it was asked for."""
        self.path_rtt: float | None = None
        """Round trip, seconds, as acknowledgements tell, a few seconds ago."""
        self.is_telling = False
        """Whether its client says what it gets: it sent a control datagram."""
        self._until: float | None = now + limits.hello_s

    @property
    def round_trip(self) -> float | None:
        """Round trip, seconds: by acknowledgements, else by a ping of ours."""
        return self.rtt if self.path_rtt is None else self.path_rtt

    def next_deadline(self) -> float | None:
        """When the state's patience ends; a leg in a call is watched by its call."""
        return self._until

    def on_challenged(self, nonce: bytes) -> None:
        """The nonce that a proof of possession must sign."""
        self.nonce = nonce
        self._move(Challenged)

    def on_admitted(self, claims: Claims, kid: Kid | None, join_by: float) -> None:
        """Who this is, by which issuer's word, and until when it may join."""
        self.claims = claims
        self.kid = kid
        self._move(Admitted)
        self._until = join_by

    def on_standby(self, claims: Claims, kid: Kid | None, until: float) -> None:
        """Who this is, by which issuer's word, and until when it may wait to be needed."""
        self.claims = claims
        self.kid = kid
        self._move(StoodBy)
        self._until = until

    def on_called(self, claims: Claims, kid: Kid | None, join_by: float) -> None:
        """It is needed: who this is by now, and until when it may join."""
        self.claims = claims
        self.kid = kid
        self._move(Called)
        self._until = join_by

    def on_renewed(self, claims: Claims, kid: Kid | None, join_by: float) -> None:
        """A newer token; a leg that has not joined may wait as long as that one lives."""
        self.claims = claims
        self.kid = kid
        if self._state is LegState.READY:
            self._until = join_by

    def on_entered(self, call: CallId, index: int, up: int) -> None:
        """Its place and its uplink flow."""
        self.call = call
        self.index = index
        self.up = up
        self._move(Entered)
        self._until = None

    def on_call_over(self, roster: Mapping[int, Sub], code: ErrorCode, now: float) -> None:
        """No call any more; a last word is welcome."""
        self.roster = roster
        self.last_code = code
        self._move(CallOver)
        self._until = now + LINGER_S

    def on_closed(self) -> None:
        """Over."""
        self._move(Closed)
        self._until = None
