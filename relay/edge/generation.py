"""Two generations of the daemon on the same addresses: which one we are, and the sockets that are ours.

    Slot     even or odd, held by a lock that dies with its process
    Places   the sockets of each address: ours, and those of the other generation; who gets what (steering.py)

Must never live here: how one generation follows the other (succession.py), who reads a socket.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Sequence
from typing import Final

from relay.edge.steering import Plan, steer
from relay.errors import ConfigError

KEY: Final = "listen.handover_socket"
GENERATIONS: Final = 2


class Slot:
    """The place of one generation of two. It is free again when its holder is gone, however it went."""

    def __init__(self, path: str, generation: int, descriptor: int) -> None:
        self.generation = generation
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: str, generation: int) -> Slot | None:
        """This place, if nobody holds it; `path`: the hand-over socket's. ConfigError: no lock can be had."""
        descriptor = _lock(path, generation)
        return None if descriptor is None else cls(path, generation, descriptor)

    @property
    def is_alone(self) -> bool:
        """Whether no process of the other generation lives."""
        descriptor = _lock(self._path, 1 - self.generation)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def release(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


def _lock(path: str, generation: int) -> int | None:
    """A locked descriptor; None while another process holds it."""
    name = f"{path}.{'odd' if generation else 'even'}"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(KEY, f"{name}: {error.strerror}", "name a path in a writable folder") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class Places:
    """UDP sockets by address, in the order in which they were bound. `generation` None: all are ours.

    Else they come in pairs, the even generation's first; ConfigError if they cannot.
    """

    def __init__(self, groups: Sequence[Sequence[socket.socket]], generation: int | None = None) -> None:
        self.groups = [list(group) for group in groups]
        self.generation = generation
        self.is_split = False
        """The other generation lives: what is its connections' is its."""
        self.other_has_turn = False
        """It holds allocations: STUN and TURN's data are its, too."""
        if generation is not None and any(len(group) % GENERATIONS for group in groups):
            cure = "two sockets of each address for each lane (ReusePort=yes, each Listen line twice)"
            raise ConfigError(KEY, "one socket of an address cannot serve two generations", cure)

    @property
    def own(self) -> list[list[socket.socket]]:
        """Those that we read, by address: one for each lane."""
        if self.generation is None:
            return self.groups
        return [group[self.generation :: GENERATIONS] for group in self.groups]

    @property
    def read(self) -> list[socket.socket]:
        """As `own`, all of them."""
        return [sock for group in self.own for sock in group]

    def steer(self, lanes: int | None = None) -> None:
        """Tell the kernel who gets what, of so many lanes; all by default."""
        for group, own in zip(self.groups, self.own, strict=True):
            if len(group) > 1:
                other = None if self.generation is None else 1 - self.generation
                turn = other if self.other_has_turn and self.is_split else None
                steer(group[0], Plan(lanes or len(own), self.generation, self.is_split, turn))

    def close(self) -> None:
        """Let go of all; the other generation's stay open as long as it lives."""
        for group in self.groups:
            for sock in group:
                sock.close()
