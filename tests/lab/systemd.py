"""`./scripts/lab systemd`: relay as a service under a real systemd, from its installation to its removal.

The machine is a Debian 12 in a container of systemd-nspawn (box.py), with no way out but to the callers'
namespace. Every stage leaves the service as it found it. Must never live here: how things are done in the box
(service.py), how the box is made, the units beside the daemon's (companions.py).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lab import companions, topology
from lab.box import Box, debian
from lab.boxrun import HEARD, ROOT, Run
from lab.service import BOX, PEER, UNIT, Service
from lab.topology import LabError, Net, end
from load import report
from load.report import Report, say
from relay.config_qlog import QlogConfig

CACHE: Final = ROOT / ".cache/lab"
LONGEST_S: Final = 1800
SOURCES: Final = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "config", "docs", "pyproject.toml")
TOOLS: Final = ("systemd-nspawn", "debootstrap", "nsenter", "ip", "nft")
QUIC_ONLY, WITH_TURN = 0.6, 1.2
FEED_EXPOSURE, CANARY_EXPOSURE = 1.2, 1.2  # they have the host's network
READY_MS, IDLE_MIB, BACK_S = 500.0, 80.0, 10.0
KEPT: Final = 50  # packets that wait while nobody serves
INSTANCE: Final = "8443"
# What the sandbox allows; all else that sandbox.py tries it must refuse.
ALLOWED: Final = frozenset(
    (
        "write its state",
        "write the daemon's state",
        "write its runtime folder",
        "write a /tmp of its own",
        "read its configuration",
        "socket AF_UNIX",
    )
)
ALLOWED_WITH_TURN: Final = ALLOWED | {
    "socket AF_INET",
    "socket AF_INET6",
    "network beyond loopback",
    f"UDP to {PEER}",
}
# Folders of the box in which an installation may leave something, and what others write there.
WATCHED: Final = ("etc", "opt", "usr", "var/lib")
OTHERS: Final = re.compile(
    r"__pycache__|^var/lib/(systemd|dpkg|apt|private$)|^etc/(group|gshadow|passwd|shadow|subuid|subgid)-?$"
    r"|^etc/\.pwd\.lock$|^etc/(machine-id|resolv\.conf|localtime|hostname)|^etc/systemd/system/lab|^usr/local/bin$"
)


# ---------------------------------------------------------------- stages


def install(run: Run) -> None:
    """Onto a bare machine, without a certificate first; then whole; then once more."""
    box, out = run.box, run.out
    out.bar("--help", run.install("--help").returncode, "==", 0)
    out.bar("an unknown option", run.install("--nonsense").returncode, "==", 2)
    began = time.monotonic()
    first = run.install("--wheels", "/srv/wheels")
    out.detail(install_s=round(time.monotonic() - began, 1))
    out.bar("installed without a certificate", first.returncode, "==", 0)
    out.bar("lines that say why it is not started", int("not started: tls" in first.stderr), "==", 1)
    run.service.certify()
    run.service.configure()
    began = time.monotonic()
    second = run.install("--wheels", "/srv/wheels", "--no-start")
    out.bar("installed again", second.returncode, "==", 0)
    out.bar("seconds of a second installation", time.monotonic() - began, "<=", 10, is_speed=True)
    for done in (first, second):
        if done.returncode:
            raise LabError(f"scripts/install: {done.stderr.strip()[-1500:]}")
    version = box.run("relay", "--version").stdout.split()[-1]
    out.bar("other versions left", len(list(box.path("/opt/relay/versions").iterdir())) - 1, "==", 0)
    out.detail(installed=version)


def verify(run: Run) -> None:
    """systemd's own opinion of the units, as installed."""
    box, out = run.box, run.out
    names = sorted(path.name.replace("@.", f"@{INSTANCE}.") for path in (ROOT / "systemd").iterdir())
    units = [f"/etc/systemd/system/{name}" for name in names if not name.endswith(".conf")]
    done = box.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    complaints = [line for line in (done.stderr + done.stdout).splitlines() if line]
    out.bar("complaints of systemd-analyze verify", len(complaints) + done.returncode, "==", 0)
    out.detail(verify=complaints)
    installed = box.path("/etc/systemd/system")
    service, feed, canary = (
        (installed / f"relay{part}.service").read_text() for part in ("", "-feed", "-canary")
    )
    turn = (ROOT / "systemd/relay-turn.conf").read_text()
    for name, text, bound in (
        ("QUIC only", service, QUIC_ONLY),
        ("with TURN", service + turn, WITH_TURN),
        ("feed", feed, FEED_EXPOSURE),
        ("canary", canary, CANARY_EXPOSURE),
    ):
        box.write("/srv/analyze/relay.service", text)
        done = box.run("systemd-analyze", "security", "--offline=true", "/srv/analyze/relay.service")
        found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
        out.bar(f"exposure, {name}", float(found[1]) if found else None, "<=", bound)


