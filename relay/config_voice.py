"""The settings of voice, two branches of the tree in relay/config.py.

How quality is judged, and how a listener's leg is adapted to its network.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Mos = Annotated[float, Meta(ge=1, le=4.5)]
Weight = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Millis = Annotated[int, Meta(ge=1, le=10_000)]
Seconds = Annotated[float, Meta(gt=0, le=600)]
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


@dataclass(frozen=True, slots=True)
class AdaptConfig:
    """When a listener's leg counts as lossy or congested, and how fast the answer may change."""

    enabled: bool = True
    """Whether listeners' legs are adapted to their networks: loss repaired, more held for that, senders asked
    for less where there is a queue. Costs nothing for a leg that loses nothing; for others the loop has a
    look five times a second, and up to twice their bytes."""
    always_armed: bool = False
    """Whether copies are kept for legs that lost nothing yet, so that the very first outage is repaired.
    Costs the lane 10 % more time per packet with 100 legs and half as much again with 2,000."""
    armed_s: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    """A leg on which nothing was wrong for so long is no longer looked at, and without always_armed nothing
    is kept for it, seconds."""
    lossy_from: Share = 0.01
    """Loss before repair from which a leg counts as lossy, 0-1. Lower: repeats where few are needed."""
    clean_below: Share = 0.005
    """Loss below which it may count as clean again, 0-1."""
    burst_from: Annotated[float, Meta(ge=1, le=64)] = 1.5
    """Mean run of lost packets from which losses count as bursts."""
    heavy_from: Share = 0.03
    """Loss that repair leaves from which a leg counts as heavily lossy, 0-1."""
    heavy_below: Share = 0.01
    """And below which it no longer does."""
    heavy_after_s: Seconds = 5.0
    """How long it must be so, seconds."""
    spotty_rest_s: Seconds = 10.0
    """Without loss for so long, a leg with single losses is clean, seconds."""
    bursty_rest_s: Seconds = 15.0
    """The same after bursts, seconds. Shorter: bytes saved, and the next burst finds a small allowance."""
    heavy_rest_s: Seconds = 15.0
    """The same for the step down from heavy, seconds."""
    queue_ms: Millis = 50
    """Queueing delay on the way to the listener above which nothing may be added, milliseconds; with a rising
    trend it is congestion."""
    deep_queue_ms: Millis = 100
    """Above this a step down in congestion goes one level further, milliseconds, so that the queue is gone in
    two seconds."""
    queue_clear_ms: Millis = 20
    """Below this the queue is gone, milliseconds."""
    trend_from: Annotated[float, Meta(ge=0, le=1)] = 0.8
    """Kendall's tau of the last five delays from which they rise, 0-1."""
    trend_s: Seconds = 0.4
    """How long queue and trend must agree, seconds."""
    steep_ms: Millis = 80
    """A queue that grows by so much in two looks is congestion without further proof, milliseconds. Less:
    quicker, and jitter passes for a queue."""
    age_ms: Millis = 100
    """The oldest copy that waits in the relay is older than this: congestion, milliseconds."""
    acked_share: Share = 0.85
    """Acknowledged below this share of what was sent, while there is a queue: congestion, 0-1."""
    acked_s: Seconds = 1.0
    """How long that must be so, seconds."""
    congested_loss: Share = 0.1
    """Loss above this with a full queue: congestion, 0-1."""
    clear_s: Seconds = 2.0
    """Congestion ends when the queue has been gone for so long, seconds."""
    stood_s: Seconds = 5.0
    """Or when it neither grew nor went for so long, seconds: then it is others who fill it."""
    stood_most_ms: Millis = 150
    """What others may fill before it counts as congestion again, milliseconds, for probation_s."""
    starved_bps: Annotated[int, Meta(ge=1_000, le=1_000_000)] = 30_000
    """Acknowledged bits per second below which a congested leg starves; on the wire, all included."""
    starved_s: Seconds = 3.0
    """A leg congested at the lowest rate for so long starves, seconds."""
    fed_s: Seconds = 5.0
    """A starved leg without a queue for so long is no longer, seconds."""
    dark_s: Seconds = 1.0
    """A listener who owes reports for so long is dark: nothing is raised, nothing repeated, seconds."""
    floor_s: Seconds = 4.0
    """For so long: the sender is asked for the lowest rate, seconds."""
    down_s: Seconds = 1.0
    """At most one step down in so long, seconds."""
    up_s: Seconds = 5.0
    """At most one step up in so long, seconds. A step up that fails doubles it for the leg."""
    calm_s: Seconds = 1.0
    """And only when there was no queue for so long, seconds. Shorter: a way that is just wide enough passes
    for a wide one."""
    up_most_s: Seconds = 8.0
    """Up to this, seconds. Longer: fewer queues that a step up begins on a way that stays narrow, and speech
    that is low for longer after it became wide."""
    clean_budget: Share = 0.1
    """Repeats per media packet on a clean leg, saved up to clean_depth."""
    clean_depth: Annotated[int, Meta(ge=1, le=100)] = 10
    """Repeats that a clean leg has saved, so that its first burst is repaired."""
    budget: Share = 1.0
    """Repeats per media packet on a lossy leg, saved up for one second. More than 1 is never allowed."""
    probation_s: Seconds = 30.0
    """For so long after congestion repair takes no more than probation_share of what the leg was seen to
    carry beyond the media, seconds."""
    probation_share: Share = 0.5
    """That share, 0-1."""
    playout_ms: Annotated[int, Meta(ge=20, le=500)] = 130
    """What a listener is asked to hold while repair runs, milliseconds, and the age to which a packet is
    repeated. More repairs longer outages and delays the talk. Best just above a multiple of the packets'
    length, as repeats leave beside them: else the last that could help is now in time and now not."""
    heavy_playout_ms: Annotated[int, Meta(ge=20, le=500)] = 200
    """What a heavily lossy one is asked to hold, milliseconds."""
    heavy_age_ms: Annotated[int, Meta(ge=20, le=500)] = 180
    """The age to which packets are repeated to it, milliseconds."""
    speakers: Annotated[int, Meta(ge=1, le=8)] = 3
    """Speakers forwarded at once to a listener in a group; congestion takes one away per step, down to 1."""
    high_bps: Annotated[int, Meta(ge=6_000, le=510_000)] = 24_000
    """What senders are asked for when nothing is wrong, Opus bits per second."""
    mid_bps: Annotated[int, Meta(ge=6_000, le=510_000)] = 16_000
    """The step below."""
    low_bps: Annotated[int, Meta(ge=6_000, le=510_000)] = 12_000
    """The lowest."""
    uplink_fec_from: Share = 0.02
    """Loss on the sender's own uplink from which its codec is asked for forward error correction, 0-1."""
