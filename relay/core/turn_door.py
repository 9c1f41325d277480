"""Who sends a TURN request: long-term credentials, checked in the order of RFC 8489 section 9.2.4.

    no MESSAGE-INTEGRITY 401 | something missing 400 | algorithms not as offered 400 | nobody's user 401
    wrong sum 401 | nonce not good 438 | somebody else's allocation 441 | not understood 420

What is refused up to the 438 comes from a source that may be forged. Over UDP a challenge has 56 bytes; only
where the request is as long as that answer does it offer SHA-256 too, as it always does on a stream. Must
never live here: budgets, and what a request is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from relay.core.allocation import Allocation
from relay.core.company import Company, Owner
from relay.core.credentials import Nonce, Nonces, TurnKeys, UserName, Via, password_of
from relay.errors import RelayError
from relay.protocol import stun
from relay.protocol.stun import Attribute, Message
from relay.protocol.turn import Method

OFFERED: Final = (stun.SHA256, stun.MD5)  # best first
OFFER: Final = stun.encode_algorithms(OFFERED)


class TurnError(RelayError):
    """The answer to a request is this error."""

    def __init__(self, code: int, attributes: Sequence[Attribute] = ()) -> None:
        super().__init__(f"TURN error {code}")
        self.code = code
        self.attributes = (Attribute(stun.ERROR_CODE, stun.encode_error(code)), *attributes)


class Caller(NamedTuple):
    """Whose request it is, and how the answer is guarded."""

    owner: Owner
    user: bytes
    secret: bytes
    key: bytes
    is_sha256: bool


class TurnDoor:
    """Judges requests and writes challenges."""

    def __init__(
        self, realm: str, company: Company, nonces: Nonces, keys: TurnKeys, longest_s: float
    ) -> None:
        self._realm = realm.encode()
        self._company = company
        self._nonces = nonces
        self.keys = keys
        self.longest_s = longest_s
        """How far ahead a credential may end, seconds."""

    def admit(
        self, message: Message, via: Via, allocation: Allocation | None, now: float, wall: float
    ) -> Caller:
        """Who it is. TurnError otherwise; `allocation` is what the 5-tuple holds."""
        if not message.has_integrity:
            raise self._challenge(401, message, via, now)
        user, realm, nonce = (message.get(type) for type in (stun.USERNAME, stun.REALM, stun.NONCE))
        is_hashed = user is None and message.get(stun.USERHASH) is not None
        if (user is None and not is_hashed) or realm is None or nonce is None:
            raise TurnError(400)
        algorithm = self._algorithm(message)
        # A hashed name is nobody's: we never offer to know one.
        caller = None if user is None else self._recognise(message, user, algorithm, allocation, wall)
        if caller is None or realm != self._realm:
            raise self._challenge(401, message, via, now)
        if self._nonces.judge(nonce, via, now)[0] is not Nonce.GOOD:
            raise self._challenge(438, message, via, now)
        return caller

    @staticmethod
    def check(message: Message, caller: Caller, allocation: Allocation | None, known: frozenset[int]) -> None:
        """TurnError for somebody else's allocation, and for what must be understood and is not."""
        # An Allocate is told 437 whoever sends it (RFC 8656 section 7.2).
        is_foreign = allocation is not None and allocation.owner != caller.owner
        if is_foreign and message.method != Method.ALLOCATE:
            raise TurnError(441)
        unknown = message.unknown(known)
        if unknown:
            raise TurnError(420, (Attribute(stun.UNKNOWN_ATTRIBUTES, stun.encode_unknown(unknown)),))

    @staticmethod
    def _algorithm(message: Message) -> int | None:
        """The algorithm the client chose from our offer; None for one that was offered none."""
        chosen, offer = message.get(stun.PASSWORD_ALGORITHM), message.get(stun.PASSWORD_ALGORITHMS)
        if chosen is None and offer is None:
            return None
        for number in OFFERED:
            if offer == OFFER and chosen == stun.encode_algorithms((number,)):
                return number
        raise TurnError(400)

    def _recognise(
        self, message: Message, user: bytes, algorithm: int | None, allocation: Allocation | None, wall: float
    ) -> Caller | None:
        """The caller if user and sum are right."""
        if allocation is not None and allocation.user == user:
            # An allocation outlives the name it was made with: a call may be longer than a credential.
            owner, secrets = allocation.owner, [allocation.secret]
        else:
            name = UserName.parse(user)
            if name is None or not name.is_live(wall, self.longest_s):
                return None
            found = self._company.owner_of(user, name)
            if found is None:
                return None
            owner, secrets = found, list(self.keys.rest)
        for secret in secrets:
            password = password_of(user, secret)
            key = stun.long_term_key(user, self._realm, password, algorithm or stun.MD5)
            if stun.integrity_holds(message, key):
                return Caller(owner, user, secret, key, algorithm is not None)
        return None

    def _challenge(self, code: int, message: Message, via: Via, now: float) -> TurnError:
        """An error that says how to ask."""
        realm = Attribute(stun.REALM, self._realm)
        if via.is_stream or len(message.raw) >= RICH_SIZE:
            nonce = self._nonces.make(via, now, stun.FEATURE_ALGORITHMS)
            offer = Attribute(stun.PASSWORD_ALGORITHMS, OFFER)
            return TurnError(code, (realm, Attribute(stun.NONCE, nonce), offer))
        nonce = self._nonces.make(via, now)
        return TurnError(code, (realm, Attribute(stun.NONCE, nonce)))


RICH_SIZE: Final = 92
"""Bytes of a challenge that offers SHA-256, with a FINGERPRINT: no longer than the request it answers."""
