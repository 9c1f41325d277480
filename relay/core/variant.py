"""What a call's rollout gave it, as nodes tell each other, and which relays take such calls.

    Call --part_of--> bits of a hand-over ticket --take_part--> the same call at another node

A ticket has no room for the rollout's name: all nodes read the same state, so it is the one that they know.
A node of the version before passes over the bits. Must never live here: who decides it (steering.py).
"""

from __future__ import annotations

from relay.core.call import Call
from relay.core.node import Node
from relay.protocol import handover
from relay.region import rendezvous
from relay.rollout.bucket import Variant


def part_of(call: Call) -> int:
    """Flags of a hand-over ticket."""
    if not call.variant:
        return 0
    candidate = handover.IS_CANDIDATE * (call.variant == Variant.CANDIDATE)
    return handover.IN_ROLLOUT | candidate | handover.IS_SAMPLED * call.is_sampled


def take_part(node: Node, call: Call, flags: int) -> None:
    """What these flags say, now of a call that goes on here."""
    mandate = node.mandate
    if not flags & handover.IN_ROLLOUT:
        return
    call.rollout = mandate.offer.id if mandate.offer is not None else ""
    call.variant = Variant.CANDIDATE.value if flags & handover.IS_CANDIDATE else Variant.CONTROL.value
    call.is_sampled = bool(flags & handover.IS_SAMPLED) and is_at_home(node, call)
    if is_killed(node, call) and mandate.on_kill != "keep":
        give_up(call)


def is_killed(node: Node, call: Call) -> bool:
    """Whether it has what a kill took back."""
    return node.mandate.killed == call.rollout and call.variant == Variant.CANDIDATE


def give_up(call: Call) -> None:
    """It is the control's from now on, and tells of neither."""
    call.variant, call.is_sampled = Variant.CONTROL.value, False


def is_at_home(node: Node, call: Call) -> bool:
    """Whether this node is of the call's variant. One that is opened has no two versions."""
    return node.mandate.is_open or call.variant in ("", node.config.state.variant)


def home_of(node: Node, call: Call) -> tuple[str, ...]:
    """URLs of another relay of our region that takes calls of this one's variant; empty: none is known.

    The same one for all who ask: by rendezvous, as calls find their node at first.
    """
    mandate, own = node.mandate, node.config.node
    if not call.variant or mandate.is_open:
        return ()
    relays = {id: urls for id, urls in mandate.relays(own.region, call.variant).items() if id != own.id}
    ranked = rendezvous.ranked(call.cid.hex(), dict.fromkeys(relays, 1.0))
    return relays[ranked[0]] if ranked else ()
