"""TURN credentials and nonces, both without memory: everything can be computed again from a secret.

    user      <expiry, seconds since 1970>:<id>          (the TURN REST form)
    password  base64(HMAC-SHA1(secret, user))            two secrets live, for rotation
    nonce     base64url(time u24 | MAC b9), 16 characters; the MAC covers client, port, time and features

A nonce that is ours for an address proves that somebody there hears us. Must never live here: whom an id
names, and what anybody may do.
"""

from __future__ import annotations

import hmac
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Final, NamedTuple, Self

from relay.protocol import stun
from relay.protocol.address import Address

NONCE_SIZE: Final = 16  # characters: with a realm of 4 a refusal has 56 bytes
_MAC_SIZE: Final = 9  # bytes; 72 bits against guessing within ten minutes
_SLOT: Final = 1 << 24  # seconds after which the time in a nonce comes round: 194 days
_MAX_DIGITS: Final = 12  # of an expiry


class Via(NamedTuple):
    """The 5-tuple of a client: `local` is the number of our socket, or of the accepted stream."""

    transport: str  # udp, tcp or tls
    client: Address
    local: int

    @property
    def is_stream(self) -> bool:
        """Whether a handshake proved the client's address."""
        return self.transport != "udp"


@dataclass(frozen=True, slots=True)
class TurnKeys:
    """`rest`: secrets that passwords are made of, newest first. `nonce`: 32 bytes for nonces and buckets."""

    rest: Sequence[bytes] = field(repr=False)
    nonce: bytes = field(repr=False)

    @classmethod
    def of(cls, cluster: Sequence[bytes], shared: Sequence[bytes] = ()) -> Self:
        """From the cluster's keys for TURN (newest first), or with secrets shared with a back end."""
        own = [hmac.digest(key, b"rest", sha256) for key in cluster]
        return cls(tuple(shared or own), hmac.digest(cluster[0], b"nonce", sha256))


# ---------------------------------------------------------------- users


class UserName(NamedTuple):
    """A user in its two parts."""

    expiry: int  # seconds since 1970
    id: bytes

    @classmethod
    def parse(cls, user: bytes) -> Self | None:
        """None for what is not `<expiry>:<id>`."""
        digits, colon, id = user.partition(b":")
        if not colon or not id or not digits.isdigit() or len(digits) > _MAX_DIGITS:
            return None
        if len(user) > stun.MAX_USERNAME:
            return None
        return cls(int(digits), id)

    def is_live(self, wall: float, longest_s: float) -> bool:
        """Whether it has not ended, and does not end later than anyone may grant."""
        return wall < self.expiry <= wall + longest_s


def password_of(user: bytes, secret: bytes) -> bytes:
    """The password of a user."""
    return b64encode(hmac.digest(secret, user, "sha1"))


def mint(id: str, expiry: int, secret: bytes) -> tuple[str, str]:
    """User and password of an id, good until `expiry`."""
    user = f"{expiry}:{id}"
    return user, password_of(user.encode(), secret).decode()


# ---------------------------------------------------------------- nonces


class Nonce(Enum):
    """What a nonce is worth."""

    GOOD = "good"
    STALE = "stale"  # ours for this client, too old
    FOREIGN = "foreign"  # not ours, or for somebody else


class Nonces:
    """Makes and knows the nonces of one node."""

    def __init__(self, key: bytes, ttl_s: float) -> None:
        self._key = key
        self._ttl_s = ttl_s

    def make(self, via: Via, now: float, features: int = 0) -> bytes:
        """A nonce for this client; with `features` behind the cookie (RFC 8489 section 9.2)."""
        at = int(now) % _SLOT
        text = urlsafe_b64encode(at.to_bytes(3, "big") + self._mac(via, at, features)).decode()
        return (stun.with_features(text, features) if features else text).encode()

    def judge(self, nonce: bytes, via: Via, now: float) -> tuple[Nonce, int]:
        """What it is worth, and the features it carries (0 unless it is ours)."""
        features, rest = stun.split_features(nonce)
        if len(rest) != NONCE_SIZE:
            return Nonce.FOREIGN, 0
        try:
            raw = urlsafe_b64decode(rest)
        except ValueError:
            return Nonce.FOREIGN, 0
        at = int.from_bytes(raw[:3], "big")
        if not hmac.compare_digest(raw[3:], self._mac(via, at, features)):
            return Nonce.FOREIGN, 0
        age = (int(now) - at) % _SLOT
        return (Nonce.GOOD if age < self._ttl_s else Nonce.STALE), features

    def _mac(self, via: Via, at: int, features: int) -> bytes:
        # Features are covered, so that nobody on the way can take the better algorithms out of an offer.
        said = f"{via.transport}|{at}|{features}|{via.client.port}|".encode() + via.client.packed
        return hmac.digest(self._key, said, sha256)[:_MAC_SIZE]
