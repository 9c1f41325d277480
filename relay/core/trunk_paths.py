"""A trunk's connections: one, or two by different paths, over which all is said twice and taken once.

    DOWN --dialed--> DIALLING --joined--> UP      all but DOWN --lost--> DOWN      DOWN --joined--> UP

Each message has a number, from 0 with the first behind the greetings of the connection by which the trunk
began; no message names it: who joins says by `at` which one comes first on the new connection, and streams
keep the order. What was taken already is passed over, what is ahead waits for what the other connection
brings. Must never live here: what a message means, and when a trunk is down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

from relay.core.machine import Machine, Table
from relay.errors import ErrorCode, PeerError
from relay.protocol.control import Frame, FrameReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.trunk_greeting import Greeting
    from relay.protocol.messages import Err, Ok
    from relay.protocol.trunk_messages import Attached

RETRY_S: Final = (0.2, 1.0, 2.0, 5.0)
"""After so long a lost path is dialed again, cut by up to half; the last one from then on."""
ANSWER_S: Final = 1.0  # the edge says at once that it dials; what it does not say by then it cannot
MOST_AHEAD: Final = 4096  # messages that wait for those before them


class State(Enum):
    """What one path is good for."""

    DOWN = "down"  # nothing
    DIALLING = "dialling"  # a connection of ours is under way
    UP = "up"  # media and messages go by it


class Dialed:
    """We dial."""


class Joined:
    """Both ends know that a connection is part of the trunk."""


class Lost:
    """It is no more, or nothing came of it."""


class Path(Machine[State]):
    """One of the two."""

    TRANSITIONS: ClassVar[Table[State]] = {
        State.DOWN: {Dialed: State.DIALLING, Joined: State.UP, Lost: State.DOWN},
        State.DIALLING: {Dialed: State.DIALLING, Joined: State.UP, Lost: State.DOWN},
        State.UP: {Joined: State.UP, Lost: State.DOWN},
    }

    def __init__(self) -> None:
        super().__init__(State.DOWN)
        self.leg: int | None = None
        """The connection; None: there is none, or the edge has not named it yet."""
        self._due = 0.0
        self._tries = 0

    @property
    def is_asked(self) -> bool:
        """The edge was told to dial it, and has not named the connection yet."""
        return self._state is State.DIALLING and self.leg is None

    def next_deadline(self) -> float | None:
        """When it is to be dialed, or the edge should have named what it dials."""
        return self._due if self._state is State.DOWN or self.is_asked else None

    def on_dialed(self, leg: int | None, now: float) -> None:
        """We dial; the edge has named the connection, or (None) will."""
        self._move(Dialed)
        self.leg, self._due = leg, now + ANSWER_S

    def on_joined(self, leg: int) -> int | None:
        """It carries by this connection; by which it did before, or should have."""
        self._move(Joined)
        replaced, self.leg = self.leg, leg
        self._tries = 0
        return None if replaced == leg else replaced

    def on_lost(self, leg: int | None, now: float, chance: float) -> bool:
        """A connection is no more. Whether it was this path's."""
        if leg != self.leg or self._state is State.DOWN:
            return False
        self._move(Lost)
        self.leg = None
        self._due = now + RETRY_S[min(self._tries, len(RETRY_S) - 1)] * (1.0 - 0.5 * chance)
        self._tries += 1
        return True


class Paths:
    """Both paths of one life of a trunk, and the messages that go by them.

    `nonce`: the challenge's of the connection by which it began, 32 bytes, which names it to both ends.
    """

    def __init__(self, nonce: bytes, leg: int, second: bool) -> None:
        self.nonce = nonce
        self.sent = 0
        """Messages said on the trunk."""
        self.legs: list[int] = [leg]
        """Connections on which all is said."""
        self._paths = (Path(), Path())
        self._at = {leg: 0}
        """Of each connection, the number of the message that comes next."""
        self._taken = 0
        self._ahead: dict[int, Frame] = {}
        self._paths[second].on_joined(leg)

    def __getitem__(self, second: bool) -> Path:
        """The first path, or the second."""
        return self._paths[second]

    @property
    def up(self) -> list[int]:
        """Connections that are part of the trunk."""
        return [path.leg for path in self._paths if path.state is State.UP and path.leg is not None]

    @property
    def pending(self) -> list[int]:
        """Connections that we dial."""
        return [path.leg for path in self._paths if path.state is State.DIALLING and path.leg is not None]

    def next_deadline(self) -> float | None:
        """When something is due of a path."""
        found = (path.next_deadline() for path in self._paths)
        return min((when for when in found if when is not None), default=None)

    def to_dial(self, now: float, chance: float) -> list[bool]:
        """Which paths are to be dialed now."""
        found = []
        for second, path in zip((False, True), self._paths, strict=True):
            due = path.next_deadline()
            if due is None or now < due:
                continue
            if path.is_asked:
                path.on_lost(None, now, chance)
            else:
                path.on_dialed(None, now)
                found.append(second)
        return found

    def join(self, leg: int) -> int:
        """All is said on this connection, too, from now on; the number of the first message."""
        if leg not in self.legs:
            self.legs.append(leg)
        return self.sent

    def on_joined(self, leg: int, second: bool, at: int) -> int | None:
        """A connection is part of the trunk, `at` the first message that follows; which one it replaces."""
        self._at[leg] = at
        replaced = self._paths[second].on_joined(leg)
        if replaced is not None:
            self._drop(replaced)
        return replaced

    def on_lost(self, leg: int, now: float, chance: float) -> None:
        """A connection is no more; with the last one of `up` the trunk is not either."""
        self._drop(leg)
        for path in self._paths:
            path.on_lost(leg, now, chance)

    @property
    def is_whole(self) -> bool:
        """One of the connections brings the message that comes next, or brought it."""
        return any(at <= self._taken for at in self._at.values())

    def fresh(self, leg: int, frame: Frame) -> list[Frame]:
        """What of all that came is to be taken now, in order, as this comes by a connection.

        PeerError: too much waits for what one of the connections does not bring.
        """
        number = self._at[leg]
        self._at[leg] = number + 1
        if number < self._taken:
            return []
        self._ahead[number] = frame
        if len(self._ahead) > MOST_AHEAD:
            raise PeerError(ErrorCode.OVERLOADED, "a message does not come by either path")
        found = []
        while (frame_now := self._ahead.pop(self._taken, None)) is not None:
            found.append(frame_now)
            self._taken += 1
        return found

    def _drop(self, leg: int) -> None:
        self._at.pop(leg, None)
        if leg in self.legs:
            self.legs.remove(leg)


@dataclass(slots=True, eq=False)
class Link:
    """One connection to another node."""

    leg: int
    greeting: Greeting
    reader: FrameReader = field(default_factory=FrameReader)
    way: str = ""
    """Whose it is, once that is proven."""
    dialed: str = ""
    """Whom we dialed; "": it was dialed by the other one."""
    second: bool = False
    """By which of the two paths it goes."""
    joins: bytes = b""
    """We dialed it to join this trunk."""
    began: Link | None = None
    """The connection by which the trunk began that it joined; None: it began one."""
    paths: Paths | None = None
    """Those of the trunk that it began, also when it is itself no more."""
    asked: dict[int, Callable[[Ok | Err | Attached], None]] = field(default_factory=dict)
    newest: int = 0

    @property
    def whole(self) -> Link:
        """The connection by which its trunk began."""
        return self.began or self
