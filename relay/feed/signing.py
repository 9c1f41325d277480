"""Signatures of webhooks, as the Standard Webhooks specification has them (HMAC-SHA256, symmetric secrets).

    webhook-id          the letter's id, the same in each try
    webhook-timestamp   Unix time of this try, seconds
    webhook-signature   "v1," base64(HMAC-SHA256(secret, id "." timestamp "." body)), one for each secret

Must never live here: clock, files.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from relay.errors import ConfigError

PREFIX: Final = "whsec_"
SHORTEST, LONGEST = 24, 64  # bytes of a secret, as the specification asks


def parse_secret(text: str, key: str) -> bytes:
    """The bytes of a secret from the text of its file. ConfigError names `key`."""
    word = text.strip()
    try:
        secret = (
            base64.b64decode(word.removeprefix(PREFIX), validate=True) if word.startswith(PREFIX) else b""
        )
    except binascii.Error:
        secret = b""
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ConfigError(
            key,
            f"the file does not hold {PREFIX} and base64 of {SHORTEST} to {LONGEST} bytes",
            "make one with `relay feed secret FILE`",
        )
    return secret


def format_secret(secret: bytes) -> str:
    """The text of a secret, one line, as endpoints are given it."""
    return f"{PREFIX}{base64.b64encode(secret).decode()}\n"


def headers(id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> Mapping[str, str]:
    """The three headers of one try."""
    signed = f"{id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
