"""The part of a generated life that is TURN's: allocations, what they allow, packets of clients and of peers.

Two hosts hold relayed addresses and three hold peers, so that who is permitted, bound, inside the node or
nobody changes all the time. Must never live here: what the right output is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from relay.edge.lane import Lane
from relay.protocol.relayed import PeerAddress, encode_channel_data, encode_data_indication

MOST = 6
HOSTS = (
    "198.51.100.1",
    "198.51.100.2",
    "203.0.113.1",
    "2001:db8:5::1",
    "2001:db8:6::1",
)  # of peers; the third and the last hold relayed addresses
PORTS = (1000, 2000, 50000, 50001)
CHANNELS = (0x4000, 0x4001, 0x4FFF)


class Arena(Protocol):
    """What of the duel this part needs."""

    rng: random.Random
    now: float

    def both(self, what: str, act: Callable[[Lane], Any]) -> Any: ...


def packed(host: str) -> bytes:
    from ipaddress import ip_address

    return ip_address(host).packed


class TurnLife:
    """Acts on the lanes of a duel."""

    def __init__(self, duel: Arena) -> None:
        self.duel = duel
        self.rng = duel.rng
        self.serial = 0
        self.alive: dict[int, tuple[Any, int] | None] = {}
        self.acts: list[tuple[int, Callable[[], None]]] = [
            (2, self.allocate),
            (1, self.release),
            (7, self.permit),
            (1, self.forbid),
            (6, self.bind),
            (1, self.unbind),
            (10, self.channel_data),
            (8, self.send_indication),
            (12, self.from_peer),
            (6, self.on_stream),
            (4, self.stun),
            (2, self.to_peers),
            (1, self.switch),
        ]

    def host_and_port(self) -> Any:
        host = self.rng.choice(HOSTS)
        port = self.rng.choice(PORTS)
        return (host, port) if ":" not in host else (host, port, 0, 0)

    def client(self) -> Any:
        port = self.rng.choice((5000, 5001, 5002))
        return ("192.0.2.7", port) if self.rng.random() < 0.7 else ("2001:db8::7", port, 0, 0)

    def some(self) -> int:
        """The number of an allocation; now and then there is none of that number."""
        if not self.alive or self.rng.random() < 0.02:
            return 999
        return self.rng.choice(list(self.alive))

    def until(self) -> float:
        return self.duel.now + self.rng.choice((0.0, 0.01, 0.3, 2.0, 300.0, 300.0, 300.0))

    def allocate(self) -> None:
        if len(self.alive) >= MOST:
            self.release()
        self.serial += 1
        number = self.serial if self.rng.random() < 0.95 else self.some()
        host = self.rng.choice((HOSTS[2], HOSTS[4]))
        port = self.rng.choice(PORTS)
        relayed: Any = (host, port) if ":" not in host else (host, port, 0, 0)
        rights = {
            "fd": -1,
            "pps": self.rng.choice((10, 100, 10_000)),
            "bps": self.rng.choice((8_000, 1_000_000, 10**9)),
        }
        client, sock = self.client(), self.rng.choice((0, 0, 1))
        if self.rng.random() < 0.3:
            act = lambda lane: lane.open_relay_stream(number, relayed=relayed, **rights)  # noqa: E731  # one of two
            owner = None
        else:
            act = lambda lane: lane.open_relay(number, client, sock, relayed=relayed, **rights)  # noqa: E731  # as above
            owner = client, sock
        if self.duel.both("open_relay", act) is None:
            self.alive[number] = owner

    def release(self) -> None:
        number = self.some()
        self.alive.pop(number, None)
        self.duel.both("close_relay", lambda lane: lane.close_relay(number))

    def permit(self) -> None:
        number, until = self.some(), self.until()
        for host in self.rng.sample(HOSTS, self.rng.randrange(1, 5)):
            ip = packed(host)
            self.duel.both("permit", lambda lane, ip=ip: lane.permit(number, ip, until))

    def forbid(self) -> None:
        number, ip = self.some(), packed(self.rng.choice(HOSTS))
        self.duel.both("forbid", lambda lane: lane.forbid(number, ip))

    def bind(self) -> None:
        number, channel, peer = self.some(), self.rng.choice(CHANNELS), self.host_and_port()
        until = self.until()
        self.duel.both("bind_channel", lambda lane: lane.bind_channel(number, channel, peer, until))

    def unbind(self) -> None:
        number, channel = self.some(), self.rng.choice(CHANNELS)
        self.duel.both("unbind_channel", lambda lane: lane.unbind_channel(number, channel))

    # ------------------------------------------------------------ messages

    def payload(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 2, 3, 20, 160, 1200, 1999)))

    def _channel_data(self) -> bytes:
        channel = self.rng.choice((*CHANNELS, 0x4002, 0x5000))
        data = encode_channel_data(channel, self.payload(), is_stream=self.rng.random() < 0.5)
        return self._damaged(data)

    def _send_indication(self) -> bytes:
        host, port = self.host_and_port()[:2]
        data = encode_data_indication(
            self.rng.getrandbits(64), PeerAddress(packed(host), port), self.payload()
        )
        body = data[20:]
        more = (
            b"",
            b"",
            b"",
            b"\x80\x22\0\1a\0\0\0",
            b"\0\x1a\0\0",
            b"\0\x08\0\x04abcd",
            body,
            b"\0\x13\0\0",
        )
        extra = self.rng.choice(more)
        body = extra + body if self.rng.random() < 0.5 else body + extra
        head = b"\0\x16" + (len(body) & 0xFFFF).to_bytes(2, "big") + data[4:20]
        return self._damaged(head + body)

    def _damaged(self, data: bytes) -> bytes:
        """For most as it is."""
        way = self.rng.random()
        if way > 0.1 or not data:
            return data
        if way < 0.05:
            return data[: self.rng.randrange(len(data))]
        place = self.rng.randrange(min(len(data), 40))
        return data[:place] + bytes((data[place] ^ 1 << self.rng.randrange(8),)) + data[place + 1 :]

    def _from_client(self, data: bytes) -> None:
        owners = [owner for owner in self.alive.values() if owner is not None]
        client, sock = (self.client(), 0)
        if owners and self.rng.random() < 0.9:
            client, sock = self.rng.choice(owners)
        now = self.duel.now
        self.duel.both("receive", lambda lane: lane.receive(data, client, sock, now))

    def channel_data(self) -> None:
        """ChannelData by UDP."""
        self._from_client(self._channel_data())

    def send_indication(self) -> None:
        """A Send indication by UDP."""
        self._from_client(self._send_indication())

    def stun(self) -> None:
        """Other STUN, of clients and of strangers, now and then much of it."""
        size = self.rng.choice((0, 0, 8, 40))
        kind = self.rng.choice((0x0001, 0x0003, 0x0004, 0x0011, 0x0017, 0x0111, 0x0300))
        data = kind.to_bytes(2, "big") + size.to_bytes(2, "big") + b"\x21\x12\xa4\x42"
        data = self._damaged(data + self.rng.randbytes(12 + size))
        for _ in range(self.rng.choice((1, 1, 1, 3, 40, 400))):
            self._from_client(data)

    def on_stream(self) -> None:
        """A message by TCP."""
        number, now = self.some(), self.duel.now
        frame = self._channel_data() if self.rng.random() < 0.5 else self._send_indication()
        self.duel.both("relay_from_client", lambda lane: lane.relay_from_client(number, frame, now))

    def from_peer(self) -> None:
        """Somebody sends to a relayed address, now and then in a burst."""
        number, peer, now = self.some(), self.host_and_port(), self.duel.now
        data = self.payload() if self.rng.random() < 0.95 else bytes(2049)
        for _ in range(self.rng.choice((1, 1, 1, 1, 5, 90))):
            self.duel.both("receive_relay", lambda lane: lane.receive_relay(number, data, peer, now))

    def to_peers(self) -> None:
        """What leaves by relayed addresses; the kernel refuses some."""
        for _ in self.duel.both("flush_relays", lambda lane: lane.flush_relays()):
            if self.rng.random() < 0.05:
                self.duel.both("unsent_to_peer", lambda lane: lane.unsent_to_peer())

    def switch(self) -> None:
        """STUN of strangers is for the loop, or is not."""
        on = self.rng.random() < 0.7
        front = {"accepting": True, "half_open": 0, "is_full": False}
        self.duel.both("tell_front", lambda lane: lane.tell_front(stun=on, **front))
