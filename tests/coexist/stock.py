"""A client on aioquic as it is shipped, over asyncio: no line of the relay's in the connection.

The counters beside it look into aioquic (a test may): packets its loss detection gives up, packets it cannot
open because it forgets the old key phase at once. `Spelling` makes it write packets as other stacks do:
packet numbers of one to four bytes, a last DATAGRAM frame without length. Must never live here: control
messages.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from aioquic._crypto import CryptoError
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.events import (
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    StreamDataReceived,
)
from aioquic.tls import Epoch

from coexist.client import COUNTER_AT, Counts, filling, packet
from relay.protocol import frames

OLD_PORT_S = 1.0  # how long the port before is still read
NO_LENGTH = 0x30
WITH_LENGTH = 0x31
SAMPLE = 3  # bytes that a payload needs behind a one-byte number, so that a sample can be taken
SPARE = 64  # a packet this much below the limit has room for a longer number


class Spelling:
    """Rewrites 1-RTT packets just before they are sealed. `sizes`: bytes of the packet numbers, in turn."""

    def __init__(self, sizes: tuple[int, ...], bare_datagrams: bool) -> None:
        self._sizes: Iterator[int] = itertools.cycle(sizes)
        self._bare = bare_datagrams
        self.newest = b""

    def attach(self, quic: QuicConnection, pair: CryptoPair) -> None:
        """Stand before this pair's sealing, once packets stand alone in their UDP packet."""
        seal = pair.encrypt_packet

        def encrypt_packet(header: bytes, payload: bytes, number: int) -> bytes:
            if quic._handshake_confirmed:
                header, payload = self._spell(header, payload, number)
            return seal(header, payload, number)

        pair.encrypt_packet = encrypt_packet  # type: ignore[method-assign]

    def _spell(self, header: bytes, payload: bytes, number: int) -> tuple[bytes, bytes]:
        size = next(self._sizes)
        if self._bare and self.newest:
            tail = bytes((WITH_LENGTH,)) + encode_uint_var(len(self.newest)) + self.newest
            if payload.endswith(tail):
                payload = payload[: -len(tail)] + bytes((NO_LENGTH,)) + self.newest
        if len(payload) > 1200 - SPARE:
            return header, payload
        if len(payload) < SAMPLE:
            payload += bytes(SAMPLE - len(payload))
        first = header[0] & ~3 | (size - 1)
        return bytes((first,)) + header[1:-2] + (number % (1 << 8 * size)).to_bytes(size, "big"), payload


