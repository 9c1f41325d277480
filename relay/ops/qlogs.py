"""The folder of qlogs: names, one thread that writes, and what is erased.

    <call's reference>-<participant>-<unix time>-<serial>.sqlog

A disk that does not answer holds up the thread alone: whoever writes asks first whether it `is_busy`. Must
never live here: what a qlog holds, which calls have one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from relay.config_qlog import QlogConfig
from relay.protocol.ids import REFERENCE_DIGITS

SUFFIX: Final = ".sqlog"
DAY: Final = 86_400.0

Chunk = tuple[str, bytes]
"""A file's name, and what goes to its end."""


def name_of(reference: str, index: int, began: float, serial: int) -> str:
    """The name of a leg's file. `serial`: another one for each that the daemon begins."""
    return f"{reference}-{index}-{int(began)}-{serial}{SUFFIX}"


def found(folder: str, digits: str) -> list[str]:
    """Files of the calls whose ids begin so, by name; none where there is no folder."""
    if not folder:
        return []
    return sorted(str(path) for path in Path(folder).glob(f"{digits[:REFERENCE_DIGITS]}*{SUFFIX}"))


class QlogFolder:
    """Writes behind the caller's back."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None  # most daemons never need one
        self._under_way: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """The last `write` is not done."""
        return self._under_way is not None and not self._under_way.done()

    def problem(self) -> str:
        """Why the last `write` that is done failed, in words without a path; told once. Empty: it did not."""
        if self._under_way is None or self.is_busy:
            return ""
        done, self._under_way = self._under_way, None
        error = done.exception()
        if error is None:
            return ""
        return getattr(error, "strerror", None) or type(error).__name__

    def write(self, config: QlogConfig, chunks: Sequence[Chunk]) -> None:
        """Append these, in the thread. A new file, or none at all, tidies up. Not while it `is_busy`."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "qlog")
        self._under_way = self._thread.submit(self._write, config, list(chunks))

    def settle(self) -> None:
        """Wait until the last `write` is done. Blocks."""
        if self._under_way is not None:
            wait([self._under_way])

    def close(self) -> None:
        """Wait until all is written. Blocks."""
        if self._thread is not None:
            self._thread.shutdown()

    def _write(self, config: QlogConfig, chunks: Sequence[Chunk]) -> None:
        folder = Path(config.path)
        if chunks:
            folder.mkdir(mode=0o700, exist_ok=True)
        if not all((folder / name).exists() for name, _ in chunks) or not chunks:
            tidy(folder, config, time.time())
        for name, data in chunks:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            with open(os.open(folder / name, flags, 0o600), "ab") as file:
                file.write(data)


def tidy(folder: Path, config: QlogConfig, wall: float) -> None:
    """Erase what is too old; of the rest the oldest, until one more file fits."""
    files = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another daemon tidies up, too
            told = path.lstat()
            files.append((told.st_mtime, told.st_size, path))
    room = config.folder_bytes - min(config.file_bytes, config.folder_bytes)
    total = sum(size for _, size, _ in files)
    for at, size, path in sorted(files):
        if at > wall - config.days * DAY and total <= room:
            break
        path.unlink(missing_ok=True)
        total -= size
