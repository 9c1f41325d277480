"""What the gate was promised to do, as shares of runs. Must never live here: how it is measured (gate.py)."""

from __future__ import annotations

from typing import Final

Promise = dict[str, float]
"""Verdict -> share of runs."""

FIRST_RUNS: Final = 600  # that these figures came of
JOINT_RUNS: Final = 300

# Indicator, its share, delta -> times as bad -> promise. Control four times the calls, 20,000 prior ones.
FIRST: Final[tuple[tuple[str, float, float, dict[float, Promise]], ...]] = (
    (
        "setup_fail",
        0.01,
        0.01,
        {
            1: {"promote": 0.997},
            1.5: {"promote": 0.87},
            2: {"rollback": 0.92},
            3: {"rollback": 1},
            5: {"rollback": 1},
        },
    ),
    (
        "setup_fail",
        0.005,
        0.0075,
        {
            1: {"promote": 0.997},
            1.5: {"promote": 0.95},
            2: {"rollback": 0.42, "promote": 0.57},
            3: {"rollback": 0.985},
            5: {"rollback": 1},
        },
    ),
    (
        "drop",
        0.02,
        0.01,
        {
            1: {"promote": 1},
            1.5: {"rollback": 0.72},
            2: {"rollback": 1},
            3: {"rollback": 1},
            5: {"rollback": 1},
        },
    ),
    (
        "poor_call",
        0.05,
        0.02,
        {
            1: {"promote": 0.997},
            1.5: {"rollback": 0.91},
            2: {"rollback": 1},
            3: {"rollback": 1},
            5: {"rollback": 1},
        },
    ),
)

BASE: Final = {"setup_fail": 0.005, "drop": 0.01, "poor_call": 0.05, "one_way": 0.001, "first_audio": 0.03}
WORSE: Final[dict[str, dict[str, float]]] = {
    "equal": {},
    "setup_fail x3": {"setup_fail": 3},
    "drop x3": {"drop": 3},
    "poor_call x2": {"poor_call": 2},
    "one_way x5": {"one_way": 5},
}
# Control calls for each candidate call, prior calls -> a promise for each of WORSE.
JOINT: Final[dict[tuple[float, int], tuple[Promise, ...]]] = {
    (4, 20_000): (
        {"promote": 0.997},
        {"rollback": 1},
        {"rollback": 1},
        {"rollback": 1},
        {"rollback": 0.997},
    ),
    (1, 0): ({"promote": 0.983}, {"rollback": 1}, {"rollback": 1}, {"rollback": 1}, {"rollback": 0.98}),
    (0.05, 0): (
        {"promote": 0.67, "hold": 0.31},
        {"rollback": 0.69},
        {"rollback": 0.96},
        {"rollback": 0.96},
        {"rollback": 0.65},
    ),
    (0.05, 20_000): (
        {"promote": 0.997},
        {"rollback": 1},
        {"rollback": 1},
        {"rollback": 1},
        {"rollback": 1},
    ),
}
