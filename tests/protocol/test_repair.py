"""The rule of repair: the shared vectors, and what must hold whatever waits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.protocol import media
from relay.protocol.repair import MOST, Path, Sent, ack_slack, choose, copies, earn, is_worth, reference

VECTORS = load("repair")
PATH = Path(rtt=0.040, rttvar=0.002, ack_slack=0.010, max_age=0.120)


def named(row):
    return row["what"]


@pytest.mark.parametrize("row", VECTORS["choose"], ids=named)
def test_what_goes_again_is_what_the_vectors_say(row):
    unacked = [Sent(**one) for one in row["unacked"]]
    choice = choose(unacked, row["now"], Path(**row["path"]), row["left"], row["room"], row["most"])
    assert choice == (tuple(row["append"]), tuple(row["forget"]), pytest.approx(row["left_after"]))


@pytest.mark.parametrize("row", VECTORS["copies"], ids=named)
def test_copies_at_a_distance_are_what_the_vectors_say(row):
    ring = {int(ctr): Sent(**one) for ctr, one in row["ring"].items()}
    choice = copies(
        ring, row["newest"], row["distances"], row["now"], row["max_age"], row["left"], row["room"]
    )
    assert choice == (tuple(row["append"]), (), pytest.approx(row["left_after"]))


@pytest.mark.parametrize("row", VECTORS["reference"], ids=named)
def test_time_spent_on_repair_before_is_not_granted_twice(row):
    assert reference(row["came"], row["beside"], row["behind"], row["ptime"]) == row["reference"]


def test_an_allowance_grows_by_its_budget_up_to_its_depth():
    for row in VECTORS["earn"]:
        assert earn(row["left"], row["budget"], row["depth"]) == row["after"]


def test_acknowledgements_are_waited_for_within_what_a_peer_promises():
    for row in VECTORS["ack_slack"]:
        assert ack_slack(row["p95"]) == row["slack"]


@pytest.mark.parametrize("row", VECTORS["worth"], ids=str)
def test_speech_is_worth_a_repeat_and_silence_is_not(row):
    datagram = media.encode_header(1, 5, 70_000, pp=row["pp"], level=20) + bytes(
        media.MIN_SEALED + row["voice"]
    )
    assert is_worth(media.decode(datagram), len(datagram)) is row["worth"]


SENT = st.builds(
    Sent,
    came=st.floats(0.7, 1.0),
    first_sent=st.floats(0.8, 1.0),
    size=st.integers(22, 1024),
    worth=st.booleans(),
)
PATHS = st.builds(
    Path, rtt=st.floats(0, 0.2), rttvar=st.floats(0, 0.05), ack_slack=st.floats(0.01, 0.025),
    max_age=st.floats(0, 0.2),
)  # fmt: skip


@given(st.lists(SENT, max_size=20), PATHS, st.floats(0, 5), st.integers(0, 1200), st.sampled_from([1, MOST]))
def test_no_choice_breaks_a_limit_or_sends_what_nobody_would_play(unacked, path, left, room, most):
    choice = choose(unacked, 1.0, path, left, room, most)
    chosen = [unacked[position] for position in choice.append]
    assert len(chosen) == len(set(choice.append)) <= most
    assert sum(one.size for one in chosen) <= room
    assert choice.left == pytest.approx(left - len(chosen))
    assert choice.left >= 0
    assert [one.came for one in chosen] == sorted(one.came for one in chosen)
    for one in chosen:
        assert one.worth
        assert 1.0 - one.came <= path.max_age
        assert 1.0 - one.first_sent >= path.rtt + path.ack_slack
    assert not set(choice.append) & set(choice.forget)
    for position in choice.forget:
        assert not unacked[position].worth or 1.0 - unacked[position].came > path.max_age


def repeats_on(lost, *, budget, depth, start=None, acks_after=0.05, packets=1000):
    """A voice of 50 packets a second: how many repeats leave, and how many packets never arrive."""
    left = depth if start is None else start
    unacked: dict[int, Sent] = {}
    acks: list[tuple[float, int]] = []
    repeats, arrived = 0, set()
    for n in range(packets):
        now = n * 0.02
        for _, ctr in [ack for ack in acks if ack[0] <= now]:
            unacked.pop(ctr, None)
        acks = [ack for ack in acks if ack[0] > now]
        left = earn(left, budget, depth)
        waiting = list(unacked)
        choice = choose([unacked[ctr] for ctr in waiting], now, PATH, left, 1000)
        left = choice.left
        repeats += len(choice.append)
        carried = [n, *(waiting[position] for position in choice.append)]
        for position in choice.forget:
            unacked.pop(waiting[position])
        unacked[n] = Sent(now, now, 120, True)
        if not lost(now):
            arrived.update(carried)
            acks += [(now + acks_after, ctr) for ctr in carried]
    return repeats, packets - len(arrived)


def test_a_clean_leg_costs_no_repeat():
    assert repeats_on(lambda now: False, budget=1.0, depth=50.0) == (0, 0)


def test_an_outage_of_a_hundred_milliseconds_loses_hardly_anything():
    plain = sum(1 for n in range(1000) if 5.0 <= n * 0.02 < 5.1)
    repeats, lost = repeats_on(lambda now: 5.0 <= now < 5.1, budget=1.0, depth=50.0)
    assert plain == 5
    assert lost <= 2
    assert repeats <= 20


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1), st.floats(0, 50))
def test_repeats_never_pass_the_budget(seed, share, budget, depth):
    dice = random.Random(seed)
    repeats, _ = repeats_on(lambda now: dice.random() < share, budget=budget, depth=depth, packets=200)
    assert repeats <= depth + budget * 200 + 1e-6
