"""What every bench prints: progress on stderr, bars with their bounds, the conditions, one JSON object.

Must never live here: a measurement.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_OPERATORS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "==": lambda a, b: a == b}
_PACKAGES = ("aioquic", "uvloop", "cryptography", "msgspec", "vrelay")


def arguments(name: str, text: str | None) -> argparse.ArgumentParser:
    """A parser with what all benches take."""
    parser = argparse.ArgumentParser(prog=f"bench {name}", description=(text or "").splitlines()[0])
    parser.add_argument(
        "--json", action="store_true", help="print the result object on one line, nothing else"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short form: checks correctness, judges no ratio"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of everything generated (default 1)")
    logging.getLogger("quic").setLevel(logging.ERROR)  # as the daemon does: what it says, counters say
    return parser


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def holds(value: float | None, operator: str, bound: float) -> bool:
    """Whether a bar does; None (nothing was measured) does not."""
    return value is not None and bool(_OPERATORS[operator](value, bound))


class Report:
    """Collects bars and details of one run."""

    def __init__(self, name: str, *, seed: int, quick: bool) -> None:
        self._started = time.monotonic()
        self._bars: list[dict[str, Any]] = []
        self._details: dict[str, Any] = {"bench": name, "quick": quick}
        self._seed = seed
        self._quick = quick
        self._cpus = len(os.sched_getaffinity(0))  # now, before a bench pins itself to one

    def bar(
        self, name: str, value: float | None, operator: str, bound: float, *, is_speed: bool = False
    ) -> None:
        """A value and what it must be; None (nothing was measured) does not hold.

        `is_speed`: how fast this machine was; the quick form, which runs beside who knows what, says it only.
        """
        ok = holds(value, operator, bound)
        shown = round(value, 6) if isinstance(value, float) else value
        judged = not (is_speed and self._quick)
        entry = {"name": name, "value": shown, "bound": f"{operator} {bound:g}", "ok": ok, "judged": judged}
        self._bars.append(entry)
        say(f"  {'ok  ' if ok else 'FAIL' if judged else 'slow'} {name}: {shown} ({operator} {bound:g})")

    def detail(self, **details: Any) -> None:
        """Facts beside the bars."""
        self._details.update(details)

    @property
    def holds(self) -> bool:
        """Whether every bar does that is judged; without bars nothing does."""
        return bool(self._bars) and all(bar["ok"] for bar in self._bars if bar["judged"])

    def take(self, part: Report) -> None:
        """All that another one holds as well; it was said already."""
        self._bars += part._bars
        self._details.update(
            {name: fact for name, fact in part._details.items() if name not in self._details}
        )

    def finish(self, *, as_json: bool) -> int:
        """Print the object; the exit status."""
        ok = self.holds
        result = {"ok": ok, "bars": self._bars, "conditions": self._conditions(), **self._details}
        print(json.dumps(result, indent=None if as_json else 2, default=str), flush=True)
        return 0 if ok else 1

    def _conditions(self) -> dict[str, Any]:
        versions = {"python": platform.python_version()}
        for name in _PACKAGES:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "not installed as a package"
        return {
            "cpus": self._cpus,
            "kernel": platform.release(),
            "versions": versions,
            "seed": self._seed,
            "seconds": round(time.monotonic() - self._started, 1),
        }
