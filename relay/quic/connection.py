"""aioquic, bent to our rules: the one file that touches its private names (each has a contract test).

aioquic keeps what happens once per call: handshake, streams, connection ids, path validation, key update,
close. What happens fifty times a second is the packet path's: `RelayQuic` lends it the keys and reaches, by
`path`, the packet numbers, received set, acknowledgements, idle clock and round-trip time that both share.

Must never live here: sockets, routes, or what a datagram means.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pylsqpack
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic._crypto import AEAD, CryptoError, HeaderProtection
from aioquic.buffer import size_uint_var
from aioquic.h3.connection import ErrorCode as H3Error
from aioquic.h3.connection import H3Connection, ProtocolError, Setting
from aioquic.h3.events import Headers
from aioquic.quic import connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CRYPTO_BUFFER_SIZE,
    END_STATES,
    Limit,
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CIPHER_SUITES, CryptoPair
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicProtocolVersion,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import (
    K_TIME_THRESHOLD,
    MAX_ACK_RANGES,
    QuicPacketRecovery,
    QuicPacketSpace,
)
from aioquic.quic.stream import QuicStream
from cryptography import x509

from relay.errors import LocalError
from relay.protocol import frames
from relay.quic.acks import ACK_HOLD, ACK_PROMISE, AUDIO_ACK_HOLD, Owing
from relay.quic.handshake import QuickContext, Settled, Silent, initial_pair, quick_pair
from relay.quic.space import Lent, PathState, SharedSpace
from relay.quic.tls13 import Served, ServerTls

CONNECTION_WINDOW = 64 * 1024
STREAM_WINDOW = 16 * 1024
MAX_STREAMS = 4
SHORT_OVERHEAD = 1 + 2 + 16  # of a packet beside the peer's id: first byte, number, AEAD tag
DATAGRAM_HEAD = 3  # frame type and a length of two bytes
PEER_IDS = 4  # connection ids of the peer that we keep: one in use, the others for paths to come
MAX_PACKET = 1200
RESERVED = 64  # packet numbers set aside while aioquic sends; a gap must stay below peers' windows of 128
BURST = 32 * MAX_PACKET  # bytes that aioquic sends at once: half of the packets it has numbers for
REORDERING = 0.040  # seconds by which audio may overtake what aioquic sends: its loop is slower than the lane
SUITES = (  # numbered as the packet path knows them
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
)
MAX_HEADERS = 4096  # bytes of a request's headers as RFC 9114 counts them; a browser's are some 600
WT_MAX_SESSIONS: Final = 0x14E9CD29  # SETTINGS_WT_MAX_SESSIONS of later drafts of WebTransport
VERSION_2: Final = QuicProtocolVersion.VERSION_2.to_bytes(4, "big")
# Pure, and asked 33 times for each connection: 30 of its 740 us. aioquic's constructor finds it nowhere else.
connection.EPOCHS = functools.cache(connection.EPOCHS)
_SILENT: Final = Silent()
_SETTLED: Final = Settled()
_DISCARDED: Final = QuicPacketSpace()  # of the handshake, when it is over: nothing is read from it
_DISCARDED.discarded = True
_GONE: Final = CryptoPair()  # without keys
_MAX_PARAMETERS: Final = 1024  # bytes
_CRYPTO_ROOM: Final = {  # bytes of one flight: a ServerHello; the certificate chain; no session ticket
    tls.Epoch.INITIAL: 1024,
    tls.Epoch.HANDSHAKE: CRYPTO_BUFFER_SIZE,
    tls.Epoch.ONE_RTT: 64,
}


class IssuedId(NamedTuple):
    """A connection id of ours with its stateless reset token."""

    cid: bytes
    reset_token: bytes


def packet_ciphers(suite: int) -> tuple[bytes, bytes]:
    """aioquic's names of a suite's packet cipher and header protection."""
    mask, aead = CIPHER_SUITES[SUITES[suite]]
    return aead, mask


def header_mask(suite: int, key: bytes) -> Callable[[bytes], bytes]:
    """The header protection of a direction: a sample of 16 bytes -> a mask of at least 5."""
    return HeaderProtection(packet_ciphers(suite)[1], key)._mask


class _PatientPair(CryptoPair):
    """Keys of a connection that still open packets of the phase before, which were under way at the flip.

    aioquic's own pair drops them, so that each key update would cost what the peer sent meanwhile.
    """

    _before: tuple[AEAD, int] | None = None

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        """As aioquic's; a packet of the other phase is tried with the keys before first."""
        if self._before is not None and self.recv.hp is not None:
            header, _ = self.recv.hp.remove(packet, encrypted_offset)
            if header[0] >> 2 & 1 != self.recv.key_phase:
                current = self.recv.aead, self.recv.key_phase
                self.recv.aead, self.recv.key_phase = self._before
                try:
                    return self.recv.decrypt_packet(packet, encrypted_offset, expected_packet_number)[:3]
                except CryptoError:
                    pass  # then it is of the phase to come
                finally:
                    self.recv.aead, self.recv.key_phase = current
        return super().decrypt_packet(packet, encrypted_offset, expected_packet_number)

    def _update_key(self, trigger: str) -> None:
        assert self.recv.aead is not None
        self._before = (self.recv.aead, self.recv.key_phase)
        super()._update_key(trigger)


