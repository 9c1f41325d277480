"""The settings of overload: from when on what is given up, and when it comes back.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Pressure = Annotated[float, Meta(ge=0.1, le=100)]
Seconds = Annotated[float, Meta(ge=1, le=3_600)]


@dataclass(frozen=True, slots=True)
class OverloadConfig:
    """What a node that is full gives up, one after the other, before running calls suffer.

    Full (1) is the fullest of processors, packets a second (health.packets_per_s), the event loop's delay and
    the busiest thread (0.99 at most), over five seconds.
    """

    enabled: bool = True
    """Whether anything is given up. Without it a full node loses what comes too late, whatever it is."""
    redundancy_from: Pressure = 0.9
    """From here on nothing is repeated, and packets marked as mere redundancy (drop class 2) end here."""
    silence_from: Pressure = 0.95
    """From here on comfort noise (drop class 1) ends here, too."""
    calls_from: Pressure = 1.0
    """From here on no new call begins here (OVERLOADED), and /readyz says 503. Running calls go on, and take
    people in."""
    clear_below: Pressure = 0.8
    """Below this what was given up last comes back."""
    up_s: Seconds = 5.0
    """How full it must be for so long before something is given up, and between two such steps, seconds."""
    down_s: Seconds = 15.0
    """Between two steps back, seconds."""
