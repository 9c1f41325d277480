"""Bytes out for bytes in, over generated packets from sources that prove nothing. Simulated time, real code.

The declared exception, the QUIC handshake below the Retry threshold (RFC 9000 section 8.1), is counted
apart: by source, and in bytes per second of simulated time in all. Must never live here: sockets.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_header

from load.report import Report, say
from load.simulated import (
    INITIAL_SIZE,
    VERSIONS,
    CountingSocket,
    SimulatedLoop,
    Source,
    node,
    real_initials,
    shaped_initial,
    source,
)
from relay.quic.connection import IssuedId

PHASE = 1000  # inputs at one rate
RATES = (40.0, 400.0, 5_000.0, 50_000.0)  # inputs per second; the lowest stays below the Retry threshold
PURE_EVERY = 50  # one phase in so many is all real first packets, just below the rate that starts Retry
PURE_RATE = 95.0
HANDSHAKE_BYTES_PER_S = 360_000
POOL = 600
MALFORMED = "malformed"


@dataclass
class Ledger:
    """What went in and came out. Handshake bytes stand apart from all other answers."""

    bytes_in: int = 0
    bytes_out: Counter[str] = field(default_factory=Counter)
    malformed_in: int = 0
    malformed_out: int = 0
    worst_answer: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    asked: dict[Source, int] = field(default_factory=dict)
    handshake: Counter[Source] = field(default_factory=Counter)
    second: deque[tuple[float, int]] = field(default_factory=deque)
    in_second: int = 0
    worst_second: int = 0

    def answer(self, kind: str, size: int, to: Source, now: float) -> None:
        """Bytes left for `to`."""
        self.bytes_out[kind] += size
        if kind != "handshake":
            self.worst_answer = max(self.worst_answer, size / max(1, self.asked.get(to, 0)))
            return
        self.handshake[to] += size
        self.second.append((now, size))
        self.in_second += size
        while self.second[0][0] <= now - 1.0:
            self.in_second -= self.second.popleft()[1]
        self.worst_second = max(self.worst_second, self.in_second)

    @property
    def worst_handshake(self) -> float:
        """Greatest ratio of any source."""
        return max((out / self.asked[to] for to, out in self.handshake.items()), default=0.0)


def kind_of_answer(data: bytes) -> str:
    """What the node sent, by its first packet."""
    if data[0] < 0x80:
        return "stateless_reset"
    if data[1:5] == b"\0\0\0\0":
        return "version_negotiation"
    retry = 0x30 if data[1:5] == VERSIONS[0] else 0x00
    return "retry" if data[0] & 0x30 == retry else "handshake"


class Inputs:
    """Generates packets: (kind, data). `MALFORMED` ones must have no answer at all."""

    def __init__(self, rng: random.Random, issue: Callable[[], IssuedId]) -> None:
        self._rng = rng
        self._pool = real_initials(POOL)
        self._strange = real_initials(POOL // 10, alpn="h3")
        self._ours = [issue().cid for _ in range(64)]
        self.tokens: deque[bytes] = deque([bytes(60)], maxlen=64)
        makers: list[tuple[int, str, Callable[[], bytes]]] = [
            (12, MALFORMED, self._noise),
            (8, MALFORMED, self._small_initial),
            (6, MALFORMED, lambda: b"\xc0\0\0\0\0\x08" + rng.randbytes(1194)),  # a version negotiation
            (6, MALFORMED, self._other_long),
            (4, MALFORMED, lambda: rng.randbytes(rng.randint(2049, 3000))),
            (4, MALFORMED, lambda: bytes((rng.randint(0, 3), 1)) + rng.randbytes(18)),
            (4, MALFORMED, self._short_id),
            (10, "unknown version", lambda: b"\xc0" + rng.randbytes(4) + b"\x08" + rng.randbytes(1200)),
            (8, "id of ours", self._reset_trigger),
            (20, "shaped initial", lambda: shaped_initial(rng)),
            (6, "stolen token", lambda: shaped_initial(rng, rng.choice(self.tokens))),
            (8, "real initial", lambda: rng.choice(self._pool)),
            (2, "wrong ALPN", lambda: rng.choice(self._strange)),
            (2, "damaged initial", self._damaged),
        ]
        self._pure = [maker for maker in makers if maker[1] in ("real initial", "wrong ALPN")]
        self._weights = [weight for weight, _, _ in makers]
        self._makers = [(kind, make) for _, kind, make in makers]

    def next(self, *, pure: bool) -> tuple[str, bytes]:
        """One packet; `pure`: one that starts a handshake."""
        if pure:
            _, kind, make = self._rng.choice(self._pure)
        else:
            kind, make = self._rng.choices(self._makers, self._weights)[0]
        return kind, make()

    def _noise(self) -> bytes:
        return self._rng.randbytes(self._rng.randint(0, INITIAL_SIZE - 1))

    def _small_initial(self) -> bytes:
        return shaped_initial(self._rng)[: self._rng.randint(7, INITIAL_SIZE - 1)]

    def _other_long(self) -> bytes:
        """Handshake, 0-RTT or Retry for an id that nobody has (version 1)."""
        first = self._rng.choice((0xD0, 0xE0, 0xF0))
        return (
            bytes((first,))
            + shaped_initial(self._rng)[1:5].replace(*VERSIONS[::-1])
            + b"\x08"
            + (self._rng.randbytes(1200))
        )

    def _short_id(self) -> bytes:
        return b"\xc3" + VERSIONS[0] + bytes((self._rng.randint(0, 7),)) + self._rng.randbytes(1195)

    def _reset_trigger(self) -> bytes:
        rest = self._rng.randbytes(self._rng.randint(10, 1200))
        return bytes((self._rng.randint(0x40, 0x7F),)) + self._rng.choice(self._ours) + rest

    def _damaged(self) -> bytes:
        data = bytearray(self._rng.choice(self._pool))
        data[self._rng.randrange(30, len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(data)


def retry_token(data: bytes) -> bytes:
    """The token inside a Retry packet."""
    return pull_quic_header(Buffer(data=data), host_cid_length=8).token


def run(inputs: int, seed: int) -> tuple[Ledger, dict[str, Any]]:
    """Feed that many packets, then let every timer run out."""
    rng = random.Random(seed)
    loop = SimulatedLoop()
    relay = node(loop, rng.randbytes)
    book = Ledger()

    def sent(data: bytes, to: Source) -> None:
        kind = kind_of_answer(data)
        book.answer(kind, len(data), to, loop.now)
        if kind == "retry":
            generated.tokens.append(retry_token(data))

    sock: Any = CountingSocket(sent)
    generated = Inputs(rng, relay.endpoint._issue)
    endpoint = relay.endpoint
    door = endpoint.attach_socket(sock)
    rate, pure = RATES[0], False
    for number in range(inputs):
        if number % PHASE == 0:
            pure = number // PHASE % PURE_EVERY == 1
            rate = PURE_RATE if pure else RATES[number // PHASE % len(RATES)]
            if number % (inputs // 10 or 1) == 0:
                say(f"  {number} inputs, {sum(book.bytes_out.values())} bytes out")
        kind, data = generated.next(pure=pure)
        where = source(rng)
        book.kinds[kind] += 1
        book.bytes_in += len(data)
        book.asked[where] = book.asked.get(where, 0) + len(data)
        before = sum(book.bytes_out.values())
        endpoint.receive(data, where, door, loop.now)
        loop.advance(0.0)
        if kind == MALFORMED:
            book.malformed_in += 1
            book.malformed_out += sum(book.bytes_out.values()) - before
        loop.advance(1 / rate)
        if where not in book.handshake and kind not in ("real initial", "wrong ALPN", "damaged initial"):
            del book.asked[where]
    loop.advance(60.0)
    return book, {
        "dropped": {reason.value: count for reason, count in endpoint.dropped.items()},
        "answered": dict(endpoint.answered),
        "sessions_after": len(endpoint),
        "imbalance": endpoint.imbalance(),
    }


def judge(out: Report, inputs: int, seed: int) -> None:
    """Bars of the guard against reflection."""
    say(f"reflection: {inputs} generated packets from unproven sources, simulated time")
    book, facts = run(inputs, seed)
    answers = {kind: size for kind, size in book.bytes_out.items() if kind != "handshake"}
    out.bar("reflected bytes out / in, handshake apart", sum(answers.values()) / book.bytes_in, "<=", 1.0)
    out.bar("largest answer / its question", book.worst_answer, "<=", 1.0)
    out.bar("bytes out for malformed packets", book.malformed_out, "==", 0)
    out.bar("declared exception, handshake: out / in of any source", book.worst_handshake, "<=", 3.0)
    out.bar(
        "declared exception, handshake: bytes in any second", book.worst_second, "<=", HANDSHAKE_BYTES_PER_S
    )
    out.bar("sessions left by unproven sources", facts["sessions_after"], "==", 0)
    out.detail(
        reflection={
            "inputs": dict(book.kinds),
            "bytes_in": book.bytes_in,
            "bytes_out": dict(book.bytes_out),
            "handshakes_answered": len(book.handshake),
            **facts,
        }
    )
