"""The last-known-good state on disk: no power cut spoils or widens it, and it is read again each second.

    feed     store --bytes--> copy() --> file, readable for all
    daemon   Follower.look(): file, floor file, kill files --> Standing

A write is a new file, synced, renamed over the old one, and the folder synced: whoever reads sees the old
bytes or the new ones, and once it returns they stay. Before the daemon goes by a new revision it notes it in
a file of its own, the floor: else a cut just after it had read what was not on the disk yet would bring an
older, perhaps wider, state back. Must never live here: what a state means (lastgood.py), a loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Protocol

from relay.protocol.ids import Kid
from relay.rollout.lastgood import (
    MOST_BYTES,
    Floor,
    Kills,
    Refusal,
    RefusedError,
    Standing,
    State,
    admit,
    parse,
    read_floor,
    read_kills,
    stand,
    write_floor,
)

log = logging.getLogger(__name__)

MODE: Final = 0o644
"""Nothing in a state is secret, and the daemon is another user than the feed."""
Stamp = tuple[int, int, int, int]


class Files(Protocol):
    """What of an operating system is used here. OSError as there."""

    @property
    def tag(self) -> str:
        """Which process this is: two generations of a daemon write to one folder during an upgrade."""
        ...

    def stamp(self, path: str) -> Stamp | None:
        """What changes when the file does; None: there is none."""
        ...

    def modified(self, path: str) -> float | None:
        """When it was written or touched, seconds since 1970; None: there is none."""
        ...

    def read(self, path: str) -> bytes | None:
        """All of it, but not much more than a state may have; None: there is none."""
        ...

    def create(self, path: str) -> int:
        """A new empty file in the place of one that a cut may have left there, for whom it is to be read.

        Never that one itself: it may be the same as the one that it was to replace, by another name.
        """
        ...

    def write(self, fd: int, data: bytes) -> int:
        """Write some; how much."""
        ...

    def sync(self, fd: int) -> None:
        """What was written is on the disk."""
        ...

    def close(self, fd: int) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """In one step, over what was there."""
        ...

    def remove(self, path: str) -> None:
        """Also when it is not there."""
        ...

    def sync_folder(self, path: str) -> None:
        """The folder's names are on the disk."""
        ...

    def touch(self, path: str, wall: float) -> None:
        """It is as fresh as that."""
        ...


