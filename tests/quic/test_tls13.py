"""The server's handshake: aioquic's client agrees with it, and it refuses as aioquic's server does."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from aioquic import tls
from aioquic._buffer import Buffer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from relay.quic.connection import SUITES
from relay.quic.tls13 import MAX_MESSAGE, Served, ServerTls, agree

KEYS: dict[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}
GROUPS = [tls.Group.X25519, tls.Group.SECP256R1, tls.Group.SECP384R1]
EXTRA = (tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"of the server")
Buffers = dict[tls.Epoch, Buffer]


@cache
def identity(kind: str) -> tuple[x509.Certificate, Any]:
    key = KEYS[kind]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begins = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=36500))
        .sign(key, None if kind.startswith("ed") else hashes.SHA256())
    )
    return built, key


def buffers() -> Buffers:
    return {epoch: Buffer(capacity=8192) for epoch in tls.Epoch}


def taken(output: Buffers, epoch: tls.Epoch) -> bytes:
    data = output[epoch].data
    output[epoch].seek(0)
    return data


class Secrets(dict[tuple[tls.Direction, tls.Epoch], tuple[tls.CipherSuite, bytes]]):
    def note(self, direction: tls.Direction, epoch: tls.Epoch, suite: tls.CipherSuite, secret: bytes) -> None:
        assert (direction, epoch) not in self
        self[direction, epoch] = (suite, secret)


def client_of(suites: list[tls.CipherSuite] | None = None, groups: list[tls.Group] = GROUPS) -> tls.Context:
    client = tls.Context(
        is_client=True, alpn_protocols=["other", "vrl/1"], cipher_suites=suites, verify_mode=ssl.CERT_NONE
    )
    client._supported_groups = groups
    client.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"of the client")]
    return client


def hello_of(client: tls.Context) -> bytes:
    output = buffers()
    client.handle_message(b"", output)
    return taken(output, tls.Epoch.INITIAL)


def server_of(kind: str = "p256", chain: int = 0) -> ServerTls:
    certificate, key = identity(kind)
    server = ServerTls(Served(certificate, [certificate] * chain, key), ["vrl/1"], SUITES)
    server.handshake_extensions = [EXTRA]
    return server


def theirs() -> tls.Context:
    """aioquic's own server."""
    server = tls.Context(is_client=False, alpn_protocols=["vrl/1"], cipher_suites=list(SUITES))
    server.certificate, server.certificate_private_key = identity("p256")
    return server


def shake(client: tls.Context, server: ServerTls, piece: int = MAX_MESSAGE) -> tuple[Secrets, Secrets]:
    """A whole handshake, whose bytes reach the server in pieces."""
    secrets = Secrets(), Secrets()
    client.update_traffic_key_cb, server.update_traffic_key_cb = secrets[0].note, secrets[1].note
    output, answers = buffers(), buffers()

    def say(data: bytes) -> None:
        for at in range(0, len(data), piece):
            server.handle_message(data[at : at + piece], answers)

    say(hello_of(client))
    for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE):
        client.handle_message(taken(answers, epoch), output)
    assert server.state is tls.State.SERVER_EXPECT_FINISHED
    say(taken(output, tls.Epoch.HANDSHAKE))
    return secrets


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", KEYS)
def test_a_client_of_aioquic_ends_with_the_same_secrets(
    kind: str, suite: tls.CipherSuite, group: tls.Group
) -> None:
    client, server = client_of([suite], [group]), server_of(kind, chain=2)
    said: list[str] = []
    server.alpn_cb = said.append
    ours, here = shake(client, server)
    assert server.state is tls.State.SERVER_POST_HANDSHAKE
    assert client.state is tls.State.CLIENT_POST_HANDSHAKE
    other = {tls.Direction.ENCRYPT: tls.Direction.DECRYPT, tls.Direction.DECRYPT: tls.Direction.ENCRYPT}
    assert {(other[direction], epoch): key for (direction, epoch), key in ours.items()} == here
    assert [len(here), *{key[0] for key in here.values()}] == [4, suite]
    assert said == [client.alpn_negotiated] == [server.alpn_negotiated] == ["vrl/1"]
    assert client.received_extensions == [EXTRA]
    assert (tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"of the client") in (
        server.received_extensions or []
    )
    assert client._peer_certificate_chain == [identity(kind)[0]] * 2
    assert not server.session_resumed
    assert not server.early_data_accepted


def test_messages_may_come_byte_by_byte() -> None:
    client, server = client_of(), server_of()
    shake(client, server, piece=1)
    assert server.state is tls.State.SERVER_POST_HANDSHAKE


def test_no_key_to_read_by_before_the_client_has_proven_itself() -> None:
    secrets = Secrets()
    server = server_of()
    server.update_traffic_key_cb = secrets.note
    server.handle_message(hello_of(client_of()), buffers())
    assert (tls.Direction.ENCRYPT, tls.Epoch.ONE_RTT) in secrets
    assert (tls.Direction.DECRYPT, tls.Epoch.ONE_RTT) not in secrets


def test_x25519_is_taken_where_it_is_offered() -> None:
    for groups in (GROUPS, GROUPS[::-1]):
        client = client_of(groups=groups)
        shake(client, server_of())
        assert client._x25519_private_key is not None
        assert (
            agree([(tls.Group.SECP256R1, b""), (tls.Group.X25519, b"\x09" + bytes(31))])[0]
            == groups[groups.index(tls.Group.X25519)]
        )


