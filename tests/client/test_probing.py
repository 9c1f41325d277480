"""How far a region is: real daemons, nobody at all, and answers that are none."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from client.rig import daemon, free_port
from relay.client.probing import is_answer, question, round_trips

THERE, HERE = b"there..8", b"here...8"


def test_a_question_is_a_long_header_of_a_version_that_nobody_speaks() -> None:
    asked = question(THERE, HERE)
    assert len(asked) == 1200
    assert asked[0] & 0xC0 == 0xC0
    assert asked[1:5] == bytes.fromhex("1a2a3a4a")
    assert asked[5:24] == b"\x08" + THERE + b"\x08" + HERE + b"\0"


def test_an_answer_is_of_no_version_and_brings_both_ids_back() -> None:
    good = b"\x80" + bytes(4) + b"\x08" + HERE + b"\x08" + THERE + b"\0\0\0\1"
    assert is_answer(good, THERE, HERE)
    for wrong in (b"", good[:23], b"\x40" + good[1:], question(THERE, HERE)):
        assert not is_answer(wrong, THERE, HERE)
    assert not is_answer(good, HERE, THERE)


@pytest.mark.timeout(120)
async def test_a_daemon_answers_on_udp_and_tcp_and_who_is_not_there_is_left_out(tmp_path: Path) -> None:
    dead = [free_port(kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
    with daemon(tmp_path) as node:
        found = await round_trips(
            {
                "udp": node.url,
                "tcp": node.wss,
                "gone": f"quic://127.0.0.1:{dead[0]}",
                "shut": f"wss://127.0.0.1:{dead[1]}",
            },
            try_s=5.0,
        )
        assert node.metric("relay_udp_answered_total") >= 1
    assert set(found) == {"udp", "tcp"}
    assert all(seconds > 0 for seconds in found.values())
