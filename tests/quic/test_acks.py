"""When acknowledgements leave: the rule alone, and in the SDK's connection against the relay's."""

from __future__ import annotations

from typing import cast

import pytest

from quicpair import DELAY, QuicPair
from relay.quic.acks import ACK_HOLD, ACK_PROMISE, AUDIO_ACK_HOLD, MOST_UNACKNOWLEDGED, Owing
from relay.quic.connection import ClientQuic

VOICE = b"\x10\0\0" + bytes(57)


def hold(owing: Owing, now: float, *, is_gap: bool = False, is_audio: bool = True) -> float:
    owed = owing.on_packet(is_gap=is_gap, is_audio=is_audio, audio_hold=AUDIO_ACK_HOLD, now=now)
    owing.unacknowledged = 0  # it leaves
    return owed


def test_audio_waits_longest_and_what_is_missing_hurries() -> None:
    owing = Owing()
    assert hold(owing, 0.0) == AUDIO_ACK_HOLD
    assert hold(owing, 0.0, is_audio=False) == ACK_HOLD
    owing.on_gap(1, 1.0)
    assert hold(owing, 1.0, is_gap=True) == 0
    assert hold(owing, 1.0) == AUDIO_ACK_HOLD  # one number may be left out on purpose
    owing.on_gap(1, 4.9)
    assert hold(owing, 4.9) == ACK_HOLD
    assert hold(owing, 34.8) == ACK_HOLD
    assert hold(owing, 35.0) == AUDIO_ACK_HOLD
    owing.on_gap(2, 50.0)
    assert hold(owing, 50.0) == ACK_HOLD


def test_many_packets_are_acknowledged_at_once() -> None:
    owing = Owing()
    owed = [
        owing.on_packet(is_gap=False, is_audio=True, audio_hold=AUDIO_ACK_HOLD, now=0.0)
        for _ in range(MOST_UNACKNOWLEDGED)
    ]
    assert owed == [AUDIO_ACK_HOLD] * (MOST_UNACKNOWLEDGED - 1) + [0.0]


class Listener:
    """The SDK's connection with a relay that speaks; packets that it sends are counted."""

    def __init__(self, seconds: float | None = AUDIO_ACK_HOLD) -> None:
        self.pair = QuicPair(client=ClientQuic, keep=True)
        self.client = cast(ClientQuic, self.pair.client)
        if seconds is not None:
            self.client.hold_acks(seconds)
        self.pair.run(1.0)
        self.pair.sent_by_client.clear()

    def say(self, *, lost: bool = False) -> None:
        """One packet of the relay's."""
        packet = self.pair.path.seal([VOICE], self.pair.now)
        if not lost:
            self.pair.to_client.append((self.pair.now + DELAY, packet))

    def hear(self, count: int, *, lost: tuple[int, ...] = ()) -> int:
        """So many packets, 20 ms apart; how many the client sent meanwhile."""
        before = len(self.pair.sent_by_client)
        for number in range(count):
            self.say(lost=number in lost)
            self.pair.run(0.02)
        return len(self.pair.sent_by_client) - before


def test_one_who_only_listens_sends_a_packet_for_each_fourth() -> None:
    assert Listener(None).hear(100) == 100  # as stock aioquic does
    listener = Listener()
    assert listener.hear(100) == pytest.approx(100 / 4, abs=2)  # numbers are left out now and then
    listener.pair.run(0.2)
    assert listener.pair.path.media_in_flight == 0


def test_the_relay_knows_what_is_promised_and_the_client_keeps_it() -> None:
    listener = Listener()
    assert listener.pair.connected()._loss.max_ack_delay == ACK_PROMISE / 1000
    assert listener.client._loss.max_ack_delay == ACK_PROMISE / 1000
    listener.client.hold_acks(9.0)
    assert listener.client._audio_hold == AUDIO_ACK_HOLD
    assert max(AUDIO_ACK_HOLD, ACK_HOLD) + 0.020 <= ACK_PROMISE / 1000


def test_after_losses_acknowledgements_hurry() -> None:
    listener = Listener()
    assert listener.hear(48) == pytest.approx(48 / 4, abs=2)
    assert listener.hear(48, lost=(0, 1)) == pytest.approx(48 / 2, abs=2)
    assert listener.pair.path.media_lost == 2


def test_what_is_owed_goes_along_with_audio() -> None:
    listener = Listener()
    listener.hear(5)
    listener.pair.run(0.1)
    listener.say()
    listener.pair.run(0.02)
    assert listener.pair.path.media_in_flight > 0
    listener.client.send_datagram_frame(VOICE)
    listener.pair.run(0.015)
    assert listener.pair.path.media_in_flight == 0


def test_control_shortens_what_audio_had_left_and_nothing_lengthens_it() -> None:
    listener = Listener()
    pair = listener.pair
    listener.hear(5)
    pair.run(0.1)
    listener.say()
    pair.run(0.02)
    pair.connected().send_ping(7)
    pair.run(0.0101)  # it is there
    sent = len(pair.sent_by_client)
    pair.run(0.0195)
    assert len(pair.sent_by_client) == sent
    pair.run(0.002)
    assert len(pair.sent_by_client) == sent + 1


def test_a_number_that_aioquic_took_is_not_missing() -> None:
    pair = Listener().pair
    for turn in range(4):
        pair.client.send_ping(turn)
        pair.run(0.1)
        before = pair.path.media_acked, pair.slow
        pair.client.send_datagram_frame(VOICE)
        pair._collect(False)
        pair.run(DELAY + 0.001)
        due = pair.path.ack_due
        assert due is not None
        assert due - pair.now > 0.050, (turn, before)
        pair.run(0.2)
