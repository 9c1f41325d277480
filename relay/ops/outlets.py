"""Where event lines go: a file that is turned over, or a Unix socket whose reader acknowledges.

Both take lines from the spool and say up to which number they are safely delivered. Must never live here:
numbering, and what is kept until then.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from relay.errors import ConfigError

log = logging.getLogger(__name__)

Fetch = Callable[[int], list[tuple[int, str]]]
"""The next lines after a number, oldest first, a bounded batch."""

MAX_ACK: Final = 32  # bytes of one acknowledgement line
BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between tries to connect


class Outlet(Protocol):
    """A place for lines. Used by one thread."""

    @property
    def wants_write(self) -> bool:
        """Whether it waits for room in the socket."""

    @property
    def is_failing(self) -> bool:
        """Whether nobody takes the lines at present."""

    def push(self, fetch: Fetch) -> int:
        """Deliver without waiting; the newest number that is delivered for good, 0 if none is new."""

    def fileno(self) -> int:
        """A descriptor to watch, or -1."""

    def close(self) -> None:
        """Let go."""


class FileOutlet:
    """Appends to a file and syncs it. At `max_bytes` it becomes `path`.1, replacing the one before."""

    wants_write = False
    is_failing = False

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._is_torn = False
        try:
            self._fd = self._open()
        except OSError as error:
            raise ConfigError(
                "events.path", f"cannot be written: {error.strerror}", "name a writable file"
            ) from None

    def push(self, fetch: Fetch) -> int:
        """Append one batch; delivered once the file is synced. OSError when the disk refuses."""
        lines = fetch(0)
        if not lines:
            return 0
        self._reopen_if_moved()
        data = "".join(f"{line}\n" for _, line in lines).encode()
        if self._is_torn:
            data = b"\n" + data
        self._is_torn = True  # until all of it stands there
        while data:
            data = data[os.write(self._fd, data) :]
        self._is_torn = False
        os.fdatasync(self._fd)
        if os.fstat(self._fd).st_size >= self._max_bytes:
            os.replace(self._path, f"{self._path}.1")
            self._renew()
        return lines[-1][0]

    def fileno(self) -> int:
        """Nothing to watch."""
        return -1

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        size = os.fstat(fd).st_size
        # A crash may have cut the last line: end it, so that only that one is unreadable. It comes again.
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
        return fd

    def _renew(self) -> None:
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh

    def _reopen_if_moved(self) -> None:
        """logrotate and the like rename the file under us: go on in a new one."""
        try:
            here = os.stat(self._path)
        except FileNotFoundError:
            self._renew()
            return
        if here.st_ino != os.fstat(self._fd).st_ino:
            self._renew()


class SocketOutlet:
    """Connects to a Unix socket, writes lines, and reads acknowledgements: one sequence number a line.

    An acknowledgement covers all smaller numbers. After a reconnect, everything not acknowledged comes again.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._sock: socket.socket | None = None
        self._out = b""
        self._in = b""
        self._sent = 0
        self._acknowledged = 0
        self._failures = 0
        self._retry_at = 0.0

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for room in the socket."""
        return bool(self._out)

    @property
    def is_failing(self) -> bool:
        """Whether there is no reader."""
        return self._sock is None

    def fileno(self) -> int:
        """The connection, or -1."""
        return self._sock.fileno() if self._sock is not None else -1

    def push(self, fetch: Fetch) -> int:
        """Connect if it is time, write what fits, take acknowledgements."""
        before = self._acknowledged
        if self._sock is None and not self._connect():
            return 0
        try:
            self._read()
            self._write(fetch)
        except (OSError, ValueError) as error:
            self._disconnect(type(error).__name__)
        return self._acknowledged if self._acknowledged > before else 0

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connect(self) -> bool:
        now = self._clock()
        if now < self._retry_at:
            return False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            self._back_off(now, type(error).__name__)
            return False
        self._sock = sock
        self._out = self._in = b""
        self._sent = self._acknowledged
        return True

    def _back_off(self, now: float, why: str) -> None:
        self._retry_at = now + BACKOFF[min(self._failures, len(BACKOFF) - 1)]
        if self._failures == 0:
            log.warning("nobody reads call events at %s: %s", Path(self._path).name, why)
        self._failures += 1

    def _disconnect(self, why: str) -> None:
        self.close()
        self._back_off(self._clock(), why)

    def _write(self, fetch: Fetch) -> None:
        while self._sock is not None:
            if not self._out:
                lines = fetch(self._sent)
                if not lines:
                    return
                self._out = "".join(f"{line}\n" for _, line in lines).encode()
                self._sent = lines[-1][0]
            try:
                self._out = self._out[self._sock.send(self._out) :]
            except BlockingIOError:
                return

    def _read(self) -> None:
        while self._sock is not None:
            try:
                data = self._sock.recv(4096)
            except BlockingIOError:
                return
            if not data:
                raise ConnectionResetError
            *lines, self._in = (self._in + data).split(b"\n")
            if len(self._in) > MAX_ACK:
                raise ValueError("acknowledgement without an end")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        if len(line) > MAX_ACK or not line.strip().isdigit():
            raise ValueError("not an acknowledgement")
        seq = int(line)
        if seq > self._sent:
            raise ValueError("acknowledges what was not sent")
        self._acknowledged = max(self._acknowledged, seq)
        self._failures = 0
