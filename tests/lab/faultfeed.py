"""The end of a webhook is dead: nobody there, then one that hangs, then one that says 500.

    daemon with calls --events--> `relay feed` --POST--> ends: all events; those of calls that ended

What waits is bounded: of all events the oldest become dead letters, of those of ended calls none does. Once
the end is back it gets what waits by itself, and dead letters when they are replayed. Must never live here:
other faults.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from feed.program import SECRET, Feed
from feed.receiver import Letter, Receiver
from lab.faultnode import parse
from lab.faultscene import Scene, complaints, sort_lines

WAIT_S: Final = 20.0
BOUND: Final = 65_536  # bytes that may wait for an end, the least that there is: events of some ten calls
MOST_CALLS: Final = 60  # while the bound is waited for
FAILURES: Final = 3  # of each end, of each kind, so that no kind is over too soon
LINES: Final = {"an endpoint does not take letters": 2, "letters were given up": 1}
"""Of the feed's warnings and errors: an outage each, and the first that dies."""


class Ends:
    """Both endpoints, as one machine that is well or is not."""

    def __init__(self) -> None:
        self.all, self.ended = Receiver(SECRET), Receiver(SECRET)
        self._both = (self.all, self.ended)

    async def start(self) -> None:
        """Be there, or be there again."""
        for end in self._both:
            await end.start()

    async def stop(self) -> None:
        """Connections are refused."""
        for end in self._both:
            await end.stop()

    def say(self, status: int) -> None:
        """Answer all letters so; 0: never."""

        async def hang(letter: Letter, times: int) -> int:
            await asyncio.Event().wait()
            return status

        for end in self._both:
            end.answer = hang if not status else lambda letter, times: status


async def dead_webhook(scene: Scene) -> None:
    """Refused, hanging, 500; calls go on meanwhile and tell more than may wait. Then the end is back."""
    folder = scene.node.folder / "feed"
    for old in (*folder.glob("feed.sqlite*"), folder / "log"):
        old.unlink(missing_ok=True)  # of an attempt that was void
    ends, feed = Ends(), Feed(folder)
    await ends.start()
    scene.leaves.push_async_callback(ends.stop)
    feed.configure(
        {"url": ends.all.url, "timeout_s": 0.5},
        {"url": ends.ended.url, "timeout_s": 0.5, "events": ["call.ended"]},
        retry_most_s=0.5,
        max_bytes=BOUND,
    )
    await feed.start()
    scene.leaves.push_async_callback(feed.end)
    await scene.expect_call("a call while the end is well")
    scene.expect("it is told", int(await _is_empty(scene, feed)), "==", 1)
    told = len(ends.ended.taken)

    calls = await _outage(scene, feed, ends)
    dead = _metric(feed, "relay_feed_dead_total")
    scene.expect("letters waiting, within the bound", _metric(feed, "relay_feed_waiting"), "<=", BOUND / 256)
    scene.expect("dead letters of what may not be lost", _count(feed, "dead", "e1", "full"), "==", 0)
    scene.notes["outage"] = {"calls": calls, "dead_letters": int(dead)}

    ends.say(200)
    scene.expect("delivered once the end is back", int(await _is_empty(scene, feed)), "==", 1)
    scene.expect("ended calls that are told", len(ends.ended.taken) - told, "==", calls)
    kept = len((await feed.run("list"))["letters"])
    scene.expect("dead letters that are kept", kept, "==", dead)
    replayed = (await feed.run("replay", "--all"))["replayed"]
    scene.expect("dead letters that are replayed", replayed, "==", kept)
    scene.expect("they are delivered", int(await _is_empty(scene, feed)), "==", 1)
    _judge_letters(scene, ends)
    said = [parse(line) for line in feed.log().splitlines()]
    counts, others = sort_lines(complaints(said), LINES)
    for start, wanted in LINES.items():
        scene.expect(f"lines of the feed {start!r}", counts[start], "==", wanted)
    scene.expect("other lines of the feed", len(others), "==", 0)
    scene.notes["feed said"] = [line["message"] for line in said if line.get("level") != "info"]


async def _outage(scene: Scene, feed: Feed, ends: Ends) -> int:
    """All three ways to be dead, each with calls; how many calls worked meanwhile."""
    calls = 0
    for way in ("unreachable", "timeout", "fault"):
        if way == "unreachable":
            await ends.stop()
        else:
            ends.say(500 if way == "fault" else 0)
        if way == "timeout":
            await ends.start()
        calls += not await scene.call()
        failed = await scene.until(lambda way=way: _has_failed(feed, way), WAIT_S)
        scene.expect(f"both ends are tried and fail: {way}", int(failed), "==", 1)
    while not _count(feed, "dead", "e0", "full") and calls < MOST_CALLS:
        calls += not await scene.call()
    scene.expect("letters beyond the bound", _count(feed, "dead", "e0", "full"), ">=", 1)
    return calls


def _judge_letters(scene: Scene, ends: Ends) -> None:
    """Of all events none is missing and none came twice; those of ended calls came in their order."""
    seqs = [letter.event["seq"] for letter in ends.all.taken]
    scene.expect("events missing", max(seqs) - min(seqs) + 1 - len(set(seqs)), "==", 0)
    scene.expect("events delivered twice", len(seqs) - len(set(seqs)), "==", 0)
    ended = [letter.event["seq"] for letter in ends.ended.taken]
    late = sum(seq < max(ended[: place + 1]) for place, seq in enumerate(ended))
    # While an end fails its first letter is suspected, and the second tried in turns: it may be taken first.
    scene.expect("ended calls out of order, but for the one suspected", late, "<=", 1)
    scene.expect("forged or unsigned letters", ends.all.forged + ends.ended.forged, "==", 0)
    scene.notes["events delivered"] = len(seqs)


def _count(feed: Feed, name: str, end: str, why: str) -> float:
    return _metric(feed, f'relay_feed_{name}_total{{endpoint="{end}",why="{why}"}}')


def _has_failed(feed: Feed, why: str) -> bool:
    return all(_count(feed, "failed", end, why) >= FAILURES for end in ("e0", "e1"))


def _metric(feed: Feed, name: str) -> float:
    """-1 while it does not answer."""
    with contextlib.suppress(OSError):
        return feed.metric(name)
    return -1.0


async def _is_empty(scene: Scene, feed: Feed) -> bool:
    """Nothing waits any more, neither with the daemon nor with the feed."""
    end = asyncio.get_running_loop().time() + WAIT_S
    while asyncio.get_running_loop().time() < end:
        if (await scene.samples())["relay_events_waiting"] == 0 == _metric(feed, "relay_feed_waiting"):
            return True
        await asyncio.sleep(0.1)
    return False
