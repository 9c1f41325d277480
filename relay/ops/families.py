"""How counts become metric families of Prometheus, and the label values that are known from the start.

Every drop reason and close code is exported at 0 before it ever happens, so that an alert on a name never
waits for its first occurrence. Must never live here: which metrics there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from relay.core.reasons import DropReason
from relay.core.spread import Spread
from relay.errors import ErrorCode

Labels = TypeVar("Labels", bound=tuple[str, ...])

CODES: Final = tuple(code.name.lower() for code in ErrorCode)
REASONS: Final = tuple(reason.value for reason in DropReason)
TRANSPORTS: Final = ("quic", "wt", "ws", "tls")
STATES: Final = ("running", "emptying", "draining", "moving", "closing", "stopped")


def counters(
    name: str, text: str, label: str, values: Mapping[str, int], known: Iterable[str] = ()
) -> Metric:
    """A counter with one label; `known` values stand there from the start."""
    family = CounterMetricFamily(name, text, labels=[label])
    for key in dict.fromkeys((*known, *values)):
        family.add_metric([key], values.get(key, 0))
    return family


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def by_reason(values: Mapping[DropReason, int]) -> dict[str, int]:
    """The same by their names."""
    return {reason.value: count for reason, count in values.items()}


def labelled(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    """A counter with several labels."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, Spread]) -> Metric:
    """Classic buckets, cumulative, with their sum."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, spread in values.items():
        buckets, below = [], 0
        for bound, count in zip((*map(str, spread.bounds), "+Inf"), spread.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(key, buckets, spread.sum)
    return family
