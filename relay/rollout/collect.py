"""Keeps the control calls of the days before: what nodes say, by their regions, into the store.

    metrics of nodes --scrape.py--> Reading --collect--> Days of each region (prior.py), compare-and-set

Whoever looks at a rollout does so, too (inquiry.py), and who wants days before a rollout begins runs it by
itself. Counters are cumulative and the store knows what was counted last, so two at once count once. Must
never live here: which of it a gate uses (prior.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from relay.rollout.course import Helm
from relay.rollout.prior import Days, gather
from relay.rollout.readings import Reading
from relay.rollout.store import ConflictError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as a plan names regions


async def collect(helm: Helm, readings: Sequence[Reading], who: str) -> Mapping[str, Days]:
    """Count what these nodes say; what is kept of their regions by now.

    A node that names no region, or one that no plan could name, counts nowhere.
    """
    by: dict[str, list[Reading]] = {}
    for reading in readings:
        if _NAME.fullmatch(reading.region) and ".." not in reading.region:
            by.setdefault(reading.region, []).append(reading)
    return {region: await _collect(helm, region, some, who) for region, some in by.items()}


async def _collect(helm: Helm, region: str, readings: Sequence[Reading], who: str) -> Days:
    while True:
        before, revision = await helm.days(region)
        found = gather(before, readings, helm.wall())
        if found == before:
            return found
        try:
            await helm.put_days(region, found, revision, who)
        except ConflictError:
            continue  # the same readings again, on top of what somebody else has counted
        return found
