"""What a client's network lets through, found from inside: a small prober of our own (echo.py answers).

    python -m lab.probe '{"hosts": [ADDRESS, OTHER], "proxy": "http://..." | null, "load": bool}'

Prints {"mapping", "filtering", "udp": {port: bool}, "tcp": {port: bool}, "proxy": bool | null,
"load": {"below": share lost, "above": share lost} | null}.
Must never live here: what ought to come out.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any, Final
from urllib.parse import urlsplit

from lab.echo import GREETING, TCP_PORTS

WAIT_S: Final = 0.4  # eight one-way delays: what has not come by then does not come
TRIES: Final = 2
LOADS: Final = {"below": (48_000, 200), "above": (512_000, 2000)}  # bits per second, packets
LOAD_BYTES: Final = 200  # UDP payload
_OVERHEAD: Final = 28  # of IPv4 and UDP

Where = tuple[str, int]


def _socket(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(WAIT_S)
    return made


def _ask(sock: socket.socket, where: Where, question: dict[str, Any]) -> dict[str, Any] | None:
    for _ in range(TRIES):
        sock.sendto(json.dumps(question).encode(), where)
        try:
            found: dict[str, Any] = json.loads(sock.recv(2048))
        except (TimeoutError, OSError):
            continue
        return found
    return None


def mapping(hosts: list[str]) -> str:
    """ "independent" if two destinations see one port, "dependent" if not, "none" if nobody answers."""
    with _socket(hosts[0]) as sock:
        seen = [
            _ask(sock, (host, port), {"answer": "here"})
            for host, port in zip(hosts, (7000, 7001), strict=True)
        ]
    if None in seen:
        return "none"
    return "independent" if seen[0] == seen[1] else "dependent"


def filtering(hosts: list[str]) -> str:
    """Who may answer a packet: "any", the same "address", only the same "port", or "none"."""
    with _socket(hosts[0]) as sock:
        if _ask(sock, (hosts[0], 7000), {"answer": "here"}) is None:
            return "none"
        if _ask(sock, (hosts[0], 7000), {"answer": "address"}):
            return "any"
        return "address" if _ask(sock, (hosts[0], 7000), {"answer": "port"}) else "port"


def udp(host: str, port: int) -> bool:
    """Whether UDP gets to that port and back."""
    with _socket(host) as sock:
        return _ask(sock, (host, port), {"answer": "here"}) is not None


def tcp(host: str, port: int) -> bool:
    """Whether TCP does."""
    try:
        with socket.create_connection((host, port), timeout=2 * WAIT_S) as sock:
            return sock.recv(16) == GREETING
    except OSError:
        return False


def proxied(proxy: str, host: str, port: int) -> bool:
    """Whether a CONNECT leads there."""
    at = urlsplit(proxy)
    try:
        with socket.create_connection((at.hostname or "", at.port or 80), timeout=2 * WAIT_S) as sock:
            sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(GREETING):
                data = sock.recv(1024)
                if not data:
                    return False
                answer += data
            return b" 200 " in answer
    except OSError:
        return False


def load(host: str) -> dict[str, float]:
    """Share of packets lost at a rate below 64 kb/s and at one above."""
    lost = {}
    with _socket(host) as sock:
        for name, (rate, packets) in LOADS.items():
            label = f"{name}-{os.getpid()}"
            payload = json.dumps({"load": label}).encode().ljust(LOAD_BYTES, b"\0")
            begun = time.monotonic()
            for number in range(packets):
                due = begun + number * (LOAD_BYTES + _OVERHEAD) * 8 / rate
                time.sleep(max(0.0, due - time.monotonic()))
                sock.sendto(payload, (host, 7000))
            time.sleep(1.0)  # the budget refills, and the last arrive
            found = _ask(sock, (host, 7000), {"loaded": label})
            lost[name] = 1 - found["count"] / packets if found else 1.0
    return lost


def main() -> None:
    """Probe and print."""
    orders = json.loads(sys.argv[1])
    hosts, proxy = orders["hosts"], orders["proxy"]
    found = {
        "mapping": mapping(hosts),
        "filtering": filtering(hosts),
        "udp": {str(port): udp(hosts[0], port) for port in (443, 7000)},
        "tcp": {str(port): tcp(hosts[0], port) for port in TCP_PORTS},
        "proxy": proxied(proxy, hosts[0], 443) if proxy else None,
        "load": load(hosts[0]) if orders["load"] else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
