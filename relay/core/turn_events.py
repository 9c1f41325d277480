"""The TURN engine's vocabulary: inputs are facts, outputs are orders for the edge and its lane.

Whatever the packet path obeys carries `until`, monotonic seconds: a loop that stalls fails closed. Must never
live here: behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.config import Config
from relay.core.credentials import TurnKeys, Via
from relay.core.events import CompanyChanged, Tick
from relay.protocol.address import Address

# ---------------------------------------------------------------- inputs


@dataclass(frozen=True, slots=True)
class ClientPacket:
    """A STUN message that the lane did not take: one UDP packet, or one frame of a stream."""

    via: Via
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A stream ended."""

    via: Via


@dataclass(frozen=True, slots=True)
class RelayOpened:
    """Answer to OpenRelay: the socket is bound to this address of ours."""

    allocation: int
    address: Address


@dataclass(frozen=True, slots=True)
class RelayFailed:
    """Answer to OpenRelay: no socket. `is_full`: no free port or descriptor, else something is broken."""

    allocation: int
    is_full: bool


@dataclass(frozen=True, slots=True)
class Draining:
    """The node is leaving: no new allocations from now on."""


@dataclass(frozen=True, slots=True)
class TurnChanged:
    """A reload. What exists keeps what it was given."""

    config: Config
    keys: TurnKeys


TurnInput = (
    ClientPacket | ClientGone | RelayOpened | RelayFailed | CompanyChanged | Draining | TurnChanged | Tick
)

# ---------------------------------------------------------------- outputs


@dataclass(frozen=True, slots=True)
class Answer:
    """Send to the client: one UDP packet, or written whole to its stream."""

    via: Via
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """Bind a relay socket of this family (4 or 6) and answer with RelayOpened or RelayFailed.

    Numbers are never used twice. `bps` and `pps` are what the allocation may carry, each way. `is_even`: on
    an even port.
    """

    allocation: int
    via: Via
    family: int
    bps: int
    pps: int
    is_even: bool = False


@dataclass(frozen=True, slots=True)
class CloseRelay:
    """Close it with all permissions and channels; also one whose opening is still under way."""

    allocation: int


@dataclass(frozen=True, slots=True)
class Permit:
    """Packets pass to and from this address (4 or 16 bytes), any port, until then. Replaces what was said."""

    allocation: int
    ip: bytes = field(repr=False)
    until: float


@dataclass(frozen=True, slots=True)
class Forbid:
    """No longer."""

    allocation: int
    ip: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BindChannel:
    """The number stands for the peer until then. Replaces what was said; a permission is needed beside it."""

    allocation: int
    channel: int
    peer: Address
    until: float


@dataclass(frozen=True, slots=True)
class Unbind:
    """No longer."""

    allocation: int
    channel: int


TurnOutput = Answer | OpenRelay | CloseRelay | Permit | Forbid | BindChannel | Unbind
