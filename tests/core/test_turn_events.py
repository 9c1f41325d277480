"""The vocabulary: what is printed of it names no address, key or content."""

from __future__ import annotations

from typing import get_args

import pytest

from relay.config import Config
from relay.core import turn_events as te
from relay.core.credentials import TurnKeys
from relay.protocol.address import Address

VIA = te.Via("udp", Address("8.8.8.8", 5353), 1)
VALUES: list[object] = [
    te.ClientPacket(VIA, b"\x08\x08\x08\x08"),
    te.ClientGone(VIA),
    te.RelayOpened(1, VIA.client),
    te.RelayFailed(1, True),
    te.Draining(),
    te.TurnChanged(Config(), TurnKeys.of([bytes(32)], [b"8.8.8.8"])),
    te.Answer(VIA, b"\x08\x08\x08\x08"),
    te.OpenRelay(1, VIA, 4, 64_000, 50),
    te.CloseRelay(1),
    te.Permit(1, bytes([8] * 4), 5.0),
    te.Forbid(1, bytes([8] * 4)),
    te.BindChannel(1, 0x4000, VIA.client, 5.0),
    te.Unbind(1, 0x4000),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_nothing_printed_is_an_address(value: object) -> None:
    text = repr(value)
    assert "8.8.8.8" not in text
    assert "5353" not in text
    assert "\\x08" not in text


def test_every_input_and_output_is_looked_at() -> None:
    known = {type(value) for value in VALUES}
    assert {*get_args(te.TurnInput), *get_args(te.TurnOutput)} - known == {te.CompanyChanged, te.Tick}
