"""One leg to a relay: a connection, its conversation, its flows, and how well it carries.

    open -> (trial: pings only) -> hello -> (rejoin) -> carry -> close

Must never live here: which leg is in use (session.py), whether it should be (ladder.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from relay.client.errors import RefusedError, SessionError
from relay.client.health import Health
from relay.client.link import Credentials, Link, TransportName
from relay.client.raw import open_raw
from relay.client.rungs import Destination
from relay.client.transport import Handler, LegTransport, Transport, Trust, open_transport
from relay.client.websocket import open_websocket
from relay.errors import ErrorCode, PeerError
from relay.protocol.datagram import (
    CONTROL,
    PONG,
    TALLIED,
    Ping,
    Pong,
    Tallied,
    Tally,
    decode_datagram,
    encode_datagram,
)
from relay.protocol.messages import Cli, Err, Message, Welcome

ANSWER_S: Final = 5.0  # an answer is one round trip away; a relay that needs longer is not there
LOOK_S: Final = 0.08  # whoever judges legs looks every 50 ms (climb.py)
_ANSWERS: Final = (bytes((CONTROL, PONG)), bytes((CONTROL, TALLIED)))
_OURS: Final = 0x8000_0000  # sequence numbers of a leg's own pings; the call's have this bit clear


Opener = Callable[[Destination, Trust, Handler, str | None], Awaitable[LegTransport]]


async def _open_quic(to: Destination, trust: Trust, handler: Handler, proxy: str | None) -> LegTransport:
    return await open_transport(to.host, to.port, trust, handler)


async def _open_web(to: Destination, trust: Trust, handler: Handler, proxy: str | None) -> LegTransport:
    return await open_websocket(to.host, to.port, trust, handler, proxy)


async def _open_raw(to: Destination, trust: Trust, handler: Handler, proxy: str | None) -> LegTransport:
    return await open_raw(to.host, to.port, trust, handler)


OPENERS: Final[Mapping[TransportName, Opener]] = {"quic": _open_quic, "ws": _open_web, "tls": _open_raw}


class Owner(Protocol):
    """Who hears of the leg."""

    def on_message(self, leg: RelayLeg, number: int, message: Message) -> None:
        """A message that is not the link's own business."""

    def on_leg_datagram(self, leg: RelayLeg, data: bytes) -> None:
        """A media datagram, or a control datagram that is not the leg's own."""

    def on_leg_closed(self, leg: RelayLeg, error: SessionError) -> None:
        """It is over."""


