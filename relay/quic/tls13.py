"""A server's TLS 1.3 handshake for QUIC: one flight out, one message back (RFC 8446 section 2, RFC 9001).

    ClientHello -> ServerHello | EncryptedExtensions, Certificate, CertificateVerify, Finished
    Finished    -> done

It stands where aioquic's `tls.Context` stands and is spoken to by its public names alone. No resumption, no
certificate of the client, no second ClientHello: nobody here uses them. Keys are plain HMAC, the Certificate
message is encoded once, and X25519, which every client of ours offers, is libsodium's, five times as quick as
through `cryptography`. Must never live here: private names of aioquic, and packets.
"""

from __future__ import annotations

import datetime
import functools
import hmac
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from aioquic import tls
from aioquic._buffer import Buffer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from nacl import bindings as sodium

from relay.quic import hello
from relay.quic.handshake import SUITES

Choice = TypeVar("Choice")

MAX_MESSAGE: Final = 16 * 1024  # held until it is whole; a ClientHello with post-quantum shares has 2 kB
_KEY_SIZE: Final = 32  # of X25519 (RFC 7748 section 5)
_CURVES: Final[dict[int, ec.EllipticCurve]] = {
    tls.Group.SECP256R1: ec.SECP256R1(),
    tls.Group.SECP384R1: ec.SECP384R1(),
}
_SUPPORTED_VERSIONS: Final = bytes.fromhex("002b 0002 0304")  # TLS 1.3 is chosen
_SIGNED: Final = b" " * 64 + tls.SERVER_CONTEXT_STRING + b"\0"  # (RFC 8446 section 4.4.3.)
_CLIENT_HELLO: Final = tls.HandshakeType.CLIENT_HELLO
_CERTIFICATE_VERIFY: Final = tls.HandshakeType.CERTIFICATE_VERIFY
_FINISHED: Final = tls.HandshakeType.FINISHED


