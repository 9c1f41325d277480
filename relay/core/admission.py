"""From the bytes of a token to a verdict, in a fixed order, offline.

    size, magic, kid, signature, strict decode, v    relay.protocol.token
    aud, times, revocation, pop, jti, age, net       here
    the issuer's own limits                          tenants.py
    cid, lim                                         at join (exchange.py)

The order decides which code a token with two faults gets, and that nothing unsigned is looked at. A token
id is spent last, when all else is well, so that a refusal does not burn it. Must never live here: legs,
calls, and the keys' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from relay.config import LimitsConfig, TokenConfig
from relay.core.memory import Memories
from relay.core.policy import refuse_children
from relay.core.tenants import Tenants
from relay.errors import ErrorCode, PeerError
from relay.protocol import token
from relay.protocol.ids import Jti, Kid, PersonId
from relay.protocol.token import Claims

TCP_TRANSPORTS: Final = frozenset({"ws", "tls"})

PERSON_TTL_S: Final = 86_400.0  # a revoked person's issuer has had a day to stop minting
REVOKED_CEILING: Final = 65_536  # revoked ids of one kind; a command that finds it full is refused


@dataclass(frozen=True, slots=True)
class Proof:
    """What came with a token. `nonce` and `signature` are None when there was none of them.

    `bound` is the key that the leg already proved, for a token that replaces an earlier one.
    """

    transport: str
    nonce: bytes | None = None
    signature: bytes | None = None
    bound: bytes | None = None


class Verdict(NamedTuple):
    """Admitted: these rights, by the word of this issuer key."""

    claims: Claims
    kid: Kid | None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a leg may use: bits per second each way, packets per second up."""

    up_bps: int
    down_bps: int
    pps: int


