"""What a real TCP socket holds when its peer reads nothing: no more than its window and a frame."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import time

import pytest

from relay.outlet import _SIOCOUTQNSD, FRAME, is_idle, send_soon

SIZE = 200


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_socket_whose_peer_reads_nothing_is_not_idle_with_a_frame_unsent() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as near, listener.accept()[0] as far:
            near.setblocking(False)
            send_soon(near)
            written = 0
            while is_idle(near.fileno()):
                written += near.send(bytes(SIZE))
                assert written < 1 << 20
            unsent = struct.unpack("i", fcntl.ioctl(near.fileno(), _SIOCOUTQNSD, bytes(4)))[0]
            assert FRAME < unsent <= FRAME + SIZE
            until = time.monotonic() + 5
            got = 0
            while got < written:
                got += len(far.recv(65536))
                assert time.monotonic() < until
            assert is_idle(near.fileno())


def test_a_socket_that_is_closed_or_no_tcp_socket_is_asked_without_harm() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert is_idle(one.fileno())
