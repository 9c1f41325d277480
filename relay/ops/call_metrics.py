"""Metrics of calls: set-ups, endings, the way to a talk, indicators, and how the region is.

Labels are bounded by the program and by the configured lists of clients. Must never live here: counting.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from math import inf
from typing import Final, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from relay.core.adapt import State as WayState
from relay.core.pulse import Result, Step
from relay.core.spread import Spread
from relay.core.tallies import Histogram, Tallies
from relay.ops.canary import CHECKS, RUNGS
from relay.ops.families import TRANSPORTS, counters, histogram, labelled
from relay.ops.region import Standing, State
from relay.ops.snapshot import CanaryCounters, TalkCounters
from relay.protocol.messages import Why

REASONS: Final = (*get_args(Why), "gone", "drain", "glare")
"""Why calls end: the outcome, or what made one fail."""


def talk(now: TalkCounters) -> Iterator[Metric]:
    """What calls did."""
    variant = now.variant
    results = [result.value for result in Result]
    yield labelled(
        "relay_call_setups",
        "Attempts to set a call up, by what became of them.",
        ("transport", "variant", "result"),
        _known(now.setups, TRANSPORTS, results, variant),
    )
    yield labelled(
        "relay_calls_ended",
        "Calls ended, by the worst transport in them and by why.",
        ("transport", "variant", "reason"),
        _known(now.ended, TRANSPORTS, REASONS, variant),
    )
    active = GaugeMetricFamily(
        "relay_calls_active",
        "Answered calls, by the worst transport in them.",
        labels=["transport", "variant"],
    )
    for transport in TRANSPORTS:
        active.add_metric([transport, variant], now.active.get(transport, 0))
    yield active
    for name, place, text in (
        ("relay_sli_events", 1, "Valid events of an indicator, by the SDK of who calls."),
        ("relay_sli_bad", 0, "Of these the bad ones."),
    ):
        by_sdk = {sli for sli, _ in now.classed}
        values = {
            (sli, variant, ""): float(counts[place])
            for sli, counts in now.counted.items()
            if sli not in by_sdk
        }
        values |= {(sli, variant, sdk): float(counts[place]) for (sli, sdk), counts in now.classed.items()}
        yield labelled(name, text, ("sli", "variant", "sdk"), values)
    yield histogram(
        "relay_first_audio_seconds",
        "From the answer to the first packet that went on, by whose it was.",
        ("direction", "variant"),
        {(side, variant): spread for side, spread in now.first_audio.items()},
    )
    yield from _funnel(now)
    talked = CounterMetricFamily(
        "relay_call_seconds",
        "Seconds that answered calls lasted, running ones up to now.",
        labels=["variant"],
    )
    talked.add_metric([variant], now.talked_s)
    yield talked
    yield labelled(
        "relay_leg_seconds",
        "Seconds of audio whose quality was judged, of all listeners.",
        ("direction", "variant"),
        {("down", variant): now.judged_s},
    )


def quality(now: Tallies) -> Iterator[Metric]:
    """How calls were."""
    yield histograms(
        "relay_call_mos", "Estimated quality of each direction of a call, at its end.", (), {(): now.mos}
    )
    yield CounterMetricFamily("relay_calls_judged", "Calls that listeners reported on.", value=now.judged)
    yield CounterMetricFamily("relay_poor_calls", "Of these, those with a poor direction.", value=now.poor)
    yield CounterMetricFamily(
        "relay_one_way_calls",
        "Of these, those in which one side heard nothing for long while the other was sending.",
        value=now.one_way,
    )
    yield CounterMetricFamily(
        "relay_gaps_60ms", "Pauses of 60 ms in what listeners got, after repair.", value=now.gaps
    )
    yield histograms(
        "relay_leg_residual_loss_ratio",
        "Loss after repair: down, in windows of 5 s, of all the way to a listener; up, of each uplink.",
        ("transport", "direction"),
        {key: now.loss[key] for key in itertools.product(TRANSPORTS, ("up", "down"))},
    )
    yield histograms(
        "relay_leg_rtt_seconds",
        "Round trips to legs that are heard or hear, each 5 s.",
        ("transport",),
        {(transport,): now.rtt[transport] for transport in TRANSPORTS},
    )
    seconds = {state.value: now.state_s[state.value] for state in WayState}
    family = CounterMetricFamily(
        "relay_leg_state_seconds", "Time of ways that were looked at, by state.", labels=["state"]
    )
    for state, spent in seconds.items():
        family.add_metric([state], spent)
    yield family


def histograms(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, one in values.items():
        bounds = [*map(str, map(float, one.bounds)), "+Inf"]
        buckets = list(zip(bounds, map(float, one.cumulative()), strict=True))
        family.add_metric(key, buckets, sum_value=one.total)
    return family


def _funnel(now: TalkCounters) -> Iterator[Metric]:
    steps = {(step.value, "other"): 0 for step in Step} | dict(now.funnel)
    yield labelled(
        "relay_call_funnel",
        "Calls that came to a step, by the caller's class of device.",
        ("step", "client", "variant"),
        {(*key, now.variant): float(count) for key, count in steps.items()},
    )
    yield labelled(
        "relay_call_leaks",
        "Calls whose last step this was, by why they ended and the caller's class of device.",
        ("step", "reason", "client", "variant"),
        {(*key, now.variant): float(count) for key, count in now.leaks.items()},
    )


def _known(
    counted: Mapping[tuple[str, str], int],
    first: tuple[str, ...],
    second: list[str] | tuple[str, ...],
    variant: str,
) -> dict[tuple[str, ...], float]:
    known = {(one, two): 0 for one in first for two in second} | dict(counted)
    return {(one, variant, two): float(count) for (one, two), count in known.items()}


def residence(spread: Spread, datapath: str) -> Metric:
    """How long copies stayed."""
    return histogram(
        "relay_residence_seconds",
        "From the read that brought a packet to the write that took its copy away.",
        ("datapath",),
        {(datapath,): spread},
    )


def canary(now: CanaryCounters) -> Iterator[Metric]:
    """What canary calls told; they count nowhere else."""
    known = {(rung, result): 0 for rung in RUNGS for result in ("ok", "fail")} | dict(now.runs)
    yield labelled(
        "relay_canary_runs",
        "Canary calls, by what became of them.",
        ("transport", "result"),
        {key: float(count) for key, count in known.items()},
    )
    yield counters(
        "relay_canary_failures", "Canary calls that failed a check.", "reason", now.failures, CHECKS
    )
    yield GaugeMetricFamily(
        "relay_canary_failing", "Canary calls that failed without a success since.", value=now.running
    )
    yield GaugeMetricFamily("relay_canary_age_seconds", "Since the newest canary call.", value=now.age_s)


def standing(now: Standing) -> Iterator[Metric]:
    """How the region is."""
    state = GaugeMetricFamily(
        "relay_health_state", "1 for the state that the region is in.", labels=["variant", "state"]
    )
    for each in State:
        state.add_metric([now.variant, each.value], int(each is now.state))
    yield state
    if now.score is not None:
        value = GaugeMetricFamily(
            "relay_health_score",
            "The worst indicator's score, 0 to 100; absent while the state is unknown.",
            labels=["variant"],
        )
        value.add_metric([now.variant], now.score)
        yield value
    if now.age_s != inf:
        age = GaugeMetricFamily(
            "relay_health_age_seconds", "Since a call last told something.", labels=["variant"]
        )
        age.add_metric([now.variant], now.age_s)
        yield age
    for name, text in (
        ("value", "An indicator over the last quarter of an hour."),
        ("score", "What it scores, 0 to 100, by what is certain of it; absent where too few events tell."),
        ("window_events", "Valid events in that time; below 100 it does not count and has no score."),
    ):
        family = GaugeMetricFamily(f"relay_sli_{name}", text, labels=["sli", "variant"])
        for sli, one in now.readings.items():
            shown = {"value": one.value, "score": now.score_of(sli), "window_events": one.events}
            figure = shown[name]
            if figure is not None:  # absent, not NaN: `min by` and comparisons pass over it
                family.add_metric([sli, now.variant], figure)
        yield family