def _behind_length(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _message(kind: tls.HandshakeType, body: bytes) -> bytes:
    return bytes((kind,)) + _behind_length(3, body)


def _extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + _behind_length(2, body)


def _schemes(key: PrivateKeyTypes) -> Sequence[tls.SignatureAlgorithm]:
    """What a key signs by, best first (RFC 8446 section 4.2.3)."""
    if isinstance(key, rsa.RSAPrivateKey):
        return (tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA256, tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA384)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return (tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256,)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return (tls.SignatureAlgorithm.ECDSA_SECP384R1_SHA384,)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return (tls.SignatureAlgorithm.ED25519,)
    if isinstance(key, ed448.Ed448PrivateKey):
        return (tls.SignatureAlgorithm.ED448,)
    raise ValueError("the key signs by no algorithm of TLS 1.3")


class Served:
    """Who the server is: its certificate's message, encoded once, and how it signs.

    Raises ValueError for a key that nothing can be signed with.
    """

    def __init__(
        self, certificate: x509.Certificate, chain: Sequence[x509.Certificate], key: PrivateKeyTypes
    ) -> None:
        self.not_valid_after_utc: datetime.datetime = certificate.not_valid_after_utc
        entries = b"".join(
            _behind_length(3, each.public_bytes(Encoding.DER)) + b"\0\0" for each in (certificate, *chain)
        )
        self.message = _message(tls.HandshakeType.CERTIFICATE, b"\0" + _behind_length(3, entries))
        self.schemes = {scheme: tls.signature_algorithm_params(scheme) for scheme in _schemes(key)}
        self._key: Any = key  # each kind signs with arguments of its own

    def sign(self, scheme: tls.SignatureAlgorithm, content: bytes) -> bytes:
        """A signature by one of `schemes`."""
        signature: bytes = self._key.sign(content, *self.schemes[scheme])
        return signature


def agree(shares: Sequence[tuple[int, bytes]]) -> tuple[int, bytes, bytes]:
    """Group, our public key and the shared secret; X25519 if it is offered, else the client's first.

    tls.AlertIllegalParameter: a key that is none. tls.AlertHandshakeFailure: no group of ours.
    """
    offered = dict(reversed(shares))  # the first of a group counts
    theirs = offered.get(tls.Group.X25519)
    if theirs is not None:
        if len(theirs) != _KEY_SIZE:
            raise tls.AlertIllegalParameter("ClientHello has an invalid key share")
        secret = os.urandom(_KEY_SIZE)
        try:
            shared = sodium.crypto_scalarmult(secret, theirs)
        except RuntimeError as error:  # a point of small order (RFC 8446 section 7.4.2)
            raise tls.AlertIllegalParameter("ClientHello has an invalid key share") from error
        return tls.Group.X25519, sodium.crypto_scalarmult_base(secret), shared
    for group, theirs in shares:
        if group in _CURVES:
            curve = _CURVES[group]
            try:
                point = ec.EllipticCurvePublicKey.from_encoded_point(curve, theirs)
            except ValueError as error:
                raise tls.AlertIllegalParameter("ClientHello has an invalid key share") from error
            key = ec.generate_private_key(curve)
            return group, tls.encode_public_key(key.public_key())[1], key.exchange(ec.ECDH(), point)
    raise tls.AlertHandshakeFailure("No supported key share")


class _Schedule:
    """The key schedule (RFC 8446 section 7.1) of a suite: what is the same in every handshake."""

    def __init__(self, suite: tls.CipherSuite) -> None:
        self.mac, self.hash, _ = SUITES[suite]  # HKDF-Extract is one HMAC
        size = self.hash(b"").digest_size
        self.nothing = bytes(size)
        self.finished = self._label(b"finished", 0)
        self.server_handshake = self._label(b"s hs traffic", size)
        self.client_handshake = self._label(b"c hs traffic", size)
        self.server_traffic = self._label(b"s ap traffic", size)
        self.client_traffic = self._label(b"c ap traffic", size)
        self._derived = self._label(b"derived", size) + self.hash(b"").digest()
        self._without_psk = self.after(self.mac(self.nothing, self.nothing))

    def _label(self, label: bytes, context: int) -> bytes:
        size = len(self.nothing)
        return tls.hkdf_label(label, bytes(context), size)[: -context or None]

    def expand(self, secret: bytes, label: bytes, transcript: bytes = b"") -> bytes:
        """HKDF-Expand-Label to one block; `label` is an attribute of this object."""
        return self.mac(secret, label + transcript + b"\x01")

    def after(self, secret: bytes) -> bytes:
        """The salt of the secret that comes after this one."""
        return self.expand(secret, self._derived)

    def handshake(self, shared: bytes) -> bytes:
        """The handshake secret."""
        return self.mac(self._without_psk, shared)

    def master(self, handshake: bytes) -> bytes:
        """The master secret."""
        return self.mac(self.after(handshake), self.nothing)


@functools.cache
def _schedule(suite: tls.CipherSuite) -> _Schedule:
    return _Schedule(suite)


class ServerTls(tls.Context):
    """TLS of one connection. aioquic sets `alpn_cb`, `update_traffic_key_cb` and `handshake_extensions`."""

    def __init__(
        self,
        served: Served,
        protocols: Sequence[str],
        suites: Sequence[tls.CipherSuite],
        apart: Mapping[str, Served] = MappingProxyType({}),
    ) -> None:
        """`apart`: protocols beyond these, after them, that are answered by a certificate of their own."""
        # Not aioquic's: what it would set up is for resumption, for clients, and for its own messages.
        self.state = tls.State.SERVER_EXPECT_CLIENT_HELLO
        self.alpn_negotiated = None
        self.early_data_accepted = False
        self.received_extensions = None
        self.handshake_extensions: list[tuple[int, bytes]] = []
        self.client_random = b""
        self.legacy_session_id = b""
        self.alpn_cb = None
        self.update_traffic_key_cb = _nobody
        self._served = served
        self._apart = {name.encode("ascii"): another for name, another in apart.items()}
        self._protocols = [*(each.encode("ascii") for each in protocols), *self._apart]
        self._suites = suites
        self._heard = b""
        self._expected = b""
        self._next_key: tuple[tls.CipherSuite, bytes]

    @property
    def session_resumed(self) -> bool:
        """Never."""
        return False

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """Bytes of the client, in order; answers go to `output_buf`. tls.Alert: they end the connection."""
        self._heard += input_data
        if len(self._heard) < 4:
            return
        end = 4 + int.from_bytes(self._heard[1:4], "big")
        if end > MAX_MESSAGE:
            raise tls.AlertDecodeError("a message larger than any that is awaited")
        if len(self._heard) < end:
            return
        if len(self._heard) > end:  # a client waits for our flight, and then has said all
            raise tls.AlertUnexpectedMessage
        message, self._heard = self._heard, b""
        if self.state is tls.State.SERVER_EXPECT_CLIENT_HELLO and message[0] == _CLIENT_HELLO:
            self._answer(message, output_buf)
        elif self.state is tls.State.SERVER_EXPECT_FINISHED and message[0] == _FINISHED:
            self._finish(message)
        else:
            raise tls.AlertUnexpectedMessage

    def _answer(self, message: bytes, output: dict[tls.Epoch, Buffer]) -> None:
        offered = hello.parse(message)
        suite, scheme, protocol = self._choose(offered)
        self.alpn_negotiated = name = protocol.decode("ascii")
        self.client_random = offered.random
        self.legacy_session_id = offered.session_id
        self.received_extensions = list(offered.extensions.items())
        if self.alpn_cb is not None:
            self.alpn_cb(name)
        group, public, shared = agree(offered.shares or ())

        schedule = _schedule(suite)
        server_hello = _server_hello(offered.session_id, suite, group, public)
        output[tls.Epoch.INITIAL].push_bytes(server_hello)
        transcript = schedule.hash(message + server_hello)
        secret = schedule.handshake(shared)
        heard = transcript.digest()
        ours = schedule.expand(secret, schedule.server_handshake, heard)
        theirs = schedule.expand(secret, schedule.client_handshake, heard)
        tell = self.update_traffic_key_cb
        tell(tls.Direction.ENCRYPT, tls.Epoch.HANDSHAKE, suite, ours)
        tell(tls.Direction.DECRYPT, tls.Epoch.HANDSHAKE, suite, theirs)

        flight = _encrypted_extensions(protocol, self.handshake_extensions) + self._served.message
        transcript.update(flight)
        signature = self._served.sign(scheme, _SIGNED + transcript.digest())
        verify = _message(_CERTIFICATE_VERIFY, scheme.to_bytes(2, "big") + _behind_length(2, signature))
        transcript.update(verify)
        proof = schedule.mac(schedule.expand(ours, schedule.finished), transcript.digest())
        finished = _message(_FINISHED, proof)
        transcript.update(finished)
        output[tls.Epoch.HANDSHAKE].push_bytes(flight + verify + finished)

        said = transcript.digest()
        secret = schedule.master(secret)
        ours = schedule.expand(secret, schedule.server_traffic, said)
        tell(tls.Direction.ENCRYPT, tls.Epoch.ONE_RTT, suite, ours)
        self._next_key = suite, schedule.expand(secret, schedule.client_traffic, said)
        self._expected = _message(_FINISHED, schedule.mac(schedule.expand(theirs, schedule.finished), said))
        self.state = tls.State.SERVER_EXPECT_FINISHED

    def _choose(self, offered: hello.ClientHello) -> tuple[tls.CipherSuite, tls.SignatureAlgorithm, bytes]:
        """The first of ours that the client offers, of each kind. tls.Alert: there is none."""
        protocol = _first(self._protocols, offered.protocols or ())
        self._served = self._apart.get(protocol or b"", self._served)
        suite = _first(self._suites, offered.suites)
        if suite is None:
            raise tls.AlertHandshakeFailure("No supported cipher suite")
        if 0 not in offered.compressions:
            raise tls.AlertHandshakeFailure("No supported compression method")
        scheme = _first(self._served.schemes, offered.signatures or ())
        if scheme is None:
            raise tls.AlertHandshakeFailure("No supported signature algorithm")
        if tls.TLS_VERSION_1_3 not in (offered.versions or ()):
            raise tls.AlertProtocolVersion("No supported protocol version")
        if offered.shares is None:
            raise tls.AlertMissingExtension("ClientHello has no key share")
        if protocol is None:
            raise tls.AlertNoApplicationProtocol("No common ALPN protocols")
        return suite, scheme, protocol

    def _finish(self, message: bytes) -> None:
        if len(message) != len(self._expected):
            raise tls.AlertDecodeError("Finished of another size than its hash")
        if not hmac.compare_digest(message, self._expected):
            raise tls.AlertDecryptError
        self.update_traffic_key_cb(tls.Direction.DECRYPT, tls.Epoch.ONE_RTT, *self._next_key)
        self.state = tls.State.SERVER_POST_HANDSHAKE


def _nobody(direction: tls.Direction, epoch: tls.Epoch, suite: tls.CipherSuite, secret: bytes) -> None:
    """Hears of keys until aioquic says who does."""


def _first(ours: Iterable[Choice], offered: Container[object]) -> Choice | None:
    return next((each for each in ours if each in offered), None)


def _server_hello(session_id: bytes, suite: tls.CipherSuite, group: int, public: bytes) -> bytes:
    share = group.to_bytes(2, "big") + _behind_length(2, public)
    return _message(
        tls.HandshakeType.SERVER_HELLO,
        hello.LEGACY_VERSION
        + os.urandom(32)
        + _behind_length(1, session_id)
        + suite.to_bytes(2, "big")
        + b"\0"  # no compression
        + _behind_length(2, _SUPPORTED_VERSIONS + _extension(tls.ExtensionType.KEY_SHARE, share)),
    )


def _encrypted_extensions(protocol: bytes, others: Sequence[tuple[int, bytes]]) -> bytes:
    extensions = _extension(tls.ExtensionType.ALPN, _behind_length(2, _behind_length(1, protocol)))
    extensions += b"".join(_extension(kind, body) for kind, body in others)
    return _message(tls.HandshakeType.ENCRYPTED_EXTENSIONS, _behind_length(2, extensions))
