"""People of one issuer who flood a daemon, in a process of their own: they hold up nobody who measures.

    python -m hostile.flooder PORT SEED-HEX COMMAND-SOCKET SECONDS

Joins, each a call of its own that stays, and commands, at a fixed pace. Then one JSON line of what they met;
the calls are held until the input ends. Must never live here: what is asserted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from load.daemon import mint
from load.leg import Leg, RefusedError
from relay.ops.commands import send
from relay.protocol import command
from relay.protocol.ids import Jti

JOINS_PER_S = 40  # and as many commands
AT_ONCE = 16


@dataclass
class Flood:
    """What they did and met."""

    server: tuple[str, int]
    seed: bytes
    socket: str
    joined: int = 0
    refused: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    held: list[Leg] = field(default_factory=list)
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def join(self) -> None:
        """One more person in a call of its own, who stays."""
        async with self._room:
            leg, call = Leg(self.server), os.urandom(16)
            try:
                await leg.connect(30)
                await leg.hello(mint(self.seed, call), 30)
                await leg.join(call, 30)
            except RefusedError:
                self.refused += 1
                leg.close()
            else:
                self.joined += 1
                self.held.append(leg)

    async def order(self) -> None:
        """One command that is good but for its number."""
        now = int(time.time())
        order = command.Command(
            op="revoke", jti=Jti(bytes(16)), iat=now, exp=now + 60, id=Jti(os.urandom(16))
        )
        answer = await asyncio.to_thread(send, self.socket, command.mint(order, self.seed))
        self.commands[str(answer["name"])] += 1


async def main(port: int, seed: bytes, socket: str, seconds: float) -> None:
    """Flood, tell, hold."""
    flood = Flood(("127.0.0.1", port), seed, socket)
    begun, tasks = time.monotonic(), []
    while (passed := time.monotonic() - begun) < seconds:
        while len(tasks) < 2 * passed * JOINS_PER_S:
            tasks += [asyncio.create_task(flood.join()), asyncio.create_task(flood.order())]
        await asyncio.sleep(1 / JOINS_PER_S)
    await asyncio.gather(*tasks)
    told = {"joined": flood.joined, "refused": flood.refused, "commands": flood.commands}
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for leg in flood.held:
        leg.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
