"""What happens to packets that no connection owns: admit, prove the address first, answer, or drop by name.

No state per source is kept before a return path is proven: fixed arrays of token buckets, whatever comes.

    long header, unknown id
      < 1200 bytes                              drop malformed (RFC 9000 section 14.1)
      version we do not speak                   version negotiation, within a budget
      not Initial, or destination id < 8 bytes  drop
      too many handshakes in progress           drop quota; the token is not used up
      valid address token                       admit, address proven
      busy (half-open or Initials per second)   Retry
      else                                      admit, three times the bytes at most
    short header, unknown id                    stateless reset, smaller than its trigger

Sans-I/O: bytes and clock readings in, a verdict out. Must never live here: sockets, connections.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aioquic.quic.packet import encode_quic_retry
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.errors import PeerError
from relay.protocol.address import Address
from relay.protocol.cid import CID_SIZE, FIRST_BYTE, CidCodec
from relay.protocol.demux import (
    MIN_INITIAL,
    QUIC_V1,
    QUIC_V2,
    LongHeader,
    parse_long,
    stateless_reset,
    version_negotiation,
)

VERSIONS = (QUIC_V1, QUIC_V2)
MIN_RESET_TRIGGER = 43  # a reset is shorter than its trigger and at least 21 bytes (RFC 9000 section 10.3)
TOKEN_MARK = b"RA"
BUCKETS = 4096  # sources share buckets by a keyed hash: 64 KiB in all, flat under any flood
SEEN_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
class Admit:
    """Start a handshake. `retry_source` is set when a Retry token proved the address."""

    original_destination: bytes
    retry_source: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Send these bytes back, keep nothing. `kind` names the answer for the counters."""

    data: bytes
    kind: str


Verdict = Admit | Answer | DropReason


class SourceBuckets:
    """Token buckets for sources in a fixed array: float level and time per slot, never more memory."""

    def __init__(self, rate: float, burst: float, salt: bytes) -> None:
        self._rate = rate
        self._burst = burst
        self._salt = salt
        self._level = array("d", [burst]) * BUCKETS
        self._at = array("d", [0.0]) * BUCKETS

    def take(self, source: bytes, now: float) -> bool:
        """One token for this source, if there is one."""
        digest = hashlib.blake2b(source, digest_size=2, key=self._salt).digest()
        slot = (digest[0] << 8 | digest[1]) % BUCKETS
        level = min(self._burst, self._level[slot] + max(0.0, now - self._at[slot]) * self._rate)
        self._at[slot] = max(self._at[slot], now)
        allowed = level >= 1.0
        self._level[slot] = level - 1.0 if allowed else level
        return allowed


class RateGauge:
    """How many happened in the last second, in two half-second buckets."""

    def __init__(self) -> None:
        self._slot = -1
        self._current = 0
        self._previous = 0

    def add(self, now: float) -> int:
        """Count one; the number of the last half to whole second, itself included."""
        slot = int(now * 2)
        if slot != self._slot:
            self._previous = self._current if slot == self._slot + 1 else 0
            self._current = 0
            self._slot = slot
        self._current += 1
        return self._current + self._previous


class AddressTokens:
    """Retry tokens: AEAD over address, ids and time. Two keys live; each token counts once.

    "RA" || nonce[12] || AES-GCM( u64 unix ms || u8 length || original id || id of the Retry )
    AAD: the source address as text and its port
    """

    def __init__(self, keys: Sequence[bytes], life: float, draw: Callable[[int], bytes]) -> None:
        self._aeads = [AESGCM(key) for key in keys]
        self._life_ms = int(life * 1000)
        self._draw = draw
        self._seen: list[set[bytes]] = [set(), set()]
        self._turned_ms = 0

    def mint(self, source: Address, original: bytes, retry_source: bytes, wall: float) -> bytes:
        """A token that proves `source` for the next seconds."""
        nonce = self._draw(12)
        body = struct.pack(">Q", int(wall * 1000)) + bytes((len(original),)) + original + retry_source
        return TOKEN_MARK + nonce + self._aeads[0].encrypt(nonce, body, _address_bytes(source))

    def is_ours(self, token: bytes) -> bool:
        """Whether it claims to be a Retry token of this cluster."""
        return token[:2] == TOKEN_MARK

    def check(self, token: bytes, source: Address, destination: bytes, wall: float) -> bytes | None:
        """The original destination id if the token is good, fresh, for this source and unused; else None."""
        nonce = token[2:14]
        for aead in self._aeads:
            try:
                body = aead.decrypt(nonce, token[14:], _address_bytes(source))
                break
            except (InvalidTag, ValueError):
                continue
        else:
            return None
        (made_ms,) = struct.unpack_from(">Q", body)
        original = body[9 : 9 + body[8]]
        now_ms = int(wall * 1000)
        if not -1000 <= now_ms - made_ms <= self._life_ms or body[9 + body[8] :] != destination:
            return None
        return original if self._first_use(nonce, now_ms) else None

    def _first_use(self, nonce: bytes, now_ms: int) -> bool:
        if now_ms - self._turned_ms > self._life_ms or len(self._seen[0]) >= SEEN_TOKENS:
            self._seen = [set(), self._seen[0]]
            self._turned_ms = now_ms
        if nonce in self._seen[0] or nonce in self._seen[1]:
            return False
        self._seen[0].add(nonce)
        return True


