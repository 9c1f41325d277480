"""`./scripts/lab moves`: mappings, addresses and UDP itself change under calls; none may be lost.

    rebindings      the router forgets its mappings, and the next packet leaves from another port
    addresses       one uplink goes with its address, another comes; the application calls `session.rebind()`,
                    as the system's notice of a new network makes it do
    weather         UDP turns bad (20 % loss), is blocked, is good again
    ways            UDP turns bad one way only: that way falls back, the other one stays, and it climbs again

    control         a call whose network nobody touches, beside all of them: where it breaks the bound of a
                    bar that failed, the machine was too busy to judge; the stage is void and made again

A gap is the longest silence between two packets that opened, in the ear of any who hears somebody. Must never
live here: how networks change (changes.py).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from lab import topology
from lab.changes import Mobile, Weather, rebind, set_weather
from lab.nat import percentile
from lab.nats import Builder, Site
from lab.people import Person, PlayerFailedError
from lab.relaybox import RelayBox
from lab.talk import Talk
from lab.world import World
from load import report

SENDING_MS: Final = 200.0
SILENT_MS: Final = 500.0
ADDRESS_MS: Final = 300.0
PLANNED_MS: Final = 60.0
REBINDINGS: Final = 100
CHANGES: Final = 20
STARVED_MS: Final = 200.0  # a client that did not run for so long takes that for its network
AFTER_S: Final = 2.0  # how long after a change its gap is looked for
EVERY_S: Final = 2.5
SWITCH_S: Final = 0.5  # both legs carry for less than that
LATE_S: Final = 0.1  # what was lost before the switch is not the switch's fault
UNPLANNED_S: Final = 12.0  # after UDP was blocked a switch is no plan but rescue
APART_S: Final = 3.5  # ladders that all try at once, each three handshakes, ask a small machine for too much
PHASE_S: Final[dict[Weather, float]] = {
    "good": 75.0,
    "bad": 15.0,
    "blocked": 15.0,
    "bad up": 20.0,
    "bad down": 20.0,
}
FLIPS: Final[tuple[Weather, ...]] = ("bad", "blocked", "good", "blocked", "good")


@dataclass(frozen=True)
class Call:
    """Between which places, and whether the tokens forbid a direct path."""

    a: str
    b: str
    relay_only: bool
    side: str = "a"
    """Which of several places of a's kind."""


# Routers of random ports: one that keeps the port would give the same mapping again.
SENDING: Final = {
    Call("symmetric", "port-restricted", True): 30,
    Call("symmetric", "open", False, side="a1"): 20,
}
SILENT: Final = {
    Call("symmetric", "full-cone", True, side="a2"): 30,
    Call("symmetric", "address-restricted", False, side="a3"): 20,
}
ADDRESSES: Final = {Call("port-restricted", "cgn", True): 10, Call("port-restricted", "throttled", False): 10}
WEATHER: Final = (
    Call("port-restricted", "port-restricted", True, side="a1"),
    Call("full-cone", "open", False),
    Call("address-restricted", "address-restricted", False),
    Call("cgn", "full-cone", True),
)
WAYS: Final[dict[Weather, Call]] = {"bad up": WEATHER[0], "bad down": WEATHER[3]}
"""Which way turns bad for which of the calls that may not go direct."""
STANDS: Final[dict[Weather, tuple[str, str]]] = {
    "bad up": ("ws-443", "quic"),
    "bad down": ("quic", "ws-443"),
    "good": ("quic", "quic"),
}
"""What then carries up and down."""
CONTROL: Final = Call("open", "symmetric", True)
VOIDS: Final = 2


