"""Stage `mixed` of the voice lab: of a call's listeners one loses 15 % in bursts; what do the others notice?

    two calls at once, one speaker and three listeners each; every listener behind a last mile of its own
    mixed      one of them is spoilt from `WARM_S` on
    control    none is

People are cheap clients with real control messages, the speaker does what `rate` asks for. Compared is what
reached the listeners whose networks are good: bytes on the wire, packets missing, packets late. Must never
live here: how a leg works, what the relay decides.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

from impair import Net, Outages
from lab.cells import is_void
from lab.lastmile import LastMile
from lab.voicecall import Lag
from load import report
from load.daemon import Daemon, imbalance, mint
from load.leg import HELD, Leg
from relay.client.reception import Arrivals
from relay.client.wishes import STEP_MS, Wishes
from relay.config_voice import AdaptConfig
from relay.core.hints import Hint
from relay.protocol import control, media
from relay.protocol.datagram import FlowReport, LegReport, encode_datagram

LISTENERS: Final = 3
RIGHTS: Final = (512, 512, 300, LISTENERS + 1)  # of a token
SPOILT: Final = 0  # which of them
LOSS: Final = Net(Outages(0.15, 60))
RTT_MS: Final = 40.0
WARM_S: Final = 5.0
SECONDS: Final = 60.0
QUICK_SECONDS: Final = 8.0
TAIL_S: Final = 0.5
USUAL: Final = Hint(24_000, 20)
SEALED: Final = 24  # bytes that a frame has beside its speech
REPORT_S: Final = 0.2
HELD_MS: Final = 60  # by a jitter buffer that nobody asked for more
LATE_S: Final = 0.060  # behind the fastest
MOST: Final = 0.01
REPAIRED: Final = 0.5  # of what was lost
VOIDS: Final = 2


@dataclass
class Ear:
    """What one listener got, from when its network may be spoilt on."""

    path: LastMile
    leg: Leg
    first: dict[int, float] = field(default_factory=dict)  # by counter: when it came first
    bytes_before: int = 0
    _came: Arrivals | None = None
    _newest: tuple[media.MediaHeader, float] | None = None

    def hear(self, payload: bytes, arrived: float) -> None:
        """A media datagram; control datagrams are not counted."""
        if payload[0] < media.MIN_FLOW:
            return
        header = media.decode(payload)
        if header.ctr in self.first:
            return
        self.first[header.ctr] = arrived
        self._came = self._came or Arrivals(header.ctr, header.ctr)
        self._came.mark(header.ctr)
        if self._newest is None or header.ctr > self._newest[0].ctr:
            self._newest = header, arrived

    async def report(self) -> None:
        """Until cancelled: what came, and that as much is held as the relay asks for."""
        sequence = 0
        while True:
            await asyncio.sleep(REPORT_S)
            if self._newest is None or self._came is None:
                continue
            sequence += 1
            header, arrived = self._newest
            asked = [one.mp for one in self.leg.messages if isinstance(one, control.LegStats)]
            base, bits = self._came.report_map()
            age_ms = round(1000 * (time.time() - arrived))
            held_ms = max(HELD_MS, asked[-1] if asked else 0)
            flow = FlowReport(header.flow, header.kid, base, bits, None, None, None, age_ms, held_ms, 0, 0)
            told = LegReport(sequence, round(1000 * time.monotonic()), (flow,))
            self.leg.send(encode_datagram(told))

    def outcome(self, sent: dict[int, float]) -> dict[str, Any]:
        """Shares of what was sent, and bytes that the relay sent here."""
        delays = [self.first[ctr] - at for ctr, at in sent.items() if ctr in self.first]
        least = min(delays, default=0.0)
        return {
            "bytes": self.path.down.bytes - self.bytes_before,
            "lost_on_the_way": self.path.down.link.lost,
            "missing": round(1 - len(delays) / max(1, len(sent)), 5),
            "late": round(sum(one - least > LATE_S for one in delays) / max(1, len(sent)), 5),
        }


class Group:
    """One call."""

    def __init__(self, speaker: Leg, ears: list[Ear]) -> None:
        self.ears = ears
        self.asked: list[tuple[float, int, int]] = []
        self._speaker = speaker
        self._wishes = Wishes()
        self._read = 0
        self.sent: dict[int, float] = {}

    @classmethod
    async def place(cls, daemon: Daemon, seed: int, stack: AsyncExitStack) -> Group:
        """All connected, in the call, accepted."""
        call = os.urandom(16)
        speaker = Leg(daemon.server, ack_hold=HELD)
        stack.callback(speaker.vanish)
        ears = []
        for number in range(LISTENERS):
            relay = daemon.server
            path = await LastMile(relay, RTT_MS, 10 * seed + number, keeps_times=False).open()
            stack.push_async_callback(path.close)
            ears.append(Ear(path, Leg(("127.0.0.1", path.port), ack_hold=HELD)))
            ears[-1].leg._on_media = ears[-1].hear
            stack.callback(ears[-1].leg.vanish)
        legs = [speaker, *(ear.leg for ear in ears)]
        for leg in legs:
            await leg.connect()
            await leg.hello(mint(daemon.seed, call, lim=RIGHTS))
            await leg.join(call)
        for leg in legs:
            await leg.accept(call)
        for ear in ears:
            await ear.leg.gate()
        return cls(speaker, ears)

    async def talk(self, began: float, seconds: float, *, is_spoilt: bool) -> dict[str, Any]:
        """The speaker says something each 20, 40 or 60 ms; what it came to."""
        reports = [asyncio.create_task(ear.report()) for ear in self.ears]
        kid = media.kid_of(self._speaker.index, 0, group=True)
        ctr, due, is_counted = 0, began, False
        while due < began + WARM_S + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if not is_counted and due >= began + WARM_S:
                is_counted = True
                for number, ear in enumerate(self.ears):
                    ear.bytes_before = ear.path.down.bytes
                    if is_spoilt and number == SPOILT:
                        ear.path.spoil(LOSS)
            bps, ptime = self._what_to_do(now)
            if is_counted and (not self.asked or self.asked[-1][1:] != (bps, ptime)):
                self.asked.append((round(now - began, 2), bps, ptime))
            head = media.encode_header(self._speaker.flow, kid, ctr)
            body = os.urandom(bps * ptime // 8000 + SEALED)
            self._speaker.send(head + body)
            if is_counted:
                self.sent[ctr] = time.time()  # as the kernel stamps what comes
            ctr += 1
            due += ptime / 1000
        await asyncio.sleep(TAIL_S)
        for task in reports:
            task.cancel()
        await asyncio.gather(*reports, return_exceptions=True)
        return {
            "asked": self.asked,
            "packets": len(self.sent),
            "listeners": [ear.outcome(self.sent) for ear in self.ears],
        }

    def _what_to_do(self, now: float) -> tuple[int, int]:
        for message in self._speaker.messages[self._read :]:
            if isinstance(message, control.Rate):
                self._wishes.on_rate(message, now)
        self._read = len(self._speaker.messages)
        return self._wishes.bitrate(USUAL.bps, now), STEP_MS * self._wishes.steps(now)


async def hold(daemon: Daemon, seed: int, seconds: float) -> dict[str, Any]:
    """Both calls at once."""
    lag = Lag()
    async with AsyncExitStack() as stack:
        groups = [await Group.place(daemon, seed + number, stack) for number in range(2)]
        began = time.monotonic() + 0.5
        watch = asyncio.create_task(lag.watch())
        mixed, control_ = await asyncio.gather(
            groups[0].talk(began, seconds, is_spoilt=True), groups[1].talk(began, seconds, is_spoilt=False)
        )
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    return {"mixed": mixed, "control": control_, "lag": vars(lag)}


def sums(told: dict[str, Any]) -> dict[str, float]:
    """Of those whose networks are good: bytes of all, shares of each."""
    others = [one for number, one in enumerate(told["listeners"]) if number != SPOILT]
    return {
        "bytes": sum(one["bytes"] for one in others),
        "missing": max(one["missing"] for one in others),
        "late": max(one["late"] for one in others),
    }


def measure(result: report.Report, seed: int, *, quick: bool) -> None:
    """The calls, the bars."""
    seconds = QUICK_SECONDS if quick else SECONDS
    report.say(f"of three listeners one loses 15 % in bursts, {seconds:g} s ...")
    with Daemon.start(adapt=AdaptConfig(enabled=True)) as daemon:
        voids = 0
        while True:
            told = uvloop.run(hold(daemon, seed, seconds))
            if not is_void(told["lag"]) or voids == VOIDS or quick:
                break
            voids += 1
            report.say(f"    void: this machine was late by {1000 * told['lag']['worst_s']:.0f} ms")
        samples, complaints = daemon.metrics(), daemon.complaints()
    judge(result, told, quick=quick)
    result.bar("mixed_imbalance", imbalance(samples), "==", 0)
    result.bar("mixed_complaints", len(complaints), "==", 0)
    result.detail(mixed_call=told | {"voids": voids, "log": complaints})


def judge(result: report.Report, told: dict[str, Any], *, quick: bool) -> None:
    """The bars, from what both calls came to."""
    mixed, control_ = sums(told["mixed"]), sums(told["control"])
    spoilt = told["mixed"]["listeners"][SPOILT]
    was_busy = quick or is_void(told["lag"])
    change = abs(mixed["bytes"] / max(1.0, control_["bytes"]) - 1)
    result.bar("mixed_others_bytes_changed_by", round(change, 4), "<=", MOST, is_speed=was_busy)
    for name in ("missing", "late"):
        more = round(mixed[name] - control_[name], 4)
        result.bar(f"mixed_others_more_{name}", more, "<=", MOST, is_speed=was_busy)
    lost = spoilt["lost_on_the_way"] / max(1, told["mixed"]["packets"])
    left = spoilt["missing"] / lost if lost else 1.0
    result.bar("mixed_left_missing_of_what_was_lost", round(left, 3), "<=", REPAIRED, is_speed=was_busy)
    result.bar("mixed_speaker_was_asked_for", len(told["mixed"]["asked"]), "==", 1)
    report.say(f"    others: {mixed}, in the control {control_}; the spoilt one: {spoilt}")
