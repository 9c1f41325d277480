"""A client's media on its way to a relay over a network of `impair`, on a simulated clock.

The SDK's transport and its QUIC, and the relay's end of the connection by the plain lane's path: real
packets, acknowledged as a relay does. Must never live here: what should come of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from impair import Link, Net
from quicpair import CLIENT, SERVER, QuicPair
from relay.client.transport import Transport
from relay.client.udp import UdpPort
from relay.protocol import media
from relay.protocol.address import Address
from relay.quic.acks import AUDIO_ACK_HOLD
from relay.quic.connection import ClientQuic

STEP_S = 0.001
PACKET_S = 0.020
VOICE = 80


class _Ears:
    def on_stream(self, data: bytes) -> None:
        """Nobody talks."""

    def on_datagram(self, data: bytes) -> None:
        """Nobody talks."""

    def on_closed(self, code: int, reason: str) -> None:
        """Never."""


class _Port(UdpPort):
    """Where packets leave for the network."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def share(self) -> UdpPort:
        return self

    def send(self, data: bytes, address: Any) -> None:
        self._scene.leave(data)


@dataclass
class Arrived:
    """What the relay made of it."""

    sent: int = 0
    times: dict[int, float] = field(default_factory=dict)  # of each counter: later than by the fastest way, s
    bytes: int = 0  # of UDP packets to the relay
    repeated: int = 0
    again: int = 0  # datagrams that came twice or more

    def missed(self, within: float = 0.130) -> float:
        """Share that was not there in time."""
        return 1 - sum(late <= within for late in self.times.values()) / self.sent


class Scene:
    """Speech of 20 ms packets for some seconds; `answers`: somebody speaks the other way, too."""

    def __init__(
        self, net: Net, rtt_ms: float = 40.0, *, repairs: bool = True, answers: bool = False
    ) -> None:
        self.pair = QuicPair(client=ClientQuic)
        self.now = self.pair.now
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]  # the clock of the scene
        client = self.pair.client
        assert isinstance(client, ClientQuic)
        self.quic = client
        self.up: Link[bytes] = Link(replace(net, delay=net.delay + rtt_ms / 2), seed=5)
        self.down: Link[bytes] = Link(Net(delay=rtt_ms / 2), seed=6)
        self.transport = Transport(client, Address(*SERVER), _Ears(), _Port(self))
        client.hold_acks(AUDIO_ACK_HOLD)
        if repairs:
            self.transport.repair(10e6, 10e3)
        self.answers = answers
        self._least = net.delay / 1000 + rtt_ms / 2000
        self.arrived = Arrived()
        self._spoken: dict[int, float] = {}

    def leave(self, data: bytes) -> None:
        """A packet of the client's."""
        self.arrived.bytes += len(data)
        self.up.send(data, len(data), self.now)

    def run(self, seconds: float) -> Arrived:
        """So much speech, and a second for what is under way."""
        begin, ctr = self.now, 0
        while self.now < begin + seconds + 1.0:
            self.now += STEP_S
            self.pair.now = self.now
            if self.now < begin + seconds and self.now >= begin + ctr * PACKET_S:
                self._spoken[ctr] = self.now
                self.arrived.sent += 1
                self.transport.send(media.encode_header(4, 0, ctr) + bytes(VOICE))
                if self.answers:
                    self.pair.path.confirmed = True
                    self._answer([bytes([9]) * VOICE])
                ctr += 1
            self._step()
        self.arrived.repeated = self.transport.repeated
        return self.arrived

    def _step(self) -> None:
        for data in self.up.due(self.now):
            before = len(self.pair.media)
            self.pair.arrive(data, CLIENT)
            for payload in self.pair.media[before:]:
                self._hear(payload)
        path = self.pair.path
        if path.ack_due is not None and path.ack_due <= self.now:
            self._answer([])
        for data, _ in self.pair.connected().datagrams_to_send(self.now):
            self.down.send(data, len(data), self.now)
        for data in self.down.due(self.now):
            self.transport.receive(data)
        if self.transport._timer is not None and self.transport._timer.when() <= self.now:
            self.transport._timer.cancel()
            self.transport._on_timer()

    def _answer(self, datagrams: list[bytes]) -> None:
        packet = self.pair.path.seal(datagrams, self.now)
        if packet:
            self.down.send(packet, len(packet), self.now)

    def _hear(self, payload: bytes) -> None:
        ctr = media.decode(payload).ctr
        if ctr in self.arrived.times:
            self.arrived.again += 1
        else:
            self.arrived.times[ctr] = self.now - self._spoken[ctr] - self._least
