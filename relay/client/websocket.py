"""The SDK's leg over TCP 443, for networks that block UDP: WebSocket in TLS, by an HTTP proxy if need be.

    control frames    C0 || msgpack, in order         datagrams    as they are, within 200 ms or not at all

A media datagram is written only while the one before has left the machine: what waits longer is dropped here,
where it can be counted, and not queued where it only grows old. Must never live here: protocol content.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from typing import Final
from urllib.request import getproxies, proxy_bypass

import aiohttp

from relay.client.errors import SessionError
from relay.client.transport import HANDSHAKE_S, MAX_DATAGRAM, Handler, Trust
from relay.errors import ErrorCode, LocalError
from relay.outlet import is_idle, send_soon
from relay.protocol.control import MAX_FRAME, FrameReader

PATH: Final = "/vrl/1"
SUBPROTOCOL: Final = "vrl.1"
CONTROL: Final = 0xC0
LAST_DATAGRAM: Final = 0x3F
CLOSE_BASE: Final = 4000
QUEUE_FRAMES: Final = 10
QUEUE_S: Final = 0.200
LOOK_S: Final = 0.010  # between two looks at a socket that still holds something
CLOSE_S: Final = 1.0
GOODBYE_TURNS: Final = 3  # of the loop, in which it sees that the socket was shut and lets it go
_STATUS: Final = {403: ErrorCode.ORIGIN_DENIED, 503: ErrorCode.DRAINING}


class WebSocketTransport:
    """One WebSocket with the face of `relay.client.transport.Transport`. Made by `open_websocket`."""

    name = "ws"

    def __init__(
        self, session: aiohttp.ClientSession, web: aiohttp.ClientWebSocketResponse, handler: Handler
    ) -> None:
        self._session = session
        self._web = web
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._fd: int = web.get_extra_info("socket").fileno()
        self._door = os.dup(self._fd)  # what is left to shut at the end
        self._control: deque[bytes] = deque()
        self._reader = FrameReader()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._wanted = asyncio.Event()
        self._is_closed = False
        self.unsent = 0  # media dropped here: too old, or too many
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        """True once `on_closed` was called."""
        return self._is_closed

    @property
    def local_port(self) -> int:
        """The TCP port we send from."""
        name = self._web.get_extra_info("sockname")
        return int(name[1]) if name else 0

    def write(self, data: bytes) -> None:
        """Send whole frames of the control stream."""
        if not self._is_closed:
            self._control.extend(bytes((CONTROL,)) + frame for frame in self._reader.feed(data))
            self._wanted.set()

    def send(self, payload: bytes) -> None:
        """Send a datagram now, or within 200 ms, or not at all."""
        if len(payload) > MAX_DATAGRAM:
            raise LocalError(f"a datagram of {len(payload)} bytes does not fit a packet")
        if self._is_closed:
            return
        self._queue.append((self._loop.time() + QUEUE_S, payload))
        if len(self._queue) > QUEUE_FRAMES:
            self._give_up(self._queue.popleft()[1])
        self._wanted.set()

    async def rebind(self) -> int:
        """TCP does not move: LocalError. `Session.rejoin` makes a new leg."""
        raise LocalError("a leg over TCP cannot move to another port: rejoin instead")

    def close(self, code: int = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Close with an application code, after the control frames before it; `on_closed` comes at once."""
        self._end(code, reason, CLOSE_BASE + code)

    async def wait_closed(self) -> None:
        """Wait until the relay was told, a second at most, and the socket is closed."""
        if self._ending is None:
            await asyncio.wait([self._tasks[1]])
        if self._ending is not None:
            await asyncio.shield(self._ending)

    # ------------------------------------------------------------ inside

    def _give_up(self, payload: bytes) -> None:
        self.unsent += payload[0] != 0  # control datagrams are not media

    async def _write(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it broke: the reader sees that too
            while await self._wanted.wait():
                self._wanted.clear()
                while self._control or self._queue:
                    await self._write_one()

    async def _write_one(self) -> None:
        if self._control:
            await self._web.send_bytes(self._control.popleft())
        elif self._queue[0][0] < self._loop.time():
            self._give_up(self._queue.popleft()[1])
        elif is_idle(self._fd):
            await self._web.send_bytes(self._queue.popleft()[1])
        else:
            await asyncio.sleep(LOOK_S)

    async def _read(self) -> None:
        while True:
            message = await self._web.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            self._take(message.data)
        reason = message.extra if isinstance(message.extra, str) else ""
        self._end(*_application_code(self._web.close_code, reason), None)

    def _take(self, data: bytes) -> None:
        first = data[0] if data else 0xFF
        if self._is_closed:
            return
        if first <= LAST_DATAGRAM:
            self._handler.on_datagram(data)
        elif first == CONTROL and len(data) <= 1 + MAX_FRAME:
            self._handler.on_stream((len(data) - 1).to_bytes(2, "big") + data[1:])
        else:
            self.close(ErrorCode.PROTOCOL_VIOLATION, "neither a datagram nor a control message")

    def _end(self, code: int, reason: str, close_code: int | None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.clear()
        self._ending = self._loop.create_task(self._finish(close_code, reason))
        self._handler.on_closed(code, reason)

    async def _finish(self, close_code: int | None, reason: str) -> None:
        """Last words, the close frame, and all that is ours goes. `close_code` None: the relay closed."""
        self._tasks[0].cancel()
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if close_code is not None:
                    while self._control:
                        await self._web.send_bytes(self._control.popleft())
                    await self._web.close(code=close_code, message=reason.encode()[:123])
        self._tasks[1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        # TLS would wait for the relay's last word; all that mattered was said above.
        with contextlib.suppress(OSError), socket.socket(fileno=self._door) as door:
            door.shutdown(socket.SHUT_RDWR)
        for _ in range(GOODBYE_TURNS):
            await asyncio.sleep(0)


async def open_websocket(
    host: str, port: int, trust: Trust, handler: Handler, proxy: str | None = None
) -> WebSocketTransport:
    """Connect to the relay. `proxy`: "http://[user:password@]host:port"; else as the environment says.

    SessionError if it cannot be found, reached or trusted.
    """
    if proxy is None and not proxy_bypass(host):
        proxy = getproxies().get("https")
    context = _context(trust)
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(force_close=True)
    )
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            web = await session.ws_connect(
                f"wss://{f'[{host}]' if ':' in host else host}:{port}{PATH}",
                protocols=(SUBPROTOCOL,),
                ssl=context,
                server_hostname=trust.server_name,
                proxy=proxy or None,
                max_msg_size=1 + MAX_FRAME,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
        sock: socket.socket = web.get_extra_info("socket")
        with contextlib.suppress(OSError):
            send_soon(sock)
        return WebSocketTransport(session, web, handler)
    except BaseException as error:
        await session.close()
        refused = _refusal(error)
        if refused is None:
            raise
        raise refused from None


def _context(trust: Trust) -> ssl.SSLContext:
    if trust.ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(trust.ca)
        except OSError as error:
            raise SessionError(ErrorCode.GENERAL, f"CA file: {error.strerror}") from None
    if trust.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _refusal(error: BaseException) -> SessionError | None:
    match error:
        case aiohttp.WSServerHandshakeError(status=status):
            code = _STATUS.get(status, ErrorCode.GENERAL)
            return SessionError(code, f"the relay answered with HTTP status {status}")
        case aiohttp.ClientHttpProxyError(status=status):
            return SessionError(ErrorCode.GENERAL, f"the proxy answered with HTTP status {status}")
        case aiohttp.ClientConnectorCertificateError():
            return SessionError(ErrorCode.GENERAL, "the relay's certificate is not trusted")
        case aiohttp.ClientConnectorDNSError():
            return SessionError(ErrorCode.GENERAL, "the relay's name has no address")
        case TimeoutError():
            return SessionError(ErrorCode.IDLE_TIMEOUT, "no answer from the relay")
        case aiohttp.ClientError() | OSError():
            return SessionError(ErrorCode.GENERAL, "the relay cannot be reached")
    return None


def _application_code(close_code: int | None, reason: str) -> tuple[int, str]:
    """The relay's own code, or one of ours for what it did not say."""
    if close_code in (1000, 1001):
        return ErrorCode.NO_ERROR, reason
    if close_code is not None and CLOSE_BASE <= close_code < CLOSE_BASE + 256:
        return close_code - CLOSE_BASE, reason
    return ErrorCode.GENERAL, "the connection broke"
