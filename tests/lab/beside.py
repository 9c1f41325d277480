"""Stage `beside` of the voice lab: a call whose listener downloads meanwhile, by the kernel's TCP CUBIC.

    relay, caller, server --internet: 40 ms there and back-- 1 Mb/s, 100 ms --> listener

In network namespaces; the bottleneck is a line of the lab's internet. Quality is what the relay wrote into
the call's record. Must never live here: the networks themselves, what the relay decides.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any, Final

from lab.bulk import CONGESTION
from lab.people import Person, PlayerFailedError, flows
from lab.relaybox import RelayBox
from lab.talk import Talk
from lab.topology import python, refuse_unless_possible
from lab.world import World, answer
from load import report
from relay.config_voice import AdaptConfig

CAPACITY_BPS: Final = 1_000_000
QUEUE_S: Final = 0.1
DELAY_S: Final = 0.01  # of each half of an access line; four make a round trip
SECONDS: Final = 120.0
QUICK_SECONDS: Final = 20.0
AHEAD_S: Final = 3.0  # the download is at its full rate when the call begins
PORT: Final = 5001
MOS: Final = 3.6
TCP_SHARE: Final = 0.7
PLACES: Final = (("open", "a"), ("open", "b"))


def shares(call_bytes: int, tcp_bytes: int, seconds: float) -> dict[str, float]:
    """Rates in kb/s, and the share of what the call left that TCP delivered, 0-1."""
    rest = CAPACITY_BPS * seconds / 8 - call_bytes
    return {
        "call_kbps": round(8 * call_bytes / seconds / 1000, 1),
        "tcp_kbps": round(8 * tcp_bytes / seconds / 1000, 1),
        "tcp_share": round(tcp_bytes / rest, 4),
    }


def record_of(box: RelayBox) -> list[dict[str, Any]]:
    """Each person's quality in the newest call record, by index. It is written a moment after the call."""
    until = time.monotonic() + 10
    path = box.folder / "records.sqlite"
    while time.monotonic() < until:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as records:
            found = records.execute(
                'SELECT quality FROM participants ORDER BY record DESC, "index" LIMIT 2'
            ).fetchall()
        if found:
            return [json.loads(row[0]) for row in found]
        time.sleep(0.1)
    return []


def measure(result: report.Report, seed: int, *, quick: bool) -> None:
    """The call, the download, the bars."""
    refuse_unless_possible()
    seconds = QUICK_SECONDS if quick else SECONDS
    report.say(f"a call of {seconds:g} s beside a TCP CUBIC flow on 1 Mb/s ...")
    with World.build(seed, PLACES) as world:
        box = RelayBox.start(world, AdaptConfig(enabled=True))
        caller, listener = (Person(world.net, world.sites[place]) for place in PLACES)
        line = {"delay_s": DELAY_S}
        names = {"relay": "relay", "caller": "a-0", "listener": "b-0"}
        for name in (names["relay"], names["caller"]):
            world.conditions(name, line, line)
        world.conditions(names["listener"], line, {**line, "rate_bps": CAPACITY_BPS, "queue_s": QUEUE_S})
        found = hold(world, box, (caller, listener), seconds)
        found["lane"] = box.lane
        found["log"] = [entry for entry in box.log() if entry.get("level") not in ("debug", "info")]
    result.bar("beside_tcp_is_cubic", int(found["congestion"] == CONGESTION.decode()), "==", 1)
    result.bar("beside_mos", found["mos"], ">=", MOS, is_speed=True)
    result.bar("beside_tcp_share", found["tcp_share"], ">=", TCP_SHARE, is_speed=True)
    result.bar("beside_call_lives", int(found["lost"] is None), "==", 1)
    result.bar("beside_complaints", len(found["log"]), "==", 0)
    result.detail(beside=found)


def hold(world: World, box: RelayBox, people: tuple[Person, Person], seconds: float) -> dict[str, Any]:
    """The download begins, then the call; both last for so long."""
    site = people[1].site
    taker = world.net.spawn(site.client, [*python("lab.bulk"), "take", str(PORT)])
    answer(taker)
    giver = world.net.spawn(world.relay, [*python("lab.bulk"), "give", site.wan, str(PORT)])
    congestion = answer(giver)["congestion"]
    began = time.monotonic()
    while time.monotonic() - began < AHEAD_S:
        answer(taker)
    talk = Talk.begin(world, box, people, relay_only=True)
    first, before = _taken(taker), _call_bytes(world, people[1])
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(5.0, max(0.0, until - time.monotonic())))
        talk.collect()
    call_bytes = _call_bytes(world, people[1]) - before
    last = _taken(taker)
    stats = [person.ask("count", "count") for person in people]
    for person in people:
        try:
            person.ask("hangup", "over")
        except PlayerFailedError as error:
            talk.lost = talk.lost or str(error)
    quality = record_of(box)
    known = [one["mos"] for one in quality if "mos" in one]
    return {
        "seconds": seconds,
        "congestion": congestion,
        "mos": min(known) if len(known) == len(people) else None,
        **shares(call_bytes, last["bytes"] - first["bytes"], last["at"] - first["at"]),
        "quality": quality,
        "stats": stats,
        "lost": talk.lost,
        "switches": talk.switches,
    }


def _taken(taker: Any) -> dict[str, Any]:
    """The newest line of the download: what is told by now, and one more."""
    newest = answer(taker)
    while time.monotonic() - newest["at"] > 0.5:
        newest = answer(taker)
    return newest


def _call_bytes(world: World, listener: Person) -> int:
    """Bytes that came to the listener by the relay, headers included."""
    return sum(
        count for _, protocol, port, count in flows(world.net, listener.site.client, "in") if port == 443
    )
