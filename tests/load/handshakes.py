"""Complete QUIC handshakes per CPU-second of the server, beside a stock aioquic server in the same run.

    relay    `relay serve` as shipped; limits raised so that neither arm sends Retry or refuses anybody
    stock    aioquic.asyncio.serve with its QuicServer on uvloop, the same certificate and ALPN

Clients are quinn's (load/shaker), the same for both: they shake hands, wait until that is confirmed, close.
Rounds are interleaved, arms take turns of 50 within one, and the median of the rounds' ratios counts. CPU is
that of all threads of the server, until what it keeps of closed connections is gone. Then as information:
memory per confirmed connection, and joins (handshake, token, hello, join). Must never live here: what is
measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

from load import process, programs, report, tasks
from load.daemon import Daemon, imbalance
from load.honest import join_once
from relay.config import LimitsConfig

MIN_RATIO = 1.3
AT_ONCE = 24
TURN = 50  # handshakes of an arm before the other has its turn
CLIENTS = 2  # processes
LINGER = 1.0  # seconds until closed connections are gone at both servers
MUCH = 1_000_000
LIMITS = LimitsConfig(
    half_open=4_096,
    retry_above_half_open=4_096,
    retry_above_initials_per_s=MUCH,
    initials_per_source_per_s=MUCH,
    initials_per_source_burst=MUCH,
    hello_s=60.0,  # those who hold their connections say nothing
)
CRATE = Path(__file__).parent / "shaker"


def program() -> Path:
    """The client, built once."""
    cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo" / "bin"))
    if cargo is None:
        raise SystemExit("no cargo found, which builds the clients: install Rust (rustup.rs)")
    target = programs.CACHE / "target-shaker"
    command = [cargo, "build", "--quiet", "--release", "--locked"]
    command += ["--manifest-path", str(CRATE / "Cargo.toml")]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    if subprocess.run([*command, "--offline"], env=environment, capture_output=True, check=False).returncode:
        subprocess.run(command, env=environment, check=True)
    return target / "release" / "relay-shaker"


class Child:
    """A process that answers each line of its input with a JSON object."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """A command."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next answer. RuntimeError when the process ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Close its input and wait."""
        self._process.communicate()


class Arm:
    """A server and the client processes that shake hands with it."""

    def __init__(self, name: str, pid: int, server: tuple[str, int], client: Path) -> None:
        self.name = name
        self.pid = pid
        self.clients = [Child(str(client), f"{server[0]}:{server[1]}") for _ in range(CLIENTS)]

    def order(self, kind: str, count: int) -> list[dict[str, Any]]:
        """`kind` (shake, hold) for `count` connections, split over the client processes."""
        for client in self.clients:
            client.tell(f"{kind} {count // CLIENTS} {AT_ONCE // CLIENTS}")
        return [client.hear() for client in self.clients]

    def leave(self) -> None:
        """Those held leave."""
        for client in self.clients:
            client.tell("leave")
        for client in self.clients:
            client.hear()

    def client_cpu(self) -> float:
        """CPU seconds of the clients so far."""
        return sum(tasks.cpu_seconds(client.pid) for client in self.clients)


@dataclass(frozen=True)
class Round:
    """One arm in one round."""

    done: int
    failed: int
    cpu: float
    busy: float
    client_cpu: float
    reasons: tuple[str, ...]

    @property
    def per_cpu_second(self) -> float:
        """Complete handshakes per CPU second of the server."""
        return self.done / self.cpu if self.cpu else 0.0

    def summary(self) -> dict[str, Any]:
        """For people."""
        return {
            "handshakes": self.done,
            "failed": self.failed,
            "handshakes_per_cpu_s": round(self.per_cpu_second, 1),
            "server_cpu_ms_each": round(self.cpu / self.done * 1e3, 3) if self.done else None,
            "server_busy": round(self.busy, 2),
            "client_cpu_ms_each": round(self.client_cpu / self.done * 1e3, 3) if self.done else None,
        }


