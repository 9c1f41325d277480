"""The node's indicators while calls run: set-ups, drops, quality, the way from an invitation to a talk.

    engine --facts of calls--> Vitals --sums since the start, and running calls as they are--> ops

Everything is counted when it is known and not when the call ends, so that a region that breaks shows it
within seconds. What each figure means stands in docs/operations.md. Must never live here: limits, and what
follows from them.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Final

from relay.core.call import Call, Stage
from relay.core.consent import Fact
from relay.core.events import FlowCounters, Flowing
from relay.core.hearing import Hearing
from relay.core.leg import Leg
from relay.core.participant import Participant, Presence
from relay.core.pulse import (
    ACTIVE_PACKETS,
    ACTIVE_S,
    LOOK_S,
    OTHER,
    PATIENCE_S,
    READY_S,
    RECONNECT_S,
    Pulse,
    Result,
    Step,
    Way,
)
from relay.core.ringing import Why
from relay.core.spread import FIRST_AUDIO, LOSS, RTT, Spread
from relay.core.story import Kind
from relay.protocol.ids import CallId

if TYPE_CHECKING:  # the node holds the vitals
    from relay.core.node import Node

RUNGS: Final = ("quic", "wt", "ws", "tls")  # best first
ON_TCP: Final = frozenset({"ws", "tls"})
NEW_LOSS: Final = 0.3  # weight of a window in the loss of a running call: 2 of 3 after four of them
UNASKED: Final = frozenset({Why.CANCELLED, Why.MISSED, Why.DECLINED, Why.BUSY, Why.ANSWERED_ELSEWHERE})
NOBODYS: Final = frozenset({"glare", "gone"})
"""Why calls fail before the answer through no fault of a relay: two rang each other, or a phone went away."""


class Vitals:
    """Sums over all calls of the node that people make; those of canaries have their own."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pulses: dict[CallId, Pulse] = {}
        self._unheard: dict[CallId, Call] = {}
        """Answered calls whose flows are looked at."""
        self.last_event = -inf
        """When a call last told something that counts."""
        self.setups: Counter[tuple[str, str]] = Counter()
        """By transport and result."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """By transport and reason."""
        self.counted: dict[str, list[int]] = {
            name: [0, 0] for name in ("setup_fail", "drop", "poor_call", "one_way", "fallback")
        }
        """Bad and valid events by indicator."""
        self._classed: dict[tuple[str, str], list[int]] = {}
        self.live_poor = [0, 0]
        """Of running calls that can be judged: poor ones, all."""
        self.first_audio = {side: Spread(FIRST_AUDIO) for side in ("caller", "callee")}
        self.loss = {rung: Spread(LOSS) for rung in RUNGS}
        self.live_loss = {rung: Spread(LOSS) for rung in RUNGS}
        self.rtt = {rung: Spread(RTT) for rung in RUNGS}
        self.live_rtt = {rung: Spread(RTT) for rung in RUNGS}
        self.gaps = 0
        self.judged_s = 0.0
        """Seconds of audio that were judged, of all listeners."""
        self.funnel: Counter[tuple[str, str]] = Counter()
        """Calls that came to a step, by caller's device."""
        self.leaks: Counter[tuple[str, str, str]] = Counter()
        """Calls that ended with this step as their last, by reason and caller's device."""
        self._talked_s = 0.0
        self._talking = 0
        self._talking_since = 0.0

    def classed(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Bad and valid events by indicator and the SDK of who calls: of all that the configuration names."""
        sdks = (*self._node.config.clients.sdk, OTHER)
        found = {(name, sdk): (0, 0) for name in self.counted for sdk in sdks}
        return found | {key: (bad, valid) for key, (bad, valid) in self._classed.items()}

    def talked_s(self, now: float) -> float:
        """Seconds that answered calls lasted, running ones up to now."""
        return self._talked_s + self._talking * now - self._talking_since

    def active(self) -> Counter[str]:
        """Answered calls that run, by transport."""
        calls = (
            call
            for call in self._node.calls.values()
            if call.state is Stage.ACTIVE and self._node.vitals_of(call) is self
        )
        return Counter(map(rung_of, calls))

    def unheard(self) -> list[tuple[int, int]]:
        """Uplink flows (leg, flow) of calls that were answered a moment ago: `Flowing` is wanted of them."""
        return [key for call in self._unheard.values() for key in call.flows]

    # ------------------------------------------------------------ how calls begin

    def on_opened(self, call: Call, leg: Leg) -> None:
        """Somebody calls."""
        told = leg.client
        pulse = self._pulses[call.cid] = Pulse(told.get("dev", OTHER), told.get("sdk", OTHER))
        self.funnel[Step.INVITED.value, pulse.client] += 1

    def on_adopted(self, call: Call) -> None:
        """The first of a call that began elsewhere is here: another node, or this one before it crashed."""
        pulse = self._pulses[call.cid] = Pulse(OTHER, is_adopted=True, result=Result.EXCLUDED)
        if call.state is Stage.ACTIVE:
            pulse.has_settled = True
            self._begin_talk(pulse)

    def _begin_talk(self, pulse: Pulse) -> None:
        pulse.answered_at = self._node.now
        self._talking += 1
        self._talking_since += self._node.now

    def on_joined(self, call: Call) -> None:
        """Somebody came in."""
        pulse = self._pulses[call.cid]
        if pulse.step is Step.INVITED and len(call.here()) > 1:
            self._reach(pulse, Step.JOINED)

    def on_answered(self, call: Call) -> None:
        """Two accepted."""
        pulse = self._pulses[call.cid]
        self._begin_talk(pulse)
        pulse.expected = {one.index for one in call.here() if call.gate.hearers(one.index)}
        self._reach(pulse, Step.ACCEPTED)
        self._unheard[call.cid] = call
        self._watch(call, pulse)

    def on_answer_told(self, call: Call) -> None:
        """It was answered elsewhere while somebody waits here: how it began counts there."""
        pulse = self._pulses.get(call.cid)
        if pulse is not None and pulse.answered_at is None:
            if pulse.result is None:
                self._settle_setup(call, pulse, Result.EXCLUDED)
            pulse.has_settled = True
            self._begin_talk(pulse)

    def on_flowing(self, event: Flowing) -> None:
        """What the lane says of flows that were asked for."""
        touched: dict[CallId, Call] = {}
        for (leg, flow), (at, packets) in event.of.items():
            call = self._node.counting.get((leg, flow))
            if call is not None and call.cid in self._pulses:
                one = call.flows[leg, flow]
                self._note_audio(call, one, at, packets)
                touched[call.cid] = call
        for call in touched.values():
            self._check_ready(call, self._pulses[call.cid])

    def on_flow_closed(self, call: Call, one: Participant, counters: FlowCounters) -> None:
        """An uplink is over; what it carried is the last word."""
        if counters.first is not None:
            self._note_audio(call, one, counters.first, counters.accepted)

    def _note_audio(self, call: Call, one: Participant, at: float, packets: int) -> None:
        pulse = self._pulses[call.cid]
        assert pulse.answered_at is not None  # nobody hears anybody before
        pulse.sent[one.index] = packets
        if one.index in pulse.first:
            return
        pulse.first[one.index] = at
        spoken = self._node.wall - (self._node.now - at)
        one.story.add(spoken, Kind.HEARD, f"{at - pulse.answered_at:.1f} s after the answer")
        if one.index in pulse.expected:
            side = "caller" if call.is_caller(one) else "callee"
            self.first_audio[side].add(at - pulse.answered_at)

    def _check_ready(self, call: Call, pulse: Pulse) -> None:
        if pulse.result is None and pulse.is_ready():
            self._reach(pulse, Step.FIRST_AUDIO)
            self._settle_setup(call, pulse, Result.OK)

    def on_muted(self, call: Call, index: int) -> None:
        """Who falls silent on purpose before the first word is not waited for."""
        pulse = self._pulses.get(call.cid)
        if pulse is not None and index not in pulse.first:
            pulse.expected.discard(index)

    def _settle_setup(self, call: Call, pulse: Pulse, result: Result) -> None:
        pulse.result = result
        self.setups[rung_of(call), result.value] += 1
        if result is not Result.EXCLUDED:
            self._count(pulse, "setup_fail", is_bad=result is Result.FAIL)

    # ------------------------------------------------------------ while they run

    def on_silenced(self, call: Call) -> None:
        """Somebody who was there is not heard any more."""
        pulse = self._pulses[call.cid]
        if call.state is Stage.ACTIVE and pulse.lost_at is None and _reachable(call) < 2:
            pulse.lost_at = self._node.now
            self._watch(call, pulse)

    def on_returned(self, call: Call) -> None:
        """Somebody is back."""
        pulse = self._pulses[call.cid]
        if pulse.lost_at is not None and _reachable(call) > 1:
            pulse.lost_at = None
            self._watch(call, pulse)

    def on_due(self, call: Call) -> None:
        """Ten seconds are over, since the answer or since somebody was cut off."""
        pulse, now = self._pulses[call.cid], self._node.now
        if pulse.lost_at is not None and now >= pulse.lost_at + RECONNECT_S and not pulse.is_dropped:
            pulse.is_dropped = True
            self._count(pulse, "drop", is_bad=True)
        assert pulse.answered_at is not None  # nothing is due before
        if now >= pulse.answered_at + READY_S + LOOK_S and not pulse.has_settled:
            self._settle_beginning(call, pulse)
        self._watch(call, pulse)

    def _settle_beginning(self, call: Call, pulse: Pulse) -> None:
        pulse.has_settled = True
        self._unheard.pop(call.cid, None)
        self._check_ready(call, pulse)
        if pulse.result is None:
            self._settle_setup(call, pulse, Result.FAIL)
        if pulse.step is Step.FIRST_AUDIO:
            self._reach(pulse, Step.TEN_SECONDS)
        self._judge_ways(call, pulse)

    def _judge_ways(self, call: Call, pulse: Pulse) -> None:
        """Whether somebody speaks and another, whose client tells us things, got nothing of it."""
        now = self._node.now
        speakers = [
            index
            for index, since in pulse.first.items()
            if now - since >= ACTIVE_S and pulse.sent[index] >= ACTIVE_PACKETS
        ]
        found = [
            index not in one.hearings and index not in one.quality
            for index in speakers
            for one in call.here()
            if one.index != index and one.leg is not None and self._node.legs[one.leg].is_telling
        ]
        if found:
            self._count(pulse, "one_way", is_bad=any(found))

    def on_told_audio(self, call: Call, one: Participant, at: float, packets: int) -> None:
        """Another node says since when this person is heard, and how many packets of theirs went on."""
        pulse = self._pulses.get(call.cid)
        if pulse is None or pulse.answered_at is None:
            return  # nobody hears anybody before, whoever says so
        self._note_audio(call, one, max(at, pulse.answered_at), packets)
        self._check_ready(call, pulse)

    def on_window(
        self,
        call: Call,
        listener: Participant,
        speaker: int,
        transport: str,
        rtt: float | None,
        hearing: Hearing,
    ) -> None:
        """A window of what somebody heard of somebody is over; `rtt` of the listener, seconds."""
        pulse = self._pulses[call.cid]
        window = hearing.window
        if window is None or not window.expected:
            return
        loss = window.lost_down or 0.0
        self.gaps += window.gaps
        self.judged_s += window.seconds
        self.last_event = self._node.now
        key = listener.index, speaker
        way = pulse.ways.get(key)
        if way is None:
            way = pulse.ways[key] = Way(transport, loss)
        else:
            self._take_out(way)
            loss = way.loss + NEW_LOSS * (loss - way.loss)
        way.transport, way.loss, way.rtt = transport, loss, way.rtt if rtt is None else rtt
        self.live_loss[way.transport].add(way.loss)
        if way.rtt is not None:
            self.live_rtt[way.transport].add(way.rtt)
        self._tell_sound(listener, speaker, way, hearing)
        self._judge_quality(pulse, way, hearing)

    def _tell_sound(self, listener: Participant, speaker: int, way: Way, hearing: Hearing) -> None:
        """A line when the grade changes, not one each window."""
        grade = hearing.direction.grade
        if grade is not way.grade:
            way.grade = grade
            delay = "" if way.rtt is None else f", round trip {1000 * way.rtt:.0f} ms"
            detail = f"of {speaker} {grade.value}, loss {100 * way.loss:.1f} %{delay}"
            listener.story.add(self._node.wall, Kind.SOUND, detail)

    def _take_out(self, way: Way) -> None:
        self.live_loss[way.transport].add(way.loss, -1)
        if way.rtt is not None:
            self.live_rtt[way.transport].add(way.rtt, -1)

    def _judge_quality(self, pulse: Pulse, way: Way, hearing: Hearing) -> None:
        quality = self._node.config.quality
        summary, now = hearing.direction.summary(), hearing.direction.mos
        if not summary.windows or summary.active_s < quality.judged_after_s:
            return
        way.is_poor = summary.is_poor or (now is not None and now < quality.poor_below)
        is_poor = any(one.is_poor for one in pulse.ways.values())
        self.live_poor[0] += is_poor - pulse.is_poor
        self.live_poor[1] += not pulse.is_judged
        pulse.is_judged, pulse.is_poor = True, is_poor

    # ------------------------------------------------------------ how they end

    def on_settled(self, call: Call) -> None:
        """It is over, and all that the lane counted is known."""
        pulse, node = self._pulses.pop(call.cid, None), self._node
        if pulse is None:
            return  # it was announced, and nobody came
        self._unheard.pop(call.cid, None)
        node.deadlines.set(("pulse", call.cid), None)
        assert call.why is not None  # it ended
        reason = call.reason if call.why is Why.FAILED and call.reason else call.why.value
        if pulse.answered_at is not None:
            self._end_talk(call, pulse, call.why, node.now - pulse.answered_at)
        elif pulse.result is None:
            failed = call.why is Why.FAILED and call.reason not in NOBODYS
            self._settle_setup(call, pulse, Result.FAIL if failed else Result.EXCLUDED)
        if call.why is not Why.MOVED:  # how that ends is another node's to say
            self.ended[rung_of(call), reason] += 1
            if not pulse.is_adopted:
                self.leaks[pulse.step.value, reason, pulse.client] += 1
        for way in pulse.ways.values():
            self._take_out(way)
            self.loss[way.transport].add(way.loss)
            if way.rtt is not None:
                self.rtt[way.transport].add(way.rtt)

    def _end_talk(self, call: Call, pulse: Pulse, why: Why, lasted: float) -> None:
        self._talked_s += lasted
        self._talking -= 1
        self._talking_since -= self._node.now - lasted
        self._check_ready(call, pulse)
        if pulse.result is None:
            failed = why is Why.FAILED or (lasted >= PATIENCE_S and why is not Why.MOVED)
            self._settle_setup(call, pulse, Result.FAIL if failed else Result.EXCLUDED)
        if lasted >= READY_S and why is not Why.MOVED:
            if not pulse.is_dropped:
                self._count(pulse, "drop", is_bad=why is Why.FAILED)
            self._count(pulse, "fallback", is_bad=rung_of(call) in ON_TCP)
            if pulse.step is Step.FIRST_AUDIO:
                self._reach(pulse, Step.TEN_SECONDS)
        if pulse.is_judged:
            self.live_poor[0] -= pulse.is_poor
            self.live_poor[1] -= 1
            summaries = [
                one.direction.summary() for seat in call.everyone() for one in seat.hearings.values()
            ]
            self._count(pulse, "poor_call", is_bad=any(one.is_poor for one in summaries))

    # ------------------------------------------------------------ small things

    def _reach(self, pulse: Pulse, step: Step) -> None:
        pulse.step = step
        if not pulse.is_adopted:
            self.funnel[step.value, pulse.client] += 1

    def _count(self, pulse: Pulse, name: str, *, is_bad: bool) -> None:
        for counted in (self.counted[name], self._classed.setdefault((name, pulse.sdk), [0, 0])):
            counted[0] += is_bad
            counted[1] += 1
        self.last_event = self._node.now

    def _watch(self, call: Call, pulse: Pulse) -> None:
        self._node.deadlines.set(("pulse", call.cid), pulse.next_deadline())


def rung_of(call: Call) -> str:
    """The transport that a call counts for: the worst that anybody in it was left with."""
    found = [RUNGS.index(one.transport) for one in call.everyone() if one.transport in RUNGS]
    return RUNGS[max(found, default=0)]


def _reachable(call: Call) -> int:
    """How many accepted and can be heard of."""
    people = (one for one in call.here() if one.state is Presence.ACCEPTED)
    return sum(call.gate.has(Fact.ALIVE, one.index) for one in people)
