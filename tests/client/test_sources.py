"""Sources, sinks and the pacer: exact sizes, ends, and no drift."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import pytest

from relay.client.audio import silence, write_wav
from relay.client.sources import (
    CallbackSink,
    CallbackSource,
    Chunker,
    FileSource,
    Pacer,
    PcmSource,
    ToneSource,
    WavSink,
)
from relay.errors import LocalError


async def test_pcm_comes_in_whole_frames_and_ends() -> None:
    source = PcmSource(b"\1\0" * 400, 16_000)
    assert await source.read() == b"\1\0" * 320
    assert await source.read() == b"\1\0" * 80 + bytes(480)
    assert await source.read() is None
    assert await PcmSource(b"", repeat=True).read() is None


async def test_a_repeated_source_begins_again() -> None:
    source = PcmSource(b"\1\0" * 320 + b"\2\0" * 320, repeat=True)
    assert [((await source.read()) or b"")[0] for _ in range(5)] == [1, 2, 1, 2, 1]


async def test_a_tone_has_its_length_and_an_endless_one_has_no_seam() -> None:
    tone = ToneSource(440, 0.1)
    frames = [await tone.read() for _ in range(6)]
    assert frames[5] is None
    assert all(frame is not None and len(frame) == 640 for frame in frames[:5])
    endless = ToneSource(440)
    first = await endless.read()
    for _ in range(49):
        await endless.read()
    assert await endless.read() == first


async def test_a_callback_must_give_what_was_asked() -> None:
    async def pull(size: int) -> bytes | None:
        return sizes.pop(0)(size)

    sizes = [lambda size: bytes(size), lambda size: bytes(size - 1), lambda size: None]
    source = CallbackSource(pull)
    assert source.is_live
    assert await source.read() == bytes(640)
    with pytest.raises(LocalError):
        await source.read()
    assert await source.read() is None


async def test_a_wav_of_the_right_kind_needs_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    pcm = bytes(range(256)) * 5
    write_wav(tmp_path / "a.wav", pcm, 16_000)
    source = FileSource(tmp_path / "a.wav", 16_000)
    assert (await source.read() or b"") + (await source.read() or b"") == pcm


def test_sinks_take_what_they_get(tmp_path: Path) -> None:
    sink = WavSink(tmp_path / "b.wav", 16_000)
    sink.write(b"\1\0" * 320)
    sink.write(silence(16_000))
    sink.close()
    with wave.open(str(tmp_path / "b.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (16_000, 640)
    got: list[bytes] = []
    callback = CallbackSink(got.append)
    callback.write(b"x")
    callback.close()
    assert got == [b"x"]


def test_steps_are_cut_from_long_frames_and_filled_with_silence() -> None:
    chunker = Chunker(16_000)
    chunker.add(b"\1" * 1000)
    assert chunker.has_step
    assert chunker.step() == b"\1" * 640
    assert not chunker.has_step
    assert chunker.step() == b"\1" * 360 + bytes(280)
    assert chunker.step() == bytes(640)


def test_late_wake_ups_do_not_add_up() -> None:
    pacer = Pacer(10.0)
    for n in range(1000):
        assert pacer.deadline == pytest.approx(10.0 + n * 0.020)
        assert pacer.step(pacer.deadline + 0.007) == 0


def test_after_a_long_stop_the_missed_steps_are_left_out_not_hurried_through() -> None:
    pacer = Pacer(0.0)
    assert pacer.step(0.0) == 0
    assert pacer.step(5.04) == 250
    assert pacer.deadline == pytest.approx(5.04)
