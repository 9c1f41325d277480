"""A node that lives for one demo: temporary keys, certificate, configuration, tokens.

Must never live here: processes.
"""

from __future__ import annotations

import base64
import datetime
import secrets
import socket
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.signing import SigningKey

from relay.errors import RelayError
from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.token import NET_TCP_LEGS, Claims, mint, to_text


class DemoError(RelayError):
    """The demo could not be staged; says what is missing."""


@dataclass
class Stage:
    """The temporary folder with keys, certificate and configuration of a throw-away node."""

    folder: Path
    udp_port: int = 0
    web_port: int = 0
    metrics_port: int = 0
    issuer: SigningKey = field(default_factory=SigningKey.generate)

    def write(self) -> Path:
        """Make everything `relay serve` needs; the configuration's path."""
        self.udp_port, self.web_port, self.metrics_port = _free_ports()
        _certificate(self.folder)
        key = self.folder / "relay.key"
        key.touch(0o600)
        key.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        config = self.folder / "relay.toml"
        config.write_text(
            "\n".join(
                (
                    "[node]",
                    'id = "demo-node"',
                    "[listen]",
                    f'udp = ["127.0.0.1:{self.udp_port}"]',
                    f'web = ["127.0.0.1:{self.web_port}"]',
                    f'metrics = "127.0.0.1:{self.metrics_port}"',
                    f'command_socket = "{self.folder}/commands.sock"',
                    "[tls]",
                    f'certificate = "{self.folder}/cert.pem"',
                    f'key = "{self.folder}/key.pem"',
                    "[cluster]",
                    f'key_file = "{key}"',
                    "[[tokens.issuers]]",
                    'name = "demo"',
                    f'public_key = "{self.issuer.verify_key.encode().hex()}"',
                    "[records]",
                    f'path = "{self.folder}/records.sqlite"',
                    "[events]",
                    f'path = "{self.folder}/events.jsonl"',
                    f'spool = "{self.folder}/events.spool"',
                    "[log]",
                    'format = "text"',
                    "",
                )
            )
        )
        return config

    def url(self, transport: str) -> str:
        """Where the two connect to."""
        if transport == "ws":
            return f"wss://127.0.0.1:{self.web_port}/vrl/1"
        if transport == "tls":
            return f"tls://127.0.0.1:{self.web_port}"
        return f"quic://127.0.0.1:{self.udp_port}"

    def token(self, call: CallId, sub: Sub) -> str:
        """A capability token for one person of the call, as text."""
        now = int(time.time())
        claims = Claims(
            iss="demo",
            aud="relay",
            sub=sub,
            cid=call,
            iat=now,
            nbf=now,
            exp=now + 120,
            jti=Jti(secrets.token_bytes(16)),
            rol=0,
            prm=7,
            lim=(96, 192, 60, 2),
            gate=1,
            net=NET_TCP_LEGS,
            age=3,
            ctc=1,
        )
        return to_text(mint(claims, self.issuer.encode()))

    def metrics(self) -> dict[str, float]:
        """The daemon's metrics: `name{label="value"}` to number."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def is_ready(self) -> bool:
        """Whether /readyz says yes."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _free_ports() -> list[int]:
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as web, socket.socket() as metrics:
        all_of_them = (udp, web, metrics)
        for sock in all_of_them:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in all_of_them]


def _certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.touch(0o600)
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
