"""The part of `./scripts/lab restart` that kills: `kill -9` under calls, again and again.

    the service     `relay serve`, run by a supervisor that keeps sockets and memory as systemd does
    the people      SDK sessions of a few processes, each says a word (sealed, as media) now and then
    some calls      in a tenth one side has muted itself; a few are not answered: nothing may pass there

After each kill: how long until the process says it is ready, until the first word of each direction of each
call, and until each person sits on a new leg and has had an answer there. Must never live here: how the
service is kept, and what its people do (crashers.py).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

from client.rig import Rig, prepare
from lab.crashers import Crashers, order
from lab.nat import percentile
from load import report
from load.daemon import imbalance, scrape, total
from load.process import cpu_seconds
from supervisor import Supervisor

READY_MS: Final = 700.0
AUDIO_S: Final = 1.0
CONTROL_S: Final = 10.0
RESTART_S: Final = 0.2  # RestartSec= of the unit
REST_S: Final = 3.0  # between two kills, when all are back
SETTLE_S: Final = 5.0  # everybody has said a word
PROCESSES: Final = 4
END_S: Final = 10.0
ROOM: Final = """
[limits]
initials_per_source_per_s = 10000
initials_per_source_burst = 10000
retry_above_half_open = 10000
retry_above_initials_per_s = 10000
half_open = 10000
"""


def is_muted(index: int) -> bool:
    """In this call the first person has muted itself."""
    return index % 10 == 3


def is_ringing(index: int) -> bool:
    """This call is never answered."""
    return index % 20 == 7


class Campaign:
    """A service, those who use it, and what each kill cost."""

    def __init__(self, supervisor: Supervisor, callers: list[Crashers]) -> None:
        self._supervisor = supervisor
        self._callers = callers
        self.ready_ms: list[float] = []
        self.audio_s: list[float] = []
        self.control_s: list[float] = []
        self.rounds: list[dict[str, Any]] = []
        self.lost = 0
        self.twice = 0
        self.wrong = 0

    def crash(self) -> None:
        """Kill the process, start it again, and see what it cost."""
        busy = [cpu_seconds(caller.pid) for caller in self._callers]
        self._supervisor.kill()
        killed = time.monotonic()
        for caller in self._callers:
            caller.note_killed(killed)
        time.sleep(max(0.0, killed + RESTART_S - time.monotonic()))
        began = time.monotonic()
        self.ready_ms.append(1000 * self._supervisor.start())
        for caller in self._callers:
            caller.ask_back(began)
        found = [caller.backs() for caller in self._callers]
        audio = [one for back in found for one in back["audio"]]
        control = [one for back in found for one in back["control"]]
        self.audio_s += audio
        self.control_s += control
        self.lost += sum(back["lost"] for back in found)
        self.twice = sum(back["twice"] for back in found)
        self.wrong = sum(back["wrong"] for back in found)
        took = time.monotonic() - began
        self.rounds.append(
            {
                "ready_ms": self.ready_ms[-1],
                "audio_s": max(audio),
                "control_s": max(control),
                "cpus_of_the_people": (sum(cpu_seconds(one.pid) for one in self._callers) - sum(busy)) / took,
                "cpus_of_the_daemon": cpu_seconds(self._supervisor.pid) / took,
            }
        )


def _tell(number: int, kills: int, told: dict[str, Any]) -> None:
    report.say(
        f"kill {number}/{kills}: ready {told['ready_ms']:.0f} ms, audio back {told['audio_s']:.2f} s, "
        f"control {told['control_s']:.2f} s at most; CPUs: people {told['cpus_of_the_people']:.2f}, "
        f"daemon {told['cpus_of_the_daemon']:.2f}"
    )


def judge(out: report.Report, *, calls: int, kills: int, lane: str = "auto") -> None:
    """The whole stage."""
    with tempfile.TemporaryDirectory(prefix="relay-crash-") as folder:
        rig, command = prepare(Path(folder), lane=lane, more=ROOM)
        supervisor = Supervisor(command, Path(folder) / "log")
        callers: list[Crashers] = []
        try:
            supervisor.start()
            orders = [order(rig, muted=is_muted(n), ringing=is_ringing(n)) for n in range(calls)]
            report.say(f"{calls} calls ...")
            callers = [Crashers(orders[n::PROCESSES]) for n in range(min(PROCESSES, calls))]
            placed = sum(caller.wait_placed() for caller in callers)
            made = Campaign(supervisor, callers)
            time.sleep(SETTLE_S)
            for number in range(kills):
                made.crash()
                _tell(number + 1, kills, made.rounds[-1])
                time.sleep(REST_S)
            out.bar("calls placed", placed, "==", calls)
            _bars(out, made)
        finally:
            for caller in callers:
                caller.stop()
            _end(rig, out)
            supervisor.close()


def _bars(out: report.Report, made: Campaign) -> None:
    out.bar("ready after exec, worst, ms", max(made.ready_ms), "<=", READY_MS, is_speed=True)
    out.bar(
        "audio of every direction back, worst, s after exec", max(made.audio_s), "<=", AUDIO_S, is_speed=True
    )
    out.bar("control of everybody back, worst, s after exec", max(made.control_s), "<=", CONTROL_S)
    out.bar("people who did not come back", made.lost, "==", 0)
    out.bar("packets under a number that had come before", made.twice, "==", 0)
    out.bar("words where nothing may pass", made.wrong, "==", 0)
    out.detail(
        crash={
            "ready_ms_p50": percentile(made.ready_ms, 0.5),
            "audio_s_p50": percentile(made.audio_s, 0.5),
            "audio_s_p99": percentile(made.audio_s, 0.99),
            "control_s_p99": percentile(made.control_s, 0.99),
            "rounds": made.rounds,
        }
    )


def _end(rig: Rig, out: report.Report) -> None:
    """Everybody has hung up: nothing may be left."""
    samples: dict[str, float] = {}
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        samples = scrape(f"http://127.0.0.1:{rig.metrics_port}")
        if not total(samples, "relay_calls"):
            break
        time.sleep(0.1)
    out.bar("calls left when all hung up", total(samples, "relay_calls"), "==", 0)
    out.bar("packets out of balance in the last process", imbalance(samples), "==", 0)
