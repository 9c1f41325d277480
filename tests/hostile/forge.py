"""Runs pytest again and again in one folder, each time in an interpreter that has not seen the program yet.

    stdin   one JSON list of pytest arguments a line
    stdout  one JSON list a line: [exit status, what pytest printed]

What is slow to import and not ours is imported once; each run is a fork of that. Must never be imported
here: anything of relay.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile

NOT_OURS = (
    "aioquic.quic.connection",
    "asyncio",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.x509",
    "hypothesis",
    "msgspec",
    "nacl.bindings",
    "nacl.signing",
    "pytest",
)

BROKEN = 99  # pytest itself raised: nothing was tested


def main() -> None:
    """Serve until stdin ends."""
    for name in NOT_OURS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        arguments = json.loads(line)
        with tempfile.TemporaryFile() as said:
            child = os.fork()
            if child == 0:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                code = BROKEN
                try:
                    code = _run(arguments)
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            words = said.read().decode(errors="replace")
        print(json.dumps([os.waitstatus_to_exitcode(status), words[-4000:]]), flush=True)


def _run(arguments: list[str]) -> int:
    import pytest

    assert not any(name.partition(".")[0] == "relay" for name in sys.modules)
    # Hypothesis is imported already, so pytest cannot rewrite its assertions; nobody needs that.
    code = int(pytest.main(["-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments]))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
