"""How it sounds: real speech through encoder, sealing, jitter buffer and decoder, on a simulated clock."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest

from relay.client.audio import Decoder, Encoder, opus_ticks, read_pcm
from relay.client.jitter import Conceal, JitterBuffer

SPEECH = Path(__file__).parents[2] / ".cache" / "speech"
RATE = 16_000
STEP = RATE // 50 * 2


def through(pcm: bytes, jitter_ms: float, loss: float, seed: int = 1) -> bytes:
    """PCM as heard: constant delay plus uniform jitter, independent loss."""
    draw = random.Random(seed)
    encoder, decoder, buffer = Encoder(RATE), Decoder(RATE), JitterBuffer()
    arrivals = []
    for n, at in enumerate(range(0, len(pcm) - STEP + 1, STEP)):
        packet = encoder.encode(pcm[at : at + STEP])
        if draw.random() >= loss:
            arrivals.append((n * 0.020 + draw.random() * jitter_ms / 1000, n, packet))
    arrivals.sort()
    out, silent = b"", bytes(STEP)
    for step in range(len(pcm) // STEP + 10):
        now = step * 0.020 + 0.0199
        while arrivals and arrivals[0][0] <= now:
            at, n, packet = arrivals.pop(0)
            buffer.push(n * 8 % 65536, opus_ticks(packet), packet, at)
        item = buffer.pull(now)
        if isinstance(item, bytes):
            out += decoder.decode(item)
        else:
            out += decoder.conceal() if item is Conceal.STEP else silent
    return out


def score(reference: bytes, heard: bytes) -> float:
    numpy, pesq = pytest.importorskip("numpy"), pytest.importorskip("pesq")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pesq's own, about its compiled part
        value: float = pesq.pesq(
            RATE, numpy.frombuffer(reference, "<i2"), numpy.frombuffer(heard, "<i2"), "wb"
        )
    return value


@pytest.fixture(scope="module", params=["one", "two", "three", "four"])
def speech(request: pytest.FixtureRequest) -> bytes:
    path = SPEECH / f"{request.param}.wav"
    if not path.exists():
        pytest.skip("no speech clips: run scripts/speech")
    return read_pcm(path, RATE)


def test_a_clean_network_costs_what_the_codec_costs(speech: bytes) -> None:
    assert score(speech, through(speech, jitter_ms=0, loss=0)) >= 4.0


def test_jitter_within_the_target_costs_nothing_more(speech: bytes) -> None:
    assert score(speech, through(speech, jitter_ms=15, loss=0)) >= 4.0


def test_scattered_loss_is_concealed_not_silenced(speech: bytes) -> None:
    assert score(speech, through(speech, jitter_ms=0, loss=0.02)) >= 2.5
