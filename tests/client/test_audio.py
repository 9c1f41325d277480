"""Opus through libopus, files through av, and what is said when neither is there."""

from __future__ import annotations

import array
import math
import sys
from pathlib import Path

import pytest

from relay.client.audio import (
    AudioMissingError,
    CodecError,
    Decoder,
    Encoder,
    opus_ticks,
    read_pcm,
    write_opus,
    write_wav,
)
from relay.errors import LocalError


def tone(seconds: float, rate: int = 16_000) -> bytes:
    return array.array("h", (round(8000 * math.sin(n / 8)) for n in range(int(rate * seconds)))).tobytes()


def test_every_packet_has_the_same_size_and_the_bit_rate_changes_live() -> None:
    encoder = Encoder(16_000)
    frames = [tone(0.02)] * 10
    assert {len(encoder.encode(frame)) for frame in frames} == {60}  # 24 kb/s x 20 ms
    encoder.bitrate = 12_000
    assert len(encoder.encode(frames[0])) == 30
    encoder.bitrate = 1_000_000
    assert encoder.bitrate == 64_000


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_sound_goes_through_and_a_hole_is_filled_with_something(rate: int) -> None:
    encoder, decoder = Encoder(rate), Decoder(rate)
    step = rate // 50 * 2
    pcm = tone(0.4, rate)
    for at in range(0, len(pcm), step):
        packet = encoder.encode(pcm[at : at + step])
        assert opus_ticks(packet) == 8
        out = decoder.decode(packet)
        assert len(out) == step
    filled = decoder.conceal()
    assert len(filled) == step
    assert max(array.array("h", filled)) > 1000
    assert len(decoder.conceal(40)) == 2 * step


def test_longer_packets_say_their_length() -> None:
    packet = Encoder(16_000).encode(tone(0.06))
    assert opus_ticks(packet) == 24
    assert len(Decoder(16_000).decode(packet)) == 3 * 640


@pytest.mark.parametrize(
    ("packet", "ticks"),
    [
        (b"", 0),
        (bytes((0 << 3,)), 4),
        (bytes((3 << 3,)), 24),
        (bytes((13 << 3 | 1,)), 16),
        (bytes((16 << 3,)), 1),
        (bytes((31 << 3 | 2,)), 16),
        (bytes((31 << 3 | 3, 6)), 48),
        (bytes((31 << 3 | 3, 7)), 0),
        (bytes((31 << 3 | 3,)), 0),
    ],
)
def test_the_first_bytes_tell_the_duration(packet: bytes, ticks: int) -> None:
    assert opus_ticks(packet) == ticks


def test_what_is_no_opus_is_a_codec_error() -> None:
    with pytest.raises(CodecError):
        Decoder(16_000).decode(b"")
    with pytest.raises(CodecError):
        Decoder(16_000).decode(bytes((31 << 3 | 3, 1 | 0x40)))
    with pytest.raises(CodecError):
        Encoder(16_000).encode(bytes(100))
    with pytest.raises(LocalError):
        Encoder(44_100)


def test_files_are_resampled_and_opus_files_written(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(1.0, 48_000), 48_000)
    pcm = read_pcm(tmp_path / "a.wav", 16_000)
    assert abs(len(pcm) - 32_000) <= 64
    write_opus(tmp_path / "a.opus", tone(1.0), 16_000)
    assert (tmp_path / "a.opus").stat().st_size < 8000
    assert abs(len(read_pcm(tmp_path / "a.opus", 16_000)) - 32_000) <= 2 * 640


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"none\.wav"):
        read_pcm(tmp_path / "none.wav", 16_000)
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(CodecError, match=r"text\.wav"):
        read_pcm(tmp_path / "text.wav", 16_000)


def test_a_missing_library_is_answered_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "opuslib_next", None)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioMissingError, match=r"pip install 'vrelay\[audio\]'"):
        Encoder()
    (tmp_path / "a.opus").write_bytes(b"OggS")
    with pytest.raises(AudioMissingError, match="av"):
        read_pcm(tmp_path / "a.opus", 16_000)
