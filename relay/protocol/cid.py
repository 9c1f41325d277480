"""Connection ids that say, to nodes of this cluster only, which server and worker issued them.

    07 | four-pass AES-128 over (server and worker b3 || nonce b4)        8 bytes, QUIC-LB

The format is draft-ietf-quic-load-balancers'. The first byte is config rotation 0 and the length of the rest.
Byte 1 of an issued id is >= 0x10: bytes 2-3 of a short-header packet then read at least 4096, more than any
ChannelData length, and the two cannot be confused on one port.

Must never live here: where nonces come from; the caller counts them so that none repeats.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from relay.errors import LocalError

CID_SIZE: Final = 8
KEY_SIZE: Final = 16
SERVER_ID_SIZE: Final = 3
NONCE_SIZE: Final = 4
RESET_TOKEN_SIZE: Final = 16

FIRST_BYTE: Final = CID_SIZE - 1  # rotation bits 000, then the length of what follows
_PLAIN_SIZE: Final = SERVER_ID_SIZE + NONCE_SIZE
_HALF: Final = 28  # bits: seven bytes split in the middle of the fourth
_HALF_MASK: Final = (1 << _HALF) - 1
MIN_BYTE_1: Final = 0x10
_EXPANSION: Final = [bytes(10) + bytes((_PLAIN_SIZE, step)) for step in range(5)]


class CidCodec:
    """Makes and reads the ids of one server id under one key."""

    __slots__ = ("_encrypt", "_server_id")

    def __init__(self, key: bytes, server_id: bytes) -> None:
        """`key` has 16 bytes, `server_id` (server and worker) 3."""
        if len(key) != KEY_SIZE or len(server_id) != SERVER_ID_SIZE:
            raise LocalError("a cid codec takes a key of 16 and a server id of 3 bytes")
        self._server_id = server_id
        # ECB over single blocks is the plain AES permutation, which is all the algorithm asks for.
        self._encrypt = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update

    def encode(self, nonce: bytes) -> bytes | None:
        """Return the id for a 4-byte nonce, or None if this nonce gives none we may issue: take the next."""
        if len(nonce) != NONCE_SIZE:
            raise LocalError("a cid nonce has 4 bytes")
        left, right = _split(self._server_id + nonce)
        right ^= self._round(left, 1, is_left=True)
        left ^= self._round(right, 2, is_left=False)
        right ^= self._round(left, 3, is_left=True)
        left ^= self._round(right, 4, is_left=False)
        cid = bytes((FIRST_BYTE,)) + (left << _HALF | right).to_bytes(_PLAIN_SIZE, "big")
        return cid if cid[1] >= MIN_BYTE_1 else None

    def decode(self, cid: bytes) -> tuple[bytes, bytes] | None:
        """Return (server id, nonce) of an id, None if its form is not ours. Any server's id is read."""
        if len(cid) != CID_SIZE or cid[0] != FIRST_BYTE or cid[1] < MIN_BYTE_1:
            return None
        left, right = _split(cid[1:])
        left ^= self._round(right, 4, is_left=False)
        right ^= self._round(left, 3, is_left=True)
        left ^= self._round(right, 2, is_left=False)
        right ^= self._round(left, 1, is_left=True)
        plain = (left << _HALF | right).to_bytes(_PLAIN_SIZE, "big")
        return plain[:SERVER_ID_SIZE], plain[SERVER_ID_SIZE:]

    def _round(self, half: int, step: int, *, is_left: bool) -> int:
        """Return what the other half is combined with: 28 bits of the encrypted, expanded `half`.

        A left half keeps its 28 bits at the front of its four bytes, a right half at the end; so does the
        result, which belongs to the opposite half.
        """
        block = (half << 4 if is_left else half).to_bytes(4, "big") + _EXPANSION[step]
        first = int.from_bytes(self._encrypt(block)[:4], "big")
        return first & _HALF_MASK if is_left else first >> 4


def _split(plain: bytes) -> tuple[int, int]:
    value = int.from_bytes(plain, "big")
    return value >> _HALF, value & _HALF_MASK


def reset_token(key: bytes, cid: bytes) -> bytes:
    """Return the stateless reset token of an id (RFC 9000 section 10.3.2): 16 bytes, equal on every node."""
    return hmac.digest(key, cid, sha256)[:RESET_TOKEN_SIZE]
