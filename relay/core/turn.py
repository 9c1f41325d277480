"""The TURN engine: facts in, orders out, no socket, clock or chance inside. Driven as core/relay.py is:

    engine.handle(event, now, wall)     now: monotonic seconds; wall: seconds since 1970
    while (output := engine.poll()) is not None: ...
    engine.next_deadline()              give a Tick at that monotonic second

It answers requests and nothing else: an answer, an indication or noise that comes in makes nothing go out, so
that two relays fall silent. The packets themselves are the lane's. Must never live here: a rule of TURN.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from relay.config import Config
from relay.core.allocation import Allocation
from relay.core.company import Company, Owner
from relay.core.credentials import Nonces, TurnKeys, Via
from relay.core.events import CompanyChanged, Tick
from relay.core.reasons import DropReason
from relay.core.relays import Relays
from relay.core.turn_door import Caller, TurnDoor, TurnError
from relay.core.turn_events import (
    Answer,
    ClientGone,
    ClientPacket,
    Draining,
    RelayFailed,
    RelayOpened,
    TurnChanged,
    TurnInput,
    TurnOutput,
)
from relay.core.turn_requests import Request, Requests
from relay.core.unproven import FACTOR, Unproven
from relay.errors import PeerError
from relay.protocol import stun, turn
from relay.protocol.stun import Attribute, Class, Message
from relay.protocol.turn import Method

_DUE_AT_ONCE: Final = 16
MAX_FAREWELLS: Final = 1024  # ends of allocations whose request may come again
FAREWELL_S: Final = 40.0  # for how long (RFC 8489 section 6.3.1)

_Farewell = tuple[Via, Owner, bytes]
"""Who ended an allocation, with which transaction."""
_Handler = Callable[[Request], Sequence[Attribute] | None]


class Turn:
    """The TURN part of one node. `company` says who is who: `OpenCompany`, or the guests of the calls."""

    def __init__(self, config: Config, keys: TurnKeys, company: Company, own: Iterable[bytes] = ()) -> None:
        """`own`: addresses of this machine besides those of `turn.addresses`, packed; never peers."""
        self._config = config
        self._relays = relays = Relays(config, company, own)
        nonces = Nonces(keys.nonce, config.turn.nonce_s)
        self._door = TurnDoor(config.turn.realm, company, nonces, keys, config.turn.credential_s)
        self._requests = requests = Requests(relays)
        rates = config.turn.unproven_per_source_per_s, config.turn.unproven_per_s
        self._unproven = Unproven(*rates, keys.nonce)
        self._farewells: OrderedDict[_Farewell, tuple[float, bytes]] = OrderedDict()
        self._inputs: Mapping[type, Callable[[Any], None]] = {
            ClientPacket: self._on_packet,
            ClientGone: self._on_gone,
            RelayOpened: self._on_opened,
            RelayFailed: self._on_failed,
            CompanyChanged: lambda event: relays.review_call(event.call),
            Draining: self._on_draining,
            TurnChanged: self._on_changed,
            Tick: lambda _: None,
        }
        self._handlers: Mapping[int, _Handler] = {
            Method.ALLOCATE: requests.on_allocate,
            Method.REFRESH: requests.on_refresh,
            Method.CREATE_PERMISSION: requests.on_create_permission,
            Method.CHANNEL_BIND: requests.on_channel_bind,
        }

    # ------------------------------------------------------------ the rule

    def handle(self, event: TurnInput, now: float, wall: float) -> None:
        """Take one fact. A monotonic clock that steps back stands still instead."""
        relays = self._relays
        relays.now = max(now, relays.now)
        relays.wall = wall
        # What is over is over before anybody asks about it.
        relays.run_deadlines(_DUE_AT_ONCE)
        self._inputs[type(event)](event)
        self._forget_farewells()

    def poll(self) -> TurnOutput | None:
        """The next order for the edge, None when there is none."""
        outputs = self._relays.outputs
        return outputs.popleft() if outputs else None

    def next_deadline(self) -> float | None:
        """Monotonic second at which a Tick is wanted."""
        return self._relays.deadlines.next()

    # ------------------------------------------------------------ to be looked at

    @property
    def counters(self) -> Counter[tuple[str, str]]:
        """What happened so far, by (name, label)."""
        return self._relays.counters

    @property
    def allocations(self) -> int:
        """Allocations that live or are being opened."""
        return len(self._relays.by_number)

    @property
    def relays(self) -> Relays:
        """The whole table, for tests of invariants; to be read only."""
        return self._relays

    # ------------------------------------------------------------ packets

    def _on_packet(self, event: ClientPacket) -> None:
        via, relays = event.via, self._relays
        try:
            message = stun.parse(event.data)
        except PeerError:
            relays.count("turn_dropped", DropReason.MALFORMED.value)
            return
        if message.cls is not Class.REQUEST:
            relays.count("turn_ignored", message.cls.name.lower())
        elif message.method == Method.BINDING:
            self._on_binding(via, message)
        elif message.method in self._handlers and self._config.turn.enabled:
            self._on_request(via, message)
        else:
            relays.count("turn_ignored", "method")

    def _on_binding(self, via: Via, message: Message) -> None:
        """A stranger's, if the operator wants it; always for who holds an allocation, and on a stream."""
        relays = self._relays
        if not (self._config.stun.open_binding or via in relays.by_via or via.is_stream):
            relays.count("turn_ignored", "binding")
            return
        unknown = message.unknown(turn.UNDERSTOOD[Method.BINDING])
        if unknown:
            listed = Attribute(stun.UNKNOWN_ATTRIBUTES, stun.encode_unknown(unknown))
            refused = TurnError(420, (listed,))
            self._send_unproven(via, message, Class.ERROR, refused.attributes, 1.0)
            return
        mapped = turn.xor_address(stun.XOR_MAPPED_ADDRESS, via.client, message.transaction)
        self._send_unproven(via, message, Class.SUCCESS, (mapped,), None)

    def _on_request(self, via: Via, message: Message) -> None:
        relays = self._relays
        allocation = relays.held(via)
        try:
            caller = self._door.admit(message, via, allocation, relays.now, relays.wall)
        except TurnError as refused:
            relays.count("turn_refused", str(refused.code))
            self._send_unproven(via, message, Class.ERROR, refused.attributes, FACTOR)
            return
        if self._is_answered_again(via, message, allocation, caller):
            return
        request = Request(message, via, caller, allocation)
        try:
            self._door.check(message, caller, allocation, turn.UNDERSTOOD[message.method])
            attributes = self._handlers[message.method](request)
        except TurnError as refused:
            self._refuse(request, refused)
        except PeerError:
            self._refuse(request, TurnError(400))
        else:
            if attributes is not None:
                self._succeed(request, attributes)

    def _is_answered_again(
        self, via: Via, message: Message, allocation: Allocation | None, caller: Caller
    ) -> bool:
        """The same request a second time gets the same answer (RFC 8489 section 6.3.1)."""
        answer = b""
        if allocation is not None and allocation.owner == caller.owner:
            transaction, known = allocation.answered
            answer = known if transaction == message.transaction else b""
        elif allocation is None:
            until, known = self._farewells.get((via, caller.owner, message.transaction), (0.0, b""))
            answer = known if until > self._relays.now else b""
        if answer:
            self._relays.count("turn_repeated")
            self._relays.put(Answer(via, answer))
        return bool(answer)

    # ------------------------------------------------------------ answers

    def _succeed(self, request: Request, attributes: Sequence[Attribute]) -> None:
        """Answer, and keep the answer for a request that comes twice."""
        message, via, relays = request.message, request.via, self._relays
        answer = _written(message, Class.SUCCESS, attributes, request.caller)
        allocation = relays.by_via.get(via)
        if allocation is not None:
            allocation.answered = (message.transaction, answer)
        else:
            while len(self._farewells) >= MAX_FAREWELLS:
                self._farewells.popitem(last=False)
            known = via, request.caller.owner, message.transaction
            self._farewells[known] = (relays.now + FAREWELL_S, answer)
        relays.count("turn_answered", Method(message.method).name.lower())
        relays.put(Answer(via, answer))

    def _refuse(self, request: Request, refused: TurnError) -> None:
        self._relays.count("turn_refused", str(refused.code))
        answer = _written(request.message, Class.ERROR, refused.attributes, request.caller)
        self._relays.put(Answer(request.via, answer))

    def _send_unproven(
        self, via: Via, message: Message, cls: Class, attributes: Sequence[Attribute], factor: float | None
    ) -> None:
        """To a source that may be forged: within its budget, and not `factor` times what it sent."""
        relays = self._relays
        answer = _written(message, cls, attributes, None)
        if not via.is_stream:
            if factor is not None and len(answer) > factor * len(message.raw):
                relays.count("turn_dropped", DropReason.UNPROVEN.value)
                return
            if not self._unproven.take(via.client, relays.now):
                relays.count("turn_dropped", DropReason.OVER_BUDGET.value)
                return
        relays.put(Answer(via, answer))

    # ------------------------------------------------------------ everything else

    def _on_gone(self, event: ClientGone) -> None:
        allocation = self._relays.by_via.get(event.via)
        if allocation is not None:
            self._relays.close(allocation, "client_gone")

    def _on_opened(self, event: RelayOpened) -> None:
        allocation = self._relays.by_number.get(event.allocation)
        if allocation is not None and not allocation.is_live:  # else it was closed, and the edge told
            self._succeed(*self._requests.opened(allocation, event.address))

    def _on_failed(self, event: RelayFailed) -> None:
        allocation = self._relays.by_number.get(event.allocation)
        if allocation is not None and not allocation.is_live:
            request = self._requests.failed(allocation)
            self._refuse(request, TurnError(508 if event.is_full else 500))

    def _on_draining(self, event: Draining) -> None:
        self._requests.is_draining = True

    def _on_changed(self, event: TurnChanged) -> None:
        self._config = event.config
        self._relays.on_config(event.config)
        self._door.keys = event.keys
        self._door.longest_s = event.config.turn.credential_s

    def _forget_farewells(self) -> None:
        while self._farewells:
            key, (until, _) = next(iter(self._farewells.items()))
            if until > self._relays.now:
                return
            del self._farewells[key]


def _written(message: Message, cls: Class, attributes: Sequence[Attribute], caller: Caller | None) -> bytes:
    """An answer, guarded as its request was; a FINGERPRINT only for who sent one."""
    key, is_sha256 = (caller.key, caller.is_sha256) if caller is not None else (None, False)
    return stun.build(
        message.method, cls, message.transaction, attributes,
        key=key, sha256=is_sha256, fingerprint=message.has_fingerprint,
    )  # fmt: skip
