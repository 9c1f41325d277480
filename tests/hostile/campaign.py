"""The fuzzing of all decoders: a process of its own that begins with the run and works beside other tests.

A minute of it would else be a minute in which nothing else is tested. It gives way to whatever needs the CPU,
and its rounds take all targets in turn, so none is short of it. Must never live here: targets, judgement.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SECONDS = float(os.environ.get("RELAY_FUZZ_SECONDS", "5"))
SEED = os.environ.get("RELAY_FUZZ_SEED", "1")
NICE = 5


class Campaign:
    """Runs at most once; `result` begins it if nobody did before."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> subprocess.Popen[str]:
        """Start it, or find it running."""
        if self._process is None:
            command = [sys.executable, str(TESTS / "fuzz.py")]
            command += ["--seconds", str(SECONDS), "--seed", SEED, "--json"]
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS.parent
            )
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        return self._process

    def result(self) -> tuple[int, str, str]:
        """Wait for it: exit status, what it printed, what it complained about."""
        process = self.begin()
        out, errors = process.communicate()
        return process.returncode, out, errors

    def abandon(self) -> None:
        """End it, if the run ends without asking for the result."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


CAMPAIGN = Campaign()
