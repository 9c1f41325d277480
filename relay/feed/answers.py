"""What an endpoint's answer means for a letter: the table, and Retry-After.

    status, or what went wrong --judge--> Answer --FATES--> Fate

Must never live here: sockets, clocks, which letter is next (courier.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final


class Answer(StrEnum):
    """How a try ended; the values are words of logs and metrics."""

    TAKEN = "taken"  # 2xx
    REDIRECT = "redirect"  # 3xx: never followed, somebody has to change the URL
    REFUSED = "refused"  # 4xx: it will not like this letter later, either
    GONE = "gone"  # 410: it wants no letters at all
    THROTTLED = "throttled"  # 429
    FAULT = "fault"  # 5xx
    STRANGE = "strange"  # no status of HTTP
    TIMEOUT = "timeout"  # nothing in time; 408
    UNREACHABLE = "unreachable"  # no connection, no name, no TLS


class Fate(StrEnum):
    """What becomes of the letter."""

    DONE = "done"
    AGAIN = "again"
    DEAD = "dead"
    CLOSE = "close"  # and of all others of this endpoint


FATES: Final[Mapping[Answer, Fate]] = {
    Answer.TAKEN: Fate.DONE,
    Answer.REDIRECT: Fate.AGAIN,
    Answer.REFUSED: Fate.DEAD,
    Answer.GONE: Fate.CLOSE,
    Answer.THROTTLED: Fate.AGAIN,
    Answer.FAULT: Fate.AGAIN,
    Answer.STRANGE: Fate.AGAIN,
    Answer.TIMEOUT: Fate.AGAIN,
    Answer.UNREACHABLE: Fate.AGAIN,
}

_SINGLE: Final = {408: Answer.TIMEOUT, 410: Answer.GONE, 429: Answer.THROTTLED}
_CLASSES: Final = {2: Answer.TAKEN, 3: Answer.REDIRECT, 4: Answer.REFUSED, 5: Answer.FAULT}


def judge(status: int) -> Answer:
    """The answer that an HTTP status is."""
    return _SINGLE.get(status) or _CLASSES.get(status // 100, Answer.STRANGE)


def retry_after(text: str, now: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 section 10.2.3), `now` in Unix time. None: no such header."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
