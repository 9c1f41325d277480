"""Where a person can be reached, written for the other person's eyes only.

    sealed  = epoch u8 | nonce b12 | AES-256-GCM of the text
    text    = version u8 | size u16 | certificate (DER) | count u8 | count x candidate
    candidate = kind u8 (0 host, 1 srflx) | 4 or 16 u8 | address | port u16

The certificate is the throw-away one that its maker presents on the direct connection. So the direct path is
bound to the key agreement, and whoever carries the blob can neither read nor change it. Must never live here:
sockets, and where candidates come from.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from enum import IntEnum
from ipaddress import ip_address
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.client.agreement import Draw
from relay.errors import ErrorCode, PeerError
from relay.protocol.address import Address

MAX_CANDIDATES: Final = 12
_VERSION: Final = 1
_NONCE: Final = 12
_DOMAIN: Final = b"vrl-path-v1\0"


class Kind(IntEnum):
    """What sort of address it is; `Cand.kinds` names them."""

    HOST = 0
    SRFLX = 1


class Candidate(NamedTuple):
    """One address to try."""

    kind: Kind
    address: Address


class Offer(NamedTuple):
    """What one side tells the other: its certificate (DER) and its candidates, best first."""

    certificate: bytes
    candidates: tuple[Candidate, ...]


class Sealer:
    """Seals what one participant tells another about itself; `secret` is `AgreedKeys.path` of `epoch`."""

    def __init__(self, secret: bytes, call: bytes, sender: int, receiver: int) -> None:
        self._aead = AESGCM(derive(secret, b"seal" + bytes((sender,))))
        self._aad = _DOMAIN + call + bytes((sender, receiver))

    def seal(self, offer: Offer, epoch: int, generation: int, draw: Draw) -> bytes:
        """The blob of a `cand`."""
        nonce = draw(_NONCE)
        return bytes((epoch,)) + nonce + self._aead.encrypt(nonce, _encode(offer), self._bound(generation))

    def open(self, blob: bytes, generation: int) -> Offer:
        """What the other side said. PeerError, not fatal: the relay could have made it up."""
        try:
            nonce, rest = blob[1 : 1 + _NONCE], blob[1 + _NONCE :]
            return _decode(self._aead.decrypt(nonce, rest, self._bound(generation)))
        except (InvalidTag, ValueError, IndexError):
            raise PeerError(ErrorCode.BAD_ENCODING, "candidates do not open", fatal=False) from None

    def _bound(self, generation: int) -> bytes:
        return self._aad + generation.to_bytes(4, "big")


def derive(secret: bytes, label: bytes) -> bytes:
    """A key of its own for each use of a path's secret."""
    return hmac.digest(secret, _DOMAIN + label, "sha256")


def epoch_of(blob: bytes) -> int:
    """Which key epoch a blob is sealed with; -1 if it is none."""
    return blob[0] if blob else -1


def gather(hosts: Iterable[str], port: int, observed: Address | None) -> tuple[Candidate, ...]:
    """Own addresses and the one the relay saw, each once: a machine without NAT has one that is both."""
    found = {Address(host, port): Kind.HOST for host in hosts}
    if observed is not None:
        found.setdefault(observed, Kind.SRFLX)
    return tuple(Candidate(kind, address) for address, kind in found.items())[:MAX_CANDIDATES]


def usable(candidates: Iterable[Candidate], own: Iterable[Candidate]) -> list[Address]:
    """Addresses worth a packet: none that means everybody or nobody, loopback only if it is ours too."""
    local = any(ip_address(one.address.host).is_loopback for one in own)
    found: dict[Address, None] = {}
    for one in candidates:
        ip = ip_address(one.address.host)
        if ip.is_multicast or ip.is_unspecified or ip.is_link_local or (ip.is_loopback and not local):
            continue
        if one.address.host != "255.255.255.255" and one.address.port:
            found[one.address] = None
    return list(found)[:MAX_CANDIDATES]


def _encode(offer: Offer) -> bytes:
    parts = [bytes((_VERSION,)), len(offer.certificate).to_bytes(2, "big"), offer.certificate]
    parts.append(bytes((len(offer.candidates),)))
    for kind, address in offer.candidates:
        packed = address.packed
        parts.append(bytes((kind, len(packed))) + packed + address.port.to_bytes(2, "big"))
    return b"".join(parts)


def _decode(text: bytes) -> Offer:
    """ValueError or IndexError for what is no offer, though the other side sealed it."""
    if text[0] != _VERSION:
        raise ValueError("version")
    at = 3 + int.from_bytes(text[1:3], "big")
    certificate, count, at = text[3:at], text[at], at + 1
    found = []
    for _ in range(count):
        kind, size = Kind(text[at]), text[at + 1]
        end = at + 2 + size
        host = ip_address(text[at + 2 : end])
        port = int.from_bytes(text[end : end + 2], "big")
        if len(text) < end + 2:
            raise ValueError("cut short")
        found.append(Candidate(kind, Address.parse((str(host), port))))
        at = end + 2
    return Offer(certificate, tuple(found))
