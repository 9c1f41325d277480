"""One call between two sites: connected, accepted, heard, settled on a rung, looked at, hung up.

Must never live here: judgements over all pairs.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lab.expected import Rung, path
from lab.nats import RELAY
from lab.people import Person, PlayerFailedError, flows
from lab.relaybox import RelayBox
from lab.world import World

SETTLE_S: Final = 8.0  # four rounds of punching, a path on trial, and a ladder's judgement
STEP_S: Final = 0.4
WINDOW_S: Final = 1.0
FRAMES_PER_S: Final = 50
LEAST_HEARD: Final = 0.8  # of the frames of a window: less is no conversation
WARM_SHARE: Final = 0.25  # of what one sends and hears, which is what a relay that carries would see


@dataclass
class Outcome:
    """What one pair came to."""

    a: str
    b: str
    expected: tuple[Rung, Rung]
    rungs: list[str | None] = field(default_factory=lambda: [None, None])
    unavailable: list[str] = field(default_factory=list)
    """Expected rungs that the SDK in this tree does not have."""
    connected: bool = False
    """Both heard each other."""
    ready_ms: list[float] = field(default_factory=list)
    first_audio_ms: list[float] = field(default_factory=list)
    settled_s: float | None = None
    frames: list[int] = field(default_factory=list)
    """Heard by each in the window of a second in which the bytes were counted."""
    relay_bytes: int | None = None
    """Came into the relay's box from the two in that window."""
    bytes: list[dict[str, int]] = field(default_factory=list)
    """Of each client in that window, by rung."""
    sdk: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def is_best(self) -> bool:
        """The rungs are those of the table."""
        return self.connected and tuple(self.rungs) == self.expected

    def told(self) -> str:
        """One line for people."""
        line = f"{self.a} - {self.b}: {' '.join(map(str, self.rungs))}"
        if self.is_best:
            return f"ok   {line}"
        why = self.error or "heard too little"
        if self.unavailable:
            why = f"not available: {', '.join(self.unavailable)}"
        elif self.connected:
            why = f"not found within {SETTLE_S:g} s"
        return f"MISS {line}, expected {' '.join(self.expected)} ({why})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ok": self.is_best}


def place(world: World, box: RelayBox, people: tuple[Person, Person]) -> Outcome:
    """Place the call."""
    kinds = people[0].site.kind, people[1].site.kind
    outcome = Outcome(*kinds, path(*kinds))
    for person, rung in zip(people, outcome.expected, strict=True):
        if rung not in (*person.rungs, *outcome.unavailable):
            outcome.unavailable.append(rung)
    for person in people:
        person.site.forget(world.net)
        person.sync()
    try:
        _connect(box, people, outcome)
        _accept(people, outcome)
        _settle(world, people, outcome)
    except PlayerFailedError as error:
        outcome.error = str(error)
    for person in people:
        with contextlib.suppress(PlayerFailedError):
            person.order("hangup")
    return outcome


def order_call(box: RelayBox, person: Person, call: bytes, *, relay_only: bool = False) -> None:
    """Tell a person to enter this call."""
    device = secrets.token_bytes(32)
    person.order(
        "call",
        host=person.site.reach(RELAY),
        proxy=person.site.proxy,
        ca=box.ca,
        device=device.hex(),
        token=box.token(call, device, relay_only=relay_only),
    )


def _connect(box: RelayBox, people: tuple[Person, Person], outcome: Outcome) -> None:
    call = secrets.token_bytes(16)
    for person in people:
        order_call(box, person, call)
    for person in people:
        outcome.ready_ms.append(person.wait("ready")["ms"])
    for person in people:
        person.wait("keys")


def _accept(people: tuple[Person, Person], outcome: Outcome) -> None:
    """The caller has accepted, then the callee does: from that moment on the clock runs for both."""
    people[0].ask("accept", "accepted")
    people[1].order("accept")
    began = people[1].wait("accepted")["began"]
    for person in people:
        outcome.first_audio_ms.append(1000 * (person.wait("heard")["at"] - began))
    outcome.connected = True


def _settle(world: World, people: tuple[Person, Person], outcome: Outcome) -> None:
    """Look until both stand on the expected rungs, in two short looks on end and a long one for the record.

    A ladder that tries other rungs at that very moment sends handshakes by the relay: then look again.
    """
    began = time.monotonic()
    limit = began + (0.0 if outcome.unavailable else SETTLE_S)
    agreed = 0
    while True:
        while agreed < 2 and time.monotonic() < limit:
            _look(world, people, outcome, STEP_S)
            agreed = agreed + 1 if outcome.is_best else 0
        settled = time.monotonic() - began
        _look(world, people, outcome, WINDOW_S)
        if outcome.is_best:
            outcome.settled_s = round(settled, 2)
        if outcome.is_best or time.monotonic() > limit:
            break
        agreed = 0
    outcome.connected = min(outcome.frames) >= LEAST_HEARD * FRAMES_PER_S * WINDOW_S


def _look(world: World, people: tuple[Person, Person], outcome: Outcome, seconds: float) -> None:
    before = [person.ask("count", "count") for person in people]
    bytes_before = [person.traffic() for person in people]
    relay_before = _came_to_relay(world, people)
    time.sleep(seconds)
    relay_after = _came_to_relay(world, people)
    bytes_after = [person.traffic() for person in people]
    after = [person.ask("count", "count") for person in people]
    outcome.frames = [new["received"] - old["received"] for new, old in zip(after, before, strict=True)]
    outcome.relay_bytes = relay_after - relay_before
    outcome.bytes = [
        {rung: count - old.get(rung, 0) for rung, count in new.items() if count > old.get(rung, 0)}
        for new, old in zip(bytes_after, bytes_before, strict=True)
    ]
    outcome.sdk = [{key: found[key] for key in ("rung", "way", "moves", "rtt_ms")} for found in after]
    outcome.rungs = [judge(carried, outcome.relay_bytes) for carried in outcome.bytes]


def _came_to_relay(world: World, people: tuple[Person, Person]) -> int:
    """Bytes that came in at the relay's box from where the two are."""
    places = {person.site.wan for person in people}
    return sum(count for source, _, _, count in flows(world.net, world.relay, "in") if source in places)


def judge(carried: dict[str, int], relay_bytes: int) -> str | None:
    """The rung with most bytes; "direct" only if the relay's box heard little from them meanwhile."""
    if not carried:
        return None
    most = max(carried, key=lambda rung: carried[rung])
    if most == "direct" and relay_bytes > WARM_SHARE * carried["direct"]:
        return "both"
    return most
