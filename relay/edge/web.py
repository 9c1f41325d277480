"""The WebSocket leg (RFC 6455): HTTP/1.1 inside TLS, one path, one sub-protocol, binary messages.

    GET /vrl/1, sub-protocol vrl.1    -> a leg of relay.edge.streams
    an origin that is not listed      -> 403 (no Origin header: not a browser)
    any other path                    -> 404

aiohttp reads HTTP and messages; what we send is framed here, so that a message is in the kernel's hands, or
nowhere, when `write` returns. Must never live here: what a message means, TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable

from aiohttp import WSMsgType, web

from relay.config import LimitsConfig
from relay.edge.streams import Streams
from relay.edge.tcp import TlsListener
from relay.errors import ErrorCode, PeerError
from relay.outlet import Outlet
from relay.protocol.address import Address
from relay.protocol.demux import StreamKind

PATH = "/vrl/1"
SUBPROTOCOL = "vrl.1"
CLOSE_BASE = 4000  # a close code is this and the application's
HEADERS = {"Server": "relay", "Cache-Control": "no-store", "Connection": "close"}
MAX_MESSAGE = 32 * 1024  # above it RFC 6455's own code 1009; what is too large for us has a code of ours
CLOSE_S = 2.0  # for our close frame to leave and the peer's to come
AT_ONCE = 32  # messages of one leg before others get their turn
MESSAGE_RATES = 2  # how often the greatest packet rate of a token a peer may speak, before it is read slower
_BINARY, _PING, _PONG = 0x82, 0x89, 0x8A  # first byte of a frame that is a whole message
_TEXT_REFUSED = PeerError(ErrorCode.PROTOCOL_VIOLATION, "not a binary message")


def frame(payload: bytes, first: int = _BINARY) -> bytes:
    """A server's frame: never masked, never in pieces (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return bytes((first, 126)) + size.to_bytes(2, "big") + payload


class _Wire:
    """One WebSocket as `streams.Wire`."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._outlet = Outlet(transport)
        self._closing: asyncio.Task[None] | None = None

    def is_idle(self) -> bool:
        """See `streams.Wire`; so for the next two."""
        return self._outlet.is_idle()

    def write(self, message: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame(message))

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(code, reason))

    def pong(self, payload: bytes) -> None:
        """Answer a ping, if there is room: a peer that does not read makes nothing grow."""
        if self.is_idle():
            self._transport.write(frame(payload, _PONG))

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code=CLOSE_BASE + code, message=reason.encode())
        except (TimeoutError, OSError, RuntimeError):
            pass  # it does not listen
        finally:
            self._transport.abort()


class WebEdge:
    """WebSocket legs, and the listener that they share with other kinds of streams (`listener.offer`).

    `accepting` is asked for each newcomer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LimitsConfig,
        context: ssl.SSLContext,
        origins: tuple[str, ...],
        streams: Streams,
        *,
        accepting: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._origins = frozenset(origins)
        self._streams = streams
        self._accepting = accepting
        self._clock = clock
        self._server = web.Server(
            self._answer,
            loop=loop,
            access_log=None,
            keepalive_timeout=0,
            lingering_time=0,
            tcp_keepalive=False,
            max_line_size=4096,
            max_field_size=4096,
        )
        self.listener = TlsListener(loop, limits, context)
        self.listener.offer(StreamKind.WEB, lambda *_: self._server(), is_leg=False)
        self.answered: Counter[str] = Counter()
        """Requests by the status they got; 101 is a leg."""

    def configure(self, limits: LimitsConfig, context: ssl.SSLContext, origins: tuple[str, ...]) -> None:
        """Limits, certificate and origins for connections that come from now on."""
        self._limits = limits
        self._origins = frozenset(origins)
        self.listener.configure(limits, context)

    async def close(self) -> None:
        """Listen no more, and end what is connected."""
        self.listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(CLOSE_S)

    # ------------------------------------------------------------ one request

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        status = self._judge(request)
        socket = web.WebSocketResponse(
            timeout=CLOSE_S,
            autoping=False,
            protocols=(SUBPROTOCOL,),
            compress=False,
            max_msg_size=MAX_MESSAGE,
        )
        socket.headers["Server"] = HEADERS["Server"]
        if status == 101:
            try:
                await socket.prepare(request)
            except web.HTTPException:  # no key, or none that could be one
                status = 400
        self.answered[str(status)] += 1
        if status != 101:
            return web.Response(status=status, headers=HEADERS)
        if request.transport is not None:
            self.listener.begun(request.transport)
            await self._serve(socket, request.transport)
        return socket

    def _judge(self, request: web.BaseRequest) -> int:
        if request.path != PATH:
            return 404
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins:
            return 403
        if not self._accepting():
            return 503
        if request.method != "GET" or request.headers.get("Upgrade", "").lower() != "websocket":
            return 426
        if request.headers.get("Sec-WebSocket-Version") != "13":
            return 400
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        return 101 if SUBPROTOCOL in (name.strip() for name in offered) else 400

    async def _serve(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        peer = transport.get_extra_info("peername")
        if peer is None:
            return
        wire = _Wire(socket, transport)
        leg = self._streams.open(wire, Address.parse(peer), "ws")
        try:
            await self._read(socket, wire, leg)
        finally:
            self._streams.lost(leg, _code(socket.close_code))

    async def _read(self, socket: web.WebSocketResponse, wire: _Wire, leg: int) -> None:
        since, count = self._clock(), 0
        while True:
            message = await socket.receive()
            if message.type is WSMsgType.BINARY:
                self._streams.message(leg, message.data)
            elif message.type is WSMsgType.TEXT:
                self._streams.refuse(leg, _TEXT_REFUSED)
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                self._streams.heard(leg)
                if message.type is WSMsgType.PING:
                    wire.pong(message.data)
            else:
                return  # over, or it broke RFC 6455 and aiohttp said so
            count += 1
            if count % AT_ONCE == 0:
                now = self._clock()
                if now - since >= 1.0:
                    since, count = now, 0
                # Whoever speaks faster than any token allows is read at that pace, and held by TCP.
                elif count >= MESSAGE_RATES * self._limits.max_pps:
                    await asyncio.sleep(since + 1.0 - now)
                    since, count = self._clock(), 0
                await asyncio.sleep(0)


def _code(close_code: int | None) -> int:
    """The application's code of a peer's close code; GENERAL for what is no goodbye."""
    if close_code in (1000, 1001):
        return ErrorCode.NO_ERROR
    if close_code is not None and CLOSE_BASE <= close_code < CLOSE_BASE + 256:
        return close_code - CLOSE_BASE
    return ErrorCode.GENERAL
