"""The lab of faults: its pure parts, and that its shim does to a process what it says."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.faultnode import parse
from lab.faults import TABLE, lacking, wanted_of
from lab.faultscene import CONTROL, complaints, is_missing_anywhere, missing, sort_lines
from lab.faultshim import Shim
from lanes import HAS_NATIVE

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim is compiled by gcc")
SENDS = """
import errno, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
told = []
for _ in range(4):
    try:
        told.append(sock.sendto(b"four", sock.getsockname()))
    except OSError as error:
        told.append(errno.errorcode[error.errno])
left, right = socket.socketpair()
print(told, left.send(b"five"))
"""


def test_faults_have_names_of_their_own_and_stand_in_the_docs() -> None:
    names = [fault.name for fault in TABLE]
    assert len(set(names)) == len(names)
    text = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


def test_lines_are_counted_by_their_beginning_and_strange_ones_are_told() -> None:
    found = ["no room: EMFILE", "no room: ENFILE", "what is this"]
    assert sort_lines(found, {"no room": 1, "full": 1}) == ({"no room": 2, "full": 0}, ["what is this"])


def test_a_complaint_is_a_warning_or_worse_or_no_line_of_the_log() -> None:
    lines = ['{"level": "info", "message": "a"}', '{"level": "warning", "message": "b"}', "Traceback", "[1]"]
    assert complaints([parse(line) for line in lines]) == ["b", "Traceback", "[1]"]


def test_what_was_missed_is_the_worst_direction_of_its_group() -> None:
    marks = [{"group": "calls", "gap_ms": 20}, {"group": "calls", "gap_ms": 60}]
    marks += [{"group": CONTROL, "gap_ms": 100}]
    assert (missing(marks, False), missing(marks, True), missing([], False)) == (60, 100, 0)


def test_what_cannot_be_injected_is_said_by_what_is_missing() -> None:
    needs = {fault.name: is_missing_anywhere(["native", "root"], fault) for fault in TABLE}
    assert (needs["enospc"], needs["lane-ends"], needs["emfile"]) == ("root", "native", "")
    assert ("native" in lacking()) is not HAS_NATIVE


def test_the_lane_without_threads_has_no_fault_of_threads() -> None:
    assert {fault.name for fault in TABLE} - {fault.name for fault in wanted_of(None, "python")} == {
        "lane-panics",
        "lane-ends",
    }
    assert [fault.name for fault in wanted_of("emfile", "auto")] == ["emfile"]
    assert wanted_of("lane-ends", "python") == []


def child(shim: Shim, program: str) -> str:
    words = [sys.executable, "-c", program]
    return subprocess.run(
        words, env=shim.environment, capture_output=True, text=True, check=True, timeout=30
    ).stdout


@needs_gcc
def test_the_shim_refuses_udp_and_nothing_else_as_often_as_it_is_told(tmp_path: Path) -> None:
    shim = Shim(tmp_path)
    assert child(shim, SENDS) == "[4, 4, 4, 4] 4\n"
    shim.set(send_errno=errno.ENOBUFS, send_every=2)
    assert child(shim, SENDS) == "[4, 'ENOBUFS', 4, 'ENOBUFS'] 4\n"
    assert (shim.get("sends"), shim.get("refused")) == (4, 2)
    shim.quiet()
    assert child(shim, SENDS) == "[4, 4, 4, 4] 4\n"


@needs_gcc
def test_the_shim_moves_the_wall_clock_and_leaves_the_other_one(tmp_path: Path) -> None:
    shim = Shim(tmp_path)
    shim.set(wall_offset=-3600)
    wall, steady = map(float, child(shim, "import time; print(time.time(), time.monotonic())").split())
    assert abs(time.time() - 3600 - wall) < 20
    assert abs(time.monotonic() - steady) < 20
