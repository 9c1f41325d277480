"""Bare endpoints on one simulated network, which dial each other as nodes do."""

from __future__ import annotations

import heapq
import itertools
import random
import socket
from collections.abc import Callable
from typing import Any, cast

from lanes import make_lane
from quicnet import DELAY, Handle
from quicpair import shared_configuration
from relay.config import LimitsConfig
from relay.edge.endpoint import Endpoint
from relay.edge.front import AddressTokens, Front
from relay.edge.ids import ConnectionIds
from relay.edge.trunks import Far, Trunks
from relay.protocol import signed, trunk_proof
from relay.protocol.address import Address
from relay.protocol.cid import CidCodec

SEEDS = {"fra-1": bytes(range(32)), "iad-1": bytes(range(32, 64)), "sin-1": bytes(range(64, 96))}
PLACES = {"fra-1": ("192.0.2.10", 443), "iad-1": ("192.0.2.20", 443), "sin-1": ("192.0.2.30", 443)}
NOWHERE = ("192.0.2.99", 443)


def pin(node: str) -> bytes:
    """Of a node's key."""
    return trunk_proof.pin_of(signed.public_of(SEEDS[node]))


def fars() -> dict[str, Far]:
    """All nodes, as each is configured."""
    return {node: Far(Address(*PLACES[node]), frozenset({pin(node)})) for node in SEEDS}


class Sky:
    """Loop and clock of all, and what is under way between them. `run` lets simulated time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stations: dict[tuple[str, int], Station] = {}
        self.is_lost: Callable[[bytes], bool] = lambda data: False
        self._events: list[tuple[float, int, Handle]] = []
        self._count = itertools.count()

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        handle = Handle(callback)
        heapq.heappush(self._events, (when, next(self._count), handle))
        return handle

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_at(self.now, callback)

    def carry(self, data: bytes, source: tuple[str, int], to: tuple[str, int]) -> None:
        station = self.stations.get(to)
        if station is not None and not self.is_lost(data):
            self.call_at(self.now + DELAY, lambda: station.endpoint.receive(data, source, 0, self.now))

    def run(self, seconds: float) -> None:
        """Let time pass; at its end every packet is accounted for."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, handle = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if handle.callback is not None:
                handle.callback()
        self.now = end
        for station in self.stations.values():
            assert station.endpoint.imbalance() == 0
            assert station.endpoint.internal_errors == 0


class Station:
    """A node's endpoint, its socket, and the facts that it tells."""

    def __init__(
        self,
        sky: Sky,
        node: str,
        lane: str = "python",
        *,
        limits: LimitsConfig | None = None,
        has_trunks: bool = True,
        generation: int | None = None,
    ) -> None:
        self.sky, self.node, self.address = sky, node, PLACES[node]
        limits = limits or LimitsConfig()
        number = sorted(SEEDS).index(node) + 1
        server_id = bytes((0, number, 0))
        rng = random.Random(number)
        codec = CidCodec(b"k" * 16, server_id)
        ids = ConnectionIds(codec, b"r" * 32, 0, generation)
        self.lane = make_lane(lane, limits)
        self.endpoint = Endpoint(
            sky,
            limits,
            shared_configuration(),
            front=Front(
                limits,
                tokens=AddressTokens([bytes(32)], 10.0, rng.randbytes),
                ids=codec,
                server_id=server_id,
                reset_token=ids.reset_token,
                draw=rng.randbytes,
            ),
            issue=ids.issue,
            lane=self.lane,
            clock=lambda: sky.now,
            wall=lambda: 1_800_000_000.0 + sky.now,
        )
        self.endpoint.attach(self)
        self.endpoint.attach_socket(cast(socket.socket, self))
        if has_trunks:
            self.endpoint.trunks = Trunks(SEEDS[node], fars())
        sky.stations[self.address] = self
        self.facts: list[tuple[Any, ...]] = []

    # the socket
    def sendto(self, data: bytes, to: tuple[str, int]) -> None:
        self.sky.carry(data, self.address, to)

    def getsockname(self) -> tuple[str, int]:
        return self.address

    # the handler
    def opened(
        self, leg: int, address: Address, datagrams: bool, transport: str = "quic", carrier: object = None
    ) -> None:
        self.facts.append(("opened", leg))

    def trunk_opened(self, leg: int, key: bytes | None, largest: int) -> None:
        self.facts.append(("trunk", leg, key, largest))

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        self.facts.append(("stream", leg, data))

    def datagram(self, leg: int, data: bytes) -> None:
        self.facts.append(("datagram", leg, data))

    def gap(self, leg: int, flow: int, kid: int, newest: int, missing: int) -> None:
        self.facts.append(("gap", leg))

    def moved(self, leg: int, address: Address) -> None:
        self.facts.append(("moved", leg))

    def lost(self, leg: int, code: int) -> None:
        self.facts.append(("lost", leg, code))
        self.lane.close_leg(leg)

    # for tests
    def told(self, kind: str) -> list[tuple[Any, ...]]:
        """Facts of a kind, without its name."""
        return [fact[1:] for fact in self.facts if fact[0] == kind]

    def dial(self, node: str) -> int:
        """Dial now; the leg."""
        leg = self.endpoint.dial(node)
        assert leg is not None
        self.endpoint.transmit_dirty()
        return leg

    def say(self, leg: int, data: bytes) -> None:
        """On the control stream."""
        self.endpoint.send_stream(leg, data)
        self.endpoint.transmit_dirty()

    def heard(self) -> bytes:
        """All that came on control streams."""
        return b"".join(data for _, data in self.told("stream"))
