"""The guards under attack: reflection, spoofed floods, stalled receivers, mass leaving, stream windows.

Attackers and victims stand on loopback or in this process; every bar is about our guard. See the modules
named below for what each part does. Must never live here: an attack.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import uvloop

from load import honest, leaving, reflection, stall, windows
from load.report import Report, arguments, say

PARTS = ("reflection", "memory", "flood", "stall", "leaving", "windows")


def memory(out: Report, packets: int, seed: int) -> None:
    """A process of its own under spoofed first packets."""
    say(f"memory: {packets} spoofed first packets, simulated time")
    done = subprocess.run(
        [sys.executable, "-m", "load.spoofed", str(packets), str(seed)], stdout=subprocess.PIPE, check=True
    )
    facts = json.loads(done.stdout)
    out.bar("RSS growth after spoofed first packets, KiB", facts["rss_growth"] / 1024, "<=", 1024)
    out.bar("sessions after spoofed first packets", facts["sessions"], "==", 0)
    out.detail(memory=facts)


async def run(out: Report, parts: list[str], *, quick: bool, seed: int) -> None:
    """The chosen parts, one after the other."""
    if "reflection" in parts:
        await asyncio.to_thread(reflection.judge, out, 50_000 if quick else 1_000_000, seed)
    if "memory" in parts:
        await asyncio.to_thread(memory, out, 50_000 if quick else 1_000_000, seed)
    if "flood" in parts:
        await honest.judge(out, joins=4 if quick else 20, seed=seed)
    if "stall" in parts:
        await stall.judge(out, seconds=3.0 if quick else 10.0)
    if "windows" in parts:
        await windows.judge(out)
    if "leaving" in parts:
        await leaving.judge(out, 200 if quick else 2000)


def main() -> int:
    """Run it; the exit status."""
    parser = arguments("guards", __doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part (may be repeated)")
    args = parser.parse_args()
    out = Report("guards", seed=args.seed, quick=args.quick)
    uvloop.run(run(out, args.only or list(PARTS), quick=args.quick, seed=args.seed))
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
