"""Faults that the machine makes: a kernel that refuses, descriptors, a disk, a clock, a process that stands.

Each is a function of a scene: inject, look, heal. Must never live here: files of an operator
(faultservice.py), what all faults are judged by (faultscene.py).
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from descriptors import none_left
from lab.faultcall import tokens_of
from lab.faultscene import Scene
from load.daemon import total

BURST_S: Final = 1.0  # all packets are refused
HOUR_S: Final = 3600
STOP_S: Final = 5.0
PANICS: Final = 50
DEAF_READS: Final = 40  # of one socket in half a second: about ten by the lane, two at a time by its twin
READ_ERRORS: Final = "relay_udp_read_errors_total"
OLD_TOKEN: Final = "TOKEN_EXPIRED"
YOUNG_TOKEN: Final = "TOKEN_INVALID"


def refusing(number: int, every: int, seconds: float) -> Callable[[Scene], Awaitable[None]]:
    """One of so many calls that send UDP is refused."""

    async def act(scene: Scene) -> None:
        shim = scene.node.shim
        shim.set(send_errno=number, send_every=every)
        await asyncio.sleep(seconds)
        shim.set(send_errno=0)
        scene.expect("calls of the kernel refused", shim.get("refused"), ">=", 1)

    return act


async def deaf(scene: Scene) -> None:
    """Reading UDP fails for half a second; what came meanwhile waits in the socket."""
    shim = scene.node.shim
    before = await scene.samples()
    shim.set(recv_errno=errno.ENOBUFS)
    await asyncio.sleep(0.5)
    shim.set(recv_errno=0)
    tries = shim.get("unread")
    scene.expect("reads refused", tries, ">=", 1)
    # The socket says all the time that it has something: who believes it takes a CPU.
    scene.expect("reads that were tried meanwhile", tries, "<=", DEAF_READS * scene.node.config.listen.lanes)
    counted = total(await scene.samples(), READ_ERRORS) - total(before, READ_ERRORS)
    scene.expect("refused reads that are counted", counted, "==", tries)


async def no_descriptors(scene: Scene) -> None:
    """No number is left for one more: TCP waits, UDP needs none."""
    node = scene.node
    proofs = node.supervisor.proofs
    with socket.socket() as waiting:
        waiting.settimeout(5)
        with none_left(node.supervisor.pid):
            waiting.connect(("127.0.0.1", node.rig.web_port))
            told = await scene.until(lambda: bool(_waits(scene)), 5.0)
            scene.expect("a web connection waits, and a line says so", int(told), "==", 1)
            await scene.expect_call("a new call by UDP works meanwhile")
            await scene.hold(6.0, quick=3.0)
            scene.expect("proofs of life meanwhile", node.supervisor.proofs - proofs, ">=", 1)
        taken = await asyncio.to_thread(_is_closed_or_served, waiting)
        scene.expect("the connection that waited is taken", int(taken), "==", 1)


def _waits(scene: Scene) -> list[str]:
    lines = [str(line.get("message", "")) for line in scene.node.said()]
    return [line for line in lines if line.startswith("TCP connections wait")]


def _is_closed_or_served(sock: socket.socket) -> bool:
    """Plain words are no TLS: whoever serves the connection says so, by an alert or by its end."""
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    try:
        sock.recv(100)
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


async def full_disk(scene: Scene) -> None:
    """No byte is left where records and events stand; calls end meanwhile. Then there is room again."""
    node = scene.node
    before = await scene.samples()
    ballast = node.disk / "ballast"
    fill(ballast)
    for _ in range(2):
        await scene.expect_call("a new call works meanwhile")
    await scene.hold(6.0, quick=3.0)
    status, findings = await asyncio.to_thread(node.findings)
    scene.expect("ready meanwhile", status, "==", 200)
    scene.expect("findings meanwhile", sum(name.endswith("_failing") for name in findings), "==", 2)
    during = await scene.samples()
    ballast.unlink()
    wanted = total(before, "relay_records_written_total") + 2
    written = lost = 0.0
    for _ in range(100):
        now = await scene.samples()
        written = total(now, "relay_records_written_total")
        lost = total(now, "relay_records_dropped_total") + total(now, "relay_events_dropped_total")
        waits = total(now, "relay_records_waiting") + total(now, "relay_events_waiting")
        if written >= wanted and not waits:
            break
        await asyncio.sleep(0.1)
    kept = wanted - total(during, "relay_records_written_total")
    scene.expect("records that waited in memory", kept, ">=", 1)
    scene.expect("records written in the end", written, "==", wanted)
    scene.expect("records and events lost", lost, "==", 0)


def fill(path: Path) -> None:
    """Write until the file system says ENOSPC."""
    with path.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2


def jumping(seconds: int, refusal: str) -> Callable[[Scene], Awaitable[None]]:
    """The wall clock is so far off for a while; monotonic time is not."""

    async def act(scene: Scene) -> None:
        shim = scene.node.shim
        spent = tokens_of(scene.node.rig)
        await scene.expect_call("a call before", tokens=spent)
        shim.set(wall_offset=seconds)
        await scene.hold(20.0, quick=2.0)
        await scene.expect_call("a token of the right time is refused", refusal)
        became = await scene.call(at=time.time() + seconds)
        scene.notes["a token of its own time"] = became or "worked"
        # Set back, the node may have forgotten spent tokens of a later time: it takes none of before that.
        sane = ("", OLD_TOKEN) if seconds < 0 else ("",)
        scene.expect("a token of its own time is judged", int(became in sane), "==", 1)
        shim.set(wall_offset=0)
        became = await scene.call(tokens=spent)
        scene.notes["a spent token afterwards"] = became
        is_refused = became in ("TOKEN_REPLAYED", "TOKEN_EXPIRED")
        scene.expect("a spent token is refused afterwards", int(is_refused), "==", 1)

    return act


async def stopped(scene: Scene) -> None:
    """SIGSTOP, and five seconds later SIGCONT."""
    pid = scene.node.supervisor.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STOP_S)
    finally:
        os.kill(pid, signal.SIGCONT)


async def panics(scene: Scene) -> None:
    """The lane's thread panics, so many times: Rust's library does where the clock cannot be read."""
    shim = scene.node.shim
    shim.set(wall_fails=PANICS)
    await scene.until(lambda: shim.get("wall_fails") <= 0, 10.0)
    scene.expect("panics of the lane's thread", shim.get("clockless"), "==", PANICS)


async def threads_end(scene: Scene) -> None:
    """The lane's threads are gone, the process is not: it must see that, and go. Another is started."""
    node = scene.node
    pid = node.supervisor.pid
    os.kill(pid, signal.SIGUSR1)
    begun = time.monotonic()
    status = await asyncio.to_thread(node.revive, 10.0)
    scene.expect("exit status", status, "==", 1)
    scene.notes["back after s"] = round(time.monotonic() - begun, 2)
    scene.expect("back, s", time.monotonic() - begun, "<=", 3.0, is_speed=True)
