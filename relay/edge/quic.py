"""aioquic, bent to our rules: the one file that touches its private names (each has a contract test).

aioquic keeps what happens once per call: handshake, streams, connection ids, path validation, key update,
close. `RelayQuic` takes what happens fifty times a second: it opens and seals 1-RTT packets that hold only
DATAGRAM, ACK, PADDING and PING. Both share one packet-number counter, one received set, one idle timer:
two ACK states were seen to invent losses on a perfect path.

Must never live here: sockets, routes, or what a datagram means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic._crypto import AEAD, CryptoError, HeaderProtection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicReceiveContext,
)
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, decode_packet_number
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import QuicStream

from relay.core.reasons import DropReason
from relay.protocol import frames

CONNECTION_WINDOW = 64 * 1024
STREAM_WINDOW = 16 * 1024
MAX_STREAMS = 4
ACK_HOLD = 0.020  # we promise 25 ms (max_ack_delay); the rest is for the timer to be late
MEDIA_WINDOW = 16 * 1024  # bytes of media in flight; 2.4 kB, aioquic's floor, is 170 ms of one repaired voice
MAX_PACKET = 1200
HEADER_AND_TAG = 1 + 2 + 16  # of a packet of ours beside the peer's id: first byte, number, AEAD tag
KEY_UPDATE_AFTER = 1 << 22  # half the AES-GCM limit (RFC 9001 section 6.6)
STALE_FLIGHT = 1.0  # an unacknowledged media packet counts as in flight for this long at most, seconds
SAMPLE_EVERY = 0.05  # seconds between RTT samples: each voice alone gives fifty acknowledgements a second
FIRST_SKIP = 29  # the first packet number left out, to catch optimistic ACKs (RFC 9000 section 21.4)
LARGEST_SKIP_GAP = 1 << 16


class IssuedId(NamedTuple):
    """A connection id of ours with its stateless reset token."""

    cid: bytes
    reset_token: bytes


class _Flight(NamedTuple):
    sent_at: float
    size: int
    acked_up_to: int  # largest number acknowledged by an ACK frame inside, or -1


class RelayQuic(QuicConnection):
    """A server-side connection with bounded windows, checked acknowledgements and a media fast path."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes,
        retry_source_connection_id: bytes | None,
        issue: Callable[[], IssuedId],
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._issue = issue
        first = issue()
        self._host_cids[0] = QuicConnectionId(
            cid=first.cid, sequence_number=0, stateless_reset_token=first.reset_token, was_sent=True
        )
        self.host_cid = first.cid
        self._local_initial_source_connection_id = first.cid
        self._local_max_streams_bidi.value = MAX_STREAMS
        self._local_max_streams_uni.value = MAX_STREAMS
        self._consumed = 0
        self._flight: dict[int, _Flight] = {}
        self._skipped: deque[int] = deque(maxlen=8)
        self._next_skip = FIRST_SKIP
        self._skip_gap = FIRST_SKIP
        self._sealed_since_update = 0
        self._key_update_after = KEY_UPDATE_AFTER
        self._fast = False
        self._recv_aead: AEAD | None = None
        self._old_aead: AEAD | None = None  # packets of the key phase before may still be under way
        self._next_sample = 0.0
        self.media_in_flight = 0
        self.media_lost = 0
        self.key_updates = 0
        self.last_heard = 0.0

    # ------------------------------------------------------------ facts for the edge

    @property
    def is_closing(self) -> bool:
        """The connection is closing, draining or gone."""
        return self._state in END_STATES or self._close_pending

    @property
    def is_confirmed(self) -> bool:
        """The handshake is confirmed: the peer's address and keys are proven."""
        return self._handshake_confirmed

    @property
    def rtt(self) -> float:
        """Smoothed round-trip time, seconds; 0 before the first sample."""
        return self._loss._rtt_smoothed

    @property
    def peer_takes_datagrams(self) -> bool:
        """The peer announced max_datagram_frame_size (RFC 9221 section 3) large enough for our packets."""
        size = self._remote_max_datagram_frame_size
        return size is not None and size >= MAX_PACKET - 100

    @property
    def host_ids(self) -> list[bytes]:
        """Every connection id that reaches this connection now."""
        return [known.cid for known in self._host_cids]

    @property
    def suite(self) -> str:
        """Name of the negotiated cipher suite, empty before the handshake."""
        pair = self._cryptos.get(tls.Epoch.ONE_RTT)
        return pair.send.cipher_suite.name if pair and pair.send.cipher_suite else ""

    @property
    def close_code(self) -> int:
        """The code the connection was closed with; 0 while it is open."""
        return self._close_event.error_code if self._close_event is not None else 0

    @property
    def ack_due(self) -> float | None:
        """When a held acknowledgement must leave at the latest."""
        return self._space.ack_at if self._fast else None

    def backlog(self, stream_id: int) -> int:
        """Bytes written to a stream that the peer has not acknowledged; they are held until it does."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    def release(self) -> None:
        """Break the reference cycles of a finished connection, so that its memory goes at once."""
        self.__dict__.clear()

    # ------------------------------------------------------------ fast path: in

    def refresh(self) -> None:
        """Re-read what the fast path depends on; call after anything went through aioquic."""
        self._fast = (
            self._handshake_confirmed
            and not self.is_closing
            and bool(self._network_paths)
            and self._network_paths[0].is_validated
        )
        if self._fast:
            self._ack_delay = ACK_HOLD
            self._one_rtt = self._cryptos[tls.Epoch.ONE_RTT]
            recv, send = self._one_rtt.recv, self._one_rtt.send
            assert recv.hp is not None  # the handshake is confirmed
            assert send.hp is not None
            self._recv_hp: HeaderProtection = recv.hp
            self._send_hp: HeaderProtection = send.hp
            aead = recv.aead
            if aead is not self._recv_aead:
                self._old_aead, self._recv_aead = self._recv_aead, aead
            self._space: QuicPacketSpace = self._spaces[tls.Epoch.ONE_RTT]
            self._address = self._network_paths[0].addr
            self._idle = self._idle_timeout()
            # Silence counts from the last packet heard; what we send meanwhile does not prolong it, which
            # RFC 9000 section 10.1 would allow: a leg that vanished must be gone soon, whatever we sent it.
            self._close_at = self.last_heard + self._idle

    @property
    def can_send_media(self) -> bool:
        """The fast path is usable: established, address validated, not closing."""
        return self._fast

    def receive_media(self, data: bytes, addr: NetworkAddress, now: float) -> list[bytes] | DropReason | None:
        """Open a packet in the fast path: its datagrams, a drop reason, or None when aioquic must see it.

        None leaves every state untouched, so the same packet can be given to `receive_datagram`.
        """
        if not self._fast or addr != self._address or data[1:9] != self.host_cid or len(data) < 29:
            return None
        recv = self._one_rtt.recv
        mask = self._recv_hp._mask(data[13:29])
        first = data[0] ^ (mask[0] & 0x1F)
        aead = recv.aead if (first >> 2) & 1 == recv.key_phase else self._old_aead
        if aead is None or first & 0x18 or not first & 0x40:
            return None
        size = (first & 3) + 1
        end = 9 + size
        number = int.from_bytes(data[9:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        header = bytes((first,)) + data[1:9] + number.to_bytes(size, "big")
        space = self._space
        number = decode_packet_number(number, size * 8, space.expected_packet_number)
        try:
            plain = aead.decrypt(data[end:], header, number)
        except CryptoError:
            return DropReason.BAD_TAG if aead is recv.aead else None  # perhaps the next key phase
        if number in space.received_packets:
            return DropReason.DUPLICATE
        payload = frames.parse(plain)
        if payload is None or (payload.ack is not None and not self._is_honest(payload.ack)):
            return None
        self._record(space, number, payload.eliciting, now)
        if payload.ack is not None:
            self._on_media_ack(payload.ack, now)
            self._tell_recovery(payload.ack, now)
        return payload.datagrams

    def _record(self, space: QuicPacketSpace, number: int, eliciting: bool, now: float) -> None:
        if number >= space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        ranges = space.ack_queue._RangeSet__ranges  # type: ignore[attr-defined]  # its `add` looks at each range
        if ranges and ranges[-1].stop == number:
            ranges[-1] = range(ranges[-1].start, number + 1)
        else:
            space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if eliciting and space.ack_at is None:
            space.ack_at = now + ACK_HOLD
        self._close_at = now + self._idle
        self.last_heard = now

    def _is_honest(self, ack: frames.Ack) -> bool:
        if ack.ranges[0][1] > self._packet_number:
            return False
        return not any(start <= skipped < stop for skipped in self._skipped for start, stop in ack.ranges)

    def _tell_recovery(self, ack: frames.Ack, now: float) -> None:
        """Show the ACK to aioquic when it has packets of its own outstanding."""
        space = self._space
        if not space.sent_packets:
            space.largest_acked_packet = max(space.largest_acked_packet, ack.ranges[0][1] - 1)
            return
        self._loss.on_ack_received(
            ack_rangeset=RangeSet(range(start, stop) for start, stop in reversed(ack.ranges)),
            ack_delay=(ack.delay << self._remote_ack_delay_exponent) / 1e6,
            now=now,
            space=space,
        )

    def _on_media_ack(self, ack: frames.Ack, now: float) -> None:
        """Settle media packets: acknowledged, lost (3 packets or 9/8 RTT behind), or still out."""
        flight = self._flight
        if not flight:
            return
        largest = ack.ranges[0][1] - 1
        newest = flight.get(largest)
        limit = 9 / 8 * max(self._loss._rtt_smoothed, self._loss._rtt_latest, 0.001)
        ranges = ack.ranges
        newest_start = ranges[0][0]
        for number in [n for n in flight if n <= largest]:
            packet = flight[number]
            if number >= newest_start or any(start <= number < stop for start, stop in ranges):
                if packet.acked_up_to >= 0:
                    self._space.ack_queue.subtract(0, packet.acked_up_to + 1)
            elif largest - number >= 3 or now - packet.sent_at > limit:
                self.media_lost += 1
            else:
                continue
            del flight[number]
            self.media_in_flight -= packet.size
        if newest is not None and now >= self._next_sample:
            self._next_sample = now + SAMPLE_EVERY
            self._sample_rtt(now - newest.sent_at, (ack.delay << self._remote_ack_delay_exponent) / 1e6)

    def _sample_rtt(self, latest: float, ack_delay: float) -> None:
        """RFC 9002 section 5.3, into aioquic's own fields: it takes no sample from packets of ours."""
        loss = self._loss
        latest = max(latest, 0.001)
        loss._rtt_min = min(loss._rtt_min, latest)
        if latest > loss._rtt_min + min(ack_delay, loss.max_ack_delay):
            latest -= min(ack_delay, loss.max_ack_delay)
        loss._rtt_latest = latest
        if loss._rtt_initialized:
            loss._rtt_variance = 0.75 * loss._rtt_variance + 0.25 * abs(loss._rtt_smoothed - latest)
            loss._rtt_smoothed = 0.875 * loss._rtt_smoothed + 0.125 * latest
        else:
            loss._rtt_initialized = True
            loss._rtt_variance = latest / 2
            loss._rtt_smoothed = latest

    # ------------------------------------------------------------ fast path: out

    def media_room(self, now: float) -> bool:
        """May another media packet leave now? Packets silent for long no longer count as in flight."""
        if not self._fast:
            return False
        if self.media_in_flight < MEDIA_WINDOW:
            return True
        for number, packet in list(self._flight.items()):
            if now - packet.sent_at <= STALE_FLIGHT:
                break
            del self._flight[number]
            self.media_in_flight -= packet.size
            self.media_lost += 1
        return self.media_in_flight < MEDIA_WINDOW

    @property
    def wants_key_update(self) -> bool:
        """So many packets were sealed under one key that it must change (RFC 9001 section 6.6)."""
        return self._sealed_since_update >= self._key_update_after

    def update_keys(self) -> None:
        """Ask aioquic for the next key phase; it is applied when aioquic itself sends, so let it send."""
        self._sealed_since_update = 0
        self.key_updates += 1
        self.request_key_update()
        self.send_ping(0)

    def seal_media(self, datagrams: list[bytes], now: float) -> tuple[bytes, NetworkAddress]:
        """One 1-RTT packet with these datagrams, and the acknowledgement that is due anyway.

        Without datagrams it is that acknowledgement alone (`ack_due` must not be None). Requires
        `can_send_media`; the caller keeps the sum within `MAX_PACKET`.
        """
        space = self._space
        acked_up_to = -1
        peer = self._peer_cid.cid
        parts = [frames.encode_datagram(datagram) for datagram in datagrams]
        if space.ack_at is not None:
            delay = int((now - (space.largest_received_time or now)) * 1e6) >> self._local_ack_delay_exponent
            ack = frames.encode_ack(space.ack_queue, max(delay, 0))
            # An ACK of many ranges may not fit beside the audio: it stays due, and leaves by itself.
            if HEADER_AND_TAG + len(peer) + len(ack) + sum(map(len, parts)) <= MAX_PACKET:
                parts.insert(0, ack)
                acked_up_to = space.largest_received_packet
                space.ack_at = None
        self._skip_number()
        number = self._packet_number
        self._packet_number = number + 1
        send = self._one_rtt.send
        first = 0x41 | send.key_phase << 2
        low = number & 0xFFFF
        assert send.aead is not None
        body = send.aead.encrypt(b"".join(parts), bytes((first,)) + peer + low.to_bytes(2, "big"), number)
        mask = self._send_hp._mask(body[2:18])
        packet = b"".join(
            (
                bytes((first ^ (mask[0] & 0x1F),)),
                peer,
                (low ^ (mask[1] << 8 | mask[2])).to_bytes(2, "big"),
                body,
            )
        )
        self._sealed_since_update += 1
        if not datagrams:
            return packet, self._address  # an ACK alone is neither in flight nor acknowledged
        size = len(packet)
        self._flight[number] = _Flight(now, size, acked_up_to)
        self.media_in_flight += size
        return packet, self._address

    @property
    def is_rekeying(self) -> bool:
        """A key update waits for aioquic to send: no media packet may be sealed before."""
        return self._one_rtt._update_key_requested

    def _skip_number(self) -> None:
        if self._packet_number >= self._next_skip:
            self._skipped.append(self._packet_number)
            self._packet_number += 1
            self._skip_gap = min(2 * self._skip_gap, LARGEST_SKIP_GAP)
            self._next_skip = self._packet_number + self._skip_gap

    # ------------------------------------------------------------ aioquic, corrected

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """As aioquic's, with a packet number left out now and then once the handshake is confirmed."""
        if self._handshake_confirmed:
            self._skip_number()
        return super().datagrams_to_send(now)

    def next_event(self) -> QuicEvent | None:
        """As aioquic's, and counts consumed stream bytes: the windows follow what was read."""
        event = super().next_event()
        if isinstance(event, StreamDataReceived):
            self._consumed += len(event.data)
        return event

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < min(4, self._remote_active_connection_id_limit):
            issued = self._issue()
            self._host_cids.append(
                QuicConnectionId(
                    cid=issued.cid,
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=issued.reset_token,
                )
            )
            self._host_cid_seq += 1

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """Refuse acknowledgements of packets never sent (RFC 9000 section 13.1), then as aioquic's."""
        body = buf.data_slice(buf.tell(), buf.capacity)
        ack = frames.parse_ack(body, most=len(body))  # judge every ACK that aioquic takes, however long
        if ack is not None and not self._is_honest(ack):
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="acknowledges a packet that was never sent",
            )
        if ack is not None and context.epoch == tls.Epoch.ONE_RTT and self._fast:
            # So many ranges are compared with all that is in flight; what they leave out counts as lost.
            self._on_media_ack(ack._replace(ranges=ack.ranges[: frames.MAX_RANGES]), context.time)
        super()._handle_ack_frame(context, frame_type, buf)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self.last_heard = context.time
        return super()._payload_received(context, plain, crypto_frame_required)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """MAX_DATA follows what was consumed; MAX_STREAMS never rises: a client needs one stream."""
        limit: Limit = self._local_max_data
        if self._consumed + CONNECTION_WINDOW - limit.value >= CONNECTION_WINDOW // 2:
            limit.value = self._consumed + CONNECTION_WINDOW
        if limit.value != limit.sent:
            buf = builder.start_frame(
                limit.frame_type,
                capacity=9,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """MAX_STREAM_DATA = consumed + window, whatever the highest offset seen (holes stay cheap)."""
        consumed = stream.receiver.starting_offset()
        if consumed + STREAM_WINDOW - stream.max_stream_data_local >= STREAM_WINDOW // 2:
            stream.max_stream_data_local = consumed + STREAM_WINDOW
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=17,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id or 0)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local


