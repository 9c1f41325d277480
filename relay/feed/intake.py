"""Where the daemon hands its events over: a Unix socket on which the feed listens (docs/integrate.md).

    daemon ► lines          feed ► the number up to which they are safe in the feed's own file

Several daemons may be connected at once: each numbers its own. A line is acknowledged after the commit; what
the disk refused is not, and the daemon sends it again. Must never live here: what becomes of an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from relay.errors import ConfigError
from relay.feed.letters import MAX_LINE, read
from relay.feed.store import Store

log = logging.getLogger(__name__)

# A socket of the manager's must outlive us; from 3.13 on the loop would take its file away.
KEEP_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
PAUSE: Final = 1.0  # seconds until a daemon may come again after the disk refused


class Counts:
    """Since the start."""

    def __init__(self) -> None:
        self.taken = 0
        self.repeated = 0
        self.unreadable = 0
        self.connections = 0
        """Open now."""


class Intake:
    """The listener."""

    def __init__(
        self, store: Store, on_new: Callable[[], None], wall: Callable[[], float] = time.time
    ) -> None:
        self.counts = Counts()
        self.transports: set[asyncio.Transport] = set()
        self._store = store
        self._on_new = on_new
        self._wall = wall
        self._server: asyncio.Server | None = None

    async def start(self, where: str | socket.socket) -> None:
        """Listen at a path, or on a socket that was handed over. ConfigError when that cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            sock = where if isinstance(where, socket.socket) else _bind(where)
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=sock, **KEEP_FILE)
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError("events.path", f"cannot listen: {why}", "name a free path") from None

    def close(self) -> None:
        """Stop listening; daemons keep what comes from now on."""
        if self._server is not None:
            self._server.close()
        for transport in tuple(self.transports):
            transport.abort()

    def take(self, lines: list[bytes]) -> int:
        """Keep them; up to which number they are safe, 0: nothing that has one. sqlite3.Error: none is."""
        found = [event for line in lines if (event := read(line)) is not None]
        repeated = self._store.take(found, self._wall()) if found else 0
        self.counts.unreadable += len(lines) - len(found)
        self.counts.repeated += repeated
        self.counts.taken += len(found) - repeated
        if len(found) < len(lines):
            log.warning("lines that are no events were left out", extra={"lines": len(lines) - len(found)})
        if len(found) > repeated:
            self._on_new()
        return found[-1].seq if found else 0


class _Connection(asyncio.Protocol):
    """One daemon."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._intake.transports.add(transport)
        self._intake.counts.connections += 1

    def connection_lost(self, _: Exception | None) -> None:
        self._intake.transports.discard(self._transport)
        self._intake.counts.connections -= 1

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            log.error("a line of events without an end: the connection is closed")
            self._transport.abort()
            return
        if not lines:
            return
        try:
            safe = self._intake.take(lines)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None) or type(error).__name__
            log.error("events cannot be kept, the daemon keeps them: %s", name)
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(PAUSE, self._transport.abort)
            return
        if safe:
            self._transport.write(b"%d\n" % safe)


def _bind(path: str) -> socket.socket:
    """A socket at a path, for this user only. A socket that nobody listens on any more is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _is_served(path):
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(Path(path)))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