def serve(run: Run) -> None:
    """Started by a packet; a call by QUIC, one by TCP; how soon it is ready, how much it takes."""
    box, out, service = run.box, run.out, run.service
    out.bar("serving before its socket", int(service.properties()["MainPID"] != "0"), "==", 0)
    service.start_by_socket()
    ready, resident = [], []
    for _ in range(3 if run.is_quick else 7):
        found = service.restart()
        began, served = (int(found[f"{name}TimestampMonotonic"]) for name in ("ExecMainStart", "ActiveEnter"))
        ready.append((served - began) / 1000)
        time.sleep(1.5)  # what a start leaves behind is tidied up
        resident.append(service.resident_mib())
    out.detail(ready_ms=[round(each) for each in ready], idle_mib=[round(each, 1) for each in resident])
    out.bar("exec to READY, ms, median", statistics.median(ready), "<=", READY_MS, is_speed=True)
    out.bar("idle daemon, MiB, most", max(resident), "<=", IDLE_MIB)
    run.call("a call by QUIC")
    run.call("a call by WebSocket", url=f"wss://{BOX}:443/vrl/1")
    told = service.properties()["StatusText"]
    out.bar(
        "status line names state and packet path",
        int(bool(re.match(r"running; \d+ calls, \d+ legs; packet path native", told))),
        "==",
        1,
    )
    done = box.run("relay", "status", "--json", check=False)
    out.bar("relay status in the box", done.returncode, "==", 0)
    out.bar("packets out of balance", service.metrics()["relay_imbalance"], "==", 0)


def watch(run: Run) -> None:
    """The watchdog: a hung loop is replaced in time; a healthy, a busy one never."""
    box, out, service = run.box, run.out, run.service
    box.copy([ROOT / "tests/lab/hang.py"], "/srv/hang")
    box.path("/srv/hang/hang.py").rename(box.path("/srv/hang/sitecustomize.py"))
    service.drop_in("[Service]\nEnvironment=PYTHONPATH=/srv/hang\n")
    service.restart()
    kinds = ["SIGUSR1"] if run.is_quick else ["SIGUSR1", "SIGRTMIN", "SIGSTOP"]
    names = {"SIGUSR1": "that sleeps", "SIGRTMIN": "that computes", "SIGSTOP": "of a stopped process"}
    for kind in kinds:
        time.sleep(2)  # it was fed, and not just started
        began, wall = time.monotonic(), time.time()
        out.bar(
            f"a loop {names[kind]}: seconds to READY",
            _back_s(service, began, functools.partial(service.signal, kind)),
            "<=",
            BACK_S,
        )
        if kind != "SIGSTOP":
            told = [
                line
                for line in box.journal(UNIT, wall)
                if "hang/sitecustomize.py" in line or "sitecustomize" in line
            ]
            out.bar(f"a loop {names[kind]}: lines that name where", len(told), ">=", 1)
    before = int(service.properties()["NRestarts"])
    talk = service.talk(20.0)
    time.sleep(1.5)
    service.signal("SIGUSR2")
    hogs = [service.hog() for _ in range(2 * (os.cpu_count() or 1))]
    flood = service.flood(443, 5_000, 15.0)
    told = talk.outcome()
    for each in (*hogs, flood):
        end(each)
    out.bar("restarts while busy for 20 s", int(service.properties()["NRestarts"]) - before, "==", 0)
    out.bar("the call beside that", int(told["ok"]), "==", 1)
    out.detail(heard_while_busy=told["share"])
    service.drop_in(None)
    service.restart()
    if not run.is_quick:
        service.signal("SIGSTOP")
        time.sleep(5)
        service.signal("SIGCONT")
        time.sleep(2)
        out.bar("restarts after 5 s of being stopped", int(service.properties()["NRestarts"]), "==", 0)
    seconds = 12.0 if run.is_quick else 60.0
    say(f"  nothing happens for {seconds:g} s ...")
    time.sleep(seconds)
    out.bar(f"restarts in {seconds:g} s of peace", int(service.properties()["NRestarts"]), "==", 0)
    _lose_probes(run)


