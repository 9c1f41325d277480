import pytest

from relay.client.health import BUSY_S, DEAD_S, DOUBT_S, IDLE_S, MIN_PINGS, OTHER, WINDOW_S, Health


def lived(seconds: float, rtt: float = 0.02, lose: int = 0) -> tuple[Health, float]:
    """A path in use for a while; each `lose`-th ping is not answered."""
    health, now, flying = Health(), 0.0, []
    while now < seconds:
        number = health.ping(now, busy=True)
        if number is not None and not (lose and number % lose == 0):
            flying.append((now + rtt, number))
        while flying and flying[0][0] <= now:
            at, answered = flying.pop(0)
            health.on_pong(answered, at)
        now = round(now + 0.01, 6)
    return health, now


def test_pings_are_due_often_while_media_flows_and_seldom_else():
    health = Health()
    assert health.ping(0.0, busy=False) == 1
    assert health.ping(IDLE_S - 0.01, busy=False) is None
    assert health.ping(IDLE_S, busy=False) == 2
    assert health.ping(IDLE_S + 0.02, busy=True) is None
    assert health.ping(IDLE_S + 0.02 + BUSY_S, busy=True) == 3


def test_a_path_that_answers_is_never_in_doubt():
    health, now = lived(3.0)
    assert health.rtt == pytest.approx(0.02)
    assert not health.is_doubtful(now)
    assert health.loss(now) == 0.0
    assert health.cost(now) == pytest.approx(0.01, abs=0.001)


def test_a_path_that_falls_silent_is_doubted_and_dead_soon_after():
    health, now = lived(1.0)
    since = now
    moments = {}
    while "dead" not in moments:
        health.ping(now, busy=True)
        if health.is_doubtful(now):
            moments.setdefault("doubt", now - since)
        if health.is_dead(now):
            moments["dead"] = now - since
        now += 0.005
    assert moments["doubt"] <= DOUBT_S + BUSY_S + 0.03
    assert moments["dead"] <= DEAD_S + BUSY_S + 0.03


def test_nobody_is_dead_before_a_first_answer_could_be_here():
    health = Health()
    health.ping(0.0, busy=True)
    assert not health.is_doubtful(0.4)
    assert health.is_dead(0.6)
    assert health.cost(0.6) == float("inf")
    assert health.loss(0.6) is None


def test_losses_of_the_last_seconds_count_and_cost():
    good, now = lived(5.0)
    bad, _ = lived(5.0, lose=5)
    assert bad.loss(now) == pytest.approx(0.2, abs=0.05)
    assert bad.cost(now) > good.cost(now) + 0.1
    assert bad.loss(now + 2 * WINDOW_S) is None
    few, now = lived(BUSY_S * (MIN_PINGS - 4))
    assert few.loss(now) is None


def test_one_lost_ping_is_no_doubt_once_a_later_one_is_answered():
    health, now = lived(1.0)
    health.ping(now, busy=True)
    later = health.ping(now + BUSY_S, busy=True)
    assert later is not None
    health.on_pong(later, now + BUSY_S + 0.02)
    assert health.overdue(now + BUSY_S + 0.03) == 0.0


def test_answers_nobody_asked_for_and_late_ones_change_nothing():
    health, now = lived(1.0)
    rtt = health.rtt
    health.on_pong(99_999, now)
    number = health.ping(now + BUSY_S, busy=True)
    assert number is not None
    health.on_pong(number, now + 5.0)
    assert health.rtt == rtt


def test_a_shaky_path_costs_more_than_a_steady_one():
    steady, shaky = Health(), Health()
    for n in range(50):
        for health, jitter in ((steady, 0.0), (shaky, 0.03 * (n % 2))):
            number = health.ping(n * 0.1, busy=True)
            assert number is not None
            health.on_pong(number, n * 0.1 + 0.02 + jitter)
    assert shaky.cost(5.0) > steady.cost(5.0) + 0.02


def test_time_in_which_nobody_looked_is_held_against_no_path():
    health, now = Health(look_s=0.04), 0.0
    for n in range(50):
        now = n * 0.02
        number = health.ping(now, busy=True)
        if number is not None:
            health.on_pong(number, now)
    waiting = health.ping(now + 0.02, busy=True) or health.ping(now + 0.04, busy=True)
    assert waiting is not None
    later = now + 5.0  # the machine did something else
    assert health.overdue(later) <= 0.04
    assert not health.is_doubtful(later)
    rtt = health.rtt
    health.on_pong(waiting, later + 0.01)  # it lay in the socket all the time
    assert health.rtt == rtt
    assert health.loss(later + 0.01) == 0.0
    silent = later
    while not health.is_dead(silent):
        health.ping(silent, busy=True)
        silent += 0.02
    assert silent - later == pytest.approx(DEAD_S + BUSY_S, abs=0.06)  # from here on silence counts again


