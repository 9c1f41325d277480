"""STUN messages (RFC 8489): bytes to values and back, and the sums that guard them.

    type u16: 00 | M11-M7 | C1 | M6-M4 | C0 | M3-M0     length u16 of what follows the header
    cookie u32 2112A442 | transaction b12 | attributes: type u16, length u16, value, padding to 4

What counts: everything in front of MESSAGE-INTEGRITY, then MESSAGE-INTEGRITY-SHA256, then FINGERPRINT; what
else stands behind a guard was put there by anybody and is not looked at. Of two attributes of a type the
first counts. Must never live here: what TURN means by a message (turn.py), and who is who.
"""

from __future__ import annotations

import hmac
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import md5, sha256
from typing import Final, NamedTuple

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.address import Address

HEADER: Final = 20
COOKIE: Final = 0x2112A442
TRANSACTION_SIZE: Final = 12
BINDING: Final = 0x001

MAPPED_ADDRESS: Final = 0x0001  # 00 | family u8 | port u16 | address
USERNAME: Final = 0x0006  # UTF-8, less than 509 bytes
MESSAGE_INTEGRITY: Final = 0x0008  # HMAC-SHA1 b20 of what stands in front
ERROR_CODE: Final = 0x0009  # 0 u21 | class u3 | number u8 | reason UTF-8
UNKNOWN_ATTRIBUTES: Final = 0x000A  # u16 each
REALM: Final = 0x0014  # text
NONCE: Final = 0x0015  # text
MESSAGE_INTEGRITY_SHA256: Final = 0x001C  # HMAC-SHA256, 16 to 32 bytes, a multiple of 4
PASSWORD_ALGORITHM: Final = 0x001D  # number u16 | length u16 | parameters, padded
USERHASH: Final = 0x001E  # SHA-256(user:realm)
XOR_MAPPED_ADDRESS: Final = 0x0020  # 00 | family u8 | port u16 ^ | address ^
PASSWORD_ALGORITHMS: Final = 0x8002  # a list of PASSWORD-ALGORITHM values
SOFTWARE: Final = 0x8022  # never sent
ALTERNATE_SERVER: Final = 0x8023  # as MAPPED-ADDRESS
FINGERPRINT: Final = 0x8028  # CRC-32 ^ 5354554E

IPV4: Final = 0x01
IPV6: Final = 0x02
MD5: Final = 0x0001  # key = MD5(user:realm:password)
SHA256: Final = 0x0002  # key = SHA-256(user:realm:password)
NONCE_COOKIE: Final = "obMatJos2"  # in front of feature bits (RFC 8489 section 9.2)
FEATURE_ALGORITHMS: Final = 1 << 23  # bit 0 is the first of 24
FEATURE_ANONYMITY: Final = 1 << 22

MAX_USERNAME: Final = 508
MAX_TEXT: Final = 763  # realm and nonce, bytes
OPTIONAL: Final = 0x8000  # types from here on may be ignored when unknown
_XOR_PRINT: Final = 0x5354554E
_FINGERPRINT_SIZE: Final = 8
_COOKIE_BYTES: Final = COOKIE.to_bytes(4, "big")


class Class(IntEnum):
    """What kind of message: who speaks, and whether it is answered."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Attribute(NamedTuple):
    """One attribute, padding removed."""

    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is well formed. Whether its sums are right is asked with the functions below."""

    method: int
    cls: Class
    transaction: bytes
    attributes: tuple[Attribute, ...] = field(repr=False)
    """Those that count, in order, guards left out."""
    raw: bytes = field(repr=False)
    guards: dict[int, int] = field(repr=False)
    """Type of a guard (MESSAGE-INTEGRITY, its SHA-256 twin, FINGERPRINT) -> offset of its header."""

    def get(self, type: int) -> bytes | None:
        """Value of the first attribute of a type."""
        return next((value for found, value in self.attributes if found == type), None)

    def all(self, type: int) -> list[bytes]:
        """Values of every attribute of a type."""
        return [value for found, value in self.attributes if found == type]

    def unknown(self, known: Iterable[int]) -> list[int]:
        """Types that must be understood (RFC 8489 section 14) and are not among `known`, each once."""
        types = (found for found, _ in self.attributes if found < OPTIONAL and found not in known)
        return list(dict.fromkeys(types))

    @property
    def has_integrity(self) -> bool:
        """Whether either MESSAGE-INTEGRITY is there."""
        return MESSAGE_INTEGRITY in self.guards or MESSAGE_INTEGRITY_SHA256 in self.guards

    @property
    def has_fingerprint(self) -> bool:
        """Whether it ends with a FINGERPRINT."""
        return FINGERPRINT in self.guards


def _malformed(why: str) -> PeerError:
    return PeerError(ErrorCode.BAD_ENCODING, why)


# ---------------------------------------------------------------- reading