class RelayLeg:
    """A leg on one rung."""

    def __init__(
        self, number: int, rung: int, to: Destination, owner: Owner, proxy: str | None = None
    ) -> None:
        self.number = number
        self.rung = rung
        self.to = to
        self.health = Health(LOOK_S)
        self.link: Link | None = None
        self.transport: LegTransport | None = None
        self.up: int | None = None
        """Our uplink flow on this leg, once joined."""
        self.is_behind = False
        """The call went on to another node: what this one says of it counts no more."""
        self.error: SessionError | None = None
        """Why it is over; None while it lives."""
        self._owner = owner
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._forgiven = 0
        self._welcome: asyncio.Future[Message] = self._loop.create_future()
        self._waiting: dict[int, asyncio.Future[Message]] = {}

    # ------------------------------------------------------------ life

    async def open(self, trust: Trust) -> None:
        """Connect. SessionError if that cannot be done."""
        self.transport = await OPENERS[self.to.transport](self.to, trust, self, self._proxy)

    async def hello(
        self, credentials: Credentials, client: Cli, *, nacks: bool = False, stands: bool = False
    ) -> None:
        """Be admitted. RefusedError, SessionError. `nacks`: losses are told by name, both ways.

        `stands`: to wait until the leg is needed, by a hand-over ticket.
        """
        self.link = Link(credentials, client, self.to.transport, nacks=nacks, stands=stands)
        self.flush()
        await self._answer(self._welcome)

    def close(self, reason: str = "") -> None:
        """Let it go."""
        if self.transport is not None:
            self.transport.close(ErrorCode.NO_ERROR, reason)

    async def end(self) -> None:
        """Let it go, and wait until the relay was told, as far as that takes time."""
        self.close()
        if self.transport is not None:
            await self.transport.wait_closed()

    # ------------------------------------------------------------ talk

    async def request(self, message: Message) -> Message:
        """Send a message and wait for its answer."""
        if self.error is not None:
            raise self.error
        assert self.link is not None
        number = self.link.request(message)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[number] = future
        self.flush()
        try:
            return await self._answer(future)
        finally:
            self._waiting.pop(number, None)

    def tell(self, message: Message) -> None:
        """Send a message that wants no answer."""
        if self.link is not None:
            self.link.tell(message)
            self.flush()

    def flush(self) -> None:
        """Write what the link has to say."""
        if self.transport is not None and self.link is not None:
            self.transport.write(self.link.take())

    def send_media(self, payload: bytes) -> None:
        """Send a media datagram on this leg's flow: the flow is no part of what is sealed."""
        if self.transport is not None and self.up is not None:
            self.transport.send(bytes((self.up,)) + payload[1:])

    def send(self, payload: bytes) -> None:
        """Send a datagram as it is."""
        if self.transport is not None:
            self.transport.send(payload)

    def ping(self, now: float, *, busy: bool) -> None:
        """Ask how the leg does, if it is time."""
        number, base = self.health.ping(now, busy=busy), self.health.tally(now)
        if self.transport is None:
            return
        if number is not None:
            self.transport.send(encode_datagram(Ping(round(now * 1000) & 0xFFFF_FFFF, _OURS | number)))
        if base is not None:
            self.transport.send(encode_datagram(Tally(_OURS | base)))

    @property
    def unsent(self) -> int:
        """Media dropped before the network since it was forgiven."""
        return self.transport.unsent - self._forgiven if self.transport else 0

    def forgive(self) -> None:
        """What was dropped until now went by another leg, or is counted already."""
        self._forgiven += self.unsent

    @property
    def repeated(self) -> int:
        """Media that went again, since the relay did not get it."""
        return self.transport.repeated if self.transport else 0

    @property
    def quic(self) -> Transport | None:
        """The connection if it is one over UDP."""
        return self.transport if isinstance(self.transport, Transport) else None

    # ------------------------------------------------------------ what the transport tells

    def on_stream(self, data: bytes) -> None:
        """Bytes of the control stream."""
        if self.link is None:
            return  # nothing was said yet, so nothing is answered
        try:
            news = self.link.feed(data)
        except PeerError as error:
            assert self.transport is not None
            self.transport.close(error.code, error.message)
            return
        for number, message in news:
            # State first, answers second: what follows in the same bytes must find the call there.
            self._owner.on_message(self, number, message)
            self._settle(number, message)
        self.flush()

    def on_datagram(self, data: bytes) -> None:
        """A datagram: the answers to our own pings stay here."""
        if data[:2] in _ANSWERS:
            try:
                answer = decode_datagram(data)
            except PeerError:
                answer = None
            if isinstance(answer, Pong) and answer.seq & _OURS:
                self.health.on_pong(answer.seq & ~_OURS, self._loop.time(), answer.answer_ms)
                return
            if isinstance(answer, Tallied):
                self.health.on_tallied(answer.base & ~_OURS, answer.map)
                return
        self._owner.on_leg_datagram(self, data)

    def on_closed(self, code: int, reason: str) -> None:
        """The connection is over: whoever waits for an answer hears it."""
        self.error = SessionError(code, reason)
        for future in (*self._waiting.values(), self._welcome):
            if not future.done():
                future.set_exception(self.error)
                future.exception()  # whoever waits gets it; nobody waiting is no error
        self._owner.on_leg_closed(self, self.error)

    # ------------------------------------------------------------ inside

    def _settle(self, number: int, message: Message) -> None:
        is_welcome = isinstance(message, Welcome | Err)
        if is_welcome and not self._welcome.done():
            self._welcome.set_result(message)
        waiting = self._waiting.get(number)
        if number and waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def _answer(self, future: asyncio.Future[Message]) -> Message:
        try:
            async with asyncio.timeout(ANSWER_S):
                message = await future
        except TimeoutError:
            raise SessionError(ErrorCode.IDLE_TIMEOUT, "the relay does not answer") from None
        if isinstance(message, Err):
            raise RefusedError(message.code, message.msg, message.retry_ms, message.data)
        return message
