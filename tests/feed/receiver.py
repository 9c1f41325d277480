"""An endpoint that takes webhooks, on loopback: verifies each signature, answers as a script says.

It knows nothing of our signing code. Must never live here: what is expected.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[["Letter", int], int | web.Response | Awaitable[int | web.Response]]
"""What to answer a letter; the number says how often it has come, from 1."""

WAIT_S = 30.0


@dataclass(frozen=True)
class Letter:
    """One request whose signature was right."""

    id: str
    timestamp: int
    body: bytes
    signatures: int
    at: float = field(default_factory=time.monotonic)

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """A server that comes and goes at one port."""

    def __init__(self, secret: bytes, answer: Answer = lambda letter, times: 200) -> None:
        self.secret = secret
        self.answer = answer
        self.got: list[Letter] = []
        self.taken: list[Letter] = []
        """Those that were answered with 2xx."""
        self.forged = 0
        self.port = 0
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [letter.id for letter in self.taken]

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._on_request)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for requests until it is so."""
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(holds)

    async def _on_request(self, request: web.Request) -> web.Response:
        body = await request.read()
        id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        signed = b".".join((id.encode(), timestamp.encode(), body))
        mine = base64.b64encode(hmac.digest(self.secret, signed, "sha256")).decode()
        given = request.headers["webhook-signature"].split(" ")
        if request.method != "POST" or f"v1,{mine}" not in given or abs(time.time() - int(timestamp)) > 300:
            self.forged += 1
            return web.Response(status=401)
        letter = Letter(id, int(timestamp), body, len(given))
        self.got.append(letter)
        await self._tell()
        answer = self.answer(letter, sum(each.id == id for each in self.got))
        found = answer if isinstance(answer, (int, web.Response)) else await answer
        response = web.Response(status=found) if isinstance(found, int) else found
        if 200 <= response.status < 300:
            self.taken.append(letter)
            await self._tell()
        return response

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()