def parse(data: bytes) -> Message:
    """Read a whole message. PeerError unless every length fits and the FINGERPRINT, if there, is right."""
    if len(data) < HEADER:
        raise _malformed("shorter than a header")
    type = int.from_bytes(data[0:2], "big")
    if type >= 0x4000 or data[4:8] != _COOKIE_BYTES:
        raise _malformed("not STUN")
    if int.from_bytes(data[2:4], "big") != len(data) - HEADER or len(data) % 4:
        raise _malformed("wrong length")
    attributes, guards = _attributes(data)
    method = type & 0xF | (type & 0xE0) >> 1 | (type & 0x3E00) >> 2
    cls = Class((type >> 4 & 1) | (type >> 7 & 2))
    message = Message(method, cls, data[8:HEADER], attributes, data, guards)
    if not _fingerprint_holds(message):
        raise _malformed("wrong fingerprint")
    return message


def _attributes(data: bytes) -> tuple[tuple[Attribute, ...], dict[int, int]]:
    found: list[Attribute] = []
    guards: dict[int, int] = {}
    at = HEADER
    while at < len(data):
        # The whole is a multiple of 4 and every step too, so a header always fits; its value may not.
        type, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 4 + length
        if end > len(data):
            raise _malformed("an attribute passes the end")
        if FINGERPRINT in guards:
            raise _malformed("something follows the fingerprint")
        if _counts(type, guards):
            if type in _GUARD_SIZES:
                if length not in _GUARD_SIZES[type]:
                    raise _malformed("a guard of the wrong size")
                guards[type] = at
            else:
                found.append(Attribute(type, data[at + 4 : end]))
        at = end + (-length & 3)
    return tuple(found), guards


_GUARD_SIZES: Final = {
    MESSAGE_INTEGRITY: (20,),
    MESSAGE_INTEGRITY_SHA256: (16, 20, 24, 28, 32),
    FINGERPRINT: (4,),
}


def _counts(type: int, guards: dict[int, int]) -> bool:
    """Whether an attribute at this place is looked at (RFC 8489 sections 14.5 to 14.7)."""
    if MESSAGE_INTEGRITY_SHA256 in guards:
        return type == FINGERPRINT
    if MESSAGE_INTEGRITY in guards:
        return type in (MESSAGE_INTEGRITY_SHA256, FINGERPRINT)
    return True


# ---------------------------------------------------------------- sums


def long_term_key(user: bytes, realm: bytes, password: bytes, algorithm: int = MD5) -> bytes:
    """The key of a long-term credential (RFC 8489 sections 14.5, 14.6); algorithm 1 or 2, else LocalError."""
    text = b":".join((user, realm, password))
    if algorithm == MD5:
        return md5(text, usedforsecurity=False).digest()
    if algorithm == SHA256:
        return sha256(text).digest()
    raise LocalError("no such password algorithm")


def user_hash(user: bytes, realm: bytes) -> bytes:
    """The value of USERHASH (RFC 8489 section 14.4)."""
    return sha256(user + b":" + realm).digest()


def integrity_holds(message: Message, key: bytes) -> bool:
    """Whether the strongest MESSAGE-INTEGRITY there is was made with this key; False if there is none."""
    for type, digest in ((MESSAGE_INTEGRITY_SHA256, "sha256"), (MESSAGE_INTEGRITY, "sha1")):
        at = message.guards.get(type)
        if at is not None:
            size = int.from_bytes(message.raw[at + 2 : at + 4], "big")
            right = hmac.digest(key, _covered(message.raw, at, 4 + size), digest)
            return hmac.compare_digest(right[:size], message.raw[at + 4 : at + 4 + size])
    return False


def _covered(data: bytes, at: int, size: int) -> bytes:
    """What a guard at offset `at` covers: all in front, as if the message ended with the guard."""
    return data[:2] + (at + size - HEADER).to_bytes(2, "big") + data[4:at]


def _fingerprint(front: bytes) -> bytes:
    return (zlib.crc32(front) ^ _XOR_PRINT).to_bytes(4, "big")


def _fingerprint_holds(message: Message) -> bool:
    at = message.guards.get(FINGERPRINT)
    # Nothing follows it, so the header's length is the one that was summed.
    return at is None or message.raw[at + 4 :] == _fingerprint(message.raw[:at])


# ---------------------------------------------------------------- writing


