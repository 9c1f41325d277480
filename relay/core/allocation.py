"""One TURN allocation: its life, whom it may reach, its channels (RFC 8656 sections 5, 9, 12).

    OPENING --relay socket is there--> LIVE --refresh 0, expiry, owner gone--> GONE
       '----------- failed, owner gone, too slow ------------------------------^

Permissions and channels are kept until their time is over even while their peer may not be reached; only
those that may are told to the lane. Must never live here: messages, other allocations, why a peer may be
reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from relay.core.company import Owner
from relay.core.credentials import Via
from relay.core.machine import Machine, Table
from relay.protocol.address import Address

PERMISSION_S: Final = 300.0  # RFC 8656 section 9
CHANNEL_S: Final = 600.0  # RFC 8656 section 12
REST_S: Final = 300.0  # a channel's number and peer stay together for so long after its end
OPENING_S: Final = 5.0  # a relay socket is there at once, or never


class Stage(Enum):
    """How far the allocation has come."""

    OPENING = "opening"  # the relay socket is asked for
    LIVE = "live"  # it relays
    GONE = "gone"  # told to close


class Opened:
    """The relay socket is there."""


class Ended:
    """It is over."""


@dataclass(slots=True)
class Permission:
    """An address that the client wants to hear from."""

    until: float  # monotonic seconds
    told: float | None = None
    """What the lane knows: until when it is open; None while it is shut."""


@dataclass(slots=True)
class Channel:
    """A number that stands for a peer."""

    peer: Address
    until: float  # monotonic seconds; the pair is kept for `REST_S` longer
    told: float | None = None


class Allocation(Machine[Stage]):
    """State of one allocation. The engine owns it, charges for it, and speaks for it."""

    TRANSITIONS: ClassVar[Table[Stage]] = {
        Stage.OPENING: {Opened: Stage.LIVE, Ended: Stage.GONE},
        Stage.LIVE: {Ended: Stage.GONE},
        Stage.GONE: {},
    }

    def __init__(
        self, number: int, via: Via, owner: Owner, user: bytes, secret: bytes, size: int, now: float
    ) -> None:
        super().__init__(Stage.OPENING)
        self.number = number
        self.via = via
        self.owner = owner
        self.user = user
        self.secret = secret
        """What its user's password is made of, also once the user's time is over or the secret replaced."""
        self.size = size
        """Bytes of its addresses: 4 or 16."""
        self.holder = ""
        """To whom the company charges it."""
        self.relayed: Address | None = None
        """As peers see it, once live."""
        self.permissions: dict[bytes, Permission] = {}
        """By packed address."""
        self.channels: dict[int, Channel] = {}
        """Bound ones and those whose number rests."""
        self.partners: set[int] = set()
        """Allocations of this node that were told of a channel to its relayed address."""
        self.answered: tuple[bytes, bytes] = (b"", b"")
        """Transaction and answer of the newest request, for one that comes twice."""
        self.until = now + OPENING_S

    @property
    def is_live(self) -> bool:
        """Whether it relays."""
        return self._state is Stage.LIVE

    def on_opened(self, relayed: Address, until: float) -> None:
        """It relays from now on, until then."""
        self._move(Opened)
        self.relayed = relayed
        self.until = until

    def on_ended(self) -> None:
        """Over."""
        self._move(Ended)

    # ------------------------------------------------------------ permissions

    def new_among(self, addresses: set[bytes]) -> int:
        """How many of these it holds no permission for."""
        return sum(1 for ip in addresses if ip not in self.permissions)

    def permit(self, ip: bytes, now: float) -> Permission:
        """Install or refresh a permission."""
        permission = self.permissions.setdefault(ip, Permission(0.0))
        permission.until = now + PERMISSION_S
        return permission

    # ------------------------------------------------------------ channels

    def channel_clash(self, number: int, peer: Address) -> bool:
        """Whether the number belongs to another peer, or the peer to another number, bound or resting."""
        known = self.channels.get(number)
        if known is not None:
            return known.peer != peer
        return any(channel.peer == peer for channel in self.channels.values())

    def bind(self, number: int, peer: Address, now: float) -> Channel:
        """Bind or refresh a channel that does not clash."""
        channel = self.channels.setdefault(number, Channel(peer, 0.0))
        channel.until = now + CHANNEL_S
        return channel

    def bound(self, now: float) -> Iterator[tuple[int, Channel]]:
        """Channels that do not rest."""
        return ((number, each) for number, each in self.channels.items() if each.until > now)

    # ------------------------------------------------------------ time

    def expire(self, now: float) -> tuple[list[bytes], list[int]]:
        """Forget what is over. Returns addresses and channels that the lane was told of and must forget."""
        over = [ip for ip, each in self.permissions.items() if each.until <= now]
        shut = [ip for ip in over if self.permissions.pop(ip).told is not None]
        unbound = []
        for number, channel in list(self.channels.items()):
            if channel.until > now:
                continue
            if channel.told is not None:
                channel.told = None
                unbound.append(number)
            if channel.until + REST_S <= now:
                del self.channels[number]
        return shut, unbound

    def next_deadline(self, now: float) -> float:
        """The nearest end of anything."""
        ends = [self.until, *(each.until for each in self.permissions.values())]
        ends += [each.until if each.until > now else each.until + REST_S for each in self.channels.values()]
        return min(ends)
