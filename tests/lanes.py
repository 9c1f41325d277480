"""Both lanes for tests: `LANES` names those that this build has, `make_lane` makes one without threads.

With RELAY_LANE_REQUIRED=1 the native one is tested whether it is there or not, so its absence fails.
"""

from __future__ import annotations

import importlib.util
import os

from relay.config import Config, LimitsConfig
from relay.edge.lane import Lane, choose

HAS_NATIVE = importlib.util.find_spec("relay._lane") is not None or "RELAY_LANE_REQUIRED" in os.environ
LANES = ["python", "native"] if HAS_NATIVE else ["python"]


def make_lane(name: str, limits: LimitsConfig | None = None) -> Lane:
    """A lane of this kind, to be fed by `receive`."""
    return choose(Config(lane=name, limits=limits or LimitsConfig()))  # type: ignore[arg-type]  # one of LANES
