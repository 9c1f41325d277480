"""The service manager's side of a daemon: notes, watchdog, descriptors handed over or kept (sd_notify(3)).

    notify      "READY=1", "STATUS=..." and the like
    inherited   what stands open from the start: sockets of socket units, and what `store` kept, by name
    store       the manager keeps copies of descriptors over a restart of this service, also over a crash

The store belongs to one unit and is empty again once the unit is stopped for good. Must never live here:
knowledge of what the descriptors are for.
"""

from __future__ import annotations

import functools
import os
import socket
import stat
from array import array
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field

FIRST_FD = 3


@dataclass(frozen=True, slots=True)
class Handed:
    """Descriptors that came with the process, by the name they were given. Who takes none must `close`."""

    sockets: dict[str, list[socket.socket]] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    """What is no socket: memory files, for example."""

    def take(self, name: str) -> list[socket.socket]:
        """The sockets of this name, which are the caller's from now on."""
        return self.sockets.pop(name, [])

    def take_numbered(self, prefix: str) -> dict[str, list[socket.socket]]:
        """As `take`, of all names that are `prefix` and a number, in order of it: by name."""
        found = [name for name in self.sockets if name.startswith(prefix) and name[len(prefix) :].isdecimal()]
        return {name: self.take(name) for name in sorted(found, key=lambda name: int(name[len(prefix) :]))}

    def take_files(self, name: str) -> list[int]:
        """The other descriptors of this name, which are the caller's from now on."""
        return self.files.pop(name, [])

    def close(self) -> list[str]:
        """Close what nobody took; its names."""
        names = sorted({*self.sockets, *self.files})
        for sockets in self.sockets.values():
            for sock in sockets:
                sock.close()
        for files in self.files.values():
            for descriptor in files:
                os.close(descriptor)
        self.sockets.clear()
        self.files.clear()
        return names


def notify(*lines: str, fds: Sequence[int] = (), environ: MutableMapping[str, str] = os.environ) -> bool:
    """Tell the service manager ("READY=1", "STATUS=..."). False when there is none to tell."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        _wire().sendmsg(["\n".join(lines).encode()], _rights(fds), 0, address)
    except OSError:
        return False
    return True


@functools.cache
def _wire() -> socket.socket:
    """Made once and kept: the manager must hear that we live also where no descriptor is left. OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)  # a manager that does not read must never hold the daemon up
    return sock


def _rights(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Descriptors as a datagram's ancillary data; none where there are none."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds).tobytes())] if fds else []


def store(name: str, fds: Iterable[int], environ: MutableMapping[str, str] = os.environ) -> bool:
    """Keep copies of these under `name` (ASCII, no colon) instead of those kept under it before.

    They come back by `inherited` after a restart. False: there is nobody to keep them.
    """
    kept = list(fds)
    told = notify("FDSTOREREMOVE=1", f"FDNAME={name}", environ=environ)
    if not told or not kept:
        return told
    # Without FDPOLL=0 the manager lets go of a socket that has an error to report, as UDP has after ICMP.
    return notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=kept, environ=environ)


def watchdog_interval(environ: MutableMapping[str, str] = os.environ) -> float | None:
    """How often to send WATCHDOG=1, seconds: half of what the manager allows. None: it does not watch."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 2e6


def inherited(environ: MutableMapping[str, str] = os.environ) -> Handed:
    """What the manager handed over, by FileDescriptorName or stored name; the variables are taken away."""
    count = environ.pop("LISTEN_FDS", "")
    owner = environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    found = Handed()
    if owner != str(os.getpid()) or not count.isdigit():
        return found
    for offset in range(int(count)):
        descriptor = FIRST_FD + offset
        os.set_inheritable(descriptor, False)
        name = names[offset] if offset < len(names) else "unknown"
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            found.sockets.setdefault(name, []).append(socket.socket(fileno=descriptor))
        else:
            found.files.setdefault(name, []).append(descriptor)
    return found
