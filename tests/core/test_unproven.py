"""Budgets for answers to sources that have proven nothing."""

from __future__ import annotations

from relay.core.unproven import BUCKETS, Unproven
from relay.protocol.address import Address

ANN = Address("7.7.7.7", 7000)


def test_a_source_has_a_second_of_its_rate_at_once_and_then_its_rate() -> None:
    budget = Unproven(10, 1000, bytes(32))
    assert [budget.take(ANN, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert [budget.take(ANN, 0.1), budget.take(ANN, 0.1)] == [True, False]
    assert sum(budget.take(ANN, 100.0) for _ in range(20)) == 10


def test_ports_and_the_hosts_of_an_ipv6_site_share_a_budget() -> None:
    budget = Unproven(1, 1000, bytes(32))
    assert budget.take(ANN, 0.0)
    assert not budget.take(Address("7.7.7.7", 7001), 0.0)
    assert budget.take(Address("2600:7::1", 1), 0.0)
    assert not budget.take(Address("2600:7::2", 1), 0.0)


def test_all_sources_share_a_budget_that_one_loud_source_does_not_use_up() -> None:
    budget = Unproven(10, 20, bytes(32))
    for _ in range(1000):
        budget.take(ANN, 0.0)
    others = [Address(f"8.8.{n >> 8}.{n & 255}", 1) for n in range(1000)]
    assert sum(budget.take(each, 0.0) for each in others) == 10
    assert sum(budget.take(each, 1.0) for each in others) == 20


def test_a_clock_that_steps_back_refills_nothing() -> None:
    budget = Unproven(1, 1000, bytes(32))
    assert budget.take(ANN, 10.0)
    assert not budget.take(ANN, 0.0)
    assert budget.take(ANN, 11.0)


def test_no_number_of_sources_makes_it_grow_and_the_key_spreads_them() -> None:
    budget = Unproven(1, 10**9, bytes(32))
    for number in range(100_000):
        budget.take(Address(f"{number >> 16 | 16}.{number >> 8 & 255}.{number & 255}.1", 1), 0.0)
    assert (len(budget._level), len(budget._at)) == (BUCKETS, BUCKETS)
    assert sum(level < 1 for level in budget._level) == BUCKETS


def test_another_node_spreads_sources_otherwise() -> None:
    one, two = Unproven(1, 10**6, bytes(32)), Unproven(1, 10**6, bytes([1] * 32))
    one.take(ANN, 0.0)
    two.take(ANN, 0.0)
    assert [n for n, level in enumerate(one._level) if level < 1] != [
        n for n, level in enumerate(two._level) if level < 1
    ]
