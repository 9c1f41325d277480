"""The desk of who operates a fleet: at the hub, with the operator's key, by the commands that there are.

Must never live here: what the fleet is (fleetnodes.py), when what is done (the stages).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from lab.fleetground import HUB, REGIONS, Ground
from lab.fleetnode import FleetNode
from lab.topology import LabError

COMMAND_S: Final = 60.0


class Desk:
    """Its files stand in the folder `desk` of the ground."""

    def __init__(self, ground: Ground, nodes: Sequence[FleetNode]) -> None:
        self._ground = ground
        self._nodes = nodes
        self.folder = ground.folder / "desk"

    @property
    def key(self) -> str:
        """The file of the key that signs states."""
        return str(self.folder / "operator.key")

    def relay(
        self, *words: str, at: FleetNode | None = None, is_needed: bool = True
    ) -> tuple[int, dict[str, Any]]:
        """A command by the hub's store, or by that of a node's region: its status, and what JSON it printed.

        LabError: it failed, though it `is_needed`.
        """
        folder = at.folder if at is not None else self.folder
        place = at.place.name if at is not None else HUB.name
        command = [sys.executable, "-m", "relay", *words, "--json", "--config", str(folder / "relay.toml")]
        done = self._ground.run(place, command, COMMAND_S)
        if is_needed and done.returncode:
            raise LabError(f"relay {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = {}
        with contextlib.suppress(ValueError, IndexError):
            found = json.loads(done.stdout.splitlines()[-1])
        return done.returncode, found

    def put(self, why: str, **more: Any) -> int:
        """Sign and put `rollout` or `routes`, None for none; the revision."""
        words = ["state", "put", "--key", self.key, "--why", why]
        for name, value in more.items():
            path = self.folder / f"{name}.json"
            path.write_text(json.dumps(value))
            words += [f"--{name}", "none" if value is None else str(path)]
        return int(self.relay(*words)[1]["rev"])

    def put_routes(self, why: str, drained: str = "") -> int:
        """Sign all nodes; one region may be marked to be left."""
        names = [place.name for place in REGIONS]
        routes = {
            name: {
                "relays": {
                    node.id: {"urls": [node.url], "variant": node.variant}
                    for node in self._nodes
                    if node.place.name == name
                },
                "near": [other for other in names if other != name],
                "drain": name == drained,
                "rules": {
                    "may_leave_to": [other for other in names if other != name],
                    "keep_in": names,
                    "keep_days": 1,
                },
            }
            for name in names
        }
        return self.put(why, routes=routes)
