"""Network namespaces, veth pairs, nft rules and processes of one lab, and their end.

    with Net() as net:
        box = net.namespace("box")
        net.join(home, "wan", box, "lan0"); net.nft(box, rules); net.spawn(box, [...])

All names carry a random suffix. Everything started is ended by its own id, every namespace removed, also on a
failure or a signal. No namespace has a way out: they meet each other and the lab's internet (internet.py).
Must never live here: what a NAT does (nats.py), what runs inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

TOOLS: Final = ("ip", "nft", "conntrack", "nsenter")
COMMAND_S: Final = 20.0
END_S: Final = 5.0
LONGEST_S: Final = 3600  # the grid takes a quarter of that
_PDEATHSIG: Final = 1
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Process = subprocess.Popen[bytes]


def refuse_unless_possible() -> None:
    """SystemExit with one line if this machine or user cannot have a lab."""
    if os.geteuid() != 0:
        raise SystemExit("the lab makes network namespaces: run it as root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: ./scripts/lab installs it on Debian")
    if not Path("/dev/net/tun").exists():
        raise SystemExit("/dev/net/tun is missing: the lab's internet needs TUN devices")


def limit_time(seconds: int = LONGEST_S) -> None:
    """From now on this process has so long; then it is interrupted and takes its lab down."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(seconds)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


class LabError(Exception):
    """A command of the lab failed; says which."""


class Net:
    """What was made, so that it can be unmade."""

    def __init__(self) -> None:
        self.suffix = secrets.token_hex(3)
        self._namespaces: list[str] = []
        self._processes: list[Process] = []
        self._signals: list[tuple[int, Any]] = []

    def __enter__(self) -> Net:
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._signals.append((number, signal.signal(number, _interrupt)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, remove all namespaces; a second signal does not stop that half-way."""
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in _ENDING]
        for process in reversed(self._processes):
            end(process)
        for name in reversed(self._namespaces):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=COMMAND_S)
        self._processes, self._namespaces = [], []
        for number, handler in (*before, *self._signals):  # those of before the lab last
            signal.signal(number, handler)
        self._signals = []

    def namespace(self, name: str) -> str:
        """A new one with a loopback that is up; its full name."""
        full = f"lab-{self.suffix}-{name}"
        _run(["ip", "netns", "add", full])
        self._namespaces.append(full)
        _run(["ip", "-n", full, "link", "set", "lo", "up"])
        return full

    def path(self, namespace: str) -> str:
        """The file that stands for the namespace."""
        return f"/run/netns/{namespace}"

    def ip(self, namespace: str, *lines: str) -> None:
        """Commands of `ip`, one a string, in the namespace."""
        _run(["ip", "-n", namespace, "-batch", "-"], "\n".join(lines) + "\n")

    def nft(self, namespace: str, rules: str) -> None:
        """Load a ruleset, all or nothing."""
        self.run(namespace, ["nft", "-f", "-"], rules)

    def join(self, one: str, device: str, other: str, other_device: str) -> None:
        """A veth pair between two namespaces, both ends up."""
        temporary = f"v{secrets.token_hex(5)}"  # unique here: the other end is born under its final name
        kind = ("type", "veth", "peer", "name", other_device, "netns", other)
        _run(["ip", "link", "add", temporary, "netns", one, *kind])
        self.ip(one, f"link set {temporary} name {device}", f"link set {device} up")
        self.ip(other, f"link set {other_device} up")

    def settings(self, namespace: str, **values: int) -> None:
        """sysctl below net., with "__" for the slashes."""
        script = "; ".join(f"echo {v} > /proc/sys/net/{k.replace('__', '/')}" for k, v in values.items())
        self.run(namespace, ["sh", "-ec", script])

    def run(
        self, namespace: str, command: Sequence[str], given: str = "", *, seconds: float = COMMAND_S
    ) -> str:
        """Run to its end; what it printed. LabError if it failed."""
        return _run([*_inside(namespace), *command], given, seconds)

    def spawn(self, namespace: str, command: Sequence[str], log: Path | None = None) -> Process:
        """Start a process that is ended with the lab; standard input and output are pipes unless logged."""
        out = log.open("ab") if log is not None else None
        process = subprocess.Popen(
            [*_inside(namespace), *command],
            stdin=subprocess.PIPE,
            stdout=out or subprocess.PIPE,
            stderr=out,
            env=environment(),
            preexec_fn=_die_with_parent,
        )
        if out is not None:
            out.close()
        self._processes.append(process)
        return process

    def leftovers(self) -> list[str]:
        """Namespaces of this lab that still exist."""
        listed = _run(["ip", "netns", "list"])
        return [line.split()[0] for line in listed.splitlines() if line.startswith(f"lab-{self.suffix}-")]


def end(process: Process, seconds: float = END_S) -> int:
    """Close its input, SIGTERM, then SIGKILL; the exit status."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return process.returncode


def python(module: str) -> list[str]:
    """A command that runs a module of ours."""
    return [sys.executable, "-m", module]


def environment() -> dict[str, str]:
    """Ours, in which processes find this package."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _inside(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(command: Sequence[str], given: str = "", seconds: float = COMMAND_S) -> str:
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=environment(),
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: no end within {seconds:g} s") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}\n{given}".rstrip())
    return done.stdout
