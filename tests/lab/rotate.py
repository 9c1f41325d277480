"""The part of `./scripts/lab restart` that renews the certificate again and again, under calls.

    a deploy hook    a new pair beside the old one, each file put in its place whole, then SIGHUP
    a new call       by QUIC, trusting this very certificate; TLS on the web port shows it, too
    people in calls  are asked for nothing and notice nothing

What a rotation must not cost: a leg, a packet of audio, a descriptor, memory. Audio is judged where the
control beside it (calls through a daemon that nobody touches, one in each process of callers) missed nothing:
else the machine was busy, and who would tell whose fault it was? Must never live here: how gaps are counted
(callers.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.callers import Callers, orders
from lab.faultcall import try_call
from lab.generations import Box
from load import report
from load.daemon import imbalance, scrape
from quicpair import certificate

GAP_MS: Final = 20.0
FIRST_DAYS: Final = 30.0  # until one ends; each an hour after the one before, so that metrics tell them apart
RELOAD_S: Final = 10.0
SETTLE_S: Final = 1.0  # between a rotation and the look at what was missed
WARM_UP: Final = 5  # rotations before memory is looked at: by then all was done that is done once
MOST_GROWTH_MB: Final = 4.0  # as of the walk through bad weather
LEAST_JUDGED: Final = 0.5  # share of rotations beside which the control must have missed nothing
LIMITS: Final = """
[limits]
initials_per_source_per_s = 2000
initials_per_source_burst = 2000
"""


@dataclass
class Round:
    """One rotation."""

    marks: list[dict[str, Any]]
    became: str
    """Of the new call that trusts the new certificate alone: "" or why not."""
    is_shown_on_tls: bool
    taken_s: float
    descriptors: int
    memory_mb: float

    @property
    def moves(self) -> int:
        """How often people in calls changed their leg, since their beginning."""
        return sum(one["moves"] for one in self.marks if one["group"] == "calls")

    def worst_ms(self, group: str) -> float:
        """What the worst direction of a group missed."""
        return max((one["gap_ms"] for one in self.marks if one["group"] == group), default=0.0)


@dataclass
class Rotations:
    """The campaign on one daemon."""

    box: Box
    callers: list[Callers]
    rounds: list[Round] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    """Changes of legs, all together, before each round."""

    def run(self, count: int) -> None:
        """So many rotations; what was missed before the first counts for nothing."""
        moves = sum(one["moves"] for one in self._mark() if one["group"] == "calls")
        while len(self.rounds) < count:
            self.before.append(moves)
            one = self._one(len(self.rounds) + 1)
            moves = one.moves
            self.rounds.append(one)
            if len(self.rounds) % 10 == 0 or len(self.rounds) == count:
                worst = max((each.worst_ms("calls") for each in self.judged), default=0.0)
                report.say(
                    f"rotation {len(self.rounds)}: taken after {one.taken_s:.2f} s, at most {worst:.0f} ms "
                    f"missed in {len(self.judged)} with a control that missed nothing, "
                    f"{one.descriptors} descriptors, {one.memory_mb:.1f} MB"
                )

    @property
    def judged(self) -> list[Round]:
        """Those beside which the control missed nothing."""
        return [one for one in self.rounds if one.worst_ms("control") == 0]

    @property
    def moved(self) -> int:
        """Changes of legs in those that are judged: one that the daemon drops its person replaces."""
        pairs = zip(self.rounds, self.before, strict=True)
        return sum(one.moves - before for one, before in pairs if one.worst_ms("control") == 0)

    def _one(self, number: int) -> Round:
        chain = self._deploy(FIRST_DAYS + number / 24)
        begun = time.monotonic()
        os.kill(self.box.processes[-1].pid, signal.SIGHUP)
        while self._log().count('"reloaded"') < number and time.monotonic() < begun + RELOAD_S:
            time.sleep(0.01)
        taken_s = time.monotonic() - begun
        became = asyncio.run(try_call(self.box.rig, ca=str(chain)))
        shown = ssl.get_server_certificate(("127.0.0.1", self.box.rig.web_port), timeout=RELOAD_S)
        time.sleep(SETTLE_S)
        return Round(
            marks=self._mark(),
            became=became,
            is_shown_on_tls=shown.split() == chain.read_text().split(),
            taken_s=taken_s,
            descriptors=len(os.listdir(f"/proc/{self.box.processes[-1].pid}/fd")),
            memory_mb=_memory_mb(self.box.processes[-1].pid),
        )

    def _deploy(self, days: float) -> Path:
        """What an ACME client's hook does: never half a file, and the daemon told once both stand there."""
        places = self.box.folder / "cert.pem", self.box.folder / "key.pem"
        for new, place in zip(certificate(self.box.folder, "new-", days), places, strict=True):
            os.replace(new, place)
        return places[0]

    def refusals(self) -> int:
        """Reloads that were refused, and other complaints."""
        return self._log().count('"level": "error"') + self._log().count('"level": "warning"')

    def _log(self) -> str:
        return self.box.log(0)

    def _mark(self) -> list[dict[str, Any]]:
        return [one for each in self.callers for one in each.mark()]


