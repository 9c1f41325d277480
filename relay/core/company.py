"""Who a TURN user is, and whom he may reach: the question, and the answer of the open policy.

The strict policy's answer is in guests.py. The deny rules of protocol/peers.py come first under both. Must
never live here: allocations.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple, Protocol

from relay.config_turn import TurnConfig
from relay.core.credentials import UserName
from relay.protocol.ids import CallId


class Owner(NamedTuple):
    """Whose an allocation is: a participant of a call, or in open policy a user name of no call."""

    call: CallId | None
    who: bytes

    def __repr__(self) -> str:
        return f"Owner({'call' if self.call else 'user'})"


class Budget(NamedTuple):
    """What an allocation may carry each way, per second."""

    bits: int
    packets: int


class Company(Protocol):
    """What the TURN engine asks about people. Answers may change; CompanyChanged says when."""

    def owner_of(self, user: bytes, name: UserName) -> Owner | None:
        """Whom a credential was minted for; None if for nobody here."""

    def is_here(self, owner: Owner) -> bool:
        """Whether the owner may hold anything still."""

    def reach(self, owner: Owner) -> Container[bytes]:
        """Addresses (packed) that somebody announced whom the owner may talk to, as of now."""

    def may_meet(self, owner: Owner, other: Owner) -> bool:
        """Whether the two may reach each other's relayed addresses on this node."""

    def budget(self, owner: Owner) -> Budget:
        """What an allocation of the owner may carry."""

    def charge(self, owner: Owner) -> str | None:
        """One more allocation: who holds it, for `release`; None: that one holds all it may."""

    def release(self, holder: str) -> None:
        """An allocation of this holder has ended."""


class _Everywhere:
    """All addresses there are."""

    def __contains__(self, ip: object) -> bool:
        return True


class OpenCompany:
    """Anybody whose back end knows the secret; any peer that the deny rules let pass."""

    def __init__(self, config: TurnConfig) -> None:
        self.config = config
        """May be replaced: what exists keeps what it was given."""

    def owner_of(self, user: bytes, name: UserName) -> Owner | None:
        """Each user name is somebody."""
        return Owner(None, user)

    def is_here(self, owner: Owner) -> bool:
        """Nobody knows otherwise."""
        return True

    def reach(self, owner: Owner) -> Container[bytes]:
        """The deny rules alone."""
        return _Everywhere()

    def may_meet(self, owner: Owner, other: Owner) -> bool:
        """Two browsers of one call often relay through the same node."""
        return True

    def budget(self, owner: Owner) -> Budget:
        """The same for everybody."""
        return Budget(1000 * self.config.kbps, self.config.pps)

    def charge(self, owner: Owner) -> str | None:
        """A shared secret names no issuer: the node's own limits are all there are."""
        return ""

    def release(self, holder: str) -> None:
        """Nothing was charged."""
