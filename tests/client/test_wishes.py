"""What the relay asks for holds for its time and within bounds; else the application has its way."""

from __future__ import annotations

from relay.client.wishes import Wishes
from relay.protocol.messages import Rate

CALL = bytes(16)


def test_nothing_asked_is_nothing_changed() -> None:
    wishes = Wishes()
    assert (wishes.bitrate(24_000, 0.0), wishes.steps(0.0)) == (24_000, 1)


def test_a_wish_holds_for_its_time() -> None:
    wishes = Wishes()
    wishes.on_rate(Rate(c=CALL, bps=16_000, pt=60), 10.0)
    assert (wishes.bitrate(24_000, 14.9), wishes.steps(14.9)) == (16_000, 3)
    assert (wishes.bitrate(24_000, 15.0), wishes.steps(15.0)) == (24_000, 1)
    wishes.on_rate(Rate(c=CALL, bps=24_000, pt=40, ttl=1000), 20.0)
    assert (wishes.steps(20.9), wishes.steps(21.0)) == (2, 1)


def test_nobody_is_made_to_send_more_or_less_than_a_voice_can_bear() -> None:
    wishes = Wishes()
    wishes.on_rate(Rate(c=CALL, bps=500_000, pt=255), 0.0)
    assert (wishes.bitrate(24_000, 1.0), wishes.steps(1.0)) == (24_000, 3)
    wishes.on_rate(Rate(c=CALL, bps=1, pt=0), 0.0)
    assert (wishes.bitrate(24_000, 1.0), wishes.steps(1.0)) == (12_000, 1)
