"""The settings of voice, a branch of the tree in relay/config.py: how quality is judged.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Mos = Annotated[float, Meta(ge=1, le=4.5)]
Weight = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
BitsPerSecond = Annotated[int, Meta(ge=6_000, le=510_000)]
Impairment = Annotated[float, Meta(ge=0, le=131)]


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """How quality is estimated without hearing: the form of ITU-T G.107.2, a scale of its own (1 to 4.5)."""

    window_s: Annotated[float, Meta(ge=1, le=60)] = 5.0
    """One estimate per direction each so many seconds. Shorter: quicker, and noisier."""
    weight_down: Weight = 0.8
    """Weight of a window that is worse than the average so far, 0-1. What gets worse is noticed at once."""
    weight_up: Weight = 0.4
    """Weight of a window that is better, 0-1. What gets better is believed slowly."""
    mid_from_bps: BitsPerSecond = 14_000
    """Opus below this many bits per second counts as low, from here on as middle."""
    high_from_bps: BitsPerSecond = 20_000
    """From here on as high."""
    ie_low: Impairment = 23.0
    """Impairment of Opus without loss at low rates. Provisional: ITU has none for Opus, these are fits."""
    ie_mid: Impairment = 17.0
    """The same at middle rates."""
    ie_high: Impairment = 10.2
    """The same at high rates."""
    bpl: Annotated[float, Meta(ge=0.1, le=100)] = 5.5
    """Per cent of loss that does half the damage. Higher: a decoder that conceals better."""
    gap_ms: Annotated[int, Meta(ge=20, le=1_000)] = 60
    """A pause in what arrives counts as a gap from this length on, milliseconds."""
    good_from: Mos = 4.0
    """Estimates from here on are good."""
    fair_from: Mos = 3.6
    """From here on fair; between this and poor_below they are weak."""
    poor_below: Mos = 3.1
    """Below this they are poor, and the window counts against the call."""
    bad_below: Mos = 2.6
    """Below this they are bad."""
    poor_share: Share = 0.2
    """A call is poor when more than this share of its windows is, 0-1, or when their mean is."""
    poor_silence_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    """Or when one side heard nothing for longer than this while the other was sending, seconds."""
    judged_after_s: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    """Directions with less speech than this are never judged poor, seconds."""
