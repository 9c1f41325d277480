"""Metrics of issuers: what each holds, what of its tokens admitted, what its limits refused.

The label is a name in `tokens.issuers`, so the configuration bounds it. Must never live here: counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from relay.core.tenants import Standing
from relay.ops.families import counters, labelled

HELD = (
    ("legs", "Live legs, by issuer."),
    ("calls", "Calls that are not recorded yet, by the issuer whose people opened them."),
    ("allocations", "TURN allocations, by issuer."),
)


def issuers(now: Sequence[Standing]) -> Iterator[Metric]:
    """All of them."""
    for what, text in HELD:
        family = GaugeMetricFamily(f"relay_issuer_{what}", text, labels=["issuer"])
        for one in now:
            family.add_metric([one.name], getattr(one, what))
        yield family
    admitted = {one.name: one.admitted for one in now}
    yield counters("relay_issuer_admitted", "Tokens that admitted, by issuer.", "issuer", admitted)
    refused = {(one.name, reason.value): float(n) for one in now for reason, n in one.refused.items()}
    yield labelled(
        "relay_issuer_refused",
        "Requests that a limit of the issuer's own refused, or what others have in reserve (shared).",
        ("issuer", "reason"),
        refused,
    )
