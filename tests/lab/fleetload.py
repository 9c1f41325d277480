"""Short calls of a region, some in each second, for a gate that counts calls: a process of its own there.

    parent                                          child (python -m lab.fleetload), in the region's namespace
    paths, keys, {"per_s"}                   -->    its first line; it places calls from then on
    {"per_s": n, "fails": {"candidate": x}}  -->    another pace, another share that fails; counts so far
    end of input                             -->    its end

Each call goes where a product would send it: the region's signed state says which variant a call has, the
signed node list which node takes it, both read each second from files that `relay feed` brought. Two light
legs (load.leg) connect, join, accept, say a few packets and hang up. Of calls that go wrong one side accepts
and never says a word, as `./scripts/lab incidents` has it. Must never live here: what counts of that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from lab.child import Child
from lab.fleetground import REGIONS, round_trip_s
from lab.fleetnodes import CLUSTER, ISSUER, Fleet
from load.leg import Leg, RefusedError
from relay.errors import RelayError
from relay.protocol import control, media, token
from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.signed import kid_of
from relay.region.directory import Directory
from relay.region.nodelist import Keeper
from relay.rollout.bucket import Shares, Variant, decide
from relay.rollout.lastgood import Offer, accepted, parse

GIVE_UP_S: Final = 8.0
PACKETS: Final = 5
PACKET_S: Final = 0.06
SIZE: Final = 120
MUTE_S: Final = 3.5  # who hangs up before 3 s without having heard anything changed their mind
LOOK_S: Final = 1.0
TOKEN_S: Final = 60
MOST_RUNNING: Final = 60  # a relay that answers nobody is no reason to drown this process


class Load(Child):
    """The calls of one region, as the parent sees them."""

    def __init__(self, fleet: Fleet, region: str, *, per_s: float, seed: int) -> None:
        node = fleet.of(region)[0]
        first = {
            "region": region,
            "source": node.place.people,
            "state": str(node.folder / "lastgood"),
            "nodes": str(node.folder / "nodes"),
            "issuer": fleet.seed.hex(),
            "operator": fleet.operator_key,
            "hub": fleet.hub_key,
            "per_s": per_s,
            "seed": seed,
        }
        super().__init__("lab.fleetload", first, fleet.ground.within(region))

    def order(self, per_s: float, fails: dict[str, float] | None = None) -> dict[str, int]:
        """So many a second from now on, and which share goes wrong, by variant; what came of those so far."""
        self.say({"per_s": per_s, "fails": fails or {}})
        found: dict[str, int] = self.hear()
        return found


# ---------------------------------------------------------------- the child


class Placing:
    """Where calls go, by the two files that a back end of this region would read."""

    def __init__(self, first: dict[str, Any]) -> None:
        self._region: str = first["region"]
        self._state, self._nodes = Path(first["state"]), Path(first["nodes"])
        self._keys = accepted([bytes.fromhex(first["operator"])])
        hub = bytes.fromhex(first["hub"])
        self._keeper = Keeper(CLUSTER, {kid_of(hub): hub})
        self._directory = Directory()
        self._round_trips = {place.name: round_trip_s(self._region, place.name) for place in REGIONS}
        self._offer: Offer | None = None

    def look(self) -> None:
        """Read what is new. OSError, RelayError: what was read before counts on."""
        if self._keeper.on_document(self._nodes.read_bytes(), time.time()):
            assert self._keeper.list is not None  # it was just taken
            self._directory.on_list(self._keeper.list, time.monotonic(), time.time())
        self._offer = parse(self._state.read_bytes(), self._keys).body.rollout

    def place(self, call: bytes) -> tuple[str, str]:
        """The call's variant, and the first address of its node. LookupError: nobody takes it."""
        variant = Variant.CONTROL.value
        if self._offer is not None:
            shares = Shares(regions=self._offer.regions)
            offer = self._offer
            variant = decide(offer.id, offer.salt, call.hex(), shares, region=self._region).variant.value
        found = self._directory.place(call.hex(), variant, self._round_trips, time.monotonic())
        if found is None:
            raise LookupError(f"no node takes calls of {variant}")
        return variant, found.home.urls[0]


