"""The file of commands: what was written is read, and nothing else is."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from relay.errors import ErrorCode, PeerError
from relay.protocol import command, dispatch, signed, token
from relay.protocol.ids import CallId, Jti, Kid

SEED = bytes(range(32))
NOW = 1_800_000_000


def order(number: int = 1, **changes: Any) -> bytes:
    base: dict[str, Any] = {"op": "end", "cid": CallId(bytes(16)), "iat": NOW, "exp": NOW + 300}
    return command.mint(command.Command(**base | {"id": Jti(number.to_bytes(16, "big"))} | changes), SEED)


def test_what_was_written_is_read_in_order() -> None:
    entries = [dispatch.take(order(number), NOW + number / 8) for number in range(3)]
    found = [dispatch.read(line) for line in dispatch.lines(dispatch.write(entries))]
    assert found == entries
    assert found[1].raw == order(1)
    assert (found[1].at, found[1].exp) == (NOW + 0.125, NOW + 300)
    assert found[1].kid == Kid(signed.kid_of(signed.public_of(SEED)))
    assert found[1].id == Jti((1).to_bytes(16, "big"))
    assert dispatch.lines(dispatch.write([])) == []


def test_the_longest_command_fits_into_a_line() -> None:
    padded = b"VC1" + bytes(1024 - 3)
    line = b"1800000000.000 " + base64.b64encode(padded)
    with pytest.raises(PeerError) as error:  # its form is wrong, its length is not
        dispatch.read(line)
    assert error.value.code is ErrorCode.TOKEN_INVALID
    assert dispatch.MOST * (len(line) + 1) + len(dispatch.HEAD) <= dispatch.MOST_BYTES


def test_a_signature_is_not_looked_at_and_a_form_is() -> None:
    raw = order()
    assert dispatch.take(raw[:-1] + b"\0", 1.0).id == dispatch.take(raw, 1.0).id
    for wrong in (b"junk", raw[:-1], b"VT1" + raw[3:], token.MAGIC + raw[3:]):
        with pytest.raises(PeerError) as error:
            dispatch.take(wrong, 1.0)
        assert error.value.code is ErrorCode.TOKEN_INVALID


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"1800000000.000",
        b"1800000000.000 ",
        b"1800000000 AAAA",
        b"-1.000 AAAA",
        b"1e9.000 AAAA",
        b"1800000000.000  AAAA",
        b"1800000000.000 AAA-",
        b"1800000000.000 AAAAA",
        b"1800000000.000 " + b"A" * 1400,
    ],
)
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(PeerError) as error:
        dispatch.read(line)
    assert error.value.code is ErrorCode.BAD_ENCODING


def test_a_file_that_is_none_or_cut_off_or_too_long_is_refused() -> None:
    whole = dispatch.write([dispatch.take(order(), 1.0)])
    long = dispatch.HEAD + b"x\n" * (dispatch.MOST + 1)
    for data in (b"", b"VRS1\n", whole[:-1], whole[1:], long, whole + bytes(dispatch.MOST_BYTES) + b"\n"):
        with pytest.raises(PeerError) as error:
            dispatch.lines(data)
        assert error.value.code is ErrorCode.BAD_ENCODING


def test_a_line_for_people_is_a_command() -> None:
    raw = order()
    assert dispatch.from_text(b" " + base64.b64encode(raw) + b"\n") == raw
    with pytest.raises(PeerError, match="base64"):
        dispatch.from_text(b"not base64")


def test_no_text_of_it_has_the_bytes_that_were_signed() -> None:
    assert "VC1" not in repr(dispatch.take(order(), 1.0))
