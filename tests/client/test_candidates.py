import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.client.candidates import (
    MAX_CANDIDATES,
    Candidate,
    Kind,
    Offer,
    Sealer,
    derive,
    epoch_of,
    gather,
    usable,
)
from relay.errors import PeerError
from relay.protocol.address import Address

SECRET, CALL = bytes(range(32)), bytes(range(16))
OFFER = Offer(
    b"certificate",
    (Candidate(Kind.HOST, Address("192.0.2.1", 4000)), Candidate(Kind.SRFLX, Address("2001:db8::1", 5000))),
)
DRAW = random.Random(1).randbytes


def test_what_one_seals_the_other_opens_and_nobody_else():
    blob = Sealer(SECRET, CALL, 0, 1).seal(OFFER, 3, 7, DRAW)
    assert epoch_of(blob) == 3
    assert Sealer(SECRET, CALL, 0, 1).open(blob, 7) == OFFER
    assert b"certificate" not in blob
    wrong = [
        (Sealer(SECRET, CALL, 0, 1), 8),
        (Sealer(SECRET, CALL, 1, 0), 7),
        (Sealer(SECRET, CALL, 0, 2), 7),
        (Sealer(SECRET, bytes(16), 0, 1), 7),
        (Sealer(bytes(32), CALL, 0, 1), 7),
    ]
    for sealer, generation in wrong:
        with pytest.raises(PeerError) as caught:
            sealer.open(blob, generation)
        assert not caught.value.fatal


@given(st.binary(max_size=80))
def test_bytes_of_somebody_else_are_a_peer_error(blob):
    with pytest.raises(PeerError):
        Sealer(SECRET, CALL, 0, 1).open(blob, 0)
    assert epoch_of(b"") == -1


@given(st.binary(max_size=60))
def test_nonsense_that_the_other_side_sealed_is_a_peer_error_too(text):
    sealer = Sealer(SECRET, CALL, 0, 1)
    blob = bytes(13) + sealer._aead.encrypt(bytes(12), text, sealer._bound(0))
    try:
        offer = sealer.open(blob, 0)
    except PeerError:
        return
    assert text[0] == 1
    assert len(offer.certificate) <= len(text)


def test_an_address_that_is_own_and_observed_is_told_once():
    seen = Address("198.51.100.1", 4000)
    assert gather(["192.0.2.1"], 4000, seen) == (
        Candidate(Kind.HOST, Address("192.0.2.1", 4000)),
        Candidate(Kind.SRFLX, seen),
    )
    assert gather(["198.51.100.1"], 4000, seen) == (Candidate(Kind.HOST, seen),)
    assert gather([], 4000, None) == ()
    assert len(gather([f"192.0.2.{n}" for n in range(99)], 1, seen)) == MAX_CANDIDATES


def test_a_packet_is_sent_to_somebody_or_not_at_all():
    told = [
        "224.0.0.1",
        "0.0.0.0",
        "fe80::1",
        "127.0.0.1",
        "::1",
        "255.255.255.255",
        "192.0.2.1",
        "192.0.2.1",
    ]
    offered = [Candidate(Kind.HOST, Address(host, 1)) for host in told]
    offered.append(Candidate(Kind.HOST, Address("192.0.2.9", 0)))
    assert usable(offered, []) == [Address("192.0.2.1", 1)]
    mine = [Candidate(Kind.HOST, Address("127.0.0.1", 2))]
    assert Address("127.0.0.1", 1) in usable(offered, mine)


def test_each_use_has_a_key_of_its_own():
    assert len({derive(SECRET, label) for label in (b"a", b"b", b"")}) == 3
