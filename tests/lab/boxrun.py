"""What the stages of `./scripts/lab systemd` share: box, service, report, and what several of them do.

Must never live here: a stage (systemd.py, companions.py), how things are done in the box (service.py).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lab.box import Box
from lab.service import UNIT, Service
from lab.topology import Net
from load.report import Report, say

ROOT: Final = Path(__file__).parents[2]
HEARD: Final = 0.9  # of what was said: calls of seconds begin and end in it


@dataclasses.dataclass
class Run:
    """What the stages share."""

    box: Box
    service: Service
    net: Net
    namespace: str
    out: Report
    release: Path
    is_quick: bool

    def call(self, name: str, seconds: float = 3.0, **more: Any) -> None:
        """A call that must be one."""
        told = self.service.talk(seconds, **more).outcome()
        self.out.bar(f"{name}: share of speech heard", told["share"] if told["ok"] else None, ">=", HEARD)
        if not told["ok"]:
            say(f"    {told['errors']}")

    def install(self, *options: str) -> subprocess.CompletedProcess[str]:
        """scripts/install in the box, on the copy of this tree."""
        return self.box.run("/srv/relay/scripts/install", *options, check=False, seconds=300)

    def try_sandbox(
        self,
        name: str,
        allowed: frozenset[str],
        unit: str = UNIT,
        start: Callable[[], object] | None = None,
    ) -> None:
        """What sandbox.py can do beside a unit, and what not. `start` runs it: or the daemon restarts."""
        box, service = self.box, self.service
        box.copy([ROOT / "tests/lab/sandbox.py"], "/srv/sandbox")
        for path in ("/home/somebody/letter", "/root/letter"):
            box.write(path, "dear\n")
        box.path("/srv/open").mkdir(exist_ok=True)
        box.path("/srv/open").chmod(0o777)
        service.drop_in("[Service]\nExecStartPost=/usr/bin/python3 /srv/sandbox/sandbox.py\n", unit)
        began = time.time()
        (start or service.restart)()
        told = [line for line in box.journal(unit, began) if line.startswith("sandbox ")]
        tried: dict[str, str] = json.loads(told[-1].removeprefix("sandbox ")) if told else {}
        self.out.detail(**{f"sandbox {name}": tried})
        through = [what for what, how in tried.items() if how == "done" and what not in allowed]
        refused = [what for what in allowed if tried.get(what) != "done"]
        self.out.bar(f"sandbox {name}: tries", len(tried), ">=", 40)
        self.out.bar(f"sandbox {name}: forbidden things that it could do", len(through), "==", 0)
        self.out.bar(f"sandbox {name}: needed things that it could not do", len(refused), "==", 0)
        for what in (*through, *refused):
            say(f"    {what}: {tried.get(what)}")