class _PatientRecovery(QuicPacketRecovery):
    """Loss detection that forgives what we reorder ourselves.

    A lane with threads seals audio while aioquic builds packets with lower numbers, and sends it first. So a
    packet of aioquic's is not lost for three higher numbers that arrived, but for its age alone (RFC 9002
    section 6.1.2 allows a larger threshold).
    """

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        if not isinstance(space, SharedSpace):
            super()._detect_loss(now=now, space=space)
            return
        rtt = max(self._rtt_latest, self._rtt_smoothed) if self._rtt_initialized else self._rtt_initial
        patience = max(K_TIME_THRESHOLD * rtt, rtt + REORDERING)
        overtaken = [
            (packet.sent_time or 0.0, packet)
            for number, packet in space.sent_packets.items()
            if number <= space.largest_acked_packet
        ]
        lost = [packet for sent_at, packet in overtaken if sent_at <= now - patience]
        space.loss_time = min(
            (sent_at + patience for sent_at, _ in overtaken if sent_at > now - patience), default=None
        )
        self._on_packets_lost(
            now=now,
            packets=lost,
            persistent_congestion=self._in_persistent_congestion(packets=lost),
            space=space,
        )


class _LifeLimit(Limit):
    """Streams of a kind that the peer may open in the life of a connection.

    aioquic makes room for another with each that ended, and lets it come before it announced that.
    """

    @property
    def value(self) -> int:
        return MAX_STREAMS

    @value.setter
    def value(self, _: int) -> None: ...


class _Promising(QuicConnection):
    """A connection that announces how long it holds acknowledgements."""

    def _serialize_transport_parameters(self) -> bytes:
        ours = pull_quic_transport_parameters(Buffer(data=super()._serialize_transport_parameters()))
        ours.max_ack_delay = ACK_PROMISE
        written = Buffer(capacity=_MAX_PARAMETERS)
        push_quic_transport_parameters(written, ours)
        return written.data