class StockClient:
    """One connection by aioquic. Belongs to the loop that made it."""

    def __init__(
        self,
        name: str,
        server: tuple[str, int],
        *,
        zero_length: bool = False,
        spelling: Spelling | None = None,
    ) -> None:
        self.name = name
        self.on_stream: Callable[[bytes], None] = lambda data: None
        self.closed: str | None = None
        self.counts = Counts()
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._spelling = spelling
        self._socks: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stream: int | None = None
        self._seen: set[int] = set()
        self._ready = asyncio.Event()
        self._old: CryptoContext | None = None
        self._phase_start = 0
        self._leaving = False
        self._quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=["vrl/1"],
                verify_mode=ssl.CERT_NONE,
                max_datagram_frame_size=1200,
                idle_timeout=30.0,
                server_name="localhost",
                connection_id_length=0 if zero_length else 8,
            )
        )
        if zero_length:
            self._shorten()
        self._watch_losses()

    async def connect(self) -> None:
        """Shake hands. TimeoutError."""
        self._bind()
        self._quic.connect(self._server, now=time.monotonic())
        self._settle()
        async with asyncio.timeout(10):
            await self._ready.wait()

    def _shorten(self) -> None:
        """What aioquic gets wrong with ids of length 0: a first destination id as short, and more of them."""
        first = os.urandom(8)  # RFC 9000 section 7.2 asks for as much
        self._quic._peer_cid.cid = self._quic._original_destination_connection_id = first
        self._quic._replenish_connection_ids = lambda: None  # type: ignore[method-assign]

    # ------------------------------------------------------------ what a client does

    def write(self, data: bytes) -> None:
        if self._stream is None:
            self._stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(self._stream, data)
        self._settle()

    async def speak(self, prefix: bytes, first: int, count: int, interval: float, size: int) -> None:
        due = self._loop.time()
        for counter in range(first, first + count):
            await asyncio.sleep(due - self._loop.time())
            due += interval
            if self.closed is not None:
                break
            datagram = packet(prefix, counter, size)
            if self._spelling is not None:
                self._spelling.newest = datagram
            self._quic.send_datagram_frame(datagram)
            self.counts.sent += 1
            self._settle()

    def update_keys(self) -> None:
        self._read_all()  # what stands in the socket is of the phase that goes
        if self._quic._spaces[Epoch.ONE_RTT].largest_acked_packet < self._phase_start:
            return  # the phase before is not proven yet (RFC 9001 section 6.1); aioquic leaves that to us
        self._phase_start = self._quic._packet_number
        self._quic.request_key_update()
        self._quic.send_ping(0)
        self._settle()

    def change_id(self) -> None:
        self._quic.change_connection_id()
        self._settle()

    def rebind(self) -> None:
        old = self._socks[-1]
        self._bind()
        self._loop.call_later(OLD_PORT_S, self._drop, old)
        self._quic.send_ping(0)
        self._settle()

    async def count(self) -> Counts:
        counts = self.counts
        counts.ranges = _ranges(self._seen)
        loss = self._quic._loss
        counts.facts["rtt_us"] = round(loss._rtt_smoothed * 1e6)
        counts.facts["cwnd"] = loss.congestion_window
        return counts

    async def close(self) -> None:
        self._leaving = True
        if self.closed is None:
            self._quic.close()
            self._settle()
        if self._timer is not None:
            self._timer.cancel()
        for sock in list(self._socks):
            self._drop(sock)

    # ------------------------------------------------------------ sockets and timer

    def _bind(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        self._socks.append(sock)
        self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _drop(self, sock: socket.socket) -> None:
        if sock in self._socks:
            self._socks.remove(sock)
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _readable(self, sock: socket.socket) -> None:
        if self._read(sock):
            self._settle()

    def _read_all(self) -> None:
        for sock in self._socks:
            while self._read(sock):
                pass

    def _read(self, sock: socket.socket) -> bool:
        """One packet of this port, behind all that was sent to the ports before.

        aioquic would acknowledge what is newer without them, or drop them with the id that is retired by it:
        losses of ours, which nobody could tell from the relay's. What was sent earlier is in its port by now.
        """
        try:
            data, addr = sock.recvfrom(4096)
        except OSError:
            return False
        for older in self._socks[: self._socks.index(sock)]:
            while self._read(older):
                pass
        self._quic.receive_datagram(data, addr, now=time.monotonic())
        self._events()
        return True

    def _settle(self) -> None:
        self._events()
        if not self._socks:
            return
        for data, addr in self._quic.datagrams_to_send(now=time.monotonic()):
            self._socks[-1].sendto(data, addr)
        self._events()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._quic.get_timer()
        if due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        due = self._quic.get_timer()
        if due is not None and due <= now:
            self._quic.handle_timer(now=now)
        self._settle()

    def _events(self) -> None:
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.on_stream(event.data)
            elif isinstance(event, DatagramFrameReceived):
                self._note(event.data)
            elif isinstance(event, HandshakeCompleted):
                self._watch_keys(self._quic._cryptos[Epoch.ONE_RTT])
                self._ready.set()
            elif isinstance(event, ConnectionTerminated) and not self._leaving:
                self.closed = f"{event.error_code:#x} {event.reason_phrase}"

    # ------------------------------------------------------------ counting

    def _note(self, data: bytes) -> None:
        if data[:1] == b"\0":
            return
        counter = int.from_bytes(data[COUNTER_AT : COUNTER_AT + 4], "big")
        rest = data[COUNTER_AT + 4 :]
        if rest != filling(counter, len(rest)):
            self.counts.wrong += 1
        elif counter in self._seen:
            self.counts.repeated += 1
        else:
            self._seen.add(counter)

    def _watch_losses(self) -> None:
        recovery = self._quic._loss
        lose = recovery._on_packets_lost

        def on_packets_lost(*, packets: Any, **rest: Any) -> None:
            taken = list(packets)
            if self._ready.is_set() and rest.get("congestion_event", True):
                self.counts.lost += len(taken)
                self.counts.congestion_events += bool(taken)
            lose(packets=taken, **rest)

        recovery._on_packets_lost = on_packets_lost  # type: ignore[method-assign]

    def _watch_keys(self, pair: CryptoPair) -> None:
        """Tell packets of the phase before, which aioquic no longer opens, from those that nobody can."""
        if self._spelling is not None:
            self._spelling.attach(self._quic, pair)
        update, decrypt = pair._update_key, pair.decrypt_packet

        def update_key(trigger: str) -> None:
            old = CryptoContext(key_phase=pair.recv.key_phase)
            old.aead, old.hp, old.cipher_suite = pair.recv.aead, pair.recv.hp, pair.recv.cipher_suite
            old.secret, old.version = pair.recv.secret, pair.recv.version
            self._old = old
            update(trigger)

        def decrypt_packet(data: bytes, offset: int, expected: int) -> Any:
            try:
                return decrypt(data, offset, expected)
            except CryptoError:
                self._on_unopened(data, offset, expected)
                raise

        pair._update_key = update_key  # type: ignore[method-assign]
        pair.decrypt_packet = decrypt_packet  # type: ignore[method-assign]

    def _on_unopened(self, data: bytes, offset: int, expected: int) -> None:
        try:
            if self._old is None:
                raise CryptoError("no phase before this one")
            _, plain, _, _ = self._old.decrypt_packet(data, offset, expected)
        except CryptoError:
            self.counts.unopened += 1
            return
        payload = frames.parse(plain)
        if payload is None or payload.eliciting:
            self.counts.discarded_packets += 1
        if payload is not None:
            self.counts.discarded_media += sum(datagram[:1] != b"\0" for datagram in payload.datagrams)


def _ranges(seen: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for counter in sorted(seen):
        if found and found[-1][1] == counter:
            found[-1] = (found[-1][0], counter + 1)
        else:
            found.append((counter, counter + 1))
    return found
