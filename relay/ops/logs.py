"""Log lines on standard error: JSON for journald and collectors, text for people.

What may be written is decided by type, not by care at each call: ids and addresses print shortened, byte
strings print their length, exceptions of others print their class only (their text may hold an address or a
path), and anything unknown prints its class. Message templates are constants of the program. Each template
has a budget per minute; what exceeds it is counted and summed up. Must never live here: what is logged.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, TextIO

from relay.config import LogConfig
from relay.errors import RelayError
from relay.protocol.address import Address
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sid, Sub

IDS: Final = (CallId, Sub, Jti, Kid, PersonId, Sid)
PLAIN: Final = (str, int, float, bool, type(None))
MAX_TEXT: Final = 512  # characters of one value
MAX_KINDS: Final = (
    4096  # templates whose rate is remembered; templates are constants, so this is never reached
)
MINUTE: Final = 60.0
STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def safe(value: Any) -> Any:
    """The form of a value that may be written: JSON values only."""
    if isinstance(value, (*IDS, Address)):
        return str(value)
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, BaseException):
        return str(value) if isinstance(value, RelayError) else type(value).__name__
    if isinstance(value, Mapping):
        return {str(safe(key)): safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [safe(item) for item in value]
    return f"<{type(value).__name__}>"


def message(record: logging.LogRecord) -> str:
    """The line's text, its arguments made safe first."""
    if isinstance(record.args, Mapping):
        return str(record.msg) % {key: safe(value) for key, value in record.args.items()}
    arguments = tuple(safe(value) for value in record.args or ())
    text = str(record.msg) if isinstance(record.msg, str) else str(safe(record.msg))
    return text % arguments if arguments else text


def trace(record: logging.LogRecord) -> list[str]:
    """Class and place of an exception and its causes: files, lines, functions; no values, no foreign text."""
    lines: list[str] = []
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        lines.append(f"{type(error).__name__}" + (f": {error}" if isinstance(error, RelayError) else ""))
        for frame in traceback.extract_tb(error.__traceback__):
            lines.append(f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}")
        error = error.__cause__ or error.__context__
    return lines


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Fields of `extra=` stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "from": record.name,
            "message": message(record),
        }
        line |= {name: safe(value) for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info:
            line["trace"] = trace(record)
        return json.dumps(line, ensure_ascii=False, default=lambda value: f"<{type(value).__name__}>")


class TextFormatter(logging.Formatter):
    """For people: time, level, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        extra = [f"{k}={safe(v)}" for k, v in vars(record).items() if k not in STANDARD]
        head = f"{_iso(record.created)[11:23]} {record.levelname.lower():7} {message(record)}"
        # Line ends inside a value must not make a second log line.
        text = " ".join([head.replace("\n", "\\n"), *(field.replace("\n", "\\n") for field in extra)])
        return "\n".join([text, *trace(record)])


class RateLimit(logging.Filter):
    """At most so many lines a minute of one template; the next that passes says how many were left out."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.per_minute = per_minute
        self.suppressed = 0
        """Lines left out since the start."""
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        key = (record.name, record.msg if isinstance(record.msg, str) else type(record.msg).__name__)
        now = self._clock()
        since, passed, left_out = self._seen.get(key, (now, 0, 0))
        if now - since >= MINUTE:
            since, passed = now, 0
        if passed >= self.per_minute:
            self._remember(key, (since, passed, left_out + 1))
            self.suppressed += 1
            return False
        if left_out:
            record.suppressed = left_out
        self._remember(key, (since, passed + 1, 0))
        return True

    def _remember(self, key: tuple[str, str], value: tuple[float, int, int]) -> None:
        if len(self._seen) >= MAX_KINDS:
            self._seen.clear()
        self._seen[key] = value


class Logs:
    """The process's logging, set up once; `configure` again after a reload."""

    def __init__(self, config: LogConfig, stream: TextIO | None = None) -> None:
        self.limit = RateLimit(config.per_minute)
        self._handler = logging.StreamHandler(stream or sys.stderr)
        self._handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
        self._handler.addFilter(self.limit)
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        logging.raiseExceptions = False  # a line that cannot be formatted is no reason to print its values
        logging.captureWarnings(True)
        self.configure(config)

    def configure(self, config: LogConfig) -> None:
        """Take level and rate from the configuration."""
        logging.getLogger().setLevel(config.level.upper())
        # The QUIC stack logs addresses; its facts reach us as counters.
        for name in ("quic", "asyncio", "aiohttp.access"):
            logging.getLogger(name).setLevel(logging.WARNING if name == "asyncio" else logging.ERROR)
        self.limit.per_minute = config.per_minute

    def close(self) -> None:
        """Take the handler away again."""
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(False)


def _iso(wall: float) -> str:
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).isoformat(timespec="milliseconds")
