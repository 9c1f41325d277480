"""What an application has to catch. All are `RelayError`s; `code` is one of `relay.errors.ErrorCode`.

Must never live here: text with addresses, tokens or keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.errors import ErrorCode, RelayError


class SessionError(RelayError):
    """The leg to the relay could not be made, or is gone."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{name_of(code)}: {reason}" if reason else name_of(code))
        self.code = code


class RefusedError(RelayError):
    """The relay answered a request with `err`; the leg lives on unless it says otherwise."""

    def __init__(
        self, code: int, reason: str, retry_ms: int | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{name_of(code)}: {reason}" if reason else name_of(code))
        self.code = code
        self.retry_ms = retry_ms
        self.data = data or {}
        """What came along for programs: `why`, where a rollout does not let somebody call."""


class CallEndedError(RelayError):
    """The call is over; `why` is one of the outcomes of docs/protocol.md."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(f"the call is over: {why}")
        self.why = why
        self.code = code


class KeyAgreementError(RelayError):
    """The other side could not prove its keys: somebody is in the middle, or it speaks another version."""


def name_of(code: int) -> str:
    """Readable name of a close code; QUIC's own and unknown ones as hexadecimal."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"
