"""Takes each guard out of a copy of the program, and requires that its tests fail there and pass here.

Two copies are worked on at once, each broken and mended again, each test run in an interpreter of its own
(forge.py). The tests of all guards also run together in an unbroken copy: a test that fails anyway finds
nothing.
"""

from __future__ import annotations

import compileall
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from hostile.guards import GUARDS, Guard

pytestmark = pytest.mark.timeout(300)  # the first waits for two compiled copies, some for one that hangs
ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
SECONDS = 20  # for one test of a broken build; one that hangs fails by it
PASSED, FAILED = 0, 1  # pytest's exit codes; any other means that nothing was tested

TABLE_TESTS = {
    "PACKETS": "test_packets.py::test_a_packet_of_a_stranger_is_dropped_by_name_or_answered_with_less",
    "FRAMES": "test_packets.py::test_frames_against_the_rules_close_the_connection_with_their_code",
    "TAMPERED": "test_packets.py::test_a_tampered_packet_moves_and_closes_nothing",
    "MEDIA": "test_packets.py::test_a_hostile_datagram_reaches_nobody",
    "COPIES": "test_packets.py::test_a_copy_that_cannot_arrive_is_dropped_by_name",
    "PARTS": "test_trunks.py::test_what_a_guest_makes_up_of_its_people_stays_within_bounds_or_ends_the_trunk",
    "REPORTS": "test_trunks.py::"
    "test_what_another_node_makes_up_of_our_voices_is_dropped_by_name_or_only_counts_there",
    "RELAYED": "test_turn_data.py::test_a_hostile_packet_for_an_allocation_is_dropped_by_its_name",
    "OPENINGS": "test_streams.py::test_a_beginning_is_answered_by_whom_it_is_for_or_closed",
    "WAITINGS": "test_streams.py::test_who_does_not_go_on_is_let_go",
    "MANNERS": "test_packets.py::test_a_connection_without_manners_meets_its_limit",
    "SAID": "test_messages.py::test_a_hostile_message_gets_its_code_and_only_a_fatal_one_ends_the_leg",
    "WAITED": "test_messages.py::test_a_leg_that_only_waits_is_closed_in_time",
    "PASSING": "test_messages.py::test_a_hostile_control_datagram_is_counted_and_never_fatal",
    "SPOKEN": "test_messages.py::test_nobody_hears_what_the_gate_does_not_allow",
    "CLAIMS": "test_admission.py::test_a_token_with_one_claim_wrong_is_refused_with_its_code",
    "ENVELOPES": "test_admission.py::test_a_damaged_token_is_refused_and_nothing_more_is_told",
    "PROOFS": "test_admission.py::test_a_token_in_the_wrong_hands_is_refused",
    "RESUMES": "test_admission.py::test_a_ticket_that_names_no_place_resumes_nothing",
    "ORDERS": "test_admission.py::test_a_command_with_one_thing_wrong_does_nothing",
    "TEXTS": "test_config_refused.py::test_a_wrong_configuration_is_refused_by_key",
}


def node_of(finder: str) -> str:
    """The id by which pytest knows a finder."""
    table, slash, row = finder.partition("/")
    if slash and table in TABLE_TESTS:
        return f"tests/hostile/{TABLE_TESTS[table]}[{row}]"
    return f"tests/{finder}"


class Copy:
    """The program and its tests in a folder of their own, and a process that runs pytest there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("relay", "tests", "scripts", "config"):
            ignore = shutil.ignore_patterns("__pycache__", ".*cache", ".hypothesis", "*.so")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        compileall.compile_dir(folder / "relay", quiet=2)
        compileall.compile_dir(folder / "tests", quiet=2)
        # No run writes bytecode: a broken file and its mended self may have the same size and second.
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self._forge = subprocess.Popen(
            [sys.executable, str(folder / "tests" / "hostile" / "forge.py")],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, finders: tuple[str, ...]) -> tuple[int, str]:
        """Exit status and last words of pytest for these tests."""
        assert self._forge.stdin is not None
        assert self._forge.stdout is not None
        arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
        arguments += ["-o", f"timeout={SECONDS}", *map(node_of, finders)]
        self._forge.stdin.write(json.dumps(arguments) + "\n")
        self._forge.stdin.flush()
        status, words = json.loads(self._forge.stdout.readline())
        return status, words

    def without(self, guard: Guard) -> tuple[int, str]:
        """The same, with one guard out."""
        path = self.folder / "relay" / guard.file
        text, stat = path.read_text(), path.stat()
        bytecode = Path(importlib.util.cache_from_source(str(path)))
        compiled = bytecode.read_bytes()
        bytecode.unlink()
        path.write_text(text.replace(guard.old, guard.new))
        try:
            return self.run(guard.finders)
        finally:
            path.write_text(text)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            bytecode.write_bytes(compiled)

    def close(self) -> None:
        """No more runs."""
        assert self._forge.stdin is not None
        assert self._forge.stdout is not None
        self._forge.stdin.close()
        self._forge.wait(timeout=SECONDS)
        self._forge.stdout.close()


class Workshop:
    """Copies that are taken in turn."""

    def __init__(self, folder: Path, guards: list[Guard]) -> None:
        self._copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(WORKERS):
            self._copies.put(Copy(folder / str(number)))
        self._pool = ThreadPoolExecutor(WORKERS)
        every = tuple(dict.fromkeys(finder for guard in guards for finder in guard.finders))
        self.whole: Future[tuple[int, str]] = self._pool.submit(self._take, None, every)
        self.broken = {guard: self._pool.submit(self._take, guard, ()) for guard in guards}

    def _take(self, guard: Guard | None, finders: tuple[str, ...]) -> tuple[int, str]:
        copy = self._copies.get()
        try:
            return copy.run(finders) if guard is None else copy.without(guard)
        finally:
            self._copies.put(copy)

    def close(self) -> None:
        """Wait for what runs, forget what has not begun."""
        self._pool.shutdown(cancel_futures=True)
        for _ in range(WORKERS):
            self._copies.get().close()


@pytest.fixture(scope="module")
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Begins on every guard that this run asks about, in order."""
    asked = [item.callspec.params["guard"] for item in request.session.items if _is_about_a_guard(item)]
    made = Workshop(tmp_path_factory.mktemp("guards"), [guard for guard in GUARDS if guard in asked])
    yield made
    made.close()


def _is_about_a_guard(item: pytest.Item) -> bool:
    return (
        "guard" in getattr(getattr(item, "callspec", None), "params", {}) and "workshop" in item.fixturenames
    )


def test_there_are_at_least_30_guards_each_with_its_own_sentence() -> None:
    assert len({guard.without_it for guard in GUARDS}) == len(GUARDS) >= 30


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.without_it)
def test_a_guard_stands_where_it_is_said_to_stand(guard: Guard) -> None:
    assert (ROOT / "relay" / guard.file).read_text().count(guard.old) == 1


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.without_it)
def test_without_the_guard_its_tests_fail(guard: Guard, workshop: Workshop) -> None:
    status, words = workshop.broken[guard].result()
    assert status == FAILED, words


def test_with_every_guard_the_same_tests_pass(workshop: Workshop) -> None:
    status, words = workshop.whole.result()
    assert status == PASSED, words
