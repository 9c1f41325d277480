"""Stages of `./scripts/lab fleet` about rollouts that nobody watches: ./scripts/rollout by what nodes say.

    calls of a region --> two boxes --/metrics--> ./scripts/rollout --signed state--> boxes, and callers

    promote     the candidate is as good as the control: 10, 50, 95 %, and open
    hold        too few calls to tell
    rollback    of the candidate's calls three in ten are never heard on one side

The candidate is the same program: what is worse about it the callers play. The plan is data: looks begin at
fewer calls, with wider margins, than one would take for people. Must never live here: calls (fleetload.py).
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.fleetground import HUB
from lab.fleetload import Load
from lab.fleetnodes import Fleet
from lab.topology import environment, python
from load import report

PER_S: Final = 12.0
FEW_PER_S: Final = 0.5
STEPS: Final = (10, 50, 100)
HOLDBACK: Final = 5
BAKE_S: Final = 30.0
FIRST_LOOK: Final = 100
MARGIN: Final = 0.05  # of a hundred calls without a failure up to 3.7 % may fail, by Newcombe's interval
FAILING: Final = 0.3
TRAFFIC: Final = 30  # percent of all calls that the region is said to carry
EVERY_S: Final = 5.0
PROMOTE_S: Final = 270.0
HOLD_S: Final = 30.0
ROLLBACK_S: Final = 150.0
TOLD_S: Final = 5.0  # until callers and boxes go by what was signed
QUIET_S: Final = 5.0
SCRIPT: Final = Path(__file__).parents[2] / "scripts/rollout"


def plan(id: str, region: str) -> dict[str, Any]:
    """What `relay rollout begin` is given."""
    return {
        "rollout": {
            "id": id,
            "salt": f"{id}-s",
            "candidate": "0.1.1",
            "control": "0.1.0",
            "holdback": HOLDBACK,
            "caps": {"early": 100, "every": 0},
            "wave": [{"regions": [region], "steps": list(STEPS), "bake": BAKE_S, "min_calls": FIRST_LOOK}],
            "guardrail": [{"name": name, "delta": MARGIN} for name in ("setup_fail", "first_audio")],
        },
        "gate": {"first_look": FIRST_LOOK},
    }


@dataclass
class Flight:
    """What ./scripts/rollout said and did."""

    status: int
    seconds: float
    events: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Its events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def reasons(self) -> list[str]:
        """Of the last look."""
        looks = self.of("look")
        return [each["reason"] for each in looks[-1]["reasons"]] if looks else []

    def candidate_calls(self) -> list[int]:
        """At each advance, of the look before it: candidate calls of that step that could fail to begin."""
        found: list[int] = []
        for before, event in zip(self.events, self.events[1:], strict=False):
            if event["event"] == "advance":
                found.append(next(row["nt"] for row in before["guardrails"] if row["name"] == "setup_fail"))
        return found


class Trial:
    """A region with calls, and rollouts one after the other."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.region = fleet.candidate.place.name
        self.load = Load(fleet, self.region, per_s=PER_S, seed=seed)
        self._folder = fleet.desk.folder

    def begin(self, id: str) -> None:
        """The plan's first step."""
        path = self._folder / f"{id}.json"
        path.write_text(json.dumps(plan(id, self.region)))
        words = ("--traffic", f"{self.region}={TRAFFIC}", "--why", "the lab begins")
        self.fleet.desk.relay("rollout", "begin", str(path), *words, "--key", self.fleet.desk.key)

    def fly(self, id: str, seconds: float) -> Flight:
        """./scripts/rollout until it ends by itself; its progress goes to standard error as it is said."""
        program = self._folder / "relay"
        program.write_text(f'#!/bin/sh\nexec {" ".join(python("relay"))} "$@"\n')
        program.chmod(0o755)
        nodes = [*self.fleet.of(self.region), self.fleet.candidate]
        words = [str(SCRIPT), "--rollout", id, "--region", self.region, "--key", self.fleet.desk.key]
        words += [word for node in nodes for word in ("--from", node.metrics_url)]
        words += ["--wait", "--timeout", f"{seconds:g}", "--every", f"{EVERY_S:g}", "--json"]
        words += ["--config", str(self._folder / "relay.toml")]
        began = time.monotonic()
        process = subprocess.Popen(
            [*self.fleet.ground.within(HUB.name), *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(), "RELAY": str(program)},
        )
        watchdog = threading.Timer(seconds + 60.0, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            events = [json.loads(line) for line in process.stdout if line.startswith("{")]
            return Flight(process.wait(), time.monotonic() - began, events)
        finally:
            watchdog.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def end(self, id: str) -> None:
        """Whatever it is, it is over."""
        why = "the lab is through with it"
        self.fleet.desk.relay("rollout", "kill", id, "--for-good", "--why", why, "--key", self.fleet.desk.key)

    def close(self) -> None:
        """Nobody calls any more."""
        self.load.stop()


def _shares(fleet: Fleet) -> dict[str, float]:
    """What the signed state in the store gives each region."""
    _, found = fleet.desk.relay("state", "show")
    shares: dict[str, float] = found["state"]["rollout"]["regions"]
    return shares


def _told(flight: Flight) -> dict[str, Any]:
    return {
        "status": flight.status,
        "seconds": round(flight.seconds, 1),
        "looks": len(flight.of("look")),
        "advances": [event["text"] for event in flight.of("advance")],
        "last_reasons": flight.reasons,
        "health": flight.of("look")[-1]["nodes"] if flight.of("look") else [],
    }


def promote(trial: Trial, out: report.Report, arguments: Namespace) -> None:
    """Nothing is wrong: through all steps by itself."""
    id = "lab-good"
    trial.load.order(PER_S)
    trial.begin(id)
    flight = trial.fly(id, PROMOTE_S)
    counts = trial.load.order(PER_S)
    out.bar("promote_exit_status", flight.status, "==", 0)
    out.bar("promote_steps", len(flight.of("advance")), "==", len(STEPS))
    least = min(flight.candidate_calls(), default=None)
    out.bar("promote_least_candidate_calls_of_a_step", least, ">=", FIRST_LOOK)
    out.bar("promote_share_at_the_end", _shares(trial.fleet).get(trial.region), "==", 100)
    out.detail(promote=_told(flight) | {"candidate_calls": flight.candidate_calls(), "calls": counts})
    if flight.status:
        trial.end(id)


def hold(trial: Trial, out: report.Report, arguments: Namespace) -> None:
    """A call each two seconds, of which a tenth goes to the candidate."""
    id = "lab-few"
    trial.load.order(FEW_PER_S)
    trial.begin(id)
    flight = trial.fly(id, HOLD_S)
    out.bar("hold_exit_status", flight.status, "==", 10)
    out.bar("hold_names_too_few_calls", int("few" in flight.reasons), "==", 1)
    out.bar("hold_share_stays_at_the_first_step", _shares(trial.fleet).get(trial.region), "==", STEPS[0])
    out.detail(hold=_told(flight))
    trial.end(id)


def rollback(trial: Trial, out: report.Report, arguments: Namespace) -> None:
    """Three in ten of the candidate's calls fail to begin: taken back, and nobody is sent there again."""
    id = "lab-bad"
    trial.load.order(PER_S, {"candidate": FAILING})
    trial.begin(id)
    flight = trial.fly(id, ROLLBACK_S)
    out.bar("rollback_exit_status", flight.status, "==", 20)
    out.bar("rollback_by_itself", len(flight.of("rollback")), "==", 1)
    out.bar("rollback_share_at_the_end", _shares(trial.fleet).get(trial.region), "==", 0)
    rev = max((event["rev"] for event in flight.of("published")), default=0)
    nodes = [*trial.fleet.of(trial.region), trial.fleet.candidate]
    told = trial.fleet.until_all({"relay_state_revision": float(rev)}, TOLD_S, nodes)
    out.bar("rollback_boxes_know_after_s", told, "<=", TOLD_S)
    time.sleep(1.5)  # who places calls reads the state each second
    begun = _begun(trial)
    time.sleep(QUIET_S)
    out.bar("rollback_calls_that_go_to_the_candidate_after_it", _begun(trial) - begun, "==", 0)
    counts = trial.load.order(0.0)
    out.detail(rollback=_told(flight) | {"calls": counts})
    trial.end(id)


def _begun(trial: Trial) -> float:
    """Calls that began at the candidate's box."""
    found = trial.fleet.candidate.metrics()
    name = "relay_call_funnel_total{"
    return sum(value for key, value in found.items() if key.startswith(name) and 'step="invited"' in key)
