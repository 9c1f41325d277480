"""One issuer: whose word admits people, and what they may have of a node. A branch of relay/config.py.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$",
        description="1 to 32 of a-z 0-9 . _ -, first a letter or digit",
    ),
]
HexKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="64 lower-case hexadecimal digits")]
NoKey = Annotated[
    str, Meta(pattern=r"^([0-9a-f]{64})?$", description='64 lower-case hexadecimal digits, or ""')
]
Ceiling = Annotated[int, Meta(ge=0, le=10_000_000)]


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """A back end that may admit people. A number that is 0 limits nothing beyond the section `limits`."""

    name: Name = "app"
    """Name for logs, events, records and metrics."""
    public_key: HexKey = "0" * 64
    """Ed25519 public key, 64 hexadecimal digits, printed by `relay token keygen`."""
    previous_public_key: NoKey = ""
    """The key before a rotation: what it signs counts as this issuer's while it stands here. "": none."""
    canary: bool = False
    """Of `relay canary` and of nobody else: its calls count in no indicator and are told to no back end, it
    meets no people of other issuers, and may give no commands."""
    apart: bool = False
    """A tenant of its own: its people meet only each other, its commands and revocations reach only its own,
    and those of others reach nothing of it. It has memories of spent tokens (tokens.replay_entries) and of
    used commands to itself, up to 40 MB. False: it is one with all issuers that are not apart."""
    reserved_percent: Annotated[int, Meta(ge=0, le=100)] = 0
    """Part of the node's legs, calls and TURN allocations that nobody else gets, percent. While it is not in
    use the others have so much less."""
    legs: Ceiling = 0
    """Legs of its people at once. Who moves has two for a while, and may come back above it."""
    calls: Ceiling = 0
    """Calls that its people opened, at once. One that comes from another node is taken up above it."""
    joins_per_s: Ceiling = 0
    """Tokens that may admit per second; more are refused (RATE_LIMITED), not spent. Returns do not count."""
    joins_burst: Ceiling = 0
    """How many of these may come at once. 0: those of one second."""
    commands_per_s: Ceiling = 0
    """Commands per second; more are refused (RATE_LIMITED)."""
    commands_burst: Ceiling = 0
    """How many of these may come at once. 0: those of one second."""
    allocations: Ceiling = 0
    """TURN allocations of its people at once (turn.policy strict); more get 486."""
    max_up_kbps: Ceiling = 0
    """Greatest uplink one of its tokens may grant, kilobits per second. With `legs` it bounds the sum."""
    max_down_kbps: Ceiling = 0
    """Greatest downlink one of its tokens may grant, kilobits per second."""
    max_pps: Ceiling = 0
    """Greatest uplink packet rate one of its tokens may grant, per second."""
    events: Annotated[str, Meta(max_length=4096)] = ""
    """Where events of its calls go instead of events.path: another file or socket, as events.sink says, with
    a queue of its own, and a spool `events.spool`.NAME. "": to events.path, with the name as `issuer`."""