def server_configuration(certificate: str, key: str, idle_seconds: float) -> QuicConfiguration:
    """The server's side of the handshake: ALPN vrl/1, AES-128-GCM first, bounded windows.

    Raises OSError or ValueError when the certificate or key cannot be read.
    """
    configuration = QuicConfiguration(
        alpn_protocols=["vrl/1"],
        is_client=False,
        idle_timeout=idle_seconds,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_frame_size=MAX_PACKET,
        max_datagram_size=MAX_PACKET,
        cipher_suites=[
            tls.CipherSuite.AES_128_GCM_SHA256,
            tls.CipherSuite.AES_256_GCM_SHA384,
            tls.CipherSuite.CHACHA20_POLY1305_SHA256,
        ],
    )
    configuration.load_cert_chain(certificate, key)
    return configuration


PRIVATE_NAMES: dict[str, Any] = {
    "QuicConnection": [
        "_host_cids",
        "_host_cid_seq",
        "_local_initial_source_connection_id",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_local_max_data",
        "_state",
        "_close_pending",
        "_handshake_confirmed",
        "_loss",
        "_remote_max_datagram_frame_size",
        "_cryptos",
        "_close_event",
        "_spaces",
        "_network_paths",
        "_ack_delay",
        "_idle_timeout",
        "_packet_number",
        "_remote_ack_delay_exponent",
        "_local_ack_delay_exponent",
        "_close_at",
        "_peer_cid",
        "_remote_active_connection_id_limit",
        "_replenish_connection_ids",
        "_handle_ack_frame",
        "_payload_received",
        "_write_connection_limits",
        "_write_stream_limits",
        "_on_connection_limit_delivery",
        "_on_max_stream_data_delivery",
        "_streams",
    ],
    "QuicStreamSender": ["_buffer_start", "_buffer_stop"],
    "QuicPacketRecovery": ["_rtt_smoothed", "_rtt_latest", "_rtt_min", "_rtt_variance", "_rtt_initialized"],
    "CryptoPair": ["_update_key_requested"],
    "HeaderProtection": ["_mask"],
    "RangeSet": ["_RangeSet__ranges"],
}
"""Every private name of aioquic 1.7.2 used above; tests/edge/test_quic.py checks each one."""

__all__ = ["PRIVATE_NAMES", "IssuedId", "RelayQuic", "server_configuration"]
