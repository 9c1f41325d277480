"""coturn under its own configuration, and the little of TURN that puts load on it and on ours (RFC 8656).

One allocation per call: one end is the TURN client, who speaks ChannelData; the other is a plain UDP peer of
the relayed address. Plain UDP, no TLS, no DTLS, no credentials, one relay thread: coturn encrypts nothing
here. Ours asks for credentials, so they can be given. Must never live here: load, bars.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from load import programs

COOKIE = 0x2112A442
ALLOCATE, CHANNEL_BIND = 0x0003, 0x0009
SUCCESS = 0x0100
LIFETIME, CHANNEL_NUMBER, REQUESTED_TRANSPORT = 0x000D, 0x000C, 0x0019
XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS = 0x0012, 0x0016
CHANNEL = 0x4000
CHANNEL_HEADER = 4
USERNAME, INTEGRITY, ERROR, REALM, NONCE = 0x0006, 0x0008, 0x0009, 0x0014, 0x0015
UNPROVEN = 401
UDP = 17
START_SECONDS = 10.0
TRIES = 5
CONFIGURATION = """
listening-ip=127.0.0.1
relay-ip=127.0.0.1
listening-port={port}
relay-threads=1
no-auth
allow-loopback-peers
no-tls
no-dtls
no-tcp
no-tcp-relay
no-cli
no-software-attribute
channel-lifetime=7200
permission-lifetime=7200
max-allocate-lifetime=7200
pidfile={folder}/pid
userdb={folder}/db
log-file={folder}/log
simple-log
realm=bench
"""
Address = tuple[str, int]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _xor(address: Address) -> bytes:
    host = struct.unpack("!I", socket.inet_aton(address[0]))[0] ^ COOKIE
    return struct.pack("!BBHI", 0, 1, address[1] ^ COOKIE >> 16, host)


def _unxor(value: bytes) -> Address:
    _, _, port, host = struct.unpack("!BBHI", value[:8])
    return socket.inet_ntoa(struct.pack("!I", host ^ COOKIE)), port ^ COOKIE >> 16


def _attributes(message: bytes) -> dict[int, bytes]:
    found, at = {}, 20
    while at + 4 <= len(message):
        kind, size = struct.unpack_from("!HH", message, at)
        found[kind] = message[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4
    return found


class RefusedError(RuntimeError):
    """An error answer."""

    def __init__(self, method: int, code: int) -> None:
        super().__init__(f"{method:#x} was refused: {code}")
        self.code = code


class Asker:
    """A client of one server, by one socket; `credentials`: name and password, for who asks for them."""

    def __init__(
        self, sock: socket.socket, server: Address, credentials: tuple[str, str] | None = None
    ) -> None:
        self._sock = sock
        self._server = server
        self._credentials = credentials
        self._proof = b""  # who asks, as attributes
        self._key = b""

    def ask(self, method: int, body: bytes) -> dict[int, bytes]:
        """A request and its successful answer. RefusedError; RuntimeError when there is none."""
        kind, got = self._exchange(method, body)
        if self._credentials and _code(got) == UNPROVEN:
            name, password = self._credentials
            proof = ((USERNAME, name.encode()), (REALM, got[REALM]), (NONCE, got[NONCE]))
            self._proof = b"".join(_attribute(*row) for row in proof)
            # MD5 is what RFC 8489 section 9.2.2 makes the key with; it protects nothing here.
            self._key = hashlib.md5(f"{name}:{got[REALM].decode()}:{password}".encode()).digest()
            kind, got = self._exchange(method, body)
        if kind != method | SUCCESS:
            raise RefusedError(method, _code(got))
        return got

    def _exchange(self, method: int, body: bytes) -> tuple[int, dict[int, bytes]]:
        identity = os.urandom(12)
        body += self._proof
        if self._key:
            size = len(body) + 24  # with the sum
            covered = struct.pack("!HHI", method, size, COOKIE) + identity + body
            body += _attribute(INTEGRITY, hmac.digest(self._key, covered, "sha1"))
        return _exchange(self._sock, self._server, method, identity, body)


def _code(got: dict[int, bytes]) -> int:
    value = got.get(ERROR, bytes(4))
    return value[2] * 100 + value[3]


def _exchange(
    sock: socket.socket, server: Address, method: int, identity: bytes, body: bytes
) -> tuple[int, dict[int, bytes]]:
    """The type of the answer, and its attributes. RuntimeError when there is none."""
    request = struct.pack("!HHI", method, len(body), COOKIE) + identity + body
    for _ in range(TRIES):
        sock.sendto(request, server)
        try:
            answer = sock.recv(2048)
        except TimeoutError:
            continue
        if answer[8:20] == identity:
            return int.from_bytes(answer[:2], "big"), _attributes(answer)
    raise RuntimeError(f"{server} did not answer {method:#x}")


def allocate(
    client: socket.socket,
    peer: socket.socket,
    server: Address,
    credentials: tuple[str, str] | None = None,
) -> Address:
    """An allocation with a channel to the peer; the address that the peer talks to."""
    client.settimeout(1.0)
    transport = _attribute(REQUESTED_TRANSPORT, bytes((UDP, 0, 0, 0)))
    asker = Asker(client, server, credentials)
    got = asker.ask(ALLOCATE, transport + _attribute(LIFETIME, struct.pack("!I", 3600)))
    relayed = _unxor(got[XOR_RELAYED_ADDRESS])
    number = _attribute(CHANNEL_NUMBER, struct.pack("!HH", CHANNEL, 0))
    asker.ask(CHANNEL_BIND, number + _attribute(XOR_PEER_ADDRESS, _xor(peer.getsockname())))
    return relayed


def channel_header(size: int) -> bytes:
    """What stands before `size` bytes of ChannelData."""
    return struct.pack("!HH", CHANNEL, size)


class Turnserver:
    """A running coturn."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="relay-bench-turn-")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.server: Address = probe.getsockname()
        folder = Path(self._folder.name)
        (folder / "conf").write_text(CONFIGURATION.format(port=self.server[1], folder=folder))
        with (folder / "out").open("wb") as out:
            self._process = subprocess.Popen(
                [str(programs.turnserver()), "-c", str(folder / "conf")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.pid = self._process.pid
        until = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError("coturn did not start")
            time.sleep(0.1)

    def _listens(self) -> bool:
        """It answers an Allocate."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.2)
            transport = _attribute(REQUESTED_TRANSPORT, bytes((UDP, 0, 0, 0)))
            body = transport + _attribute(LIFETIME, struct.pack("!I", 0))
            request = struct.pack("!HHI", ALLOCATE, len(body), COOKIE) + os.urandom(12) + body
            probe.sendto(request, self.server)
            try:
                return bool(probe.recv(2048))
            except OSError:
                return False

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()
