"""A Debian machine with a real systemd: a container of systemd-nspawn, an overlay of a cached root.

    root = debian(cache)                   # debootstrap, once
    with Box.boot(net, namespace, root) as box:
        box.run("systemctl", "start", "relay.socket"); box.copy(file, "/srv/file")

It lives in a network namespace of the lab and has no way out of it. Everything is ended by its own id and
unmounted, also on a failure. Must never live here: what is tested in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.topology import LabError, Net
from load.report import say

PACKAGES: Final = ("ca-certificates", "dbus", "iproute2", "procps", "python3", "python3-venv", "systemd-sysv")
SUITE: Final = "bookworm"
BUILD_S: Final = 900.0
BOOT_S: Final = 60.0
COMMAND_S: Final = 120.0
HALT_S: Final = 20.0
_SIGRTMIN_4: Final = signal.SIGRTMIN + 4  # power off (systemd(1))
# What IPAddressDeny= needs of the kernel, beyond what a container has anyway.
_ALLOWED: Final = (
    "--capability=CAP_BPF,CAP_SYS_ADMIN,CAP_NET_ADMIN",
    "--system-call-filter=bpf perf_event_open",
)
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


def debian(cache: Path) -> Path:
    """The root of a small Debian, made by debootstrap where it is not there yet."""
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    root = cache / f"debian-{key}"
    if (root / ".complete").exists():
        return root
    say(f"making a Debian {SUITE} by debootstrap (a minute, once) ...")
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob("debian-*"):
        shutil.rmtree(old)
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(root),
        _mirror(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode:
        raise LabError(f"debootstrap: {(done.stdout + done.stderr).strip()[-500:]}")
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    (root / ".complete").touch()
    return root


def _mirror() -> str:
    """Where this machine's apt gets its packages."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    found = [line for line in done.stdout.splitlines() if line.rstrip("/").endswith("/debian")]
    if not found:
        raise LabError("apt names no archive of Debian's to make the box from: see /etc/apt")
    return found[0]


@dataclass
class Box:
    """The booted machine."""

    root: Path
    boot_s: float
    _leader: int

    @classmethod
    @contextlib.contextmanager
    def boot(cls, net: Net, namespace: str, lower: Path) -> Iterator[Box]:
        """Boot it in this namespace; power it off and forget what it wrote at the end."""
        with tempfile.TemporaryDirectory(prefix="relay-box-") as name:
            folder = Path(name)
            root = folder / "root"
            for each in ("root", "upper", "work"):
                (folder / each).mkdir()
            layers = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
            _host(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)])
            try:
                with _machine(net, namespace, root) as process:
                    began = time.monotonic()
                    box = cls(root, 0.0, _leader(process))
                    box._wait_for_manager()
                    box.boot_s = time.monotonic() - began
                    yield box
            finally:
                _host(["umount", str(root)])

    def _wait_for_manager(self) -> None:
        state = ""
        until = time.monotonic() + BOOT_S
        while time.monotonic() < until:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return
            time.sleep(0.1)
        jobs = self.run("systemctl", "list-jobs", "--no-pager", check=False)
        console = (self.root.parent / "console.log").read_text(errors="replace")[-500:]
        raise LabError(f"not up within {BOOT_S:g} s: {state!r}\n{jobs.stdout}{jobs.stderr}{console}")

    def inside(self, *command: str) -> list[str]:
        """The command as one of this machine, to be run in the box."""
        settings = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
        return ["nsenter", "-t", str(self._leader), "-a", "--", "env", "-i", *settings, *command]

    def run(
        self, *command: str, check: bool = True, seconds: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end. LabError if it took longer, or with `check` if it failed."""
        try:
            done = subprocess.run(
                self.inside(*command), capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(command)}: no end within {seconds:g} s") from None
        if check and done.returncode:
            raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done

    def path(self, inside: str) -> Path:
        """A file of the box as this machine sees it. Not below /tmp, /run, /dev, /proc: those are mounts."""
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """A file with this text, and its folders."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def copy(self, sources: Sequence[Path], inside: str) -> None:
        """Files and folders into a folder of the box."""
        target = self.path(inside)
        target.mkdir(parents=True, exist_ok=True)
        skip = shutil.ignore_patterns("__pycache__", "target", "_lane*.so")
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, target / source.name, ignore=skip)
            else:
                shutil.copy2(source, target / source.name)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, by name."""
        told = self.run("systemctl", "show", unit, "-p", ",".join(properties)).stdout
        return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)

    def journal(self, unit: str, since: float = 0.0) -> list[str]:
        """Lines that the unit wrote since then (seconds, wall clock)."""
        words = ("journalctl", "-u", unit, "-o", "cat", "--no-pager", f"--since=@{since:.6f}")
        return self.run(*words).stdout.splitlines()


@contextlib.contextmanager
def _machine(net: Net, namespace: str, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """systemd-nspawn; powered off at the end, and killed if it does not."""
    command = [
        "systemd-nspawn",
        "--quiet",
        "--keep-unit",
        "--register=no",
        "--boot",
        f"--directory={root}",
        f"--machine=lab-{net.suffix}",
        "--console=pipe",
        "--link-journal=no",
        f"--network-namespace-path={net.path(namespace)}",
        *_ALLOWED,
    ]
    environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    log = root.parent / "console.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(LabError, ProcessLookupError):
            os.kill(_leader(process, wait_s=0.1), _SIGRTMIN_4)
        try:
            process.wait(HALT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(HALT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _leader(process: subprocess.Popen[bytes], wait_s: float = 10.0) -> int:
    """The container's first process, as this machine numbers it."""
    until = time.monotonic() + wait_s
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        if process.poll() is not None:
            raise LabError(f"systemd-nspawn ended with {process.returncode}")
        for child in children.read_text().split():
            if _is_first(child):  # the other is nspawn's own, gone in a moment
                return int(child)
        if time.monotonic() > until:
            raise LabError("systemd-nspawn started nothing")
        time.sleep(0.02)


def _is_first(pid: str) -> bool:
    """It is number 1 in a namespace of its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    [line] = [line for line in status.splitlines() if line.startswith("NSpid:")]
    numbers = line.split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"


def _host(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
