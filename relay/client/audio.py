"""Opus by libopus and audio files: what turns sound into packets and packets into sound.

PCM is everywhere signed 16-bit little-endian, one channel. The libraries belong to the extra `audio` and are
imported when first needed: an application that brings its own codec installs without them. Must never live
here: sockets, clocks, microphones.
"""

from __future__ import annotations

import importlib
import wave
from pathlib import Path
from typing import Any, Final

from relay.errors import LocalError, RelayError

RATES: Final = (8000, 12000, 16000, 24000, 48000)  # what Opus takes (RFC 6716 section 2.1.3)
FRAME_MS: Final = 20
SAMPLE_SIZE: Final = 2
DEFAULT_BITRATE: Final = 24_000
_MIN_BITRATE: Final = 6_000
_MAX_BITRATE: Final = 64_000
_MAX_FRAME: Final = 1275  # RFC 6716 section 3.2.1
_OK: Final = 0


class AudioMissingError(RelayError):
    """A library of the extra `audio` is not installed."""

    def __init__(self, library: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'vrelay[audio]'")


class CodecError(RelayError):
    """libopus or the file reader refused what it was given."""


def _load(module: str, library: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AudioMissingError(library) from error


def samples_per_frame(rate: int, ms: float = FRAME_MS) -> int:
    """Samples of `ms` at `rate`."""
    return int(rate * ms / 1000)


def silence(rate: int, ms: float = FRAME_MS) -> bytes:
    """PCM of nothing."""
    return bytes(SAMPLE_SIZE * samples_per_frame(rate, ms))


def opus_ticks(packet: bytes) -> int:
    """Duration of an Opus packet in units of 2.5 ms, from its first bytes. (RFC 6716 section 3.1, 3.2.)

    0 for a packet that is none or is longer than 120 ms.
    """
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (4, 8, 16, 24)[config & 3]  # SILK: 10, 20, 40, 60 ms
    elif config < 16:
        frame = (4, 8)[config & 1]  # hybrid: 10, 20 ms
    else:
        frame = (1, 2, 4, 8)[config & 3]  # CELT: 2.5, 5, 10, 20 ms
    if code < 3:
        return frame * (1, 2, 2)[code]
    count = packet[1] & 63 if len(packet) > 1 else 0
    return frame * count if frame * count <= 48 else 0


def _check_rate(rate: int) -> None:
    if rate not in RATES:
        raise LocalError(f"Opus takes {', '.join(map(str, RATES))} Hz, not {rate}: resample first")


class Encoder:
    """Opus encoder for speech: constant bit rate, as the sizes of a variable one tell words (RFC 6562)."""

    def __init__(self, rate: int = 16_000, bitrate: int = DEFAULT_BITRATE) -> None:
        _check_rate(rate)
        opus = _load("opuslib_next", "opuslib-next-bundled")
        self.rate = rate
        self._error = opus.OpusError
        self._encoder = opus.Encoder(rate, 1, "voip")
        self._encoder.vbr = 0
        self.bitrate = bitrate

    @property
    def bitrate(self) -> int:
        """Bits per second; takes effect with the next frame."""
        return self._bitrate

    @bitrate.setter
    def bitrate(self, value: int) -> None:
        self._bitrate = min(max(value, _MIN_BITRATE), _MAX_BITRATE)
        self._encoder.bitrate = self._bitrate

    def encode(self, pcm: bytes) -> bytes:
        """One packet of 20, 40 or 60 ms of PCM."""
        try:
            # libopus takes the size of the buffer from the PCM's: 20 ms at 8 kHz are 320 bytes, enough.
            packet: bytes = self._encoder.encode(pcm, len(pcm) // SAMPLE_SIZE)
        except self._error as error:
            raise CodecError(f"libopus: {error}") from error
        return packet


class Decoder:
    """Opus decoder with concealment."""

    def __init__(self, rate: int = 16_000) -> None:
        _check_rate(rate)
        opus = _load("opuslib_next", "opuslib-next-bundled")
        self._api = _load("opuslib_next.api.decoder", "opuslib-next-bundled")
        self.rate = rate
        self._error = opus.OpusError
        self._decoder = opus.Decoder(rate, 1)

    def decode(self, packet: bytes) -> bytes:
        """PCM of a packet, as long as the packet says."""
        ticks = opus_ticks(packet)
        if not ticks or len(packet) > _MAX_FRAME * 3:
            raise CodecError("not an Opus packet")
        return self._decode(packet, samples_per_frame(self.rate, ticks * 2.5))

    def conceal(self, ms: float = FRAME_MS) -> bytes:
        """PCM that bridges a hole of `ms`, from what was heard before."""
        return self._decode(None, samples_per_frame(self.rate, ms))

    def _decode(self, packet: bytes | None, samples: int) -> bytes:
        # The class method takes no packet-less call; the function below it passes NULL, which asks for
        # concealment (opus_decode's manual).
        try:
            pcm: bytes = self._api.decode(
                self._decoder.decoder_state, packet, len(packet or b""), samples, False, channels=1
            )
        except self._error as error:
            raise CodecError(f"libopus: {error}") from error
        return pcm


def read_pcm(path: str | Path, rate: int) -> bytes:
    """Any audio file as PCM at `rate`. A WAV that already fits is read without the extra."""
    plain = _read_wav(Path(path), rate)
    return plain if plain is not None else _read_any(Path(path), rate)


def _read_wav(path: Path, rate: int) -> bytes | None:
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, SAMPLE_SIZE, rate):
                return file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        pass  # not a WAV, or one of a kind that the standard library does not know
    except OSError as error:
        raise CodecError(f"{path.name}: {error.strerror}") from error
    return None


def _read_any(path: Path, rate: int) -> bytes:
    av = _load("av", "av")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    parts = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                parts += [
                    bytes(out.planes[0])[: out.samples * SAMPLE_SIZE] for out in resampler.resample(frame)
                ]
            parts += [bytes(out.planes[0])[: out.samples * SAMPLE_SIZE] for out in resampler.resample(None)]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise CodecError(f"{path.name}: no audio that can be read ({error})") from error
    return b"".join(parts)


def write_wav(path: str | Path, pcm: bytes, rate: int) -> None:
    """Write PCM as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(SAMPLE_SIZE)
        file.setframerate(rate)
        file.writeframes(pcm)


def write_opus(path: str | Path, pcm: bytes, rate: int, bitrate: int = DEFAULT_BITRATE) -> None:
    """Write PCM as an Ogg Opus file."""
    av = _load("av", "av")
    numpy = _load("numpy", "numpy")
    _check_rate(rate)
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate)
        stream.bit_rate = bitrate
        stream.layout = "mono"
        samples = numpy.frombuffer(pcm, dtype="<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate, frame_size=rate // 50)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
