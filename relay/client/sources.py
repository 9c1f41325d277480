"""Where sound comes from and where it goes. A microphone, noise suppression or echo cancelling plug in here.

    source.read() -> 20 ms of PCM | None at the end          sink.write(20 ms of PCM)

A live source returns when its hardware has the next 20 ms; for any other the call paces by its own clock.
Must never live here: sockets, codecs.
"""

from __future__ import annotations

import array
import math
import sys
import wave
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from relay.client.audio import FRAME_MS, SAMPLE_SIZE, read_pcm, samples_per_frame, silence
from relay.errors import LocalError

STALL_S: Final = 0.2  # behind by more than this (suspended laptop) the pacer begins anew


class AudioSource(Protocol):
    """Gives PCM (s16le, mono) at `rate` Hz, 20 ms at a time."""

    rate: int
    is_live: bool

    async def read(self) -> bytes | None:
        """The next 20 ms, or None when there will be no more."""


class AudioSink(Protocol):
    """Takes PCM (s16le, mono) at `rate` Hz, 20 ms at a time, silence included."""

    rate: int

    def write(self, pcm: bytes) -> None:
        """Take the next 20 ms. Must not block: the loop waits."""

    def close(self) -> None:
        """The call is over."""


class PcmSource:
    """PCM from memory, once or for ever; the last frame is filled up with silence."""

    is_live = False

    def __init__(self, pcm: bytes, rate: int = 16_000, *, repeat: bool = False) -> None:
        self.rate = rate
        self._size = SAMPLE_SIZE * samples_per_frame(rate)
        self._pcm = pcm + bytes(-len(pcm) % self._size)
        self._at = 0
        self._repeat = repeat and bool(pcm)

    async def read(self) -> bytes | None:
        if self._at >= len(self._pcm):
            if not self._repeat:
                return None
            self._at = 0
        frame = self._pcm[self._at : self._at + self._size]
        self._at += self._size
        return frame


class FileSource(PcmSource):
    """Any audio file, resampled to `rate` and read whole (1 minute at 16 kHz takes 1.9 MB)."""

    def __init__(self, path: str | Path, rate: int = 16_000, *, repeat: bool = False) -> None:
        super().__init__(read_pcm(path, rate), rate, repeat=repeat)


class ToneSource(PcmSource):
    """A sine of `hz`, `seconds` long (None: for ever), at a comfortable -12 dBFS."""

    def __init__(self, hz: float = 440.0, seconds: float | None = None, rate: int = 16_000) -> None:
        count = samples_per_frame(rate, 1000) if seconds is None else round(rate * seconds)
        # An endless tone repeats one second: it joins without a click if hz is whole.
        step = 2 * math.pi * hz / rate
        pcm = array.array("h", (round(8192 * math.sin(step * n)) for n in range(count)))
        if sys.byteorder == "big":
            pcm.byteswap()
        super().__init__(pcm.tobytes(), rate, repeat=seconds is None)


class CallbackSource:
    """An application's own capture: `pull(size)` gives exactly `size` bytes, or None at the end."""

    def __init__(
        self, pull: Callable[[int], Awaitable[bytes | None]], rate: int = 16_000, *, is_live: bool = True
    ) -> None:
        self.rate = rate
        self.is_live = is_live
        self._pull = pull
        self._size = SAMPLE_SIZE * samples_per_frame(rate)

    async def read(self) -> bytes | None:
        pcm = await self._pull(self._size)
        if pcm is not None and len(pcm) != self._size:
            raise LocalError(f"an audio callback gave {len(pcm)} bytes, not {self._size}")
        return pcm


class WavSink:
    """A WAV file, written as the call goes."""

    def __init__(self, path: str | Path, rate: int = 16_000) -> None:
        self.rate = rate
        self._file = wave.open(str(path), "wb")  # noqa: SIM115  the file lives as long as the call
        self._file.setnchannels(1)
        self._file.setsampwidth(SAMPLE_SIZE)
        self._file.setframerate(rate)

    def write(self, pcm: bytes) -> None:
        self._file.writeframesraw(pcm)

    def close(self) -> None:
        self._file.close()


class CallbackSink:
    """An application's own playback: `push(pcm)` is called with 20 ms each 20 ms."""

    def __init__(self, push: Callable[[bytes], None], rate: int = 16_000) -> None:
        self.rate = rate
        self.write = push

    def close(self) -> None:
        """Nothing to let go."""


class Chunker:
    """Cuts what the decoder gives (20-120 ms) into steps of 20 ms."""

    def __init__(self, rate: int) -> None:
        self._size = SAMPLE_SIZE * samples_per_frame(rate)
        self._silence = silence(rate, FRAME_MS)
        self._rest = b""

    @property
    def has_step(self) -> bool:
        """True if the next step can be played without a pull."""
        return len(self._rest) >= self._size

    def add(self, pcm: bytes) -> None:
        """Put decoded PCM behind what is left."""
        self._rest += pcm

    def step(self) -> bytes:
        """The next 20 ms; silence where nothing was added."""
        step, self._rest = self._rest[: self._size], self._rest[self._size :]
        return step + self._silence[len(step) :]


class Pacer:
    """Absolute deadlines, so that 20 ms stay 20 ms however late each wake-up is."""

    def __init__(self, start: float, period_s: float = FRAME_MS / 1000) -> None:
        self._start = start
        self._period = period_s
        self._count = 0

    @property
    def deadline(self) -> float:
        """When the next step is due, seconds."""
        return self._start + self._count * self._period

    def step(self, now: float) -> int:
        """One step is done. Periods left out because the process was stopped for longer than `STALL_S`."""
        self._count += 1
        behind = now - self.deadline
        if behind <= STALL_S:
            return 0
        skipped = int(behind / self._period)
        self._count += skipped
        return skipped