def refusal(server: tls.Context, message: bytes) -> type[Exception] | None:
    try:
        server.handle_message(message, buffers())
    except tls.Alert as alert:
        return type(alert)
    return None


def changed(**changes: Any) -> bytes:
    """A hello of aioquic's client, with other fields."""
    hello = replace(tls.pull_client_hello(Buffer(data=hello_of(client_of()))), **changes)
    buf = Buffer(capacity=8192)
    tls.push_client_hello(buf, hello)
    return buf.data


HELLOS: dict[str, tuple[Callable[[], bytes], type[tls.Alert] | None]] = {
    "as it is": (changed, None),
    "no suite of ours": (lambda: changed(cipher_suites=[0x1304]), tls.AlertHandshakeFailure),
    "compressed only": (lambda: changed(legacy_compression_methods=[1]), tls.AlertHandshakeFailure),
    "no signature of ours": (lambda: changed(signature_algorithms=[0x0807]), tls.AlertHandshakeFailure),
    "TLS 1.2 only": (lambda: changed(supported_versions=[0x0303]), tls.AlertProtocolVersion),
    "no ALPN of ours": (lambda: changed(alpn_protocols=["other"]), tls.AlertNoApplicationProtocol),
    "no ALPN": (lambda: changed(alpn_protocols=None), tls.AlertNoApplicationProtocol),
    "no key share": (lambda: changed(key_share=[]), tls.AlertHandshakeFailure),
    "an unknown group": (lambda: changed(key_share=[(0x6399, bytes(8))]), tls.AlertHandshakeFailure),
    "a key of 31 bytes": (lambda: changed(key_share=[(0x1D, b"\x09" * 31)]), tls.AlertIllegalParameter),
    "a point of small order": (lambda: changed(key_share=[(0x1D, bytes(32))]), tls.AlertIllegalParameter),
    "a point beside the curve": (
        lambda: changed(key_share=[(0x17, b"\4" + b"\1" * 64)]),
        tls.AlertIllegalParameter,
    ),
    "a ServerHello": (lambda: b"\2" + changed()[1:], tls.AlertUnexpectedMessage),
    "another legacy version": (lambda: changed()[:4] + b"\3\4" + changed()[6:], tls.AlertDecodeError),
    "a byte behind its extensions": (
        lambda: b"\1" + (len(changed()) - 3).to_bytes(3, "big") + changed()[4:] + b"\0",
        tls.AlertDecodeError,
    ),
}


@pytest.mark.parametrize("row", HELLOS)
def test_a_hello_is_refused_as_aioquic_refuses_it(row: str) -> None:
    make, alert = HELLOS[row]
    message = make()
    assert refusal(server_of(), message) == refusal(theirs(), message) == alert


def test_a_hello_without_the_key_share_extension_lacks_it() -> None:
    message = changed()
    share = message.index(b"\0\x33")
    message = message[: share + 1] + b"\x34" + message[share + 2 :]
    assert refusal(server_of(), message) == refusal(theirs(), message) == tls.AlertMissingExtension


def test_what_follows_a_message_at_once_is_unexpected() -> None:
    assert refusal(server_of(), hello_of(client_of()) + b"\x14") == tls.AlertUnexpectedMessage


def test_a_message_that_is_too_large_is_not_awaited() -> None:
    assert refusal(server_of(), b"\1" + (MAX_MESSAGE - 4).to_bytes(3, "big")) is None
    assert refusal(server_of(), b"\1" + (MAX_MESSAGE - 3).to_bytes(3, "big")) == tls.AlertDecodeError


@pytest.mark.parametrize(
    ("finished", "alert"),
    [
        (b"\x14\0\0\x20" + bytes(32), tls.AlertDecryptError),
        (b"\x14\0\0\x1f" + bytes(31), tls.AlertDecodeError),
        (b"\x14\0\0\0", tls.AlertDecodeError),
        (b"\x0b\0\0\x04" + bytes(4), tls.AlertUnexpectedMessage),
    ],
)
def test_a_client_that_does_not_prove_itself_is_refused(finished: bytes, alert: type[tls.Alert]) -> None:
    server = server_of()
    server.handle_message(hello_of(client_of()), buffers())
    assert refusal(server, finished) == alert
    assert server.state is tls.State.SERVER_EXPECT_FINISHED


def test_nothing_is_expected_after_the_handshake() -> None:
    server = server_of()
    shake(client_of(), server)
    assert refusal(server, b"\x18\0\0\1\0") == tls.AlertUnexpectedMessage


def test_a_key_that_signs_by_nothing_of_tls_13_is_refused() -> None:
    certificate, _ = identity("p256")
    for key in (ec.generate_private_key(ec.SECP521R1()), dsa.generate_private_key(1024)):
        with pytest.raises(ValueError, match="signs by no algorithm"):
            Served(certificate, [], key)


def test_the_certificate_knows_its_end() -> None:
    certificate, key = identity("p256")
    assert Served(certificate, [], key).not_valid_after_utc == certificate.not_valid_after_utc


def test_a_protocol_that_is_apart_is_answered_by_its_own_certificate() -> None:
    certificate, key = identity("p256")
    another, another_key = identity("ed25519")
    cases = ((["apart"], another), (["vrl/1"], certificate), (["apart", "vrl/1"], certificate))
    for protocols, shown in cases:
        apart = {"apart": Served(another, [], another_key)}
        server = ServerTls(Served(certificate, [], key), ["vrl/1"], SUITES, apart)
        server.handshake_extensions = [EXTRA]
        client = client_of()
        client._alpn_protocols = protocols
        shake(client, server)
        assert client._peer_certificate == shown