def _lose_probes(run: Run) -> None:
    """A packet path that brings nothing back, although the loop is well: the firewall plays it."""
    service, out = run.service, run.out
    rules = (f"iifname lo udp dport {port} drop\n" for port in (443, 3478))
    drop = f"table inet lab {{\nchain in {{\ntype filter hook input priority 0;\n{''.join(rules)}}}\n}}\n"
    began = time.monotonic()
    back = _back_s(service, began, lambda: run.net.nft(run.namespace, drop))
    out.bar("a lane that brings nothing back: seconds to READY", back, "<=", BACK_S)
    before = int(service.properties()["NRestarts"])
    time.sleep(12)
    out.bar(
        "restarts where no packet to ourselves ever passes",
        int(service.properties()["NRestarts"]) - before,
        "==",
        0,
    )
    run.net.nft(run.namespace, "delete table inet lab\n")
    service.restart()


def _back_s(service: Service, began: float, harm: Callable[[], object]) -> float | None:
    """Seconds from `began` until another process is READY; None: not within twice the bound."""
    pid = int(service.properties()["MainPID"])
    harm()
    until = began + 2 * BACK_S
    while time.monotonic() < until:
        found = service.properties()
        if found["ActiveState"] == "active" and int(found["MainPID"]) not in (0, pid):
            return int(found["ActiveEnterTimestampMonotonic"]) / 1e6 - began
        time.sleep(0.05)
    service.signal("SIGKILL")
    service.wait_until_it_serves()
    return None


def reload(run: Run) -> None:
    """In the middle of a call: a good file is taken, a broken one refused in one line."""
    box, out, service = run.box, run.out, run.service
    pid = service.properties()["MainPID"]
    talk = service.talk(6.0)
    time.sleep(1.5)
    good = dataclasses.replace(service.config, limits=dataclasses.replace(service.config.limits, ring_s=30.0))
    service.configure(good)
    began = time.time()
    out.bar("reload of a good file", box.run("systemctl", "reload", UNIT, check=False).returncode, "==", 0)
    out.bar("lines that say so", _lines(box, began, "reloaded"), "==", 1)
    path = box.path("/etc/relay/relay.toml")
    path.write_text(path.read_text().replace("ring_s = 30.0", "rings = 30.0"))
    began = time.time()
    done = box.run("systemctl", "reload", UNIT, check=False)
    out.bar("reload of a broken file fails", int(done.returncode != 0), "==", 1)
    out.bar("lines that say why", _lines(box, began, "limits.rings"), "==", 1)
    began = time.time()
    service.signal("SIGHUP")
    time.sleep(0.5)
    out.bar("the daemon's own refusal, lines", _lines(box, began, "reload refused: limits.rings"), "==", 1)
    found = service.properties()
    out.bar(
        "the status tells of it", int("last reload refused: limits.rings" in found["StatusText"]), "==", 1
    )
    out.bar(
        "still active, the same process",
        int((found["ActiveState"], found["MainPID"]) == ("active", pid)),
        "==",
        1,
    )
    service.configure()
    box.run("systemctl", "reload", UNIT)
    told = talk.outcome()
    out.bar(
        "the call beside all that: share of speech heard", told["share"] if told["ok"] else None, ">=", HEARD
    )
    found = service.properties()
    out.bar("the status is clean again", int("refused" in found["StatusText"]), "==", 0)


def _lines(box: Box, since: float, text: str) -> int:
    return sum(text in line for line in box.journal(UNIT, since))


