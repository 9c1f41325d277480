"""Who a node is to another one: pins of keys, and the proof that a dialer gives inside a trunk.

    pin = SHA-256(SubjectPublicKeyInfo of an Ed25519 key)                           (RFC 8410 section 4)
    pop = Ed25519 over "vrl-trunk-v1\\0" || n || pin of the acceptor || dialer || 00 || acceptor

The dialer knows the acceptor by the certificate of the connection; the acceptor the dialer by this proof,
which names the channel's end by its pin, so that no third node can pass it on. Node ids hold no zero byte.
Must never live here: drawing nonces, certificates, which pins are configured.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from relay.errors import LocalError
from relay.protocol import signed

NONCE_SIZE: Final = 32
PIN_SIZE: Final = 32
_DOMAIN: Final = b"vrl-trunk-v1\0"
_INFO: Final = bytes.fromhex("302a300506032b6570032100")  # what stands before the key


def pin_of(public: bytes) -> bytes:
    """Return the pin (32 bytes) of an Ed25519 public key; LocalError unless that has 32 bytes."""
    if len(public) != signed.PUBLIC_SIZE:
        raise LocalError("an Ed25519 public key has 32 bytes")
    return sha256(_INFO + public).digest()


def prove(seed: bytes, n: bytes, pin: bytes, dialer: str, acceptor: str) -> bytes:
    """Return the dialer's proof, by its key's seed, for the acceptor's nonce `n` and its pin."""
    return signed.sign(seed, _message(n, pin, dialer, acceptor))


def holds(public: bytes, pop: bytes, n: bytes, pin: bytes, dialer: str, acceptor: str) -> bool:
    """Say whether `pop` is the proof of `public` for our nonce, our pin and these two node ids."""
    return signed.holds(public, _message(n, pin, dialer, acceptor), pop)


def _message(n: bytes, pin: bytes, dialer: str, acceptor: str) -> bytes:
    if len(n) != NONCE_SIZE or len(pin) != PIN_SIZE or "\0" in dialer + acceptor:
        raise LocalError("a nonce and a pin have 32 bytes, a node id no zero byte")
    return _DOMAIN + n + pin + dialer.encode() + b"\0" + acceptor.encode()
