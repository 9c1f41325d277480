"""Whose a leg, a call or an order is, and what each issuer may have of this node.

    key id --name_of--> the issuer's name, "" for a key that no issuer has (any more)
           --circle_of--> whose people may meet: of issuers that are not apart, of canaries, or its own
           --home_of--> what orders and memories it shares: those of all that are not apart, or its own

What is held (legs, calls, allocations) is charged to a name and released by it, so a reload that takes an
issuer away loses no count. A key without a name has the limits of the node alone. Must never live here: what
the limits of the node are (config.py), and what a refused leg hears (door.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from relay.config import Config, LimitsConfig
from relay.config_issuer import IssuerConfig
from relay.core.limits import Full, Share, Shares, TokenBucket
from relay.core.reasons import Refusal
from relay.errors import ErrorCode, PeerError
from relay.protocol.ids import Kid
from relay.protocol.token import kid_of

COMMON: Final = ""
"""Circle and home of all issuers that are not apart, and of keys that no issuer has."""
CANARIES: Final = "canaries:"
"""Of issuers of canaries; no name of an issuer has a colon."""
RETRY_MS: Final = 5000
RATES: Final = {Refusal.JOINS: "joins", Refusal.COMMANDS: "commands"}


@dataclass(frozen=True, slots=True)
class Standing:
    """How one issuer stands, for metrics."""

    name: str
    legs: int
    calls: int
    allocations: int
    admitted: int
    """Tokens of its that admitted."""
    refused: dict[Refusal, int]


class Tenants:
    """The issuers of one node."""

    def __init__(self, config: Config) -> None:
        self.canaries: frozenset[Kid] = frozenset()
        """Key ids of issuers whose calls are canaries'."""
        self._issuers: dict[str, IssuerConfig] = {}
        self._names: dict[Kid, str] = {}
        self._limits: dict[str, LimitsConfig] = {}
        self._buckets: dict[tuple[Refusal, str], TokenBucket] = {}
        self._shares = {held: Shares(0, {}) for held in (Refusal.LEGS, Refusal.CALLS, Refusal.ALLOCATIONS)}
        self._admitted: Counter[str] = Counter()
        self._refused: Counter[tuple[str, Refusal]] = Counter()
        self.on_config(config)

    def on_config(self, config: Config) -> None:
        """A reload. What is held stays held; a rate that changed begins anew."""
        before, issuers = self._issuers, config.tokens.issuers
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._names = {kid: issuer.name for issuer in issuers for kid in kids_of(issuer)}
        self.canaries = frozenset(kid for issuer in issuers if issuer.canary for kid in kids_of(issuer))
        self._limits = {issuer.name: _cut(config.limits, issuer) for issuer in issuers}
        for reason, name in list(self._buckets):
            if _rate(self._issuers.get(name), reason) != _rate(before.get(name), reason):
                del self._buckets[reason, name]
        ceilings = {
            Refusal.LEGS: config.limits.legs,
            Refusal.CALLS: config.limits.calls,
            Refusal.ALLOCATIONS: config.turn.allocations,
        }
        for held, shares in self._shares.items():
            shares.ceiling = ceilings[held]
            shares.shares = {
                issuer.name: Share(
                    getattr(issuer, held.value) or None, ceilings[held] * issuer.reserved_percent // 100
                )
                for issuer in issuers
            }

    # ------------------------------------------------------------ who

    def name_of(self, kid: Kid | None) -> str:
        """The issuer of this key, "" for none."""
        return "" if kid is None else self._names.get(kid, "")

    def circle_of(self, kid: Kid | None) -> str:
        """Those with whom the people of this key may have to do."""
        issuer = self._issuers.get(self.name_of(kid))
        if issuer is not None and issuer.canary:
            return CANARIES
        return self.home_of(kid)

    def home_of(self, kid: Kid | None) -> str:
        """Whose tokens, commands and revocations are remembered together, and reach the same calls."""
        issuer = self._issuers.get(self.name_of(kid))
        return issuer.name if issuer is not None and issuer.apart else COMMON

    def may_order(self, by: Kid, circle: str) -> bool:
        """Whether a command of this key reaches calls of that circle."""
        return self.home_of(by) == (COMMON if circle == CANARIES else circle)

    def limits_of(self, kid: Kid | None, limits: LimitsConfig) -> LimitsConfig:
        """The node's limits, cut to what this issuer may grant."""
        return self._limits.get(self.name_of(kid), limits)

    # ------------------------------------------------------------ rates

    def check_join(self, kid: Kid, now: float) -> None:
        """A fresh token is good and wants a leg. PeerError QUOTA, OVERLOADED or RATE_LIMITED."""
        name = self.name_of(kid)
        self._check(Refusal.LEGS, name)
        self._pass(Refusal.JOINS, name, now)
        self._admitted[name] += 1

    def check_command(self, kid: Kid, now: float) -> None:
        """A command is signed well. PeerError RATE_LIMITED."""
        self._pass(Refusal.COMMANDS, self.name_of(kid), now)

    def _pass(self, reason: Refusal, name: str, now: float) -> None:
        rate = _rate(self._issuers.get(name), reason)
        if rate is None:
            return
        bucket = self._buckets.get((reason, name))
        if bucket is None:
            bucket = self._buckets[reason, name] = TokenBucket(*rate, now)
        if not bucket.take(1, now):
            self._refused[name, reason] += 1
            text = f"too many {RATES[reason]} of this issuer"
            raise PeerError(ErrorCode.RATE_LIMITED, text, retry_ms=bucket.wait_ms(1))

    # ------------------------------------------------------------ what is held

    def take(self, held: Refusal, kid: Kid | None, *, is_return: bool = False) -> str:
        """One more leg, call or allocation: the name that holds it. PeerError QUOTA or OVERLOADED."""
        name = self.name_of(kid)
        self._check(held, name, is_return=is_return)
        self._shares[held].take(name)
        return name

    def restore(self, held: Refusal, kid: Kid | None) -> str:
        """The same for what was there before a crash: it is held whatever the limits say."""
        name = self.name_of(kid)
        self._shares[held].take(name)
        return name

    def release(self, held: Refusal, name: str) -> None:
        """It is gone."""
        self._shares[held].release(name)

    def _check(self, held: Refusal, name: str, *, is_return: bool = False) -> None:
        full = self._shares[held].lacks(name, is_return=is_return)
        if full is None:
            return
        self._refused[name, held if full is Full.OWN else Refusal.SHARED] += 1
        if full is Full.OWN:
            text = f"as many {held.value} as this issuer may have"
            raise PeerError(ErrorCode.QUOTA, text, retry_ms=RETRY_MS)
        raise PeerError(ErrorCode.OVERLOADED, "what is left here is reserved", retry_ms=RETRY_MS)

    # ------------------------------------------------------------ to be looked at

    def held(self, held: Refusal, name: str) -> int:
        """How many this name holds."""
        return self._shares[held].held(name)

    def standings(self) -> Iterator[Standing]:
        """How each issuer of the configuration stands, in its order."""
        for name in self._issuers:
            yield Standing(
                name,
                self.held(Refusal.LEGS, name),
                self.held(Refusal.CALLS, name),
                self.held(Refusal.ALLOCATIONS, name),
                self._admitted[name],
                {reason: self._refused[name, reason] for reason in Refusal},
            )


def kids_of(issuer: IssuerConfig) -> list[Kid]:
    """Ids of its keys, the present one first."""
    keys = (issuer.public_key, issuer.previous_public_key)
    return [kid_of(bytes.fromhex(key)) for key in keys if key]


def _rate(issuer: IssuerConfig | None, reason: Refusal) -> tuple[int, int] | None:
    """Units per second, and at once; None: no limit."""
    if issuer is None:
        return None
    per_s = getattr(issuer, f"{RATES[reason]}_per_s")
    return (per_s, getattr(issuer, f"{RATES[reason]}_burst") or per_s) if per_s else None


def _cut(limits: LimitsConfig, issuer: IssuerConfig) -> LimitsConfig:
    """What a token grants is cut to the lesser of the node's limit and the issuer's."""
    names = ("max_up_kbps", "max_down_kbps", "max_pps")
    own = {name: getattr(issuer, name) or getattr(limits, name) for name in names}
    return replace(limits, **{name: min(value, getattr(limits, name)) for name, value in own.items()})
