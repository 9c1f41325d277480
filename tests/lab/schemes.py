"""What is compared: ways to bring the same speech over the same network, and how each of them speaks.

    plain      the relay repeats nothing
    repaired   the relay repeats what was not acknowledged
    followed   the same, and the speaker does as the relay asks (longer packets)
    copies     the same, called so where the round trip is too long for repeats
    red        the speaker puts the two frames before into each packet, as RED in WebRTC does; 3 x the bytes

All speak with 24 kb/s, and but for `followed` in packets of 20 ms whatever is asked for. Must never live
here: networks, scores.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from relay.client.audio import DEFAULT_BITRATE
from relay.client.call import Call
from relay.client.frames import KIND_BUNDLE, MediaFrame
from relay.client.life import CallState
from relay.client.sources import AudioSource
from relay.client.voice import Speaker
from relay.client.wishes import Wishes
from relay.protocol.messages import Rate

RED_BEFORE: Final = 2  # frames before its own that a packet carries


@dataclass(frozen=True)
class Scheme:
    """One way."""

    name: str
    adapts: bool = False
    """Which daemon: one that repairs, or one that does not."""
    is_red: bool = False
    follows: bool = False


SCHEMES: Final = {
    scheme.name: scheme
    for scheme in (
        Scheme("plain"),
        Scheme("repaired", adapts=True),
        Scheme("copies", adapts=True),
        Scheme("followed", adapts=True, follows=True),
        Scheme("red", is_red=True),
    )
}


class Deaf(Wishes):
    """Does not hear what the relay asks for."""

    def on_rate(self, message: Rate, now: float) -> None:
        """Nothing changes."""


def bundle(frame: MediaFrame, before: list[MediaFrame]) -> MediaFrame:
    """A frame with those before it, oldest first: n, n x {ticks back, size}, the blocks, itself."""
    if not before:
        return frame
    heads = b"".join(bytes((frame.ts - one.ts & 0xFFFF, len(one.body))) for one in before)
    body = bytes((len(before),)) + heads + b"".join(one.body for one in before) + frame.body
    return MediaFrame(frame.ts, KIND_BUNDLE, body)


async def speak(call: Call, source: AudioSource, scheme: Scheme) -> None:
    """As `Call.speak`, in the way of the scheme."""
    wishes = call._wishes if scheme.follows else Deaf()
    speaker = Speaker(source, call._ring, call._begun)
    before: deque[MediaFrame] = deque(maxlen=RED_BEFORE if scheme.is_red else 0)
    async for frame in speaker.frames():
        if call.state is CallState.ENDED:
            return
        now = call._loop.time()
        speaker.bitrate = wishes.bitrate(DEFAULT_BITRATE, now)
        speaker.steps = wishes.steps(now)
        payload = speaker.seal(bundle(frame, list(before)), call._peer, call._up)
        before.append(frame)
        if payload is not None:
            call._send(payload)
