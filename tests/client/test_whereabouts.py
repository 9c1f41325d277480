"""A peer whose NAT gave it another port in mid-connection, for both of QUIC's roles."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.client import pinned
from relay.client.transport import Transport
from relay.client.udp import UdpPort
from relay.client.whereabouts import Whereabouts
from relay.errors import ErrorCode
from relay.protocol.address import Address

NEAR, OLD, NEW, OTHER = (Address("192.0.2.1", port) for port in (1, 2, 3, 4))


class Wire(UdpPort):
    """A port at one end of a wire without loss or delay; the other end sees it at an address we choose."""

    def __init__(self, seen_as: Address) -> None:
        super().__init__()
        self.seen_as = seen_as
        self.other: Wire | None = None
        self.moved: list[bool] = []
        self.sent: list[tuple[bytes, Address]] = []

    def send(self, data: bytes, peer: Address) -> None:
        self.sent.append((data, peer))
        if self.other is not None and peer == self.other.seen_as:
            asyncio.get_running_loop().call_soon(self.other.arrive, data, self.seen_as)

    def arrive(self, data: bytes, source: Address) -> None:
        known = self._receivers.get(source)
        if known is not None:
            known(data)
        elif self.on_stranger is not None:
            self.on_stranger(data, source)


class Ears:
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def on_stream(self, data: bytes) -> None: ...

    def on_datagram(self, data: bytes) -> None:
        self.heard.append(data)

    def on_closed(self, code: int, reason: str) -> None: ...


class Pair:
    """The stable end, and the one that will move; which of them is QUIC's client is the test's choice."""

    def __init__(self) -> None:
        self.wires = (Wire(NEAR), Wire(OLD))
        self.wires[0].other, self.wires[1].other = self.wires[1], self.wires[0]
        self.ears = (Ears(), Ears())
        self.ends: list[Transport] = []

    async def meet(self, *, mover_serves: bool) -> None:
        identity = pinned.make_identity()
        opens = 0 if mover_serves else 1
        serving: asyncio.Future[Transport] = asyncio.get_running_loop().create_future()
        tasks: list[Any] = []

        def first(data: bytes, source: Address) -> None:
            if serving.done():
                return
            quic = pinned.server(identity, data)
            assert quic is not None
            served = Transport(quic, source, self.ears[1 - opens], self.wires[1 - opens])
            serving.set_result(served)
            tasks.append(asyncio.ensure_future(served.accept(data)))

        self.wires[1 - opens].on_stranger = first
        opened = Transport(
            pinned.client(identity.der),
            OLD if mover_serves else NEAR,
            self.ears[opens],
            self.wires[opens],
            follows=True,
        )
        await opened.open()
        served = await serving
        await asyncio.gather(*tasks)
        self.ends = [opened, served] if mover_serves else [served, opened]
        self.wires[0].on_stranger = lambda data, source: self.wires[0].moved.append(
            self.ends[0].receive(data, source)
        )
        self.wires[1].on_stranger = None
        await self.settle()

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    def close(self) -> None:
        for end in self.ends:
            end.close(ErrorCode.NO_ERROR)


@pytest.mark.parametrize("mover_serves", [False, True], ids=["client", "server"])
async def test_who_gets_another_port_is_followed_at_the_first_packet_from_there(
    mover_serves: bool,
) -> None:
    pair = Pair()
    await pair.meet(mover_serves=mover_serves)
    stable, mover = pair.ends
    pair.wires[1].seen_as = NEW  # what goes to the old port is lost
    stable.send(b"\1lost")
    mover.send(b"\1here")
    await pair.settle()
    assert pair.wires[0].moved.count(True) == 1  # told once; an acknowledgement alone tells nothing
    stable.send(b"\1there")
    await pair.settle()
    assert pair.ears[0].heard == [b"\1here"]
    assert pair.ears[1].heard == [b"\1there"]
    pair.close()


async def test_a_copy_of_a_packet_or_noise_from_elsewhere_leads_nobody_astray() -> None:
    pair = Pair()
    await pair.meet(mover_serves=True)
    stable, mover = pair.ends
    mover.send(b"\1one")
    await pair.settle()
    copy = pair.wires[1].sent[-1][0]
    for data in (copy, b"\x40" + bytes(60), bytes(30)):
        assert not stable.receive(data, OTHER)
    stable.send(b"\1two")
    await pair.settle()
    assert pair.ears[1].heard == [b"\1two"]
    assert OTHER not in {address for _, address in pair.wires[0].sent}
    pair.close()


async def test_a_new_place_gets_three_times_what_came_from_there_until_it_answers() -> None:
    pair = Pair()
    await pair.meet(mover_serves=True)
    stable, mover = pair.ends
    pair.wires[1].seen_as = NEW
    pair.wires[1].other = None  # it says one thing and is silent then
    mover.send(b"\1here" + bytes(60))
    came = pair.wires[1].sent[-1][0]
    assert stable.receive(came, NEW)
    for n in range(50):
        stable.send(b"\1" + bytes([n]) + bytes(100))
    there = [len(data) for data, address in pair.wires[0].sent if address == NEW]
    assert 0 < sum(there) <= 3 * len(came)
    stable.on_proven()
    for n in range(50):
        stable.send(b"\1" + bytes([n]) + bytes(100))
    assert sum(len(data) for data, address in pair.wires[0].sent if address == NEW) > 3 * len(came)
    pair.close()


def test_the_address_that_quic_knows_needs_no_proof_of_ours() -> None:
    where = Whereabouts()
    assert where.may_send(10_000)
    assert where.on_packet(NEW, 100)
    assert not where.on_packet(NEW, 100)
    assert where.may_send(600)
    assert not where.may_send(1)
    assert where.on_packet(None, 50)
    assert where.address is None
    assert where.may_send(10_000)
