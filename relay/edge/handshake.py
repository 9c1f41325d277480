"""Less work per handshake than aioquic's own, with the same result: packet keys, and what is left of it.

aioquic derives some fifty keys per handshake, each through objects made for it. Here: one HMAC for each.
`Settled` stands where the TLS state (tls13.py) of a finished handshake stood. Must never live here: private
names of aioquic (quic.py), and any choice of algorithms.
"""

from __future__ import annotations

import hmac
import logging
from functools import cache
from typing import Any, Final

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

DIGESTS: Final = {
    tls.CipherSuite.AES_128_GCM_SHA256: ("sha256", 16),
    tls.CipherSuite.AES_256_GCM_SHA384: ("sha384", 32),
    tls.CipherSuite.CHACHA20_POLY1305_SHA256: ("sha256", 32),
}
"""Hash and key length of a suite (RFC 8446 appendix B.4)."""


@cache
def _info(label: bytes, length: int) -> bytes:
    """HkdfLabel without context (RFC 8446 section 7.1), with the counter of the first and only block."""
    return tls.hkdf_label(label, b"", length) + b"\x01"


def derive(suite: tls.CipherSuite, secret: bytes, version: int) -> Parts:
    """Packet protection keys (RFC 9001 section 5.1, labels of RFC 9369 section 3.3.2 for version 2)."""
    digest, size = DIGESTS[suite]
    prefix = b"quicv2 " if version == QuicProtocolVersion.VERSION_2 else b"quic "
    return (
        hmac.digest(secret, _info(prefix + b"key", size), digest)[:size],
        hmac.digest(secret, _info(prefix + b"iv", 12), digest)[:12],
        hmac.digest(secret, _info(prefix + b"hp", size), digest)[:size],
    )


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
        digest, _ = DIGESTS[self.cipher_suite]
        label = b"quicv2 ku" if self.version == QuicProtocolVersion.VERSION_2 else b"quic ku"
        secret = hmac.digest(self.secret, _info(label, len(self.secret)), digest)
        return derive(self.cipher_suite, secret, self.version)[:2]


def initial_pair(cid: bytes, version: int) -> CryptoPair:
    """A server's keys of first packets to `cid` (RFC 9001 section 5.2)."""
    is_second = version == QuicProtocolVersion.VERSION_2
    common = hmac.digest(INITIAL_SALT_VERSION_2 if is_second else INITIAL_SALT_VERSION_1, cid, "sha256")
    pair = quick_pair(CryptoPair())
    for context, label in ((pair.recv, b"client in"), (pair.send, b"server in")):
        secret = hmac.digest(common, _info(label, 32), "sha256")
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
