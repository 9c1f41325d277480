"""A disk in memory that forgets what it may forget when the power is cut.

What a program sees is the newest of everything. What the power cut leaves is any state that POSIX allows: of
a file that was not synced any of its 512-byte sectors, the others zero or old, and any length between; of a
folder that was not synced any of the names that were made, moved and removed, each for itself or up to a
moment, as a journal has it. Each name changes whole. Every call is a moment at which the power can fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath

from relay.rollout.lastgood_file import Stamp

SECTOR = 512


class PowerCut(BaseException):
    """Nothing after it happens."""


@dataclass
class Inode:
    number: int
    data: bytes = b""
    synced: bytes = b""
    mtime: float = 0.0

    def after_cut(self, chance: random.Random) -> bytes:
        """What of it is on the disk."""
        if self.data == self.synced:
            return self.data
        old, new = self.synced, self.data
        size = chance.choice((len(old), len(new), chance.randint(0, max(len(old), len(new)))))
        found = bytearray()
        for at in range(0, max(len(old), len(new)), SECTOR):
            found += chance.choice((old, new, b""))[at : at + SECTOR].ljust(SECTOR, b"\0")
        return bytes(found[:size])


@dataclass
class Disk:
    """A Files of lastgood_file.py, and of the tests. One folder is enough for it."""

    chance: random.Random
    cut_after: float = float("inf")
    """Calls until the power fails."""
    on_call: Callable[[], None] = lambda: None
    """Others live between two calls."""
    names: dict[str, Inode] = field(default_factory=dict)
    synced: dict[str, Inode] = field(default_factory=dict)
    made: list[tuple[str, Inode | None]] = field(default_factory=list)
    """Names set since the folder was synced; None: removed."""
    calls: int = 0
    inodes: int = 0
    reuses: bool = False
    """A file that is made anew is the one that was there, emptied (O_TRUNC)."""
    open: dict[int, Inode] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return "1"

    def _call(self) -> None:
        self.on_call()
        self.calls += 1
        if self.calls > self.cut_after:
            raise PowerCut

    def stamp(self, path: str) -> Stamp | None:
        found = self.names.get(path)
        return (found.number, len(found.data), int(found.mtime), 0) if found is not None else None

    def modified(self, path: str) -> float | None:
        found = self.names.get(path)
        return found.mtime if found is not None else None

    def read(self, path: str) -> bytes | None:
        found = self.names.get(path)
        return found.data if found is not None else None

    def create(self, path: str) -> int:
        self._call()
        inode = self.names.get(path) if self.reuses else None
        if inode is None:
            self.inodes += 1
            inode = Inode(self.inodes)
            self._name(path, inode)
        inode.data = b""
        fd = 3 + len(self.open)
        self.open[fd] = inode
        return fd

    def write(self, fd: int, data: bytes) -> int:
        some = data[: self.chance.randint(1, len(data))]
        for at in range(0, len(some), SECTOR):  # the power may fail within
            self._call()
            self.open[fd].data += some[at : at + SECTOR]
        return len(some)

    def sync(self, fd: int) -> None:
        self._call()
        self.open[fd].synced = self.open[fd].data

    def close(self, fd: int) -> None:
        pass

    def rename(self, old: str, new: str) -> None:
        self._call()
        self._name(new, self.names[old])
        self._name(old, None)

    def remove(self, path: str) -> None:
        self._call()
        if path in self.names:
            self._name(path, None)

    def sync_folder(self, path: str) -> None:
        self._call()
        mine = [each for each in self.made if str(PurePath(each[0]).parent) == path]
        self.made = [each for each in self.made if each not in mine]
        for name, inode in mine:
            _set(self.synced, name, inode)

    def touch(self, path: str, wall: float) -> None:
        self._call()
        self.names[path].mtime = wall

    def _name(self, path: str, inode: Inode | None) -> None:
        self.made.append((path, inode))
        _set(self.names, path, inode)

    def after_cut(self, cut_after: float = float("inf")) -> Disk:
        """The machine comes up again."""
        kept = dict(self.synced)
        as_journal = self.chance.random() < 0.5
        upto = self.chance.randint(0, len(self.made))
        for at, (name, inode) in enumerate(self.made):
            if at < upto if as_journal else self.chance.random() < 0.5:
                _set(kept, name, inode)
        again: dict[int, Inode] = {}  # one that has two names is still one
        found = Disk(self.chance, cut_after, inodes=self.inodes, reuses=self.reuses)
        for name, inode in kept.items():
            if inode.number not in again:
                data = inode.after_cut(self.chance)
                again[inode.number] = Inode(inode.number, data, data, inode.mtime)
            found.names[name] = found.synced[name] = again[inode.number]
        return found


def _set(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