def measure(arms: list[Arm], count: int) -> list[Round]:
    """So many handshakes with each arm, in turns short beside the moods of a shared machine."""
    turns = max(1, count // TURN)
    before = [(tasks.cpu_seconds(arm.pid), arm.client_cpu()) for arm in arms]
    answers: list[list[dict[str, Any]]] = [[] for _ in arms]
    busy = [0.0 for _ in arms]
    for _ in range(turns):
        for number, arm in enumerate(arms):
            started = time.monotonic()
            answers[number] += arm.order("shake", count // turns)
            busy[number] += time.monotonic() - started
    time.sleep(LINGER)
    return [
        Round(
            done=sum(answer["done"] for answer in heard),
            failed=sum(answer["failed"] for answer in heard),
            cpu=(cpu := tasks.cpu_seconds(arm.pid) - began),
            busy=cpu / took,
            client_cpu=arm.client_cpu() - clients,
            reasons=tuple({answer["reason"] for answer in heard} - {""}),
        )
        for arm, heard, took, (began, clients) in zip(arms, answers, busy, before, strict=True)
    ]


def memory(arm: Arm, count: int) -> dict[str, Any]:
    """Growth of the server by connections that are confirmed and stay."""
    before = process.rss_bytes(arm.pid)
    held = sum(answer["done"] for answer in arm.order("hold", count))
    time.sleep(LINGER)
    each = (process.rss_bytes(arm.pid) - before) / held if held else None
    arm.leave()
    time.sleep(LINGER)
    return {"connections": held, "bytes_each": round(each) if each is not None else None}


async def joins(daemon: Daemon, count: int) -> dict[str, Any]:
    """Joins by the daemon: handshake, token, hello, join, and away."""
    cpu = tasks.cpu_seconds(daemon.pid)
    seconds: list[float] = []

    async def one_after_another(number: int) -> None:
        for _ in range(number):
            seconds.append(await join_once(daemon))

    await asyncio.gather(*(one_after_another(count // 4) for _ in range(4)))
    await asyncio.sleep(LINGER)
    spent = tasks.cpu_seconds(daemon.pid) - cpu
    return {
        "joins": len(seconds),
        "joins_per_cpu_s": round(len(seconds) / spent, 1),
        "median_ms": round(statistics.median(seconds) * 1e3, 1),
    }


# ---------------------------------------------------------------- the stock server


async def _serve(certificate: str, key: str) -> None:
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["vrl/1"], max_datagram_frame_size=1200, idle_timeout=60.0
    )
    configuration.load_cert_chain(certificate, key)
    server: Any = await serve("127.0.0.1", 0, configuration=configuration)
    print(json.dumps({"port": server._transport.get_extra_info("sockname")[1]}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


# ---------------------------------------------------------------- the run


def judge(out: report.Report, rounds: dict[str, list[Round]], *, quick: bool) -> None:
    """Bars and details of the rounds."""
    ratios = [
        relay.per_cpu_second / stock.per_cpu_second
        for relay, stock in zip(rounds["relay"], rounds["stock"], strict=True)
    ]
    everything = [result for results in rounds.values() for result in results]
    out.detail(
        handshakes_per_cpu_s={
            name: round(statistics.median(result.per_cpu_second for result in results), 1)
            for name, results in rounds.items()
        },
        ratio_to_stock=[round(ratio, 3) for ratio in ratios],
        rounds={name: [result.summary() for result in results] for name, results in rounds.items()},
        failures=sorted({reason for result in everything for reason in result.reasons}),
    )
    out.bar("handshakes that failed", sum(result.failed for result in everything), "==", 0)
    if not quick:
        median = statistics.median(ratios)
        out.bar("handshakes per CPU-second / stock aioquic, median of rounds", median, ">=", MIN_RATIO)


def run_rounds(arms: list[Arm], count: int, handshakes: int) -> dict[str, list[Round]]:
    """Interleaved; the order turns."""
    results: dict[str, list[Round]] = {arm.name: [] for arm in arms}
    for number in range(count):
        order = arms if number % 2 else arms[::-1]
        for arm, result in zip(order, measure(order, handshakes), strict=True):
            results[arm.name].append(result)
            report.say(f"  round {number + 1}/{count} {arm.name:5} {result.summary()}")
    return results


async def main() -> int:
    """Run it; the exit status."""
    parser = report.arguments("handshakes", __doc__)
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (default 7, quick 2)")
    parser.add_argument("--count", type=int, default=0, help="handshakes per arm and round (1000, quick 100)")
    args = parser.parse_args()
    rounds, count = args.rounds or (2 if args.quick else 7), args.count or (100 if args.quick else 1_000)
    out = report.Report("handshakes", seed=args.seed, quick=args.quick)
    report.say("building the clients")
    client = program()
    cpus = process.cpus()
    stops: list[Callable[[], None]] = []
    with Daemon.start(limits=LIMITS) as daemon:
        try:
            names = ("cert.pem", "key.pem")
            files = [str(daemon.folder / name) for name in names]
            stock = Child(sys.executable, "-m", "load.handshakes", "--stock", *files)
            stops.append(stock.stop)
            port = int(stock.hear()["port"])
            arms = [
                Arm("relay", daemon.pid, daemon.server, client),
                Arm("stock", stock.pid, ("127.0.0.1", port), client),
            ]
            stops += [each.stop for arm in arms for each in arm.clients]
            pinned = [tasks.pin(arm.pid, cpus[0]) for arm in arms]
            pinned += [tasks.pin(each.pid, cpus[-1]) for arm in arms for each in arm.clients]
            measure(arms, 100)  # caches, allocators
            judge(out, run_rounds(arms, rounds, count), quick=args.quick)
            held = {arm.name: memory(arm, 100 if args.quick else 1_000) for arm in arms}
            report.say(f"memory per confirmed connection: {held}")
            joined = await joins(daemon, 20 if args.quick else 200)
            samples = daemon.metrics()
            out.bar("packets out of balance in /metrics", imbalance(samples), "==", 0)
            out.bar("warnings in the daemon's log", len(daemon.complaints()), "==", 0)
            out.detail(
                memory=held,
                joins=joined,
                lane=[line["lane"] for line in daemon.log() if line.get("message") == "serving"],
                load={"clients": "quinn", "processes": CLIENTS, "under_way": AT_ONCE, "rounds": rounds},
                cpu_source=tasks.SOURCE,
                pinned_apart=len(cpus) > 1 and all(pinned),
                complaints=daemon.complaints()[:5],
            )
        finally:
            for stop in stops:
                stop()
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stock"]:
        report.arguments("handshakes", __doc__)  # quiets aioquic's log, as the daemon does
        uvloop.run(_serve(sys.argv[2], sys.argv[3]))
    else:
        sys.exit(uvloop.run(main()))
