"""How trunks are, by the other node's region; and the log says which one turned bad."""

from __future__ import annotations

import logging

import pytest

from ops.test_metrics import scrape, snapshot
from relay.core.trunk_reports import Standing
from relay.ops.trunk_metrics import TrunkWatch

NEAR = Standing("iad-1", "iad", came=100, missing=3, late=1, loss=0.01, delay_s=0.004)
FAR = Standing("iad-2", "iad", came=10, missing=2, late=0, loss=0.05, delay_s=None, is_bad=True)
OTHER = Standing("sin-1", "sin")


def test_counts_of_a_region_are_sums_and_the_rest_is_of_its_worst_trunk() -> None:
    found = scrape(snapshot(trunks=(NEAR, FAR, OTHER)))
    of = "relay_trunk_datagrams_total"
    assert [found[of, ("iad", result)] for result in ("came", "missing", "late")] == [110, 5, 1]
    assert (found["relay_trunk_loss_ratio", ("iad",)], found["relay_trunk_bad", ("iad",)]) == (0.05, 1)
    assert found["relay_trunk_delay_seconds", ("iad",)] == 0.004
    assert ("relay_trunk_delay_seconds", ("sin",)) not in found
    assert (found["relay_trunk_loss_ratio", ("sin",)], found["relay_trunk_bad", ("sin",)]) == (0, 0)


def test_the_log_names_a_trunk_when_it_turns_bad_and_when_it_is_well_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = TrunkWatch()
    one = Standing("iad-2", "iad", loss=0.05, delay_s=0.08)
    with caplog.at_level(logging.INFO, "relay.trunks"):
        for is_bad in (False, True, True, False, False, True):
            one.is_bad = is_bad
            watch.look([NEAR, one])
            one.delay_s = None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert "trunk to iad-2 in iad is bad: 5.0 % lost, delay unknown" in caplog.text
