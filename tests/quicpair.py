"""A stock aioquic client and a RelayQuic server back to back in memory, on simulated time."""

from __future__ import annotations

import datetime
import itertools
import ssl
import tempfile
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.core.reasons import DropReason
from relay.edge import path as packets
from relay.quic.connection import IssuedId, RelayQuic, server_configuration

CLIENT = ("192.0.2.1", 40000)
SERVER = ("198.51.100.1", 443)
DELAY = 0.010


def certificate(folder: Path, name: str = "", days: float = 7.0) -> tuple[str, str]:
    """A throw-away self-signed certificate, which ends in so many days, and its key: PEM files in there."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - datetime.timedelta(hours=1))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}cert.pem", folder / f"{name}key.pem"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(cert_path), str(key_path)


_SERVER_CONFIGURATION: QuicConfiguration | None = None


def shared_configuration() -> QuicConfiguration:
    """One server configuration for all tests of a run: making keys is the slow part."""
    global _SERVER_CONFIGURATION
    if _SERVER_CONFIGURATION is None:
        with tempfile.TemporaryDirectory() as folder:
            _SERVER_CONFIGURATION = server_configuration(*certificate(Path(folder)), 30.0)
    return _SERVER_CONFIGURATION


class QuicPair:
    """Client and server; `run` moves packets and time forward until nothing is in flight."""

    def __init__(
        self,
        *,
        zero_length_ids: bool = False,
        version: int | None = None,
        keep: bool = False,
        client: type[QuicConnection] = QuicConnection,
    ) -> None:
        self.sent_by_client: list[bytes] = []  # with `keep`
        self._keep = keep
        self.now = 0.0
        self.client_addr = CLIENT
        self.client = client(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=["vrl/1"],
                verify_mode=ssl.CERT_NONE,
                max_datagram_frame_size=1200,
                idle_timeout=30.0,
                connection_id_length=0 if zero_length_ids else 8,
                original_version=version,
            )
        )
        if zero_length_ids:  # aioquic would offer further ids of length 0, which no server may accept
            self.client._replenish_connection_ids = lambda: None
        serial = itertools.count(1)
        self.server: RelayQuic | None = None
        self.path = packets.Path()
        self.issue = lambda: IssuedId(b"\x51\x20" + next(serial).to_bytes(6, "big"), bytes(16))
        self.to_server: list[tuple[float, bytes, tuple[str, int]]] = []
        self.to_client: list[tuple[float, bytes]] = []
        self.client_events: list[QuicEvent] = []
        self.server_events: list[QuicEvent] = []
        self.media: list[bytes] = []  # datagrams that came by the fast path
        self.dropped: list[DropReason] = []
        self.fast = 0
        self.slow = 0
        self.client.connect(SERVER, now=self.now)
        self.run(1.0)

    def connected(self) -> RelayQuic:
        """The server's side; it exists once the first packet came."""
        assert self.server is not None
        return self.server

    def run(self, seconds: float, *, lose_to_client: bool = False) -> None:
        """Let time pass: deliver packets after 10 ms each way and fire timers."""
        end = self.now + seconds
        self._collect(lose_to_client)
        while True:
            due = [at for at, *_ in self.to_server] + [at for at, _ in self.to_client]
            for quic in (self.client, self.server):
                timer = quic.get_timer() if quic is not None else None
                if timer is not None:
                    due.append(max(timer, self.now))
            if self.path.ack_due is not None:
                due.append(max(self.path.ack_due, self.now))
            if not due or min(due) > end:
                break
            self.now = min(due)
            self._deliver()
            self._collect(lose_to_client)
        self.now = end

    def _deliver(self) -> None:
        arrived = [item for item in self.to_server if item[0] <= self.now]
        self.to_server = [item for item in self.to_server if item[0] > self.now]
        for _, data, addr in arrived:
            self.arrive(data, addr)
        down = [item for item in self.to_client if item[0] <= self.now]
        self.to_client = [item for item in self.to_client if item[0] > self.now]
        for _, data in down:
            self.client.receive_datagram(data, SERVER, now=self.now)
        for quic in (self.client, self.server):
            timer = quic.get_timer() if quic is not None else None
            if quic is not None and timer is not None and timer <= self.now:
                quic.handle_timer(self.now)

    def arrive(self, data: bytes, addr: tuple[str, int]) -> None:
        """Give the server one packet, fast path first, as the endpoint does."""
        if self.server is None:
            dcid = data[6 : 6 + data[5]]
            self.server = RelayQuic(
                configuration=shared_configuration(),
                original_destination_connection_id=dcid,
                retry_source_connection_id=None,
                issue=self.issue,
                path=self.path,
            )
        if data[0] < 0x80:
            result = self.path.receive(data, addr, 0, self.now)
            if isinstance(result, DropReason):
                self.dropped.append(result)
                return
            if result is not None:
                self.fast += 1
                self.media += result.datagrams
                if result.ack is not None:
                    self.server.show_ack(result.ack.ranges, result.ack.delay, self.now)
                return
        self.slow += 1
        self.server.receive_datagram(data, addr, now=self.now)

    def _collect(self, lose_to_client: bool) -> None:
        for data, _ in self.client.datagrams_to_send(self.now):
            self.to_server.append((self.now + DELAY, data, self.client_addr))
            if self._keep:
                self.sent_by_client.append(data)
        if self.server is not None:
            for data, _ in self.server.datagrams_to_send(self.now):
                if not lose_to_client:
                    self.to_client.append((self.now + DELAY, data))
            self.server_events += iter(self.server.next_event, None)
            self.server.refresh()
            if self.path.ack_due is not None and self.path.ack_due <= self.now:
                self.send_media(lose=lose_to_client)
        self.client_events += iter(self.client.next_event, None)

    def send_media(self, *payloads: bytes, lose: bool = False) -> None:
        """Server to client, by the fast path, all payloads in one packet."""
        packet, _ = self.connected().seal_media(list(payloads), self.now)
        if not lose:
            self.to_client.append((self.now + DELAY, packet))
