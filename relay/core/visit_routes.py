"""What the halves at this node hear and where they are heard, as routes, and as their clients are told.

    halves of one call --`follow`--> `Voices`          one half --`tell`--> `gate` to its client

A number on which a client hears somebody stays that participant's as long as the leg lasts. Must never live
here: who said so (visiting.py), and other nodes (trunk_voices.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from relay.core.node import Node
from relay.core.reasons import DropReason
from relay.core.trunk import node_of
from relay.core.trunk_half import Half
from relay.core.trunk_sending import Voice
from relay.core.trunk_voices import Rights, Voices
from relay.protocol import control

PAIR: Final = 2


@dataclass(slots=True)
class Ear:
    """One half's leg."""

    leg: int
    half: Half
    up: int
    """Its uplink flow."""
    flows: dict[int, int] = field(default_factory=dict)
    """On which number it hears whom."""
    told: tuple[int, dict[int, int], int] = (0, {}, 0)
    """The last `gate`: mask heard, flows, epoch."""


class VisitRoutes:
    """Keeps routes equal to what the homes say."""

    def __init__(self, node: Node, own: str, voices: Voices, newest: Callable[[str], str]) -> None:
        """`newest`: the way to a node's newest process."""
        self._node = node
        self._own = own
        self._newest = newest
        self._voices = voices
        self._heard: dict[bytes, set[int]] = {}
        """By call: whose voices come from other nodes."""

    def follow(self, cid: bytes, ears: Iterable[Ear]) -> None:
        """Make routes of these, all there are of a call, what their homes say."""
        ears = list(ears)
        far = self._far(ears)
        for index in self._heard.pop(cid, set()) - far.keys():
            self._voices.hear(Voice(cid, index), 0, "", (), _NO_RIGHTS)
        for ear in ears:
            half = ear.half
            here = tuple(self._here(ear, ears)) if self._own in half.goes_to else ()
            self._voices.speak(
                Voice(cid, half.index),
                half.term,
                ear.leg,
                ear.up,
                targets=here,
                nodes=half.goes_to - {self._own},
                closed=DropReason.GATE_CLOSED,
            )
        if far:
            self._heard[cid] = set(far)
            rights = self._rights(ears[0])
            for index, (term, node, targets) in far.items():
                self._voices.hear(Voice(cid, index), term, node, tuple(targets), rights)

    def _far(self, ears: Iterable[Ear]) -> dict[int, tuple[int, str, list[tuple[int, int]]]]:
        """Who of other nodes is heard here, in which term, where that one is, and by whom."""
        found: dict[int, tuple[int, str, list[tuple[int, int]]]] = {}
        for ear in ears:
            for index, node in ear.half.hears.items():
                flow = self._flow(ear, index)
                if flow is None or node == self._own:
                    continue
                way = self._way(ear.half, index, node)
                _, first, targets = found.setdefault(index, (ear.half.term, way, []))
                if node_of(first) == node:  # where they differ, one of them is about to hear of it
                    targets.append((ear.leg, flow))
                    found[index] = (
                        ear.half.term,
                        way,
                        targets,
                    )  # of its processes the one that was asked last
        return found

    def _way(self, half: Half, index: int, node: str) -> str:
        """The process of a node at which somebody is: the home's itself, or where they are heard now."""
        if node == node_of(half.home):
            return half.home
        now = self._voices.comes_from(Voice(half.cid, index))
        return now if now is not None and node_of(now) == node else self._newest(node)

    def _here(self, speaker: Ear, ears: Iterable[Ear]) -> Iterable[tuple[int, int]]:
        """Who hears this one without a trunk between."""
        index = speaker.half.index
        for ear in ears:
            if ear is not speaker and ear.half.hears.get(index) == self._own and index in ear.flows:
                yield ear.leg, ear.flows[index]

    def _flow(self, ear: Ear, index: int) -> int | None:
        """The number on which this leg hears that participant; None while none is free."""
        flow = ear.flows.get(index)
        if flow is None:
            flow = self._node.legs[ear.leg].downlinks.allot(self._node.now)
            if flow is not None:
                ear.flows[index] = flow
        return flow

    def _rights(self, ear: Ear) -> Rights:
        """The speaker's token is for its own node to enforce: here counts what we let anybody send."""
        claims, limits = self._node.legs[ear.leg].claims, self._node.config.limits
        assert claims is not None  # it was admitted
        return Rights(claims.lim[3] > PAIR, 1000 * limits.max_up_kbps, limits.max_pps)

    def tell(self, ear: Ear) -> None:
        """Say to a client what is new to it."""
        half = ear.half
        mask = sum(1 << index for index in half.hears if index in ear.flows)
        told = (mask, dict(ear.flows), half.epoch)
        if told != ear.told:
            ear.told = told
            gate = control.Gate(c=half.cid, open=mask, ep=half.epoch, fl=told[1])
            self._node.send(ear.leg, gate)


_NO_RIGHTS: Final = Rights(False, 0, 0)
