"""How long a socket is left alone whose reading fails.

An error that an earlier packet left behind is cleared by the read that meets it. One that stays leaves the
socket readable: who asks again and again takes a whole CPU. (The native lane's threads do the same,
`worker/rests.rs`.) Must never live here: sockets, a clock.
"""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.001
LONGEST_S: Final = 0.1
"""So late may be what comes when the socket can be read again."""


class Rest:
    """Of one socket."""

    def __init__(self) -> None:
        self._next = FIRST_S

    def worked(self) -> None:
        """A read worked, though it may have found nothing."""
        self._next = FIRST_S

    def failed(self) -> float:
        """A read failed; seconds until the next, longer each time."""
        now, self._next = self._next, min(2 * self._next, LONGEST_S)
        return now
