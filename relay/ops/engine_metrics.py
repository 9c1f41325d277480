"""Metrics of what the engine counts by itself: legs, refusals, commands, TURN's requests.

A name that is not listed is exported all the same. Must never live here: counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

from relay.core.adapt import State
from relay.core.shedding import Shed
from relay.ops.families import CODES, REASONS, STATES, TRANSPORTS, counters
from relay.rollout.bucket import Variant
from relay.rollout.mandate import Closed


@dataclass(frozen=True, slots=True)
class Family:
    """How the engine's counter of one name is shown."""

    metric: str
    help: str
    label: str
    known: tuple[str, ...] = ()


# The engine's counters are keyed (name, label). A name that is not listed here is exported all the same.
ENGINE: Final[Mapping[str, Family]] = {
    "refused": Family("relay_refused", "Requests answered with an error.", "code", CODES),
    "leg_closed": Family("relay_legs_closed", "Legs closed by the relay, by close code.", "code", CODES),
    "leg_opened": Family(
        "relay_legs_opened", "Transports that finished a handshake.", "transport", TRANSPORTS
    ),
    "admitted": Family("relay_legs_admitted", "Legs whose token was accepted.", "transport", TRANSPORTS),
    "leg_adapted": Family(
        "relay_legs_adapted",
        "Turns of listeners' ways, by the state they came into.",
        "state",
        tuple(state.value for state in State),
    ),
    "leg_lost": Family(
        "relay_legs_lost", "Legs that went away by themselves, by close code seen.", "code", (*CODES, "other")
    ),
    "standby": Family(
        "relay_standby_legs",
        "Legs that stand by for calls of other nodes, by what came of them.",
        "what",
        ("came", "called", "replaced", "gave_way", "refused"),
    ),
    "address_moved": Family("relay_legs_moved", "Address changes of live legs.", "label", ("",)),
    "command": Family("relay_commands", "Signed commands, by outcome.", "code", CODES),
    "control_datagram": Family("relay_control_datagrams", "Control datagrams taken, by type.", "type"),
    "dropped": Family("relay_control_dropped", "Control input dropped, by reason.", "reason", REASONS),
    "nack": Family("relay_nacks", "Requests to send audio again, by direction.", "direction", ("sent",)),
    "e2e": Family("relay_e2e_messages", "Opaque messages carried, by kind.", "kind", ("0", "1", "2")),
    "drain": Family("relay_drain_steps", "States that a drain entered.", "state", STATES[1:]),
    "shed": Family(
        "relay_shedding_steps",
        "Steps of what is given up when the node is full, by what holds since.",
        "what",
        tuple(each.name.lower() for each in Shed),
    ),
    "call_opened": Family("relay_calls_opened", "Calls opened.", "kind", ("pair", "group", "canary")),
    "stars": Family("relay_call_stars", "What people thought of calls, in stars.", "stars", tuple("12345")),
    "call_moved": Family(
        "relay_calls_moved",
        "Calls that went on at another node (out), or came from one (in).",
        "way",
        ("in", "out"),
    ),
    "trunk_up": Family("relay_trunks_up", "Times that a trunk to another node came to be.", "label", ("",)),
    "trunk_suspect": Family("relay_trunks_suspect", "Times that a trunk fell silent.", "label", ("",)),
    "trunk_down": Family("relay_trunks_down", "Times that a trunk was lost.", "label", ("",)),
    "trunk_refused": Family(
        "relay_trunks_refused", "Connections of nodes that are not ours.", "label", ("",)
    ),
    "referred": Family(
        "relay_people_referred",
        "Requests to go to the home of a call whose trunk was silent.",
        "label",
        ("",),
    ),
    "handover_refused": Family(
        "relay_handover_refused", "Calls of the other generation not taken up, by error.", "code", CODES
    ),
    "handover_too_large": Family(
        "relay_handover_too_large", "Calls that fit no hand-over ticket.", "label", ("",)
    ),
    "call_revived": Family(
        "relay_calls_revived", "Calls that went on after a crash of this daemon.", "label", ("",)
    ),
    "revive_refused": Family(
        "relay_calls_lost_by_crash", "Calls from before a crash that could not go on.", "label", ("",)
    ),
    "rollout_refused": Family(
        "relay_rollout_refused",
        "Joins refused because calling is not open for the person, by why.",
        "why",
        tuple(why.value for why in Closed),
    ),
    "rollout_call": Family(
        "relay_rollout_calls",
        "Calls that began here while a rollout was known, by the variant that it gave them.",
        "variant",
        tuple(variant.value for variant in Variant),
    ),
    "rollout_steered": Family(
        "relay_rollout_steered",
        "Calls that a rollout wants elsewhere, or not at all, by what came of it.",
        "how",
        ("asked", "stayed", "kept", "ended"),
    ),
    "turn_minted": Family("relay_turn_minted", "TURN credentials given to people in calls.", "label", ("",)),
    "turn_opened": Family("relay_turn_opened", "Allocations asked for and granted a quota.", "label", ("",)),
    "turn_closed": Family(
        "relay_turn_closed",
        "Allocations that ended, by why.",
        "why",
        ("expired", "refreshed_to_0", "client_gone", "owner_gone", "not_opened"),
    ),
    "turn_answered": Family(
        "relay_turn_answered",
        "TURN requests that succeeded, by method.",
        "method",
        ("allocate", "refresh", "create_permission", "channel_bind"),
    ),
    "turn_refused": Family(
        "relay_turn_refused",
        "TURN requests answered with an error, by its code.",
        "code",
        tuple(map(str, (300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 486, 500, 508))),
    ),
    "turn_repeated": Family("relay_turn_repeated", "TURN requests that came twice.", "label", ("",)),
    "turn_ignored": Family("relay_turn_ignored", "STUN that is not answered, by kind.", "kind"),
    "turn_dropped": Family(
        "relay_turn_requests_dropped", "STUN messages dropped, by reason.", "reason", REASONS
    ),
    "client_sdk": Family("relay_client_sdk", "Admitted legs by SDK, as far as it is listed.", "name"),
    "client_app": Family("relay_client_app", "Admitted legs by application, as far as it is listed.", "name"),
    "client_os": Family("relay_client_os", "Admitted legs by system, as far as it is listed.", "name"),
    "client_dev": Family("relay_client_dev", "Admitted legs by device class, as far as listed.", "name"),
}


def engine(counted: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    """All that the engine counts by (name, label)."""
    grouped: dict[str, dict[str, int]] = {name: {} for name in ENGINE}
    for (name, label), count in counted.items():
        grouped.setdefault(name, {})[label] = count
    for name, values in grouped.items():
        shown = ENGINE.get(name) or Family(f"relay_{name}", "Counted by the engine.", "label")
        yield counters(shown.metric, shown.help, shown.label, values, shown.known)
