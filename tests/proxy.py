"""An HTTP proxy that knows CONNECT (RFC 9110 section 9.3.6) and nothing else: for clients behind one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator


class Proxy:
    """Keeps what it was asked for; `credentials` ("user:password") are demanded if set."""

    def __init__(self, credentials: str | None = None) -> None:
        self.port = 0
        self.asked: list[str] = []
        self._credentials = credentials
        self._far: list[asyncio.StreamWriter] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        who = f"{self._credentials}@" if self._credentials else ""
        return f"http://{who}127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Take nothing from the far side any more."""
        for writer in self._far:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's can

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target = head.split()[:2]
            wanted = base64.b64encode((self._credentials or "").encode()).decode()
            if self._credentials is not None and f"Basic {wanted}" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            assert method == "CONNECT"
            self.asked.append(target)
            host, _, port = target.rpartition(":")
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # `stall` shall be felt soon
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
            far_reader, far_writer = await asyncio.open_connection(sock=sock)
            self._far.append(far_writer)
            with contextlib.closing(far_writer):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()


@contextlib.asynccontextmanager
async def proxy(credentials: str | None = None) -> AsyncIterator[Proxy]:
    """A running one on loopback."""
    made = Proxy(credentials)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
