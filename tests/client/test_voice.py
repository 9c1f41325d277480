"""Packets of one to three steps, each when its last step is there, on a media clock without holes."""

from __future__ import annotations

import asyncio

from client.test_agreement import agreed
from relay.client.audio import opus_ticks
from relay.client.sources import PcmSource
from relay.client.voice import Speaker

RATE = 16_000
STEP = bytes(2 * RATE // 50)


class Live(PcmSource):
    """Gives what it has at once."""

    is_live = True


async def spoken(steps: list[int], count: int) -> list[tuple[int, int]]:
    """Time stamp and length of each packet, ticks; `steps` are asked for one after the other."""
    speaker = Speaker(Live(STEP * count, RATE), agreed()[0], asyncio.get_running_loop().time())
    wanted = iter(steps)
    heard = []
    speaker.steps = next(wanted)
    async for frame in speaker.frames():
        heard.append((frame.ts, opus_ticks(frame.body)))
        speaker.steps = next(wanted, speaker.steps)
    first = heard[0][0]  # the clock began before
    return [(ts - first, ticks) for ts, ticks in heard]


async def test_the_length_of_packets_changes_with_the_next_one() -> None:
    assert await spoken([1, 3, 2, 1, 1], 8) == [(0, 8), (8, 24), (32, 16), (48, 8), (56, 8)]


async def test_what_is_left_at_the_end_is_sent_as_it_is() -> None:
    assert await spoken([3], 5) == [(0, 24), (24, 16)]


async def test_after_a_stall_a_packet_does_not_span_it() -> None:
    class Stalling(Live):
        async def read(self) -> bytes | None:
            pcm = await super().read()
            if self._at == 2 * len(STEP):
                await asyncio.sleep(0.4)
            return pcm

    loop = asyncio.get_running_loop()
    speaker = Speaker(Stalling(STEP * 6, RATE), agreed()[0], loop.time())
    speaker.steps = 3
    heard = [(frame.ts, opus_ticks(frame.body)) async for frame in speaker.frames()]
    assert heard[1][0] - heard[0][0] >= 16 + 8 * 10
    assert [ticks for _, ticks in heard] == [16, 24, 8]
