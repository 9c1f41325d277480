"""The TURN engine as fuzz targets: whatever strangers and users send it, on simulated time.

Each docstring is the invariant that a finding would break. A rig is used again until an input ends it.
"""

from __future__ import annotations

import hmac

import turnrig
from fuzz import Target
from golden import load
from relay.core import turn_events
from relay.protocol.address import Address

LIFE = 500  # inputs that one rig sees


def _turn_rig() -> tuple[turnrig.Rig, list[turnrig.TurnClient]]:
    """A user who holds nothing, and one who holds an allocation."""
    rig = turnrig.Rig(turnrig.config(open_binding=True, unproven_per_source_per_s=1000))
    clients = [rig.client(), rig.client(transport="tcp")]
    clients[1].allocate()
    clients[0].challenged()
    return rig, clients


class Reused:
    """The rig, made anew after `LIFE` inputs, or when `drop` was called."""

    def __init__(self) -> None:
        self._made: tuple[turnrig.Rig, list[turnrig.TurnClient]] | None = None
        self._uses = 0

    def get(self) -> tuple[turnrig.Rig, list[turnrig.TurnClient]]:
        self._uses += 1
        if self._made is None or self._uses > LIFE:
            self._made, self._uses = _turn_rig(), 0
        return self._made

    def drop(self) -> None:
        self._made = None


_TURNS = Reused()


def ask_turn(data: bytes) -> None:
    """A stranger's packet gets at most twice its bytes (2.2 for a Binding), and leaves no allocation."""
    rig, _ = _TURNS.get()
    via = turn_events.Via("udp", Address("6.6.6.6", 6), 1)
    before = sum(map(len, rig.answers.get(via, [])))
    known = rig.engine.allocations
    rig.feed(turn_events.ClientPacket(via, data))
    rig.run(0.01)
    assert sum(map(len, rig.answers.get(via, []))) - before <= 2.2 * len(data)
    assert rig.engine.allocations == known


def use_turn(data: bytes) -> None:
    """Any attributes under right credentials are answered, and charges equal allocations."""
    rig, clients = _TURNS.get()
    if len(data) < 2:
        return
    client = clients[data[0] & 1]
    method = (1, 3, 4, 6, 7, 8, 9, 0xFFF)[data[0] >> 1 & 7]
    known = client.written(method, [])
    front = bytearray(known[:20] + data[1 : 1 + (len(data) - 1 & ~3)] + known[20:-24])
    front[2:4] = (len(front) + 4).to_bytes(2, "big")
    mac = hmac.digest(client.key, bytes(front), "sha1")
    rig.feed(turn_events.ClientPacket(client.via, bytes(front) + b"\0\x08\0\x14" + mac))
    rig.run(0.01)
    rig.check()
    if client.via not in rig.engine.relays.by_via and data[0] & 1:
        _TURNS.drop()


_TURN_ROWS = load("stun")["messages"] + load("turn")["indications"] + load("turn")["refused_indications"]
_TURN_PACKETS = [bytes.fromhex(row["message"]) for row in _TURN_ROWS]
_TURN_BODIES = [
    bytes((kind,)) + body
    for kind in range(16)
    for body in (
        bytes.fromhex("0019000411000000"),
        bytes.fromhex("0019000411000000000d000400000258"),
        bytes.fromhex("000d000400000000"),
        bytes.fromhex("001200080001211ba9120c4a"),
        bytes.fromhex("000c000440000000001200080001211ba9120c4a"),
        bytes.fromhex("00170004020000000018000180000000"),
    )
]


TARGETS = [
    Target("turn-stranger", ask_turn, _TURN_PACKETS),
    Target("turn-user", use_turn, _TURN_BODIES),
]
