"""A real daemon that is full, since its configuration says that it bears two packets a second."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from client.rig import Rig, daemon
from client.test_direct_calls import until
from client.test_following import talking
from relay.client import RefusedError, connect
from relay.errors import ErrorCode

FULL = "[health]\npackets_per_s = 2\n[overload]\nup_s = 1\ndown_s = 1\n"
PATIENCE_S = 30.0


def status(rig: Rig) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{rig.metrics_port}/readyz") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


@pytest.mark.parametrize("lane", ["native", "python"])
async def test_a_full_daemon_takes_no_new_call_and_carries_those_it_has(tmp_path: Path, lane: str) -> None:
    with daemon(tmp_path, lane, more=FULL) as rig:
        assert status(rig) == 200
        async with talking(rig) as people:
            await until(lambda: rig.metric("relay_shedding") == 3, PATIENCE_S)
            assert status(rig) == 503
            with pytest.raises(RefusedError) as refused:
                async with connect(rig.url, token=rig.token(os.urandom(16), 5), insecure=True) as session:
                    await session.join()
            assert refused.value.code == ErrorCode.OVERLOADED
            heard = people[0][1].stats().received
            await until(lambda: people[0][1].stats().received > heard + 50, PATIENCE_S)
            assert rig.metric("relay_imbalance") == 0
        await until(lambda: rig.metric("relay_shedding") == 0, PATIENCE_S)
        assert status(rig) == 200
