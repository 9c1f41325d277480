"""TURN credentials for people in calls, and the strict policy: peers are whom one may talk to.

    turn {} --> urls, user, pass, ttl       user: <expiry>:<a random id that this node remembers>

An id lives as long as its call is known; what it is good for is asked of the call each time. Must never live
here: allocations, and candidates themselves.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Final

from relay.core import admission
from relay.core.call import Call
from relay.core.company import Budget, Owner
from relay.core.credentials import UserName, mint
from relay.core.events import CompanyChanged
from relay.core.leg import Leg
from relay.core.participant import Participant
from relay.core.reasons import Refusal
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, token
from relay.protocol.address import Address
from relay.protocol.ids import CallId, Sub

if TYPE_CHECKING:  # the node holds the guests
    from relay.core.node import Node

ID_SIZE: Final = 12  # bytes drawn for an id

Announced = Callable[[CallId, int, int], Iterable[Address]]
"""Call, index, other index: what the first announced of its addresses for the other's TURN (`cand.acl`)."""


def nothing_announced(call: CallId, by: int, to: int) -> Iterable[Address]:
    """A node without candidates."""
    return ()


class Guests:
    """People of this node's calls as TURN users."""

    def __init__(self, node: Node, announced: Announced = nothing_announced) -> None:
        self._node = node
        self.announced = announced
        """Where candidates are kept; whoever keeps them says `on_changed` when they change."""
        self._owners: dict[bytes, Owner] = {}
        self._ids: dict[CallId, dict[Sub, str]] = {}

    def __len__(self) -> int:
        """Ids remembered."""
        return len(self._owners)

    # ------------------------------------------------------------ the control channel

    def on_turn(self, call: Call, seat: Participant, leg: Leg, asked: control.Turn, id: int) -> None:
        """Answer with credentials, fresh each time, for the same person the same id."""
        node, config = self._node, self._node.config.turn
        if not config.enabled or config.policy != "strict" or not node.keys.turn_secrets:
            raise PeerError(ErrorCode.NOT_ENABLED, "this node has no TURN for calls", fatal=False)
        if not seat.claims.prm & token.MAY_TURN:
            raise PeerError(ErrorCode.FORBIDDEN, "the token does not allow TURN", fatal=False)
        ids = self._ids.setdefault(call.cid, {})
        if seat.sub not in ids:
            ids[seat.sub] = urlsafe_b64encode(node.draw(ID_SIZE)).decode()
            self._owners[ids[seat.sub].encode()] = Owner(call.cid, seat.sub)
        ttl = config.credential_s
        user, password = mint(ids[seat.sub], int(node.wall) + ttl, node.keys.turn_secrets[0])
        node.count("turn_minted")
        answer = control.Turn(urls=config.urls, user=user, password=password, ttl=ttl)
        node.send(leg.number, answer, id)

    def on_changed(self, call: Call) -> None:
        """Who may reach whom in the call is not as it was."""
        if call.cid in self._ids:
            self._node.put(CompanyChanged(call.cid))

    def on_settled(self, call: Call) -> None:
        """The call is over and forgotten, and so are its credentials."""
        for id in self._ids.pop(call.cid, {}).values():
            del self._owners[id.encode()]

    # ------------------------------------------------------------ company.Company

    def owner_of(self, user: bytes, name: UserName) -> Owner | None:
        """The participant whom the id was drawn for, while he is here."""
        owner = self._owners.get(name.id)
        return owner if owner is not None and self.is_here(owner) else None

    def is_here(self, owner: Owner) -> bool:
        """Whether his seat is taken and his token allows TURN still."""
        found = self._find(owner)
        return found is not None and bool(found[1].claims.prm & token.MAY_TURN)

    def reach(self, owner: Owner) -> Container[bytes]:
        """What those announced for him with whom he may talk, both ways."""
        found = self._find(owner)
        if found is None:
            return frozenset()
        call, seat = found
        return frozenset(
            address.packed
            for other in call.others(seat)
            if self._talk(call, seat, other)
            for address in self.announced(call.cid, other.index, seat.index)
        )

    def may_meet(self, owner: Owner, other: Owner) -> bool:
        """Whether the two may talk, both ways."""
        one, two = self._find(owner), self._find(other)
        if one is None or two is None or one[0] is not two[0]:
            return False
        return self._talk(one[0], one[1], two[1])

    def budget(self, owner: Owner) -> Budget:
        """What the token grants, the larger of both directions, cut to what the node grants anyone."""
        found = self._find(owner)
        if found is None:
            return Budget(0, 0)
        limits = self._node.tenants.limits_of(found[1].kid, self._node.config.limits)
        grant = admission.budget_of(found[1].claims, limits)
        return Budget(max(grant.up_bps, grant.down_bps), grant.pps)

    def charge(self, owner: Owner) -> str | None:
        """To the issuer who let him in, within its limit."""
        found = self._find(owner)
        try:
            return self._node.tenants.take(Refusal.ALLOCATIONS, None if found is None else found[1].kid)
        except PeerError:
            return None

    def release(self, holder: str) -> None:
        """From that issuer."""
        self._node.tenants.release(Refusal.ALLOCATIONS, holder)

    def _find(self, owner: Owner) -> tuple[Call, Participant] | None:
        call = None if owner.call is None else self._node.calls.get(owner.call)
        seat = None if call is None else call.seat_of(Sub(owner.who))
        return (call, seat) if call is not None and seat is not None and seat.is_here else None

    @staticmethod
    def _talk(call: Call, one: Participant, other: Participant) -> bool:
        """Whether each would hear the other if nobody were muted."""
        there = call.gate.consented(one.index) >> other.index & 1
        back = call.gate.consented(other.index) >> one.index & 1
        return bool(there and back)
