"""The folder of qlogs on a real disk: who may read it, what is erased, what a disk that fails does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from relay.config_qlog import QlogConfig
from relay.ops.qlogs import QlogFolder, found, name_of, tidy

NOW = 1_795_239_355.0
REFERENCE = "101112131415"


@pytest.fixture
def config(tmp_path: Path) -> QlogConfig:
    return QlogConfig(path=str(tmp_path / "qlog"))


def put(config: QlogConfig, name: str, size: int, days_ago: float) -> Path:
    path = Path(config.path) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - 86_400 * days_ago,) * 2)
    return path


def test_files_grow_in_order_and_are_nobody_elses_to_read(config: QlogConfig) -> None:
    folder, name = QlogFolder(), name_of(REFERENCE, 0, NOW, 7)
    for text in (b"a", b"b"):
        folder.write(config, [(name, text), ("other.sqlog", text)])
        folder.settle()
        assert folder.problem() == ""
    path = Path(config.path) / name
    assert path.read_bytes() == b"ab"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    folder.close()


def test_a_write_that_fails_is_told_once(config: QlogConfig) -> None:
    folder = QlogFolder()
    Path(config.path).write_text("no folder")
    folder.write(config, [("a.sqlog", b"a")])
    folder.settle()
    assert folder.problem() == "File exists"
    assert folder.problem() == ""
    folder.close()


def test_a_path_that_no_file_can_have_is_a_problem_and_no_end_of_the_daemon() -> None:
    folder = QlogFolder()
    folder.write(QlogConfig(path="/tmp/\0"), [("a.sqlog", b"a")])
    folder.settle()
    assert folder.problem() == "ValueError"
    folder.close()


def test_a_link_that_somebody_laid_there_is_not_followed(config: QlogConfig, tmp_path: Path) -> None:
    Path(config.path).mkdir()
    (Path(config.path) / "a.sqlog").symlink_to(tmp_path / "else")
    folder = QlogFolder()
    folder.write(config, [("a.sqlog", b"a")])
    folder.settle()
    assert folder.problem() == "Too many levels of symbolic links"
    assert not (tmp_path / "else").exists()
    folder.close()


def test_files_of_a_call_are_found_by_its_reference_its_id_or_some_digits(config: QlogConfig) -> None:
    names = [name_of(REFERENCE, index, NOW, leg) for index, leg in ((0, 7), (1, 8), (1, 9))]
    for name in (*names, name_of("202122232425", 0, NOW, 10)):
        put(config, name, 1, 0)
    expected = [str(Path(config.path) / name) for name in names]
    for digits in (REFERENCE, "10111213", REFERENCE + "161718191a1b1c1d1e1f"):
        assert found(config.path, digits) == expected
    assert found(config.path, "303132333435") == []
    assert found(config.path + "/none", REFERENCE) == []
    assert found("", REFERENCE) == []


def test_what_is_too_old_is_erased_and_nothing_else(config: QlogConfig) -> None:
    old, young = put(config, "a.sqlog", 10, 7.1), put(config, "b.sqlog", 10, 6.9)
    foreign = put(config, "letter.txt", 10, 100)
    tidy(Path(config.path), config, NOW)
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)


def test_the_oldest_go_until_one_more_file_fits(config: QlogConfig) -> None:
    config = replace(config, file_bytes=100, folder_bytes=400)
    files = [put(config, f"{n}.sqlog", 100, 5 - n) for n in range(4)]
    tidy(Path(config.path), config, NOW)
    assert [path.exists() for path in files] == [False, True, True, True]


def test_a_new_file_makes_room_before_it_begins(config: QlogConfig) -> None:
    config = replace(config, file_bytes=100, folder_bytes=200, days=3_650)
    files = [put(config, f"{n}.sqlog", 100, 5 - n) for n in range(2)]
    folder = QlogFolder()
    folder.write(config, [("new.sqlog", b"a")])
    folder.close()
    assert [path.exists() for path in files] == [False, True]
