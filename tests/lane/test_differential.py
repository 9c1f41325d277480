"""Twin and native lane agree on every generated input. RELAY_DIFFERENTIAL=1000000 for the long campaign."""

from __future__ import annotations

import os

import pytest

from lanes import HAS_NATIVE

pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="this build has no native lane")

INPUTS = int(os.environ.get("RELAY_DIFFERENTIAL", "40000"))
LIFE = 4000  # steps of one life
FIRST_SEED = int(os.environ.get("RELAY_DIFFERENTIAL_SEED", "1"))


@pytest.mark.timeout(3600)
def test_both_lanes_give_and_count_the_same() -> None:
    from lane.differential import Duel

    inputs, seed = 0, FIRST_SEED
    done: dict[str, int] = {}
    while inputs < INPUTS:
        duel = Duel(seed)
        duel.run(LIFE)
        inputs += duel.inputs
        seed += 1
        for name, count in duel.done.items():
            done[name] = done.get(name, 0) + count
    assert min(done.values()) > 0
    print(f"{inputs} inputs in {seed - FIRST_SEED} lives, 0 disagreements: {done}")
