"""A NAT in front of one client: forwards UDP on loopback, and takes another port to the server if told to."""

from __future__ import annotations

import socket
import threading
from typing import Any


class Rebinder:
    """Forwards packets both ways on a thread of its own. `rebind`: as if it had forgotten the mapping."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inside.bind(("127.0.0.1", 0))
        self.port: int = self._inside.getsockname()[1]
        self._client: Any = None
        self._outside = self._open()
        self._is_over = False
        self._threads = [threading.Thread(target=self._up), self._down(self._outside)]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def rebind(self) -> None:
        """From now on from another port; what comes to the one before is lost."""
        old, self._outside = self._outside, self._open()
        thread = self._down(self._outside)
        self._threads.append(thread)
        thread.start()
        self._wake(old)

    def close(self) -> None:
        """Forward nothing more."""
        self._is_over = True
        for sock in (self._inside, self._outside):
            self._wake(sock)
        for thread in self._threads:
            thread.join()
        self._inside.close()

    @staticmethod
    def _wake(sock: socket.socket) -> None:
        """An empty packet to itself, so that its thread looks again."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as poke:
            poke.sendto(b"", sock.getsockname())

    def _up(self) -> None:
        while not self._is_over:
            data, client = self._inside.recvfrom(4096)
            if data:
                self._client = client
                self._outside.sendto(data, self._server)

    def _down(self, sock: socket.socket) -> threading.Thread:
        def run() -> None:
            with sock:
                while sock is self._outside and not self._is_over:
                    data = sock.recv(4096)
                    if data and sock is self._outside:
                        self._inside.sendto(data, self._client)

        return threading.Thread(target=run)
