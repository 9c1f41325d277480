"""Key agreement between two people over the opaque `e2e` messages: who they are, and one base key each way.

    responder  -- hello ------------------------------------>  committer   (the lower participant index)
               <------------------------ commit: H(offer C) --
               -- offer R ----------------------------------->
               <----------------------------- reveal: offer C --
               -- confirm: signature, MAC -------------------->
               <------------------------------------ confirm --

    offer = X25519 ephemeral || Ed25519 identity || random || suites

The committer is bound to its ephemeral key before it sees the responder's, and the responder shows its own
only after that. So a relay in the middle gets one guess at the short string per run (1 in 10^6), and
`MAX_RUNS` bounds the runs of a call. The idea is ZRTP's hash commitment (RFC 6189 section 4.4.1.1); the
signed transcript with a MAC is SIGMA's. A later epoch mixes in the chain key of the one before it: what was
compared once stays compared. Must never live here: sockets, clocks, random sources (they are arguments).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from relay.client.e2ee import Suite
from relay.errors import ErrorCode, PeerError

Draw = Callable[[int], bytes]

MAX_RUNS: Final = 8  # runs per call and peer: 8 guesses at 10^6 strings, and room for 4 ringing devices
BASE_KEY_SIZE: Final = 64  # the hash size of suite 0x0005
RUN_ID_SIZE: Final = 8
SAS_DIGITS: Final = 6

_VERSION: Final = 1
_HEADER: Final = 3 + 2 * RUN_ID_SIZE  # version u8 | kind u8 | epoch u8 | from b8 | to b8
_OFFER_MIN: Final = 32 + 32 + 32 + 1 + 2  # ephemeral | identity | random | count u8 | suites u16 each
_CONFIRM: Final = 32 + 64  # MAC | signature
_DOMAIN: Final = b"vrl-e2e-v1\0"


class Kind(IntEnum):
    """What a blob carries."""

    HELLO = 0  # nothing: "I am here under this run id"
    COMMIT = 1  # SHA-256 of the committer's offer
    OFFER = 2
    REVEAL = 3  # the committer's offer
    CONFIRM = 4
    CHOSEN = 5  # MAC: this device of mine took the call


class Progress(Enum):
    """How far a run has come."""

    WAITING = "nothing sent or heard that binds anybody"
    BOUND = "committer: commitment sent; responder: offer sent"
    KEYED = "both offers known, the other's confirmation outstanding"
    DONE = "the other side proved its identity key and the same transcript"
    FAILED = "somebody lied: commitment, signature or MAC is wrong"


class Blob(NamedTuple):
    """The frame of every agreement message inside `e2e` k=0."""

    kind: Kind
    epoch: int
    sender: bytes
    target: bytes
    body: bytes

    def encode(self) -> bytes:
        """version u8 | kind u8 | epoch u8 | from b8 | to b8 | body"""
        return bytes((_VERSION, self.kind, self.epoch)) + self.sender + self.target + self.body


def decode(raw: bytes) -> Blob:
    """Read a blob; PeerError (never fatal: the relay could have made it up) when it is none."""
    if len(raw) < _HEADER or raw[0] != _VERSION or raw[1] > Kind.CHOSEN:
        raise PeerError(ErrorCode.BAD_ENCODING, "not a key agreement message", fatal=False)
    at = 3 + RUN_ID_SIZE
    return Blob(Kind(raw[1]), raw[2], raw[3:at], raw[at:_HEADER], raw[_HEADER:])


@dataclass(frozen=True, slots=True, repr=False)
class AgreedKeys:
    """The fruit of a run. Never printed; `base_key` of a direction belongs to one sender alone."""

    suite: Suite
    epoch: int
    send_base_key: bytes
    receive_base_key: bytes
    chain: bytes
    path: bytes
    """What the direct path between the two is keyed by, the same on both sides."""
    sas: str
    peer_identity: bytes


@dataclass(frozen=True, slots=True)
class Parties:
    """Who runs the agreement, as the relay tells it. The transcript binds it, so a lie makes it fail."""

    call: bytes
    own_index: int
    peer_index: int

    @property
    def is_committer(self) -> bool:
        """The lower participant index commits first; the relay gives every `sub` of a call its own."""
        return self.own_index < self.peer_index


class Run:
    """One agreement with one device of the peer. Feed `on_blob`, send what it returns."""

    def __init__(
        self,
        parties: Parties,
        identity: Ed25519PrivateKey,
        draw: Draw,
        *,
        own_id: bytes,
        peer_id: bytes,
        epoch: int = 0,
        previous: AgreedKeys | None = None,
    ) -> None:
        self.parties = parties
        self.own_id = own_id
        self.peer_id = peer_id
        self.epoch = epoch
        self.progress = Progress.WAITING
        self.keys: AgreedKeys | None = None
        self.chosen = False
        self._identity = identity
        self._previous = previous
        self._ephemeral = X25519PrivateKey.from_private_bytes(draw(32))
        self._offer = self._make_offer(draw(32))
        self._commitment = _digest(self._offer) if parties.is_committer else b""
        self._mac_key = b""
        self._transcript = b""
        self._last: tuple[Kind, bytes] | None = None
        self._handlers: Final[dict[Kind, Callable[[bytes], list[bytes]]]] = {
            Kind.HELLO: self._on_hello,
            Kind.COMMIT: self._on_commit,
            Kind.OFFER: self._on_offer,
            Kind.REVEAL: self._on_reveal,
            Kind.CONFIRM: self._on_confirm,
            Kind.CHOSEN: self._on_chosen,
        }

    def start(self) -> list[bytes]:
        """The committer's first message; the responder has none, its hello opened the run."""
        if not self.parties.is_committer:
            return []
        if self.progress is Progress.WAITING:
            self.progress = Progress.BOUND
            self._last = (Kind.COMMIT, self._commitment)
        return self.resend()

    def resend(self) -> list[bytes]:
        """The latest message again: the peer's leg may have been away when it was sent."""
        return [self._blob(*self._last)] if self._last else []

    def choose(self) -> list[bytes]:
        """Tell the peer that this device took the call (several may have rung)."""
        if self.progress is not Progress.DONE:
            return []
        return [self._blob(Kind.CHOSEN, self._mac(b"chosen", self.parties.own_index))]

    def on_blob(self, blob: Blob) -> list[bytes]:
        """Take the peer's next message. One out of turn is ignored; a wrong proof fails the run for good."""
        if self.progress is Progress.FAILED or blob.epoch != self.epoch:
            return []
        try:
            return self._handlers[blob.kind](blob.body)
        except (PeerError, InvalidSignature, ValueError):
            self.progress, self.keys = Progress.FAILED, None
            raise PeerError(
                ErrorCode.E2E_UNSUPPORTED, f"key agreement failed at {blob.kind.name.lower()}", fatal=False
            ) from None

    # ------------------------------------------------------------ one handler per kind

    def _on_hello(self, body: bytes) -> list[bytes]:
        return self.resend() if self.parties.is_committer else []

    def _on_commit(self, body: bytes) -> list[bytes]:
        if self.parties.is_committer or len(body) != 32:
            return []
        if self._commitment:
            # A second, different commitment could be chosen after seeing our offer: never accept one.
            return self.resend() if body == self._commitment else []
        self._commitment = body
        self.progress = Progress.BOUND
        self._last = (Kind.OFFER, self._offer)
        return self.resend()

    def _on_offer(self, body: bytes) -> list[bytes]:
        if not self.parties.is_committer or self.progress is not Progress.BOUND:
            return []
        self._agree(committer=self._offer, responder=body)
        self._last = (Kind.REVEAL, self._offer)
        return self.resend()

    def _on_reveal(self, body: bytes) -> list[bytes]:
        if self.parties.is_committer or self.progress not in (Progress.BOUND, Progress.KEYED, Progress.DONE):
            return []
        if self.progress is not Progress.BOUND:
            return self.resend()  # the confirmation was lost with the node that carried it
        if not hmac.compare_digest(_digest(body), self._commitment):
            raise ValueError("commitment")
        self._agree(committer=body, responder=self._offer)
        self._last = (Kind.CONFIRM, self._confirmation())
        return self.resend()

    def _on_confirm(self, body: bytes) -> list[bytes]:
        if self.progress is not Progress.KEYED or self.keys is None:
            return []
        if len(body) != _CONFIRM:
            raise ValueError("confirmation size")
        peer = self.parties.peer_index
        if not hmac.compare_digest(body[:32], self._mac(b"confirm", peer)):
            raise ValueError("confirmation MAC")
        identity = Ed25519PublicKey.from_public_bytes(self.keys.peer_identity)
        identity.verify(body[32:], self._signed(peer))
        self.progress = Progress.DONE
        if not self.parties.is_committer:
            return []
        self._last = (Kind.CONFIRM, self._confirmation())
        return self.resend()

    def _on_chosen(self, body: bytes) -> list[bytes]:
        # A wrong MAC is ignored: keys that were proven once are not given up for one made-up message.
        if self.progress is Progress.DONE:
            proof = self._mac(b"chosen", self.parties.peer_index)
            self.chosen = self.chosen or hmac.compare_digest(body, proof)
        return []

    # ------------------------------------------------------------ the arithmetic

    def _make_offer(self, random: bytes) -> bytes:
        suites = (Suite.AES_256_GCM_SHA512_128, Suite.AES_128_GCM_SHA256_128)
        return b"".join(
            (
                self._ephemeral.public_key().public_bytes_raw(),
                self._identity.public_key().public_bytes_raw(),
                random,
                bytes((len(suites),)),
                *(suite.to_bytes(2, "big") for suite in suites),
            )
        )

    def _agree(self, *, committer: bytes, responder: bytes) -> None:
        theirs = responder if self.parties.is_committer else committer
        suite = _choose_suite(_suites_of(committer), _suites_of(responder))
        shared = self._ephemeral.exchange(X25519PublicKey.from_public_bytes(theirs[:32]))
        self._transcript = self._bind(committer, responder)
        chain = self._previous.chain if self._previous else bytes(32)
        root = HKDF.extract(hashes.SHA512(), chain, shared)
        own, peer = self.parties.own_index, self.parties.peer_index
        self._mac_key = self._expand(root, b"mac", 32)
        sas = f"{int.from_bytes(self._expand(root, b'sas', 16), 'big') % 10**SAS_DIGITS:0{SAS_DIGITS}}"
        self.keys = AgreedKeys(
            suite=suite,
            epoch=self.epoch,
            send_base_key=self._expand(root, b"base %d" % own, BASE_KEY_SIZE),
            receive_base_key=self._expand(root, b"base %d" % peer, BASE_KEY_SIZE),
            chain=self._expand(root, b"chain", 32),
            path=self._expand(root, b"path", 32),
            sas=self._previous.sas if self._previous else sas,
            peer_identity=theirs[32:64],
        )
        if self._previous and self._previous.peer_identity != self.keys.peer_identity:
            raise ValueError("identity changed within a call")
        self.progress = Progress.KEYED

    def _bind(self, committer: bytes, responder: bytes) -> bytes:
        """Hash of everything said, each part with its length, so that no two histories read alike."""
        sides = (self.parties.own_index, self.own_id), (self.parties.peer_index, self.peer_id)
        (low, low_id), (high, high_id) = sorted(sides)
        parts = (self.parties.call, bytes((low, high, self.epoch)), low_id, high_id)
        digest = hashes.Hash(hashes.SHA512())
        digest.update(_DOMAIN)
        for part in (*parts, self._commitment, responder, committer):
            digest.update(len(part).to_bytes(2, "big") + part)
        return digest.finalize()

    def _expand(self, root: bytes, label: bytes, size: int) -> bytes:
        return HKDFExpand(hashes.SHA512(), size, _DOMAIN + label + b"\0" + self._transcript).derive(root)

    def _mac(self, label: bytes, index: int) -> bytes:
        return hmac.digest(self._mac_key, label + bytes((index,)) + self._transcript, "sha256")

    def _signed(self, index: int) -> bytes:
        return _DOMAIN + b"identity" + bytes((index,)) + self._transcript

    def _confirmation(self) -> bytes:
        own = self.parties.own_index
        return self._mac(b"confirm", own) + self._identity.sign(self._signed(own))

    def _blob(self, kind: Kind, body: bytes) -> bytes:
        return Blob(kind, self.epoch, self.own_id, self.peer_id, body).encode()


def _digest(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(_DOMAIN + b"commit" + data)
    return digest.finalize()


def _suites_of(offer: bytes) -> list[int]:
    if len(offer) < _OFFER_MIN or len(offer) != _OFFER_MIN - 2 + 2 * offer[96]:
        raise ValueError("offer size")
    return [int.from_bytes(offer[at : at + 2], "big") for at in range(97, len(offer), 2)]


def _choose_suite(committer: list[int], responder: list[int]) -> Suite:
    for suite in committer:
        if suite in responder and suite in set(Suite):
            return Suite(suite)
    raise ValueError("no common suite")
