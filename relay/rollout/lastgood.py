"""The last-known-good state: what an operator signed, as bytes and as a value, and when it may be served.

    "VRS1 " || kid, 16 hex digits || " " || Ed25519 signature, base64 || "\\n" || canonical JSON
    {"issued_at": s, "not_after": s, "rev": n, "rollout": {...} or null, "routes": {...}}

Canonical: sorted keys, no spaces, so that one state has one spelling. The signature covers `domain || kid ||
JSON` as received: nothing is decoded before it holds. Whatever is wrong has a name (`Refusal`) and leaves
what was good before; whatever is doubtful serves control. Must never live here: files, clocks.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from relay.errors import LocalError, RelayError
from relay.protocol.ids import Kid
from relay.protocol.signed import SIGNATURE_SIZE, holds, kid_of, public_of, sign

MAGIC: Final = b"VRS1"
DOMAIN: Final = b"vrl-state-v1\0"
LIFE_S: Final = 7 * 86_400
"""Longest time from issued_at to not_after, seconds: a box that is cut off closes by itself after it."""
EARLY_S: Final = 3_600
"""How far a clock may be behind issued_at, seconds."""
MOST_BYTES: Final = 512 * 1024
KEYS: Final = 2
"""Keys that may be accepted at once: the present one and, in a rotation, the one before or after."""

Percent = Annotated[float, Meta(ge=0, le=100)]
Seconds = Annotated[int, Meta(ge=0, le=1 << 40)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Refusal(StrEnum):
    """Why a file does not count."""

    UNREADABLE = "unreadable"  # the disk, or rights
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"  # no such file at all, or cut off
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    NOT_CANONICAL = "not_canonical"
    BAD_BODY = "bad_body"  # signed, but a field is wrong
    LOWER_REV = "lower_rev"
    OTHER_BYTES = "other_bytes"  # the revision that is known, with other words
    BAD_FLOOR = "bad_floor"  # it cannot be told what was seen before


class Serving(StrEnum):
    """What is served now, and if it is control, why."""

    STATE = "state"
    NONE = "none"  # there never was a state
    EXPIRED = "expired"
    EARLY = "early"  # our clock is far behind the state's
    KILLED = "killed"


class RefusedError(RelayError):
    """A state that does not count. `why` is for machines."""

    def __init__(self, why: Refusal, detail: str = "") -> None:
        super().__init__(why.value + (f": {detail}" if detail else ""))
        self.why = why


class Offer(msgspec.Struct, frozen=True):
    """Who gets the candidate of one rollout (bucket.py says how it is decided). Shares in percent."""

    id: Name
    salt: Name
    always: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    groups: dict[str, Percent] = {}
    regions: dict[str, Percent] = {}
    kind: Literal["release", "open"] = "release"
    """As in the plan: two versions, or who may call at all."""
    on_kill: Literal["move", "keep", "end"] | None = None
    """What becomes of running candidate calls when it is killed. None: those of a release are asked to move,
    those of an open one are kept."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed."""

    rev: Annotated[int, Meta(ge=1, le=1 << 53)]
    issued_at: Seconds
    not_after: Seconds
    rollout: Offer | None
    routes: dict[str, Any] = {}


class Floor(NamedTuple):
    """The newest state that was ever taken: nothing below it is, also after a restart."""

    rev: int
    digest: str
    """SHA-256 of its JSON, hexadecimal."""


@dataclass(frozen=True, slots=True)
class State:
    """A state whose signature held."""

    body: Body
    floor: Floor
    kid: Kid


@dataclass(frozen=True, slots=True)
class Kills:
    """What kill files say, all together. They only narrow, so nobody signs them."""

    everything: bool = False
    ids: frozenset[str] = frozenset()

    def cover(self, rollout: str) -> bool:
        """Whether this rollout is off."""
        return self.everything or rollout in self.ids


@dataclass(frozen=True, slots=True)
class Standing:
    """What the daemon goes by at one moment."""

    serving: Serving
    revision: int
    """0: none."""
    offer: Offer | None
    """None: everyone gets control."""
    routes: Mapping[str, Any]
    known: Offer | None = None
    """The newest that was taken, whether or not it counts now."""
    is_killed: bool = False
    """Whether a kill file names it, or all."""


def accepted(publics: Iterable[bytes]) -> dict[Kid, bytes]:
    """Ed25519 public keys by their ids. LocalError: more than two, or none of 32 bytes."""
    found = {kid_of(public): public for public in publics}
    if len(found) > KEYS:
        raise LocalError(f"{len(found)} keys, at most {KEYS} are accepted")
    return found


def canonical(body: Body) -> bytes:
    """The one spelling of a state."""
    return msgspec.json.encode(body, order="sorted")


def seal(body: Body, seed: bytes) -> bytes:
    """The file's bytes, signed. LocalError for a body that no reader would take."""
    text = canonical(body)
    kid = kid_of(public_of(seed))
    raw = _line(kid, sign(seed, DOMAIN + kid + text)) + b"\n" + text
    try:
        parse(raw, accepted([public_of(seed)]))
    except RefusedError as error:
        raise LocalError(f"such a state would be refused: {error}") from None
    return raw