def keep(run: Run) -> None:
    """Packets that come while nobody serves wait: in sockets of the socket unit, and in stored ones."""
    box, out, service = run.box, run.out, run.service
    pause = "[Service]\nRestartSec=1500ms\n"
    service.drop_in(pause)
    service.restart()
    out.bar("packets lost over a kill, sockets of a unit", KEPT - _received_after_kill(service, 443), "<=", 0)
    # The daemon makes its own: TURN's drop-in gives it a network, and no unit hands UDP over.
    service.drop_in("[Socket]\nListenDatagram=\nListenStream=[::]:443\n", "relay.socket")
    install = run.install("--wheels", "/srv/wheels", "--turn", "--no-start")
    listen = dataclasses.replace(service.config.listen, udp=("[::]:4443",))
    service.configure(dataclasses.replace(service.config, listen=listen))
    found = service.restart()
    out.bar("installed with --turn", install.returncode, "==", 0)
    out.bar("descriptors in the manager's store", int(found["NFileDescriptorStore"]), ">=", 1)
    run.call("a call by a socket of its own", url=f"quic://{BOX}:4443")
    wall = time.time()
    out.bar("packets lost over a kill, stored sockets", KEPT - _received_after_kill(service, 4443), "<=", 0)
    out.bar("stored sockets taken up", _lines(box, wall, '"kept_sockets": 1'), "==", 1)
    run.call("a call by a stored socket", url=f"quic://{BOX}:4443")
    run.try_sandbox("with TURN", ALLOWED_WITH_TURN)
    service.drop_in(None, "relay.socket")
    service.drop_in(None)
    service.configure()
    run.install("--wheels", "/srv/wheels", "--no-start")
    service.restart()


def _received_after_kill(service: Service, port: int) -> int:
    """Kill it, send while nobody serves, and ask the next process what it received."""
    pid = int(service.properties()["MainPID"])
    service.signal("SIGKILL")
    service.poke(port, KEPT)
    service.wait_until_it_serves(after=pid)
    time.sleep(0.5)
    received = service.metrics()
    return int(received["relay_udp_dropped_total"])


def harden(run: Run) -> None:
    """Tried from inside: what the sandbox refuses, and that the daemon works in it."""
    run.try_sandbox("QUIC only", ALLOWED)
    run.service.drop_in(None)
    run.service.restart()


def multiply(run: Run) -> None:
    """One more daemon on the same machine, by its own port. It stays: `remove` has to find it."""
    box, out, service = run.box, run.out, run.service
    traced = dataclasses.replace(service.config, qlog=QlogConfig(share=1.0))
    service.configure(traced, path=f"/etc/relay/{INSTANCE}.toml")
    box.run("relay", "token", "keygen", "--cluster", f"/etc/relay/{INSTANCE}.key")
    sockets = (f"relay@{INSTANCE}.socket", f"relay-metrics@{INSTANCE}.socket")
    unit = f"relay@{INSTANCE}.service"
    box.run("systemctl", "start", *sockets)
    service.poke(int(INSTANCE), 1)
    service.wait_until_it_serves(unit)
    run.call("a call by an instance", url=f"quic://{BOX}:{INSTANCE}")
    state = f"/var/lib/private/relay-{INSTANCE}/records.sqlite"
    out.bar("records of its own", int(box.path(state).exists()), "==", 1)
    qlogs = list(box.path(f"/var/lib/private/relay-{INSTANCE}/qlog").glob("*.sqlog"))
    out.bar("qlogs of its own, one for each leg", len(qlogs), "==", 2)
    out.bar("reload of an instance", box.run("systemctl", "reload", unit, check=False).returncode, "==", 0)
    out.bar("the first daemon beside it", int(service.properties()["ActiveState"] == "active"), "==", 1)
    box.run("systemctl", "enable", *sockets)


def remove(run: Run) -> None:
    """Stopped and gone; configuration stays until it is purged; nothing is left then."""
    box, out = run.box, run.out
    removed = run.install("--remove")
    out.bar("removed", removed.returncode, "==", 0)
    alive = box.run("pgrep", "-f", "relay serve", check=False).stdout.split()
    out.bar("processes left", len(alive), "==", 0)
    units = box.run("systemctl", "list-units", "--all", "--no-legend", "relay*").stdout.splitlines()
    out.bar("units left", len(units), "==", 0)
    out.bar("configuration kept", int(box.path("/etc/relay/relay.toml").exists()), "==", 1)
    out.bar("removed again", run.install("--remove").returncode, "==", 0)
    out.bar("purged", run.install("--remove", "--purge").returncode, "==", 0)
    left = _left(box)
    out.bar("files left", len(left), "==", 0)
    out.detail(left=left[:20])


def _left(box: Box) -> list[str]:
    """What stands in the box's own layer, where a program is installed, and is nobody else's."""
    upper = box.root.parent / "upper"
    found = []
    for folder in WATCHED:
        for path in (upper / folder).rglob("*"):
            name = str(path.relative_to(upper))
            is_gone = path.is_char_device()  # what an overlay puts where something was removed
            if not is_gone and not OTHERS.search(name) and not (path.is_dir() and not path.is_symlink()):
                found.append(name)
    return sorted(found)


