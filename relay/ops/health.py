"""Whether this node works, and whether it should get new calls.

    /healthz  alive: the loop answers and its statistics are fresh; 503 means restart me
    /readyz   takes calls: alive, running, not overloaded, certificate valid; 503 means send them elsewhere

Warnings leave the answer at 200 and stand in its body. Must never live here: sockets, the answer's encoding.
"""

from __future__ import annotations

import errno
import resource
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from relay.config import HealthConfig
from relay.core.shedding import Shed
from relay.ops.region import OLD_S

LAG_EVERY = 0.1  # seconds between two looks at the clock
LAG_WINDOW = 50  # looks: the worst of the last 5 s
LAG_MINUTE = 600  # looks: the 99th percentile of a minute


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon knows about itself at one moment."""

    state: str = "running"
    lag_s: float = 0.0
    stats_age_s: float = 0.0
    health_age_s: float = 0.0
    """Since somebody last looked how the region is."""
    free_descriptors: int = 1_000_000
    wall: float = 0.0
    certificate_until: float | None = None
    issuers: int = 1
    datapath: str = "native"
    wants_native: bool = False
    internal_errors: int = 0
    dead_threads: int = 0
    legs: int = 0
    max_legs: int = 1_000_000
    sinks_failing: tuple[str, ...] = ()
    turn_is_lab: bool = False
    canary_silent_s: float = 0.0
    """Since the last canary call, of one that should be there and is not; 0: there is none, or it is."""
    state_doubt: str = ""
    """What is wrong with the state of rollouts."""
    shedding: Shed = Shed.NOTHING
    nodes_doubt: str = ""
    """What is wrong with the node list."""
    fleet_doubt: str = ""
    """What is wrong with the way of commands of the fleet."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `severity`: dead, unready or warning."""

    name: str
    severity: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one moment."""

    findings: tuple[Finding, ...]

    @property
    def is_alive(self) -> bool:
        """For /healthz."""
        return all(finding.severity != "dead" for finding in self.findings)

    @property
    def is_ready(self) -> bool:
        """For /readyz."""
        return all(finding.severity == "warning" for finding in self.findings)

    def body(self, ok: bool) -> dict[str, object]:
        """JSON value for an answer whose status says `ok`."""
        return {
            "ok": ok,
            "findings": [
                {"name": found.name, "severity": found.severity, "detail": found.detail}
                for found in self.findings
            ],
        }


def judge(facts: Facts, config: HealthConfig) -> Report:
    """Look at every condition; nothing stops at the first."""
    rows = (
        (
            facts.stats_age_s > config.stats_s,
            Finding("stale_statistics", "dead", f"{facts.stats_age_s:.1f} s old, limit {config.stats_s:g} s"),
        ),
        (
            facts.health_age_s > OLD_S,
            Finding("stale_health", "unready", f"nobody looked at the region for {facts.health_age_s:.0f} s"),
        ),
        (facts.state != "running", Finding("draining", "unready", facts.state)),
        (
            facts.lag_s * 1000 > config.lag_ms,
            Finding("loop_lag", "unready", f"{facts.lag_s * 1000:.0f} ms, limit {config.lag_ms} ms"),
        ),
        (
            facts.free_descriptors < config.free_descriptors,
            Finding(
                "descriptors", "unready", f"{facts.free_descriptors} free, wanted {config.free_descriptors}"
            ),
        ),
        (
            facts.shedding >= Shed.CALLS,
            Finding("overload", "unready", "the node is full: no new calls, redundancy or comfort noise"),
        ),
        (
            Shed.NOTHING < facts.shedding < Shed.CALLS,
            Finding("overload", "warning", f"the node is full: {facts.shedding.name.lower()} is given up"),
        ),
        (facts.legs >= facts.max_legs, Finding("full", "unready", f"{facts.legs} of {facts.max_legs} legs")),
        (
            facts.issuers == 0,
            Finding("no_issuer", "unready", "tokens.issuers is empty: nobody can be admitted"),
        ),
        (
            facts.dead_threads > 0,
            Finding("threads", "unready", f"{facts.dead_threads} ended; nobody reads their sockets"),
        ),
        (
            facts.wants_native and facts.datapath != "native",
            Finding("lane", "warning", f"the packet path is {facts.datapath}, not native"),
        ),
        (
            facts.internal_errors > 0,
            Finding("internal", "warning", f"{facts.internal_errors} packets met a bug of ours"),
        ),
        (
            facts.turn_is_lab,
            Finding("turn_lab", "warning", "turn.lab_allow_private_peers opens the network behind this node"),
        ),
        (
            facts.canary_silent_s > 0,
            Finding("canary_silent", "warning", f"no canary call told for {facts.canary_silent_s:.0f} s"),
        ),
        (facts.state_doubt != "", Finding("state", "warning", facts.state_doubt)),
        (facts.nodes_doubt != "", Finding("nodes", "warning", facts.nodes_doubt)),
        (facts.fleet_doubt != "", Finding("commands", "warning", facts.fleet_doubt)),
    )
    found = [finding for holds, finding in rows if holds]
    found += [
        Finding(f"{name}_failing", "warning", "what it should write waits") for name in facts.sinks_failing
    ]
    certificate = _certificate(facts, config)
    return Report(tuple(found + ([certificate] if certificate else [])))


def _certificate(facts: Facts, config: HealthConfig) -> Finding | None:
    if facts.certificate_until is None:
        return None
    days = (facts.certificate_until - facts.wall) / 86_400
    if days <= 0:
        return Finding("certificate", "unready", f"ended {-days:.1f} days ago")
    if days < config.certificate_days:
        return Finding("certificate", "warning", f"ends in {days:.1f} days")
    return None


def free_descriptors(process: Path = Path("/proc/self")) -> int:
    """File descriptors this process may still open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in (process / "fd").iterdir())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0  # there is none left to look with
        return limit  # no /proc: assume the best rather than refuse calls
    return limit - used


class Timer(Protocol):
    """A scheduled callback that can be taken back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The part of the event loop that the meter uses."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Timer: ...


class LagMeter:
    """How late the loop calls back: the worst of the last five seconds, and when it last did."""

    def __init__(self, loop: Clock) -> None:
        self._loop = loop
        self._lags: deque[float] = deque(maxlen=LAG_WINDOW)
        self._minute: deque[float] = deque(maxlen=LAG_MINUTE)
        self._due = 0.0
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to look."""
        self._due = self._loop.time() + LAG_EVERY
        self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def worst_s(self) -> float:
        """Worst recent lag, seconds; a look that is overdue now counts already."""
        overdue = self._loop.time() - self._due if self._timer is not None else 0.0
        return max(0.0, overdue, *self._lags)

    @property
    def p99_s(self) -> float:
        """What 99 of 100 looks of the last minute did not exceed, seconds; 0 before the first."""
        lags = sorted(self._minute)
        return max(0.0, lags[len(lags) * 99 // 100]) if lags else 0.0

    def _look(self) -> None:
        now = self._loop.time()
        self._lags.append(now - self._due)
        self._minute.append(now - self._due)
        self._due = now + LAG_EVERY
        self._timer = self._loop.call_at(self._due, self._look)