def parse(raw: bytes, keys: Mapping[Kid, bytes]) -> State:
    """Read the file's bytes. RefusedError unless one of `keys` signed just this, and it is whole."""
    if len(raw) > MOST_BYTES:
        raise RefusedError(Refusal.TOO_LARGE, f"more than {MOST_BYTES} bytes")
    head, line_end, text = raw.partition(b"\n")
    kid, signature = _head(head)
    if not line_end:
        raise RefusedError(Refusal.MALFORMED, "one line")
    public = keys.get(kid)
    if public is None:
        raise RefusedError(Refusal.UNKNOWN_KEY, kid.hex())
    if not holds(public, DOMAIN + kid + text, signature):
        raise RefusedError(Refusal.BAD_SIGNATURE)
    body = _body(text)
    return State(body, Floor(body.rev, sha256(text).hexdigest()), kid)


def admit(state: State, floor: Floor | None) -> None:
    """RefusedError for a state older than what was taken before, or not the same under the same number."""
    if floor is None:
        return
    if state.floor.rev < floor.rev:
        raise RefusedError(Refusal.LOWER_REV, f"{state.floor.rev}, and {floor.rev} was taken")
    if state.floor.rev == floor.rev and state.floor.digest != floor.digest:
        raise RefusedError(Refusal.OTHER_BYTES, f"revision {floor.rev}")


def stand(state: State | None, wall: float, kills: Kills) -> Standing:
    """What counts at `wall` (seconds since 1970). In doubt control, and never more than the state says."""
    if state is None:
        return Standing(Serving.NONE, 0, None, {}, None, kills.everything)
    body, offer = state.body, state.body.rollout
    is_killed = kills.everything or (offer is not None and kills.cover(offer.id))
    serving = Serving.STATE
    if wall >= body.not_after:
        serving = Serving.EXPIRED
    elif wall < body.issued_at - EARLY_S:
        serving = Serving.EARLY
    elif is_killed:
        serving = Serving.KILLED
    served = offer if serving is Serving.STATE else None
    return Standing(serving, body.rev, served, body.routes, offer, is_killed)


def read_kills(raw: bytes | None) -> Kills:
    """A kill file: a rollout's id a line, "#" begins a comment. None: no file. One that names nobody, or that
    cannot be read as such, is meant for all."""
    if raw is None:
        return Kills()
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return Kills(everything=True)
    ids = frozenset(found for line in lines if (found := line.partition("#")[0].strip()))
    return Kills(everything=not ids or "*" in ids, ids=ids)


def write_kills(ids: Iterable[str]) -> bytes:
    """The file for these; there are some."""
    return "".join(f"{each}\n" for each in sorted(ids)).encode()


def read_floor(raw: bytes | None) -> Floor | None:
    """What `write_floor` wrote; None: no file. RefusedError: it is something else."""
    if raw is None:
        return None
    try:
        rev, digest = msgspec.json.decode(raw, type=tuple[int, str])
    except msgspec.DecodeError:
        raise RefusedError(Refusal.BAD_FLOOR, "remove the file to begin anew") from None
    return Floor(rev, digest)


def write_floor(floor: Floor) -> bytes:
    """Its file."""
    return msgspec.json.encode(floor) + b"\n"


def _head(line: bytes) -> tuple[Kid, bytes]:
    words = line.split(b" ")
    try:
        magic, kid, told = words
        number, signature = bytes.fromhex(kid.decode("ascii")), b64decode(told, validate=True)
    except ValueError:
        raise RefusedError(Refusal.MALFORMED, "the first line") from None
    if magic != MAGIC or len(number) != Kid.SIZE or len(signature) != SIGNATURE_SIZE:
        raise RefusedError(Refusal.MALFORMED, "the first line")
    if line != _line(Kid(number), signature):  # hexadecimal and base64 have several spellings
        raise RefusedError(Refusal.MALFORMED, "the first line")
    return Kid(number), signature


def _line(kid: Kid, signature: bytes) -> bytes:
    return b"%s %s %s" % (MAGIC, kid.hex().encode(), b64encode(signature))


def _body(text: bytes) -> Body:
    try:
        body = msgspec.json.decode(text, type=Body)
        is_canonical = msgspec.json.encode(msgspec.json.decode(text), order="sorted") == text
    except (msgspec.DecodeError, RecursionError) as error:
        raise RefusedError(Refusal.BAD_BODY, str(error)) from None
    if not is_canonical:
        raise RefusedError(Refusal.NOT_CANONICAL)
    if not body.issued_at < body.not_after <= body.issued_at + LIFE_S:
        raise RefusedError(Refusal.BAD_BODY, f"not_after is not within {LIFE_S} s after issued_at")
    if body.rollout is not None and (body.rollout.kind, body.rollout.on_kill) == ("open", "move"):
        raise RefusedError(Refusal.BAD_BODY, "on_kill: calls that are open nowhere have nowhere to move to")
    return body
