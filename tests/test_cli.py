"""The command line: every subcommand's help, every refusal with its exit status, and what is written."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay import __version__
from relay.cli import DONE, FAILED, USAGE, main
from relay.config import Config, parse
from relay.core.events import CallRecord, ParticipantRecord
from relay.ops.history import database, insert
from relay.protocol import command, token
from relay.protocol.keys import read_key
from relay.protocol.signed import public_of

CALL, SUB, PEER = "10" * 16, "50" * 16, "51" * 16

Json = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> Json:
    """Run with --json; exit status and the one object."""

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        status = main([*words, "--json"])
        (line,) = capsys.readouterr().out.splitlines()
        return status, json.loads(line)

    return run


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "issuer.key"
    assert main(["token", "keygen", str(path)]) == DONE
    capsys.readouterr()
    return path


# ---------------------------------------------------------------- help and usage

HELPS = [
    [],
    ["serve"],
    ["check-config"],
    ["call"],
    ["token", "keygen"],
    ["token", "mint"],
    ["token", "inspect"],
    *(["command", op] for op in ("end", "mute", "remove", "block", "revoke", "send")),
    ["records", "list"],
    ["records", "erase"],
    ["status"],
    ["feed"],
    *(["feed", action] for action in ("status", "list", "replay", "drop", "secret")),
    ["demo"],
]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_shows_examples_and_exit_status(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  relay " in text
    assert "exit status" in text
    assert not words or "--json" in text


@pytest.mark.parametrize("words", [[], ["dance"], ["token"], ["call"], ["command", "end"], ["serve", "--no"]])
def test_wrong_usage_exits_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == USAGE
    assert "usage: relay" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"relay {__version__}\n"


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relay", "check-config", "/nowhere.toml"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == USAGE
    assert done.stderr.startswith("relay: /nowhere.toml: cannot be read: No such file or directory (")


def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("")
    words = [sys.executable, "-m", "relay", "check-config", str(tmp_path / "c.toml")]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    os.close(writing)
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("relay.commands.node.load", interrupted)
    assert main(["check-config"]) == FAILED
    assert capsys.readouterr().err == "relay: interrupted\n"


# ---------------------------------------------------------------- check-config


def test_check_config_prints_the_whole_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nlegs = 7\n")
    assert main(["check-config", str(tmp_path / "c.toml"), "--set", "limits.calls=3"]) == DONE
    out, err = capsys.readouterr()
    config = parse(out)
    assert (config.limits.legs, config.limits.calls) == (7, 3)
    assert "warning: tokens.issuers" in err


def test_check_config_for_machines_carries_tree_and_warnings(tmp_path: Path, run_json: Json) -> None:
    (tmp_path / "c.toml").write_text('[listen]\nmetrics = "0.0.0.0:9464"\n[node]\ncluster = "eu"\n')
    status, facts = run_json("check-config", str(tmp_path / "c.toml"))
    assert status == DONE
    assert facts["config"]["node"]["cluster"] == "eu"
    assert [text.partition(":")[0] for text in facts["warnings"]] == ["tokens.issuers", "listen.metrics"]


def test_a_wrong_key_names_itself_and_the_nearest(tmp_path: Path, run_json: Json) -> None:
    (tmp_path / "c.toml").write_text("[limits]\nleg = 7\n")
    status, facts = run_json("check-config", str(tmp_path / "c.toml"))
    assert status == USAGE
    assert facts == {
        "ok": False,
        "error": "limits.leg: unknown key (did you mean legs?)",
        "key": "limits.leg",
    }


def test_check_config_reads_the_files_when_asked(tmp_path: Path, run_json: Json) -> None:
    (tmp_path / "c.toml").write_text(f'[cluster]\nkey_file = "{tmp_path}/none"\n')
    status, facts = run_json("check-config", str(tmp_path / "c.toml"), "--files")
    assert (status, facts["key"]) == (USAGE, "cluster.key_file")


# ---------------------------------------------------------------- token


def test_keygen_writes_a_secret_only_its_owner_can_read(tmp_path: Path, run_json: Json) -> None:
    path = tmp_path / "issuer.key"
    status, facts = run_json("token", "keygen", str(path))
    seed = read_key(path.read_text())
    assert status == DONE
    assert path.stat().st_mode & 0o777 == 0o600
    assert facts["public_key"] == public_of(seed).hex()
    assert facts["kid"] == token.kid_of(public_of(seed)).hex()
    assert seed.hex() not in json.dumps(facts)


def test_keygen_prints_what_goes_into_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["token", "keygen", str(tmp_path / "k")])
    text = capsys.readouterr().out.split("\n\n", 1)[1]
    assert parse(text).tokens.issuers[0].name == "app"


def test_keygen_overwrites_nothing(key: Path, run_json: Json) -> None:
    before = key.read_text()
    status, facts = run_json("token", "keygen", str(key))
    assert status == USAGE
    assert "exists already" in facts["error"]
    assert key.read_text() == before


def test_keygen_for_a_cluster_has_no_public_half(tmp_path: Path, run_json: Json) -> None:
    status, facts = run_json("token", "keygen", "--cluster", str(tmp_path / "relay.key"))
    assert (status, set(facts)) == (DONE, {"ok", "file"})
    assert len(read_key((tmp_path / "relay.key").read_text())) == 32


def test_keygen_into_no_folder_names_the_option(tmp_path: Path, run_json: Json) -> None:
    status, facts = run_json("token", "keygen", str(tmp_path / "no" / "k"))
    assert (status, facts["key"]) == (USAGE, "FILE")


def test_mint_signs_for_two_people_of_one_call(key: Path, tmp_path: Path, run_json: Json) -> None:
    files = [str(tmp_path / "a.tok"), str(tmp_path / "b.tok")]
    words = ["--out", files[0], "--out", files[1], "--contact", "--age", "adult", "--ttl", "60"]
    status, facts = run_json("token", "mint", "--key", str(key), *words)
    assert status == DONE
    public = public_of(read_key(key.read_text()))
    claims = [
        token.verify(token.from_text(Path(file).read_text()), {token.kid_of(public): public})
        for file in files
    ]
    assert [one.cid.hex() for one in claims] == [facts["call"]] * 2
    assert claims[0].sub != claims[1].sub
    assert claims[0].jti != claims[1].jti
    assert all((one.exp - one.iat, one.ctc, one.age) == (60, 1, token.AGE_ADULT) for one in claims)
    assert all(os.stat(file).st_mode & 0o777 == 0o600 for file in files)


def test_mint_takes_every_claim(key: Path, run_json: Json) -> None:
    words = (
        f"--call {CALL} --sub {SUB} --audience eu --issuer app2 --role host --may send,moderate "
        f"--up 1 --down 2 --pps 3 --participants 4 --host-admits --relay-only --tcp --person {PEER} "
        f"--device-key {'0a' * 32} "
        "--minutes 5 --region eu-1 --home fra-1"
    ).split()
    _, facts = run_json("token", "mint", "--key", str(key), *words)
    claims = token.decode_claims(token.parse(token.from_text(facts["tokens"][0]["token"])).body)
    assert (claims.cid.hex(), claims.sub.hex(), claims.aud, claims.iss) == (CALL, SUB, "eu", "app2")
    assert (claims.rol, claims.prm, claims.lim) == (token.ROLE_HOST, 1 | 32, (1, 2, 3, 4))
    assert (claims.gate, claims.net) == (token.GATE_HOST_ADMITS, token.NET_RELAY_ONLY | token.NET_TCP_LEGS)
    assert claims.ru is not None
    assert claims.home == "fra-1"
    assert (claims.ru.hex(), claims.dur, claims.rgn, claims.cnf) == (
        PEER,
        300,
        "eu-1",
        bytes.fromhex("0a" * 32),
    )


@pytest.mark.parametrize(
    ("words", "key_named"),
    [
        (["--call", "abc"], "--call"),
        (["--sub", "zz" * 16], "--sub"),
        (["--sub", SUB, "--out", "x", "--out", "y"], "--sub"),
        (["--may", "fly"], "--may"),
        (["--ttl", "0"], "--ttl"),
        (["--device-key", "00"], "--device-key"),
        (["--person", "00"], "--person"),
    ],
)
def test_mint_refuses_by_option(key: Path, run_json: Json, words: list[str], key_named: str) -> None:
    status, facts = run_json("token", "mint", "--key", str(key), *words)
    assert (status, facts["key"]) == (USAGE, key_named)


def test_mint_with_a_broken_key_file_names_the_option(tmp_path: Path, run_json: Json) -> None:
    (tmp_path / "k").write_text("not base64!")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for file in ("k", "latin", "none"):
        status, facts = run_json("token", "mint", "--key", str(tmp_path / file))
        assert (status, facts["key"]) == (USAGE, "--key")


def _minted(key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "a.tok"
    main(["token", "mint", "--key", str(key), "--out", str(path), "--age", "16_17", "--person", PEER])
    capsys.readouterr()
    return path


def test_inspect_shows_the_call_and_hides_the_person(
    key: Path, tmp_path: Path, run_json: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _minted(key, tmp_path, capsys)
    status, facts = run_json("token", "inspect", str(path))
    assert status == DONE
    assert facts["signature"] == "not checked"
    assert facts["claims"]["aud"] == Config().node.cluster
    assert not {"age", "ru"} & set(facts["claims"])
    _, everything = run_json("token", "inspect", str(path), "--all")
    assert (everything["claims"]["age"], everything["claims"]["ru"]) == (2, PEER)


def test_inspect_checks_the_signature_when_given_a_key(
    key: Path, tmp_path: Path, run_json: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _minted(key, tmp_path, capsys)
    public = public_of(read_key(key.read_text()))
    assert run_json("token", "inspect", str(path), "--public-key", public.hex())[1]["signature"] == "holds"
    other = public_of(bytes(32)).hex()
    status, facts = run_json("token", "inspect", str(path), "--public-key", other)
    assert (status, facts["key"]) == (FAILED, "TOKEN_INVALID")


def test_inspect_of_garbage_fails(tmp_path: Path, run_json: Json) -> None:
    (tmp_path / "x").write_text("garbage")
    assert run_json("token", "inspect", str(tmp_path / "x"))[0] == FAILED


# ---------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["end", "--call", CALL], {"op": "end", "cid": CALL}),
        (["mute", "--call", CALL, "--sub", SUB], {"op": "mute", "sub": SUB, "on": True}),
        (["mute", "--call", CALL, "--sub", SUB, "--off"], {"op": "mute", "on": False}),
        (["remove", "--call", CALL, "--sub", SUB], {"op": "remove", "cid": CALL, "sub": SUB}),
        (["block", "--sub", SUB, "--peer", PEER], {"op": "block", "sub": SUB, "peer": PEER, "cid": None}),
        (["revoke", "--key-id", "0f" * 8], {"op": "revoke", "kid": "0f" * 8}),
        (["revoke", "--token-id", CALL, "--person", PEER], {"jti": CALL, "ru": PEER}),
    ],
)
def test_an_order_is_signed_as_asked(
    key: Path, run_json: Json, words: list[str], fields: dict[str, object]
) -> None:
    status, facts = run_json("command", *words, "--key", str(key), "--print", "--ttl", "20")
    public = public_of(read_key(key.read_text()))
    order = command.verify(base64.b64decode(facts["line"]), {token.kid_of(public): public})
    assert status == DONE
    assert order.exp - order.iat == 20
    for name, wanted in fields.items():
        value = getattr(order, name)
        assert (value.hex() if isinstance(value, bytes) else value) == wanted


def test_two_orders_are_never_the_same(key: Path, run_json: Json) -> None:
    words = ["command", "end", "--call", CALL, "--key", str(key), "--print"]
    assert run_json(*words)[1]["line"] != run_json(*words)[1]["line"]


def test_an_order_without_its_object_fails(key: Path, run_json: Json) -> None:
    assert run_json("command", "revoke", "--key", str(key), "--print")[0] == FAILED
    status, facts = run_json("command", "end", "--call", "12", "--key", str(key))
    assert (status, facts["key"]) == (USAGE, "--call")


def test_an_order_to_nobody_fails_in_one_line(key: Path, tmp_path: Path, run_json: Json) -> None:
    words = ["command", "end", "--call", CALL, "--key", str(key), "--socket", str(tmp_path / "none")]
    status, facts = run_json(*words)
    assert status == FAILED
    assert "No such file" in facts["error"]


# ---------------------------------------------------------------- serve


@pytest.mark.parametrize(("words", "format_"), [([], "json"), (["--log-format", "text"], "text")])
def test_logs_are_for_people_when_serve_is_told_so_and_stay_it_over_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], format_: str
) -> None:
    from relay import daemon
    from relay.config import load

    seen = []

    def serve(config: Config, path: str, assignments: list[str]) -> int:
        seen.append((config.log.format, load(path, assignments).log.format))
        return 0

    monkeypatch.setattr(daemon, "run", serve)
    (tmp_path / "c.toml").write_text("")
    assert main(["serve", "--config", str(tmp_path / "c.toml"), *words]) == DONE
    assert seen == [(format_, format_)]


# ---------------------------------------------------------------- records, status, call


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.sqlite"
    people = tuple(
        ParticipantRecord(s, i, 1.0, 9.0, True, "completed", {}, 100, 99, 99, 1, {}, {})
        for i, s in enumerate((SUB, PEER))
    )
    with database(path) as connection:
        insert(connection, "n1", CallRecord(CALL, 1.0, 2.0, 9.0, "completed", "", "eu", people))
        insert(connection, "n1", CallRecord(SUB, 1.0, None, 9.5, "failed", "gone", "eu", people[:1]))
    return path


def test_records_are_listed_newest_first(records: Path, run_json: Json) -> None:
    status, facts = run_json("records", "list", "--file", str(records))
    assert status == DONE
    assert [call["outcome"] for call in facts["calls"]] == ["failed", "completed"]
    assert not run_json("records", "list", "--file", str(records), "--days", "1")[1]["calls"]


def test_records_are_shown_as_a_table(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "list", "--file", str(records)]) == DONE
    text = capsys.readouterr().out
    assert "completed" in text
    assert "2 calls" in text


STORY = ((0.0, "leg", "quic"), (1.0, "accepted", ""), (3.5, "way", "lossy_b"))


@pytest.fixture
def told(tmp_path: Path) -> Path:
    path = tmp_path / "told.sqlite"
    mark = {"mos": 3.9, "residual_loss": 0.01, "direct_s": 4.0}
    people = (
        ParticipantRecord(
            SUB, 0, 1.0, 9.0, True, "completed", {"os": "linux", "sdk": "py"}, 99, 98, 98, 1,
            {"muted": 1}, mark, "quic", STORY,
        ),
        ParticipantRecord(PEER, 1, 2.0, 9.0, False, "gone", {}, 0, 0, 0, 0, {}, {}),
    )  # fmt: skip
    with database(path) as connection:
        insert(connection, "n1", CallRecord(CALL, 1.0, 2.0, 9.0, "completed", "", "eu", people))
        insert(connection, "n1", CallRecord(SUB, 1.0, None, 9.5, "failed", "gone", "eu", ()))
    return path


def test_a_call_is_explained_leg_by_leg_by_the_reference_that_logs_and_clients_say(
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", CALL[:12], "--file", str(told)]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"call {CALL[:12]} at n1 in eu"
    assert lines[1].endswith("UTC: rang 1.0 s, talked 7.0 s, completed")
    assert "participant 0 (linux py), accepted" in lines
    assert "       3.5 s  way: lossy_b" in lines
    assert "       8.0 s  ended: completed" in lines
    assert "  sent      99 packets came, 1 lost on the way (1.0 %); dropped: muted 1" in lines
    assert "  heard     mos 3.9, residual_loss 0.01" in lines
    assert "  directly  4 s past the relay" in lines
    assert "participant 1 (unknown client), never accepted" in lines
    assert "       1.0 s  joined: an older version kept no more" in lines
    assert not any(SUB in line or PEER in line for line in lines)


def test_a_call_that_nobody_answered_is_explained(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", SUB, "--file", str(told)]) == DONE
    assert "rang 8.5 s, was not answered, failed (gone)" in capsys.readouterr().out


def test_a_call_is_explained_to_machines_too(told: Path, run_json: Json) -> None:
    status, facts = run_json("explain", CALL[:8].upper(), "--file", str(told))
    assert status == DONE
    assert [tuple(line) for line in facts["calls"][0]["participants"][0]["story"]] == list(STORY)


def test_a_call_without_a_record_and_what_is_no_reference_are_told_apart(told: Path, run_json: Json) -> None:
    status, facts = run_json("explain", "ffffffffffff", "--file", str(told))
    assert (status, "no record" in facts["error"]) == (FAILED, True)
    for wrong in ("1011", "zz" * 6, "10111213*", "10" * 17):
        status, facts = run_json("explain", wrong, "--file", str(told))
        assert (status, facts["key"]) == (USAGE, "CALL")


def test_a_pseudonym_is_erased(records: Path, run_json: Json) -> None:
    assert run_json("records", "erase", SUB, "--file", str(records)) == (DONE, {"ok": True, "erased": 2})
    assert run_json("records", "list", "--file", str(records), "--sub", SUB)[1]["calls"] == []
    assert len(run_json("records", "list", "--file", str(records))[1]["calls"]) == 1


def test_records_that_are_not_there_are_named(tmp_path: Path, run_json: Json) -> None:
    status, facts = run_json("records", "list", "--file", str(tmp_path / "none"))
    assert (status, facts["key"]) == (USAGE, "records.path")
    (tmp_path / "c.toml").write_text('[records]\npath = ""\n')
    status, facts = run_json("records", "list", "--config", str(tmp_path / "c.toml"))
    assert (status, facts["key"]) == (USAGE, "records.path")


def test_status_of_nobody_fails_in_one_line(run_json: Json) -> None:
    status, facts = run_json("status", "--url", "http://127.0.0.1:1")
    assert status == FAILED
    assert "is the daemon there?" in facts["error"]


@pytest.mark.parametrize(
    ("words", "key_named"),
    [
        (["--in", "a.wav", "--tone", "440"], "--tone"),
        (["--in", "a.wav", "--out", "a.wav"], "--out"),
        (["--tone", "440"], "--token-file"),
    ],
)
def test_call_refuses_by_option(tmp_path: Path, run_json: Json, words: list[str], key_named: str) -> None:
    missing = str(tmp_path / "none.tok")
    status, facts = run_json("call", "--url", "quic://127.0.0.1:1", "--token-file", missing, *words)
    assert (status, facts["key"]) == (USAGE, key_named)


def test_call_refuses_a_url_of_another_kind(
    key: Path, tmp_path: Path, run_json: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _minted(key, tmp_path, capsys)
    status, facts = run_json("call", "--url", "https://relay.example", "--token-file", str(path))
    assert status == FAILED
    assert "quic://host:port" in facts["error"]


def test_demo_tells_what_held_and_what_broke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leg = {"name": "anna", "sent": 5, "received": 5, "lost": 0, "pesq": 4.4, "heard": "x.wav"}
    report = {"ok": False, "legs": [leg], "checks": {"gate_held": True, "counters_agree": False}}
    monkeypatch.setattr("relay.demo.run", lambda *_: report)
    assert main(["demo"]) == FAILED
    text = capsys.readouterr().out
    assert "held: gate held" in text
    assert "BROKEN: counters agree" in text
