"""A ClientHello's bytes into what a server looks at (RFC 8446 section 4.1.2); the rest is stepped over.

aioquic's own reader builds a buffer position, a block and a callback for each of a hundred small fields; here
each is a slice. Whatever its reader takes, this one takes alike, but for extensions that stand there twice.
Must never live here: what is answered.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aioquic import tls

LEGACY_VERSION: Final = b"\x03\x03"
_HEADER: Final = 4  # type and length of a message
_RANDOM_END: Final = _HEADER + 2 + 32
_PSK: Final = int(tls.ExtensionType.PRE_SHARED_KEY)


class ClientHello(NamedTuple):
    """What a client offers, in its order; None where it did not say."""

    random: bytes
    session_id: bytes
    suites: tuple[int, ...]
    compressions: bytes
    versions: tuple[int, ...] | None
    signatures: tuple[int, ...] | None
    shares: list[tuple[int, bytes]] | None  # group, public key
    protocols: list[bytes] | None  # ALPN
    extensions: dict[int, bytes]  # by type, as they came


def parse(message: bytes) -> ClientHello:
    """The whole message. tls.AlertDecodeError, tls.AlertIllegalParameter: it is none."""
    if message[_HEADER : _HEADER + 2] != LEGACY_VERSION or len(message) < _RANDOM_END:
        raise tls.AlertDecodeError("ClientHello version is not 1.2")
    session_id, at = _vector(message, _RANDOM_END, 1)
    suites, at = _vector(message, at, 2)
    compressions, at = _vector(message, at, 1)
    extensions = _extensions(_whole(message[at:], 2))
    versions = extensions.get(tls.ExtensionType.SUPPORTED_VERSIONS)
    signatures = extensions.get(tls.ExtensionType.SIGNATURE_ALGORITHMS)
    shares = extensions.get(tls.ExtensionType.KEY_SHARE)
    protocols = extensions.get(tls.ExtensionType.ALPN)
    return ClientHello(
        random=message[_HEADER + 2 : _RANDOM_END],
        session_id=session_id,
        suites=_numbers(suites),
        compressions=compressions,
        versions=None if versions is None else _numbers(_whole(versions, 1)),
        signatures=None if signatures is None else _numbers(_whole(signatures, 2)),
        shares=None if shares is None else _shares(_whole(shares, 2)),
        protocols=None if protocols is None else _protocols(_whole(protocols, 2)),
        extensions=extensions,
    )


def _vector(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Bytes behind their length of `size` bytes, and where they end."""
    start = at + size
    end = start + int.from_bytes(data[at:start], "big")
    if end > len(data) or start > len(data):
        raise tls.AlertDecodeError("a length reaches beyond the end")
    return data[start:end], end


def _whole(data: bytes, size: int) -> bytes:
    """The same where nothing may follow."""
    body, end = _vector(data, 0, size)
    if end != len(data):
        raise tls.AlertDecodeError("extra bytes at the end of a block")
    return body


def _numbers(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise tls.AlertDecodeError("half a number at the end of a list")
    return struct.unpack(f"!{len(data) // 2}H", data)


def _extensions(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if _PSK in found:  # (RFC 8446 section 4.2.11.)
            raise tls.AlertIllegalParameter("PreSharedKey is not the last extension")
        kind = int.from_bytes(data[at : at + 2], "big")
        if kind in found:  # (RFC 8446 section 4.2.)
            raise tls.AlertIllegalParameter("an extension stands there twice")
        found[kind], at = _vector(data, at + 2, 2)
    return found


def _shares(data: bytes) -> list[tuple[int, bytes]]:
    shares = []
    at = 0
    while at < len(data):
        group = int.from_bytes(data[at : at + 2], "big")
        key, at = _vector(data, at + 2, 2)
        shares.append((group, key))
    return shares


def _protocols(data: bytes) -> list[bytes]:
    protocols = []
    at = 0
    while at < len(data):
        name, at = _vector(data, at, 1)
        protocols.append(name)
    return protocols
