"""The lab's internet, a process: a TUN device in each namespace that has a public address, a shaper between.

    stdin    one line {"seed", "lines": [{"name", "path", "device", "addresses"}]}, then changes of conditions
             {"part": [address, address]}: nothing passes between the two, {"join": [...]}: all does again
    stdout   {"devices": n} once all exist; {"routed", "unknown", "dropped"} at the end (end of stdin)

It knows the addresses it was told and no others: no packet can leave the lab. A line whose `kind` is "nat64"
gets each of its packets back, translated. Must never live here: what the conditions mean (shaper.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import time
from typing import Any, Final

from lab.nat64 import translate
from lab.shaper import Conditions, Shaper

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_CLONE_NEWNET: Final = 0x40000000
_BURST: Final = 64  # packets read from one device before the others have their turn
_MTU: Final = 65536


def open_tun(path: str, device: str) -> int:
    """A new TUN device in the namespace at `path`; its descriptor, which works from here."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {path}")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
        return fd
    finally:
        libc.setns(here, _CLONE_NEWNET)
        os.close(here)
        os.close(there)


class Internet:
    """Devices, addresses, and the shaper between them."""

    def __init__(self, lines: list[dict[str, Any]], seed: int) -> None:
        self._shaper: Shaper[int] = Shaper(seed)
        self._routes: dict[bytes, int] = {}
        self._fds: dict[str, int] = {}
        self._translators: set[int] = set()
        self._parted: set[frozenset[bytes]] = set()
        self.routed = 0
        self.unknown = 0
        for line in lines:
            fd = self._fds[line["name"]] = open_tun(line["path"], line["device"])
            if line.get("kind") == "nat64":
                self._translators.add(fd)
            for address in line["addresses"]:
                self._routes[socket.inet_aton(address)] = fd

    def change(self, order: dict[str, Any]) -> None:
        """{"name", "up": {...}, "down": {...}}: new conditions of a line; or part two addresses, or join."""
        if "part" in order:
            self._parted.add(frozenset(map(socket.inet_aton, order["part"])))
            return
        if "join" in order:
            self._parted.discard(frozenset(map(socket.inet_aton, order["join"])))
            return
        up, down = Conditions(**order.get("up", {})), Conditions(**order.get("down", {}))
        self._shaper.set_conditions(self._fds[order["name"]], up, down)

    def run(self) -> None:
        """Until standard input ends."""
        orders = b""
        watched = [0, *self._fds.values()]
        while True:
            at = self._shaper.next_deadline()
            wait = None if at is None else max(0.0, at - time.monotonic())
            for fd in select.select(watched, [], [], wait)[0]:
                if fd == 0:
                    data = os.read(0, 65536)
                    if not data:
                        return
                    *whole, orders = (orders + data).split(b"\n")
                    for line in whole:
                        self.change(json.loads(line))
                else:
                    self._read(fd)
            for target, packet in self._shaper.pop(time.monotonic()):
                _write(target, packet)

    def report(self) -> dict[str, int]:
        """What it did with packets."""
        return {"routed": self.routed, "unknown": self.unknown, "dropped": self._shaper.dropped}

    def _read(self, fd: int) -> None:
        for _ in range(_BURST):
            try:
                packet = os.read(fd, _MTU)
            except BlockingIOError:
                return
            if fd in self._translators:
                translated = translate(packet)
                if translated is not None:
                    _write(fd, translated)
                continue
            target = self._routes.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if target is None:
                self.unknown += 1
                continue
            if self._parted and frozenset((packet[12:16], packet[16:20])) in self._parted:
                continue
            self.routed += 1
            self._shaper.push(time.monotonic(), packet, fd, target)


def _write(fd: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the device is down or its queue full: a lost packet, as anywhere
        os.write(fd, packet)


def _first_line() -> bytes:
    """Read no further than it goes: what follows is read by descriptor."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    return line


def main() -> None:
    """Entry of the process."""
    with contextlib.suppress(OSError):  # punctual even when both CPUs are busy
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    orders = json.loads(_first_line())
    internet = Internet(orders["lines"], orders["seed"])
    print(json.dumps({"devices": len(orders["lines"])}), flush=True)
    internet.run()
    print(json.dumps(internet.report()), flush=True)


if __name__ == "__main__":
    main()
