"""One bulk TCP flow, as a download would be: a process on each end.

    python -m lab.bulk take PORT               prints {"at", "bytes"} each second, what came so far
    python -m lab.bulk give HOST PORT          sends as fast as TCP CUBIC lets it, until it is ended

Must never live here: the network between them, calls.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Final

CONGESTION: Final = b"cubic"
_CHUNK: Final = bytes(1 << 16)


def take(port: int) -> None:
    """Take one flow and tell of it until it ends."""
    with socket.create_server(("0.0.0.0", port)) as listening:
        print(json.dumps({"is": "listening"}), flush=True)
        flow, _ = listening.accept()
    flow.settimeout(1.0)
    count, told = 0, time.monotonic()
    buffer = bytearray(1 << 16)
    with flow:
        while True:
            try:
                size = flow.recv_into(buffer)
                if not size:
                    return
                count += size
            except TimeoutError:
                pass  # nothing came for a second, which is told, too
            if time.monotonic() - told >= 1.0:
                told = time.monotonic()
                print(json.dumps({"is": "taken", "at": told, "bytes": count}), flush=True)


def give(host: str, port: int) -> None:
    """Send."""
    with socket.socket() as flow:
        flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)
        flow.connect((host, port))
        used = flow.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
        print(json.dumps({"is": "giving", "congestion": used}), flush=True)
        while True:
            flow.sendall(_CHUNK)


if __name__ == "__main__":
    if sys.argv[1] == "take":
        take(int(sys.argv[2]))
    else:
        give(sys.argv[2], int(sys.argv[3]))
