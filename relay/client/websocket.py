"""The SDK's leg over TCP 443, for networks that block UDP: WebSocket in TLS, by an HTTP proxy if need be.

Must never live here: protocol content, and what a leg in bare TLS does as well (stream.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final
from urllib.request import getproxies, proxy_bypass

import aiohttp

from relay.client.errors import SessionError
from relay.client.stream import CLOSE_S, StreamTransport, tls_context
from relay.client.transport import HANDSHAKE_S, Handler, Trust
from relay.errors import ErrorCode
from relay.outlet import send_soon
from relay.protocol.control import MAX_FRAME

PATH: Final = "/vrl/1"
SUBPROTOCOL: Final = "vrl.1"
CLOSE_BASE: Final = 4000
GOODBYE_TURNS: Final = 3  # of the loop, in which it sees that the socket was shut and lets it go
_STATUS: Final = {403: ErrorCode.ORIGIN_DENIED, 503: ErrorCode.DRAINING}


class WebSocketTransport(StreamTransport):
    """One WebSocket with the face of `relay.client.transport.Transport`. Made by `open_websocket`."""

    name = "ws"

    def __init__(
        self, session: aiohttp.ClientSession, web: aiohttp.ClientWebSocketResponse, handler: Handler
    ) -> None:
        self._session = session
        self._web = web
        self._door = os.dup(web.get_extra_info("socket").fileno())  # what is left to shut at the end
        super().__init__(handler, web.get_extra_info("socket"), web.get_extra_info("sockname"))

    # ------------------------------------------------------------ inside

    async def _put(self, record: bytes) -> None:
        await self._web.send_bytes(record)

    async def _read(self) -> None:
        while True:
            message = await self._web.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            self._take(message.data)
        reason = message.extra if isinstance(message.extra, str) else ""
        self._end(*_application_code(self._web.close_code, reason), is_ours=False)

    async def _say_goodbye(self, code: int, reason: str) -> None:
        await self._web.close(code=CLOSE_BASE + code, message=reason.encode()[:123])

    async def _let_go(self) -> None:
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
    context = tls_context(trust, "http/1.1")
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
