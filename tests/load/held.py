"""`relay serve` whose interpreter lock is taken away again and again: `python -m load.held CONFIG`.

While a file named `hold` stands beside the configuration, a thread of this process keeps the lock for 100 ms
in every 125 (a C call made without releasing it), so that no Python of the daemon runs; what it held is
written to `held.json` when the file has gone. Everything else is the shipped command.
Must never live here: what the daemon does.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
from pathlib import Path

from relay.cli import main

HOLD_S = 0.100
FREE_S = 0.025
LOOK_S = 0.010


def _hold(folder: Path) -> None:
    usleep = ctypes.PyDLL(None).usleep  # PyDLL keeps the interpreter lock during the call
    held, count = 0.0, 0
    while True:
        if (folder / "hold").exists():
            started = time.monotonic()
            usleep(int(HOLD_S * 1e6))
            held += time.monotonic() - started
            count += 1
            time.sleep(FREE_S)
        else:
            if count:
                done = folder / "held.part"
                done.write_text(json.dumps({"seconds": held, "times": count}))
                done.rename(folder / "held.json")
                held, count = 0.0, 0
            time.sleep(LOOK_S)


if __name__ == "__main__":
    threading.Thread(target=_hold, args=(Path(sys.argv[1]).parent,), daemon=True).start()
    sys.exit(main(["serve", "--config", sys.argv[1]]))
