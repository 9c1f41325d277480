"""What one listener heard, and whether anything was delivered or played later than it may be.

    on_sent(payload) -> on_media(payload) -> its age when it left the relay
    pull()           -> how long after its earliest moment a frame is played

Speaker, listener and last mile share a process, hence a clock. Must never live here: networks, scores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from lab.lastmile import LastMile
from relay.client.call import Call
from relay.client.jitter import STEP_MS, JitterBuffer
from relay.client.session import Session
from relay.protocol import media

HELD_MS: Final = 120  # what listeners hold from the start, as if repair had asked for it
OLDEST_FIRST_MS: Final = 100.0  # what leaves for the first time is dropped beyond that age
OLDEST_REPEAT_MS: Final = 180.0  # none is repeated beyond that, whatever the listener holds


@dataclass
class Ear:
    """One listener in one call. Times ms; what is over by how much, 0 if nothing was."""

    pcm: bytearray = field(default_factory=bytearray)
    first_age: float = 0.0
    """The oldest that was when it left the relay for the first time."""
    first_over: float = 0.0
    repeat_age: float = 0.0
    """The oldest that a repeat was when it left the relay."""
    repeat_over: float = 0.0
    """Most that a repeat was older than what the listener held then."""
    hold: float = 0.0
    """The longest that a frame was played after its earliest moment."""
    play_over: float = 0.0
    """Most of that beyond what was aimed at before, and the step that sound comes in."""
    repeats: int = 0
    _sent: dict[tuple[int, int], float] = field(default_factory=dict)
    _left_at: float = 0.0
    _aim: float = 0.0

    def on_sent(self, payload: bytes) -> None:
        """A packet leaves the speaker, and is at the relay a moment later."""
        header = media.decode(payload)
        self._sent[header.kid, header.ctr] = time.monotonic()

    def attach(self, session: Session, call: Call, path: LastMile) -> None:
        """Watch what this call gets and plays; it holds what repair would ask for from the start."""
        assert call._peer is not None
        assert session._main is not None
        quic, on_media = session._main.quic, call.on_media
        assert quic is not None
        assert quic.port is not None
        jitter = call._reception.heard(call._peer).jitter
        jitter.require(HELD_MS)
        pull = jitter.pull

        def receive(data: bytes) -> None:
            self._left_at = path.down.entered.pop(data, self._left_at)
            quic.receive(data)

        def watch_media(payload: bytes, leg: int = 0) -> None:
            self._on_media(payload, jitter.target_ms)
            on_media(payload, leg)

        def watch_pull(now: float) -> object:
            before = set(jitter._frames)
            item = pull(now)
            if isinstance(item, bytes):
                self._on_played(jitter, min(before - jitter._frames.keys()), now)
            return item

        quic.port.attach(quic.peer, receive)
        call.on_media = watch_media  # watched, not changed
        jitter.pull = watch_pull

    def _on_media(self, payload: bytes, held: float) -> None:
        header = media.decode(payload)
        at = self._sent.get((header.kid, header.ctr))
        if at is None:
            return
        age = 1000 * (self._left_at - at)
        if header.repeat:
            self.repeats += 1
            self.repeat_age = max(self.repeat_age, age)
            self.repeat_over = max(self.repeat_over, age - min(held, OLDEST_REPEAT_MS))
        else:
            self.first_age = max(self.first_age, age)
            self.first_over = max(self.first_over, age - OLDEST_FIRST_MS)

    def _on_played(self, jitter: JitterBuffer, tick: int, now: float) -> None:
        delay = jitter._delay_of(tick, now)
        self._aim = max(self._aim, jitter.target_ms)
        self.hold = max(self.hold, delay)
        self.play_over = max(self.play_over, delay - self._aim - STEP_MS)
