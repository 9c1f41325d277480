"""Hostile packets for TURN's data path: what an allocation must make of each.

    Relayed   what a client or a stranger sends to an allocation of client 1, which may speak to one peer
              -> drop reason

Must never live here: how a row is acted out (test_turn_data.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from relay.core.reasons import DropReason
from relay.edge.lane import Lane
from relay.edge.relays import STREAM_QUEUE
from relay.protocol.relayed import PeerAddress, encode_channel_data, encode_data_indication

D = DropReason
NOW, UNTIL = 100.0, 400.0
CLIENT, PEER, DOOR = ("192.0.2.7", 5000), ("198.51.100.9", 7000), ("203.0.113.1", 50000)
STRANGER = ("198.51.100.66", 7000)
CHANNEL, PPS = 0x4001, 50
HOSTS = {
    "peer": bytes((198, 51, 100, 9)),
    "stranger": bytes((198, 51, 100, 66)),
    "ours": bytes((203, 0, 113, 1)),
}


class Relayed(NamedTuple):
    """`act` on a lane with allocation 1 (on a stream: 2); the one reason for which packets were dropped."""

    id: str
    act: Callable[[Lane], None]
    reason: DropReason


def channel(payload: bytes = b"x", number: int = CHANNEL) -> bytes:
    """ChannelData."""
    return encode_channel_data(number, payload, is_stream=False)


def send(host: str = "peer", port: int = 7000, extra: bytes = b"", cut: int = 0) -> bytes:
    """A Send indication, with more attributes or without the last bytes of its own."""
    data = encode_data_indication(1, PeerAddress(HOSTS[host], port), b"x")
    body = data[20 : len(data) - cut] + extra
    return b"\0\x16" + len(body).to_bytes(2, "big") + data[4:20] + body


def says(data: bytes, times: int = 1, now: float = NOW) -> Callable[[Lane], None]:
    """The client sends this."""

    def act(lane: Lane) -> None:
        for _ in range(times):
            lane.receive(data, CLIENT, 0, now)

    return act


def hears(
    size: int = 1, times: int = 1, who: tuple[str, int] = PEER, now: float = NOW, allocation: int = 1
) -> Callable[[Lane], None]:
    """Somebody sends to the relayed address."""

    def act(lane: Lane) -> None:
        for _ in range(times):
            lane.receive_relay(allocation, bytes(size), who, now)

    return act


def _forbidden(act: Callable[[Lane], None]) -> Callable[[Lane], None]:
    def both(lane: Lane) -> None:
        lane.forbid(1, HOSTS["peer"])
        act(lane)

    return both


def _closed_with_a_full_hand(lane: Lane) -> None:
    hears(allocation=2)(lane)
    lane.close_relay(2)


def _to_the_other(lane: Lane) -> None:
    lane.permit(1, HOSTS["ours"], UNTIL)
    says(send("ours", 50001))(lane)  # the other never allowed us


def _around_the_guard(lane: Lane) -> None:
    lane.permit(1, HOSTS["ours"], UNTIL)
    says(send("ours", 443))(lane)


RELAYED = [
    Relayed("a Send indication to nobody who was permitted", says(send("stranger")), D.NO_PERMISSION),
    Relayed("a Send indication after the permission ended", says(send(), now=UNTIL), D.NO_PERMISSION),
    Relayed("a Send indication to a peer forbidden since", _forbidden(says(send())), D.NO_PERMISSION),
    Relayed("a Send indication to another service of ours", _around_the_guard, D.NO_PERMISSION),
    Relayed("a packet to an allocation of ours that wants none", _to_the_other, D.NO_PERMISSION),
    Relayed("a packet of a peer that was never permitted", hears(who=STRANGER), D.NO_PERMISSION),
    Relayed("a packet of a peer after the permission ended", hears(now=UNTIL), D.NO_PERMISSION),
    Relayed(
        "forged packets without end at a relayed address", hears(times=99, who=STRANGER), D.NO_PERMISSION
    ),
    Relayed("ChannelData by a number that was never bound", says(channel(number=0x4002)), D.NO_CHANNEL),
    Relayed("ChannelData after the channel ended", says(channel(), now=UNTIL), D.NO_CHANNEL),
    Relayed("ChannelData to a peer that was forbidden since", _forbidden(says(channel())), D.NO_CHANNEL),
    Relayed("a Send indication without payload", says(send(cut=8)), D.MALFORMED),
    Relayed("a Send indication that is empty", says(send(cut=20)), D.MALFORMED),
    Relayed("a Send indication to port 0", says(send(port=0)), D.MALFORMED),
    Relayed("a Send indication with DONT-FRAGMENT", says(send(extra=b"\0\x1a\0\0")), D.MALFORMED),
    Relayed("a Send indication with a token for TCP", says(send(extra=b"\0\x2a\0\4abcd")), D.MALFORMED),
    Relayed("an attribute longer than its message", says(send(extra=b"\x80\x22\x00\x09")), D.MALFORMED),
    Relayed("more packets at once than allowed", says(channel(), PPS // 5 + 1), D.OVER_BUDGET),
    Relayed("a peer that sends more than allowed", hears(times=PPS // 5 + 1), D.OVER_BUDGET),
    Relayed("more bytes at once than allowed", says(channel(bytes(2000)), 3), D.OVER_BUDGET),
    Relayed("a packet over 2048 bytes of a peer", hears(2049), D.TOO_LARGE),
    Relayed("a stream that takes nothing", hears(times=STREAM_QUEUE + 1, allocation=2), D.QUEUE_FULL),
    Relayed("a stream that ends with packets waiting", _closed_with_a_full_hand, D.PEER_GONE),
]
