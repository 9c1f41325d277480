"""The native load generator as seen from Python: hand it legs, let it run, get counts.

    with Generator(cpu) as generator:
        generator.add_leg(leg, flow, kid)         a leg of load.leg, from now on the generator's
        generator.add_plain(sock, to)             plain UDP, for forwarders without QUIC
        generator.run(seconds, rate=50_000)       counts of each group of legs

Legs 2n and 2n+1 are the ends of a call. Must never live here: how legs come to be, bars.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
from typing import Any

from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp
from aioquic.tls import Epoch

from load import programs, tasks
from load.leg import Leg

PAYLOAD = 120
WIRE = 157  # UDP payload of a QUIC leg's packet: header 11, frame 3, audio 120, tag 16, ACK of about 7
SEALED = 11 + 3 + PAYLOAD + 16
WINDOW = 512
_ANSWER = 1 << 20
_GRACE = 30.0


def _keys(context: CryptoContext) -> str:
    """Key, IV and header key in hexadecimal."""
    assert context.cipher_suite is not None
    assert context.secret is not None
    assert context.version is not None
    parts = derive_key_iv_hp(
        cipher_suite=context.cipher_suite, secret=context.secret, version=context.version
    )
    return " ".join(part.hex() for part in parts)


class Generator:
    """One process of the generator, with the legs it was given."""

    def __init__(self, cpu: int | None = None) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (mine, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ANSWER)
        self._channel = mine
        self._count = 0
        self._process = subprocess.Popen(
            [str(programs.generator()), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self.pid = self._process.pid
        if cpu is not None:
            tasks.pin(self.pid, cpu)

    def __len__(self) -> int:
        """Legs handed over so far."""
        return self._count

    def add_leg(self, leg: Leg, *, group: int = 0) -> None:
        """Take over a leg whose gate is open. Its Python half lets go of the connection."""
        quic = leg._quic
        pair = quic._cryptos[Epoch.ONE_RTT]
        send, recv = _keys(pair.send), _keys(pair.recv)
        path = quic.path
        facts = (
            f"{quic._peer_cid.cid.hex()} {quic.host_cid.hex()} {send} {recv} {pair.send.key_phase}"
            f" {path.reserve(1)} {path.expected} 1 0"
        )
        self._add("quic", leg._sock, leg._server, group, leg.flow, leg.index << 2, facts)
        leg.vanish()

    def add_sealed(self, sock: socket.socket, to: tuple[str, int], facts: str, *, group: int = 0) -> None:
        """A leg of the forwarder that opens and seals: QUIC's packets, but nobody to acknowledge to."""
        self._add("quic", sock, to, group, 1, self._count % 2 << 2, f"{facts} 0 0 0 0 {WIRE - SEALED}")

    def add_plain(
        self,
        sock: socket.socket,
        to: tuple[str, int],
        *,
        prefix: bytes = b"",
        skip: int = 0,
        pad: int = WIRE - PAYLOAD,
        group: int = 0,
    ) -> None:
        """A leg without encryption: `prefix` before each payload, `skip` bytes before each that comes."""
        facts = f"{prefix.hex() or '-'} {skip} {pad}"
        self._add("plain", sock, to, group, 1, self._count % 2 << 2, facts)

    def _add(
        self,
        kind: str,
        sock: socket.socket,
        to: tuple[str, int],
        group: int,
        flow: int,
        kid: int,
        facts: str,
    ) -> None:
        secret = secrets.randbits(63)
        order = f"leg {kind} {group} {to[0]}:{to[1]} {PAYLOAD} {flow} {kid} {secret} {facts}"
        socket.send_fds(self._channel, [order.encode()], [sock.fileno()])
        self._count += 1

    def run(
        self,
        seconds: float,
        *,
        rate: float = 0.0,
        window: int = WINDOW,
        stamps: bool = False,
        legs: int | None = None,
        one_way: bool = False,
        loss: float = 0.0,
    ) -> dict[str, Any]:
        """Talk on the first `legs` legs: `rate` packets/s in all, or as fast as `window` under way allow.
        `one_way`: only the first of each call talks; `loss`: share of what comes that is thrown away unread.

        Gives seconds, cpu_s (the generator's own) and per group what was sent, delivered, wrong; delays in
        microseconds with `stamps`. RuntimeError when the generator refused an order or died.
        """
        count = self._count if legs is None else legs
        self._channel.settimeout(seconds * 2 + _GRACE)
        order = f"run {seconds} {rate} {window} {int(stamps)} 0-{count}"
        self._channel.send(f"{order} {1 + one_way} {loss}".encode())
        answer = self._channel.recv(_ANSWER)
        if not answer:
            raise RuntimeError("the load generator died")
        result: dict[str, Any] = json.loads(answer)
        if "error" in result:
            raise RuntimeError(f"the load generator refused an order: {result['error']}")
        return result

    def stop(self) -> None:
        """Close the channel and wait; legs are silent from now on."""
        self._channel.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
