"""The QUIC connection between two people: a throw-away certificate, pinned by the key agreement.

    higher index   shows its certificate in TLS; it told it before, sealed           (server)
    lower index    takes that one certificate and no other, then proves itself by    (client)
                   MAC(secret of the path, certificate) on the first stream

aioquic asks no client for a certificate, so the client's proof goes inside the channel. It can go to nobody
else: the channel ends at whoever holds the key of the pinned certificate. Must never live here: sockets.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass, field
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.client.candidates import derive
from relay.errors import ErrorCode, PeerError
from relay.quic.connection import ClientQuic

ALPN: Final = "vrl-p/1"
PROOF_SIZE: Final = 32
PROVEN: Final = b"\x01"  # the server's answer to a good proof
_NAME: Final = "peer.vrl.invalid"  # no authority certifies it (RFC 6761 section 6.4)
_CLOCKS: Final = datetime.timedelta(days=7)  # a phone whose date is wrong shall still talk
_IDLE_S: Final = 10.0
_CID_SIZE: Final = 8
_MAX_CID_SIZE: Final = 20
_VERSIONS: Final = frozenset((QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2))
_MIN_INITIAL: Final = 1200  # RFC 9000 section 14.1
_MAX_DATAGRAM_FRAME: Final = 1200


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate that lives as long as a call, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate as the other side gets it."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


def make_identity() -> Identity:
    """A fresh key and its certificate; about a millisecond."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + _CLOCKS)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate, key)


def client(certificate: bytes) -> ClientQuic:
    """The lower index's end, which trusts this certificate (DER) alone. PeerError if it is none."""
    try:
        pem = x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
    except ValueError:
        raise PeerError(ErrorCode.BAD_ENCODING, "not a certificate", fatal=False) from None
    configuration = _configuration(is_client=True)
    configuration.server_name = _NAME
    configuration.verify_mode = ssl.CERT_REQUIRED
    configuration.load_verify_locations(cadata=pem)
    return ClientQuic(configuration=configuration)


def server(identity: Identity, first: bytes) -> ClientQuic | None:
    """The higher index's end for a first packet; None if that is none."""
    # version u32 at 1, size u8 of the destination id at 5, the id (RFC 8999 section 5.1)
    end = 6 + first[5] if len(first) >= _MIN_INITIAL else 0
    if not _CID_SIZE <= end - 6 <= _MAX_CID_SIZE or int.from_bytes(first[1:5], "big") not in _VERSIONS:
        return None
    configuration = _configuration(is_client=False)
    configuration.certificate = identity.certificate
    configuration.private_key = identity.key
    return ClientQuic(configuration=configuration, original_destination_connection_id=first[6:end])


def proof(secret: bytes, certificate: bytes) -> bytes:
    """What the lower index says first: it knows the path's secret and means this certificate's holder."""
    return derive(secret, b"proof" + hashlib.sha256(certificate).digest())


def _configuration(*, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        idle_timeout=_IDLE_S,
        max_datagram_frame_size=_MAX_DATAGRAM_FRAME,
        connection_id_length=_CID_SIZE,
    )