def test_a_ping_that_was_under_way_while_nobody_looked_is_no_loss():
    health, now = Health(look_s=0.05), 0.0
    for n in range(200):
        now = n * 0.2  # too seldom, each time
        number = health.ping(now, busy=True)
        if number is not None and number % 2:
            health.on_pong(number, now + 0.02)
    assert health.loss(now) == 0.0


class Ways:
    """A path whose ways lose and delay apart; its far end has another clock and tells what came."""

    def __init__(self, up: int = 0, down: int = 0, *, tells: bool = True) -> None:
        self.health, self.now, self.tells = Health(), 0.0, tells
        self.lose = {"up": up, "down": down}
        self.delay = {"up": 0.01, "down": 0.01}
        self.came: dict[int, float] = {}  # when
        self.flying: list[tuple[float, int, float]] = []
        self.asked: list[int] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = round(self.now + 0.01, 6)
            number = self.health.ping(self.now, busy=True)
            if number is not None and not (self.lose["up"] and number % self.lose["up"] == 0):
                self.came[number] = self.now + self.delay["up"]
                if not (self.lose["down"] and number % self.lose["down"] == 1):
                    there = self.now + self.delay["up"]
                    self.flying.append((there + self.delay["down"], number, there))
            for each in [one for one in self.flying if one[0] <= self.now]:
                self.flying.remove(each)
                clock = round(1000 * each[2]) + 2**32 - 500  # it wraps in half a second
                self.health.on_pong(each[1], self.now, clock % 2**32)
            base = self.health.tally(self.now)
            if base is not None:
                self.asked.append(base)
                if self.tells:
                    told = sum(1 << i for i in range(64) if self.came.get(base + i, 99.0) <= self.now)
                    self.health.on_tallied(base, told)

    def loss(self) -> tuple[float | None, float | None, float | None]:
        return tuple(self.health.loss(self.now, way) for way in (None, "up", "down"))  # type: ignore[return-value, arg-type]  # three


def test_what_was_lost_is_told_by_way():
    for up, down, wanted in ((5, 0, (0.2, 0.2, 0.0)), (0, 5, (0.2, 0.0, 0.2)), (5, 4, (0.4, 0.2, 0.25))):
        path = Ways(up, down)
        path.run(8.0)
        assert path.loss() == pytest.approx(wanted, abs=0.04)


def test_where_nothing_is_missing_nobody_asks_what_came():
    path = Ways()
    path.run(5.0)
    assert (path.asked, path.loss()) == ([], (0.0, 0.0, 0.0))


def test_losses_that_nobody_explains_count_against_both_ways():
    path = Ways(5, tells=False)
    path.run(8.0)
    assert path.loss() == pytest.approx((0.2, 0.15, 0.15), abs=0.03)
    assert len(path.asked) <= 80


def test_an_answer_tells_nothing_of_what_was_lost_after_we_asked():
    path = Ways(5, tells=False)
    path.run(1.0)
    base = path.asked[-1]
    path.run(0.09)
    path.health.on_tallied(base, 0)
    path.health.on_tallied(base + 10_000, 0)  # to a question that nobody asked
    before = path.health.loss(path.now, "up")
    path.health.on_tallied(base, 2**64 - 1)  # the first answer counts
    assert path.health.loss(path.now, "up") == before


def test_delay_is_told_by_way_and_jitter_too():
    path = Ways()
    path.run(2.0)
    even = path.health.cost(path.now, "up")
    assert even == pytest.approx(path.health.cost(path.now, "down"), abs=0.004)
    path.delay["up"] = 0.08
    path.run(3.0)
    assert path.health.cost(path.now, "up") > 0.07
    assert path.health.cost(path.now, "down") < 0.02
    path.run(70.0)  # what was so for a minute is how the path is: clocks tell no more
    assert path.health.cost(path.now, "up") == pytest.approx(path.health.cost(path.now, "down"), abs=0.02)


def test_an_answer_that_comes_too_late_was_lost_where_it_took_longer():
    for slow in ("up", "down"):
        path = Ways()
        path.run(2.0)
        path.delay[slow] = 0.25  # all at once: later than a voice waits
        path.run(1.0)
        told = dict(zip((None, "up", "down"), path.loss(), strict=True))
        assert told[None] is not None
        assert told[slow] == pytest.approx(told[None], abs=0.05)
        assert told[OTHER[slow]] == 0.0


def test_a_path_that_never_answered_costs_all_each_way():
    assert Health().cost(1.0, "up") == float("inf")
    assert Health().loss(1.0, "down") is None
