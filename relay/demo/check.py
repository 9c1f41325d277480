"""What must be true after the demo's call: quality, gate, equal counts, no key in the daemon.

Must never live here: processes, the call itself.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy

from relay.client.audio import read_pcm

NAMES = ("anna", "ben")
GOOD_PESQ = 4.0
RATE = 16_000


def total(metrics: dict[str, float], name: str) -> int:
    return int(sum(value for key, value in metrics.items() if key.partition("{")[0] == name))


def gate_drops(metrics: dict[str, float]) -> int:
    return int(metrics.get('relay_media_dropped_total{reason="gate_closed"}', 0))


def find_in_memory(pid: int, needles: list[bytes]) -> list[int]:
    """Which of the byte strings stand in a process's readable, writable memory, by position."""
    found: set[int] = set()
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue
            found.update(index for index, needle in enumerate(needles) if needle in data)
    return sorted(found)


def pesq_of(sent: Path, heard: Path) -> float:
    """PESQ-WB of what was heard against what was said (ITU-T P.862.2), 1.0 when nothing was."""
    import pesq  # needs a compiler to install: only the demo and the tests have it

    reference, received = (
        numpy.frombuffer(read_pcm(path, RATE), dtype="<i2").astype(numpy.float32) / 32768
        for path in (sent, heard)
    )
    loud = numpy.flatnonzero(numpy.abs(received) > 0.005)
    if not len(loud):
        return 1.0
    # The sink starts before the first word and ends after the last: cut to the speech, as the reference is.
    first = max(0, int(loud[0]) - int(numpy.flatnonzero(numpy.abs(reference) > 0.005)[0]))
    received = received[first : first + len(reference)]
    received = numpy.pad(received, (0, len(reference) - len(received)))
    try:
        return float(pesq.pesq(RATE, reference, received, "wb"))
    except pesq.NoUtterancesError:
        return 1.0


def report(facts: dict[str, Any], speech: list[Path], out: Path, begun: float) -> dict[str, Any]:
    legs = []
    heard = [out / f"heard-by-{name}.wav" for name in NAMES]
    for index, name in enumerate(NAMES):
        stats = facts["stats"][index]
        legs.append(
            {
                "name": name,
                "transport": facts["transports"][index],
                **{key: stats[key] for key in ("rtt_ms", "sent", "received", "lost", "late")},
                "pesq": round(pesq_of(speech[1 - index], heard[index]), 2),
                "heard": str(heard[index]),
            }
        )
    after, before = facts["after"], facts["before"]
    gate = {
        "sent_before_accept": facts["sent_early"],
        "dropped_before_accept": gate_drops(before),
        "forwarded_before_accept": total(before, "relay_media_copies_total"),
    }
    counters = {
        "sdk_sent": sum(leg["sent"] for leg in legs),
        "relay_received": total(after, "relay_media_received_total"),
        "sdk_received": sum(leg["received"] for leg in legs),
        "relay_sent": total(after, "relay_media_sent_total"),
    }
    lane = next(key.split('"')[1] for key in after if key.startswith("relay_lane_info"))
    checks = {
        "both_heard": all(leg["pesq"] >= GOOD_PESQ for leg in legs),
        "same_digits": facts["same_digits"],
        "gate_held": gate["forwarded_before_accept"] == 0
        and 0 < gate["dropped_before_accept"] == gate["sent_before_accept"],
        "counters_agree": counters["sdk_sent"] == counters["relay_received"]
        and counters["sdk_received"] == counters["relay_sent"],
        "no_key_in_daemon": facts["memory_was_read"] and facts["keys"] > 0 and facts["keys_in_daemon"] == 0,
    }
    return {
        "ok": all(checks.values()),
        "legs": legs,
        "gate": gate,
        "counters": counters,
        "checks": checks,
        "keys_searched": facts["keys"],
        "lane": lane,
        "seconds": round(time.monotonic() - begun, 1),
    }
