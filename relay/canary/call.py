"""One canary call: two people of our own in one call, who send random bytes shaped like speech to each other.

    connect, join, accept, both --> 20 s of sealed packets each way --> hang up --> Facts

The packets go as those of people do, by the SDK: encrypted, paced, repaired, buffered. Each holds when it was
spoken, which its reader in the same process understands. Must never live here: what is good enough
(judge.py).
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from relay.canary.judge import PACKET_MS, Direction, Facts
from relay.client import (
    Call,
    CallbackSink,
    CallEndedError,
    CallState,
    ClientInfo,
    PcmSource,
    RefusedError,
    Session,
    SessionError,
    connect,
)
from relay.errors import ErrorCode, RelayError
from relay.protocol import token
from relay.protocol.ids import CallId, Jti, Sub

PATIENCE_S: Final = 10.0  # who is not ready by then never is
LINGER_S: Final = 0.5  # what is on its way, and in the jitter buffer, shall be heard
LIFE_S: Final = 60  # of a token, to join
RATE: Final = 16_000
STEP: Final = 2 * RATE // 50  # bytes of 20 ms
STAMP: Final = struct.Struct("!d")
TOC: Final = {1: 9 << 3, 2: 10 << 3, 3: 11 << 3}  # SILK, wide band, one frame of 20, 40, 60 ms (RFC 6716)
STEPS: Final = {toc: steps for steps, toc in TOC.items()}
SPREAD: Final = (0.6, 1.4)  # of the mean size, as words come and go
KEEPS_OUT: Final = frozenset(
    {
        ErrorCode.AUTH_REQUIRED,
        ErrorCode.TOKEN_INVALID,
        ErrorCode.TOKEN_EXPIRED,
        ErrorCode.TOKEN_AUDIENCE,
        ErrorCode.TOKEN_REPLAYED,
        ErrorCode.POP_FAILED,
        ErrorCode.FORBIDDEN,
        ErrorCode.TRANSPORT_DENIED,
    }
)
"""The relay was there and did not want us."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which call to place, and with what."""

    url: str
    seed: bytes
    """The canary issuer's secret."""
    seconds: float = 20.0
    audience: str = "relay"
    issuer: str = "canary"
    ca: str | None = None
    server_name: str | None = None


class Babble:
    """An encoder that says nothing: random bytes of the size of speech, with the time in them."""

    def __init__(self, clock: Callable[[], float], dice: random.Random) -> None:
        self.bitrate = 24_000
        self.packets = 0
        self.steps = 0
        self._clock = clock
        self._dice = dice

    def encode(self, pcm: bytes) -> bytes:
        """One packet."""
        steps = len(pcm) // STEP
        self.packets += 1
        self.steps += steps
        mean = self.bitrate * steps * PACKET_MS / 8000
        rest = round(mean * self._dice.uniform(*SPREAD)) - 1 - STAMP.size
        return bytes((TOC[steps],)) + STAMP.pack(self._clock()) + self._dice.randbytes(max(0, rest))


