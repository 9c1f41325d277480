"""An HTTP proxy that knows CONNECT and nothing else (RFC 9110 section 9.3.6): one network's only way out.

    python -m lab.proxy ADDRESS PORT

Must never live here: caching, credentials, a second method.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Final

_CHUNK: Final = 16384
_CONNECT_S: Final = 5.0


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _at_once(writer: asyncio.StreamWriter) -> None:
    """Speech must not wait in a proxy for more of its kind."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split()
        if head[0] != "CONNECT":
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        host, _, port = head[1].rpartition(":")
        async with asyncio.timeout(_CONNECT_S):
            far_reader, far_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        with contextlib.closing(far_writer):
            _at_once(writer)
            _at_once(far_writer)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(_serve, sys.argv[1], int(sys.argv[2]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