@dataclass
class Campaign:
    """What one kind of change came to."""

    name: str
    changes: int = 0
    gaps_ms: list[float] = field(default_factory=list)
    planned_ms: list[float] = field(default_factory=list)
    rescued_ms: list[float] = field(default_factory=list)
    """Switches of rungs after UDP was blocked: no plan helps there."""
    stormy_ms: list[float] = field(default_factory=list)
    """Switches between rungs that both lose packets: their gaps are the weather's, too."""
    calls: int = 0
    lost: list[str] = field(default_factory=list)
    landed: list[bool] = field(default_factory=list)
    """Whether each way stood where it should at the end of each phase."""
    seen: int = 0
    """How often the relay said that it sees another address."""
    switches: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with percentiles instead of all gaps."""
        told: dict[str, Any] = {
            "changes": self.changes,
            "seen_by_the_relay": self.seen,
            "calls": self.calls,
            "lost": self.lost,
        }
        for name in ("gaps_ms", "planned_ms", "rescued_ms", "stormy_ms"):
            values = getattr(self, name)
            told[name] = {
                "count": len(values),
                **{f"p{round(100 * share)}": percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)},
            }
        return {**told, "landed": self.landed, "switches": self.switches}


def kind_of_switch(at: float, rung: str | None, phases: list[tuple[float, Weather]]) -> str:
    """Whether a switch to `rung` was planned, a rescue, or made in a storm that is there as well."""
    _, weather = max(((since, what) for since, what in phases if since <= at), default=(0.0, "good"))
    if weather == "blocked" or any(
        what == "blocked" and 0 <= at - since < UNPLANNED_S for since, what in phases
    ):
        return "rescued"
    is_tcp = rung is not None and rung.startswith("ws")
    return "stormy" if weather == "bad" and not is_tcp else "planned"


def stands_as_it_should(weather: Weather, stands: dict[str, str | None]) -> bool:
    """Whether each way goes by what this weather leaves it."""
    return all(
        (stands[way] or "").startswith(wanted)
        for way, wanted in zip(("up", "down"), STANDS[weather], strict=True)
    )


class Moves:
    """The campaigns over one world. Each runs in a thread of its own, with people of its own."""

    def __init__(self, world: World, box: RelayBox, people: dict[tuple[str, str], Person], seed: int) -> None:
        self._world = world
        self._box = box
        self._people = people
        self._seed = seed

    def rebindings(self, campaign: Campaign, call: Call, count: int, *, silent: bool) -> None:
        """The router of a forgets, `count` times; a talks, or only listens."""
        site = self._people[call.a, call.side].site
        ears = (0,) if silent else (0, 1)

        def change() -> None:
            rebind(self._world.net, site)

        self._change_often(campaign, call, count, change, ears=ears, silent=silent)

    def addresses(self, campaign: Campaign, call: Call, count: int, mobile: Mobile) -> None:
        """a changes networks, `count` times."""
        person = self._people[call.a, call.side]

        def change() -> None:
            mobile.switch()
            person.order("network")

        self._change_often(campaign, call, count, change)

    def control(self, campaign: Campaign, call: Call, over: threading.Event) -> None:
        """Nothing happens to this call; its gaps are those of the machine."""
        talk = self._begin(campaign, call)
        if talk is None:
            return
        moments = []
        while not over.wait(AFTER_S):
            moments.append(time.monotonic() - AFTER_S)
            talk.collect()
        campaign.gaps_ms += [1000 * talk.gap(at, at + AFTER_S) for at in moments[1:]]
        self._end(campaign, talk)

    def weather(self, campaign: Campaign, call: Call, flips: tuple[Weather, ...]) -> None:
        """UDP of a changes as `flips` says; phases as long as a ladder needs to climb back."""
        talk = self._begin(campaign, call)
        if talk is None:
            return
        site = self._people[call.a, call.side].site
        phases: list[tuple[float, Weather]] = []
        for flip in flips:
            set_weather(self._world.net, site, flip)
            began = time.monotonic()
            phases.append((began, flip))
            while time.monotonic() < began + PHASE_S[flip]:
                time.sleep(1.0)
                talk.collect()
            talk.check_alive()
            campaign.changes += 1
            campaign.gaps_ms.append(1000 * talk.gap(began, began + PHASE_S[flip]))
        talk.collect()
        for switch in talk.switches:
            at = switch["at"]
            gap = 1000 * talk.gap(at + LATE_S, at + SWITCH_S)
            kind = kind_of_switch(at, switch["to"]["rung"], phases)
            getattr(campaign, f"{kind}_ms").append(gap)
        self._end(campaign, talk)
        set_weather(self._world.net, site, "good")

    def ways(self, campaign: Campaign, call: Call, flips: tuple[Weather, ...]) -> None:
        """One way of a's UDP as `flips` says: whether that way alone moves, and what is heard meanwhile."""
        talk = self._begin(campaign, call)
        if talk is None:
            return
        person = self._people[call.a, call.side]
        for flip in flips:
            set_weather(self._world.net, person.site, flip)
            began = time.monotonic()
            while time.monotonic() < began + PHASE_S[flip]:
                time.sleep(1.0)
                talk.collect()
            talk.check_alive()
            campaign.changes += 1
            campaign.gaps_ms.append(1000 * talk.gap(began, began + PHASE_S[flip]))
            campaign.landed.append(stands_as_it_should(flip, talk.stands))
        talk.collect()
        for switch in talk.switches:
            gap = 1000 * talk.gap(switch["at"] + LATE_S, switch["at"] + SWITCH_S)
            campaign.planned_ms.append(gap)
        self._end(campaign, talk)
        set_weather(self._world.net, person.site, "good")

    def _change_often(
        self,
        campaign: Campaign,
        call: Call,
        count: int,
        change: Callable[[], None],
        *,
        ears: tuple[int, ...] = (0, 1),
        silent: bool = False,
    ) -> None:
        talk = self._begin(campaign, call)
        if talk is None:
            return
        phase = random.Random(f"{self._seed} {campaign.name} {call}")
        moments = []
        try:
            if silent:
                talk.people[0].ask("mute", "muted", on=True)
            time.sleep(AFTER_S)
            talk.collect()
            for _ in range(count):
                time.sleep(phase.random() * (EVERY_S - AFTER_S))
                moments.append(time.monotonic())
                change()
                campaign.changes += 1
                time.sleep(AFTER_S)
                talk.collect()
        except PlayerFailedError as error:
            talk.lost = talk.lost or str(error)
        talk.collect()
        talk.check_alive(ears)
        campaign.gaps_ms += [1000 * talk.gap(at, at + AFTER_S, ears) for at in moments]
        self._end(campaign, talk)

    def _begin(self, campaign: Campaign, call: Call) -> Talk | None:
        campaign.calls += 1
        try:
            people = self._people[call.a, call.side], self._people[call.b, "b"]
            return Talk.begin(self._world, self._box, people, relay_only=call.relay_only)
        except PlayerFailedError as error:
            campaign.lost.append(f"{call.a} - {call.b}: never began: {error}")
            return None

    def _end(self, campaign: Campaign, talk: Talk) -> None:
        talk.hang_up()
        campaign.seen += len(talk.seen) - 1
        campaign.switches += talk.switches
        if talk.lost is not None:
            campaign.lost.append(talk.lost)


