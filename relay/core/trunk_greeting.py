"""How two nodes meet on a new connection: each proves who it is before anything else is said.

    dialer     SHAKING --connected--> ASKING --challenge--> PROVING --greet--> MET
    acceptor   SHAKING --connected--> LISTENING --ping--> CHALLENGING --greet--> MET
                    any but MET --wrong, or too late--> REFUSED

The dialer knows the acceptor by the key of its certificate, the acceptor the dialer by a proof inside the
channel that ends at that key (protocol/trunk_proof.py). Who is not configured hears PEER_UNKNOWN and nothing
more. Must never live here: which of two connections stays, and what is said afterwards (trunk.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final

from relay.core.machine import Machine, Table
from relay.errors import ErrorCode, LocalError
from relay.protocol import signed, trunk_proof
from relay.protocol.control import Frame
from relay.protocol.messages import Bye, Challenge, Err, Message, Ping
from relay.protocol.trunk import ROUTES
from relay.protocol.trunk_control import VERSION, TrunkCode
from relay.protocol.trunk_messages import Greet

PATIENCE_S: Final = 5.0  # for handshake and greet together
LARGEST: Final = 1200  # bytes of a datagram that we take: no packet of ours holds more

Pins = Mapping[str, Collection[bytes]]
"""Pins of the nodes that we know, by node id: one or, during a rotation, two."""
Said = tuple[Message, int]
"""A message to send, and its id."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node says of itself. `boot`: 8 bytes, random per process."""

    node: str
    cluster: str
    region: str
    version: str
    variants: tuple[str, ...]
    boot: bytes
    seed: bytes = field(repr=False)
    """The Ed25519 key of its certificate, 32 bytes."""
    routes: int = ROUTES

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return signed.public_of(self.seed)


class Stage(Enum):
    """How far two nodes know each other."""

    SHAKING = "shaking"  # QUIC's handshake
    ASKING = "asking"  # dialer: waits for a nonce
    PROVING = "proving"  # dialer: waits for the acceptor's greet
    LISTENING = "listening"  # acceptor: waits for a ping
    CHALLENGING = "challenging"  # acceptor: waits for the proof
    MET = "met"
    REFUSED = "refused"  # close with `code`


class Connected:
    """We dialed, and who answers has the right key."""


class Answered:
    """Somebody dialed us."""


class Pinged:
    """The other one wants to begin."""


class Challenged:
    """There is a nonce to sign."""


class Greeted:
    """The other one is who it should be."""


class Refused:
    """It is not, or took too long."""


