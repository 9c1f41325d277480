import random

import pytest

from relay.client.knock import ATTEMPTS, MAX_ADDRESSES, SIZE, Knocker
from relay.protocol.address import Address

SECRET = bytes(range(32))
ANN, BOB = Address("192.0.2.1", 1), Address("198.51.100.1", 2)
ELSEWHERE = Address("203.0.113.1", 3)


def knocker(own: int, *addresses: Address, secret: bytes = SECRET) -> Knocker:
    return Knocker(secret, own, 1 - own, addresses, random.Random(own).randbytes)


def test_an_ask_is_answered_and_the_answer_proves_the_address_and_its_round_trip():
    ann, bob = knocker(0, BOB), knocker(1)
    assert ann.next_deadline() is None
    ann.begin_round(1.0)
    assert ann.next_deadline() == 1.0
    [ask] = ann.due(1.0)
    assert (ask.address, len(ask.data)) == (BOB, SIZE)
    answer, back = bob.receive(ask.data, ANN, 1.01)
    assert (answer.address, back.address) == (ANN, ANN)  # asked back where nobody told it to
    assert ann.receive(answer.data, BOB, 1.02) == []
    assert ann.found == BOB
    assert ann.rtt == pytest.approx(0.02)
    assert ann.next_deadline() is None
    [own] = ann.receive(back.data, BOB, 1.02)
    bob.receive(own.data, ANN, 1.03)
    assert bob.found == ANN
    assert ann.heard == {BOB}


def test_a_round_tries_each_address_several_times_and_the_next_round_begins_anew():
    ann = knocker(0, BOB, ELSEWHERE)
    ann.begin_round(0.0)
    assert len(ann.due(10.0)) == 2 * len(ATTEMPTS)
    ann.begin_round(20.0)
    assert len(ann.due(20.0)) == 2
    assert ann.next_deadline() == pytest.approx(20.05)


def test_a_later_round_asks_the_address_that_answered_so_that_whoever_began_anew_hears_it():
    ann, bob = knocker(0, ELSEWHERE, BOB), knocker(1)
    ann.begin_round(0.0)
    [_, ask] = ann.due(0.0)
    answer, _ = bob.receive(ask.data, ANN, 0.1)
    ann.receive(answer.data, BOB, 0.2)
    assert ann.next_deadline() is None
    assert ann.due(10.0) == []  # of that round nothing more
    ann.begin_round(20.0)
    assert [packet.address for packet in ann.due(20.0)] == [BOB]
    again = knocker(1)
    again.receive(ann.due(30.0)[0].data, ANN, 30.0)
    assert again.heard == {ANN}


def test_an_answer_from_another_address_or_to_another_question_proves_nothing():
    ann, bob = knocker(0, BOB), knocker(1, ANN)
    ann.begin_round(0.0)
    [ask] = ann.due(0.0)
    [answer] = bob.receive(ask.data, ANN, 0.1)
    ann.receive(answer.data, ELSEWHERE, 0.2)
    assert ann.found is None
    ann.receive(answer.data, BOB, 0.2)  # its nonce is spent
    assert ann.found is None


def test_what_is_not_from_the_other_side_gets_no_answer():
    ann, bob = knocker(0, BOB), knocker(1, ANN)
    ann.begin_round(0.0)
    [ask] = ann.due(0.0)
    stranger = knocker(0, BOB, secret=bytes(32))
    stranger.begin_round(0.0)
    data = ask.data
    for wrong in (
        stranger.due(0.0)[0].data,
        data[:-1],
        data + b"\0",
        b"\x21" + data[1:],
        data[:1] + b"\2" + data[2:],
        data[:-1] + bytes((data[-1] ^ 1,)),
    ):
        assert bob.receive(wrong, ANN, 0.1) == []
    assert ann.receive(data, BOB, 0.1) == []  # one's own, reflected
    third = Knocker(SECRET, 1, 0, [], random.Random(3).randbytes)
    odd = third._packet(7, bytes(8))
    assert ann.receive(odd, BOB, 0.1) == []
    assert not bob.heard


def test_an_answer_is_never_larger_than_its_question_and_addresses_learned_are_few():
    bob = knocker(1)
    ann = knocker(0, BOB)
    ann.begin_round(0.0)
    [ask] = ann.due(0.0)
    for n in range(3 * MAX_ADDRESSES):
        packets = bob.receive(ask.data, Address("192.0.2.1", 100 + n), 0.1)
        assert all(len(packet.data) == SIZE for packet in packets)
    assert len(bob._addresses) == len(bob.heard) == MAX_ADDRESSES
    bob.begin_round(0.0)
    for _ in range(3):
        bob.begin_round(0.0)
        bob.due(5.0)
    assert len(bob._asked) <= MAX_ADDRESSES * len(ATTEMPTS)
