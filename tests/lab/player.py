"""One person at one place, a process: places calls with the SDK and says what was heard and when.

    stdin    {"do": "call", ...} {"do": "accept"} {"do": "count"} {"do": "arrivals"} {"do": "network"}
             {"do": "mute", "on": bool} {"do": "hangup"} {"do": "sync"}
    stdout   {"is": "ready" | "keys" | "accepted" | "heard" | "count" | ... | "failed"}, a line each

Times are seconds of the monotonic clock, which all processes of a machine share. `Sdk` is the one place that
knows how the SDK climbs: what it cannot do yet is told as not available. Must never live here: judgements.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from lab.expected import Rung
from relay import client
from relay.errors import RelayError
from relay.protocol.token import from_text

TONE_HZ: Final = 440.0
OPEN_S: Final = 12.0
FRAME_S: Final = 0.02
WS_PATH: Final = "/vrl/1"


class Sdk:
    """The SDK as it is in this tree."""

    def __init__(self) -> None:
        self._takes = frozenset(inspect.signature(client.connect).parameters)
        self._has_web = importlib.util.find_spec("relay.client.websocket") is not None

    def rungs(self) -> list[Rung]:
        """What it can climb by itself. Without a ladder an application names the one rung it wants."""
        rungs: list[Rung] = ["quic-443"]
        if "fallbacks" in self._takes:
            rungs.append("quic-3478")
            if self._has_web:
                rungs.append("ws-443")
        if "direct" in self._takes:
            rungs.append("direct")
        return rungs

    def connect(self, order: dict[str, Any]) -> contextlib.AbstractAsyncContextManager[client.Session]:
        """A session by the best rung that answers."""
        host = order["host"]
        more: dict[str, Any] = {}
        if "fallbacks" in self._takes:
            more["fallbacks"] = [f"quic://{host}:3478"]
            if self._has_web:
                more["fallbacks"].append(f"wss://{host}:443{WS_PATH}")
        if "proxy" in self._takes and order.get("proxy"):
            more["proxy"] = order["proxy"]
        return client.connect(
            f"quic://{host}:443",
            token=from_text(order["token"]),
            pop_seed=bytes.fromhex(order["device"]),
            ca=order["ca"],
            server_name="localhost",
            client=client.ClientInfo(app="relay-lab"),
            **more,
        )

    def watch(self, call: client.Call, on_audio: Callable[[], None]) -> None:
        """Call `on_audio` for each packet that opened and is no duplicate, by whichever way it came."""
        reception = call._reception
        original = reception.on_media

        def watched(*given: Any, **named: Any) -> None:
            before = call.stats().received
            original(*given, **named)
            if call.stats().received > before:
                on_audio()

        reception.on_media = watched  # type: ignore[method-assign]  # the one place where both ways meet

    def stands(self, session: client.Session, call: client.Call) -> dict[str, Any]:
        """What the SDK itself says of its rung; counters judge."""
        rung = getattr(session, "rung", None)
        way = getattr(call, "way", None)
        up, down = getattr(session, "up", None), getattr(session, "down", None)
        return {
            "rung": None if rung is None else f"{rung.transport}-{rung.port}",
            "up": None if up is None else f"{up.transport}-{up.port}",
            "down": None if down is None else f"{down.transport}-{down.port}",
            "way": None if way is None else way.value,
            "moves": getattr(session, "moves", 0),
        }


class Player:
    """A call at a time."""

    def __init__(self) -> None:
        self._sdk = Sdk()
        self._arrivals: list[float] = []
        self._is_heard = False
        self._switches: list[dict[str, Any]] = []

    async def play(self, orders: AsyncIterator[dict[str, Any]]) -> None:
        """Until the orders end."""
        say({"is": "player", "rungs": self._sdk.rungs()})
        async for order in orders:
            if order["do"] == "sync":
                say({"is": "synced"})
            if order["do"] != "call":
                continue  # left over from a call that failed
            try:
                await self._call(order, orders)
            except (RelayError, OSError, TimeoutError) as error:
                say({"is": "failed", "error": f"{type(error).__name__}: {error}"})

    async def _call(self, order: dict[str, Any], orders: AsyncIterator[dict[str, Any]]) -> None:
        began = time.monotonic()
        self._arrivals, self._is_heard, self._switches = [], False, []
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(OPEN_S):
                session = await stack.enter_async_context(self._sdk.connect(order))
                call = await session.join()
            say({"is": "ready", "ms": 1000 * (time.monotonic() - began)})
            self._sdk.watch(call, self._on_audio)
            async with asyncio.timeout(OPEN_S):
                await call.keys_agreed()
            say({"is": "keys"})
            watching = asyncio.create_task(self._watch_switches(session, call))
            talking = asyncio.create_task(
                call.talk(client.ToneSource(TONE_HZ, None), client.CallbackSink(lambda pcm: None))
            )
            try:
                async for following in orders:
                    if await self._obey(following, session, call):
                        break
            finally:
                for task in (watching, talking):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, RelayError):
                        await task

    async def _obey(self, order: dict[str, Any], session: client.Session, call: client.Call) -> bool:
        """Do what is asked; True when the call is over."""
        now = time.monotonic()
        match order["do"]:
            case "accept":
                await call.accept()
                say({"is": "accepted", "began": now})
            case "count":
                stats = call.stats().as_dict()
                state: dict[str, Any] = {
                    "state": call.state.name,
                    "why": call.why,
                    "error": str(session.error or ""),
                }
                state["seen"] = session.observed
                say({"is": "count", "at": now, **state, **self._sdk.stands(session, call), **stats})
            case "arrivals":
                say({"is": "arrivals", "times": self._arrivals, "switches": self._switches})
                self._arrivals, self._switches = [], []
            case "network":
                with contextlib.suppress(client.SessionError):  # it goes on looking by itself
                    await session.rebind()
                say({"is": "moved"})
            case "mute":
                await call.mute(order["on"])
                say({"is": "muted"})
            case "sync":  # whoever ordered has given up on this call
                say({"is": "synced"})
                return True
            case "hangup":
                with contextlib.suppress(RelayError):
                    await call.hangup()
                say({"is": "over", "why": call.why})
                return True
        return False

    async def _watch_switches(self, session: client.Session, call: client.Call) -> None:
        """When the SDK says that it stands elsewhere; "direct" and the way there and back included."""
        stood = self._sdk.stands(session, call)
        while True:
            await asyncio.sleep(FRAME_S)
            stands = self._sdk.stands(session, call)
            if stands != stood:
                self._switches.append({"at": time.monotonic(), "from": stood, "to": stands})
                stood = stands

    def _on_audio(self) -> None:
        now = time.monotonic()
        self._arrivals.append(now)
        if not self._is_heard:
            self._is_heard = True
            say({"is": "heard", "at": now})


def say(answer: dict[str, Any]) -> None:
    """One line to whoever started us."""
    print(json.dumps(answer), flush=True)


async def _stdin() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def main() -> None:
    """Entry of the process."""
    asyncio.run(Player().play(_stdin()))


if __name__ == "__main__":
    main()