def build(
    method: int,
    cls: Class,
    transaction: bytes,
    attributes: Sequence[Attribute] = (),
    *,
    key: bytes | None = None,
    sha256: bool = False,
    fingerprint: bool = False,
) -> bytes:
    """Write a message; with a `key` guarded by MESSAGE-INTEGRITY, or its SHA-256 twin, uncut."""
    if not 0 <= method <= 0xFFF or len(transaction) != TRANSACTION_SIZE:
        raise LocalError("not a STUN method or transaction id")
    type = method & 0xF | (method & 0x70) << 1 | (method & 0xF80) << 2 | (cls & 1) << 4 | (cls & 2) << 7
    out = bytearray(type.to_bytes(2, "big") + bytes(2) + _COOKIE_BYTES + transaction)
    for attribute in attributes:
        _append(out, attribute)
    if key is not None:
        guard, size, digest = (
            (MESSAGE_INTEGRITY_SHA256, 32, "sha256") if sha256 else (MESSAGE_INTEGRITY, 20, "sha1")
        )
        out[2:4] = (len(out) + 4 + size - HEADER).to_bytes(2, "big")
        _append(out, Attribute(guard, hmac.digest(key, bytes(out), digest)))
    out[2:4] = (len(out) + (_FINGERPRINT_SIZE if fingerprint else 0) - HEADER).to_bytes(2, "big")
    if fingerprint:
        _append(out, Attribute(FINGERPRINT, _fingerprint(bytes(out))))
    return bytes(out)


def _append(out: bytearray, attribute: Attribute) -> None:
    size = len(attribute.value)
    if size > 0xFFFF - HEADER:
        raise LocalError("an attribute is too long")
    out += attribute.type.to_bytes(2, "big") + size.to_bytes(2, "big") + attribute.value + bytes(-size & 3)


# ---------------------------------------------------------------- values


def encode_address(address: Address) -> bytes:
    """The value of MAPPED-ADDRESS and ALTERNATE-SERVER."""
    ip = address.packed
    return bytes((0, IPV4 if len(ip) == 4 else IPV6)) + address.port.to_bytes(2, "big") + ip


def decode_address(value: bytes) -> Address:
    """Read it again; PeerError unless family and size agree. IPv4-mapped becomes IPv4."""
    size = {IPV4: 4, IPV6: 16}.get(value[1]) if len(value) >= 4 else None
    if size is None or len(value) != 4 + size:
        raise _malformed("not an address")
    return Address.of(value[4:], int.from_bytes(value[2:4], "big"))


def encode_xor_address(address: Address, transaction: bytes) -> bytes:
    """The value of XOR-MAPPED-ADDRESS and its kin (RFC 8489 section 14.2)."""
    return _xored(encode_address(address), transaction)


def decode_xor_address(value: bytes, transaction: bytes) -> Address:
    """Read it again; PeerError unless family and size agree."""
    if len(value) not in (8, 20):
        raise _malformed("not an address")
    return decode_address(_xored(value, transaction))


def _xored(value: bytes, transaction: bytes) -> bytes:
    mask = _COOKIE_BYTES[:2] + (_COOKIE_BYTES + transaction)[: len(value) - 4]
    body = int.from_bytes(value[2:], "big") ^ int.from_bytes(mask, "big")
    return value[:2] + body.to_bytes(len(mask), "big")


def encode_error(code: int) -> bytes:
    """The value of ERROR-CODE, without a reason: it helps nobody and would be paid for by the network."""
    return bytes((0, 0, code // 100, code % 100))


def decode_error(value: bytes) -> int:
    """The code, 300 to 699; PeerError if it is none (RFC 8489 section 14.8)."""
    if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise _malformed("not an error code")
    return 100 * (value[2] & 7) + value[3]


def encode_algorithms(algorithms: Iterable[int]) -> bytes:
    """The value of PASSWORD-ALGORITHMS, or with one of PASSWORD-ALGORITHM; none of ours has parameters."""
    return b"".join(number.to_bytes(2, "big") + bytes(2) for number in algorithms)


def decode_algorithms(value: bytes) -> tuple[tuple[int, bytes], ...]:
    """Numbers and parameters, in order. PeerError when cut short."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(value):
        end = at + 4 + int.from_bytes(value[at + 2 : at + 4], "big")
        if len(value) - at < 4 or end > len(value):
            raise _malformed("algorithms cut short")
        found.append((int.from_bytes(value[at : at + 2], "big"), value[at + 4 : end]))
        at = end + (-end & 3)
    return tuple(found)


def encode_unknown(types: Iterable[int]) -> bytes:
    """The value of UNKNOWN-ATTRIBUTES."""
    return b"".join(type.to_bytes(2, "big") for type in types)


def with_features(nonce: str, features: int) -> str:
    """The nonce behind cookie and feature bits (RFC 8489 section 9.2)."""
    return NONCE_COOKIE + b64encode(features.to_bytes(3, "big")).decode() + nonce


def split_features(nonce: bytes) -> tuple[int, bytes]:
    """Feature bits and the rest of a nonce; 0 and all of it when it has no cookie."""
    front = len(NONCE_COOKIE)
    if not nonce.startswith(NONCE_COOKIE.encode()) or len(nonce) < front + 4:
        return 0, nonce
    try:
        features = b64decode(nonce[front : front + 4], validate=True)
    except ValueError:
        return 0, nonce
    # Padding would make it shorter; such a nonce is nobody's.
    return (int.from_bytes(features, "big"), nonce[front + 4 :]) if len(features) == 3 else (0, nonce)
