"""What a crash must not take along: a file that the service manager holds for the process that comes after.

    place 0   what the file is, and for how many legs and calls
    beat      when the process was last seen alive, and which of two generations it is
    marks     two packet numbers of each leg, written by the lane (`edge/marks.py`)
    heard     when each leg was heard last
    legs      keys, ids and address: what the lane needs of a connection
    calls     what the engine says must be remembered of a call, opaque here

The lane goes on with this before anybody shakes hands again (`edge/rebirth.py`). What closes a gate stands
here before anybody hears `ok`: it is written between the engine's word and the network. The file is memory
without a name (memfd), seen by nobody but us and the service manager. Must never live here: who may be heard.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from relay.edge import manager
from relay.edge.cells import Cells
from relay.edge.marks import PLACE, Marks
from relay.quic.space import Lent

log = logging.getLogger("relay.keep")

NAME: Final = "memory"  # in the service manager's store
MAGIC: Final = int.from_bytes(b"relay\0\0\x01", "big")  # its last byte: version of the layout
LEG_BYTES: Final = 1024
CALL_BYTES: Final = 16_384
PAGE: Final = mmap.PAGESIZE
FIRST: Final = 2  # place of a leg
CID_BYTES: Final = 16
_TIME: Final = struct.Struct("=d")
_GENERATION_AT: Final = PLACE.size + _TIME.size


class LegRecord(NamedTuple):
    """A connection as the lane knows it."""

    leg: int
    transport: str
    ids: list[bytes]
    lent: Lent


_LEG: Final = msgspec.msgpack.Decoder(LegRecord)


class Keep:
    """The file, and what of it is to be written."""

    def __init__(self, fd: int, legs: int, calls: int) -> None:
        """Of a file made by `make`. OSError or ValueError: it is another one, or cannot be mapped."""
        self.fd = fd
        self.count = legs
        self.marks = Marks(fd, legs)
        used, came = self.marks.read(0)
        if (used, came) != (MAGIC, legs << 32 | calls):
            raise ValueError("a file of another make")
        marks, heard, records, _ = _sizes(legs, calls)
        self._heard = mmap.mmap(fd, heard, offset=marks)
        self._legs = Cells(fd, marks + heard, legs, LEG_BYTES)
        self._calls = Cells(fd, marks + heard + records, calls, CALL_BYTES)
        self._head = mmap.mmap(fd, PAGE)
        self._places: dict[int, int] = {}  # by leg
        self._call_places: dict[bytes, int] = {}
        self._free = list(range(legs - 1, FIRST - 1, -1))
        self._free_calls = list(range(calls - 1, -1, -1))
        self.full = 0
        """Legs and calls that found no room, or are too large: they would not outlive a crash."""

    @classmethod
    def make(cls, legs: int, calls: int) -> Keep:
        """A new one, empty. Memory is used for what is written only."""
        fd = os.memfd_create("relay-keep", os.MFD_CLOEXEC)
        os.ftruncate(fd, sum(_sizes(legs, calls)))
        os.pwrite(fd, PLACE.pack(MAGIC, legs << 32 | calls), 0)
        return cls(fd, legs, calls)

    @classmethod
    def of(cls, fd: int) -> Keep:
        """One that outlived its process. ValueError: it is none, or of a version that we cannot read."""
        try:
            magic, counts = PLACE.unpack(os.pread(fd, PLACE.size, 0))
        except Exception as error:
            raise ValueError("no file of ours") from error
        if magic != MAGIC:
            raise ValueError("no file of ours, or of another version")
        return cls(fd, counts >> 32, counts & 0xFFFFFFFF)

    @classmethod
    def left(cls, handed: manager.Handed) -> Keep | None:
        """What the service manager kept of a process that crashed; None: nothing that can be taken up."""
        kept = handed.take_files(NAME)
        for fd in kept[1:]:
            os.close(fd)
        if kept:
            try:
                return cls.of(kept[0])
            except (OSError, ValueError) as error:
                log.warning("what a process before us left is not taken up", extra={"why": str(error)})
                os.close(kept[0])
        return None

    @classmethod
    def begin(cls, legs: int, calls: int) -> Keep | None:
        """A new file that the service manager keeps from now on. None: there is none that keeps anything."""
        new = cls.make(legs, calls)
        if manager.store(NAME, [new.fd]):
            return new
        os.close(new.fd)
        return None

    # ------------------------------------------------------------ what is to be kept

    def take(self, leg: int) -> int | None:
        """A place for the marks of a leg, its own until `forget`; None: there is none left."""
        if leg not in self._places:
            if not self._free:
                self.full += 1
                return None
            self._places[leg] = self._free.pop()
        return self._places[leg]

    def lend(self, leg: int, transport: str, lent: Lent | None, ids: Sequence[bytes]) -> None:
        """The connection of a leg that has a place; None: the packet path does not go on now."""
        place = self._places.get(leg)
        if place is None:
            return
        data = b"" if lent is None else msgspec.msgpack.encode(LegRecord(leg, transport, list(ids), lent))
        if len(data) > LEG_BYTES:
            self.full += 1
            data = b""
        self._legs.write(place, data)

    def forget(self, leg: int) -> None:
        """The leg is over."""
        place = self._places.pop(leg, None)
        if place is not None:
            self._legs.write(place, b"")
            self._free.append(place)

    def call(self, cid: bytes, data: bytes) -> None:
        """What is to be remembered of a call; empty: it is over."""
        place = self._call_places.get(cid)
        if not data:
            if place is not None:
                self._calls.write(place, b"")
                self._free_calls.append(self._call_places.pop(cid))
            return
        if place is None and self._free_calls:
            place = self._call_places[cid] = self._free_calls.pop()
        if place is None or len(data) + len(cid) > CALL_BYTES:
            self.full += 1
            data = b""
        if place is not None:
            self._calls.write(place, cid + data if data else b"")

    def heard(self, leg: int, at: float) -> None:
        """The leg said something authentic, at this monotonic second: a clock that outlives the process."""
        place = self._places.get(leg)
        if place is not None:
            _TIME.pack_into(self._heard, place * _TIME.size, at)

    @property
    def generation(self) -> int | None:
        """Which of two generations of the daemon wrote this, 0 or 1; None: one without generations."""
        return (None, 0, 1)[self._head[_GENERATION_AT] % 3]

    @generation.setter
    def generation(self, generation: int | None) -> None:
        self._head[_GENERATION_AT] = 0 if generation is None else 1 + generation

    def beat(self, now: float) -> None:
        """The process lives, at this monotonic second."""
        _TIME.pack_into(self._head, PLACE.size, now)

    # ------------------------------------------------------------ what was kept

    @property
    def beaten(self) -> float:
        """When `beat` was called last, monotonic seconds; 0: never."""
        return float(_TIME.unpack_from(self._head, PLACE.size)[0])

    def heard_at(self, leg: int) -> float:
        """When the leg was heard last, as far as anybody noted; 0: never."""
        at = self._places[leg] * _TIME.size
        return float(_TIME.unpack_from(self._heard, at)[0])

    def legs(self) -> Iterator[tuple[LegRecord, int, int]]:
        """Legs of the process before: with numbers below which any may have been used, and below which came.

        To be run through before anything is written. They keep their places.
        """
        for place, data in self._legs.all():
            try:
                record = _LEG.decode(data)
            except msgspec.MsgspecError:
                log.warning("a leg's record cannot be read")
                continue
            self._places[record.leg] = place
            yield record, *self.marks.read(place)
        taken = set(self._places.values())
        self._free = [place for place in range(self.count - 1, FIRST - 1, -1) if place not in taken]

    def calls(self) -> Iterator[tuple[bytes, bytes]]:
        """Calls of the process before, by their ids; as `legs`."""
        for place, data in self._calls.all():
            cid = data[:CID_BYTES]
            self._call_places[cid] = place
            yield cid, data[CID_BYTES:]
        taken = set(self._call_places.values())
        self._free_calls = [place for place in range(self._calls.count - 1, -1, -1) if place not in taken]

    def place(self, leg: int) -> int | None:
        """Where the marks of a leg stand."""
        return self._places.get(leg)


def _sizes(legs: int, calls: int) -> tuple[int, int, int, int]:
    """Bytes of marks, heard, legs and calls: whole pages each."""
    marks, heard = (-(-legs * size // PAGE) * PAGE for size in (PLACE.size, _TIME.size))
    return marks, heard, Cells.room(legs, LEG_BYTES), Cells.room(calls, CALL_BYTES)
