"""What the lab of the service judges by, without a container: names that must fit each other."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lab import sandbox, systemd
from lab.box import _is_first

ROOT = Path(__file__).parents[2]


def test_what_the_sandbox_must_allow_is_among_what_is_tried() -> None:
    assert set(sandbox.TRIES) >= systemd.ALLOWED_WITH_TURN > systemd.ALLOWED
    assert len(sandbox.TRIES) >= 40


def test_the_document_tells_each_stage_in_its_order() -> None:
    text = (ROOT / "docs/lab.md").read_text()
    table = text.partition("## The service on a machine")[2].partition("`--quick`")[0]
    assert re.findall(r"^\| `([a-z]+)` \|", table, flags=re.M) == list(systemd.STAGES)


def test_files_of_others_are_not_counted_as_left_behind() -> None:
    for name in ("etc/group-", "var/lib/dpkg/status", "usr/lib/python3.11/__pycache__/abc.pyc"):
        assert systemd.OTHERS.search(name), name
    for name in ("etc/relay/relay.toml", "opt/relay/current", "var/lib/private/relay/records.sqlite"):
        assert not systemd.OTHERS.search(name), name


def test_a_process_of_this_machine_is_not_the_first_of_a_container() -> None:
    assert not _is_first(str(os.getpid()))
    assert not _is_first("0")
