"""The expected table is whole, symmetric, and what the rule in its module says."""

from __future__ import annotations

import pytest

from lab.expected import GRID, NETWORKS, is_direct, path, theory_allows

PAIRS = [(a, b) for a in NETWORKS for b in NETWORKS]


def test_every_kind_has_a_row_and_a_column_in_the_same_order() -> None:
    assert list(GRID) == list(NETWORKS)
    assert all(len(row) == len(NETWORKS) for row in GRID.values())


def test_the_table_says_what_the_rule_says() -> None:
    assert [pair for pair in PAIRS if is_direct(*pair) != theory_allows(*pair)] == []


def test_it_does_not_matter_who_calls() -> None:
    assert all(path(a, b) == path(b, a)[::-1] for a, b in PAIRS)


@pytest.mark.parametrize(
    ("a", "b", "rungs"),
    [
        ("port-restricted", "port-restricted", ("direct", "direct")),
        ("symmetric", "port-restricted", ("quic-443", "quic-443")),
        ("symmetric", "address-restricted", ("direct", "direct")),
        ("symmetric", "symmetric", ("quic-443", "quic-443")),
        ("cgn", "cgn", ("quic-443", "quic-443")),
        ("cgn", "cgn-hairpin", ("direct", "direct")),
        ("no-udp", "open", ("ws-443", "quic-443")),
        ("proxy", "no-udp-443", ("ws-443", "quic-3478")),
    ],
)
def test_known_pairs_stand_as_textbooks_have_them(a: str, b: str, rungs: tuple[str, str]) -> None:
    assert path(a, b) == rungs
