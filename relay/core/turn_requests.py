"""What TURN requests do (RFC 8656 sections 7 to 12), once it is known whose they are.

    Allocate --OpenRelay--> RelayOpened --> answer       Refresh, CreatePermission, ChannelBind --> answer

Off: reservations (508), DONT-FRAGMENT (420), TCP towards peers (442). An even port alone reserves nothing
and is given: coturn's client asks for one. Must never live here: credentials, and how an answer is guarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from relay.core.allocation import Allocation
from relay.core.credentials import Via
from relay.core.relays import HERE, Relays
from relay.core.turn_door import Caller, TurnError
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.stun import Attribute, Message

SHORTEST_S: Final = 600  # RFC 8656 section 7.2
_SIZES: Final = {stun.IPV4: 4, stun.IPV6: 16}


class Request(NamedTuple):
    """One request, and who asks."""

    message: Message
    via: Via
    caller: Caller
    allocation: Allocation | None
    """What the 5-tuple holds."""


class Requests:
    """Carries them out. Each returns the attributes of the success, None if that comes later."""

    def __init__(self, relays: Relays) -> None:
        self._relays = relays
        self._pending: dict[int, Request] = {}
        """Allocate requests whose relay socket is not there yet, by allocation."""
        self.is_draining = False
        relays.on_close = lambda number: self._pending.pop(number, None)

    # ------------------------------------------------------------ Allocate

    def on_allocate(self, request: Request) -> Sequence[Attribute] | None:
        """RFC 8656 section 7.2."""
        relays, message = self._relays, request.message
        if request.allocation is not None:
            pending = self._pending.get(request.allocation.number)
            if pending is not None and pending.message.raw == message.raw:
                return None  # the same request again: its answer is on the way
            raise TurnError(437)
        transport = message.get(turn.REQUESTED_TRANSPORT)
        if transport is None:
            raise TurnError(400)
        if turn.u8_of(transport) != turn.UDP:
            raise TurnError(442)
        self._lifetime(message.get(turn.LIFETIME))  # refused now, not when the socket is there
        size = self._wanted_size(message)
        if self.is_draining:
            raise self._elsewhere()
        owner = request.caller.owner
        if not relays.user_quota.charge(owner):
            raise TurnError(486)
        if not relays.node_quota.charge(HERE):
            relays.user_quota.release(owner)
            raise TurnError(508)
        holder = relays.company.charge(owner)
        if holder is None:
            relays.user_quota.release(owner)
            relays.node_quota.release(HERE)
            raise TurnError(486)
        is_even = message.get(turn.EVEN_PORT) is not None
        allocation = relays.open(
            request.via, owner, request.caller.user, request.caller.secret, size, is_even
        )
        allocation.holder = holder
        self._pending[allocation.number] = request
        return None

    def _wanted_size(self, message: Message) -> int:
        """Bytes of the addresses asked for."""
        family = message.get(turn.REQUESTED_ADDRESS_FAMILY)
        even = message.get(turn.EVEN_PORT)
        has_token = message.get(turn.RESERVATION_TOKEN) is not None
        is_double = family is not None and message.get(turn.ADDITIONAL_ADDRESS_FAMILY) is not None
        if is_double or (has_token and (even is not None or family is not None)):
            raise TurnError(400)
        if has_token or (even is not None and turn.wants_next(even)):
            raise TurnError(508)
        size = _SIZES.get(stun.IPV4 if family is None else turn.u8_of(family))
        if size is None or size not in self._relays.families:
            raise TurnError(440)
        return size

    def _elsewhere(self) -> TurnError:
        """300 with the address of another node, where there is one."""
        host, colon, port = self._relays.config.alternate.rpartition(":")
        if not colon:
            return TurnError(508)
        address = Address.parse((host.strip("[]"), int(port)))
        return TurnError(300, (Attribute(stun.ALTERNATE_SERVER, stun.encode_address(address)),))

    def opened(self, allocation: Allocation, bound: Address) -> tuple[Request, Sequence[Attribute]]:
        """The relay socket is there: the request that waited, and its answer."""
        request = self._pending.pop(allocation.number)
        wanted = request.message.get(turn.LIFETIME)
        seconds = self._lifetime(wanted)
        self._relays.opened(allocation, bound, self._relays.now + seconds)
        assert allocation.relayed is not None  # it is open
        transaction = request.message.transaction
        return request, (
            turn.xor_address(turn.XOR_RELAYED_ADDRESS, allocation.relayed, transaction),
            turn.lifetime(seconds),
            turn.xor_address(stun.XOR_MAPPED_ADDRESS, request.via.client, transaction),
        )

    def failed(self, allocation: Allocation) -> Request:
        """There will be no relay socket: the request that waited, its allocation closed."""
        request = self._pending[allocation.number]
        self._relays.close(allocation, "not_opened")
        return request

    def _lifetime(self, wanted: bytes | None) -> int:
        """Seconds granted: never less than the default, never more than the node allows."""
        asked = SHORTEST_S if wanted is None else turn.u32_of(wanted)
        return max(SHORTEST_S, min(asked, self._relays.config.longest_s))

    # ------------------------------------------------------------ the others

    def _live(self, request: Request) -> Allocation:
        if request.allocation is None or not request.allocation.is_live:
            raise TurnError(437)
        return request.allocation

    def on_refresh(self, request: Request) -> Sequence[Attribute]:
        """RFC 8656 section 8.2; a lifetime of 0 ends the allocation."""
        allocation, message, relays = self._live(request), request.message, self._relays
        family, wanted = message.get(turn.REQUESTED_ADDRESS_FAMILY), message.get(turn.LIFETIME)
        if family is not None and _SIZES.get(turn.u8_of(family)) != allocation.size:
            raise TurnError(443)
        if wanted is not None and turn.u32_of(wanted) == 0:
            relays.close(allocation, "refreshed_to_0")
            return (turn.lifetime(0),)
        seconds = self._lifetime(wanted)
        allocation.until = relays.now + seconds
        relays.review(allocation)
        relays.watch(allocation)
        return (turn.lifetime(seconds),)

    def on_create_permission(self, request: Request) -> Sequence[Attribute]:
        """RFC 8656 section 10.2: all of its addresses, or none."""
        allocation, relays = self._live(request), self._relays
        values = request.message.all(turn.XOR_PEER_ADDRESS)
        addresses = {self._peer(allocation, value, request).packed for value in values}
        if not addresses:
            raise TurnError(400)
        if len(allocation.permissions) + allocation.new_among(addresses) > relays.config.permissions:
            raise TurnError(508)
        reach = relays.reach(allocation)
        if not all(relays.may_send(allocation, reach, ip) for ip in addresses):
            raise TurnError(403)
        for ip in addresses:
            allocation.permit(ip, relays.now)
        relays.review(allocation)
        relays.watch(allocation)
        return ()

    def on_channel_bind(self, request: Request) -> Sequence[Attribute]:
        """RFC 8656 section 12.2; it installs the permission too."""
        allocation, relays, message = self._live(request), self._relays, request.message
        number, value = message.get(turn.CHANNEL_NUMBER), message.get(turn.XOR_PEER_ADDRESS)
        if number is None or value is None:
            raise TurnError(400)
        channel, peer = turn.channel_of(number), self._peer(allocation, value, request)
        if not turn.FIRST_CHANNEL <= channel <= turn.LAST_CHANNEL or allocation.channel_clash(channel, peer):
            raise TurnError(400)
        ip = peer.packed
        reach = relays.reach(allocation)
        if not all(relays.may_send(allocation, reach, ip, port) for port in (peer.port, None)):
            raise TurnError(403)
        is_new = channel not in allocation.channels
        if is_new and len(allocation.channels) >= relays.config.channels:
            raise TurnError(508)
        if len(allocation.permissions) + allocation.new_among({ip}) > relays.config.permissions:
            raise TurnError(508)
        allocation.bind(channel, peer, relays.now)
        allocation.permit(ip, relays.now)
        relays.review(allocation)
        relays.watch(allocation)
        return ()

    @staticmethod
    def _peer(allocation: Allocation, value: bytes, request: Request) -> Address:
        peer = stun.decode_xor_address(value, request.message.transaction)
        if len(peer.packed) != allocation.size:
            raise TurnError(443)
        return peer
