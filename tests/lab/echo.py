"""The prober's counterpart on the verifier's box: says what it saw, answers from elsewhere, counts.

    python -m lab.echo ADDRESS OTHER_ADDRESS          prints {"listening": true} once it does

UDP on both addresses, ports 443, 7000 and 7001:
    {"answer": "here" | "port" | "address"}    answers {"seen": [ip, port]} from there
    {"load": name}                             counts one more of that name
    {"loaded": name}                           answers {"count": n}
TCP on ports 80 and 443: greets. Must never live here: judgements.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from functools import partial
from typing import Any, Final

UDP_PORTS: Final = (443, 7000, 7001)
TCP_PORTS: Final = (80, 443)
GREETING: Final = b"lab\n"


class Echo(asyncio.DatagramProtocol):
    """One UDP socket; all of them know each other."""

    def __init__(self, here: tuple[str, int], everywhere: dict[tuple[str, int], Echo], counts: Counter[str]):
        self._here = here
        self._everywhere = everywhere
        self._counts = counts
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._everywhere[self._here] = self

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            asked = json.loads(data.rstrip(b"\0"))
        except ValueError:
            return
        if "load" in asked:
            self._counts[asked["load"]] += 1
            return
        found: dict[str, Any] = {"seen": addr[:2]}
        if "loaded" in asked:
            found = {"count": self._counts[asked["loaded"]]}
        self._elsewhere(asked.get("answer", "here")).transport.sendto(json.dumps(found).encode(), addr)

    def _elsewhere(self, answer: str) -> Echo:
        address, port = self._here
        if answer == "port":
            port = next(other for other in UDP_PORTS if other != port)
        if answer == "address":
            address = next(other for other, _ in self._everywhere if other != address)
        return self._everywhere[address, port]


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        writer.write(GREETING)
        await writer.drain()


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    everywhere: dict[tuple[str, int], Echo] = {}
    counts: Counter[str] = Counter()
    for address in sys.argv[1:]:
        for port in UDP_PORTS:
            here = (address, port)
            make = partial(Echo, here, everywhere, counts)
            await loop.create_datagram_endpoint(make, local_addr=here)
        for port in TCP_PORTS:
            await asyncio.start_server(_greet, address, port)
    print(json.dumps({"listening": True}), flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(main())
