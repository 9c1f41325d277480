"""The client on quinn: a process of its own, commands and answers over pipes (quinn/src/main.rs)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coexist.client import Counts

ANSWER_S = 20.0
MAX_LINE = 1 << 22


class QuinnClient:
    """One connection by quinn."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.on_stream: Callable[[bytes], None] = lambda data: None
        self.closed: str | None = None
        self._process = process
        self._news: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())
        self._leaving = False

    @classmethod
    async def connect(cls, program: Path, name: str, server: tuple[str, int], *options: str) -> QuinnClient:
        """Start it and shake hands; `options` as in main.rs. TimeoutError."""
        process = await asyncio.create_subprocess_exec(
            str(program),
            f"{server[0]}:{server[1]}",
            *options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
        )
        client = cls(name, process)
        await client._expect("connected")
        return client

    def write(self, data: bytes) -> None:
        self._tell(f"stream {data.hex()}")

    async def speak(self, prefix: bytes, first: int, count: int, interval: float, size: int) -> None:
        self._tell(f"media {prefix.hex()} {first} {count} {round(interval * 1e6)} {size}")
        await self._expect("sent", within=count * interval * 2 + ANSWER_S)

    def update_keys(self) -> None:
        self._tell("update")

    def change_id(self) -> None:
        """quinn changes the relay's id when it moves, and its own ids when their life ends."""

    def rebind(self) -> None:
        self._tell("rebind")

    async def count(self) -> Counts:
        self._tell("stats")
        facts = await self._expect("stats")
        return Counts(
            lost=facts["lost"],
            congestion_events=facts["congestion_events"],
            sent=facts["media_sent"],
            ranges=[(start, stop) for start, stop in facts.pop("ranges")],
            repeated=facts["repeated"],
            wrong=facts["wrong"],
            facts=facts,
        )

    async def close(self) -> None:
        self._leaving = True
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                self._tell("close")
            try:
                await asyncio.wait_for(self._process.wait(), ANSWER_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reading

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def _expect(self, event: str, within: float = ANSWER_S) -> dict[str, Any]:
        async with asyncio.timeout(within):
            return await self._news.setdefault(event, asyncio.Queue()).get()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            news = json.loads(line)
            if news["event"] == "stream":
                self.on_stream(bytes.fromhex(news["data"]))
            elif news["event"] == "closed":
                if not self._leaving:
                    self.closed = news["reason"]
            else:
                self._news.setdefault(news["event"], asyncio.Queue()).put_nowait(news)
        if not self._leaving and self.closed is None:
            self.closed = "the process ended"
