"""The fuzzer itself: it repeats, it finds, and every decoder is on its list."""

import json

import pytest

import fuzz
from relay.errors import ErrorCode, LocalError, PeerError


def peer_error(_):
    raise PeerError(ErrorCode.GENERAL, "refused")


def local_error(_):
    raise LocalError("ours")


def surprise(data):
    if len(data) > 2:
        raise IndexError("past the end")


def test_the_same_seed_gives_the_same_inputs():
    target = fuzz.Target("t", peer_error, [b"abc", b"defgh"])
    first = [fuzz.make_input(target, 5, number) for number in range(300)]
    assert first == [fuzz.make_input(target, 5, number) for number in range(300)]
    assert first != [fuzz.make_input(target, 6, number) for number in range(300)]
    assert first[:2] == [b"abc", b"defgh"]
    assert len(set(first)) > 200


@pytest.mark.parametrize(
    ("run", "allowed", "is_found"),
    [
        (peer_error, False, False),
        (local_error, False, True),
        (local_error, True, False),
        (surprise, False, True),
    ],
)
def test_only_what_is_outside_the_error_tree_is_a_finding(run, allowed, is_found):
    target = fuzz.Target("t", run, [b"abcdef"], local_errors=allowed)
    fuzz.fuzz([target], 1, lambda: False, rounds=120)
    assert target.executed == 120
    assert bool(target.failures) is is_found
    assert len(target.failures) <= fuzz.MAX_KEPT
    assert fuzz.report([target], 1, 0.0)["ok"] is not is_found


def test_every_target_holds_for_some_hundred_inputs_and_takes_its_goldens(capsys):
    assert fuzz.main(["--rounds", "300", "--seed", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"]
    assert all(row["executed"] == 300 for row in result["targets"])


def test_time_ends_a_run(capsys):
    assert fuzz.main(["--seconds", "0", "--only", "varint"]) == 0
    assert capsys.readouterr().out.startswith("varint")


def test_an_unknown_target_is_named(capsys):
    with pytest.raises(SystemExit):
        fuzz.main(["--only", "nothing"])
    assert "nothing" in capsys.readouterr().err