class Admission:
    """Judges tokens; remembers which are spent or revoked."""

    def __init__(
        self, cluster: str, tokens: TokenConfig, issuers: Mapping[Kid, bytes], tenants: Tenants
    ) -> None:
        self._cluster = cluster
        self._tokens = tokens
        self.issuers = issuers
        self._tenants = tenants
        self.spent: Memories[Jti] = Memories(tokens.replay_entries)
        self.revoked: Memories[Jti | PersonId] = Memories(REVOKED_CEILING)
        """Both by home (tenants.py): what an issuer that is apart spends and revokes is nothing to others."""
        self.revoked_keys: set[Kid] = set()

    def on_config(self, tokens: TokenConfig, issuers: Mapping[Kid, bytes]) -> None:
        """A reload: other issuers, other times; what is spent or revoked stays so."""
        self._tokens = tokens
        self.issuers = issuers
        self.spent.ceiling = tokens.replay_entries

    def judge(
        self,
        raw: bytes,
        proof: Proof,
        now: float,
        wall: float,
        *,
        is_new: bool = False,
        is_ours: Callable[[Claims], bool] = lambda _: True,
    ) -> Verdict:
        """Verify a token and spend its id. PeerError with the code of the first check that fails.

        `is_new`: it lets somebody in who has no place here, so its issuer's limits count. `is_ours`: whether
        it is for us to spend; whoever decides about its call judges it again.
        """
        claims = token.verify(raw, self.issuers)
        if claims.aud != self._cluster:
            raise PeerError(ErrorCode.TOKEN_AUDIENCE, "token is for another cluster")
        kid = token.parse(raw).kid
        home = self._tenants.home_of(kid)
        self._check_times(claims, home, wall)
        self.check_revoked(claims, kid, now, wall)
        proven = check_pop(claims, proof)
        is_spent_here = is_ours(claims)
        if is_spent_here:
            self._check_replay(claims, home, proven, now, wall)
        refuse_children(claims)
        check_transport(claims, proof.transport)
        if is_new:
            self._tenants.check_join(kid, now)
        if is_spent_here:
            self.spent.of(home).add(claims.jti, self.ends_in(claims, wall), now, wall)
        return Verdict(claims, kid)

    def ends_in(self, claims: Claims, wall: float) -> float:
        """Seconds for which the token's times still pass: how long it may join, and how long it is kept."""
        return claims.exp + self._tokens.skew_s - wall

    def _check_times(self, claims: Claims, home: str, wall: float) -> None:
        skew = self._tokens.skew_s
        if not 0 < claims.exp - claims.iat <= self._tokens.max_lifetime_s:
            raise PeerError(ErrorCode.TOKEN_INVALID, "token lives too long, or not at all")
        if max(claims.nbf, claims.iat) > wall + skew:
            raise PeerError(ErrorCode.TOKEN_INVALID, "token is not valid yet")
        forgotten = max(self.spent.of(home).horizon, self.revoked.of(home).horizon)
        # Nobody remembers any more whether a token of that age was spent or revoked, so it stays expired
        # when the wall clock is set back.
        if self.ends_in(claims, max(wall, forgotten)) <= 0:
            raise PeerError(ErrorCode.TOKEN_EXPIRED, "token has expired")

    def check_revoked(self, claims: Claims, kid: Kid | None, now: float, wall: float) -> None:
        """PeerError TOKEN_INVALID for a revoked key or token, FORBIDDEN for a revoked person."""
        revoked = self.revoked.of(self._tenants.home_of(kid))
        if kid in self.revoked_keys or revoked.knows(claims.jti, now, wall):
            raise PeerError(ErrorCode.TOKEN_INVALID, "token is revoked")
        if claims.ru is not None and revoked.knows(claims.ru, now, wall):
            raise PeerError(ErrorCode.FORBIDDEN, "not allowed")

    def _check_replay(self, claims: Claims, home: str, proven: bool, now: float, wall: float) -> None:
        spent = self.spent.of(home)
        if spent.knows(claims.jti, now, wall):
            if not proven:
                raise PeerError(ErrorCode.TOKEN_REPLAYED, "token was used before")
        elif not spent.has_room(now, wall):
            # Forgetting a spent id would let it pass again: no room means no.
            raise PeerError(ErrorCode.OVERLOADED, "too many tokens in use", retry_ms=5000)

    def revoke(
        self, by: Kid, *, jti: Jti | None, person: PersonId | None, kid: Kid | None, now: float, wall: float
    ) -> None:
        """From now on these are refused, by the word of the key `by`, as far as that reaches.

        PeerError OVERLOADED when no more can be remembered, FORBIDDEN for the key of another home.
        """
        self._check_key(by, kid)
        revoked = self.revoked.of(self._tenants.home_of(by))
        if not revoked.has_room(now, wall):
            raise PeerError(ErrorCode.OVERLOADED, "too many revocations are remembered", fatal=False)
        if jti is not None:
            # Longer than any token that is valid now can live.
            revoked.add(jti, self._tokens.max_lifetime_s + 2 * self._tokens.skew_s, now, wall)
        if person is not None:
            revoked.add(person, PERSON_TTL_S, now, wall)
        if kid is not None:
            self.revoked_keys.add(kid)

    def pardon(self, by: Kid, *, jti: Jti | None, person: PersonId | None, kid: Kid | None) -> None:
        """Take a revocation back. PeerError FORBIDDEN for the key of another home."""
        self._check_key(by, kid)
        revoked = self.revoked.of(self._tenants.home_of(by))
        if jti is not None:
            revoked.discard(jti)
        if person is not None:
            revoked.discard(person)
        if kid is not None:
            self.revoked_keys.discard(kid)

    def _check_key(self, by: Kid, kid: Kid | None) -> None:
        if kid is not None and self._tenants.home_of(kid) != self._tenants.home_of(by):
            raise PeerError(ErrorCode.FORBIDDEN, "the key of another tenant", fatal=False)


def check_pop(claims: Claims, proof: Proof) -> bool:
    """Whether possession of the token's key is proven. PeerError POP_FAILED if it must be and is not."""
    if claims.cnf is None:
        return False
    if proof.bound == claims.cnf:
        return True
    if proof.nonce is None or proof.signature is None:
        raise PeerError(ErrorCode.POP_FAILED, "token needs a proof of possession")
    if not token.pop_verify(claims.cnf, proof.nonce, claims.sub, claims.cid, proof.signature):
        raise PeerError(ErrorCode.POP_FAILED, "proof of possession does not verify")
    return True


def check_transport(claims: Claims, transport: str) -> None:
    """PeerError TRANSPORT_DENIED for a TCP leg that the token does not allow."""
    if transport in TCP_TRANSPORTS and not claims.net & token.NET_TCP_LEGS:
        raise PeerError(ErrorCode.TRANSPORT_DENIED, "token allows no TCP leg")


def budget_of(claims: Claims, limits: LimitsConfig) -> Budget:
    """What the token grants, cut to what this node grants anyone."""
    up, down, pps, _ = claims.lim
    return Budget(
        up_bps=1000 * min(up, limits.max_up_kbps),
        down_bps=1000 * min(down, limits.max_down_kbps),
        pps=min(pps, limits.max_pps),
    )
