"""The settings of `relay feed`, a branch of the tree in relay/config.py that the daemon itself does not read.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=604_800)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$",
        description="1 to 32 of a-z 0-9 . _ -, first a letter or digit",
    ),
]
Kind = Literal[
    "call.ringing",
    "call.answered",
    "call.ended",
    "call.moved",
    "call.adopted",
    "participant.joined",
    "participant.accepted",
    "participant.away",
    "participant.back",
    "participant.arrived",
    "participant.left",
    "participant.muted",
    "device.ended",
    "pair.blocked",
    "report",
    "feedback",
    "command",
    "node.drain",
    "events.lost",
]
"""Kinds of events, as docs/events.schema.json has them."""


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """An endpoint that takes events."""

    name: Name = "webhook"
    """Name in metrics, logs and the queue. What waits for a name that is here no more becomes dead."""
    url: str = ""
    """Where to POST: https, or http on loopback. Redirects are not followed, and any address is allowed."""
    secret_file: str = ""
    """File with `whsec_` and base64 of 24 to 64 bytes, as `relay feed secret` makes it."""
    previous_secret_file: str = ""
    """The secret before a rotation: while it is set, letters carry a signature by each. "": none."""
    events: tuple[Kind, ...] = ()
    """Kinds of events that it gets. Empty: all, also those of later versions."""
    issuers: tuple[Name, ...] = ()
    """Names of the issuers whose events it gets, and no others, nor the node's own. Empty: all there are."""
    batch: Annotated[int, Meta(ge=1, le=256)] = 1
    """Events in one letter at most. 1: the body is the event itself; more: always a list of them. One letter
    is under way at a time: a distant endpoint gets more events a second with more."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """An answer that takes longer is a failure, seconds."""


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """How `relay feed` brings events to other machines."""

    webhooks: tuple[WebhookConfig, ...] = ()
    """Endpoints that take events as signed webhooks (Standard Webhooks)."""
    store: str = "/var/lib/relay-feed/feed.sqlite"
    """SQLite file with what waits for its endpoint, and dead letters."""
    metrics: str = "127.0.0.1:9465"
    """Address of the feed's own /metrics; "" switches it off."""
    retry_first_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 1.0
    """Rest after a first failure, seconds; doubled by each more in a row. Cut by up to half, at random."""
    retry_most_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 300.0
    """Longest rest, also where the endpoint asks for a longer one (Retry-After), seconds."""
    max_age_s: Seconds = 86_400.0
    """A letter that could not be delivered for so long is a dead letter, seconds."""
    attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    """The same after so many tries. In an outage, each rest takes one."""
    max_bytes: Annotated[int, Meta(ge=65_536, le=17_179_869_184)] = 67_108_864
    """What may wait for one endpoint, bytes; above it the oldest become dead letters. An endpoint's dead
    letters take as much again; above it the oldest are erased."""
    dead_days: Annotated[float, Meta(gt=0, le=3_650)] = 7.0
    """Dead letters are erased after so long, days. They carry the pseudonyms of calls."""