def package(run: Run) -> None:
    """The same by Debian's package."""
    box, out, service = run.box, run.out, run.service
    [deb] = run.release.glob("*.deb")
    box.copy([deb], "/srv/deb")
    done = box.run("dpkg", "-i", f"/srv/deb/{deb.name}", check=False)
    out.bar("package installed", done.returncode, "==", 0)
    service.certify()
    service.configure()
    service.restart()
    run.call("a call by the package")
    out.bar(
        "files changed since",
        len(box.run("dpkg", "-V", "vrelay", check=False).stdout.splitlines()) - 1,
        "==",
        0,
    )
    out.bar("package removed", box.run("dpkg", "-r", "vrelay", check=False).returncode, "==", 0)
    out.bar("package purged", box.run("dpkg", "-P", "vrelay", check=False).returncode, "==", 0)
    left = _left(box)
    out.bar("files left by the package", len(left), "==", 0)
    out.detail(left_by_package=left[:20])


STAGES: Final[dict[str, Callable[[Run], None]]] = {
    "install": install,
    "verify": verify,
    "serve": serve,
    "watch": watch,
    "reload": reload,
    "keep": keep,
    "harden": harden,
    "canary": companions.canary,
    "feed": companions.feed,
    "multiply": multiply,
    "remove": remove,
    "package": package,
}


# ---------------------------------------------------------------- before and after


def built(out: Report) -> Path:
    """What scripts/release gives away, of this tree."""
    folder = CACHE / "release"
    say("building what is installed (scripts/release --once) ...")
    command = [str(ROOT / "scripts/release"), "--once", "--json", "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=900, check=False)
    if done.returncode:
        raise LabError("scripts/release failed, see above")
    out.detail(release=json.loads(done.stdout)["wheel"])
    return folder


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("systemd", __doc__)
    parser.add_argument("--stages", metavar="A,B", help=f"only these, after install: {','.join(STAGES)}")
    given = parser.parse_args()
    chosen = given.stages.split(",") if given.stages else list(STAGES)
    if unknown := sorted(set(chosen) - set(STAGES)):
        parser.error(f"no such stage: {', '.join(unknown)}")
    if os.geteuid() != 0:
        raise SystemExit("the lab boots a container: run it as root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: ./scripts/lab installs it on Debian")
    topology.limit_time(LONGEST_S)
    out = Report("systemd", seed=given.seed, quick=given.quick)
    with tempfile.TemporaryDirectory(prefix="relay-lab-") as name, Net() as net:
        release, lower = built(out), debian(CACHE)
        namespace, peer = net.namespace("box"), net.namespace("peer")
        net.join(namespace, "out", peer, "in")
        net.ip(namespace, f"addr add {BOX}/24 dev out", f"route add default via {PEER}")
        net.ip(peer, f"addr add {PEER}/24 dev in")
        with Box.boot(net, namespace, lower) as box:
            out.detail(
                machine="systemd-nspawn, Debian 12, "
                + box.run("systemctl", "--version").stdout.split("\n")[0]
            )
            out.detail(boot_s=round(box.boot_s, 1))
            box.copy(
                [ROOT / each for each in (*SOURCES, "requirements.lock", "scripts", "systemd")], "/srv/relay"
            )
            box.copy(sorted((release / "wheels").glob("*.whl")), "/srv/wheels")
            run = Run(box, Service(net, box, peer, Path(name)), net, namespace, out, release, given.quick)
            _go_through(run, chosen)
    out.detail(namespaces_left=net.leftovers())
    return out.finish(as_json=given.json)


def _go_through(run: Run, chosen: list[str]) -> None:
    for name, stage in STAGES.items():
        if name not in chosen and name != "install":
            continue
        say(f"{name} ...")
        if name not in ("install", "verify", "serve", "package") and "serve" not in chosen:
            run.service.restart()
        try:
            stage(run)
        except LabError as error:
            run.out.bar(f"{name}: a stage that broke off", 1, "==", 0)
            say(f"    {error}")
            journal = run.box.run("journalctl", "-n", "60", "-o", "cat", "--no-pager", check=False).stdout
            run.out.detail(**{f"broke {name}": str(error)[-2000:], "journal": journal.splitlines()})
            return


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        say(f"lab systemd: {error}")
        sys.exit(1)
