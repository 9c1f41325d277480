"""First packets from many addresses of 127.0.0.0/8: `python -m load.flood PORT RATE SEED` until stdin ends.

Half are real first packets of stock clients, half only look like them. Answers are never read. When the input
ends it prints one JSON line: how many were sent, in how many seconds. Loopback only, and bounded by its
parent. Must never live here: anything that measures the relay.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time

from load.simulated import real_initials, shaped_initial

SOURCES = 400  # each with a budget of its own at the relay
POOL = 400
SLOT = 0.002


def sockets(rng: random.Random) -> list[socket.socket]:
    """Sockets on loopback addresses other than 127.0.x.y, with the smallest receive buffers there are."""
    made = []
    for number in range(SOURCES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.setblocking(False)
        sock.bind((f"127.{rng.randint(1, 254)}.{number // 250}.{number % 250 + 1}", 0))
        made.append(sock)
    return made


def main(port: int, rate: float, seed: int) -> None:
    """Send at `rate` packets per second."""
    rng = random.Random(seed)
    senders = sockets(rng)
    pool = real_initials(POOL)
    pool += [shaped_initial(rng) for _ in range(POOL)]
    print(json.dumps({"ready": len(senders)}), flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    sent = refused = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        due = int((time.monotonic() - started) * rate)
        while sent + refused < due:
            try:
                rng.choice(senders).sendto(rng.choice(pool), ("127.0.0.1", port))
                sent += 1
            except OSError:
                refused += 1
        time.sleep(SLOT)
    seconds = time.monotonic() - started
    print(json.dumps({"sent": sent, "refused": refused, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
