"""Metrics of trunks by the region of the other node, and a line of the log when one turns bad, or well again.

One node has at most 1024 trunks, and few regions: no label names a node, the log does. Must never live here:
counting, and what is bad.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

from relay.core.trunk_reports import Standing
from relay.ops.families import gauges, labelled

log = logging.getLogger("relay.trunks")


class TrunkWatch:
    """Says what changed since the last look."""

    def __init__(self) -> None:
        self._bad: set[str] = set()

    def look(self, standings: Iterable[Standing]) -> None:
        """Once a second: how trunks are."""
        for one in standings:
            if one.is_bad is (one.node in self._bad):
                continue
            if one.is_bad:
                self._bad.add(one.node)
                delay = "unknown" if one.delay_s is None else f"{1000 * one.delay_s:.0f} ms over its least"
                told = one.node, one.region, 100 * one.loss, delay
                log.warning("the trunk to %s in %s is bad: %.1f %% lost, delay %s", *told)
            else:
                self._bad.discard(one.node)
                log.info("the trunk to %s in %s is not bad any more, or not there", one.node, one.region)


def families(standings: Iterable[Standing]) -> Iterator[Metric]:
    """How the trunks are to each region."""
    loss: dict[str, float] = {}
    delay: dict[str, float] = {}
    bad: dict[str, float] = {}
    counts: dict[tuple[str, str], float] = {}
    for one in standings:
        peer = one.region
        loss[peer] = max(loss.get(peer, 0.0), one.loss)
        bad[peer] = bad.get(peer, 0) + one.is_bad
        if one.delay_s is not None:
            delay[peer] = max(delay.get(peer, 0.0), one.delay_s)
        for result, count in (("came", one.came), ("missing", one.missing), ("late", one.late)):
            counts[peer, result] = counts.get((peer, result), 0) + count
    yield gauges("relay_trunk_loss_ratio", "Packets lost on the worst trunk there, 10 s.", "peer", loss)
    yield gauges(
        "relay_trunk_delay_seconds",
        "Delay over its least of the worst trunk there, 95 of 100.",
        "peer",
        delay,
    )
    yield gauges("relay_trunk_bad", "Trunks there that are bad for ten seconds.", "peer", bad)
    labels = ("peer", "result")
    yield labelled("relay_trunk_datagrams", "What became of ours there, by hop reports.", labels, counts)
