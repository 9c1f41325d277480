"""The three doors for real: `relay serve`, the example back end, its two apps, and an operator's commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jsonschema import Draft202012Validator

from client.rig import free_port

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "events.schema.json").read_text())
RELAY = [sys.executable, "-m", "relay"]


def relay(*words: str, check: bool = True) -> dict[str, Any]:
    """Run a subcommand; its JSON answer."""
    done = subprocess.run([*RELAY, *words, "--json"], capture_output=True, text=True, timeout=40, check=False)
    assert not check or done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)


class Node:
    """A daemon in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = str(folder / "issuer.key")
        self.events = str(folder / "events.sock")
        self.config = str(folder / "relay.toml")
        udp, tcp = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.url = f"quic://127.0.0.1:{udp}"
        certificate(folder)
        public = relay("token", "keygen", self.key)["public_key"]
        relay("token", "keygen", "--cluster", str(folder / "relay.key"))
        Path(self.config).write_text(
            f"""
            [listen]
            udp = ["127.0.0.1:{udp}"]
            metrics = "127.0.0.1:{tcp}"
            command_socket = "{folder}/commands.sock"
            [tls]
            certificate = "{folder}/cert.pem"
            key = "{folder}/key.pem"
            [cluster]
            key_file = "{folder}/relay.key"
            [[tokens.issuers]]
            public_key = "{public}"
            [records]
            path = "{folder}/records.sqlite"
            [events]
            sink = "socket"
            path = "{self.events}"
            spool = "{folder}/events.spool"
            [drain]
            grace_s = 0
            smear_s = 0
            close_s = 0.1
            """
        )
        self.log = (folder / "daemon.log").open("wb")
        self.process = subprocess.Popen([*RELAY, "serve", "--config", self.config], stderr=self.log)

    def wait_ready(self) -> None:
        until = time.monotonic() + 20
        while not relay("status", "--config", self.config, check=False)["ok"]:
            assert self.process.poll() is None, (self.folder / "daemon.log").read_text()
            assert time.monotonic() < until

    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = relay("status", "--config", self.config)["metrics"]
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"))
    try:
        node.wait_ready()
        yield node
    finally:
        assert node.stop() == 0


def app(node: Node, *words: str) -> str:
    """The command that plays one user's app."""
    inner = [*RELAY, "call", "--url", node.url, "--token-file", "{token}", "--json", "--ca"]
    return " ".join([*inner, f"{node.folder}/cert.pem", "--server-name", "localhost", *words])


def test_the_example_back_end_is_under_a_hundred_lines() -> None:
    assert len((ROOT / "scripts" / "example-backend").read_text().splitlines()) < 100


def test_a_call_offered_by_the_example_back_end_ends_completed(node: Node) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "example-backend"),
            *("--key", node.key, "--events", node.events, "--offer", "anna:ben", "--timeout", "30"),
            *(
                "--answer",
                app(node, "--tone", "440", "--seconds", "1", "--out", f"{node.folder}/{{user}}.wav"),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    events = [(line["event"], line["user"], line["what"]) for line in told if "event" in line]
    assert ("call.answered", "", "") in events
    assert events[-1] == ("call.ended", "", "completed")
    assert {user for kind, user, _ in events if kind == "participant.accepted"} == {"anna", "ben"}
    sides = [line for line in told if "stats" in line]
    assert [side["ok"] for side in sides] == [True, True]
    assert sides[0]["sas"] == sides[1]["sas"]
    assert all((node.folder / f"{user}.wav").stat().st_size > 16_000 for user in ("anna", "ben"))
    metrics = node.metrics()
    assert metrics["relay_media_received_total"] == sum(side["stats"]["sent"] for side in sides)
    assert metrics["relay_media_sent_total"] == sum(side["stats"]["received"] for side in sides)
    (call,) = relay("records", "list", "--config", node.config)["calls"]
    assert call["outcome"] == "completed"


def test_a_command_ends_a_running_call_and_is_refused_the_second_time(node: Node) -> None:
    minted = relay("token", "mint", "--key", node.key, "--contact")
    (node.folder / "c.tok").write_text(minted["tokens"][0]["token"])
    words = app(node).format(token=node.folder / "c.tok").split()
    alone = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert alone.stderr is not None
    assert "accepted" in alone.stderr.readline()
    order = ["command", "end", "--key", node.key, "--config", node.config, "--call", minted["call"]]
    assert relay(*order)["ok"]
    out, _ = alone.communicate(timeout=20)
    assert alone.returncode == 1
    assert json.loads(out.splitlines()[-1])["stats"] is not None
    again = relay(*order, check=False)
    assert (again["ok"], again["name"]) in ((False, "CALL_NOT_FOUND"), (False, "CALL_ENDED"))


def test_a_command_of_a_stranger_is_refused(node: Node, tmp_path: Path) -> None:
    stranger = str(tmp_path / "stranger.key")
    relay("token", "keygen", stranger)
    order = ["command", "revoke", "--key", stranger, "--config", node.config, "--token-id", "0f" * 16]
    assert relay(*order, check=False)["name"] == "TOKEN_INVALID"


def test_every_event_the_daemon_sent_fits_the_schema(node: Node) -> None:
    """What no reader took yet stands in the spool and comes to the next reader."""
    validator = Draft202012Validator(SCHEMA)
    with socket.socket(socket.AF_UNIX) as server:
        Path(node.events).unlink(missing_ok=True)
        server.bind(node.events)
        server.listen()
        server.settimeout(20)
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as lines:
            kinds: list[str] = []
            while kinds.count("command") < 2:  # the two orders to end a call
                line = json.loads(lines.readline())
                validator.validate(line)
                kinds.append(line["kind"])
                connection.sendall(b"%d\n" % line["seq"])
    assert "call.ended" in kinds
