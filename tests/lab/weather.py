"""Networks by name, and plans of how a last mile changes: a step, a seeded walk through all kinds.

    step(10) -> [Change(0, "rate:100000"), Change(8, "rate:40000"), Change(18, "rate:100000")]
    walk(seed, number, seconds) -> [Spell(5, 21, "cell"), ...]      good weather after each

Pure. Must never live here: clocks, calls, bars.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from impair import NETS, SPIKY, Independent, Net

WIDE_BPS: Final = 100_000
NARROW_BPS: Final = 40_000
CLEAR: Final = "clean"
DARK: Final = Net(Independent(1.0))
QUEUE_MS: Final = 300.0  # of a narrow link: what would wait longer is dropped
GOOD_S: Final = 60.0  # a good spell: everything must be as at the start before it is over
BAD_S: Final = (10.0, 30.0)  # a bad one, at random within
FIRST_S: Final = 5.0
# Losses, delays, capacities, and times in which nothing passes at all, so many seconds of a bad spell.
_KINDS: Final = (
    *("iid3", "iid10", "iid20", "wifi", "busy_wifi", "cell", "b10_60", "cell_edge", "congested"),
    *("moderate", "international", "spiky"),
    *("rate:80000", "rate:48000", "rate:40000", "rate:30000"),
    *("dark:0.6", "dark:2.5", "dark:8"),
)


@dataclass(frozen=True)
class Change:
    """From second `at` on the network is the one of this name, both ways; a rate is that of the way down."""

    at: float
    name: str


def nets(name: str) -> tuple[Net, Net]:
    """Down and up. A preset of `impair`, "dark", or "rate:" with bits per second. ValueError, KeyError."""
    if name == "dark":
        return DARK, DARK
    if name.startswith("rate:"):
        return Net(rates=((0, float(name.removeprefix("rate:"))),), queue=QUEUE_MS), Net()
    net = SPIKY[int(name.removeprefix("spiky:"))][1] if name.startswith("spiky:") else NETS[name]
    return net, net


def step(hold_s: float, warm_s: float = 8.0) -> list[Change]:
    """Wide, narrow for so long, wide again."""
    wide, narrow = f"rate:{WIDE_BPS}", f"rate:{NARROW_BPS}"
    return [Change(0, wide), Change(warm_s, narrow), Change(warm_s + hold_s, wide)]


@dataclass(frozen=True)
class Spell:
    """A bad spell; good weather follows until `good_until`."""

    at: float
    until: float
    name: str

    @property
    def good_until(self) -> float:
        """When the next one begins, or the walk ends."""
        return self.until + GOOD_S

    def changes(self) -> list[Change]:
        """What it does to the last mile."""
        kind, _, value = self.name.partition(":")
        if kind == "dark":
            return [Change(self.at, "dark"), Change(self.at + float(value), CLEAR)]
        if kind == "spiky":
            within = [(self.at + after, number) for number, (after, _) in enumerate(SPIKY[:-1])]
            return [
                *(Change(at, f"spiky:{n}") for at, n in within if at < self.until),
                Change(self.until, CLEAR),
            ]
        return [Change(self.at, self.name), Change(self.until, CLEAR)]


def walk(seed: int, number: int, seconds: float) -> list[Spell]:
    """Bad spells, each kind once before any comes again; what does not fit with its good one is left out.

    Spells of one seed begin and end at the same times whatever `number`, which has an order of its own.
    """
    times, order = random.Random(f"{seed} times"), random.Random(f"{seed} {number} order")
    spells: list[Spell] = []
    waiting: list[str] = []
    at = FIRST_S
    while True:
        if not waiting:
            waiting = list(_KINDS)
            order.shuffle(waiting)
        spell = Spell(at, at + times.uniform(*BAD_S), waiting.pop())
        if spell.good_until > seconds:
            return spells
        spells.append(spell)
        at = spell.good_until
