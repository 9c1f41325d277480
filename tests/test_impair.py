"""The impairer's statistics: each model does what its formula says, and the same seed does it again."""

from __future__ import annotations

from itertools import groupby

import pytest

from impair import HEADER, NETS, SPIKY, Indexed, Link, Net, Outages

MINUTES = 20


def sent_over(
    net: Net, *, seed: int = 1, ptime: float = 20.0, minutes: float = MINUTES
) -> tuple[Link[int], list[bool]]:
    """A steady voice over a link without delay: whether each packet came."""
    link: Link[int] = Link(net, seed)
    count = round(minutes * 60_000 / ptime)
    came = [False] * count
    for n in range(count):
        link.send(n, 120, n * ptime / 1000)
        for one in link.due(n * ptime / 1000):
            came[one] = True
    for one in link.due(float("inf")):
        came[one] = True
    return link, came


def runs(came: list[bool]) -> list[int]:
    return [len(list(group)) for was_there, group in groupby(came) if not was_there]


@pytest.mark.parametrize(
    ("name", "share", "good_ms"),
    [("wifi", 0.02, 1960), ("busy_wifi", 0.05, 760), ("cell", 0.05, 1900), ("b10_60", 0.10, 540),
     ("cell_edge", 0.10, 1080), ("congested", 0.20, 250)],
)  # fmt: skip
def test_outages_lose_their_share_and_last_their_time(name: str, share: float, good_ms: float) -> None:
    loss = NETS[name].loss
    assert isinstance(loss, Outages)
    assert loss.good_ms == pytest.approx(good_ms)
    _, came = sent_over(NETS[name])
    assert 1 - sum(came) / len(came) == pytest.approx(share, rel=0.15)
    if loss.drop == 1:
        # Seen each 20 ms, a run is geometric with the chance to have left the bad state in between.
        assert sum(runs(came)) / len(runs(came)) == pytest.approx(1 / loss.indexed(20).to_good, rel=0.1)


def test_the_chain_of_one_step_per_packet_is_that_of_the_formula() -> None:
    chain = Outages(0.10, 60).indexed(20)
    assert (round(chain.to_bad, 4), round(chain.to_good, 4)) == (0.0310, 0.2786)
    _, came = sent_over(Net(chain))
    assert 1 - sum(came) / len(came) == pytest.approx(0.10, rel=0.1)
    assert sum(runs(came)) / len(runs(came)) == pytest.approx(1 / 0.2786, rel=0.1)


@pytest.mark.parametrize("share", [1, 3, 10, 20])
def test_independent_losses_are_independent(share: int) -> None:
    _, came = sent_over(NETS[f"iid{share}"])
    assert 1 - sum(came) / len(came) == pytest.approx(share / 100, rel=0.12)
    assert sum(runs(came)) / len(runs(came)) == pytest.approx(1 / (1 - share / 100), rel=0.03)


def test_the_same_outages_meet_packets_of_any_length() -> None:
    _, short = sent_over(NETS["b10_60"], ptime=20, minutes=1)
    _, long = sent_over(NETS["b10_60"], ptime=60, minutes=1)
    assert short[::3] == long


def test_the_same_seed_gives_the_same_faults_and_another_does_not() -> None:
    one, again, other = (sent_over(NETS["international"], seed=s, minutes=1)[1] for s in (7, 7, 8))
    assert one == again != other


def test_a_clean_network_delivers_everything_at_once() -> None:
    link: Link[str] = Link(NETS["clean"], 1)
    link.send("a", 100, 1.0)
    assert (link.next_deadline(), link.due(1.0), link.next_deadline(), len(link)) == (1.0, ["a"], None, 0)


def delays(net: Net, count: int = 3000) -> tuple[list[float], list[int]]:
    link: Link[tuple[int, float]] = Link(net, 3)
    seen: list[float] = []
    order: list[int] = []
    now = 0.0
    for n in range(count):
        link.send((n, n * 0.02), 120, n * 0.02)
    while (deadline := link.next_deadline()) is not None:
        now = deadline
        for number, left in link.due(now):
            seen.append(1000 * (now - left))
            order.append(number)
    return seen, order


def test_jitter_spreads_delays_evenly_and_keeps_the_order() -> None:
    seen, order = delays(NETS["moderate"])
    assert order == sorted(order)
    assert min(seen) >= 75
    assert max(seen) <= 125 + 1e-6
    assert sum(seen) / len(seen) == pytest.approx(103, abs=4)  # those held back by one before come later


def test_some_packets_overtake_and_some_come_twice() -> None:
    link, _ = sent_over(NETS["international"], minutes=5)
    seen, order = delays(Net(delay=250, reorder=0.05))
    overtakers = sum(delay < 1 for delay in seen)
    assert overtakers / len(seen) == pytest.approx(0.05, rel=0.2)
    assert order != sorted(order)
    assert link.doubled / link.sent == pytest.approx(0.02, rel=0.2)


def test_a_bottleneck_passes_its_rate_and_drops_what_would_wait_too_long() -> None:
    size = 222
    link: Link[int] = Link(Net(rates=((0, 80_000),), queue=300), 1)
    for n in range(1000):  # 100 kb/s with headers into 80 kb/s
        link.send(n, size, n * 0.02)
        assert link.queue_ms(n * 0.02) <= 300 + 25.001
    passed = 1000 - link.overflowed
    assert passed * (size + HEADER) * 8 / 20 == pytest.approx(80_000, rel=0.02)
    assert len(link) == passed
    assert link.queue_ms(1000.0) == 0


def test_a_bottleneck_changes_its_rate_at_its_time() -> None:
    link: Link[int] = Link(NETS["capacity"], 1)
    came = {}
    for second in range(100):
        for n in range(50):  # 116 kb/s with headers
            link.send(second, 262, second + n * 0.02)
        came[second] = len(link.due(second + 1.0)) * (262 + HEADER) * 8
    for second, rate in ((30, 80_000), (50, 116_000), (70, 48_000), (90, 80_000)):
        assert came[second] == pytest.approx(rate, rel=0.05), second


def test_a_network_becomes_another_and_what_is_under_way_stays() -> None:
    link: Link[str] = Link(SPIKY[0][1], 1)
    link.send("before", 100, 0.0)
    link.become(Net())
    link.send("after", 100, 0.5)
    assert link.due(0.1) == ["before"]
    assert link.due(0.5) == ["after"]
    assert [at for at, _ in SPIKY] == [0, 8, 18]
    assert SPIKY[1][1].loss == Indexed(0.11, 0.25)


@pytest.mark.parametrize("name", NETS)
def test_packets_are_conserved_by_every_network(name: str) -> None:
    link: Link[int] = Link(NETS[name], 5)
    arrived = 0
    for n in range(2000):
        link.send(n, 150, n * 0.02)
        arrived += len(link.due(n * 0.02))
    assert link.sent + link.doubled == arrived + len(link) + link.lost + link.overflowed
    assert arrived + len(link.due(float("inf"))) > 0
