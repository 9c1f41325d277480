"""Each module of relay/protocol, relay/core and relay/region is fully branch-covered by its own test module.

    python tests/own_coverage.py [--idle] [module ...]     exit 1 when one is not

--idle: with only the CPU time that nobody else wants.

A module that only other modules' tests reach is a module nobody has specified.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PURE_NAMES = {"__init__"}


def measure(module: Path) -> tuple[Path, str]:
    """Problem of one module, or an empty text."""
    tests = ROOT / "tests" / module.parent.name / f"test_{module.stem}.py"
    if not tests.exists():
        return module, f"no {tests.relative_to(ROOT)}"
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data"), Path(folder, "report.json")
        environ = dict(os.environ, COVERAGE_FILE=str(data), RELAY_SEQUENCES="30")
        run = [sys.executable, "-m", "coverage"]
        # No test has a time limit here: on CPU time that nobody else wants the shortest may take minutes.
        tests_run = ["-m", "pytest", "-q", "-x", "-o", "timeout=0", str(tests)]
        tested = subprocess.run(
            [*run, "run", "--branch", f"--include={module}", *tests_run],
            cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if tested.returncode:
            return module, f"tests fail:\n{tested.stdout[-2000:]}"
        subprocess.run(
            [*run, "json", "-q", "-o", str(report)], cwd=ROOT, env=environ, check=True, capture_output=True
        )
        files = json.loads(report.read_text())["files"]
    (facts,) = files.values() or ({"summary": {}, "missing_lines": ["all"], "missing_branches": []},)
    if facts["missing_lines"] or facts["missing_branches"]:
        return module, f"lines {facts['missing_lines']} branches {facts['missing_branches']}"
    return module, ""


def main() -> int:
    """Measure all modules, or those named; print what is missing."""
    names = [name for name in sys.argv[1:] if name != "--idle"]
    if len(names) < len(sys.argv) - 1:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # what it starts inherits it
    modules = [Path(name).resolve() for name in names] or [
        path
        for room in ("protocol", "core", "region")
        for path in sorted((ROOT / "relay" / room).glob("*.py"))
        if path.stem not in PURE_NAMES
    ]
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(measure, modules))
    for module, problem in results:
        if problem:
            print(f"{module.relative_to(ROOT)}: {problem}")
    bad = sum(1 for _, problem in results if problem)
    print(f"{len(results) - bad} of {len(results)} modules fully covered by their own tests")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