class Calls:
    """Places them until it is over."""

    def __init__(self, first: dict[str, Any]) -> None:
        self._placing = Placing(first)
        self._source: str = first["source"]
        self._issuer = bytes.fromhex(first["issuer"])
        self._dice = random.Random(first["seed"])
        self.per_s: float = first["per_s"]
        self.fails: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._running: set[asyncio.Task[None]] = set()

    async def look(self) -> None:
        """Read the files each second, until cancelled."""
        while True:
            try:
                self._placing.look()
            except (OSError, RelayError) as error:
                self.counts[f"look: {type(error).__name__}"] += 1
            await asyncio.sleep(LOOK_S)

    async def run(self) -> None:
        """Place calls evenly, until cancelled."""
        due = time.monotonic()
        while True:
            if self.per_s > 0 and len(self._running) < MOST_RUNNING:
                task = asyncio.create_task(self._one())
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            elif self.per_s > 0:
                self.counts["not placed: too many run"] += 1
            apart = 1 / self.per_s if self.per_s > 0 else LOOK_S
            due = max(due + apart, time.monotonic() - 1.0)  # no more is caught up
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _one(self) -> None:
        call = os.urandom(16)
        try:
            variant, url = self._placing.place(call)
        except LookupError as error:
            self.counts[str(error)] += 1
            return
        parts = urlsplit(url)
        is_mute = self._dice.random() < self.fails.get(variant, 0.0)
        legs = [Leg((parts.hostname or "", parts.port or 443), source=self._source) for _ in range(2)]
        try:
            await asyncio.gather(*(self._enter(leg, call) for leg in legs))
            for leg in legs:
                await leg.accept(call)
            for leg in legs:
                await leg.gate(GIVE_UP_S)
            await self._talk(legs[:1] if is_mute else legs, MUTE_S if is_mute else 0.0)
            legs[0].tell(control.Hangup(c=call), 9)
            await asyncio.sleep(PACKET_S)
            self.counts[f"{variant}: {'mute' if is_mute else 'talked'}"] += 1
        except (RefusedError, TimeoutError, OSError) as error:
            self.counts[f"{variant}: {type(error).__name__}"] += 1
        finally:
            for leg in legs:
                leg.close()

    async def _enter(self, leg: Leg, call: bytes) -> None:
        await leg.connect(GIVE_UP_S)
        await leg.hello(self._token(call), GIVE_UP_S)
        await leg.join(call, GIVE_UP_S)

    async def _talk(self, speakers: list[Leg], lasts: float) -> None:
        began = time.monotonic()
        for number in range(PACKETS):
            for speaker in speakers:
                head = media.encode_header(speaker.flow, speaker.index << 2, number)
                speaker.send(head + os.urandom(SIZE - len(head)))
            await asyncio.sleep(PACKET_S)
        await asyncio.sleep(max(0.0, began + lasts - time.monotonic()))

    def _token(self, call: bytes) -> bytes:
        now = int(time.time())
        claims = token.Claims(
            iss=ISSUER,
            aud=CLUSTER,
            sub=Sub(os.urandom(16)),
            cid=CallId(call),
            iat=now,
            nbf=now,
            exp=now + TOKEN_S,
            jti=Jti(os.urandom(16)),
            age=token.AGE_ADULT,
            ctc=1,
        )
        return token.mint(claims, self._issuer)

    async def stop(self) -> None:
        """Those that run come to their end."""
        if self._running:
            await asyncio.wait(self._running, timeout=GIVE_UP_S)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    read: Callable[[], Any] = sys.stdin.readline
    calls = Calls(json.loads(await loop.run_in_executor(None, read)))
    tasks = [asyncio.create_task(job) for job in (calls.look(), calls.run())]
    while line := await loop.run_in_executor(None, read):
        order = json.loads(line)
        calls.per_s, calls.fails = order["per_s"], order["fails"]
        print(json.dumps(calls.counts), flush=True)
        for task in tasks:
            if task.done():
                task.result()  # why nobody calls any more
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await calls.stop()


if __name__ == "__main__":
    uvloop.run(_main())
