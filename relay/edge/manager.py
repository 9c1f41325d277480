"""The service manager's side of a daemon: ready, watchdog, inherited sockets (sd_notify(3)).

Must never live here: knowledge of what the sockets are for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

FIRST_FD = 3


def notify(*lines: str, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Tell the service manager ("READY=1", "STATUS=..."). False when there is none to tell."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval(environ: MutableMapping[str, str] = os.environ) -> float | None:
    """How often to send WATCHDOG=1, seconds: half of what the manager allows. None: it does not watch."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 2e6


def inherited(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Sockets handed over by the manager, by their FileDescriptorName; the variables are taken away."""
    count = environ.pop("LISTEN_FDS", "")
    owner = environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    if owner != str(os.getpid()) or not count.isdigit():
        return found
    for offset in range(int(count)):
        descriptor = FIRST_FD + offset
        os.set_inheritable(descriptor, False)
        name = names[offset] if offset < len(names) else "unknown"
        found.setdefault(name, []).append(socket.socket(fileno=descriptor))
    return found
