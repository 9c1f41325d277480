"""A whole lab: the internet, the relay's box, the verifier's box, and the sites that were asked for.

    with World.build(seed, [("port-restricted", "a"), ("symmetric", "b")]) as world: ...

Must never live here: calls, judgements.
"""

from __future__ import annotations

import contextlib
import json
import select
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.nats import RELAY, VERIFIER, Builder, Site, count_flows
from lab.topology import LabError, Net, Process, python

ANSWER_S: Final = 20.0


def answer(process: Process, seconds: float = ANSWER_S) -> dict[str, Any]:
    """The next line that a process of ours prints. LabError if there is none in time."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise LabError(f"{process.args!r} said nothing for {seconds:g} s")
    line = process.stdout.readline()
    if not line:
        raise LabError(f"{process.args!r} ended with {process.wait(5)}")
    found: dict[str, Any] = json.loads(line)
    return found


@dataclass
class World:
    """What stands."""

    net: Net
    folder: Path
    internet: Process
    relay: str
    verifier: str
    sites: dict[tuple[str, str], Site] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def build(
        cls,
        seed: int,
        sites: Iterable[tuple[str, str]],
        extend: Callable[[Builder, dict[tuple[str, str], Site]], None] | None = None,
    ) -> Iterator[World]:
        """Build it, with what `extend` adds to the sites, and take it all down at the end."""
        with tempfile.TemporaryDirectory(prefix="relay-lab-") as name, Net() as net:
            folder = Path(name)
            builder = Builder(net, folder)
            relay = builder.box("relay", [RELAY])
            count_flows(net, relay)
            verifier = builder.box("verifier", list(VERIFIER))
            made = {(kind, side): builder.site(kind, side) for kind, side in sites}
            if extend is not None:
                extend(builder, made)
            internet = net.spawn(relay, python("lab.internet"))
            assert internet.stdin is not None
            internet.stdin.write(json.dumps({"seed": seed, "lines": builder.lines}).encode() + b"\n")
            internet.stdin.flush()
            answer(internet)
            builder.connect()
            yield cls(net, folder, internet, relay, verifier, made)

    def conditions(self, line: str, up: dict[str, float], down: dict[str, float]) -> None:
        """Change a line of the internet (fields of shaper.Conditions)."""
        assert self.internet.stdin is not None
        self.internet.stdin.write(json.dumps({"name": line, "up": up, "down": down}).encode() + b"\n")
        self.internet.stdin.flush()
