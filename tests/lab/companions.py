"""Stages of `./scripts/lab systemd` for the units beside the daemon: the canary's timer, and the feed.

Both stay enabled, as those of an instance do: `remove` has to find them. Must never live here: the daemon's
own stages (systemd.py), the end that letters go to (hookend.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, Final

from lab.boxrun import ROOT, Run
from lab.service import BOX, CLUSTER, PEER
from relay.config import Config, EventsConfig, IssuerConfig
from relay.config_feed import FeedConfig, WebhookConfig
from relay.ops.canary import RUNGS

CANARY, TIMER = "relay-canary.service", "relay-canary.timer"
CANARY_FILE: Final = Config().health.canary_file
FEED, FEED_SOCKET = "relay-feed.service", "relay-feed.socket"
FIRST_S: Final = 95.0  # a minute at most, 20 s at random, the call, and a start beside others
LOOK_S: Final = 35.0  # the daemon looks each half minute
TALK_S: Final = 4  # of a canary call; the least it takes
ARRIVAL_S: Final = 30.0  # of the last letter, after all that was done to those who bring it
END, END_PORT, LETTERS = "lab-end", 8099, "/srv/end/letters.jsonl"
# What their sandboxes allow; all else that sandbox.py tries they must refuse.
_NETWORKED: Final = frozenset(
    (
        "write a /tmp of its own",
        "read its configuration",
        "socket AF_UNIX",
        "socket AF_INET",
        "socket AF_INET6",
        "network beyond loopback",
        "UDP to 127.0.0.1",
        "UDP to 10.1.2.3",
        f"UDP to {PEER}",
    )
)
ALLOWED_CANARY: Final = _NETWORKED | {"write the canary's folder"}
ALLOWED_FEED: Final = _NETWORKED | {"write its state", "write the feed's state"}


def _wait(seconds: float, holds: Callable[[], bool]) -> float | None:
    """Seconds until it held; None: it did not within so many."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        if holds():
            return waited
        time.sleep(0.25)
    return None


# ---------------------------------------------------------------- canary


def canary(run: Run) -> None:
    """Set up as in docs/operations.md: the timer places calls, the daemon tells of them, counts nobody."""
    box, out, service = run.box, run.out, run.service
    public = box.run("relay", "token", "keygen", "/etc/relay/canary.key").stdout.split()[-1].strip('"')
    issuers = (*service.config.tokens.issuers, IssuerConfig("canary", public, canary=True))
    tokens = dataclasses.replace(service.config.tokens, issuers=issuers)
    service.config = dataclasses.replace(service.config, tokens=tokens)
    service.configure()
    box.run("systemctl", "reload", "relay")
    box.write("/srv/canary/ca.pem", box.path("/etc/relay/tls/fullchain.pem").read_text())
    options = f"--url quic://{BOX} --audience {CLUSTER} --seconds {TALK_S}"
    trust = "--ca /srv/canary/ca.pem --server-name localhost"
    box.write("/etc/relay/canary.env", f"CANARY={options} {trust}\n")
    before = service.metrics().get("relay_call_setups_total", 0.0)
    box.run("systemctl", "enable", "--now", TIMER)
    out.bar("seconds to the timer's first call", _wait_for_run(run), "<=", FIRST_S)
    out.bar("that one failed", _status(run), "==", 0)
    box.run("systemctl", "stop", TIMER)  # two more at once instead of in two minutes
    for _ in range(2):
        box.run("systemctl", "start", CANARY)
    runs = _runs(run)
    out.bar(
        "rungs that a call went well by", len({one["rung"] for one in runs if one["ok"]}), "==", len(RUNGS)
    )
    seen = _wait(LOOK_S, lambda: (_told(run).get("runs"), _told(run).get("ok")) == (len(RUNGS), True))
    out.bar("seconds until /health tells of all", seen, "<=", LOOK_S)
    counted = service.metrics(result="ok")["relay_canary_runs_total"]
    out.bar("good calls in the metrics", counted, "==", len(RUNGS))
    opened = service.metrics(kind="canary")["relay_calls_opened_total"]
    out.bar("calls opened as canaries", opened, "==", len(RUNGS))
    people = service.metrics().get("relay_call_setups_total", 0.0) - before
    out.bar("set-ups of people that they count as", people, "==", 0)
    run.try_sandbox("canary", ALLOWED_CANARY, CANARY, lambda: box.run("systemctl", "start", CANARY))
    service.drop_in(None, CANARY)
    service.stop()
    failed = box.run("systemctl", "start", CANARY, check=False).returncode
    out.bar("a call while nobody serves: the unit fails", int(failed != 0), "==", 1)
    out.bar("and says which check", int(_runs(run)[-1]["failed"][0]["check"] == "reach"), "==", 1)
    service.restart()
    seen = _wait(LOOK_S, lambda: _told(run).get("failing") == 1)
    out.bar("seconds until /health tells of that", seen, "<=", LOOK_S)
    box.run("systemctl", "start", CANARY)
    box.run("systemctl", "start", TIMER)


def _wait_for_run(run: Run) -> float | None:
    """Seconds until a call of the timer was over; None: none was."""
    return _wait(
        FIRST_S, lambda: run.box.show(CANARY, "ExecMainExitTimestamp")["ExecMainExitTimestamp"] != ""
    )


def _status(run: Run) -> int:
    return int(run.box.show(CANARY, "ExecMainStatus")["ExecMainStatus"])


