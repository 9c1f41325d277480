"""What of a leg's packet numbers outlives the process: two numbers in a file that somebody else holds, too.

    place   u64 numbers below this may have been used | u64 numbers below this came; in native byte order

The native lane writes the same by itself (`relay/lane/src/kept.rs`). No number may ever seal two packets,
so those that may be used are noted ahead, in blocks: whoever comes after a crash begins behind the block.
Must never live here: keys, and who comes after.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

BLOCK: Final = (
    4096  # numbers noted ahead, a minute of audio; far below 2^15: the peer reads ours by two bytes
)
STEP: Final = 32  # that may come before it is noted; far below 2^7: the peer may number by one byte
PLACE: Final = struct.Struct("=QQ")


class Marks:
    """Places at the beginning of an open file."""

    def __init__(self, fd: int, count: int) -> None:
        """OSError or ValueError: no file that can be mapped, or too short."""
        self._memory = mmap.mmap(fd, count * PLACE.size)
        self._count = count

    def place(self, number: int) -> Mark:
        """A place. ValueError: there are not so many."""
        if not 0 <= number < self._count:
            raise ValueError("no such place")
        return Mark(self._memory, number * PLACE.size)

    def read(self, number: int) -> tuple[int, int]:
        """What a place says: numbers below the first may have been used, below the second came."""
        used, came = PLACE.unpack_from(self._memory, number * PLACE.size)
        return used, came


class Mark:
    """The place of one leg."""

    __slots__ = ("_at", "_came", "_memory", "_used")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at
        self._used = -1  # nothing is noted yet
        self._came = -1

    def uses(self, following: int) -> None:
        """Numbers below this are about to be used."""
        if following > self._used:
            self._used = following + BLOCK
            self._write()

    def came(self, expected: int) -> None:
        """Numbers below this came."""
        if expected >= self._came + STEP:
            self._came = expected
            self._write()

    def _write(self) -> None:
        PLACE.pack_into(self._memory, self._at, max(self._used, 0), max(self._came, 0))
