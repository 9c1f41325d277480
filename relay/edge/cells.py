"""A file of numbered records that outlives the process. Each has two halves, so that a write which a crash
cut short leaves the one before it in place.

    half   u64 serial | u32 length | u32 CRC-32 of serial, length and bytes | bytes

The half with the higher serial of those that are whole counts. Must never live here: what the records mean.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Final

_HEAD: Final = struct.Struct("=QII")
_SUMMED: Final = struct.Struct("=QI")


def _sum(serial: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_SUMMED.pack(serial, len(data))))


class Cells:
    """`count` records of up to `size` bytes from `offset` (a multiple of the page size) of an open file."""

    def __init__(self, fd: int, offset: int, count: int, size: int) -> None:
        """OSError or ValueError: no file that can be mapped, or too short."""
        self.size = size
        self.count = count
        self._half = _HEAD.size + size
        self._fd, self._offset = fd, offset
        self._memory = mmap.mmap(fd, self.room(count, size), offset=offset)
        self._serials: dict[int, int] = {}

    @staticmethod
    def room(count: int, size: int) -> int:
        """Bytes that so many of them take, whole pages."""
        return -(-count * 2 * (_HEAD.size + size) // mmap.PAGESIZE) * mmap.PAGESIZE

    def write(self, number: int, data: bytes) -> None:
        """The record from now on; empty: none. ValueError: it does not fit, or there is no such place."""
        if len(data) > self.size or not 0 <= number < self.count:
            raise ValueError(f"record {number} of {len(data)} bytes does not fit")
        serial = self._serials.get(number, 0) + 1
        at = (2 * number + serial % 2) * self._half
        self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, at, serial, len(data), _sum(serial, data))
        self._serials[number] = serial

    def read(self, number: int) -> bytes:
        """The record; empty when there is none, or none that is whole."""
        newest = (0, b"")
        for half in (0, 1):
            at = (2 * number + half) * self._half
            serial, length, checked = _HEAD.unpack_from(self._memory, at)
            if not serial or serial % 2 != half or length > self.size:
                continue
            data = self._memory[at + _HEAD.size : at + _HEAD.size + length]
            if serial > newest[0] and _sum(serial, data) == checked:
                newest = (serial, data)
        self._serials[number] = newest[0]
        return newest[1]

    def all(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each record that is not empty; whoever writes on must have read them.

        Holes in the file are not looked at: that would fill them.
        """
        end = self._offset + self.room(self.count, self.size)
        number, at = 0, self._offset
        while at < end:
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole
                return
            at = os.lseek(self._fd, start, os.SEEK_HOLE)
            first = (start - self._offset) // (2 * self._half)
            last = min((at - 1 - self._offset) // (2 * self._half), self.count - 1)
            for each in range(max(first, number), last + 1):
                data = self.read(each)
                if data:
                    yield each, data
            number = max(number, last + 1)
