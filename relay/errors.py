"""Errors, sorted by whose fault they are, and the close codes that go on the wire.

    RelayError
      PeerError      the other side broke a rule: count it, answer or close with `code`
      LocalError     our own caller broke a rule: a bug here, let it raise
      ConfigError    an operator's file or flag is wrong: refuse to start, in one line that names the key

Must never live here: text that contains addresses, tokens or keys; messages are logged and sent to peers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ErrorCode(IntEnum):
    """Application close codes of `vrl/1`, equal on every transport (WebSocket adds 4000)."""

    NO_ERROR = 0x00
    GENERAL = 0x01
    INTERNAL = 0x02
    PROTOCOL_VIOLATION = 0x03
    VERSION = 0x04
    TOO_LARGE = 0x05
    BAD_ENCODING = 0x06
    DATAGRAM_REQUIRED = 0x07
    UNKNOWN_FLOW = 0x08
    AUTH_REQUIRED = 0x10
    TOKEN_INVALID = 0x11
    TOKEN_EXPIRED = 0x12
    TOKEN_REPLAYED = 0x13
    TOKEN_AUDIENCE = 0x14
    FORBIDDEN = 0x15
    POP_FAILED = 0x16
    CALL_NOT_FOUND = 0x20
    CALL_FULL = 0x21
    CALL_ENDED = 0x22
    NOT_IN_CALL = 0x23
    DECLINED = 0x24
    BUSY = 0x25
    REPLACED = 0x26
    CONSENT_EXPIRED = 0x27
    REMOVED = 0x28
    E2E_UNSUPPORTED = 0x29
    ANSWERED_ELSEWHERE = 0x2A
    RATE_LIMITED = 0x30
    QUOTA = 0x31
    OVERLOADED = 0x32
    IDLE_TIMEOUT = 0x33
    ORIGIN_DENIED = 0x34
    TRANSPORT_DENIED = 0x35
    P2P_DENIED = 0x36
    NOT_ENABLED = 0x37
    DRAINING = 0x40
    MOVED = 0x41
    DRAIN_TIMEOUT = 0x42
    RESUME_UNKNOWN = 0x43


class RelayError(Exception):
    """Root of every error this package raises on purpose."""


class PeerError(RelayError):
    """The peer broke a rule. `code` goes on the wire; `message` is for people and carries no secrets.

    `data` goes along for programs, where a code alone says too little.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        fatal: bool = True,
        retry_ms: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.fatal = fatal
        self.retry_ms = retry_ms
        self.data = data


class LocalError(RelayError):
    """Our own caller broke a rule: a bug in this program, never reachable from the network."""


class ConfigError(RelayError):
    """A configuration value is wrong. `key` is the dotted path of the field, `cure` what to write instead."""

    def __init__(self, key: str, problem: str, cure: str = "") -> None:
        super().__init__(f"{key}: {problem}" + (f" ({cure})" if cure else ""))
        self.key = key
        self.problem = problem
        self.cure = cure