class ClientQuic(_Promising):
    """The SDK's connection: it acknowledges audio as seldom as the relay wants, and beside what it sends."""

    def __init__(
        self, *, configuration: QuicConfiguration, original_destination_connection_id: bytes | None = None
    ) -> None:
        """`original_destination_connection_id`: of a peer's first packet, whose server we are."""
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        self._audio_hold: float | None = None
        self._owing = Owing()
        self._has_datagram = False  # in the packet that is being read
        self._takes_along = False  # something leaves: what is owed goes with it
        self._on_fate: Callable[[bytes, bool], None] | None = None
        self._on_round_trip: Callable[[float, float], None]

    @property
    def has_waiting(self) -> bool:
        """Datagrams wait for the congestion window."""
        return bool(self._datagrams_pending)

    def watch_datagrams(
        self, on_fate: Callable[[bytes, bool], None], on_round_trip: Callable[[float, float], None]
    ) -> None:
        """Tell of each datagram that leaves from now on: the packet it was in came, or is lost.

        And before that of round trips, with what the peer says it hesitated; seconds. (aioquic's own variance
        is that from the least, and its samples are now with the hesitation and now without.)
        """
        self._on_fate = on_fate
        self._on_round_trip = on_round_trip

    def hold_acks(self, seconds: float) -> None:
        """From now on: of audio, while nothing is missing; of all else `ACK_HOLD`. Within our promise."""
        self._audio_hold = min(seconds, AUDIO_ACK_HOLD)
        self._ack_delay = min(seconds, ACK_HOLD)

    def send_datagram_frame(self, data: bytes) -> None:
        """As aioquic's."""
        super().send_datagram_frame(data)
        self._takes_along = True

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """As aioquic's, but for when the acknowledgement leaves."""
        if self._audio_hold is None:
            super().receive_datagram(data, addr, now)
            return
        space = self._spaces[tls.Epoch.ONE_RTT]
        before, space.ack_at, largest = space.ack_at, None, space.largest_received_packet
        self._has_datagram = False
        super().receive_datagram(data, addr, now)
        missing = space.largest_received_packet - largest - 1
        if missing > 0:
            self._owing.on_gap(missing, now)
        if space.ack_at is not None:
            hold = self._owing.on_packet(
                is_gap=missing > 0, is_audio=self._has_datagram, audio_hold=self._audio_hold, now=now
            )
            space.ack_at = now + hold
        if before is not None:
            space.ack_at = before if space.ack_at is None else min(before, space.ack_at)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """As aioquic's; with a datagram goes what is owed."""
        space = self._spaces.get(tls.Epoch.ONE_RTT)
        if space is not None and self._takes_along and space.ack_at is not None:
            space.ack_at = min(space.ack_at, now)
        self._takes_along = False
        leaving = super().datagrams_to_send(now)
        if space is not None and space.ack_at is None:
            self._owing.unacknowledged = 0
        return leaving

    def _handle_datagram_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self._has_datagram = True
        super()._handle_datagram_frame(context, frame_type, buf)

    def _write_datagram_frame(
        self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType
    ) -> bool:
        if self._on_fate is None:
            return super()._write_datagram_frame(builder, data, frame_type)
        size = len(data)
        buf = builder.start_frame(
            frame_type,
            capacity=1 + size_uint_var(size) + size,
            handler=self._on_datagram_fate,
            handler_args=(data,),
        )
        buf.push_uint_var(size)
        buf.push_bytes(data)
        return True

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        if self._on_fate is not None and context.epoch is tls.Epoch.ONE_RTT:
            begin = buf.tell()
            largest, delay = buf.pull_uint_var(), buf.pull_uint_var()
            buf.seek(begin)
            newest = self._spaces[context.epoch].sent_packets.get(largest)
            if newest is not None and newest.is_ack_eliciting and newest.sent_time is not None:
                hesitation = (delay << self._remote_ack_delay_exponent) / 1e6
                self._on_round_trip(context.time - newest.sent_time, hesitation)
        super()._handle_ack_frame(context, frame_type, buf)

    def _on_datagram_fate(self, delivery: QuicDeliveryState, data: bytes) -> None:
        assert self._on_fate is not None  # the frame was watched when it was written
        self._on_fate(data, delivery is QuicDeliveryState.ACKED)


