"""A call over a network that is away for a tenth of the time: what a listener misses with repair and without.

Real daemon, real clients, real time; the network is one of tests/impair.py, from a seed, on the way to the
listener.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.hearing import watched
from client.proxy import Proxy
from client.rig import Rig, daemon
from impair import NETS, Link, Net
from relay.client import Call, CallbackSink, ToneSource, connect

QUIET_S = 0.030  # a machine that holds nobody up for longer
LEARNING_S = 3.0  # until it is known what the network is like, and more is held
SPEECH_S = 12.0
REPEATS = "relay_repair_repeats_total"
ADAPTS = "[adapt]\nenabled = true"
LETS_BE = "[adapt]\nenabled = false"


class Impaired(Proxy):
    """Toward the client a network of `impair`, back a clear one; each way takes 20 ms."""

    def __init__(self, rig: Rig, net: Net) -> None:
        super().__init__(("127.0.0.1", int(rig.url.rpartition(":")[2])))
        self.delay = 0.02
        self.is_bad = False
        self._down: Link[tuple[bytes, Any]] = Link(net, seed=3)

    def from_relay(self, data: bytes, client: Any) -> None:
        if not self.is_bad:
            super().from_relay(data, client)
            return
        now = self._loop.time()
        self._down.send((data, client), len(data), now)
        for item in self._down.due(now):  # that network takes no time, this proxy does
            super().from_relay(*item)


@dataclass(frozen=True)
class Heard:
    lost: float  # share of what was sent
    concealed: int  # steps of 20 ms
    sent: int  # packets that the speaker made of it
    recovered: int
    repeats: float
    states: float  # that its way came into
    target_ms: float


async def listen(rig: Rig, net: Net) -> Heard:
    """What one hears of another who speaks for some seconds, once the network was bad for a while."""
    proxy = await Impaired(rig, net).open()
    call = os.urandom(16)

    async def join(stack: AsyncExitStack, who: int, url: str) -> Call:
        session = connect(url, token=rig.token(call, who), ca=rig.ca, server_name="localhost", direct=False)
        return await (await stack.enter_async_context(session)).join()

    try:
        async with AsyncExitStack() as stack:
            ann, bob = await join(stack, 1, rig.url), await join(stack, 2, proxy.url)
            await asyncio.gather(ann.accept(), bob.accept())
            await asyncio.gather(ann.peer_accepted(), bob.peer_accepted())
            proxy.is_bad = True
            listening = asyncio.create_task(bob.listen(CallbackSink(lambda _: None)))
            speaking = asyncio.create_task(ann.speak(ToneSource(440, SPEECH_S)))
            await asyncio.sleep(LEARNING_S)
            before = bob.stats()
            await speaking
            proxy.is_bad = False
            after = bob.stats()
            listening.cancel()
            lost, received = after.lost - before.lost, after.received - before.received
            return Heard(
                lost / (lost + received),
                after.concealed - before.concealed,
                ann.stats().sent,
                after.recovered,
                rig.metric(REPEATS),
                rig.metric("relay_legs_adapted_total"),
                after.jitter_target_ms,
            )
    finally:
        await proxy.close()


async def test_a_listener_behind_outages_misses_much_less_with_repair_and_one_without_costs_nothing(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / name for name in ("repaired", "plain", "clear")]
    for folder in folders:
        folder.mkdir()
    with (
        daemon(folders[0], more=ADAPTS) as repairing,
        daemon(folders[1], more=LETS_BE) as plain,
        daemon(folders[2], more=ADAPTS) as clear,
    ):
        async with watched() as held:
            repaired, missed, unharmed = await asyncio.gather(
                listen(repairing, NETS["b10_60"]), listen(plain, NETS["b10_60"]), listen(clear, NETS["clean"])
            )
    print(repaired, missed, unharmed, held, sep="\n")  # shown if it fails
    assert missed.lost > 0.05
    assert repaired.lost < missed.lost / 2
    assert repaired.concealed < missed.concealed
    assert repaired.recovered >= 10
    assert repaired.sent < 0.8 * missed.sent  # longer packets were asked for
    assert repaired.target_ms >= 120
    assert (missed.recovered, missed.repeats, missed.states) == (0, 0, 0)
    if held.worst < QUIET_S:
        assert (unharmed.lost, unharmed.repeats, unharmed.states) == (0, 0, 0)
    else:  # who was held up answers late, or speaks of what is old by then
        assert unharmed.lost <= 0.01
        assert unharmed.repeats <= 0.01 * unharmed.sent
