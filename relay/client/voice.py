"""Sound on its way out and in: the asyncio edge between sources, codec, keys and sinks.

Everything is paced by absolute deadlines of the loop's clock. Must never live here: messages, sockets, the
jitter buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from relay.client.audio import CodecError, Decoder, Encoder
from relay.client.frames import KIND_OPUS, MediaFrame, seal
from relay.client.jitter import Conceal
from relay.client.keyring import KeyRing
from relay.client.sources import AudioSink, AudioSource, Chunker, Pacer
from relay.protocol.media import PP_ONSET, PP_SPEECH

_TICKS_PER_S: Final = 400
_STEP_TICKS: Final = 8  # 20 ms
_ONSET_FRAMES: Final = 3  # the first 60 ms of a talkspurt are kept before all others


class OpusEncoder(Protocol):
    """An encoder that an application brings along; ours is `audio.Encoder`."""

    bitrate: int
    """Bits per second that the call asks for; may change between two packets."""

    def encode(self, pcm: bytes) -> bytes:
        """One Opus packet of 20, 40 or 60 ms of PCM."""


class OpusDecoder(Protocol):
    """A decoder that an application brings along; ours is `audio.Decoder`."""

    def decode(self, packet: bytes) -> bytes:
        """PCM of a packet, as long as the packet says. CodecError: it is none."""

    def conceal(self, ms: float = 20) -> bytes:
        """PCM that bridges a hole."""


class Speaker:
    """Encodes and seals what a source gives."""

    def __init__(
        self, source: AudioSource, ring: KeyRing, clock_start: float, encoder: OpusEncoder | None = None
    ) -> None:
        self._source = source
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._encoder: OpusEncoder = encoder or Encoder(source.rate)
        self.steps = 1
        """Steps of 20 ms in one packet, up to 3; takes effect with the next packet."""
        self._since_onset = 0
        # The media clock goes on across talks and pauses: the receiver unwraps it by its own clock.
        self._ts = round((self._loop.time() - clock_start) * _TICKS_PER_S)

    @property
    def bitrate(self) -> int:
        """Opus bits per second."""
        return self._encoder.bitrate

    @bitrate.setter
    def bitrate(self, value: int) -> None:
        if value != self._encoder.bitrate:
            self._encoder.bitrate = value

    async def frames(self) -> AsyncIterator[MediaFrame]:
        """Opus frames, each when it is due."""
        pacer = Pacer(self._loop.time())
        held: list[bytes] = []  # steps of the next packet
        while True:
            if not self._source.is_live:
                await asyncio.sleep(max(0.0, pacer.deadline - self._loop.time()))
            pcm = await self._source.read()
            if pcm is not None:
                held.append(pcm)
            if held and (pcm is None or len(held) >= self.steps):
                yield self._frame(held)
                held = []
            if pcm is None:
                return
            skipped = pacer.step(self._loop.time())
            if skipped and held:  # they belong to before
                yield self._frame(held)
                held = []
            self._ts += _STEP_TICKS * skipped

    def _frame(self, steps: list[bytes]) -> MediaFrame:
        frame = MediaFrame(self._ts & 0xFFFF, KIND_OPUS, self._encoder.encode(b"".join(steps)))
        self._ts += _STEP_TICKS * len(steps)
        return frame

    def seal(self, frame: MediaFrame, peer: int | None, flow: int) -> bytes | None:
        """The datagram, or None while there is nobody or no key."""
        if peer is None:
            return None
        onset = self._since_onset == 0
        pp = PP_ONSET if self._since_onset < _ONSET_FRAMES else PP_SPEECH
        payload = seal(self._ring, peer, flow, frame, onset=onset, pp=pp)
        if payload is not None:
            self._since_onset += 1
        return payload

    def pause(self) -> None:
        """Nothing is sent now: the next packet starts a talkspurt."""
        self._since_onset = 0


class Listener:
    """Plays steps of 20 ms into a sink."""

    def __init__(self, sink: AudioSink, decoder: OpusDecoder | None = None) -> None:
        self._sink = sink
        self._decoder: OpusDecoder = decoder or Decoder(sink.rate)
        self._chunks = Chunker(sink.rate)

    async def run(self, pull: Callable[[], object], is_over: Callable[[], bool]) -> None:
        """Call `pull` (packet, Conceal or None) whenever the next step is due."""
        loop = asyncio.get_running_loop()
        pacer = Pacer(loop.time())
        while not is_over():
            await asyncio.sleep(max(0.0, pacer.deadline - loop.time()))
            self._sink.write(self.step(pull))
            pacer.step(loop.time())

    def step(self, pull: Callable[[], object]) -> bytes:
        """The next 20 ms of PCM."""
        if not self._chunks.has_step:
            item = pull()
            if isinstance(item, bytes):
                self._chunks.add(self._decode(item))
            elif item is Conceal.STEP:
                self._chunks.add(self._decoder.conceal())
        return self._chunks.step()

    def _decode(self, packet: bytes) -> bytes:
        try:
            return self._decoder.decode(packet)
        except CodecError:
            return self._decoder.conceal()
