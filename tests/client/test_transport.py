"""The datagram queue in front of QUIC: what waits, what is given up, in which order. Simulated clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived

from relay.client import pinned
from relay.client.errors import SessionError
from relay.client.transport import MAX_DATAGRAM, QUEUE_FRAMES, QUEUE_S, Transport
from relay.client.udp import UdpPort, open_port
from relay.errors import ErrorCode, LocalError
from relay.protocol.address import Address


class Congested(QuicConnection):
    """A connection whose window the test opens and closes."""

    def __init__(self) -> None:
        super().__init__(configuration=QuicConfiguration(is_client=True))
        self.is_open = True
        self.inside: list[bytes] = []
        self.left: list[bytes] = []
        self.coming: list[QuicEvent] = []

    def get_peer_address(self) -> Any:
        return "192.0.2.1", 1

    def send_datagram_frame(self, data: bytes) -> None:
        self.inside.append(data)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if not self.is_open:
            return []
        packets = [(b"\x40" * 29 + data, None) for data in self.inside]
        self.left += self.inside
        self.inside = []
        return packets

    def next_event(self) -> QuicEvent | None:
        return self.coming.pop(0) if self.coming else None

    def get_timer(self) -> float | None:
        return None

    def change_connection_id(self) -> None:
        """Nobody is at the other end."""


class Ears:
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.transport: Transport | None = None

    def on_stream(self, data: bytes) -> None:
        self.heard.append(data)
        if self.transport is not None:
            self.transport.send(b"\1answer to " + data)

    def on_datagram(self, data: bytes) -> None:
        self.heard.append(data)

    def on_closed(self, code: int, reason: str) -> None:
        self.heard.append(code)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> tuple[Congested, Transport, Ears, list[float]]:
    now = [asyncio.get_running_loop().time()]
    quic, ears = Congested(), Ears()
    transport = Transport(quic, Address("192.0.2.1", 1), ears)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    return quic, transport, ears, now


Rig = tuple[Congested, Transport, Ears, list[float]]


async def test_an_open_window_sends_at_once(rig: Rig) -> None:
    quic, transport, _, _ = rig
    for n in range(10):
        transport.send(bytes([1, n]))
    assert quic.left == [bytes([1, n]) for n in range(10)]
    assert transport.unsent == 0


async def test_a_closed_window_holds_five_frames_and_the_oldest_go_first(rig: Rig) -> None:
    quic, transport, _, _ = rig
    quic.is_open = False
    for n in range(10):
        transport.send(bytes([1, n]))
    assert quic.inside == [b"\1\0"]  # one is in aioquic's own queue, which has no bound
    assert transport.unsent == 10 - 1 - QUEUE_FRAMES
    quic.is_open = True
    transport.flush()
    assert [data[1] for data in quic.left] == [0, 5, 6, 7, 8, 9]


async def test_what_waited_longer_than_sixty_milliseconds_is_not_sent(rig: Rig) -> None:
    quic, transport, _, now = rig
    quic.is_open = False
    for n in range(3):
        transport.send(bytes([1, n]))
    transport.send(b"\0\0")
    now[0] += QUEUE_S + 0.001
    transport.send(b"\1\x09")
    quic.is_open = True
    transport.flush()
    assert quic.left == [b"\1\0", b"\1\x09"]
    assert transport.unsent == 2  # the control datagram is no media


async def test_a_datagram_that_fits_no_packet_is_our_own_mistake(rig: Rig) -> None:
    quic, transport, _, _ = rig
    transport.send(bytes(MAX_DATAGRAM))
    with pytest.raises(LocalError):
        transport.send(bytes(MAX_DATAGRAM + 1))
    transport.send(b"\1next")
    assert quic.left[-1] == b"\1next"


async def test_events_stay_in_order_when_a_handler_answers_in_between(rig: Rig) -> None:
    quic, transport, ears, _ = rig
    ears.transport = transport
    quic.coming = [
        StreamDataReceived(data=b"a", end_stream=False, stream_id=0),
        StreamDataReceived(data=b"x", end_stream=False, stream_id=4),
        StreamDataReceived(data=b"b", end_stream=False, stream_id=0),
        DatagramFrameReceived(data=b"\1c"),
    ]
    transport.receive(b"")
    assert ears.heard == [b"a", b"b", b"\1c"]
    assert quic.left == [b"\1answer to a", b"\1answer to b"]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (ConnectionTerminated(error_code=0x28, frame_type=None, reason_phrase=""), ErrorCode.REMOVED),
        (
            ConnectionTerminated(error_code=1, frame_type=0, reason_phrase="Idle timeout"),
            ErrorCode.IDLE_TIMEOUT,
        ),
        (ConnectionTerminated(error_code=0x12A, frame_type=6, reason_phrase="bad"), ErrorCode.GENERAL),
    ],
)
async def test_the_end_is_told_once_with_a_code_of_ours(rig: Rig, event: QuicEvent, code: int) -> None:
    quic, transport, ears, _ = rig
    quic.coming = [event, event]
    transport.receive(b"")
    assert ears.heard == [code]
    assert transport.is_closed
    transport.send(b"\1late")
    transport.write(b"late")
    transport.close()
    assert ears.heard == [code]
    assert quic.left == []
    await transport.wait_closed()


@pytest.mark.parametrize("is_client", [True, False], ids=["client", "server"])
async def test_what_is_closed_before_it_began_says_nothing_and_listens_to_nobody(is_client: bool) -> None:
    identity, ears, port = pinned.make_identity(), Ears(), UdpPort()
    first = b"\xe0\0\0\0\1\x08" + bytes(1300)  # a handshake packet: no connection begins with one
    quic = pinned.client(identity.der) if is_client else pinned.server(identity, first)
    assert quic is not None
    transport = Transport(quic, Address("192.0.2.1", 1), ears, port)
    if not is_client:
        transport.receive(first)
    transport.close()
    assert ears.heard == [ErrorCode.NO_ERROR]
    with pytest.raises(SessionError):
        await (transport.open() if is_client else transport.accept(first))
    assert not port._receivers


async def test_two_connections_on_one_port_close_it_together_in_either_order() -> None:
    for first in (0, 1):
        port = await open_port()
        both = [Transport(Congested(), Address("192.0.2.1", n), Ears(), port) for n in (1, 2)]
        port.close()  # whoever opened it needs it no more
        both[first].close()
        both[first].close()
        assert not port.is_closed
        both[1 - first].close()
        assert port.is_closed
    await asyncio.sleep(0)


async def test_a_connection_that_ends_while_it_moves_to_another_port_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, other = await open_port(), await open_port()
    transport = Transport(Congested(), Address("192.0.2.1", 1), Ears(), port)

    async def slow() -> UdpPort:
        transport.close()
        return other

    monkeypatch.setattr("relay.client.transport.open_port", slow)
    assert await transport.rebind() == 0
    assert other.is_closed
    assert not port.is_closed  # it was shared, and given back once
    port.close()
    assert port.is_closed
    await asyncio.sleep(0)


@pytest.mark.parametrize("wait_s", [0.0, 60.0], ids=["after its time", "with the connection"])
async def test_a_port_that_was_left_is_closed_once(monkeypatch: pytest.MonkeyPatch, wait_s: float) -> None:
    monkeypatch.setattr("relay.client.transport.OLD_SOCKET_S", wait_s)
    port, quic = await open_port(), Congested()
    quic.is_open = False  # nothing leaves
    transport = Transport(quic, Address("192.0.2.1", 1), Ears(), port)
    await transport.rebind()
    for _ in range(2):  # turns of the loop
        await asyncio.sleep(0)
    port.close()  # whoever opened it: one of two holders, if the connection has not left it yet
    assert port.is_closed == (wait_s == 0.0)
    now = transport.port
    assert now is not None
    transport.close()
    assert port.is_closed
    assert now.is_closed
    await asyncio.sleep(0)