def _memory_mb(pid: int) -> float:
    """Resident, of its own: what is shared with files does not count."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")) / 1024


def judge(result: report.Report, made: Rotations, calls: int, rotations: int) -> None:
    """The bars."""
    every = made.rounds
    mine = [one for each in every for one in each.marks if one["group"] == "calls"]
    gaps = sorted(each.worst_ms("calls") for each in made.judged)
    share = len(gaps) / len(every)
    warm = every[min(WARM_UP, len(every) - 1) :]
    samples = scrape(f"http://127.0.0.1:{made.box.rig.metrics_port}")
    ends = samples["relay_certificate_not_after_seconds"] - time.time()
    result.bar("rotate_rotations", len(every), "==", rotations)
    result.bar("rotate_directions_talking", len(mine) / len(every), "==", 2 * calls)
    result.bar("rotate_calls_dropped", sum(not one["alive"] for one in mine), "==", 0)
    result.bar("rotate_legs_replaced", made.moved, "==", 0)
    result.bar("rotate_directions_silent_between_two", sum(not one["received"] for one in mine), "==", 0)
    result.bar("rotate_packets_not_opened", sum(one["unopened"] for one in mine), "==", 0)
    result.bar("rotate_share_with_a_quiet_control", round(share, 2), ">=", LEAST_JUDGED, is_speed=True)
    result.bar("rotate_gap_max_ms", gaps[-1] if gaps else None, "<=", GAP_MS, is_speed=True)
    result.bar("rotate_gap_median_ms", gaps[len(gaps) // 2] if gaps else None, "==", 0, is_speed=True)
    result.bar("rotate_new_calls_by_the_new_one", sum(not each.became for each in every), "==", len(every))
    result.bar("rotate_shown_on_tls", sum(each.is_shown_on_tls for each in every), "==", len(every))
    told = round((ends / 86_400 - FIRST_DAYS) * 24)
    result.bar("rotate_ends_as_metrics_say", told, "==", len(every))
    result.bar("rotate_reload_max_s", max(each.taken_s for each in every), "<=", 1.0, is_speed=True)
    result.bar("rotate_complaints", made.refusals(), "==", 0)
    result.bar("rotate_descriptors_more", warm[-1].descriptors - warm[0].descriptors, "<=", 0)
    growth = warm[-1].memory_mb - warm[0].memory_mb
    result.bar("rotate_memory_growth_mb", round(growth, 2), "<=", MOST_GROWTH_MB)
    result.bar("rotate_imbalance", imbalance(samples), "==", 0)
    result.detail(
        rotate_refused=[each.became for each in every if each.became],
        rotate_legs_replaced_in_all=every[-1].moves - made.before[0],
        rotate_gaps_and_controls_ms=[(one.worst_ms("calls"), one.worst_ms("control")) for one in every],
        rotate_memory_mb=[each.memory_mb for each in (every[0], warm[0], every[-1])],
        rotate_descriptors=[each.descriptors for each in (every[0], warm[0], every[-1])],
    )


def measure(result: report.Report, folder: Path, *, calls: int, rotations: int, processes: int) -> None:
    """The stage: a daemon whose certificate is renewed, and the control."""
    for part in ("box", "control"):
        (folder / part).mkdir()
    with (
        Box(folder / "box", drain=f"grace_s = 0\n{LIMITS}") as box,
        Box(folder / "control", drain=f"grace_s = 0\n{LIMITS}") as still,
    ):
        box.start()
        still.start()
        kinds = ["voice"] * calls
        groups = [
            orders(box.rig, kinds[n::processes], "calls") + orders(still.rig, ["voice"], "control")
            for n in range(processes)
        ]
        report.say(f"{rotations} certificates under {calls} calls, and {processes} calls beside them ...")
        callers = [Callers(group) for group in groups]
        try:
            for each in callers:
                each.wait_talking()
            time.sleep(SETTLE_S)
            made = Rotations(box, callers)
            made.run(rotations)
            judge(result, made, calls, rotations)
        finally:
            for each in callers:
                each.stop()