class Greeting(Machine[Stage]):
    """One connection until both know each other. `peer` is what the other one said, once MET."""

    TRANSITIONS: ClassVar[Table[Stage]] = {
        Stage.SHAKING: {
            Connected: Stage.ASKING,
            Answered: Stage.LISTENING,
            Refused: Stage.REFUSED,
        },
        Stage.ASKING: {Challenged: Stage.PROVING, Refused: Stage.REFUSED},
        Stage.PROVING: {Greeted: Stage.MET, Refused: Stage.REFUSED},
        Stage.LISTENING: {Pinged: Stage.CHALLENGING, Refused: Stage.REFUSED},
        Stage.CHALLENGING: {Greeted: Stage.MET, Refused: Stage.REFUSED},
        Stage.MET: {},
        Stage.REFUSED: {},
    }

    def __init__(
        self, own: Identity, pins: Pins, now: float, *, dialed: str = "", nonce: bytes = b""
    ) -> None:
        """`dialed`: whom we dialed; or `nonce`: 32 fresh bytes for who dialed us. LocalError unless one."""
        super().__init__(Stage.SHAKING)
        if bool(dialed) is bool(nonce):
            raise LocalError("a greeting has a node that was dialed, or a nonce")
        self.peer: Greet | None = None
        self.code = 0
        """What the connection is closed with, once REFUSED."""
        self._own = own
        self._pins = pins
        self._dialed = dialed
        self.nonce = nonce
        """What the dialer signs, once that is known; it names this connection to both."""
        self._pin = b""
        self._until = now + PATIENCE_S

    @property
    def is_dialer(self) -> bool:
        """Whether we dialed."""
        return bool(self._dialed)

    def next_deadline(self) -> float | None:
        """When patience ends."""
        return None if self._state in (Stage.MET, Stage.REFUSED) else self._until

    def on_timer(self, now: float) -> None:
        """Time went by."""
        due = self.next_deadline()
        if due is not None and now >= due:
            self._refuse(ErrorCode.AUTH_REQUIRED)

    def on_connected(self, key: bytes | None, now_ms: int) -> tuple[Said, ...]:
        """The handshake is done. `key`: of the other one's certificate, if it is Ed25519; who dials has none.

        `now_ms`: our clock, as a ping has it. Returns what to say.
        """
        if not self.is_dialer:
            self._move(Answered)
            return ()
        self._pin = trunk_proof.pin_of(key) if key is not None else b""
        if self._pin not in self._pins.get(self._dialed, ()):
            return self._refuse(TrunkCode.PEER_UNKNOWN)
        self._move(Connected)
        return ((Ping(t=now_ms), 1),)

    def on_frame(self, frame: Frame, now_ms: int, wall_ms: int) -> tuple[Said, ...]:
        """A message came; what to say. What an acceptor says once MET leaves only if the connection stays.

        `now_ms` as above, `wall_ms` since 1970.
        """
        match self._state, frame.body:
            case _, None:  # of a later version: `control` says when such a one is answered
                return ((Err(code=ErrorCode.VERSION), frame.id),) if frame.id else ()
            case _, Bye(code=code):
                return self._refuse(code)
            case Stage.LISTENING, Ping():
                self._move(Pinged)
                return ((Challenge(n=self.nonce, t=now_ms), 0),)
            case Stage.ASKING, Challenge(n=n):
                self._move(Challenged)
                self.nonce = n
                return ((self._greet(wall_ms, n), 0),)
            case Stage.PROVING, Greet() as greet:
                return self._meet(greet, is_known=greet.node == self._dialed)
            case Stage.CHALLENGING, Greet() as greet:
                self._meet(greet, is_known=self._is_proven(greet))
                return ((self._greet(wall_ms), 0),) if self.peer is not None else ()
        return self._refuse(ErrorCode.PROTOCOL_VIOLATION)

    def _meet(self, greet: Greet, *, is_known: bool) -> tuple[Said, ...]:
        if not is_known or greet.cluster != self._own.cluster:
            return self._refuse(TrunkCode.PEER_UNKNOWN)
        if VERSION not in greet.v:
            return self._refuse(ErrorCode.VERSION)
        self.peer = greet
        self._move(Greeted)
        return ()

    def _is_proven(self, greet: Greet) -> bool:
        if greet.node == self._own.node or greet.key is None or greet.pop is None:
            return False
        if trunk_proof.pin_of(greet.key) not in self._pins.get(greet.node, ()):
            return False
        own = trunk_proof.pin_of(self._own.public)
        return trunk_proof.holds(greet.key, greet.pop, self.nonce, own, greet.node, self._own.node)

    def _greet(self, wall_ms: int, n: bytes | None = None) -> Greet:
        own = self._own
        pop = None if n is None else trunk_proof.prove(own.seed, n, self._pin, own.node, self._dialed)
        return Greet(
            v=(VERSION,),
            node=own.node,
            cluster=own.cluster,
            region=own.region,
            version=own.version,
            variants=own.variants,
            boot=own.boot,
            dg=LARGEST,
            routes=own.routes,
            now=wall_ms,
            key=None if n is None else own.public,
            pop=pop,
        )

    def _refuse(self, code: int) -> tuple[Said, ...]:
        self._move(Refused)
        self.code = int(code)
        return ()
