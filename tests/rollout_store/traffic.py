"""A region that calls: counts as nodes export them, by a clock set by hand. Must never live here: a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from relay.rollout.counts import Report
from relay.rollout.lastgood import LIFE_S, Body, seal
from relay.rollout.trial import Tally

INDICATORS = ("setup_fail", "drop", "poor_call", "one_way")
CONTROL_SHARES = {"setup_fail": 0.005, "drop": 0.01, "poor_call": 0.05, "one_way": 0.001}


class Clock:
    """Wall clock, seconds; sleeping is to set it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Traffic:
    """Calls at a steady rate since `clock` was made; shares are those of bad ones."""

    clock: Clock
    per_s: float = 1.0
    """Candidate calls a second; the control has 24 times as many."""
    fails: float = 0.005
    """Share of candidate calls that cannot be set up."""
    health: str = "ok"

    def __post_init__(self) -> None:
        self.began = self.clock.now

    def report(self) -> Report:
        """What was counted by now."""
        calls = int((self.clock.now - self.began) * self.per_s)
        candidate = CONTROL_SHARES | {"setup_fail": self.fails}
        return Report(
            (
                Tally(
                    self.clock.now,
                    calls,
                    {name: (int(calls * share), calls) for name, share in candidate.items()},
                    {name: (int(24 * calls * share), 24 * calls) for name, share in CONTROL_SHARES.items()},
                ),
            ),
            {"eu-1": self.health},
        )


class Node:
    """Metrics of a relay, by the names and labels that it exports."""

    def __init__(self, region: str = "eu-1", started: float = 0.0) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, *labels: str) -> Counter:
            return Counter(name, "of the test", labels, registry=self.registry)

        def gauge(name: str, *labels: str) -> Gauge:
            return Gauge(name, "of the test", labels, registry=self.registry)

        gauge("relay_info", "version", "node", "region").labels("0.4.0", "n1", region).set(1)
        gauge("relay_start_time_seconds").set(started)
        self.health = gauge("relay_health_state", "variant", "state")
        self.health.labels("control", "ok").set(1)
        self.health.labels("control", "bad").set(0)
        gauge("relay_state_age_seconds").set(3)
        gauge("relay_state_revision").set(7)
        self.ended = counter("relay_calls_ended", "transport", "variant", "reason")
        self.funnel = counter("relay_call_funnel", "step", "client", "variant")
        self.events = counter("relay_sli_events", "sli", "variant", "sdk")
        self.bad = counter("relay_sli_bad", "sli", "variant", "sdk")
        self.audio = Histogram(
            "relay_first_audio_seconds",
            "of the test",
            ("direction", "variant"),
            buckets=(0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 10),
            registry=self.registry,
        )
        self.carry("control", 0)

    def carry(self, variant: str, calls: int, late: int = 0, sdk: str = "other", **bad: int) -> None:
        """So many more calls, so many of them bad."""
        self.funnel.labels("invited", "phone", variant).inc(calls)
        self.funnel.labels("joined", "phone", variant).inc(calls)
        self.ended.labels("quic", variant, "completed").inc(calls)
        for name in INDICATORS:
            self.events.labels(name, variant, sdk).inc(calls)
            self.bad.labels(name, variant, sdk).inc(bad.get(name, 0))
        for side in ("caller", "callee"):
            for at in range(calls):
                self.audio.labels(side, variant).observe(2.0 if at < late else 0.3)

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Its page of metrics, on loopback."""
        server, thread = start_http_server(0, addr="127.0.0.1", registry=self.registry)
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def ruled(now: float, *regions: str, seed: bytes = bytes(32)) -> bytes:
    """A signed state without a rollout, by which calls of each region stay there and records 30 days."""
    routes = {
        name: {"relays": {}, "rules": {"may_leave_to": [], "keep_in": [name], "keep_days": 30}}
        for name in regions
    }
    return seal(Body(1, int(now), int(now) + LIFE_S, None, routes), seed)
