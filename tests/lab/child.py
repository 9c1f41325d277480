"""A process of a lab that is told things on its standard input, a JSON line each, and answers on its output.

Must never live here: what is told, and what the process does.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

END_S = 30.0


class Child:
    """`python -m MODULE`, told its first line at once. `inside`: the words that put it into a namespace."""

    def __init__(self, module: str, first: Any, inside: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        self.say(first)

    def say(self, what: Any) -> None:
        """One line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Its next line; waits. RuntimeError: it is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"process {self.pid} of the lab ended early")
        return json.loads(line)

    def stop(self) -> None:
        """No more lines: it comes to its end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
