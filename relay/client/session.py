"""One participant's leg to the relay, and the way back to it when it breaks.

    async with connect(url, token=...) as session:
        call = await session.join()

Must never live here: what a call does with its messages, QUIC's own business.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.client import websocket
from relay.client.call import Call
from relay.client.errors import RefusedError, SessionError
from relay.client.life import CallState
from relay.client.link import Credentials, Link, TransportName
from relay.client.transport import LegTransport, Trust, open_transport
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.datagram import Datagram, decode_datagram, encode_datagram
from relay.protocol.messages import (
    Bye,
    Cli,
    Drain,
    Err,
    Join,
    Joined,
    Message,
    Obs,
    Rejoin,
    Ticket,
    Welcome,
)

ANSWER_S: Final = 5.0  # an answer is one round trip away; a relay that needs longer is not there
DEFAULT_PORT: Final = 443
DEFAULT_CLIENT: Final = Cli(sdk="py", app="relay-cli", os="linux", dev="desktop")


class Destination(NamedTuple):
    """Where a relay is, and how to get there."""

    transport: TransportName
    host: str
    port: int


class Session:
    """A leg that was admitted. Made by `connect`; implements what `Call` needs of it."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        trust: Trust,
        identity: bytes,
        client: Cli,
        proxy: str | None = None,
    ) -> None:
        self._to = parse_url(url)
        self._proxy = proxy
        self._credentials = credentials
        self._trust = trust
        self._identity = Ed25519PrivateKey.from_private_bytes(identity)
        self._client = client
        self._link = Link(credentials, client, self._to.transport)
        self._transport: LegTransport | None = None
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._welcome: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._error: SessionError | None = None
        self._ticket: bytes | None = None
        self._unsent_before = 0
        self.malformed = 0  # control datagrams that could not be read
        self.call: Call | None = None
        self.observed: tuple[str, int] | None = None
        """Our address as the relay sees it."""
        self.drain: Drain | None = None
        """Set when the relay asked us to move."""

    # ------------------------------------------------------------ what the application asks

    @property
    def welcome(self) -> Welcome | None:
        """What the relay said at the door: node, limits, observed address."""
        return self._link.welcome

    @property
    def error(self) -> SessionError | None:
        """Why the leg is gone; None while it lives."""
        return self._error

    @property
    def transport(self) -> TransportName:
        """How we are connected: quic or ws."""
        return self._to.transport

    @property
    def local_port(self) -> int:
        """The UDP or TCP port we send from."""
        return self._transport.local_port if self._transport else 0

    @property
    def media_unsent(self) -> int:
        """Media dropped before the network, all legs of this session together."""
        return self._unsent_before + (self._transport.unsent if self._transport else 0)

    async def join(self) -> Call:
        """Enter the call that the token names."""
        await self.request(Join(c=self._credentials.call))
        if self.call is None:
            raise SessionError(
                ErrorCode.PROTOCOL_VIOLATION, "the relay answered the join with something else"
            )
        return self.call

    async def rebind(self) -> int:
        """Move to a new local UDP port within the connection, as a phone does that changes networks.

        LocalError over WebSocket: TCP cannot move, `rejoin` instead.
        """
        return await self._open_transport().rebind()

    async def rejoin(self, url: str | None = None, token: bytes | None = None) -> None:
        """Take our place in the call again over a new connection, with the ticket of the old one.

        A ticket is no credential by itself: it needs the key that the token named (`pop_seed`), else a fresh
        token of the same call.
        """
        if self.call is None or self._ticket is None:
            raise LocalError("there is no call to come back to, or no ticket for it")
        if self.call.state is CallState.ENDED:
            raise LocalError("the call is over")
        if url is not None:
            self._to = parse_url(url)
        self._drop_transport("rejoining")
        self._credentials = replace(self._credentials, ticket=self._ticket, token=token)
        self._link = Link(self._credentials, self._client, self._to.transport)
        self._error = None
        await self.open()
        last = self.call.newest()
        await self.request(Rejoin(c=self._credentials.call, rt=self._ticket, last=last))

    async def close(self) -> None:
        """Leave: the relay is told, all tasks end."""
        if self.call is not None:
            await self.call.close()
        if self._transport is not None and not self._transport.is_closed:
            self._link.bye()
            self._flush()
            self._transport.close(ErrorCode.NO_ERROR)
        if self._transport is not None:
            await self._transport.wait_closed()

    async def open(self) -> None:
        """Shake hands and be admitted. SessionError with the relay's code if it will not."""
        self._welcome = asyncio.get_running_loop().create_future()
        _, host, port = self._to
        if self._to.transport == "ws":
            self._transport = await websocket.open_websocket(host, port, self._trust, self, self._proxy)
        else:
            self._transport = await open_transport(host, port, self._trust, self)
        self._flush()
        await self._answer(self._welcome)

    # ------------------------------------------------------------ what the call asks

    async def request(self, message: Message) -> Message:
        """Send a message and wait for its answer."""
        if self._error is not None:
            raise self._error
        number = self._link.request(message)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._flush()
        try:
            return await self._answer(future)
        finally:
            self._waiting.pop(number, None)

    def tell(self, message: Message) -> None:
        """Send a message that wants no answer."""
        self._link.tell(message)
        self._flush()

    def send_media(self, payload: bytes) -> None:
        """Send a media datagram."""
        if self._transport is not None:
            self._transport.send(payload)

    def send_control(self, datagram: Datagram) -> None:
        """Send a control datagram."""
        if self._transport is not None:
            self._transport.send(encode_datagram(datagram))

    # ------------------------------------------------------------ what the transport tells

    def on_stream(self, data: bytes) -> None:
        """Bytes of the control stream."""
        try:
            news = self._link.feed(data)
        except PeerError as error:
            self._open_transport().close(error.code, error.message)
            return
        for number, message in news:
            self._on_message(number, message)
        self._flush()

    def on_datagram(self, data: bytes) -> None:
        """A datagram: first byte 0 is ours to read, the rest is media."""
        if self.call is None or not data:
            return
        if data[0]:
            self.call.on_media(data)
            return
        try:
            self.call.on_control(decode_datagram(data))
        except PeerError:
            self.malformed += 1

    def on_closed(self, code: int, reason: str) -> None:
        """The connection is over."""
        self._error = SessionError(code, reason)
        for future in (*self._waiting.values(), self._welcome):
            if not future.done():
                future.set_exception(self._error)
                future.exception()  # whoever waits gets it; nobody waiting is no error
        if self.call is not None:
            self.call.on_leg_lost()

    # ------------------------------------------------------------ inside

    def _on_message(self, number: int, message: Message) -> None:
        # State first, answers second: what follows in the same bytes must find the call there.
        match message:
            case Welcome():
                self.observed = message.obs
                self._settle(self._welcome, message)
            case Joined():
                self._on_joined(message)
            case Ticket():
                self._ticket = message.rt
            case Obs():
                self.observed = (message.ip, message.port)
            case Drain():
                self.drain = message
            case Bye():
                self._open_transport().close(message.code, message.reason)
                return
            case Err() if not self._welcome.done():
                self._settle(self._welcome, message)
            case _:
                if self.call is not None:
                    self.call.on_message(message)
        waiting = self._waiting.get(number)
        if number and waiting is not None:
            self._settle(waiting, message)

    def _on_joined(self, message: Joined) -> None:
        self._ticket = message.rt or self._ticket
        if self.call is None:
            self.call = Call(self, message, self._identity)
        else:
            self.call.on_joined(message)

    @staticmethod
    def _settle(future: asyncio.Future[Message], message: Message) -> None:
        if not future.done():
            future.set_result(message)

    async def _answer(self, future: asyncio.Future[Message]) -> Message:
        try:
            async with asyncio.timeout(ANSWER_S):
                message = await future
        except TimeoutError:
            raise SessionError(ErrorCode.IDLE_TIMEOUT, "the relay does not answer") from None
        if isinstance(message, Err):
            raise RefusedError(message.code, message.msg, message.retry_ms)
        return message

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(self._link.take())

    def _open_transport(self) -> LegTransport:
        if self._transport is None:
            raise LocalError("the session is not open")
        return self._transport

    def _drop_transport(self, reason: str) -> None:
        if self._transport is None:
            return
        self._unsent_before += self._transport.unsent
        self._transport.close(ErrorCode.NO_ERROR, reason)
        self._transport = None


