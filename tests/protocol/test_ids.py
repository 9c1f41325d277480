"""Ids have one size each and never print whole."""

import pytest

from relay.errors import LocalError
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sid, Sub, reference, short

SIZES = [(CallId, 16), (Sub, 16), (Jti, 16), (Kid, 8), (PersonId, 16), (Sid, 16)]


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_an_id_takes_its_own_size_and_no_other(kind, size):
    assert kind(bytes(size)) == bytes(size)
    for wrong in (0, size - 1, size + 1):
        with pytest.raises(LocalError):
            kind(bytes(wrong))


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_no_text_form_of_an_id_shows_more_than_two_bytes(kind, size):
    value = kind(bytes(range(0xA0, 0xA0 + size)))
    for text in (repr(value), str(value), f"{value}", f"{value!s:>60}", "%s" % (value,), f"{[value]}"):  # noqa: UP031 - the old form must be safe too
        assert "a2" not in text


def test_a_shortened_id_says_its_type_and_first_bytes():
    assert repr(CallId(bytes.fromhex("1a2b") + bytes(14))) == "CallId(1a2b…)"
    assert short(b"\x01\x02\x03") == "0102…"


def test_a_person_id_shows_nothing_at_all():
    assert f"{PersonId(bytes(range(16)))}" == "PersonId(…)"


def test_whoever_asks_for_hex_gets_the_whole_id():
    assert CallId(bytes(range(16))).hex() == "000102030405060708090a0b0c0d0e0f"


def test_an_id_works_as_the_key_of_a_table():
    assert {CallId(bytes(16)): 1}[CallId(bytes(16))] == 1


def test_a_calls_reference_is_the_first_twelve_digits_of_its_id() -> None:
    call = CallId(bytes(range(16)))
    assert call.reference == reference(bytes(call)) == "000102030405"
    assert call.hex().startswith(call.reference)
