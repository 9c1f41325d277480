"""The connection between two people, two engines back to back: who is let in and who is not."""

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted

from relay.client import pinned
from relay.errors import PeerError

ADDRESSES = ("192.0.2.1", 1), ("192.0.2.2", 2)


def shake(identity: pinned.Identity, trusted: bytes) -> tuple[list[object], list[object]]:
    """Events of client and server after a handshake on a perfect network."""
    client = pinned.client(trusted)
    server: QuicConnection | None = None
    client.connect(ADDRESSES[1], 0.0)
    for _ in range(6):
        for data, _ in client.datagrams_to_send(0.0):
            server = server or pinned.server(identity, data)
            assert server is not None
            server.receive_datagram(data, ADDRESSES[0], 0.0)
        assert server is not None
        for data, _ in server.datagrams_to_send(0.0):
            client.receive_datagram(data, ADDRESSES[1], 0.0)
    client.handle_timer(20.0)
    return [list(iter(one.next_event, None)) for one in (client, server)]


def has(events: list[object], kind: type) -> bool:
    return any(isinstance(event, kind) for event in events)


def test_the_certificate_that_was_told_is_taken():
    identity = pinned.make_identity()
    client, server = shake(identity, identity.der)
    assert has(client, HandshakeCompleted)
    assert has(server, HandshakeCompleted)


def test_any_other_certificate_is_refused():
    client, server = shake(pinned.make_identity(), pinned.make_identity().der)
    assert not has(client, HandshakeCompleted)
    assert not has(server, HandshakeCompleted)
    assert has(client, ConnectionTerminated)


def test_what_is_no_certificate_is_the_other_sides_fault():
    with pytest.raises(PeerError):
        pinned.client(b"not a certificate")


@pytest.mark.parametrize(
    "first",
    [
        b"",
        bytes(1199),
        b"\xc0\0\0\0\1\x07" + bytes(1300),  # an id too short
        b"\xc0\0\0\0\1\x15" + bytes(1300),  # too long
        b"\xc0\x1a\x1a\x1a\x1a\x08" + bytes(1300),  # another version
    ],
)
def test_what_is_no_first_packet_opens_nothing(first):
    assert pinned.server(pinned.make_identity(), first) is None


def test_a_proof_is_for_one_secret_and_one_certificate():
    one, other = pinned.make_identity().der, pinned.make_identity().der
    proofs = {pinned.proof(secret, der) for secret in (bytes(32), bytes(range(32))) for der in (one, other)}
    assert len(proofs) == 4
    assert {len(proof) for proof in proofs} == {pinned.PROOF_SIZE}


def test_a_key_does_not_show():
    assert "key" not in repr(pinned.make_identity())