def strange(cid: bytes) -> bytes:
    """The id of a Retry, never in the form of those we issue: the kernel takes its owner for a newcomer."""
    return bytes((cid[0] ^ 0x80,)) + cid[1:] if cid[0] == FIRST_BYTE else cid


def _address_bytes(source: Address) -> bytes:
    return f"{source.host} {source.port}".encode()


class Front:
    """Judges packets that belong to no connection."""

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        tokens: AddressTokens,
        ids: CidCodec,
        server_id: bytes,
        reset_token: Callable[[bytes], bytes],
        draw: Callable[[int], bytes],
    ) -> None:
        self._tokens = tokens
        self._ids = ids
        self._server_id = server_id
        self._reset_token = reset_token
        self._draw = draw
        self._salt = draw(16)
        self._initials = RateGauge()
        self._negotiations = RateGauge()
        self._next_reset = 0.0
        self.configure(limits)

    def configure(self, limits: LimitsConfig) -> None:
        """Take new limits; budgets start full."""
        self._limits = limits
        self._per_source = SourceBuckets(
            limits.initials_per_source_per_s, limits.initials_per_source_burst, self._salt
        )
        self._per_source_negotiations = SourceBuckets(
            limits.negotiations_per_source_per_s, limits.negotiations_per_source_per_s, self._salt
        )

    def judge_long(self, data: bytes, source: Address, now: float, wall: float, half_open: int) -> Verdict:
        """A long-header packet with a destination id that no connection owns."""
        if len(data) < MIN_INITIAL:
            return DropReason.MALFORMED
        try:
            header = parse_long(data)
        except PeerError:
            return DropReason.MALFORMED
        if header.version not in VERSIONS:
            return self._negotiate(header, source, now)
        if not header.is_initial:
            return DropReason.UNKNOWN_ID
        if len(header.dcid) < 8:
            return DropReason.MALFORMED
        if not self._per_source.take(source.prefix(), now):
            return DropReason.OVER_BUDGET
        return self._admit(header, source, now, wall, half_open)

    def _admit(self, header: LongHeader, source: Address, now: float, wall: float, half_open: int) -> Verdict:
        rate = self._initials.add(now)
        if self._tokens.is_ours(header.token):
            if half_open >= self._limits.half_open:
                return DropReason.QUOTA  # before the token is used up: it is good for the next try
            original = self._tokens.check(header.token, source, header.dcid, wall)
            if original is None:
                return DropReason.UNPROVEN
            return Admit(original, header.dcid)
        if half_open >= self._limits.retry_above_half_open or rate > self._limits.retry_above_initials_per_s:
            retry_source = strange(self._draw(CID_SIZE))
            token = self._tokens.mint(source, header.dcid, retry_source, wall)
            return Answer(
                encode_quic_retry(
                    version=header.version,
                    source_cid=retry_source,
                    destination_cid=header.scid,
                    original_destination_cid=header.dcid,
                    retry_token=token,
                ),
                "retry",
            )
        return Admit(header.dcid, None)

    def _negotiate(self, header: LongHeader, source: Address, now: float) -> Verdict:
        if header.version == 0:
            return DropReason.BAD_VERSION  # never answer an answer
        if not self._per_source_negotiations.take(source.prefix(), now):
            return DropReason.OVER_BUDGET
        if self._negotiations.add(now) > self._limits.negotiations_per_s:
            return DropReason.OVER_BUDGET
        return Answer(
            version_negotiation(header, VERSIONS, self._draw(1)[0]),
            "version_negotiation",
        )

    def judge_short(self, data: bytes, now: float) -> Verdict:
        """A short-header packet with an id that no connection owns: perhaps one of ours, from before."""
        if len(data) < MIN_RESET_TRIGGER or now < self._next_reset:
            return DropReason.UNKNOWN_ID
        cid = data[1:9]
        owner = self._ids.decode(cid)
        if owner is None or owner[0] != self._server_id:
            return DropReason.UNKNOWN_ID
        self._next_reset = now + 1.0 / self._limits.resets_per_s
        size = min(len(data) - 1, 42)
        return Answer(stateless_reset(self._reset_token(cid), self._draw(size - 16)), "stateless_reset")
