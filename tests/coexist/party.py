"""A participant: control messages over whichever client, and what became of them.

It writes pings with big bodies, which the relay answers, and blobs for the other participant, which it passes
on; each byte that comes back is compared. Must never live here: QUIC, disturbances, judgement.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypeVar

import msgspec

from coexist.client import Client, Counts
from relay.protocol import control

M = TypeVar("M", bound=control.Message)
ANSWER_S = 20.0
MAX_PING = 3000
MAX_BLOB = 6000
CONFIG_BYTE = 0x0B  # no KID byte, a counter of 4 bytes; the KID's 3 bits stand in the middle
FIRST_COUNTER = 1 << 24  # the least that takes 4 bytes
VERSION_BYTE = 0x40


class Party:
    """One side of a call."""

    def __init__(self, client: Client, call: bytes, seed: int) -> None:
        self.client = client
        self.call = call
        self.index = -1
        self.flow = 0
        self.pings = 0
        self.pongs = 0
        self.blobs: list[bytes] = []
        self.blobs_heard: list[bytes] = []
        self.complaints: list[str] = []
        self.counts = Counts()
        self._random = random.Random(seed)
        self._asked: dict[int, int] = {}
        self._next_id = 100
        self._frames = control.FrameReader()
        self._news: asyncio.Queue[control.Message] = asyncio.Queue()
        client.on_stream = self._on_stream

    # ------------------------------------------------------------ into the call

    async def enter(self, token: bytes) -> None:
        """Hello and join."""
        self._tell(control.Hello(tok=token, cli=control.Cli(sdk="py", app="relay-demo")), 1)
        await self._expect(control.Welcome)
        self._tell(control.Join(c=self.call), 2)
        joined = await self._expect(control.Joined)
        self.index, self.flow = joined.p, joined.up

    def accept(self) -> None:
        """Say yes."""
        self._tell(control.Accept(c=self.call, suites=(5,)), 3)

    async def gate(self) -> None:
        """Wait until this side hears the other."""
        while not (await self._expect(control.Gate)).open:
            pass

    # ------------------------------------------------------------ in the call

    async def speak(self, seconds: float, interval: float, size: int) -> None:
        """Media for so long."""
        prefix = bytes((self.flow, VERSION_BYTE, CONFIG_BYTE | self.index << 2 << 4))
        await self.client.speak(prefix, FIRST_COUNTER, round(seconds / interval), interval, size)

    async def chatter(self, seconds: float, interval: float) -> None:
        """Pings and blobs of many sizes, in turn, for so long."""
        for number in range(round(seconds / interval)):
            if number % 2:
                blob = self._random.randbytes(self._random.randrange(1, MAX_BLOB))
                self.blobs.append(blob)
                self._tell(control.E2e(c=self.call, k=1, b=blob))
            else:
                self._ping()
            await asyncio.sleep(interval)

    def _ping(self) -> None:
        """A ping with a key that the relay does not know, and so has to read past."""
        self._next_id += 1
        self.pings += 1
        stamp = self._random.randrange(1 << 32)
        self._asked[self._next_id] = stamp
        body = {"t": stamp, "pad": self._random.randbytes(self._random.randrange(MAX_PING))}
        frame = msgspec.msgpack.encode((control.Ping.TYPE, self._next_id, body))
        self.client.write(len(frame).to_bytes(2, "big") + frame)

    # ------------------------------------------------------------ what comes

    def _on_stream(self, data: bytes) -> None:
        for raw in self._frames.feed(data):
            frame = control.decode(raw)
            match frame.body:
                case control.Ping() as ping:
                    self._tell(control.Pong(t=ping.t), frame.id)
                case control.Pong() as pong:
                    if self._asked.pop(frame.id, None) != pong.t:
                        self.complaints.append(f"pong {frame.id} is not the answer to its ping")
                    self.pongs += 1
                case control.E2e() as blob:
                    self.blobs_heard.append(blob.b)
                case control.Err() | control.Ended() | control.Bye() as bad:
                    self.complaints.append(repr(bad))
                case None:
                    self.complaints.append(f"message of type {frame.type:#x}")
                case message:
                    self._news.put_nowait(message)

    def _tell(self, message: control.Message, number: int = 0) -> None:
        self.client.write(control.encode(message, number))

    async def _expect(self, kind: type[M]) -> M:
        async with asyncio.timeout(ANSWER_S):
            while True:
                message: Any = await self._news.get()
                if isinstance(message, kind):
                    return message