Jobs = list[Future[None]]


def change_mappings(
    moves: Moves, mobile: Mobile, quick: bool, pool: ThreadPoolExecutor
) -> tuple[dict[str, Campaign], Jobs]:
    """Routers forget under four calls, while one phone changes networks."""
    made = {name: Campaign(name) for name in ("sending", "silent", "addresses")}

    def shorter(count: int) -> int:
        return max(2, count // 10) if quick else count

    def change_addresses() -> None:
        for call, count in ADDRESSES.items():  # one after the other: they are the same phone
            moves.addresses(made["addresses"], call, shorter(count), mobile)

    jobs = [pool.submit(change_addresses)]
    for name, calls in (("sending", SENDING), ("silent", SILENT)):
        for call, count in calls.items():
            number, silent = shorter(count), name == "silent"
            jobs.append(pool.submit(moves.rebindings, made[name], call, number, silent=silent))
    return made, jobs


def change_weather(
    moves: Moves, mobile: Mobile, quick: bool, pool: ThreadPoolExecutor
) -> tuple[dict[str, Campaign], Jobs]:
    """UDP turns bad, is blocked, is good again, under four calls beside each other."""
    made = Campaign("weather")
    flips = FLIPS[:2] if quick else FLIPS

    def begin_later(number: int, call: Call) -> None:
        time.sleep(number * APART_S)
        moves.weather(made, call, flips)

    return {made.name: made}, [pool.submit(begin_later, *each) for each in enumerate(WEATHER)]


def change_ways(
    moves: Moves, mobile: Mobile, quick: bool, pool: ThreadPoolExecutor
) -> tuple[dict[str, Campaign], Jobs]:
    """UDP turns bad one way, another one for each of two calls, and is good again."""
    made = Campaign("ways")
    flips: dict[Weather, tuple[Weather, ...]] = {bad: (bad,) if quick else (bad, "good") for bad in WAYS}

    def begin_later(number: int, bad: Weather) -> None:
        time.sleep(number * APART_S)
        moves.ways(made, WAYS[bad], flips[bad])

    return {made.name: made}, [pool.submit(begin_later, *each) for each in enumerate(WAYS)]


Stage = Callable[[Moves, Mobile, bool, ThreadPoolExecutor], tuple[dict[str, Campaign], Jobs]]
STAGES: Final[dict[str, Stage]] = {
    "mappings are forgotten and addresses change (a minute and a half)": change_mappings,
    "UDP turns bad, is blocked, is good again (three and a half minutes)": change_weather,
    "UDP turns bad one way, and is good again (a minute and three quarters)": change_ways,
}


def run(stage: Stage, moves: Moves, mobile: Mobile, quick: bool) -> tuple[dict[str, Campaign], Campaign]:
    """What a stage made, and the control beside it."""
    control, over = Campaign("control"), threading.Event()
    with ThreadPoolExecutor(max_workers=8) as pool:
        watch = pool.submit(moves.control, control, CONTROL, over)
        try:
            made, jobs = stage(moves, mobile, quick, pool)
            for job in jobs:
                job.result()
        finally:
            over.set()
        watch.result()
    return made, control


def run_until_judged(
    stage: Stage, moves: Moves, mobile: Mobile, quick: bool, voids: list[list[str]]
) -> tuple[dict[str, Campaign], Campaign]:
    """Run a stage; again, twice at most, where the machine was too busy to judge a bar of it that failed."""
    for _ in range(VOIDS):
        made, control = run(stage, moves, mobile, quick)
        busy = [] if quick else disturbed(made, control)
        if not busy:
            return made, control
        report.say(f"void: the control broke the bound of {', '.join(busy)} as well; again ...")
        voids.append(busy)
    return run(stage, moves, mobile, quick)


def timed(made: dict[str, Campaign]) -> list[tuple[str, float | None, float]]:
    """The real-time bars of these campaigns: name, value, bound, milliseconds."""
    bars: list[tuple[str, float | None, float]] = []
    for name, bar, bound in (
        ("sending", "rebinding_gap_sending_p99_ms", SENDING_MS),
        ("silent", "rebinding_gap_silent_p99_ms", SILENT_MS),
        ("addresses", "address_change_gap_p99_ms", ADDRESS_MS),
    ):
        if name in made:
            bars.append((bar, percentile(made[name].gaps_ms, 0.99), bound))
    if "weather" in made:
        planned = percentile(made["weather"].planned_ms, 0.99)
        bars.append(("planned_switch_gap_p99_ms", planned, PLANNED_MS))
    if "ways" in made:
        bars.append(("one_way_switch_gap_p99_ms", percentile(made["ways"].planned_ms, 0.99), PLANNED_MS))
    return bars


def disturbed(made: dict[str, Campaign], control: Campaign) -> list[str]:
    """Bars that failed in a run in which the control beside it broke the same bound."""
    gap = percentile(control.gaps_ms, 0.99)
    if gap is None:
        return []
    starved = "ways" in made and False in made["ways"].landed and gap > STARVED_MS
    found = [name for name, value, bound in timed(made) if value is not None and value > bound < gap]
    return [*found, *(["ways_that_stood_wrong"] if starved else [])]


def judge(result: report.Report, made: dict[str, Campaign], controls: Sequence[Campaign]) -> None:
    """The bars."""
    rebindings = made["sending"].changes + made["silent"].changes
    result.bar("calls_lost", sum(len(one.lost) for one in (*made.values(), *controls)), "==", 0)
    result.bar("rebindings", rebindings, ">=", REBINDINGS, is_speed=True)
    result.bar("address_changes", made["addresses"].changes, ">=", CHANGES, is_speed=True)
    result.bar("udp_flips", made["weather"].changes, ">=", CHANGES, is_speed=True)
    result.bar("ways_that_stood_wrong", made["ways"].landed.count(False), "==", 0, is_speed=True)
    result.bar("one_way_flips", len(made["ways"].landed), ">=", len(WAYS))
    for name, value, bound in timed(made):
        result.bar(name, value, "<=", bound, is_speed=True)


def main() -> int:
    """Run, print, tell by the exit status."""
    arguments = report.arguments("moves", __doc__).parse_args()
    topology.refuse_unless_possible()
    topology.limit_time()
    result = report.Report("moves", seed=arguments.seed, quick=arguments.quick)
    calls = [*SENDING, *SILENT, *ADDRESSES, *WEATHER, CONTROL]
    places = sorted({(call.a, call.side) for call in calls} | {(call.b, "b") for call in calls})
    mobiles: list[Mobile] = []

    def add_uplink(builder: Builder, sites: dict[tuple[str, str], Site]) -> None:
        first = next(iter(ADDRESSES))
        mobiles.append(Mobile.build(builder.net, builder, sites[first.a, first.side]))

    with World.build(arguments.seed, places, add_uplink) as world:
        box = RelayBox.start(world)
        people = {place: Person(world.net, site) for place, site in world.sites.items()}
        moves = Moves(world, box, people, arguments.seed)
        made: dict[str, Campaign] = {}
        controls: list[Campaign] = []
        voids: list[list[str]] = []
        for says, stage in STAGES.items():
            report.say(f"{says} ...")
            found, control = run_until_judged(stage, moves, mobiles[0], arguments.quick, voids)
            made.update(found)
            controls.append(control)
        world.net.close()
        leftovers = world.net.leftovers()
    judge(result, made, controls)
    result.bar("namespaces_left_behind", len(leftovers), "==", 0)
    told = {name: one.as_dict() for name, one in made.items()}
    result.detail(lane=box.lane, voids=voids, controls=[one.as_dict() for one in controls], **told)
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
