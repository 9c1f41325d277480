"""Every reason for which a packet, datagram or request is dropped. The only list.

Metric labels, log words and test names are made from these spellings; the native lane reads those of
DropReason from tests/vectors/reasons.json. Must never live here: anything but names.
"""

from __future__ import annotations

from enum import StrEnum


class DropReason(StrEnum):
    """Why something that arrived (or was about to leave) went no further."""

    MALFORMED = "malformed"  # not decodable as what its first bytes announce
    BAD_VERSION = "bad_version"  # media header version, or a QUIC version we do not speak
    UNKNOWN_ID = "unknown_id"  # no leg owns this connection id, no allocation this address
    UNKNOWN_FLOW = "unknown_flow"  # the leg has no such uplink flow
    GATE_CLOSED = "gate_closed"  # nobody may hear this flow yet, or no longer
    MUTED = "muted"  # the sender is muted, here, at the relay
    BLOCKED = "blocked"  # one of the pair blocked the other
    WRONG_SENDER = "wrong_sender"  # KID index is not the participant's own
    BAD_TAG = "bad_tag"  # the QUIC packet did not open
    DUPLICATE = "duplicate"  # same (KID, CTR), or same packet number, seen before
    UNPROVEN = "unproven"  # the source address is not validated
    OVER_BUDGET = "over_budget"  # token budget of the leg or allocation, or a per-source budget
    QUOTA = "quota"  # a per-token or per-node resource quota is used up
    QUEUE_FULL = "queue_full"  # drop-oldest audio queue
    STALE = "stale"  # older than its deadline
    TOO_LARGE = "too_large"  # larger than a datagram may be
    DRAINING = "draining"  # the node takes no new work
    PEER_GONE = "peer_gone"  # the receiving leg closed while copies were queued
    SEND_ERROR = "send_error"  # the kernel refused the datagram
    INTERNAL = "internal"  # a bug here: must stay 0
    NO_PERMISSION = "no_permission"  # TURN: the allocation has none for this peer, or none any more
    NO_CHANNEL = "no_channel"  # TURN: the number is bound to no peer, or not any more
    NOT_WANTED = "not_wanted"  # more than the listener's way bears: redundancy
    SHED = "shed"  # the node is full: redundancy first, then comfort noise
    HOP_LIMIT = "hop_limit"  # came by a trunk, and says that it passed another number of relays than one
    SECOND_COPY = "second_copy"  # came by the other path of its trunk before


class Refusal(StrEnum):
    """Which limit of an issuer's (`tokens.issuers`) refused a request; `shared`: the rest is in reserve."""

    JOINS = "joins"
    COMMANDS = "commands"
    LEGS = "legs"
    CALLS = "calls"
    ALLOCATIONS = "allocations"
    SHARED = "shared"
