"""Quicker key derivation gives aioquic's keys; what a finished handshake leaves behind."""

from __future__ import annotations

import hmac

import pytest
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionAdapter
from aioquic.quic.crypto import CryptoContext, CryptoPair, apply_key_phase, derive_key_iv_hp, next_key_phase
from aioquic.quic.packet import QuicProtocolVersion
from hypothesis import given
from hypothesis import strategies as st

from quicpair import QuicPair
from relay.quic.connection import SUITES
from relay.quic.handshake import QuickContext, Silent, derive, hmac_sha256, initial_pair

VERSIONS = [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2]
SECRETS = {suite: bytes(range(tls.cipher_suite_hash(suite).digest_size)) for suite in SUITES}


@given(st.binary(max_size=64), st.binary(max_size=300))
def test_the_plain_hmac_is_that_of_the_library(key: bytes, message: bytes) -> None:
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suite", SUITES)
def test_packet_keys_are_those_of_aioquic(suite: tls.CipherSuite, version: int) -> None:
    expected = derive_key_iv_hp(cipher_suite=suite, secret=SECRETS[suite], version=version)
    assert derive(suite, SECRETS[suite], version) == expected


@pytest.mark.parametrize("suite", SUITES)
def test_a_context_seals_what_aioquic_opens(suite: tls.CipherSuite) -> None:
    quick, plain = QuickContext(), CryptoContext()
    for context in (quick, plain):
        context.setup(cipher_suite=suite, secret=SECRETS[suite], version=VERSIONS[0])
    packet = quick.encrypt_packet(b"\x41" + bytes(8) + b"\0\7", bytes(40), 7)
    assert plain.decrypt_packet(packet, 9, 7)[1:3] == (bytes(40), 7)


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_of_first_packets_are_those_of_aioquic(version: int) -> None:
    theirs = CryptoPair()
    theirs.setup_initial(cid=b"original", is_client=False, version=version)
    ours = initial_pair(b"original", version)
    assert (ours.recv.secret, ours.send.secret) == (theirs.recv.secret, theirs.send.secret)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suite", SUITES)
def test_keys_of_the_phase_to_come_are_those_of_aioquic(suite: tls.CipherSuite, version: int) -> None:
    quick, plain = QuickContext(), CryptoContext()
    for context in (quick, plain):
        context.setup(cipher_suite=suite, secret=SECRETS[suite], version=version)
    coming = quick.coming()
    for context in (quick, plain):
        apply_key_phase(context, next_key_phase(context), trigger="test")
    assert plain.secret is not None
    expected = derive_key_iv_hp(cipher_suite=suite, secret=plain.secret, version=version)
    assert coming == quick.current()[:2] == expected[:2]
    assert quick.current()[2] == derive(suite, SECRETS[suite], version)[2]


def test_a_client_that_begins_with_version_2_gets_version_2() -> None:
    pair = QuicPair(version=QuicProtocolVersion.VERSION_2)
    assert pair.connected().is_confirmed
    assert pair.client._version == QuicProtocolVersion.VERSION_2
    for _ in range(20):
        pair.client.send_datagram_frame(bytes(80))
        pair.send_media(bytes(80))
        pair.run(0.02)
    assert len(pair.media) == 20


def test_a_client_that_offers_both_versions_stays_with_its_first() -> None:
    pair = QuicPair()
    assert pair.client._version == QuicProtocolVersion.VERSION_1
    information = pair.client._remote_version_information
    assert information is not None
    assert information.available_versions == [QuicProtocolVersion.VERSION_1]


def test_nothing_of_the_handshake_stays_once_it_is_confirmed() -> None:
    server = QuicPair().connected()
    assert vars(server.tls) == {"state": tls.State.SERVER_POST_HANDSHAKE}
    assert server._crypto_buffers == {}
    assert list(server._crypto_streams) == [tls.Epoch.ONE_RTT]
    assert [space.is_application_data for space in server._loss.spaces] == [True]
    keyless = (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ZERO_RTT)
    assert not any(server._cryptos[epoch].recv.is_valid() for epoch in keyless)


def test_late_packets_of_the_handshake_are_ignored() -> None:
    pair = QuicPair(keep=True)
    server = pair.connected()
    for data in pair.sent_by_client:
        if data[0] >= 0x80:
            server.receive_datagram(data, pair.client_addr, pair.now)
    pair.client.send_datagram_frame(bytes(50))
    pair.run(0.1)
    assert server.close_code == 0
    assert len(pair.media) == 1


def test_a_tls_message_after_the_handshake_closes_the_connection() -> None:
    pair = QuicPair()
    pair.client._crypto_streams[tls.Epoch.ONE_RTT].sender.write(b"\x18\0\0\1\0")
    pair.run(0.2)
    assert pair.connected().close_code == 0x100 + tls.AlertDescription.unexpected_message


def test_the_silent_log_takes_the_place_of_aioquics() -> None:
    silent = Silent()
    assert isinstance(silent, QuicConnectionAdapter)
    for say in (silent.debug, silent.info, silent.warning):
        say("%s", "nothing is formatted", 1)
    assert isinstance(QuicPair().connected()._logger, Silent)


def test_the_server_configuration_announces_one_version() -> None:
    configuration: QuicConfiguration = QuicPair().connected().configuration
    assert configuration.supported_versions == [QuicProtocolVersion.VERSION_1]
