import pytest

from relay.client.carrier import PROVE_S, TRANSITIONS, TRUST_S, Carrier, Way
from relay.client.health import Direction, Health
from relay.client.ladder import BAD_LOSS
from relay.errors import LocalError


class Told(Health):
    """A path of which the test says how it is."""

    def __init__(self) -> None:
        super().__init__()
        self.late = self.dead = False
        self.answered = 1
        self.lost = 0.0

    def is_doubtful(self, now: float) -> bool:
        return self.late

    def is_dead(self, now: float) -> bool:
        return self.dead

    def loss(self, now: float, way: Direction | None = None) -> float:
        return self.lost

    def cost(self, now: float, way: Direction | None = None) -> float:
        return 0.02


@pytest.fixture
def health() -> Told:
    return Told()


def direct(health: Told) -> Carrier:
    carrier = Carrier()
    carrier.on_up(1.0)
    carrier.check(health, 1.0 + PROVE_S)
    assert carrier.way is Way.DIRECT
    return carrier


def carried(carrier: Carrier) -> tuple[bool, bool]:
    return carrier.by_relay, carrier.by_direct


def test_a_new_path_carries_beside_the_relay_until_it_has_proven_good(health):
    carrier = Carrier()
    carrier.check(health, 0.5)
    assert carried(carrier) == (True, False)
    carrier.on_up(1.0)
    assert carried(carrier) == (True, True)
    carrier.check(health, 1.0 + PROVE_S - 0.01)
    assert carrier.way is Way.PROVING
    carrier.check(health, 1.0 + PROVE_S)
    assert carried(carrier) == (False, True)


def test_a_path_that_never_answered_is_not_good(health):
    health.answered = 0
    carrier = Carrier()
    carrier.on_up(1.0)
    carrier.check(health, 9.0)
    assert carrier.way is Way.PROVING


def test_in_doubt_both_carry_and_trust_comes_back_after_the_last_doubt(health):
    carrier = direct(health)
    health.late = True
    carrier.check(health, 3.0)
    assert carried(carrier) == (True, True)
    carrier.check(health, 3.5)
    health.late = False
    carrier.check(health, 3.5 + TRUST_S - 0.01)
    assert carrier.way is Way.DOUBT
    carrier.check(health, 3.51 + TRUST_S)
    assert carrier.way is Way.DIRECT


def test_while_the_direct_path_loses_what_a_voice_needs_the_relay_carries_too(health):
    carrier = direct(health)
    health.lost = BAD_LOSS
    for step in range(100):
        carrier.check(health, 10.0 + step)
        assert carried(carrier) == (True, True)
    health.lost = BAD_LOSS / 2  # what concealment hides
    carrier.check(health, 109.1 + TRUST_S)
    assert carrier.way is Way.DIRECT
    worse = Carrier()
    health.lost = BAD_LOSS
    worse.on_up(1.0)
    worse.check(health, 9.0)
    assert worse.way is Way.PROVING


def test_when_an_end_moved_both_carry_until_a_later_ping_was_answered(health):
    carrier = direct(health)
    health.sent = health.answered = 7
    carrier.on_moved(health, 3.0)
    assert carried(carrier) == (True, True)
    carrier.check(health, 3.0 + 2 * TRUST_S)
    assert carrier.way is Way.DOUBT  # nothing that was asked since came back, however slow the path may be
    health.sent = health.answered = 8
    carrier.check(health, 3.0 + TRUST_S - 0.01)
    assert carrier.way is Way.DOUBT
    carrier.check(health, 3.01 + TRUST_S)
    assert carrier.way is Way.DIRECT


def test_a_new_path_that_moves_has_to_prove_itself_anew(health):
    carrier = Carrier()
    carrier.on_up(1.0)
    carrier.on_moved(health, 1.4)
    health.answered = 2
    carrier.check(health, 1.3 + PROVE_S)
    assert carrier.way is Way.PROVING
    carrier.check(health, 1.5 + PROVE_S)
    assert carrier.way is Way.DIRECT


def test_where_the_relay_carries_alone_a_move_changes_nothing(health):
    carrier = Carrier()
    carrier.on_moved(health, 1.0)
    assert carrier.way is Way.RELAY


def test_a_doubt_while_it_is_new_makes_the_proof_begin_anew(health):
    carrier = Carrier()
    carrier.on_up(1.0)
    health.late = True
    carrier.check(health, 1.4)
    health.late = False
    carrier.check(health, 1.6)
    assert carrier.way is Way.PROVING
    carrier.check(health, 1.4 + PROVE_S)
    assert carrier.way is Way.DIRECT


@pytest.mark.parametrize("way", [Way.PROVING, Way.DIRECT, Way.DOUBT])
def test_a_dead_path_leaves_the_relay_alone(health, way):
    carrier = direct(health)
    carrier.way = way
    health.dead = True
    carrier.check(health, 5.0)
    assert carried(carrier) == (True, False)


def test_a_closed_path_is_gone_and_may_come_again(health):
    carrier = direct(health)
    carrier.on_closed()
    carrier.on_closed()
    assert carrier.way is Way.RELAY
    carrier.on_up(9.0)
    with pytest.raises(LocalError):
        carrier.on_up(9.0)


def test_every_state_stands_in_the_table():
    assert set(TRANSITIONS) == set(Way)
