"""Tries, from inside a service, what its sandbox must refuse and what it must allow; one line of JSON.

A file for the interpreter of the box, which has nothing of ours: standard library only. The service runs it
beside itself (ExecStartPost), so that it stands under the very same rules. Must never live here: judgements.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def call(name: str, *arguments: Any) -> int:
    """A function of the C library; OSError as it says."""
    if (result := getattr(LIBC, name)(*arguments)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def write(path: str) -> None:
    """Make a file there."""
    Path(path).write_text("here")


def executable_memory() -> None:
    """Memory that is written and run, as injected code needs it."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def listed(path: str) -> None:
    """Something stands in the folder."""
    if not os.listdir(path):
        raise FileNotFoundError(errno.ENOENT, "nothing there")


def other_processes() -> None:
    """Somebody else's process can be seen."""
    mine = {str(os.getpid()), str(os.getppid())}
    if not any(
        name.isdigit() and name not in mine and os.stat(f"/proc/{name}").st_uid != os.getuid()
        for name in os.listdir("/proc")
    ):
        raise FileNotFoundError(errno.ENOENT, "nobody else to be seen")


def interfaces() -> None:
    """There is a network beyond loopback."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    if {line.partition(":")[0].strip() for line in lines} <= {"lo"}:
        raise OSError(errno.ENETUNREACH, "loopback alone")


def udp_to(host: str) -> None:
    """Send a packet from a socket made here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (host, 9))


def sticky(path: str) -> None:
    """A set-user-id file of ours."""
    write(path)
    os.chmod(path, 0o4755)


def open_socket(family: int, kind: int = socket.SOCK_DGRAM) -> Callable[[], None]:
    """A fresh socket of this family."""
    return lambda: socket.socket(family, kind).close()


STATE = os.environ.get("STATE_DIRECTORY", "/nowhere")
RUNTIME = os.environ.get("RUNTIME_DIRECTORY", "/nowhere")
TRIES: dict[str, Callable[[], Any]] = {
    "read /home/somebody/letter": lambda: Path("/home/somebody/letter").read_text(),
    "read /root/letter": lambda: Path("/root/letter").read_text(),
    "read /etc/relay/relay.key": lambda: Path("/etc/relay/relay.key").read_text(),
    "write /etc": lambda: write("/etc/made-by-relay"),
    "write /usr": lambda: write("/usr/made-by-relay"),
    "write /opt/relay": lambda: write("/opt/relay/made-by-relay"),
    "write /var/lib": lambda: write("/var/lib/made-by-relay"),
    "write /srv/open": lambda: write("/srv/open/made-by-relay"),
    "write /dev/shm": lambda: write("/dev/shm/made-by-relay"),
    "write /proc/sys": lambda: Path("/proc/sys/kernel/hostname").write_text("mine"),
    "write /sys": lambda: write("/sys/fs/cgroup/made-by-relay"),
    "socket AF_INET": open_socket(socket.AF_INET),
    "socket AF_INET6": open_socket(socket.AF_INET6),
    "socket AF_NETLINK": open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "socket AF_PACKET": open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "socket AF_VSOCK": open_socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "socket AF_ALG": open_socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
    "network beyond loopback": interfaces,
    "UDP to 198.51.100.2": lambda: udp_to("198.51.100.2"),
    "UDP to 10.1.2.3": lambda: udp_to("10.1.2.3"),
    "UDP to 127.0.0.1": lambda: udp_to("127.0.0.1"),
    "memory to write and run": executable_memory,
    "a user namespace": lambda: call("unshare", CLONE_NEWUSER),
    "a network namespace": lambda: call("unshare", CLONE_NEWNET),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "become root": lambda: os.setuid(0),
    "real-time scheduling": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "a set-user-id file": lambda: sticky(os.path.join(STATE, "sticky")),
    "another personality": lambda: call("personality", 0x0040000),
    "trace the parent": lambda: call("ptrace", 16, os.getppid(), None, None),
    "the kernel's log": lambda: open("/dev/kmsg", "rb").close(),
    "disks": lambda: listed("/dev/block"),
    "see other processes": other_processes,
    "set the clock": lambda: call("settimeofday", ctypes.byref((ctypes.c_long * 2)(0, 0)), None),
    "set the host's name": lambda: call("sethostname", b"mine", 4),
    "a larger core limit": lambda: __import__("resource").setrlimit(4, (1 << 20, 1 << 20)),
    "write the daemon's state": lambda: write("/var/lib/private/relay/made-by-sandbox"),
    "write the feed's state": lambda: write("/var/lib/private/relay-feed/made-by-sandbox"),
    "write the canary's folder": lambda: write("/run/relay-canary/made-by-sandbox"),
    "read /etc/relay/canary.key": lambda: Path("/etc/relay/canary.key").read_text(),
    "read /etc/relay/feed/lab": lambda: Path("/etc/relay/feed/lab").read_text(),
    "write its state": lambda: write(os.path.join(STATE, "made-by-sandbox")),
    "write its runtime folder": lambda: write(os.path.join(RUNTIME, "made-by-sandbox")),
    "write a /tmp of its own": lambda: write("/tmp/made-by-relay"),
    "read its configuration": lambda: Path("/etc/relay/relay.toml").read_text(),
    "socket AF_UNIX": open_socket(socket.AF_UNIX),
}


def main() -> None:
    """Try all of them."""
    found = {}
    for name, attempt in TRIES.items():
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, str(error))
        except ValueError as error:  # what the resource module raises for a limit
            found[name] = str(error)
    sys.stdout.write("sandbox " + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
