"""Stages of `./scripts/lab fleet` about calls: in regions, across them, and at the end of a node.

    calls    every node has some, every pair of regions has some, each node's canary calls; all are heard
    crash    a node is killed under calls that have standbys

Must never live here: what people do (fleetpeople.py), the state of rollouts (fleetstate.py).
"""

from __future__ import annotations

import itertools
import sys
import time
from argparse import Namespace
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from lab.fleetground import REGIONS, round_trip_s
from lab.fleetnode import FleetNode, new_call, until
from lab.fleetnodes import Fleet
from lab.fleetpeople import QUICK_S, People, call_of, place
from lab.nat import percentile
from load import report
from load.process import cpu_seconds

EACH, QUICK_EACH = 2, 1  # calls of a node, and of a pair of regions
TALK_S, QUICK_TALK_S = 10.0, 3.0
FIRST_AUDIO_S: Final = 1.5
LOSS: Final = 0.01
CANARY_S: Final = 4.0  # the least that a canary takes
APART_S: Final = 0.1  # between calls of a process that begin
CRASH_CALLS, QUICK_CRASH_CALLS = 150, 4
CRASH_PROCESSES: Final = 2
CRASH_WORDS_S: Final = 2.0  # between two words of a person, until the kill
BACK_S: Final = 2.0
RISE_MS: Final = 5.0
SURVIVORS: Final = 4
SURVEY_S: Final = 8.0
GIVE_UP_S: Final = 30.0
WARM_S: Final = 100.0  # a leg stands by 45 s after the answer, or 15 and 30 later if that failed

READY: Final = {"has_standby": "crash_people_with_a_standby", "is_warm": "crash_people_whose_standby_is_warm"}

Looks = list[dict[str, Any]]


def calls(fleet: Fleet, out: report.Report, arguments: Namespace) -> None:
    """All regions, all pairs of them, all canaries."""
    quick: bool = arguments.quick
    each, seconds = (QUICK_EACH, QUICK_TALK_S) if quick else (EACH, TALK_S)
    asked = [node for node in fleet.nodes if not quick or node.number == 1]
    people = {region.name: People(fleet, region.name) for region in REGIONS}
    try:
        with ThreadPoolExecutor(len(asked)) as pool:
            canaries = [pool.submit(_canary, fleet, node) for node in asked]
            inside = _place_inside(fleet, people, each)
            across, homes = _place_across(fleet, people, each)
            time.sleep(seconds)
            looks = [one for child in people.values() for one in child.look()]
            _judge_canaries(out, canaries)
    finally:
        for child in people.values():
            child.stop()
    _judge_heard(out, "inside", [one for one in looks if one["call"] in inside["placed"]], inside)
    _judge_heard(out, "across", [one for one in looks if one["call"] in across["placed"]], across)
    out.bar("calls_packets_not_opened", sum(one["unopened"] for one in looks), "==", 0)
    out.detail(calls_homes_of_pairs=homes, calls_failed=inside["failed"] + across["failed"])


def _place_inside(fleet: Fleet, people: dict[str, People], each: int) -> dict[str, Any]:
    """Some calls at each node, by people of its own region; of each region's first node one is a voice."""
    orders: dict[str, list[dict[str, Any]]] = {region.name: [] for region in REGIONS}
    for node, number in itertools.product(fleet.nodes, range(each)):
        region = node.place.name
        voice = (node.number, number) == (1, 0)
        after = APART_S * len(orders[region]) / 2
        orders[region] += call_of(fleet, new_call(), node.url, voice=voice, every=QUICK_S, after=after)
    failed = place([(people[region], made) for region, made in orders.items()])
    placed = {one["call"] for made in orders.values() for one in made}
    return {"placed": placed, "failed": failed}