def _runs(run: Run) -> list[dict[str, Any]]:
    """What the canary wrote of its calls."""
    found: list[dict[str, Any]] = json.loads(run.box.run("cat", CANARY_FILE).stdout)["runs"]
    return found


def _told(run: Run) -> dict[str, Any]:
    """What the daemon tells of the canary."""
    return json.loads(run.service.fetch("/health")).get("canary") or {}


# ---------------------------------------------------------------- feed


def feed(run: Run) -> None:
    """Set up as in docs/operations.md: each event of each call arrives, whatever is killed meanwhile."""
    box, out, service = run.box, run.out, run.service
    box.run("relay", "feed", "secret", "/etc/relay/feed/lab")
    box.copy([ROOT / "tests/lab/hookend.py"], "/srv/end")
    hook = WebhookConfig(
        name="lab",
        url=f"http://127.0.0.1:{END_PORT}/hook",
        secret_file="/run/credentials/relay-feed.service/feed_lab",
    )
    service.configure(
        dataclasses.replace(
            service.config,
            events=EventsConfig(sink="socket", path="/run/relay-feed.sock"),
            feed=FeedConfig(webhooks=(hook,)),
        )
    )
    _start_end(run)
    box.run("systemctl", "enable", "--now", FEED_SOCKET, FEED)
    service.restart()
    calls = 1
    run.call("a call whose events are fed")
    out.bar("seconds until its end was told", _wait_for_ends(run, calls), "<=", ARRIVAL_S)
    # Nobody takes letters, and those who bring them are killed and started again, in a call and after it.
    box.run("systemctl", "stop", END)
    talk = service.talk(6.0)
    time.sleep(2.0)  # in the middle of it
    pid = int(service.properties(FEED)["MainPID"])
    service.signal("SIGKILL", FEED)
    service.wait_until_it_serves(FEED, after=pid)
    time.sleep(1.0)  # and once more before it ends
    box.run("systemctl", "restart", FEED)
    told = talk.outcome()
    out.bar("a call while the feed is killed and restarted", int(told["ok"]), "==", 1)
    time.sleep(1.0)  # its last events are synced
    pid = int(service.properties()["MainPID"])
    service.signal("SIGKILL")
    service.wait_until_it_serves(after=pid)
    run.call("a call after the daemon was killed")
    service.restart()
    run.call("a call after the daemon was restarted")
    calls += 3
    box.run("systemctl", "stop", FEED)
    back = _wait(ARRIVAL_S, lambda: service.properties(FEED)["ActiveState"] == "active")
    out.bar("stopped: seconds until the daemon starts it by its socket", back, "<=", 10)
    _start_end(run)
    out.bar("seconds until the end of all was told", _wait_for_ends(run, calls), "<=", ARRIVAL_S)
    _judge_letters(run, calls)
    run.try_sandbox("feed", ALLOWED_FEED, FEED, lambda: _restart_feed(run))
    service.drop_in(None, FEED)
    service.configure()
    service.restart()


def _start_end(run: Run) -> None:
    words = ("/usr/bin/python3", "/srv/end/hookend.py", str(END_PORT), "/etc/relay/feed/lab", LETTERS)
    run.box.run("systemd-run", "--quiet", "--collect", f"--unit={END}", *words)


def _restart_feed(run: Run) -> None:
    run.box.run("systemctl", "restart", FEED)
    run.service.wait_until_it_serves(FEED)


def _letters(run: Run) -> list[dict[str, Any]]:
    """What came to the end, in the order in which it came."""
    path = run.box.path(LETTERS)
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _wait_for_ends(run: Run, calls: int) -> float | None:
    """Seconds until so many calls were told to have ended."""

    def have_ended() -> bool:
        events = [letter["event"] for letter in _letters(run) if letter["signed"]]
        return len({event["data"]["call"] for event in events if event["kind"] == "call.ended"}) >= calls

    return _wait(ARRIVAL_S, have_ended)


def faults(letters: list[dict[str, Any]]) -> dict[str, int]:
    """How many letters are wrong, and how; what a bar of 0 judges."""
    events = [letter["event"] for letter in letters if letter["signed"]]
    numbers = list(_first(letters))
    return {
        "letters with a wrong signature": len(letters) - len(events),
        "events that never came": max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 1,
        "events out of their order": sum(a > b for a, b in itertools.pairwise(numbers)),
    }


def _first(letters: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Events by number, as they came for the first time: at least once is what the feed promises."""
    found: dict[int, dict[str, Any]] = {}
    for letter in letters:
        if letter["signed"]:
            found.setdefault(letter["event"]["seq"], letter["event"])
    return found


def _judge_letters(run: Run, calls: int) -> None:
    """None is missing, none is out of order or forged."""
    out, letters = run.out, _letters(run)
    for name, count in faults(letters).items():
        out.bar(name, count, "==", 0)
    events = _first(letters)
    for kind in ("call.ringing", "call.answered", "call.ended"):
        told = [event["data"]["call"] for event in events.values() if event["kind"] == kind]
        out.bar(f"{kind}: calls", len(set(told)), "==", calls)
        out.bar(f"{kind}: told twice", len(told) - len(set(told)), "==", 0)
    at = Config().feed.metrics
    settled = _wait(ARRIVAL_S, lambda: run.service.metrics(at)["relay_feed_waiting"] == 0)
    out.bar("seconds until no letter waits", settled, "<=", ARRIVAL_S)
    dead = run.service.metrics(at)["relay_feed_dead_letters"]
    out.bar("dead letters", dead, "==", 0)
    out.detail(letters=len(letters), events=len(events))
