"""The tables as a whole: large enough, each row its own name, and every reason and code met by some row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from hostile import table_admission, table_config, table_edge, table_engine, table_trunks, table_turn
from relay.core.reasons import DropReason
from relay.errors import ErrorCode

TABLES: dict[str, list[Any]] = {
    f"{module.__name__}.{name}": rows
    for module in (table_edge, table_engine, table_admission, table_config, table_trunks, table_turn)
    for name, rows in vars(module).items()
    if name.isupper() and isinstance(rows, list)
}
ROWS = [row for rows in TABLES.values() for row in rows]
WANTED = 80

NOT_FOR_HOSTILE_INPUT = {
    ErrorCode.GENERAL: "a client's own word",
    ErrorCode.INTERNAL: "a bug of ours",
    ErrorCode.UNKNOWN_FLOW: "never sent: media for an unknown flow is dropped",
    ErrorCode.DECLINED: "a word between people",
    ErrorCode.BUSY: "a word between people",
    ErrorCode.REPLACED: "a newer join of the same person",
    ErrorCode.ANSWERED_ELSEWHERE: "another device of the same person",
    ErrorCode.CONSENT_EXPIRED: "an honest return, too late",
    ErrorCode.IDLE_TIMEOUT: "a person who does not come back",
    ErrorCode.DRAIN_TIMEOUT: "the node's own end",
    ErrorCode.MOVED: "a leg of the same person elsewhere",
    ErrorCode.ORIGIN_DENIED: "no part that is built has origins",
}
"""Codes that no row asks for, and why."""


def outcomes(row: Any) -> set[object]:
    """Every reason or code that a row names."""
    found: set[object] = set()
    for value in row:
        members = [value, *value] if isinstance(value, (list, tuple, dict)) else [value]
        found.update(each for each in members if isinstance(each, (DropReason, ErrorCode)))
    return found


def test_there_are_at_least_80_hostile_inputs() -> None:
    assert len(ROWS) >= WANTED
    assert all(rows for rows in TABLES.values())


def test_each_row_of_a_table_has_its_own_sentence() -> None:
    for name, rows in TABLES.items():
        twice = [id for id, number in Counter(row.id for row in rows).items() if number > 1]
        assert not twice, name


@pytest.mark.parametrize("reason", DropReason)
def test_every_drop_reason_is_produced_by_a_row(reason: DropReason) -> None:
    assert [row.id for row in ROWS if reason in outcomes(row)]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_close_code_is_produced_by_a_row_or_has_a_reason_not_to(code: ErrorCode) -> None:
    produced = [row.id for row in ROWS if code in outcomes(row)]
    assert bool(produced) != (code in NOT_FOR_HOSTILE_INPUT), produced