def parse_url(url: str) -> Destination:
    """Where "quic://host:port" or "wss://host:port/vrl/1" leads. LocalError for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets without an address in them, or a port that is none
        parts, host, port = urlsplit(""), None, None
    if host and parts.scheme == "quic":
        return Destination("quic", host, port or DEFAULT_PORT)
    if host and parts.scheme == "wss" and parts.path in ("", "/", websocket.PATH):
        return Destination("ws", host, port or DEFAULT_PORT)
    raise LocalError("a relay's address looks like quic://host:port or wss://host:port/vrl/1")


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: bytes,
    pop_seed: bytes | None = None,
    identity: bytes | None = None,
    ca: str | Path | None = None,
    insecure: bool = False,
    server_name: str | None = None,
    client: Cli = DEFAULT_CLIENT,
    proxy: str | None = None,
) -> AsyncIterator[Session]:
    """Open a leg to the relay at `url` with a capability token; close it on leaving the block.

    `pop_seed` is the Ed25519 seed (32 bytes) whose public key the token names as `cnf`. `identity` is the
    seed of the key that signs the end-to-end agreement (a fresh one if absent). `ca` is a PEM file of the CA,
    or of the relay's own certificate to pin exactly that one; `insecure` checks nothing. `proxy` is the HTTP
    proxy for a wss address, "http://[user:password@]host:port"; without it HTTPS_PROXY and NO_PROXY count.

    Raises SessionError if the relay cannot be reached or trusted, RefusedError if it does not admit us.
    """
    session = Session(
        url,
        Credentials.of_token(token, pop_seed),
        Trust(ca, insecure, server_name),
        identity or os.urandom(32),
        client,
        proxy,
    )
    try:
        await session.open()
        yield session
    finally:
        await session.close()
