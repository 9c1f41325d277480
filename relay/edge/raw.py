"""The leg in bare TLS (ALPN vrl/1): records in both directions, for native clients where UDP is blocked.

    TLS is there --> a leg of relay.edge.streams --> records, 32 before others get their turn
    a close code --> `bye` as the last record, then the end of TLS

Must never live here: what a record means, TLS.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from relay.config import LimitsConfig
from relay.edge.bucket import Bucket
from relay.edge.streams import Streams
from relay.errors import ErrorCode, PeerError
from relay.outlet import Outlet
from relay.protocol.address import Address
from relay.protocol.control import Bye, encode_body
from relay.protocol.records import CONTROL, RecordReader, encode_record

AT_ONCE: Final = 32  # records of one leg before others get their turn
RECORD_RATES: Final = (
    2  # how often the greatest packet rate of a token a peer may speak, then it is read slower
)
PACE_S: Final = 0.05  # until a peer that spoke too fast is read again


class RawLeg(asyncio.Protocol):
    """One connection, which is also its leg's `streams.Wire`."""

    def __init__(self, edge: RawEdge, address: Address, pps: float) -> None:
        self._edge = edge
        self._address = address
        self._rate = Bucket(RECORD_RATES * pps, RECORD_RATES * pps)
        self._reader = RecordReader()
        self._leg: int | None = None
        self._is_over = False
        self._transport: asyncio.Transport
        self._outlet: Outlet
        self._next: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._outlet = Outlet(self._transport)
        self._edge.open.add(self)
        if self._edge.accepting():
            self._leg = self._edge.streams.open(self, self._address, "tls")
        else:
            self.close(ErrorCode.DRAINING, "")

    def data_received(self, data: bytes) -> None:
        if self._leg is None or self._is_over:
            return
        self._reader.feed(data)
        if self._next is None:
            self._work(self._leg)

    def _work(self, leg: int) -> None:
        """Deal with what came, in turns, no faster than twice what any token allows."""
        loop = self._edge.loop
        self._next = None
        try:
            for _ in range(AT_ONCE):
                if self._is_over:
                    return
                record = self._reader.next()
                if record is None:
                    self._transport.resume_reading()
                    return
                self._edge.streams.message(leg, record)
                if not self._rate.take(1, self._edge.clock()):
                    self._wait(loop.call_later(PACE_S, self._work, leg))
                    return
        except PeerError as error:
            self._edge.streams.refuse(leg, error)
        else:
            self._wait(loop.call_soon(self._work, leg))

    def _wait(self, following: asyncio.Handle) -> None:
        self._next = following
        self._transport.pause_reading()

    def is_idle(self) -> bool:
        """See `streams.Wire`; so for the next two."""
        return self._outlet.is_idle()

    def write(self, message: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode_record(message))

    def close(self, code: int, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self.write(bytes((CONTROL,)) + encode_body(Bye(code=code, reason=reason)))
            self._transport.close()  # a second later it is cut off (tcp.py: the shutdown's time)
            self._stop()

    def abort(self) -> None:
        """The node ends."""
        self._transport.abort()

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._stop()
        self._edge.open.discard(self)
        if self._leg is not None:
            self._edge.streams.lost(self._leg, ErrorCode.GENERAL)


class RawEdge:
    """What all of them share. `accepting` is asked for each newcomer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LimitsConfig,
        streams: Streams,
        *,
        accepting: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.loop = loop
        self.streams = streams
        self.accepting = accepting
        self.clock = clock
        self.open: set[RawLeg] = set()
        self._limits = limits

    def make(self, sock: socket.socket, address: Address) -> RawLeg:
        """See `tcp.Maker`."""
        return RawLeg(self, address, self._limits.max_pps)

    def configure(self, limits: LimitsConfig) -> None:
        """Limits for connections that come from now on."""
        self._limits = limits

    def close(self) -> None:
        """End what is connected."""
        for leg in list(self.open):
            leg.abort()
