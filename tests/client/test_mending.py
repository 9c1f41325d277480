"""What a client sends again: never silence, never beyond its rights, nothing on a clean or crowded way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.uplink import Scene
from impair import NETS, Net
from relay.client.mending import CALM_BUDGET, GAP_S, MAX_AGE_S, RING, Mending
from relay.protocol import media, repair
from relay.quic.acks import AGAIN_S, AUDIO_ACK_HOLD, TORN_S

START = 100.0
ROOM = 1100


def voice(ctr: int, size: int = 60, pp: int = media.PP_SPEECH, *, again: bool = False) -> bytes:
    return media.encode_header(4, 0, ctr, pp=pp, repeat=again) + bytes(size)


class Way:
    """40 ms there and back."""

    def __init__(self, *, torn: bool = False) -> None:
        self.now = START
        self.mending = Mending()
        for _ in range(30):
            self.mending.on_round_trip(0.04, 0.0, self.now)
        if torn:
            self.lose(1000)
            self.lose(1001)

    def turn(self, ctr: int, seconds: float = 0.02, room: int = ROOM) -> list[bytes]:
        """So much later, one more packet: what goes again beside it."""
        self.now += seconds
        return self.mending.beside(voice(ctr), room, self.now)

    def lose(self, ctr: int) -> None:
        self.mending.on_fate(voice(ctr), False, self.now)

    def hear(self, *ctrs: int) -> None:
        for ctr in ctrs:
            self.mending.on_fate(voice(ctr), True, self.now)


def test_while_all_is_well_what_is_not_acknowledged_goes_again_after_the_longest_hold_only() -> None:
    way = Way()
    found = [way.turn(ctr) for ctr in range(7)]
    assert found[:6] == [[]] * 6
    assert found[6] == [voice(0, again=True)]  # 120 ms: 40 of way, 65 of hold, and what round trips vary by
    assert 0.04 + AUDIO_ACK_HOLD < 0.12


def test_what_an_acknowledgement_left_out_goes_again_at_once_and_until_it_came() -> None:
    way = Way()
    assert [way.turn(ctr) for ctr in (0, 1)] == [[], []]
    way.lose(0)
    assert way.turn(2) == [voice(0, again=True)]
    assert way.turn(3) == [voice(0, again=True)]
    way.mending.on_fate(voice(0, again=True), True, way.now)
    assert way.turn(4) == []
    assert (way.mending.counters.repeats, way.mending.counters.came) == (2, 1)


def test_once_the_relay_hurries_a_repeat_goes_after_a_round_trip() -> None:
    way = Way(torn=True)
    assert [len(way.turn(ctr)) for ctr in range(4)] == [0, 0, 0, 0]
    assert way.turn(4) == [voice(0, again=True)]
    way.hear(0, 1, 2, 3, 4)
    way.now += TORN_S
    way.turn(5, 0.0)
    assert [len(way.turn(ctr)) for ctr in range(6, 11)] == [0] * 5  # it does no longer


def test_one_loss_and_another_much_later_are_no_bad_way() -> None:
    way = Way()
    way.lose(1000)
    way.now += AGAIN_S + 0.1
    way.lose(1001)
    assert [len(way.turn(ctr)) for ctr in range(6)] == [0] * 6


def test_what_could_not_be_played_any_more_does_not_go_again() -> None:
    way = Way()
    way.turn(0)
    way.lose(0)
    assert way.turn(1, MAX_AGE_S - 0.001) == [voice(0, again=True)]
    assert way.turn(2, 0.002) == []
    assert way.mending.counters.late == 1


@pytest.mark.parametrize(
    ("pp", "size"), [(media.PP_COMFORT, 60), (media.PP_REDUNDANT, 60), (media.PP_SPEECH, 28)]
)
def test_silence_and_redundancy_do_not_go_again(pp: int, size: int) -> None:
    way = Way()
    way.mending.beside(voice(0, size, pp), ROOM, way.now)
    way.mending.on_fate(voice(0, size, pp), False, way.now)
    assert way.turn(1) == []


def test_control_datagrams_and_what_is_no_media_are_not_ours() -> None:
    way = Way()
    for other in (b"\0\1" + bytes(8), b"", b"\4", bytes(40)):
        assert way.mending.beside(other, ROOM, way.now) == []
        way.mending.on_fate(other, False, way.now)
    assert way.mending.pause_due() is None


def test_nothing_is_added_where_there_is_a_queue_or_no_room() -> None:
    way = Way()
    way.turn(0)
    way.lose(0)
    assert way.turn(1, room=40) == []
    for _ in range(60):
        way.mending.on_round_trip(0.12, 0.0, way.now)
    assert way.turn(2) == []
    for _ in range(60):
        way.mending.on_round_trip(0.05, 0.0, way.now)
    assert way.turn(3) == [voice(0, again=True)]


def test_repeats_stay_within_what_the_token_grants() -> None:
    way = Way(torn=True)
    way.mending.grant(bits_per_s=40_000, packets_per_s=1000, now=way.now)  # 64 bytes 50 times a second are 25
    repeats = 0
    for ctr in range(500):
        repeats += sum(map(len, way.turn(ctr)))
    assert 500 * 64 + repeats == pytest.approx(0.9 * 40_000 / 8 * 10, rel=0.05)
    scarce = Way(torn=True)
    scarce.mending.grant(bits_per_s=10**9, packets_per_s=60, now=scarce.now)
    assert sum(len(scarce.turn(ctr)) for ctr in range(500)) == pytest.approx(0.9 * 60 * 10 - 500, abs=12)


def test_an_allowance_is_saved_up_and_used_up() -> None:
    way = Way()
    for ctr in range(40):
        way.turn(ctr, 0.0)
        way.lose(ctr)
    found = [len(way.turn(ctr, 0.0)) for ctr in range(100, 110)]
    assert sum(found) == pytest.approx(CALM_BUDGET[1], abs=1)
    assert len(way.mending._kept) == 50 <= RING


def test_in_a_pause_one_repeat_leaves_alone_and_once() -> None:
    way = Way(torn=True)
    way.turn(0)
    due = way.mending.pause_due()
    assert due is not None
    assert due - way.now >= GAP_S
    assert way.mending.alone(ROOM, due) == [voice(0, again=True)]
    assert way.mending.pause_due() is None
    way.now = due
    way.turn(1)
    way.hear(0, 1)
    assert way.mending.pause_due() is None


def test_so_many_are_kept_and_no_more() -> None:
    way = Way()
    for ctr in range(3 * RING):
        way.turn(ctr, 0.0)
    assert len(way.mending._kept) == RING


def test_where_acknowledgements_come_too_late_what_left_before_goes_along() -> None:
    way = Way(torn=True)
    for _ in range(80):
        way.now += 0.2
        way.mending.on_round_trip(0.11, 0.0, way.now)
    way.lose(1002)
    way.lose(1003)
    assert [len(way.turn(ctr)) for ctr in range(7)] == [0, 0, 0, 0, 0, 1, 1]
    assert way.turn(7) == [voice(2, again=True)]


def test_a_repeat_is_the_original_with_one_bit_set() -> None:
    way = Way()
    original = voice(0)
    way.turn(0)
    way.lose(0)
    (again,) = way.turn(1)
    assert again == media.with_flow(original, 4, True)
    assert media.with_flow(again, 4, False) == original
    assert repair.is_worth(media.decode(original), len(original))


@pytest.mark.parametrize("answers", [False, True])
async def test_on_a_clean_way_a_client_sends_nothing_more(answers: bool) -> None:
    arrived = Scene(NETS["clean"], answers=answers).run(20)
    assert (arrived.repeated, arrived.missed()) == (0, 0)
    jittery = Scene(Net(jitter=5), answers=answers).run(20)
    assert jittery.repeated <= 0.01 * jittery.sent


async def test_behind_outages_the_relay_gets_nearly_all_in_time_for_few_more_bytes() -> None:
    plain = Scene(NETS["b10_60"], repairs=False).run(20)
    mended = Scene(NETS["b10_60"]).run(20)
    assert plain.missed() > 0.06
    assert mended.missed() < plain.missed() / 4
    assert mended.bytes < 1.45 * plain.bytes


async def test_a_narrow_way_does_not_become_narrower() -> None:
    narrow = replace(NETS["clean"], rates=((0, 40_000.0),))  # 80 bytes 50 times a second take 55
    plain, mended = Scene(narrow, repairs=False).run(10), Scene(narrow).run(10)
    assert mended.bytes <= 1.03 * plain.bytes
    assert mended.missed() <= plain.missed() + 0.02
