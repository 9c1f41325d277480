"""A trunk as TLS and QUIC see it: the certificate of a node's key, whose one is, how a node dials another.

    answering   `served`: a certificate made of the key, signed by itself, the same in each process
    dialing     `dialing`: takes any certificate; whose it is says `pin_of`, by what is configured

No authority vouches for nodes, and no date ends a key: who takes its pin out of the configuration does. Must
never live here: private names of aioquic, and who is dialed.
"""

from __future__ import annotations

import datetime
import ssl
from hashlib import sha256
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from relay.protocol.trunk_control import ALPN
from relay.quic.connection import CONNECTION_WINDOW, MAX_PACKET, STREAM_WINDOW, SUITES
from relay.quic.tls13 import Served

IDLE_S: Final = 30.0
TRUNK_STREAM_WINDOW: Final = 256 * 1024
"""Bytes that the other node may have under way on a stream, once it is known; before as much as a leg."""
TRUNK_WINDOW: Final = 4 * 1024 * 1024
"""The same on the whole connection; and what waits here for a node that does not take it."""
_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trunk.vrl.invalid")])
_FROM: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""No end that could be told (RFC 5280 section 4.1.2.5)."""


def certificate_of(seed: bytes) -> x509.Certificate:
    """The certificate of a node's Ed25519 seed, 32 bytes; always the same. ValueError for another size."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .sign(key, None)
    )


def served(seed: bytes) -> dict[str, Served]:
    """By protocol, whom a node is to those who dial it: for `RelayQuic`'s `apart`."""
    return {ALPN: Served(certificate_of(seed), (), Ed25519PrivateKey.from_private_bytes(seed))}


def dialing() -> QuicConfiguration:
    """The dialer's side of the handshake: ALPN vrl-t/1, version 1, nothing resumed, no authority asked."""
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        is_client=True,
        idle_timeout=IDLE_S,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_frame_size=MAX_PACKET,
        max_datagram_size=MAX_PACKET,
        cipher_suites=list(SUITES),
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=ssl.CERT_NONE,  # the handshake proves the key, and the pin says whose it is
    )


def pin_of(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo, of whatever kind its key is."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(info).digest()


def key_of(certificate: x509.Certificate) -> bytes | None:
    """The certificate's public key, 32 bytes; None: it is not of Ed25519."""
    key = certificate.public_key()
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None
