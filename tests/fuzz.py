"""Feeds damaged goldens and noise to every decoder: a value or an error of ours, never another exception.

    python tests/fuzz.py --seconds 60 --seed 1             a line per target, exit 1 if any was surprised
    python tests/fuzz.py --rounds 2000 --seed 1 --json     the same inputs on a machine of any speed

Targets are the `TARGETS` lists of every tests/*/fuzz_targets.py: add a file or a row there. Inputs depend on
the seed, the target's name and the round alone, so a failure names all that is needed to see it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    sys.modules["fuzz"] = sys.modules["__main__"]  # targets import this very module

from relay.errors import LocalError, RelayError  # noqa: E402 - the path is set above

BATCH = 50  # rounds of one target before the next has its turn
MAX_NOISE = 256
MAX_KEPT = 3  # failures shown of one target
EDGE_VALUES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)


@dataclass
class Target:
    """One decoder. `run` takes bytes; PeerError means refused, any other exception is a finding."""

    name: str
    run: Callable[[bytes], object]
    corpus: Sequence[bytes]
    local_errors: bool = False  # LocalError is no answer to bytes of a peer, unless the target says so
    executed: int = 0
    accepted: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)


def mutated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Return `data` with one to five small damages; `other` is what may be spliced in."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(8):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice(EDGE_VALUES)
            case 2 if at < len(out):
                out[at] = rng.randrange(256)
            case 3:
                del out[at : at + rng.randrange(1, 9)]
            case 4:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 5:
                out[at:at] = out[at : at + rng.randrange(1, 33)]
            case 6:
                start = rng.randrange(len(other) + 1)
                out[at:] = other[start:]
            case _:
                del out[at:]
    return bytes(out)


def make_input(target: Target, seed: int, number: int) -> bytes:
    """Return input `number` of a target: the goldens themselves first, then one in eight pure noise."""
    if number < len(target.corpus):
        return target.corpus[number]
    rng = random.Random(f"{seed}/{target.name}/{number}")
    if not target.corpus or rng.random() < 0.125:
        return rng.randbytes(rng.randrange(MAX_NOISE))
    return mutated(rng, rng.choice(target.corpus), rng.choice(target.corpus))


def run_once(target: Target, seed: int) -> None:
    """Feed the target its next input and note what came of it."""
    number = target.executed
    target.executed += 1
    data = make_input(target, seed, number)
    try:
        target.run(data)
        target.accepted += 1
    except LocalError as error:
        if not target.local_errors:
            _note(target, number, data, error)
    except RelayError:
        pass
    except Exception as error:  # every other exception is what we look for
        _note(target, number, data, error)


def _note(target: Target, number: int, data: bytes, error: Exception) -> None:
    if len(target.failures) < MAX_KEPT:
        trace = "".join(traceback.format_exception(error)[-3:])
        target.failures.append({"round": str(number), "input": data.hex(), "error": trace})


def load_targets(pattern: str = "*/fuzz_targets.py") -> list[Target]:
    """Return the targets of every module below tests/ that has some, in the order of their paths."""
    targets: list[Target] = []
    for path in sorted(TESTS.glob(pattern)):
        spec = importlib.util.spec_from_file_location(f"fuzz_targets_{path.parent.name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        targets += module.TARGETS
    return targets


def fuzz(targets: Sequence[Target], seed: int, is_done: Callable[[], bool], rounds: int | None) -> None:
    """Run the targets in turn until `is_done`, or until each has had `rounds`."""
    while not is_done():
        before = sum(target.executed for target in targets)
        for target in targets:
            left = BATCH if rounds is None else min(BATCH, rounds - target.executed)
            for _ in range(left):
                run_once(target, seed)
        if sum(target.executed for target in targets) == before:
            return


def report(targets: Sequence[Target], seed: int, seconds: float) -> dict[str, object]:
    """Return the result as one object."""
    rows = [
        {"name": each.name, "executed": each.executed, "accepted": each.accepted, "failures": each.failures}
        for each in targets
    ]
    return {
        "ok": not any(each.failures for each in targets),
        "seed": seed,
        "seconds": round(seconds, 1),
        "executed": sum(each.executed for each in targets),
        "targets": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long in all (default 10)")
    parser.add_argument("--rounds", type=int, help="inputs per target, in place of --seconds")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs (default 1)")
    parser.add_argument("--only", action="append", help="a target by name; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    targets = load_targets()
    if options.only:
        unknown = set(options.only) - {target.name for target in targets}
        if unknown:
            parser.error(f"no such target: {', '.join(sorted(unknown))}")
        targets = [target for target in targets if target.name in options.only]
    start = time.monotonic()
    timed = options.rounds is None
    fuzz(targets, options.seed, lambda: timed and time.monotonic() - start >= options.seconds, options.rounds)
    result = report(targets, options.seed, time.monotonic() - start)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for target in targets:
            state = "ok" if not target.failures else "FAILED"
            print(f"{target.name:16} {target.executed:>9} executed {target.accepted:>9} accepted  {state}")
            for failure in target.failures:
                print(f"  round {failure['round']}, input {failure['input']}\n{failure['error']}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