class OsFiles:
    """The real ones; `mode` says for whom new files are."""

    def __init__(self, mode: int = MODE) -> None:
        self._mode = mode

    @property
    def tag(self) -> str:
        """As Files."""
        return str(os.getpid())

    def stamp(self, path: str) -> Stamp | None:
        """As Files."""
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def modified(self, path: str) -> float | None:
        """As Files."""
        try:
            return os.stat(path).st_mtime
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes | None:
        """As Files."""
        try:
            with open(path, "rb") as file:
                return file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None

    def create(self, path: str) -> int:
        """As Files."""
        self.remove(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
        os.fchmod(fd, self._mode)  # whatever the umask is
        return fd

    def write(self, fd: int, data: bytes) -> int:
        """As Files."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """As Files."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """As Files."""
        os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """As Files."""
        os.replace(old, new)

    def remove(self, path: str) -> None:
        """As Files."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def sync_folder(self, path: str) -> None:
        """As Files."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def touch(self, path: str, wall: float) -> None:
        """As Files."""
        os.utime(path, (wall, wall))


def replace(files: Files, path: str, data: bytes) -> None:
    """Put `data` there in one piece, on the disk when this returns; of several processes, the last one's.

    OSError: it is not; the old bytes are still there, or, if only the last sync failed, the new ones for now.
    """
    at = PurePath(path)
    beside = str(at.with_name(f".{at.name}.{files.tag}.new"))
    fd = files.create(beside)
    try:
        rest = data
        while rest:
            rest = rest[files.write(fd, rest) :]
        files.sync(fd)
    finally:
        files.close(fd)
    files.rename(beside, path)
    files.sync_folder(str(at.parent))


def remove(files: Files, path: str) -> None:
    """Take it away, on the disk when this returns."""
    files.remove(path)
    files.sync_folder(str(PurePath(path).parent))


def copy(files: Files, path: str, raw: bytes, keys: Mapping[Kid, bytes]) -> State:
    """Put a state there that is newer than what stands there, or the same. RefusedError: it is neither."""
    state = parse(raw, keys)
    standing = files.read(path)
    try:
        floor = parse(standing, keys).floor if standing is not None else None
    except RefusedError:
        floor = None  # whatever that is, no daemon takes it
    admit(state, floor)
    if standing != raw:
        replace(files, path, raw)
    return state


@dataclass(frozen=True, slots=True)
class Places:
    """Paths. "": there is none."""

    state: str
    floor: str
    kills: tuple[str, ...]


class Follower:
    """The daemon's side. `look` blocks for three small files, and for a sync when there is something new.

    It never raises: what is wrong is counted in `refused`, logged once, and leaves the state as it was.
    """

    def __init__(self, places: Places, keys: Mapping[Kid, bytes], files: Files | None = None) -> None:
        self.refused: Counter[Refusal] = Counter()
        """Files that did not count, by why; each once."""
        self.problem: Refusal | None = None
        """What is wrong with the file that is there now."""
        self._files = files or OsFiles()
        self._state: State | None = None
        self._floor: Floor | None = None
        self._kills = Kills()
        self._modified: float | None = None
        self.configure(places, keys)

    def configure(self, places: Places, keys: Mapping[Kid, bytes]) -> None:
        """Other paths or keys, after a reload. What was read stays while one of `keys` signed it."""
        self._places, self._keys = places, keys
        self._seen: Stamp | None = None
        self._raw: bytes | None = None
        if self._state is not None and self._state.kid not in keys:
            self._state = None

    def look(self) -> None:
        """Read again what changed."""
        self._kills = kills_of(self._files, self._places.kills)
        try:
            stamp = self._files.stamp(self._places.state)
            if stamp == self._seen:
                return
            self._modified = self._files.modified(self._places.state) or self._modified
            raw = self._files.read(self._places.state)
        except OSError as error:
            self._refuse(RefusedError(Refusal.UNREADABLE, error.strerror or ""))
            return
        self._seen = stamp
        if raw is None or raw == self._raw:  # it was only touched
            return
        self._raw = raw
        try:
            self._take(parse(raw, self._keys))
        except RefusedError as error:
            self._refuse(error)

    def stand(self, wall: float) -> Standing:
        """What counts now."""
        return stand(self._state, wall, self._kills)

    def age(self, wall: float) -> float | None:
        """Seconds since the feed last knew the file to be the newest there is; None: there never was one."""
        return None if self._modified is None else max(0.0, wall - self._modified)

    def _take(self, state: State) -> None:
        if self._floor is None and self._places.floor:
            self._floor = self._read_floor()
        admit(state, self._floor)
        if state.floor != self._floor:
            self._raise_floor(state.floor)
        self._state, self.problem = state, None

    def _read_floor(self) -> Floor | None:
        try:
            return read_floor(self._files.read(self._places.floor))
        except OSError as error:
            raise RefusedError(Refusal.BAD_FLOOR, error.strerror or "") from None

    def _raise_floor(self, floor: Floor) -> None:
        if self._places.floor:
            try:
                replace(self._files, self._places.floor, write_floor(floor))
            except OSError as error:
                # A disk that is full must not keep a box from closing. The price is paid only if the power is
                # cut as well, before it could be noted.
                log.error("the revision of the state cannot be noted: %s", error.strerror)
        self._floor = floor

    def _refuse(self, error: RefusedError) -> None:
        if error.why is not self.problem or error.why is not Refusal.UNREADABLE:
            self.refused[error.why] += 1
            log.error("a state is refused, the one before stays: %s", error)
        self.problem = error.why


def kills_of(files: Files, paths: Sequence[str]) -> Kills:
    """What these kill files say, all together; "" is none."""
    everything, ids = False, frozenset[str]()
    for path in filter(None, paths):
        try:
            found = read_kills(files.read(path))
        except OSError:  # something is there: better too narrow
            found = Kills(everything=True)
        everything, ids = everything or found.everything, ids | found.ids
    return Kills(everything, ids)
