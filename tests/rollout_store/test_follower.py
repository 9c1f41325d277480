"""The daemon's side of the last-known-good state, on a real disk: read again, never widened."""

from __future__ import annotations

import os
import stat as modes
from pathlib import Path

import pytest

from relay.protocol.signed import public_of
from relay.rollout import lastgood_file
from relay.rollout.lastgood import LIFE_S, Body, Offer, Refusal, RefusedError, Serving, accepted, seal
from relay.rollout.lastgood_file import Follower, OsFiles, Places, copy, remove, replace

SEED, NEXT = bytes(32), b"\1" * 32
KEYS = accepted([public_of(SEED)])
NOW = 1_800_000_000


def state(rev: int, share: float | None = 5, seed: bytes = SEED) -> bytes:
    offer = None if share is None else Offer("r1", "s1", regions={"eu-1": share})
    return seal(Body(rev, NOW, NOW + LIFE_S, offer), seed)


class Box:
    """Files of one machine."""

    def __init__(self, folder: Path) -> None:
        self.path, self.floor, self.kill = folder / "lastgood", folder / "floor", folder / "kill"
        self.places = Places(str(self.path), str(self.floor), (str(self.kill), ""))
        self.daemon = self.start()

    def start(self) -> Follower:
        self.daemon = Follower(self.places, KEYS)
        return self.daemon

    def put(self, raw: bytes) -> None:
        replace(OsFiles(), str(self.path), raw)

    def share(self) -> float | None:
        """What the daemon goes by after a look."""
        self.daemon.look()
        offer = self.daemon.stand(NOW).offer
        return None if offer is None else offer.regions["eu-1"]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_new_revision_is_gone_by_and_every_other_file_leaves_what_was(box: Box) -> None:
    assert box.share() is None
    assert box.daemon.stand(NOW).serving is Serving.NONE
    box.put(state(2, 5))
    assert box.share() == 5
    wrong = {
        Refusal.LOWER_REV: state(1, 100),
        Refusal.OTHER_BYTES: state(2, 100),
        Refusal.UNKNOWN_KEY: state(3, 100, NEXT),
        Refusal.BAD_SIGNATURE: state(3, 25).replace(b'"eu-1":25', b'"eu-1":99'),
        Refusal.MALFORMED: b"",
        Refusal.TOO_LARGE: b"x" * 600_000,
    }
    for why, raw in wrong.items():
        box.put(raw)
        assert box.share() == 5, why
        assert box.daemon.problem is why
        box.share()
        assert box.daemon.refused[why] == 1  # once, not at each look
    box.path.unlink()
    assert box.share() == 5
    box.put(state(3, 25))
    assert box.share() == 25
    assert box.daemon.problem is None


def test_a_restart_forgets_no_revision(box: Box) -> None:
    box.put(state(4, 5))
    assert box.share() == 5
    box.put(state(3, 100))  # put back by somebody, or by a disk that lost a rename
    box.start()
    assert box.share() is None
    assert box.daemon.problem is Refusal.LOWER_REV
    box.put(state(4, 5))
    assert box.share() == 5
    box.floor.write_text("7")
    box.start()
    assert box.share() is None
    assert box.daemon.problem is Refusal.BAD_FLOOR


def test_a_floor_that_cannot_be_noted_keeps_nobody_from_closing(box: Box) -> None:
    box.put(state(1, 100))
    assert box.share() == 100
    box.floor.unlink()
    box.floor.mkdir()  # nothing can be renamed over it
    (box.floor / "x").touch()
    box.put(state(2, 0))
    assert box.share() == 0


def test_a_kill_file_counts_at_the_next_look_and_so_does_its_end(box: Box) -> None:
    box.put(state(1, 5))
    assert box.share() == 5
    box.kill.write_text("r2\n")
    assert box.share() == 5
    box.kill.write_text("r1  # calls break\n")
    assert box.share() is None
    assert box.daemon.stand(NOW).serving is Serving.KILLED
    box.kill.unlink()
    assert box.share() == 5
    box.kill.mkdir()  # whatever that is: somebody wanted something
    assert box.share() is None


def test_keys_rotate_by_a_reload(box: Box) -> None:
    box.put(state(1, 5))
    assert box.share() == 5
    box.put(state(2, 25, NEXT))
    assert box.share() == 5
    both = accepted([public_of(SEED), public_of(NEXT)])
    box.daemon.configure(box.places, both)
    assert box.share() == 25
    box.daemon.configure(box.places, accepted([public_of(NEXT)]))
    assert box.share() == 25
    box.daemon.configure(box.places, accepted([public_of(SEED)]))  # the new one is lost, say
    assert box.share() is None


def test_age_is_that_of_the_feeds_last_touch_and_a_touch_is_no_new_state(box: Box) -> None:
    assert box.daemon.age(NOW) is None
    box.put(state(1, 5))
    OsFiles().touch(str(box.path), NOW - 30)
    box.share()
    assert box.daemon.age(NOW) == 30
    box.put(b"nonsense")
    OsFiles().touch(str(box.path), NOW - 20)
    box.share()
    OsFiles().touch(str(box.path), NOW - 10)
    box.share()
    assert box.daemon.age(NOW) == 10
    assert box.daemon.refused == {Refusal.MALFORMED: 1}
    box.path.unlink()
    box.share()
    assert box.daemon.age(NOW) == 10


def test_files_that_cannot_be_read_are_told_once(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.put(state(1, 5))
    assert box.share() == 5

    class Broken(OsFiles):
        def stamp(self, path: str) -> lastgood_file.Stamp | None:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(box.daemon, "_files", Broken())
    assert [box.share() for _ in range(3)] == [5, 5, 5]
    assert box.daemon.refused == {Refusal.UNREADABLE: 1}


def test_the_writer_leaves_one_file_for_all_to_read_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "lastgood"
    before = os.umask(0o077)
    try:
        for rev in (1, 2):
            copy(OsFiles(), str(path), state(rev), KEYS)
    finally:
        os.umask(before)
    assert modes.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["lastgood"]
    assert path.read_bytes() == state(2)
    remove(OsFiles(), str(path))
    remove(OsFiles(), str(path))
    assert os.listdir(tmp_path) == []


def test_two_processes_that_write_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "floor"

    class Other(OsFiles):
        @property
        def tag(self) -> str:
            return "other"

    class One(OsFiles):
        def sync(self, fd: int) -> None:
            replace(Other(), str(path), b"theirs")  # in the midst of ours
            super().sync(fd)

    replace(One(), str(path), b"ours")
    assert path.read_bytes() == b"ours"
    assert os.listdir(tmp_path) == ["floor"]


def test_the_feed_copies_nothing_older_or_unsigned_and_mends_what_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "lastgood"
    path.write_bytes(b"torn")
    copy(OsFiles(), str(path), state(2, 5), KEYS)
    inode = path.stat().st_ino
    copy(OsFiles(), str(path), state(2, 5), KEYS)
    assert path.stat().st_ino == inode  # the same is not written again
    for raw, why in (
        (state(1, 1), Refusal.LOWER_REV),
        (state(2, 1), Refusal.OTHER_BYTES),
        (state(3, 1, NEXT), Refusal.UNKNOWN_KEY),
    ):
        with pytest.raises(RefusedError) as error:
            copy(OsFiles(), str(path), raw, KEYS)
        assert error.value.why is why
    assert path.read_bytes() == state(2, 5)


def test_a_write_is_synced_renamed_and_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, f=real: (calls.append(n), f(*args))[1])
    replace(OsFiles(), str(tmp_path / "x"), b"y" * 100_000)
    assert calls == ["fsync", "replace", "fsync"]
