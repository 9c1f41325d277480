"""What the lab of the service judges by, without a container: names that must fit each other."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from lab import companions, hookend, sandbox, systemd
from lab.box import _is_first
from relay.feed import signing

ROOT = Path(__file__).parents[2]


def test_what_the_sandbox_must_allow_is_among_what_is_tried() -> None:
    assert set(sandbox.TRIES) >= systemd.ALLOWED_WITH_TURN > systemd.ALLOWED
    assert set(sandbox.TRIES) >= companions.ALLOWED_CANARY | companions.ALLOWED_FEED
    assert len(sandbox.TRIES) >= 40


def test_no_program_may_write_where_another_keeps_its_things() -> None:
    own = {"write the daemon's state", "write the feed's state", "write the canary's folder"}
    assert systemd.ALLOWED_WITH_TURN & own == {"write the daemon's state"}
    assert companions.ALLOWED_FEED & own == {"write the feed's state"}
    assert companions.ALLOWED_CANARY & own == {"write the canary's folder"}


def letter(seq: int, signed: bool = True) -> dict[str, Any]:
    return {"signed": signed, "event": {"seq": seq} if signed else {}}


@pytest.mark.parametrize(
    ("letters", "wrong"),
    [
        ([letter(7), letter(8), letter(7), letter(9)], [0, 0, 0]),  # one came again
        ([letter(7), letter(9)], [0, 1, 0]),
        ([letter(7), letter(9), letter(8)], [0, 0, 1]),
        ([letter(7), letter(8, signed=False)], [1, 0, 0]),
        ([], [0, 1, 0]),
    ],
)
def test_letters_that_are_missing_forged_or_out_of_order_are_counted(
    letters: list[dict[str, Any]], wrong: list[int]
) -> None:
    assert list(companions.faults(letters).values()) == wrong


def test_the_end_of_webhooks_takes_what_the_feed_signs_and_nothing_else() -> None:
    secret, body, now = b"s" * 24, b'{"seq": 7}', int(time.time())
    signed = dict(signing.headers("a-7", now, body, [b"t" * 24, secret]))
    assert hookend.is_signed(secret, signed, body)
    assert not hookend.is_signed(secret, signed, body + b" ")
    assert not hookend.is_signed(b"u" * 24, signed, body)
    old = dict(signing.headers("a-7", now - 400, body, [secret]))
    assert not hookend.is_signed(secret, old, body)
    assert not hookend.is_signed(secret, {}, body)


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
