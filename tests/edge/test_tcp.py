"""Listening sockets where no descriptor is left: who comes waits, one line says so, and is served later."""

from __future__ import annotations

import asyncio
import socket

import pytest

from descriptors import none_left
from relay.edge import tcp
from relay.edge.tcp import Acceptor
from relay.protocol.address import Address


async def test_without_a_descriptor_connections_wait_and_each_time_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tcp, "ACCEPT_AGAIN_S", 0.002)
    came: list[socket.socket] = []

    def judge(sock: socket.socket, address: Address) -> None:
        came.append(sock)

    listener = tcp.bind("127.0.0.1:0", "listen.web")
    acceptor = Acceptor(asyncio.get_running_loop())
    acceptor.listen(listener, judge)
    clients = [socket.socket() for _ in range(2)]
    try:
        for number, client in enumerate(clients):
            with none_left():
                client.connect(listener.getsockname())
                for _ in range(20):  # tries
                    await asyncio.sleep(0.004)
                assert len(came) == number
            for _ in range(500):
                if len(came) > number:
                    break
                await asyncio.sleep(0.004)
            assert len(came) == number + 1
    finally:
        acceptor.close()
        for sock in (*clients, *came):
            sock.close()
    assert [record.getMessage() for record in caplog.records] == [
        "TCP connections wait, there is no room for one: EMFILE (raise LimitNOFILE=)"
    ] * 2
