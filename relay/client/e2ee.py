"""SFrame (RFC 9605): sealing and opening of media, with the replay window that belongs to each key.

    base_key --HKDF, KID, suite--> key, salt        nonce = salt XOR CTR
    ciphertext || tag = AEAD(key, nonce, AAD = SFrame header || rest of the cleartext that must not change)

One base key has one sender, so a counter that never repeats is enough for unique nonces. The relay has none
of this: the crypto lives in the SDK alone. Must never live here: sockets, clocks, key agreement.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from relay.errors import ErrorCode, LocalError, PeerError

REPLAY_WINDOW: Final = 256  # counters behind the newest; the wire asks for at least 128
CTR_LIMIT: Final = 1 << 32  # a sender must rekey before: the counter field has at most 4 bytes
TAG_SIZE: Final = 16


class Suite(IntEnum):
    """Cipher suites of RFC 9605 section 8.1 that this SDK speaks."""

    AES_128_GCM_SHA256_128 = 0x0004
    AES_256_GCM_SHA512_128 = 0x0005


class _Parameters(NamedTuple):
    hash: hashes.HashAlgorithm
    key_size: int  # Nk


_NONCE_SIZE: Final = 12  # Nn of both suites
_PARAMETERS: Final = {
    Suite.AES_128_GCM_SHA256_128: _Parameters(hashes.SHA256(), 16),
    Suite.AES_256_GCM_SHA512_128: _Parameters(hashes.SHA512(), 32),
}


class SframeSecrets(NamedTuple):
    """What RFC 9605 section 4.4.2 derives from a base key for one KID."""

    secret: bytes
    key: bytes
    salt: bytes


def derive(suite: Suite, base_key: bytes, kid: int) -> SframeSecrets:
    """Derive key and salt. (RFC 9605 section 4.4.2.)"""
    hash_, key_size = _PARAMETERS[suite]
    secret = HKDF.extract(hash_, None, base_key)
    tail = kid.to_bytes(8, "big") + suite.to_bytes(2, "big")
    key = HKDFExpand(hash_, key_size, b"SFrame 1.0 Secret key " + tail).derive(secret)
    salt = HKDFExpand(hash_, _NONCE_SIZE, b"SFrame 1.0 Secret salt " + tail).derive(secret)
    return SframeSecrets(secret, key, salt)


def nonce(salt: bytes, ctr: int) -> bytes:
    """Salt XOR counter, both as big-endian numbers of the nonce's size. (RFC 9605 section 4.4.3.)"""
    return (int.from_bytes(salt, "big") ^ ctr).to_bytes(_NONCE_SIZE, "big")


class ReplayWindow:
    """Counters of one key already opened. Look up, decrypt, then mark: a forgery blocks nothing."""

    def __init__(self, size: int = REPLAY_WINDOW) -> None:
        self._size = size
        self._newest = -1
        self._seen = 0  # bit i: newest - i was opened

    @property
    def newest(self) -> int:
        """Highest counter opened so far, -1 before the first."""
        return self._newest

    def is_fresh(self, ctr: int) -> bool:
        """True if `ctr` may still be opened: not seen, and not `size` or more behind the newest."""
        behind = self._newest - ctr
        return behind < 0 or (behind < self._size and not self._seen >> behind & 1)

    def mark(self, ctr: int) -> None:
        """Remember that `ctr` was opened."""
        ahead = ctr - self._newest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, self._size) | 1) & ((1 << self._size) - 1)
            self._newest = ctr
        else:
            self._seen |= 1 << -ahead


class SealKey:
    """The sending half: owns the counter, so that no nonce can be used twice."""

    def __init__(self, suite: Suite, base_key: bytes, kid: int, first_ctr: int = 0) -> None:
        """`first_ctr` above 0 goes on counting where another key with the same KID stopped: the relay's
        replay window knows KID and counter only, and would take a restart for old packets."""
        secrets = derive(suite, base_key, kid)
        self._aead = AESGCM(secrets.key)
        self._salt = secrets.salt
        self.kid = kid
        self._next = first_ctr

    @property
    def next_ctr(self) -> int:
        """The counter that the next `seal` will use; header bytes must name it."""
        return self._next

    def seal(self, aad: bytes, plaintext: bytes) -> bytes:
        """Encrypt under `next_ctr` and advance. `aad` starts with the SFrame header that names it."""
        if self._next >= CTR_LIMIT:
            raise LocalError("this key has sealed 2^32 packets: rekey first")
        ctr, self._next = self._next, self._next + 1
        return self._aead.encrypt(nonce(self._salt, ctr), plaintext, aad)

    def __repr__(self) -> str:
        return f"SealKey(kid={self.kid})"


class OpenKey:
    """The receiving half of one sender's key, with its replay window."""

    def __init__(self, suite: Suite, base_key: bytes, kid: int) -> None:
        secrets = derive(suite, base_key, kid)
        self._aead = AESGCM(secrets.key)
        self._salt = secrets.salt
        self.kid = kid
        self.window = ReplayWindow()

    def open(self, ctr: int, aad: bytes, ciphertext: bytes) -> bytes | None:
        """Plaintext, or None if this counter was opened before or is too old.

        Raises PeerError when the tag is wrong: forged, damaged, or sealed with another key.
        """
        if not self.window.is_fresh(ctr):
            return None
        try:
            plaintext = self._aead.decrypt(nonce(self._salt, ctr), ciphertext, aad)
        except (InvalidTag, ValueError):
            raise PeerError(ErrorCode.BAD_ENCODING, "media does not open", fatal=False) from None
        self.window.mark(ctr)
        return plaintext

    def __repr__(self) -> str:
        return f"OpenKey(kid={self.kid})"