class Ear:
    """A decoder that plays silence, and notes when what was heard was spoken."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.first: float | None = None
        """When the first packet was heard."""
        self.delays_ms: list[float] = []
        self._clock = clock

    def decode(self, packet: bytes) -> bytes:
        """As long as the packet says."""
        now = self._clock()
        self.first = now if self.first is None else self.first
        self.delays_ms.append(1000 * (now - STAMP.unpack_from(packet, 1)[0]))
        return bytes(STEP * STEPS[packet[0]])

    def conceal(self, ms: float = PACKET_MS) -> bytes:
        """A hole."""
        return bytes(round(STEP * ms / PACKET_MS))


async def place(plan: Plan) -> Facts:
    """Place the call; whatever goes wrong stands in the facts."""
    call = CallId(os.urandom(16))
    tokens = [_token(plan, call) for _ in range(2)]
    began = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(PATIENCE_S):
                sessions = [await stack.enter_async_context(_connect(plan, each)) for each in tokens]
                calls = [await session.join() for session in sessions]
                for each in calls:
                    await each.accept()
                answered = asyncio.get_running_loop().time()
                await asyncio.gather(*(each.peer_accepted() for each in calls))
        except TimeoutError:
            return Facts(broken=("setup", f"not ready within {PATIENCE_S:g} s"))
        except RelayError as error:
            return Facts(broken=_why(error))
        facts = Facts(setup_s=asyncio.get_running_loop().time() - began)
        return await _talk(plan, sessions, calls, answered, facts)


async def _talk(
    plan: Plan, sessions: list[Session], calls: list[Call], answered: float, facts: Facts
) -> Facts:
    loop = asyncio.get_running_loop()
    mouths, ears = [Babble(loop.time, random.Random()) for _ in calls], [Ear(loop.time) for _ in calls]
    sink = CallbackSink(lambda pcm: None, RATE)
    listening = [
        loop.create_task(call.listen(sink, decoder=ear)) for call, ear in zip(calls, ears, strict=True)
    ]
    try:
        pcm = bytes(STEP * round(plan.seconds * 50))
        await asyncio.gather(
            *(
                call.speak(PcmSource(pcm, RATE), encoder=mouth)
                for call, mouth in zip(calls, mouths, strict=True)
            )
        )
        await asyncio.sleep(LINGER_S)
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    stats = [call.stats() for call in calls]
    ways = tuple(
        Direction(
            said=mouths[one].packets,
            active_s=mouths[one].steps * PACKET_MS / 1000,
            came=stats[other].received,
            late=stats[other].late,
            unsent=stats[one].unsent,
            first_s=None if (heard := ears[other].first) is None else heard - answered,
            delays_ms=tuple(ears[other].delays_ms),
        )
        for one, other in ((0, 1), (1, 0))
    )
    told = [call.leg_stats for call in calls if call.leg_stats is not None]
    facts = replace(
        facts,
        ways=ways,
        rtt_ms=max((one.rtt_ms for one in stats if one.rtt_ms is not None), default=None),
        relay_drops=max((one.dn_drop for one in told), default=None),
        broken=_ended(sessions, calls),
    )
    try:
        await calls[0].hangup()
    except RelayError as error:
        facts = replace(facts, broken=facts.broken or ("ended", str(error)))
    return facts


def _ended(sessions: list[Session], calls: list[Call]) -> tuple[str, str] | None:
    """Why the call is over before we hung up, if it is."""
    for session, call in zip(sessions, calls, strict=True):
        if call.state is CallState.ENDED:
            return "ended", f"the call is over: {call.why}"
        if session.error is not None:
            return "ended", str(session.error)
    return None


def _why(error: RelayError) -> tuple[str, str]:
    if isinstance(error, RefusedError | SessionError) and error.code in KEEPS_OUT:
        return "token", str(error)
    if isinstance(error, SessionError):
        return "reach", str(error)
    return ("ended" if isinstance(error, CallEndedError) else "setup"), str(error)


def _connect(plan: Plan, raw: bytes) -> AbstractAsyncContextManager[Session]:
    # No fallbacks and no way past the relay: this rung of this relay is what is looked at.
    return connect(
        plan.url,
        token=raw,
        ca=plan.ca,
        server_name=plan.server_name,
        client=ClientInfo(sdk="py", app="relay-canary", os="linux", dev="server"),
        direct=False,
        fallbacks=(),
    )


def _token(plan: Plan, call: CallId) -> bytes:
    now = int(time.time())
    claims = token.Claims(
        iss=plan.issuer,
        aud=plan.audience,
        sub=Sub(os.urandom(16)),
        cid=call,
        prm=token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E,
        iat=now,
        nbf=now,
        exp=now + LIFE_S,
        jti=Jti(os.urandom(16)),
        net=token.NET_RELAY_ONLY | token.NET_TCP_LEGS,
        age=token.AGE_ADULT,
        ctc=1,
    )
    return token.mint(claims, plan.seed)
