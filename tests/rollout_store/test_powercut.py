"""A thousand power cuts: the state that a box comes up with is whole, and never wider than what it served."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from relay.protocol.signed import public_of
from relay.rollout import lastgood_file
from relay.rollout.lastgood import Body, Offer, Refusal, Serving, accepted, seal
from relay.rollout.lastgood_file import Files, Follower, Places, copy
from rollout_store.disk import Disk, PowerCut

SEED = bytes(range(32))
KEYS = accepted([public_of(SEED)])
PLACES = Places("/feed/lastgood", "/daemon/floor", ("/feed/kill",))
NOW = 1_000_000
LIVES = 3


def state(rev: int, chance: random.Random) -> bytes:
    """A state whose share has nothing to do with its revision: the next may be wider or narrower."""
    share = chance.choice((0, 1, 5, 25, 100))
    routes = {f"r{n}": ["a" * chance.randint(1, 80)] for n in range(chance.randint(0, 20))}
    offer = Offer("r1", "s1", regions={"eu-1": share})
    return seal(Body(rev, NOW, NOW + 1000, offer, routes), SEED)


class Box:
    """The feed and the daemon of one machine, over several lives of it."""

    def __init__(self, seed: int, reuses: bool) -> None:
        self.chance = random.Random(seed)
        self.disk = Disk(self.chance, reuses=reuses)
        self.states: dict[int, bytes] = {}
        self.kept = 0
        """Highest revision whose write returned."""
        self.served = 0
        """Highest revision that any daemon went by."""
        self.daemon: Follower

    def share_of(self, rev: int) -> float:
        offer = lastgood_file.parse(self.states[rev], KEYS).body.rollout
        assert offer is not None
        return offer.regions["eu-1"]

    def live(self, cut_after: float) -> None:
        """Until the power fails, or all is written."""
        self.disk.cut_after = cut_after
        self.disk.on_call = self.maybe_look
        self.daemon = Follower(PLACES, KEYS, self.disk)
        try:
            self.look()
            for _ in range(self.chance.randint(1, 4)):
                rev = max([0, *self.states]) + 1
                raw = self.states[rev] = state(rev, self.chance)
                copy(self.disk, PLACES.state, raw, KEYS)
                self.kept = rev
        except PowerCut:
            pass

    def maybe_look(self) -> None:
        """The daemon lives beside the feed: its second may come between any two calls."""
        if self.chance.random() < 0.4:
            self.look()

    def look(self) -> None:
        self.disk.on_call = lambda: None  # the daemon's own calls can be cut short, too, but not looked into
        try:
            self.daemon.look()
        finally:
            self.disk.on_call = self.maybe_look
        standing = self.daemon.stand(NOW)
        if standing.serving is Serving.STATE:
            self.served = max(self.served, standing.revision)

    def come_up(self) -> None:
        """What must hold on the machine that comes up."""
        self.disk = self.disk.after_cut()
        daemon = Follower(PLACES, KEYS, self.disk)
        daemon.look()
        standing = daemon.stand(NOW)
        raw = self.disk.read(PLACES.state)
        assert raw is not None or self.kept == 0, "the file is gone"
        assert raw is None or raw in self.states.values(), "the file is torn"
        if raw is not None:
            assert lastgood_file.parse(raw, KEYS).body.rev >= self.kept, "what was written is lost"
        if standing.serving is Serving.STATE:
            assert standing.revision >= self.served, "older than what was served, so perhaps wider"
            assert standing.offer is not None
            assert standing.offer.regions["eu-1"] == self.share_of(standing.revision)
        else:
            assert standing.offer is None
            if raw is not None:  # only if a daemon was about to go by one that the cut took away
                assert daemon.problem is Refusal.LOWER_REV
                assert max(self.states) > self.kept
        if max([0, *self.states]) == self.kept > 0:
            assert standing.serving is Serving.STATE, "a good state is not served"


def campaign(cuts: int, reuses: bool = False) -> Counter[str]:
    """So many power cuts, a few in the life of each box. How often what happened."""
    seen: Counter[str] = Counter()
    for seed in itertools.count():
        if seen["cuts"] >= cuts:
            return seen
        box = Box(seed, reuses)
        for _ in range(LIVES):
            box.live(box.chance.randint(0, 60))
            seen["cuts"] += box.disk.calls > box.disk.cut_after
            box.come_up()
            seen["narrowed"] += box.served > box.kept
        box.live(float("inf"))  # and with the store back, all is as it should be
        box.look()
        assert box.daemon.stand(NOW).revision == box.kept
    raise AssertionError


def test_no_power_cut_spoils_the_state_or_makes_it_wider() -> None:
    seen = campaign(1_000)
    assert seen["cuts"] >= 1_000
    # The cuts came where it matters, too: between what a daemon saw and what the disk had of it.
    assert seen["narrowed"] > 20


def broken(drop: str) -> Callable[[Files, str, bytes], None]:
    """`replace` without one of its steps."""

    def replace(files: Files, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        fd = files.create(path if drop == "rename" else f"{folder}/.{name}.new")
        rest = data
        while rest:
            rest = rest[files.write(fd, rest) :]
        if drop != "sync":
            files.sync(fd)
        files.close(fd)
        if drop != "rename":
            files.rename(f"{folder}/.{name}.new", path)
        if drop != "sync_folder":
            files.sync_folder(folder)

    return replace


@pytest.mark.parametrize(
    ("drop", "why"), [("sync", "torn"), ("sync_folder", "lost|gone"), ("rename", "torn|gone")]
)
def test_a_writer_without_one_of_its_steps_is_caught(
    monkeypatch: pytest.MonkeyPatch, drop: str, why: str
) -> None:
    whole = broken("")
    monkeypatch.setattr(lastgood_file, "replace", whole)
    campaign(50)  # the copy of the writer is a good one
    monkeypatch.setattr(lastgood_file, "replace", broken(drop))
    with pytest.raises(AssertionError, match=why):
        campaign(1_000)


def test_a_writer_that_empties_what_a_cut_left_is_caught() -> None:
    with pytest.raises(AssertionError, match="torn"):
        campaign(1_000, reuses=True)


def test_a_daemon_that_notes_no_floor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follower, "_raise_floor", lambda self, floor: setattr(self, "_floor", floor))
    with pytest.raises(AssertionError, match="older than what was served"):
        campaign(1_000)
