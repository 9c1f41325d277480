"""Key material as text and as bytes: issuer seeds, and the cluster key from which all others derive.

A key file is one line of base64, 32 bytes. HKDF-SHA-256 (RFC 5869) gives each use a key of its own, so that a
leak or a rotation of one says nothing of another. Must never live here: files, and drawing randomness.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Final, Literal

from relay.errors import ConfigError, LocalError

KEY_SIZE: Final = 32
Label = Literal["ticket", "cid", "reset", "retry", "turn"]
_SIZES: Final[dict[str, int]] = {"ticket": 32, "cid": 16, "reset": 32, "retry": 32, "turn": 32}
_SALT: Final = b"vrl-cluster-v1"
MIN_SECRET: Final = 16  # characters
_SECRET_CURE: Final = "write what `openssl rand -base64 32` prints"
_CURE: Final = "one line of base64 that holds 32 bytes; `relay token keygen` writes one"


def read_key(text: str, where: str = "key") -> bytes:
    """Return the 32 bytes of a key file's text. `where` names the setting in the ConfigError."""
    line = text.strip()
    try:
        key = b64decode(line.encode("ascii"), validate=True)
    except ValueError as error:
        raise ConfigError(where, "is not base64", _CURE) from error
    if len(key) != KEY_SIZE:
        raise ConfigError(where, f"holds {len(key)} bytes", _CURE)
    return key


def read_secret(text: str, where: str = "secret") -> bytes:
    """Return the secret of a file that a back end shares: one line of at least 16 ASCII characters."""
    line = text.strip()
    if len(line) < MIN_SECRET or not line.isascii() or not line.isprintable():
        raise ConfigError(where, "is not one line of at least 16 printable ASCII characters", _SECRET_CURE)
    return line.encode("ascii")


def write_key(key: bytes) -> str:
    """Return the text of a key file, line end included."""
    if len(key) != KEY_SIZE:
        raise LocalError("a key has 32 bytes")
    return b64encode(key).decode() + "\n"


class ClusterKey:
    """The one secret the nodes of a cluster share. Never printed; use only through `derive`."""

    __slots__ = ("_prk",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise LocalError("a cluster key has 32 bytes")
        self._prk = hmac.digest(_SALT, key, sha256)

    @classmethod
    def parse(cls, text: str, where: str = "cluster.key_file") -> ClusterKey:
        """Read a key file's text; ConfigError(where) if it is no key."""
        return cls(read_key(text, where))

    def derive(self, label: Label) -> bytes:
        """Return the key for one use: 16 bytes for `cid` (AES-128), 32 for all others."""
        size = _SIZES.get(label)
        if size is None:
            raise LocalError(f"no cluster key is called {label!r}")
        # One block of output is enough for every size here (RFC 5869 section 2.3).
        return hmac.digest(self._prk, b"vrl " + label.encode() + b"\x01", sha256)[:size]

    def __repr__(self) -> str:
        return "ClusterKey(…)"
