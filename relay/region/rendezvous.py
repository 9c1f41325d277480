"""Weighted rendezvous hashing: everybody who knows the same nodes and weights names the same one for a call.

    u = (the first 8 bytes of SHA-256("call|node") + 0.5) / 2^64      score = -weight / ln u      highest wins

A node that comes takes only the calls that it wins, a node that goes loses only its own; a weight that rises
or falls does the same by degrees. (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker
2005.) Vectors: tests/vectors/rendezvous.json. Must never live here: which nodes may be chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from math import floor, log
from typing import Final

from relay.errors import LocalError

STEPS: Final = 16
"""Weights come in sixteenths: what changes by less moves nothing, and two who look a moment apart agree."""
LEAST: Final = 1 / STEPS
"""Of a node that is full but well: it still gets its share of what is left over."""
PER_CALL: Final = 0.01
"""Stress that a call stands for which was placed since the last report (as Jitsi's bridges are counted)."""


def weight(stress: float, placed: int = 0) -> float:
    """What a node counts for: `1 - stress` in sixteenths, 1/16 at least.

    `stress` 1 is all that it can do, more is possible; `placed` are calls given to it that its report does
    not know yet.
    """
    left = 1.0 - (stress + PER_CALL * placed)
    return min(STEPS, max(1, floor(STEPS * left + 0.5))) / STEPS


def score(call: str, node: str, weight: float) -> float:
    """What `node` offers for `call`; 0 with weight 0. LocalError for a `|` in the call, which ends it."""
    if "|" in call:
        raise LocalError("the name of a call has no |")
    drawn = int.from_bytes(sha256(f"{call}|{node}".encode()).digest()[:8], "big")
    # Half a step keeps u off 0. The greatest draws round to 1, whose logarithm is 0: the float below.
    u = min((drawn + 0.5) / 2**64, 1 - 2**-53)
    return -weight / log(u)


def ranked(call: str, weights: Mapping[str, float]) -> list[str]:
    """The nodes with a weight above 0, the one for `call` first, then who takes it when that is gone.

    `call` is the call's id in hexadecimal. Two equal scores are settled by the nodes' names.
    """
    offers = [(score(call, node, each), node) for node, each in weights.items() if each > 0]
    return [node for _, node in sorted(offers, key=lambda offer: (-offer[0], offer[1]))]
