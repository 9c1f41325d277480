"""Stages the demo: starts the processes, gives the orders, asks the questions.

Must never live here: what is checked (check.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from relay.client.audio import read_pcm, write_wav
from relay.demo.check import NAMES, RATE, find_in_memory, gate_drops, report, total
from relay.demo.stage import DemoError, Stage
from relay.protocol.ids import CallId, Sub

Tell = Callable[[str], None]
Process = asyncio.subprocess.Process

SERVE = ("-m", "relay", "serve", "--config")
START_SECONDS = 20.0
EARLY_SECONDS = 1.0  # how long Anna talks before Ben picks up


class Actor:
    """A child process that takes orders and answers in JSON lines."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.told: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, name: str, spec: dict[str, Any]) -> Actor:
        """Start one person."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "relay.demo.person",
            json.dumps(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(name, process)

    def order(self, text: str) -> None:
        """Tell what to do next."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def wait(self, what: str, seconds: float = 60.0) -> dict[str, Any]:
        """The next answer, which must be of this kind."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise DemoError(f"{self.name} did not say {what!r} within {seconds:g} s") from None
        if not line:
            raise DemoError(f"{self.name} stopped before saying {what!r}; see the lines above")
        answer: dict[str, Any] = json.loads(line)
        if answer["is"] != what:
            raise DemoError(f"{self.name} said {answer} instead of {what!r}")
        return answer


@contextlib.asynccontextmanager
async def _daemon(config: Path, stage: Stage) -> AsyncIterator[Process]:
    log = (stage.folder / "daemon.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *SERVE, str(config), stderr=log, stdout=log
    )
    try:
        until = time.monotonic() + START_SECONDS
        while not await asyncio.to_thread(stage.is_ready):
            if process.returncode is not None or time.monotonic() > until:
                text = (stage.folder / "daemon.log").read_text(errors="replace")
                raise DemoError(f"the daemon did not start:\n{text[-2000:]}")
            await asyncio.sleep(0.1)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.sleep(0.2)
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.wait()
        if process.returncode is None:
            process.kill()
        log.close()


async def _play(
    stage: Stage,
    speech: list[Path],
    out: Path,
    tell: Callable[[str], None],
    daemon: asyncio.subprocess.Process,
    transport: str,
) -> dict[str, Any]:
    call = CallId(secrets.token_bytes(16))
    early = out / "early.wav"
    _cut(speech[0], early, EARLY_SECONDS)
    people = []
    for name, clip in zip(NAMES, speech, strict=True):
        spec = {
            "url": stage.url(transport),
            "token": stage.token(call, Sub(secrets.token_bytes(16))),
            "ca": str(stage.folder / "cert.pem"),
            "speech": str(clip),
            "early": str(early),
            "heard": str(out / f"heard-by-{name}.wav"),
        }
        people.append(await Actor.start(name, spec))
    anna, ben = people
    try:
        tell("two people join and agree on keys through the relay")
        joined = [await actor.wait("joined") for actor in people]
        tell(f"both read the same digits to each other: {joined[0]['sas']} and {joined[1]['sas']}")
        tell("anna accepts and talks at once; ben has not accepted yet")
        anna.order("early")
        sent_early = (await anna.wait("early"))["sent"]
        await asyncio.sleep(0.2)
        before = await asyncio.to_thread(stage.metrics)
        tell(f"the relay dropped {gate_drops(before)} of {sent_early} early packets, forwarded "
             f"{total(before, 'relay_media_copies_total')}")  # fmt: skip
        ben.order("accept")
        await ben.wait("accepted")
        tell("ben accepts; both talk ...")
        for actor in people:
            actor.order("talk")
        talked = [(await actor.wait("talked", 120.0))["stats"] for actor in people]
        await asyncio.sleep(0.3)
        after = await asyncio.to_thread(stage.metrics)
        for actor in people:
            actor.order("leave")
        left = [await actor.wait("left") for actor in people]
        for actor in people:
            await actor.process.wait()
    finally:
        for actor in people:
            if actor.process.returncode is None:
                actor.process.kill()
                await actor.process.wait()
    keys = [bytes.fromhex(text) for one in left for text in one["keys"]]
    needles = [b"demo-node", *keys, *(key.hex().encode() for key in keys)]
    in_memory = await asyncio.to_thread(find_in_memory, daemon.pid, needles)
    return {
        "transports": [each["transport"] for each in joined],
        "same_digits": joined[0]["sas"] == joined[1]["sas"],
        "sent_early": sent_early,
        "before": before,
        "after": after,
        "stats": talked,
        "keys": len(keys),
        "keys_in_daemon": len([index for index in in_memory if index > 0]),
        "memory_was_read": 0 in in_memory,
    }


def _cut(source: Path, target: Path, seconds: float) -> None:
    write_wav(target, read_pcm(source, RATE)[: int(seconds * RATE) * 2], RATE)


async def _stage(speech: list[Path], out: Path, tell: Tell, transport: str) -> dict[str, Any]:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        stage = Stage(Path(folder))
        config = stage.write()
        tell("starting a relay on loopback with throw-away keys")
        async with _daemon(config, stage) as daemon:
            facts = await _play(stage, speech, out, tell, daemon, transport)
        (out / "daemon.log").write_bytes((Path(folder) / "daemon.log").read_bytes())
    return report(facts, speech, out, begun)


def find_speech(folder: Path) -> list[Path]:
    """Two clips of real speech, from `scripts/speech`. DemoError when there are none."""
    clips = sorted(folder.glob("*.wav"))[: len(NAMES)]
    if len(clips) < len(NAMES):
        raise DemoError(f"no speech in {folder}: run ./scripts/speech, or name a folder with two WAV files")
    return clips


def run(speech: Path, out: Path, tell: Tell, transport: str = "quic") -> dict[str, Any]:
    """Stage the call; the report has ok, legs, gate, counters, checks, lane, seconds. DemoError.

    `speech`: folder with two WAV clips or more; `out`: folder for what was heard; `tell`: progress;
    `transport`: quic, ws or tls.
    """
    out.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_stage(find_speech(speech), out, tell, transport))
