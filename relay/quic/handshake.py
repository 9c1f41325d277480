"""Less work per handshake than aioquic's own, with the same result: packet keys, and what is left of it.

aioquic derives some fifty keys per handshake, each through objects made for it. Here: one HMAC for each.
`Settled` stands where the TLS state (tls13.py) of a finished handshake stood. Must never live here: private
names of aioquic (quic.py), and any choice of algorithms.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from functools import cache
from hashlib import sha256, sha384
from typing import Any, Final, NamedTuple

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic._crypto import AEAD, HeaderProtection
from aioquic.quic.connection import QuicConnectionAdapter
from aioquic.quic.crypto import (
    CIPHER_SUITES,
    INITIAL_CIPHER_SUITE,
    INITIAL_SALT_VERSION_1,
    INITIAL_SALT_VERSION_2,
    CryptoContext,
    CryptoPair,
)
from aioquic.quic.packet import QuicProtocolVersion

Parts = tuple[bytes, bytes, bytes]  # AEAD key, IV, header protection key

Mac = Callable[[bytes, bytes], bytes]  # key, message

_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC (RFC 2104) with a key of at most 64 bytes; `hmac.digest` looks its hash up each time."""
    key = key.ljust(64, b"\0")
    return sha256(key.translate(_OUTER) + sha256(key.translate(_INNER) + message).digest()).digest()


def hmac_sha384(key: bytes, message: bytes) -> bytes:
    """The same with SHA-384."""
    return hmac.digest(key, message, "sha384")


class Suite(NamedTuple):
    """What keys of a cipher suite are made with (RFC 8446 appendix B.4)."""

    mac: Mac
    hash: Callable[[bytes], Any]  # of hashlib
    key_size: int


SUITES: Final[dict[int, Suite]] = {
    tls.CipherSuite.AES_128_GCM_SHA256: Suite(hmac_sha256, sha256, 16),
    tls.CipherSuite.AES_256_GCM_SHA384: Suite(hmac_sha384, sha384, 32),
    tls.CipherSuite.CHACHA20_POLY1305_SHA256: Suite(hmac_sha256, sha256, 32),
}


@cache
def _info(label: bytes, length: int) -> bytes:
    """HkdfLabel without context (RFC 8446 section 7.1), with the counter of the first and only block."""
    return tls.hkdf_label(label, b"", length) + b"\x01"


@cache
def _recipe(suite: tls.CipherSuite, version: int) -> tuple[Mac, int, bytes, bytes, bytes]:
    mac, _, size = SUITES[suite]
    prefix = b"quicv2 " if version == QuicProtocolVersion.VERSION_2 else b"quic "
    return mac, size, _info(prefix + b"key", size), _info(prefix + b"iv", 12), _info(prefix + b"hp", size)


def derive(suite: tls.CipherSuite, secret: bytes, version: int) -> Parts:
    """Packet protection keys (RFC 9001 section 5.1, labels of RFC 9369 section 3.3.2 for version 2)."""
    mac, size, key, iv, mask = _recipe(suite, version)
    return mac(secret, key)[:size], mac(secret, iv)[:12], mac(secret, mask)[:size]


class QuickContext(CryptoContext):
    """One direction's keys, which remembers what they were made of; takes the place of a fresh context."""

    parts: Parts
    derived_from: bytes | None = None

    def setup(self, *, cipher_suite: tls.CipherSuite, secret: bytes, version: int) -> None:
        """As aioquic's, without its log."""
        self.parts = key, iv, mask = derive(cipher_suite, secret, version)
        self.derived_from = secret
        mask_name, aead_name = CIPHER_SUITES[cipher_suite]
        self.aead = AEAD(aead_name, key, iv)
        self.hp = HeaderProtection(mask_name, mask)
        self.cipher_suite = cipher_suite
        self.secret = secret
        self.version = version

    def current(self) -> Parts:
        """Keys of the phase of now; header protection keeps its first key (RFC 9001 section 6.1)."""
        if self.secret is self.derived_from:
            return self.parts
        assert self.cipher_suite is not None
        assert self.secret is not None
        assert self.version is not None
        key, iv, _ = derive(self.cipher_suite, self.secret, self.version)
        return key, iv, self.parts[2]

    def coming(self) -> tuple[bytes, bytes]:
        """Key and IV of the phase after this one (RFC 9001 section 6.1)."""
        assert self.cipher_suite is not None
        assert self.secret is not None
        assert self.version is not None
        label = b"quicv2 ku" if self.version == QuicProtocolVersion.VERSION_2 else b"quic ku"
        mac, size, key, iv, _ = _recipe(self.cipher_suite, self.version)
        secret = mac(self.secret, _info(label, len(self.secret)))
        return mac(secret, key)[:size], mac(secret, iv)[:12]


def initial_pair(cid: bytes, version: int) -> CryptoPair:
    """A server's keys of first packets to `cid` (RFC 9001 section 5.2)."""
    is_second = version == QuicProtocolVersion.VERSION_2
    common = hmac_sha256(INITIAL_SALT_VERSION_2 if is_second else INITIAL_SALT_VERSION_1, cid)
    pair = quick_pair(CryptoPair())
    for context, label in ((pair.recv, b"client in"), (pair.send, b"server in")):
        secret = hmac_sha256(common, _info(label, 32))
        context.setup(cipher_suite=INITIAL_CIPHER_SUITE, secret=secret, version=version)
    return pair


def quick_pair(pair: CryptoPair) -> CryptoPair:
    """The same pair, whose keys to come are made quickly."""
    pair.recv, pair.send = QuickContext(), QuickContext()
    return pair


class Settled(tls.Context):
    """TLS after a server's handshake: no message is expected any more (RFC 9001 section 4.1.2)."""

    def __init__(self) -> None:
        self.state = tls.State.SERVER_POST_HANDSHAKE

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """Nothing that a client may send."""
        raise tls.AlertUnexpectedMessage


class Silent(QuicConnectionAdapter):
    """Stands for aioquic's log of a connection: the relay keeps counters, and the log's level hides it."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("quic"), {})

    def debug(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Nothing."""

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Nothing."""

    def warning(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Nothing."""
