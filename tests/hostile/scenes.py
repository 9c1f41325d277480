"""Stages on which hostile inputs are acted out: a whole node on simulated time, and clients that misbehave.

    Stage     a node as the daemon builds it (engine, lane, endpoint, driver), its loop and its one socket
    Visitor   a stock aioquic client on it, which can also send packets with frames of the attacker's choice

Must never live here: a hostile input, or what must become of it (table_*.py).
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any, cast

from aioquic import tls

from pair import CLUSTER, ISSUER, WALL
from quicnet import Air, Client
from quicpair import shared_configuration
from relay.config import Config, LimitsConfig, NodeConfig
from relay.core.reasons import DropReason
from relay.edge.assembly import Node, NodeKeys
from relay.protocol import signed
from relay.protocol.cid import CidCodec
from relay.protocol.demux import QUIC_V1
from relay.protocol.keys import ClusterKey

STRANGER = ("192.0.2.7", 5000)
CLUSTER_KEY = ClusterKey(bytes(range(96, 128)))
PUBLIC = signed.public_of(ISSUER)


class Stage(Air):
    """One node without a network: packets are handed in, what it sends is kept or carried to visitors."""

    def __init__(self, *, limits: dict[str, Any] | None = None, lane: str = "python") -> None:
        super().__init__()
        self.is_deaf = False  # packets of the clients are lost, but for first ones
        self.config = Config(
            node=NodeConfig(cluster=CLUSTER),
            limits=replace(LimitsConfig(), **limits or {}),
            lane=cast(Any, lane),
        )
        self.node = Node(
            self.config,
            NodeKeys([CLUSTER_KEY], {signed.kid_of(PUBLIC): PUBLIC}),
            shared_configuration(),
            self,
            self,
            clock=lambda: self.now,
            wall=lambda: WALL + self.now,
            draw=random.Random(3).randbytes,
        )
        self.endpoint = self.node.endpoint
        self.endpoint.attach_socket(cast(Any, self))
        self.lane = self.node.lane

    # ------------------------------------------------------------ sinks of the node

    def record(self, record: object) -> None: ...

    def rated(self, rated: object) -> None: ...

    def event(self, event: object) -> None: ...

    def stopped(self) -> None: ...

    # ------------------------------------------------------------ packets

    def arrive(self, data: bytes, addr: Any = STRANGER) -> None:
        """One UDP packet for the node, now."""
        if self.is_deaf and self.endpoint.udp_in:
            return
        super().arrive(data, addr)

    def verdict(self, data: bytes, addr: Any = STRANGER) -> list[str | DropReason]:
        """What the endpoint counted for one packet: names of what it did, and reasons of drops."""
        before = Counter(self.endpoint.handled), Counter(self.endpoint.dropped)
        self.arrive(data, addr)
        if self.endpoint.dropped == before[1]:  # not refused at the door
            self.run(0.0)
        handled = self.endpoint.handled - before[0]
        dropped = self.endpoint.dropped - before[1]
        return [*handled, *dropped]

    def visit(self, port: int = 1001, *, datagrams: bool = True, alpn: str = "vrl/1") -> Visitor:
        """A stock client that has finished its handshake, or has learned why it cannot."""
        visitor = Visitor(self, port, datagrams=datagrams, alpn=alpn)
        self.run(1.0)
        return visitor


class Visitor(Client):
    """A stock QUIC client; `inject` sends frames that a stock client never would."""

    @property
    def closed(self) -> int | None:
        """The code that the node's CONNECTION_CLOSE told us, at once; its event waits for three timeouts."""
        event = self.quic._close_event
        return None if event is None else event.error_code

    def packet(self, payload: bytes, *, reserved: int = 0) -> bytes:
        """A 1-RTT packet under this connection's real keys with any payload at all."""
        pair = self.quic._cryptos[tls.Epoch.ONE_RTT]
        number = self.quic._packet_number
        self.quic._packet_number += 1
        first = 0x43 | pair.key_phase << 2 | reserved << 3
        header = bytes((first,)) + self.quic._peer_cid.cid + number.to_bytes(4, "big")
        return bytes(pair.encrypt_packet(header, payload, number))

    def inject(self, payload: bytes, *, reserved: int = 0) -> None:
        """Send such a packet, unless we were thrown out before, and let the answer come."""
        stage = self.network
        if self.closed is not None:
            return
        stage.arrive(self.packet(payload, reserved=reserved), self.addr)
        stage.run(0.1)


def initial(
    *,
    version: int = QUIC_V1,
    dcid: bytes = b"destined",
    scid: bytes = b"source",
    token: bytes = b"",
    kind: int = 0,
    first: int | None = None,
    size: int = 1200,
) -> bytes:
    """A long-header packet of `size` bytes that claims to be a first one."""
    head = bytes((0xC0 | kind << 4 if first is None else first,)) + version.to_bytes(4, "big")
    head += bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
    if kind == 0:
        head += (0x4000 | len(token)).to_bytes(2, "big") + token
    rest = max(size - len(head) - 2, 0)
    return (head + (0x4000 | rest).to_bytes(2, "big") + bytes(rest))[:size]


def foreign_id(server_id: bytes, key: bytes | None = None) -> bytes:
    """A connection id as `server_id` of our cluster (or of another, with `key`) would issue it."""
    codec = CidCodec(key or CLUSTER_KEY.derive("cid"), server_id)
    made = (codec.encode(number.to_bytes(4, "big")) for number in itertools.count())
    return next(cid for cid in made if cid is not None)