def _place_across(
    fleet: Fleet, people: dict[str, People], each: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some calls of each pair of regions, where the directory puts them; of each pair one is a voice."""
    orders: dict[str, list[dict[str, Any]]] = {region.name: [] for region in REGIONS}
    placed, homes = set(), Counter[str]()
    directory = fleet.directory()
    for (one, other), number in itertools.product(itertools.combinations(REGIONS, 2), range(each)):
        call = new_call()
        far = {
            region.name: max(round_trip_s(side.name, region.name) for side in (one, other))
            for region in REGIONS
        }
        found = directory.place(call.hex(), "control", far, time.monotonic())
        assert found is not None  # all nodes are on the list
        url, after = found.home.urls[0], APART_S * number
        both = call_of(fleet, call, url, voice=number == 0, every=QUICK_S, after=after)
        for side, made in zip((one, other), both, strict=True):
            orders[side.name].append(made)
        placed.add(call.hex())
        homes[f"{one.name}-{other.name} at {found.home.region}"] += 1
    failed = place([(people[region], made) for region, made in orders.items()])
    return {"placed": placed, "failed": failed}, dict(homes)


def _judge_heard(out: report.Report, name: str, looks: Looks, made: dict[str, Any]) -> None:
    """Whether all of these are heard, how soon, and how much is missing."""
    by_call = Counter(one["call"] for one in looks if one["alive"])
    firsts = [one["first_s"] for one in looks if one["first_s"] is not None]
    sent = sum(one["heard"] + one["lost"] for one in looks)
    voices = [one["voice"] for one in looks if one["voice"]]
    spoken = sum(voice["received"] + voice["lost"] for voice in voices)
    out.bar(f"calls_{name}_connected", sum(both == 2 for both in by_call.values()), "==", len(made["placed"]))
    out.bar(f"calls_{name}_directions_heard", len(firsts), "==", 2 * len(made["placed"]))
    p95 = percentile(firsts, 0.95)
    out.bar(f"calls_{name}_first_audio_p95_s", p95, "<=", FIRST_AUDIO_S, is_speed=True)
    missing = sum(one["lost"] for one in looks) / sent if sent else None
    out.bar(f"calls_{name}_words_lost", missing, "<=", LOSS)
    lost = sum(voice["lost"] for voice in voices) / spoken if spoken else None
    out.bar(f"calls_{name}_voice_lost", lost, "<=", LOSS, is_speed=True)
    delays = [one["delay_p99_ms"] for one in looks if one["delay_p99_ms"] is not None]
    out.detail(**{f"calls_{name}_words": sent, f"calls_{name}_delay_p99_ms_worst": max(delays, default=None)})


def _canary(fleet: Fleet, node: FleetNode) -> int:
    """One canary call from the node's own region; its exit status."""
    desk = fleet.desk.folder
    words = ["canary", "--url", node.url, "--key", str(desk / "canary.key"), "--ca", fleet.ca]
    words += ["--server-name", "localhost", "--seconds", f"{CANARY_S:g}"]
    words += ["--out", str(node.folder / "canary.json")]
    done = fleet.ground.run(node.place.name, [sys.executable, "-m", "relay", *words], 60.0)
    if done.returncode:
        report.say(f"the canary of {node.id}: {done.stdout}{done.stderr}")
    return done.returncode


def _judge_canaries(out: report.Report, canaries: list[Future[int]]) -> None:
    well = sum(canary.result() == 0 for canary in canaries)
    out.bar("calls_canaries_well", well, "==", len(canaries))


# ---------------------------------------------------------------- a node's end


def crash(fleet: Fleet, out: report.Report, arguments: Namespace) -> None:
    """`kill -9` of a node under calls; others talk at the node beside it, where those go.

    A control talks far away: how late it hears is the machine's own doing, and taken off.
    """
    count = arguments.calls or (QUICK_CRASH_CALLS if arguments.quick else CRASH_CALLS)
    victim, beside = fleet.of("eu")
    groups = [People(fleet, "eu", yields=True) for _ in range(min(CRASH_PROCESSES, count))]
    others, control = People(fleet, "eu"), People(fleet, "ap")
    try:
        failed = _place_for_crash(fleet, groups, victim, count)
        failed += place([(others, _few(fleet, beside)), (control, _few(fleet, fleet.of("ap")[0]))])
        until(lambda: all(one["is_warm"] for group in groups for one in _look_slowly(group)), WARM_S)
        ready = Counter(what for group in groups for one in group.look() for what in READY if one[what])
        for child in (others, control):
            child.ask("since", at=time.monotonic())
        calm = _cpu(groups, beside)
        time.sleep(SURVEY_S)
        before = [_p99(child.look()) for child in (others, control)]
        busy = _cpu(groups, beside)
        killed = time.monotonic()
        victim.kill()
        for group in groups:
            group.ask("since", at=killed)
            group.ask("anxious")
        for child in (others, control):
            child.ask("since", at=killed)
        looks = _until_back(groups)
        took = time.monotonic() - killed
        spent = {name: round(now - busy[name], 2) for name, now in _cpu(groups, beside).items()}
        time.sleep(max(0.0, killed + SURVEY_S - time.monotonic()))
        after = [_p99(child.look()) for child in (others, control)]
        alive = sum(one["alive"] for one in others.look())
    finally:
        for child in (*groups, others, control):
            child.stop()
        victim.kill()
        victim.start("serve")
    backs = [GIVE_UP_S if one["back_s"] is None else one["back_s"] for one in looks]
    for what, name in READY.items():
        out.bar(name, ready[what], "==", 2 * count)
    out.bar("crash_people_lost", 2 * count - sum(one["alive"] for one in looks), "==", 0)
    elsewhere = sum(one["host"] != victim.address for one in looks)
    out.bar("crash_people_elsewhere", elsewhere, "==", 2 * count)
    out.bar("crash_audio_back_p99_s", percentile(backs, 0.99), "<=", BACK_S, is_speed=True)
    out.bar("crash_survivors_lost", 2 * SURVIVORS - alive, "==", 0)
    rises = [None if None in pair else pair[1] - pair[0] for pair in zip(before, after, strict=True)]
    rise = None if None in rises else rises[0] - max(0.0, rises[1])
    out.bar("crash_survivors_p99_rise_beside_control_ms", rise, "<=", RISE_MS, is_speed=True)
    out.detail(
        crash={
            "calls": count,
            "audio_back_p50_s": percentile(backs, 0.5),
            "audio_back_max_s": max(backs, default=None),
            "survivors_p99_ms": [before[0], after[0]],
            "control_p99_ms": [before[1], after[1]],
            "cpu_share_before": {name: round((busy[name] - calm[name]) / SURVEY_S, 2) for name in busy},
            "cpu_s_until_all_were_back": spent,
            "not_well": Counter(
                f"{one['host']} {one['state']} {one['why']}" for one in looks if not one["alive"]
            ),
            "moves": Counter(one["moves"] for one in looks),
            "all_back_after_s": round(took, 2),
            "failed": failed,
        }
    )
    fleet.until_all({"relay_nodes_listed": float(len(fleet.nodes))}, GIVE_UP_S, [victim])


def _place_for_crash(fleet: Fleet, groups: list[People], victim: FleetNode, count: int) -> list[str]:
    orders: list[list[dict[str, Any]]] = [[] for _ in groups]
    for number in range(count):
        mine = orders[number % len(groups)]
        mine += call_of(fleet, new_call(), victim.url, every=CRASH_WORDS_S, after=APART_S * len(mine))
    return place(list(zip(groups, orders, strict=True)))


def _few(fleet: Fleet, node: FleetNode) -> list[dict[str, Any]]:
    """People who talk all the while, at a node that stays."""
    return [one for _ in range(SURVIVORS) for one in call_of(fleet, new_call(), node.url, every=QUICK_S)]


def _look_slowly(group: People) -> Looks:
    time.sleep(0.5)  # each look at hundreds costs them some milliseconds
    return group.look()


def _until_back(groups: list[People]) -> Looks:
    """How they fare when all are back, or when it takes too long."""
    looks: Looks = []

    def are_back() -> bool:
        time.sleep(0.5)  # each look at hundreds costs those who come back some milliseconds
        looks[:] = [one for group in groups for one in group.look()]
        return all(one["back_s"] is not None for one in looks)

    until(are_back, GIVE_UP_S)
    return looks


def _cpu(groups: list[People], node: FleetNode) -> dict[str, float]:
    """Processor seconds of those processes that tell what a crash costs."""
    who = {f"people {number}": group.pid for number, group in enumerate(groups, 1)} | {node.id: node.pid}
    return {name: cpu_seconds(pid) for name, pid in who.items()}


def _p99(looks: Looks) -> float | None:
    """The worst of these listeners' 99th percentile of delay, ms."""
    return max((one["delay_p99_ms"] for one in looks if one["delay_p99_ms"] is not None), default=None)
