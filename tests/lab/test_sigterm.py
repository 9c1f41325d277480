"""How the stage `sigterm` is judged."""

from __future__ import annotations

from typing import Any

import pytest

from lab import sigterm
from load import report


def marks(
    *, gap: float = 0.0, moves: int = 1, alive: bool = True, still: float = 0.0
) -> list[dict[str, Any]]:
    """Ten directions, of which the last is as said, and one of the control."""
    good = {"group": "moved", "gap_ms": 0.0, "moves": 1, "alive": True}
    last = good | {"gap_ms": gap, "moves": moves, "alive": alive}
    return [*[good] * 9, last, good | {"group": "control", "gap_ms": still}]


REFUSED = [(10.0 * number, number < 1) for number in range(sigterm.JOINERS)]
SLOW = [(10.0 * number, number < 8) for number in range(sigterm.JOINERS)]


@pytest.mark.parametrize(
    ("seen", "asked", "missed"),
    [
        (marks(), REFUSED, []),
        (marks(gap=40.0), REFUSED, ["sigterm_gap_p99_ms"]),
        (marks(alive=False), REFUSED, ["sigterm_directions_alive"]),
        (marks(moves=0), REFUSED, ["sigterm_least_moves"]),
        (marks(gap=40.0, still=60.0), REFUSED, ["sigterm_gap_p99_ms", "sigterm_control_gap_ms"]),
        (marks(), SLOW, ["sigterm_last_new_call_let_in_ms", "sigterm_new_calls_refused"]),
    ],
)
def test_all_move_without_a_gap_and_new_calls_are_refused_at_once(
    seen: list[dict[str, Any]], asked: list[tuple[float, bool]], missed: list[str]
) -> None:
    result = report.Report("restart", seed=1, quick=False)
    sigterm.judge(result, sigterm.Seen(seen, asked, 0, 21.0), 5)
    assert [bar["name"] for bar in result._bars if not bar["ok"]] == missed