class RelayQuic(_Promising):
    """A connection of the node, with bounded windows and checked acknowledgements; `path` has its packets.

    Nearly all are answered: clients', and trunks' of nodes that dialed us. With a client's configuration it
    is one that we dial.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        issue: Callable[[], IssuedId],
        path: PathState,
        apart: Mapping[str, Served] | None = None,
    ) -> None:
        """`apart`: protocols of QUIC version 1 alone, and by which certificate each of them is answered."""
        self.path = path
        self.sock = 0  # number of the socket that the connection uses
        self._apart = apart or {}
        self._windows = CONNECTION_WINDOW, STREAM_WINDOW
        self._prefix: bytes | None = b""
        self._fast = False
        self._own_close_at: float | None = None
        self._is_settled = False
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._logger = self._loss._logger = _SILENT
        self._loss.__class__ = _PatientRecovery  # it has no state of its own
        self._issue = issue
        first = issue()
        own = self._host_cids[0]
        own.cid = first.cid
        if not configuration.is_client:  # a client tells none of its first id (RFC 9000 section 18.2)
            own.stateless_reset_token = first.reset_token
        self.host_cid = first.cid
        self._local_initial_source_connection_id = first.cid
        # They have no state of their own.
        self._local_max_streams_bidi.__class__ = _LifeLimit
        self._local_max_streams_uni.__class__ = _LifeLimit
        self._local_active_connection_id_limit = PEER_IDS
        self._consumed = 0
        self._shared_rtt: tuple[float, ...] = ()  # what packet path and aioquic both know
        self._idle = 0.0
        self._known_secret: bytes | None = None
        self._known_facts: tuple[Any, ...] = ()

    # ------------------------------------------------------------ facts for the edge

    @property
    def is_closing(self) -> bool:
        """The connection is closing, draining or gone."""
        return self._state in END_STATES or self._close_pending

    @property
    def is_over(self) -> bool:
        """Closed by either side; nothing but the end of its lingering is to come."""
        return self._state in END_STATES

    @property
    def is_confirmed(self) -> bool:
        """The handshake is confirmed: the peer's address and keys are proven."""
        return self._handshake_confirmed

    @property
    def is_ready(self) -> bool:
        """It can be a leg: confirmed, and what its datagrams belong to is known."""
        return self._handshake_confirmed and self._prefix is not None

    @property
    def rtt(self) -> float:
        """Smoothed round-trip time, seconds; 0 before the first sample."""
        rtt = self.path.rtt()
        return rtt[1] if rtt else 0.0

    @property
    def largest_datagram(self) -> int:
        """Bytes of a datagram that the peer takes and that one packet of ours holds; 0: it takes none."""
        taken = self._remote_max_datagram_frame_size or 0  # with type and length (RFC 9221 section 3)
        room = MAX_PACKET - SHORT_OVERHEAD - len(self._peer_cid.cid)
        return max(0, min(taken, room) - DATAGRAM_HEAD)

    @property
    def acknowledged(self) -> int:
        """The largest packet number of which aioquic knows that it came."""
        return self._space.largest_acked_packet

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """What whoever we dialed has shown; the handshake proved its key. None: we were dialed."""
        return self.tls._peer_certificate if self.configuration.is_client else None

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

    def trace(self, log: QuicLoggerTrace | None) -> None:
        """From now on `log` hears of what goes through aioquic; None: nobody does, and it costs nothing.

        It never hears of packets that the packet path seals or opens.
        """
        self._quic_logger = self._loss._quic_logger = log

    def backlog(self, stream_id: int) -> int:
        """Bytes written to a stream that the peer has not acknowledged; they are held until it does."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    def widen(self, connection: int, stream: int) -> None:
        """So many bytes may be under way to us from now on: in all, and on a stream of the peer's or ours."""
        self._windows = connection, stream

    def release(self) -> None:
        """Break the reference cycles of a finished connection, so that its memory goes at once."""
        self.__dict__.clear()

    # ------------------------------------------------------------ what the packet path must know

    def carry(self, prefix: bytes | None) -> None:
        """Datagrams are behind this from now on; None: that is not known yet, and the packet path waits."""
        self._prefix = prefix
        self.path.set_prefix(prefix or b"")

    def bare(self, datagram: bytes) -> bytes:
        """What stands behind the prefix in a datagram that aioquic took; empty if it has another."""
        if self._prefix is None or not datagram.startswith(self._prefix):
            return b""
        return datagram[len(self._prefix) :]

    def refresh(self) -> None:
        """Tell the packet path what changed; call after anything went through aioquic."""
        if not self._handshake_confirmed:
            return  # the packet path has nothing to do with it yet
        if not self._is_settled:
            self._settle_handshake()
        self._fast = (
            self.is_ready
            and not self.is_closing
            and bool(self._network_paths)
            and self._network_paths[0].is_validated
        )
        path = self.path
        self._space.is_lent = self._fast
        if self._fast:
            self._ack_delay = ACK_HOLD
            self._idle = self._idle_timeout()
            self._lend_keys()
            path.confirmed = True
            path.outstanding = bool(self._space.sent_packets)
        self._tell_rtt()
        facts = (
            self._fast,
            self.host_cid,
            self._peer_cid.cid,
            self._network_paths[0].addr if self._network_paths else None,
            self.sock,
            (self._remote_ack_delay_exponent, self._loss.max_ack_delay),
        )
        if facts != self._known_facts:
            self._known_facts = facts
            active, host_cid, peer_cid, address, sock, peer_acks = facts
            path.set_facts(
                active=active,
                host_cid=host_cid,
                peer_cid=peer_cid,
                address=address,
                sock=sock,
                peer_acks=peer_acks,
            )

    def _lend_keys(self) -> None:
        pair = self._cryptos[tls.Epoch.ONE_RTT]
        recv, send = pair.recv, pair.send
        if recv.secret is self._known_secret:
            return
        self._known_secret = recv.secret
        assert isinstance(recv, QuickContext)
        assert isinstance(send, QuickContext)
        assert recv.cipher_suite is not None  # the handshake is confirmed
        suite = SUITES.index(recv.cipher_suite)
        self.path.set_keys(suite, recv.key_phase, recv.current(), send.current(), recv.coming())

    def lent(self) -> Lent | None:
        """What the packet path has of us now; None: it is not active."""
        if not self._fast:
            return None
        pair = self._cryptos[tls.Epoch.ONE_RTT]
        recv, send = pair.recv, pair.send
        assert isinstance(recv, QuickContext)
        assert isinstance(send, QuickContext)
        assert recv.cipher_suite is not None
        return Lent(
            suite=SUITES.index(recv.cipher_suite),
            phase=recv.key_phase,
            recv=recv.current(),
            send=send.current(),
            coming=recv.coming(),
            prefix=self._prefix or b"",
            host_cid=self.host_cid,
            peer_cid=self._peer_cid.cid,
            address=self._network_paths[0].addr,
            sock=self.sock,
            peer_acks=(self._remote_ack_delay_exponent, self._loss.max_ack_delay),
        )

    @property
    def lent_version(self) -> tuple[Any, ...]:
        """Another value when `lent` would be another."""
        return self._known_secret, self._known_facts

    def _settle_handshake(self) -> None:
        """Let go of what only the handshake needed, and make the path's the shared packet space.

        Late packets of the handshake find no keys, a CRYPTO frame no message that would be expected.
        """
        self._is_settled = True
        if self.configuration.is_client:
            return  # it may hear of session tickets
        self.tls = _SETTLED
        self._crypto_buffers = {}
        self._crypto_streams = {tls.Epoch.ONE_RTT: self._crypto_streams[tls.Epoch.ONE_RTT]}
        for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE):
            if self._spaces[epoch].discarded:
                self._spaces[epoch] = _DISCARDED
                self._cryptos[epoch] = _GONE
        self._cryptos_initial = dict.fromkeys(self._cryptos_initial, _GONE)
        self._loss.spaces = [self._space]

    def _tell_rtt(self) -> None:
        """Samples that aioquic took itself. What it only holds is older than what the packet path knows."""
        loss = self._loss
        if loss._rtt_initialized:
            mine = (loss._rtt_latest, loss._rtt_smoothed, loss._rtt_variance, loss._rtt_min)
            if mine != self._shared_rtt:
                self.path.set_rtt(*mine)
                self._shared_rtt = mine

    def _take_rtt(self) -> None:
        """Samples of the packet path, into aioquic's own fields: it takes none from packets of ours."""
        rtt = self.path.rtt()
        if rtt is not None:
            loss = self._loss
            loss._rtt_latest, loss._rtt_smoothed, loss._rtt_variance, loss._rtt_min = rtt
            loss._rtt_initialized = True
            self._shared_rtt = rtt

    @property
    def can_send_media(self) -> bool:
        """The packet path is usable: established, address validated, not closing."""
        return self._fast

    def is_moving_to(self, address: NetworkAddress) -> bool:
        """The peer moved there, as an authentic packet told, and has not proven the address yet."""
        return (
            self.is_ready
            and not self.is_closing
            and bool(self._network_paths)
            and not self._network_paths[0].is_validated
            and self._network_paths[0].addr == address
        )

    def send_unproven(self, datagram: bytes) -> None:
        """A datagram by aioquic, which sends an unproven address three times what came from there."""
        self.send_datagram_frame((self._prefix or b"") + datagram)

    def show_ack(self, ranges: Sequence[tuple[int, int]], delay: int, now: float) -> None:
        """An acknowledgement that the packet path took, for the packets that aioquic has out."""
        self._take_rtt()
        self._loss.on_ack_received(
            ack_rangeset=RangeSet(range(start, stop) for start, stop in reversed(ranges)),
            ack_delay=(delay << self._remote_ack_delay_exponent) / 1e6,
            now=now,
            space=self._space,
        )

    def seal_media(self, datagrams: list[bytes], now: float) -> tuple[bytes, NetworkAddress]:
        """One packet of the packet path and where it goes; see `Path.seal`. Requires `can_send_media`."""
        return self.path.seal(datagrams, now), self._network_paths[0].addr

    def update_keys(self) -> None:
        """Flip the key phase now (RFC 9001 section 6.1).

        aioquic would wait until it sends something itself. Here nobody sends between its flip and the packet
        path's, and it takes higher packet numbers afterwards, so none stands behind a newer key.
        """
        self._cryptos[tls.Epoch.ONE_RTT]._update_key("local_update")
        self.refresh()

    # ------------------------------------------------------------ aioquic, corrected

    @property
    def _close_at(self) -> float | None:
        """Silence counts from the last packet heard; what we send meanwhile does not prolong it.

        RFC 9000 section 10.1 would allow that, but a leg that vanished must be gone soon, whatever we sent.
        """
        if self._fast and not self.is_closing:
            return self.path.last_heard + self._idle
        return self._own_close_at

    @_close_at.setter
    def _close_at(self, when: float | None) -> None:
        self._own_close_at = when

    def _initialize(self, peer_cid: bytes) -> None:
        """As aioquic's, with the shared 1-RTT space and keys that open stragglers."""
        if self.configuration.is_client:
            super()._initialize(peer_cid)
            for epoch in (tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT):
                quick_pair(self._cryptos[epoch])
            self._cryptos[tls.Epoch.ONE_RTT].__class__ = _PatientPair  # it has no state of its own
        else:
            self._initialize_server(peer_cid)
        self._space = SharedSpace(self.path)
        self._spaces[tls.Epoch.ONE_RTT] = self._space
        self._loss.spaces = list(self._spaces.values())

    def _initialize_server(self, peer_cid: bytes) -> None:
        """What aioquic does for a server: no session tickets, keys of one QUIC version."""
        configuration = self._configuration
        assert self._version is not None  # the first packet told it
        served = configuration.certificate
        assert isinstance(served, Served)  # `server_configuration` put it there
        suites = configuration.cipher_suites or SUITES
        apart = self._apart if self._version == QuicProtocolVersion.VERSION_1 else {}
        self.tls = ServerTls(served, configuration.alpn_protocols or (), suites, apart)
        parameters = self._serialize_transport_parameters()
        self.tls.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, parameters)]
        self.tls.alpn_cb = self._alpn_handler
        self.tls.update_traffic_key_cb = self._update_traffic_key
        initial = initial_pair(peer_cid, self._version)
        self._cryptos_initial = {self._version: initial}
        self._cryptos = {
            tls.Epoch.INITIAL: initial,
            tls.Epoch.ZERO_RTT: _GONE,  # we never resume
            tls.Epoch.HANDSHAKE: quick_pair(CryptoPair()),
            tls.Epoch.ONE_RTT: quick_pair(_PatientPair()),
        }
        self._crypto_buffers = {epoch: Buffer(capacity=room) for epoch, room in _CRYPTO_ROOM.items()}
        self._crypto_streams = {epoch: QuicStream() for epoch in _CRYPTO_ROOM}
        self._spaces = {tls.Epoch.INITIAL: QuicPacketSpace(), tls.Epoch.HANDSHAKE: QuicPacketSpace()}

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """As aioquic's, with the packet path's round-trip time; the first packet decides the QUIC version.

        A connection speaks one version: keys are derived for no other, and it announces no other.
        """
        if self._version is None and data[1:5] == VERSION_2:
            versions: list[int] = [QuicProtocolVersion.VERSION_2]
            self._configuration = dataclasses.replace(self._configuration, supported_versions=versions)
        if self._is_settled:
            self._take_rtt()
        super().receive_datagram(data, addr, now)

    def handle_timer(self, now: float) -> None:
        """As aioquic's, with the packet path's round-trip time."""
        if self._is_settled:
            self._take_rtt()
        super().handle_timer(now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """As aioquic's, with packet numbers set aside for it, now and then one of them left out."""
        if self._state in END_STATES:
            return []
        path = self.path
        path.outstanding = True  # before anything leaves: its acknowledgement may be back at once
        congestion = self._loss._cc
        window = congestion.congestion_window
        limited = congestion.congestion_window = min(window, congestion.bytes_in_flight + BURST)
        first = self._packet_number = path.reserve(RESERVED)
        try:
            packets = super().datagrams_to_send(now)
        finally:
            path.settle(self._packet_number)
            if congestion.congestion_window == limited:
                congestion.congestion_window = window
        if self._packet_number > first + RESERVED:
            raise LocalError("aioquic used more packet numbers than it was given")  # they must not leave
        return packets

    def _close_end(self) -> None:
        """As aioquic's, which would end the trace at the configuration's log: there is none."""
        self.trace(None)
        super()._close_end()

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
        if ack is not None and not self.path.honest(ack.ranges):
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="acknowledges a packet that was never sent",
            )
        if ack is not None and context.epoch == tls.Epoch.ONE_RTT:  # on whichever path it came
            # So many ranges are compared with all that is in flight; what they leave out counts as lost.
            self.path.acknowledged(ack.ranges[: frames.MAX_RANGES], ack.delay, context.time)
        super()._handle_ack_frame(context, frame_type, buf)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self.path.last_heard = context.time
        return super()._payload_received(context, plain, crypto_frame_required)

    def _handle_padding_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, for all of the bytes at once: a first packet is padded with a thousand."""
        rest = buf.data_slice(buf.tell(), buf.capacity)
        buf.seek(buf.capacity - len(rest.lstrip(b"\0")))

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """MAX_DATA follows what was consumed; MAX_STREAMS never rises: a client needs one stream."""
        limit: Limit = self._local_max_data
        window = self._windows[0]
        if self._consumed + window - limit.value >= window // 2:
            limit.value = self._consumed + window
        if limit.value != limit.sent:
            buf = builder.start_frame(
                limit.frame_type,
                capacity=9,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value
            if self._quic_logger is not None and builder.quic_logger_frames is not None:
                frame = self._quic_logger.encode_connection_limit_frame(limit.frame_type, limit.value)
                builder.quic_logger_frames.append(frame)

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """MAX_STREAM_DATA = consumed + window, whatever the highest offset seen (holes stay cheap)."""
        if not stream.max_stream_data_local:
            return  # one of ours, which only sends
        consumed = stream.receiver.starting_offset()
        window = self._windows[1]
        if consumed + window - stream.max_stream_data_local >= window // 2:
            stream.max_stream_data_local = consumed + window
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
            if self._quic_logger is not None and builder.quic_logger_frames is not None:
                frame = self._quic_logger.encode_max_stream_data_frame(
                    stream.max_stream_data_local, stream.stream_id or 0
                )
                builder.quic_logger_frames.append(frame)


class _ExcessiveLoadError(ProtocolError):
    error_code = H3Error.H3_EXCESSIVE_LOAD


class BareHttp3(H3Connection):
    """HTTP/3 for WebTransport sessions alone: no table that headers could refer to, and short headers.

    A dynamic table would let each byte of a header block stand for a thousand (RFC 9204 section 7.1).
    """

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic, enable_webtransport=True)
        self._decoder = pylsqpack.Decoder(0, 0)

    def _get_local_settings(self) -> dict[int, int]:
        """As aioquic's for Chrome and Firefox (draft-02), and what Safari from 26.4 on asks for."""
        settings: dict[int, int] = super()._get_local_settings()
        return settings | {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: MAX_HEADERS,
            WT_MAX_SESSIONS: 1,
        }

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        headers: Headers = super()._decode_headers(stream_id, frame_data)
        size = sum(len(name) + len(value) + 32 for name, value in headers)  # RFC 9114 section 4.2.2
        if size > MAX_HEADERS:
            raise _ExcessiveLoadError("headers of more than was announced")
        return headers


