"""A service manager for tests and labs: starts a daemon, keeps the descriptors it is given, starts it again.

What systemd does for `Type=notify` with a descriptor store (sd_notify(3), sd_listen_fds(3)), for one service
that a test may kill. Must never live here: what the service is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_PLACE = """
import fcntl, json, os, sys
fds = json.loads(sys.argv[1])
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 3 + 2 * len(fds)) for fd in fds]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place, inheritable=True)
os.closerange(3 + len(fds), 4096)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Supervisor:
    """One service, run by `command`; its output goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = list(command)
        """What `start` runs; another one may stand here the next time."""
        self._log = log.open("ab")
        self._folder = tempfile.TemporaryDirectory(prefix="relay-manager-")
        path = str(Path(self._folder.name) / "notify")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(path)
        self._environment = {**os.environ, "NOTIFY_SOCKET": path, "PYTHONUNBUFFERED": "1"}
        self._ready = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._stored: list[tuple[str, int]] = []
        self.proofs = 0
        """How often the service proved to its watchdog that it works."""
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the service that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the service has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended, as `Popen.returncode`; None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def stored(self) -> list[str]:
        """Names of what is kept."""
        return [name for name, _ in self._stored]

    def start(self, timeout: float = 20.0) -> float:
        """Start it with what is kept; seconds from then to READY=1. TimeoutError."""
        self._ready.clear()
        environment = dict(self._environment)
        fds = [fd for _, fd in self._stored]
        command = self.command
        if fds:
            environment |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(self.stored)}
            command = [sys.executable, "-S", "-c", _PLACE, str(fds), *command]
        began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            pass_fds=fds,
        )
        if not self._ready.wait(timeout):
            raise TimeoutError(f"the service is not ready:\n{Path(self._log.name).read_text()[-2000:]}")
        return time.monotonic() - began

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait()

    def close(self) -> None:
        """End it, and let go of everything."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for _, fd in self._stored:
            os.close(fd)
        self._stored.clear()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._log.close()
        self._folder.cleanup()

    def _listen(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, 4096, 64)
            except OSError:
                return
            if not data:
                return
            self._on_notice(data.decode().splitlines(), fds)

    def _on_notice(self, lines: list[str], fds: list[int]) -> None:
        names = [line.partition("=")[2] for line in lines if line.startswith("FDNAME=")]
        name = names[0] if names else "stored"
        if "FDSTOREREMOVE=1" in lines:
            for _, fd in [one for one in self._stored if one[0] == name]:
                os.close(fd)
            self._stored = [one for one in self._stored if one[0] != name]
        if "FDSTORE=1" in lines:
            self._stored += [(name, fd) for fd in fds]
        self.proofs += "WATCHDOG=1" in lines
        if "READY=1" in lines:
            self._ready.set()
