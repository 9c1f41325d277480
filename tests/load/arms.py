"""What is measured side by side: each arm is a process under test and a load generator with legs through it.

    relay    `relay serve` as shipped: token, hello, join, accept, consent gate, real acknowledgements
    turn     TURN of `relay serve`: one allocation per call, ChannelData at one end, plain UDP at the other
    coturn   the same with coturn, which encrypts nothing
    bare     recvmmsg/sendmmsg in C, batches of 64
    napping  the same, which lets packets gather for 1 ms: as late as the machine's timers are
    crypto   the same with AES-128-GCM open and seal and header protection by OpenSSL

An arm starts with no legs; `grow` adds calls. Must never live here: bars, rounds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Protocol

from load import coturn, programs, tasks
from load.daemon import TURN_SECRET, Daemon
from load.daemon import mint as mint_token
from load.generator import PAYLOAD, WIRE, Generator
from load.leg import Leg, open_socket
from relay.config import LimitsConfig
from relay.core.credentials import mint

AT_ONCE = 8  # calls placed at the same time
SETTLE = 0.3  # for the last acknowledgements of the set-up
MUCH = 1_000_000
RIGHTS = (MUCH, MUCH, MUCH, 2)  # of a token: what the bench offers must be allowed
PEER = "127.0.0.2"  # none of the interface's own addresses: those are no peers
LIMITS = LimitsConfig(
    max_pps=MUCH,
    max_up_kbps=MUCH,
    max_down_kbps=MUCH,
    burst_ms=1_000,
    half_open=4_096,
    retry_above_half_open=4_096,
    retry_above_initials_per_s=MUCH,
    initials_per_source_per_s=MUCH,
    initials_per_source_burst=MUCH,
)
"""As shipped but for the ceilings that a few legs with the load of thousands would meet."""


class Arm(Protocol):
    """A process under test, and its legs in a generator."""

    name: str
    pid: int
    generator: Generator

    async def grow(self, legs: int) -> None:
        """Until there are so many legs."""
        ...

    def stop(self) -> None:
        """End both processes."""
        ...


async def place_call(daemon: Daemon) -> tuple[Leg, Leg]:
    """Two legs in a call with open gates."""
    call = os.urandom(16)
    legs = Leg(daemon.server), Leg(daemon.server)
    for leg in legs:
        await leg.connect()
        await leg.hello(mint_token(daemon.seed, call, lim=RIGHTS))
        await leg.join(call)
    for leg in legs:
        await leg.accept(call)
    for leg in legs:
        await leg.gate()
    return legs


class RelayArm:
    """The relay."""

    name = "relay"

    def __init__(self, daemon: Daemon, cpus: Sequence[int]) -> None:
        self.daemon = daemon
        self.pid = daemon.pid
        self.generator = Generator(cpus[-1])
        tasks.pin(self.pid, cpus[0])

    async def grow(self, legs: int) -> None:
        """Place calls."""
        while len(self.generator) < legs:
            count = min(AT_ONCE, (legs - len(self.generator) + 1) // 2)
            pairs = await asyncio.gather(*(place_call(self.daemon) for _ in range(count)))
            await asyncio.sleep(0.01)
            for pair in pairs:
                for leg in pair:
                    self.generator.add_leg(leg)
        await asyncio.sleep(SETTLE)

    def stop(self) -> None:
        """Both processes."""
        self.generator.stop()
        self.daemon.stop()


def _random_keys() -> str:
    """Ids and keys of one leg, as forwarder and generator read them: what it sends by first."""
    sizes = (8, 8, 16, 12, 16, 16, 12, 16)
    return " ".join(secrets.token_hex(size) for size in sizes)


class ForwardArm:
    """A bare forwarder: plain, napping or with encryption."""

    def __init__(self, kind: str, cpus: Sequence[int], beside: Arm | None = None) -> None:
        """`beside`: the generator of that arm drives this one, too, as its second group of legs."""
        self.name = {"plain": "bare", "nap": "napping", "crypto": "bare_crypto"}[kind]
        self._is_sealed = kind == "crypto"
        self._process = subprocess.Popen(
            [str(programs.forward()), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._server = ("127.0.0.1", int(self._process.stdout.readline()))
        self._group = 0 if beside is None else 1
        self._legs = 0
        self.generator = Generator(cpus[-1]) if beside is None else beside.generator
        tasks.pin(self.pid, cpus[0])

    async def grow(self, legs: int) -> None:
        """Tell both sides about new pairs."""
        assert self._process.stdin is not None
        group = self._group
        while self._legs < legs:
            self._legs += 2
            socks = open_socket(), open_socket()
            ports = [sock.getsockname()[1] for sock in socks]
            for sock, port, other in zip(socks, ports, ports[::-1], strict=True):
                line = f"{port} {other}"
                if self._is_sealed:
                    facts = _random_keys()
                    line += f" {facts}"
                    self.generator.add_sealed(sock, self._server, facts, group=group)
                else:
                    self.generator.add_plain(sock, self._server, group=group)
                self._process.stdin.write(line.encode() + b"\n")
                sock.close()
        self._process.stdin.flush()
        await asyncio.sleep(SETTLE)

    def stop(self) -> None:
        """Both processes; a second stop of a shared generator does nothing."""
        self.generator.stop()
        self._process.communicate()


class TurnArm:
    """coturn, or with a daemon its own TURN."""

    def __init__(self, cpus: Sequence[int], daemon: Daemon | None = None) -> None:
        under_test = coturn.Turnserver() if daemon is None else daemon
        self.name = "coturn" if daemon is None else "turn"
        self.pid = under_test.pid
        self._server = under_test.server
        self._stop = under_test.stop
        self._secret = None if daemon is None else TURN_SECRET.encode()
        self.generator = Generator(cpus[-1])
        tasks.pin(self.pid, cpus[0])

    def _credentials(self) -> tuple[str, str] | None:
        if self._secret is None:
            return None
        return mint(secrets.token_hex(8), int(time.time()) + 3600, self._secret)

    async def grow(self, legs: int) -> None:
        """Allocate."""
        server = self._server
        while len(self.generator) < legs:
            client, peer = open_socket(), open_socket(PEER)
            relayed = coturn.allocate(client, peer, server, self._credentials())
            head = coturn.channel_header(WIRE - coturn.CHANNEL_HEADER)
            pad = WIRE - coturn.CHANNEL_HEADER - PAYLOAD
            self.generator.add_plain(client, server, prefix=head, skip=coturn.CHANNEL_HEADER, pad=pad)
            self.generator.add_plain(peer, relayed, pad=pad)
            client.close()
            peer.close()
        await asyncio.sleep(SETTLE)

    def stop(self) -> None:
        """Both processes."""
        self.generator.stop()
        self._stop()


def summary(result: dict[str, Any], group_number: int = 0) -> dict[str, Any]:
    """One group's counts without the time slices."""
    group = dict(result["groups"][group_number])
    group.pop("worst_us_each_50ms")
    return group


async def run(arm: Arm, seconds: float, **load: Any) -> tuple[dict[str, Any], float]:
    """Let an arm's generator run; its result, and CPU seconds of the process under test meanwhile."""
    before = tasks.cpu_seconds(arm.pid)
    result = await asyncio.to_thread(arm.generator.run, seconds, **load)
    return result, tasks.cpu_seconds(arm.pid) - before
