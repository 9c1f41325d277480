"""Identifiers: fixed-size byte strings that cannot be printed whole by accident.

A type per meaning, so that a participant's pseudonym is never passed where a call id belongs, and a log line
that formats one shows its first two bytes only. `.hex()` gives the whole value to those who ask for it.

Must never live here: how ids are drawn (randomness comes from the caller) or looked up.
"""

from __future__ import annotations

from typing import ClassVar, Final, Self

from relay.errors import LocalError


def short(value: bytes) -> str:
    """Return the loggable form of a secret or personal byte string: its first two bytes in hex."""
    return value[:2].hex() + "…"


REFERENCE_DIGITS: Final = 12


def reference(call: bytes) -> str:
    """What logs and people call a call; records and events hold the whole id, which begins with it."""
    return call.hex()[:REFERENCE_DIGITS]


class _FixedBytes(bytes):
    """A byte string of one exact length whose every text form is shortened."""

    SIZE: ClassVar[int]

    def __new__(cls, value: bytes) -> Self:
        """Take `value` as it is; LocalError unless it has exactly `SIZE` bytes."""
        if len(value) != cls.SIZE:
            raise LocalError(f"{cls.__name__} takes {cls.SIZE} bytes, not {len(value)}")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({short(self)})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        """Format as the shortened text; `spec` aligns it and can never widen what is shown."""
        return format(repr(self), spec)


class CallId(_FixedBytes):
    """The call, `c` on the wire and `cid` in a token."""

    SIZE = 16

    @property
    def reference(self) -> str:
        """What logs and people call it: the first twelve digits of its hexadecimal form."""
        return reference(self)


class Sub(_FixedBytes):
    """A participant's pseudonym, good for one call only (token `sub`)."""

    SIZE = 16


class Jti(_FixedBytes):
    """The serial number of a token or of a signed command; single use."""

    SIZE = 16


class Kid(_FixedBytes):
    """Key id of an issuer: SHA-256(public key)[:8]."""

    SIZE = 8


class PersonId(_FixedBytes):
    """The issuer's stable opaque id of a person or pair (token `ru`): never written to a log in any form."""

    SIZE = 16

    def __repr__(self) -> str:
        return "PersonId(…)"

    __str__ = __repr__


class Sid(_FixedBytes):
    """A session id the relay gives a leg in `welcome`."""

    SIZE = 16
