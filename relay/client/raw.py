"""The SDK's leg in bare TLS (ALPN vrl/1) on TCP 443: records, no HTTP; for networks without a proxy.

The relay's last record is a `bye` with its code, as ours is. Must never live here: protocol content but this,
and what a WebSocket leg does as well (stream.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from relay.client.errors import SessionError
from relay.client.stream import StreamTransport, tls_context
from relay.client.transport import ALPN, HANDSHAKE_S, Handler, Trust
from relay.errors import ErrorCode, PeerError
from relay.outlet import send_soon
from relay.protocol.control import Bye, decode, encode_body
from relay.protocol.records import CONTROL, RecordReader, encode_record

READ: Final = 16_384  # bytes, the most that a TLS record has


class RawTransport(StreamTransport):
    """One connection with the face of `relay.client.transport.Transport`. Made by `open_raw`."""

    name = "tls"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self._reading = reader
        self._writer = writer
        super().__init__(handler, writer.get_extra_info("socket"), writer.get_extra_info("sockname"))

    # ------------------------------------------------------------ inside

    async def _put(self, record: bytes) -> None:
        self._writer.write(encode_record(record))
        await self._writer.drain()

    async def _read(self) -> None:
        records = RecordReader()
        try:
            while data := await self._reading.read(READ):
                records.feed(data)
                while (record := records.next()) is not None:
                    self._take_record(record)
        except PeerError as error:
            self.close(error.code, error.message)
        except OSError:
            pass
        self._end(ErrorCode.GENERAL, "the connection broke", is_ours=False)

    def _take_record(self, record: bytes) -> None:
        message = decode(record[1:]).body if record[0] == CONTROL else None
        if isinstance(message, Bye):
            self._end(message.code, message.reason, is_ours=False)
        else:
            self._take(record)

    async def _say_goodbye(self, code: int, reason: str) -> None:
        await self._put(bytes((CONTROL,)) + encode_body(Bye(code=code, reason=reason)))
        self._writer.close()  # what was written leaves first
        await self._writer.wait_closed()

    async def _let_go(self) -> None:
        self._writer.transport.abort()


async def open_raw(host: str, port: int, trust: Trust, handler: Handler) -> RawTransport:
    """Connect to the relay, by no proxy. SessionError if it cannot be found, reached or trusted."""
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls_context(trust, ALPN), server_hostname=trust.server_name or host
            )
    except TimeoutError:
        raise SessionError(ErrorCode.IDLE_TIMEOUT, "no answer from the relay") from None
    except ssl.SSLCertVerificationError:
        raise SessionError(ErrorCode.GENERAL, "the relay's certificate is not trusted") from None
    except OSError:  # ssl.SSLError, socket.gaierror
        raise SessionError(ErrorCode.GENERAL, "the relay cannot be reached") from None
    if writer.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
        writer.transport.abort()
        raise SessionError(ErrorCode.GENERAL, "the relay has no legs in bare TLS")
    with contextlib.suppress(OSError):
        send_soon(writer.get_extra_info("socket"))
    return RawTransport(reader, writer, handler)