def server_configuration(certificate: str, key: str, idle_seconds: float) -> QuicConfiguration:
    """The server's side of the handshake: ALPN vrl/1 before h3, AES-128-GCM first, bounded windows.

    Raises OSError or ValueError when the certificate or key cannot be read.
    """
    configuration = QuicConfiguration(
        alpn_protocols=["vrl/1", "h3"],
        is_client=False,
        idle_timeout=idle_seconds,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_frame_size=MAX_PACKET,
        max_datagram_size=MAX_PACKET,
        cipher_suites=list(SUITES),
        supported_versions=[QuicProtocolVersion.VERSION_1],  # version 2 where a client begins with it
    )
    configuration.load_cert_chain(certificate, key)
    configuration.certificate = Served(
        configuration.certificate, configuration.certificate_chain, configuration.private_key
    )
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
        "_close_end",
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
        "_close_at",
        "_peer_cid",
        "_remote_active_connection_id_limit",
        "_initialize",
        "_alpn_handler",
        "_update_traffic_key",
        "_serialize_transport_parameters",
        "_configuration",
        "_crypto_buffers",
        "_crypto_streams",
        "_cryptos_initial",
        "_logger",
        "_quic_logger",
        "_version",
        "_replenish_connection_ids",
        "_handle_ack_frame",
        "_payload_received",
        "_handle_padding_frame",
        "_handle_datagram_frame",
        "_write_datagram_frame",
        "_datagrams_pending",
        "_local_active_connection_id_limit",
        "_write_connection_limits",
        "_write_stream_limits",
        "_on_connection_limit_delivery",
        "_on_max_stream_data_delivery",
        "_streams",
    ],
    "QuicStreamSender": ["_buffer_start", "_buffer_stop"],
    "QuicPacketRecovery": [
        "_rtt_smoothed",
        "_rtt_latest",
        "_rtt_min",
        "_rtt_variance",
        "_rtt_initialized",
        "_rtt_initial",
        "_cc",
        "_detect_loss",
        "_logger",
        "_quic_logger",
        "_on_packets_lost",
        "_in_persistent_congestion",
    ],
    "CryptoPair": ["_update_key"],
    "Context": ["_peer_certificate"],
    "HeaderProtection": ["_mask"],
    "H3Connection": ["_get_local_settings", "_decode_headers", "_decoder"],
}
"""Every private name of aioquic 1.7.2 used above; tests/quic/test_connection.py checks each one."""

REPLACED: dict[str, Any] = {"EPOCHS": connection.EPOCHS}
"""What stands in aioquic.quic.connection in the place of its own, for the whole process; checked there."""

__all__ = [
    "AEAD",
    "MAX_ACK_RANGES",
    "PRIVATE_NAMES",
    "REPLACED",
    "BareHttp3",
    "CryptoError",
    "IssuedId",
    "RelayQuic",
    "header_mask",
    "packet_ciphers",
    "server_configuration",
]
