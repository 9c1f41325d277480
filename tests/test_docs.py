"""The documents against the code: commands, files, tables and examples must be what is there."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import re
import shlex
import struct
import time
import tomllib
from collections.abc import Iterator
from dataclasses import fields as fields_of_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from client.rig import Rig, daemon, public_of
from relay import cli, client
from relay.client import agreement
from relay.client.audio import read_pcm, silence, write_wav
from relay.config import FROZEN, Config
from relay.config_feed import FeedConfig
from relay.config_state import StateConfig
from relay.core.drain import DrainState
from relay.core.machine import Machine
from relay.core.reasons import DropReason
from relay.core.ringing import Why
from relay.core.spread import RESIDENCE, Spread
from relay.core.trunk import Trunk
from relay.core.trunk_half import Half
from relay.errors import ErrorCode
from relay.feed import signing
from relay.feed.commands import CommandsFeed
from relay.feed.intake import Intake
from relay.feed.metrics import FeedCollector, MetricsServer
from relay.feed.nodes import NodesFeed
from relay.feed.signing import format_secret
from relay.feed.state import StateCopier
from relay.feed.store import Store
from relay.ops import metrics
from relay.ops.fleet import AGES
from relay.ops.health import Facts, judge
from relay.ops.region import Standing, State
from relay.ops.snapshot import (
    CanaryCounters,
    FleetCounters,
    NodesCounters,
    Snapshot,
    StateCounters,
    TalkCounters,
)
from relay.protocol import control, messages, signed, trunk_control, trunk_messages
from relay.protocol.command import Command
from relay.protocol.token import Claims
from relay.protocol.trunk_control import TrunkCode
from relay.region import nodelist
from relay.rollout.gate import EXIT, PRECEDENCE
from relay.rollout.guardrails import LIMITS
from relay.rollout.lastgood import Refusal, Serving
from relay.rollout.lastgood_file import OsFiles
from relay.rollout.plan import Caps, Gate, Guardrail, Rollout, Wave, parse_plan
from relay.rollout.store_sqlite import SqliteStore

ROOT = Path(__file__).parent.parent
DOCS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FOLDERS = ("relay", "docs", "tests", "scripts", "config", "systemd")
OUTSIDE = {"relay/relay.key", "relay/relay.toml", "relay/tls", "relay/1"}  # ends of /etc/... and the like
OUTSIDE |= {"relay/_lane.abi3.so"}  # made by a build, where there is cargo


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """What stands between the heading that ends with `title` and the next one of its rank or higher."""
    found = re.search(rf"^(#+) [^\n]*{re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", text(name), re.M | re.S)
    assert found, f"{name} has no section {title}"
    return found[2]


def rows(part: str) -> Iterator[list[str]]:
    """The cells of every table row but the heads."""
    lines = part.splitlines()
    rule = re.compile(r"^\|[-|]+\|$")
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not rule.match(line) and not rule.match(below):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.M | re.S)


def code(part: str) -> list[str]:
    """Spans of code, and the words of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", part, flags=re.M | re.S))


# ---------------------------------------------------------------- commands and files


def commands(name: str) -> list[list[str]]:
    """Every command line of a document's shell blocks, here-documents left out, as words."""
    found = []
    for block in blocks(name, "sh"):
        body = re.sub(r"<<'END'( [^\n]*)?\n.*?^END$", "", block, flags=re.M | re.S).replace("\\\n", " ")
        for line in body.splitlines():
            for part in re.split(r" \| | > | >> | & |&$", line):
                words = shlex.split(part, comments=True)
                while words and re.match(r"^[A-Z_]+=", words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
    return found


SYSTEM = {
    "openssl", "cat", "cd", "mkdir", ".", "tail", "install", "ln", "groupadd", "systemctl",
    "python3", "pip", "dpkg", "cargo", "export",
}  # fmt: skip
OURS = [(name, words) for name in DOCS for words in commands(name) if words[0] not in SYSTEM | {"relay.toml"}]
LABELS = [f"{name}: {' '.join(words)}" for name, words in OURS]


@pytest.mark.parametrize(("name", "words"), OURS, ids=LABELS)
def test_a_command_of_the_documents_exists_with_these_options(name: str, words: list[str]) -> None:
    if words[0] == "relay":
        try:
            cli.parser().parse_args(words[1:])
        except SystemExit as error:
            pytest.fail(f"{name}: relay refuses {words[1:]} ({error.code})")
        return
    script = ROOT / words[0]
    assert words[0].removeprefix("./").startswith("scripts/")
    assert os.access(script, os.X_OK)
    folder = {"./scripts/bench": "load", "./scripts/sim": "sim"}.get(words[0])
    if folder is not None:
        assert (ROOT / "tests" / folder / f"{words[1]}.py").is_file()


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_the_readme_lists_every_subcommand() -> None:
    listed = {}
    for cells in rows(section("README.md", "The command line")):
        listed[cells[0].strip("`").removeprefix("relay ")] = re.findall(r"`([a-z-]+)`", cells[1])
    actual = subcommands(cli.parser())
    assert set(listed) == set(actual)
    for name, parser in actual.items():
        inner = set(subcommands(parser))
        assert inner == set(listed[name]) & inner, name


def named_paths(name: str) -> set[str]:
    """What looks like a path of ours in a document."""
    body = text(name)
    found = set(re.findall(rf"(?<![\w/.-])(?:\./)?((?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/])", body))
    found |= set(re.findall(r"`([A-Z]+(?:\.md)?)`", body)) & {"LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"}
    return found - OUTSIDE


@pytest.mark.parametrize("name", DOCS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    missing = sorted(path for path in named_paths(name) if not any(ROOT.glob(path.rstrip("/"))))
    assert missing == []
    links = re.findall(r"\]\(([\w./-]+)\)", text(name))
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    spans = code(text("docs/architecture.md"))
    modules = {word for span in spans for word in re.findall(r"^[a-z_]+(?:/[a-z_]+)*\.py\b", span)}
    assert len(modules) > 5
    bases = (ROOT, ROOT / "relay")
    assert [each for each in sorted(modules) if not any((base / each).is_file() for base in bases)] == []


def test_the_dependencies_are_those_of_the_project_file() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[><=!~ ]", line)[0] for lines in wanted for line in lines}
    crate = tomllib.loads(text("relay/lane/Cargo.toml"))
    names |= set(crate["dependencies"]) | set(crate.get("dev-dependencies", {}))
    listed = [cells[0].strip("`") for cells in rows(section("README.md", "Dependencies"))]
    assert sorted(listed) == sorted(names)


# ---------------------------------------------------------------- the wire


def fields_in(cell: str) -> dict[str, bool]:
    """Field name -> whether it is optional, of a cell whose fields are spans `name?: what`."""
    spans = [re.match(r"^(\w+)(\??): ", span) for span in re.findall(r"`([^`]+)`", cell)]
    return {found[1]: found[2] == "?" for found in spans if found}


def fields_of(cls: type[msgspec.Struct]) -> dict[str, bool]:
    return {field.encode_name: not field.required for field in msgspec.structs.fields(cls)}


def wire_name(cls: type[msgspec.Struct]) -> str:
    """What a message is called on the wire."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def test_the_table_of_control_messages_is_the_codes() -> None:
    messages_section = section("docs/protocol.md", "Control messages")
    documented = {}
    for cells in rows(messages_section):
        if re.fullmatch(r"`[0-9A-F]{2}`", cells[0]):
            documented[int(cells[0].strip("`"), 16)] = (cells[1], fields_in("|".join(cells[3:])))
    actual = {number: (wire_name(cls), fields_of(cls)) for number, cls in control.MESSAGES.items()}
    assert documented == actual


def test_the_maps_inside_messages_are_the_codes() -> None:
    documented = {
        cells[0].strip("`"): fields_in(cells[1])
        for cells in rows(section("docs/protocol.md", "Control messages"))
        if len(cells) == 2
    }
    assert documented == {
        "caps": fields_of(messages.Caps),
        "cli": fields_of(messages.Cli),
        "lim": fields_of(messages.Limits),
        "want": fields_of(messages.Want),
        "roster": fields_of(messages.RosterEntry),
        "standby": fields_of(messages.StandbyEntry),
        "s": fields_of(messages.RrEntry),
    }


def test_the_table_of_error_codes_is_the_codes() -> None:
    documented = {int(c[0].strip("`"), 16): c[1] for c in rows(section("docs/protocol.md", "Error codes"))}
    assert documented == {int(code): code.name for code in ErrorCode}


@pytest.mark.parametrize("name", DOCS)
def test_error_codes_in_the_text_are_real(name: str) -> None:
    shouted = set(re.findall(r"\b[A-Z]{3,}(?:_[A-Z0-9]+)+\b", text(name)))
    known = {code.name for code in ErrorCode} | {"AES_256_GCM_SHA512_128", "AES_128_GCM_SHA256_128"}
    known |= {"RELAY_SEQUENCES", "CONNECTION_CLOSE", "PRIVATE_NAMES", "MAX_RUNS", "AF_UNIX"}
    known |= {"CARGO_TARGET_DIR", "PYO3_PYTHON", "HTTPS_PROXY", "NO_PROXY"}
    known |= {"TCP_NODELAY", "TCP_NOTSENT_LOWAT", "NOTIFY_SOCKET", "SSL_CERT_FILE"}
    known |= {"RLIMIT_NOFILE", "SQLITE_FULL"}
    known |= {code.name for code in TrunkCode}
    assert shouted - known == set()


def codes_of_trunks() -> dict[int, str]:
    """What the text calls the codes that only trunks have."""
    table = rows(section("docs/protocol.md", "Codes and limits"))
    return {int(c[0].strip("`"), 16): c[1] for c in table if re.fullmatch(r"`[0-9A-F]{2}`", c[0])}


def test_the_codes_of_trunks_are_the_codes_and_no_leg_has_one_of_them() -> None:
    assert codes_of_trunks() == {int(code): code.name for code in TrunkCode}
    assert {code.name for code in TrunkCode}.isdisjoint(ErrorCode.__members__)


@pytest.mark.parametrize(("title", "machine"), [("A trunk", Trunk), ("A half, at the guest", Half)])
def test_the_tables_of_trunks_are_the_machines(title: str, machine: type[Machine[Any]]) -> None:
    part = section("docs/protocol.md", title).partition("###")[0]
    table = {state.value: row for state, row in machine.TRANSITIONS.items()}
    documented = list(rows(part))
    assert {cells[0].partition(":")[0] for cells in documented} | {"gone"} == set(table) | {"gone"}
    for cells in documented:
        state = cells[0].partition(":")[0]
        told = [(re.match(r"\w*", cell) or [""])[0] or state for cell in cells[1:]]
        assert told == [after.value for after in table[state].values()], state


UNTYPED = {"bps", "pt", "ttl"}
"""Keys that the table of trunk messages names without a type: section 4 has it."""


def test_the_table_of_trunk_messages_is_the_codes() -> None:
    part = section("docs/protocol.md", "Messages").partition("### A trunk")[0]
    documented = {}
    for cells in rows(part):
        if re.fullmatch(r"`[0-9A-F]{2}`", cells[0]):
            fields = fields_in("|".join(cells[3:]))
            fields |= dict.fromkeys(UNTYPED & set(code(cells[3])), False)
            documented[int(cells[0].strip("`"), 16)] = (cells[1], fields)
    assert documented == {
        number: (wire_name(cls), fields_of(cls)) for number, cls in trunk_messages.OWN.items()
    }
    answered = {number for number, cls in trunk_messages.OWN.items() if cls in trunk_messages.ANSWERED}
    (sentence,) = re.findall(r"every type but (.*?) has an `id` and is answered", part)
    assert {int(number, 16) for number in code(sentence)} == set(trunk_messages.OWN) - answered


def test_what_passes_in_say_is_what_the_text_lists() -> None:
    part = section("docs/protocol.md", "Messages")
    (up, down) = re.findall(r"What passes in `say`, up: (.*?);\s+down: (.*?)\. Of its own", part, re.S)[0]
    for told, types in ((up, trunk_control.UP), (down, trunk_control.DOWN)):
        words = re.findall(r"[a-z0-9_]+", re.sub(r"\(.*?\)", "", told, flags=re.S))
        assert set(words) == {wire_name(control.MESSAGES[number]) for number in types}


def test_the_examples_of_trunks_are_what_the_text_makes_of_them() -> None:
    part = section("docs/protocol.md", "Trunks: built in part")
    seeds, n = (bytes(range(32)), bytes(range(32, 64))), bytes(range(64, 96))
    # A SubjectPublicKeyInfo of Ed25519 is 12 fixed bytes and the key (RFC 8410 section 4).
    infos = [bytes.fromhex("302a300506032b6570032100") + signed.public_of(seed) for seed in seeds]
    pins = [hashlib.sha256(info).digest() for info in infos]
    pop = signed.sign(seeds[0], b"vrl-trunk-v1\0" + n + pins[1] + b"fra-1\0iad-1")
    assert {pins[0].hex(), pins[1].hex(), pop[:16].hex()} <= set(code(part))
    pull = msgpack.packb([0x6D, 7, {"c": bytes(range(16, 32)), "p": 1, "term": 1, "route": 64}])
    grant = msgpack.packb([0x6C, 8, {"half": 3, "to": ["fra-1"]}])
    for frame in (pull, grant):
        assert (len(frame).to_bytes(2, "big") + frame).hex() in part
    packet = json.loads(text("tests/vectors/media-sealed.json"))["packets"][0]["datagram"]
    assert packet.startswith("01401901022c")
    assert f"4040 01 {packet[2:24]}..." in part
    report = struct.pack(">BBHIBHIHHHH", 0, 8, 7, 123456, 1, 64, 0x012345, 48, 2, 1, 31)
    assert report.hex() in part


def test_reserved_error_codes_are_those_the_code_never_uses() -> None:
    marked = {c[1] for c in rows(section("docs/protocol.md", "Error codes")) if "*(r)*" in c[2]}
    source = "".join(path.read_text() for path in (ROOT / "relay").rglob("*.py"))
    assert marked == {code.name for code in ErrorCode if f"ErrorCode.{code.name}" not in source}


def test_the_claims_are_the_codes() -> None:
    table = rows(section("docs/protocol.md", "Capability token"))
    spans = [span for cells in table for span in code(cells[0])]
    assert sorted(span.rstrip("?") for span in spans) == sorted(Claims.__dataclass_fields__)


def test_the_keys_of_commands_are_the_codes() -> None:
    part = section("docs/protocol.md", "Signed commands")
    named = {span.rstrip("?") for cells in rows(part) for cell in cells for span in code(cell)}
    assert set(Command.__dataclass_fields__) <= named


def test_outcomes_and_drop_reasons_are_all_told() -> None:
    spans = set(code(text("docs/protocol.md")))
    assert {why.value for why in Why} <= spans
    assert {reason.value for reason in DropReason} <= set(code(section("docs/protocol.md", "names of drops")))


def test_every_vector_file_is_told() -> None:
    told = set(code(section("docs/protocol.md", "Vectors")))
    assert {f"tests/vectors/{path.name}" for path in (ROOT / "tests/vectors").glob("*.json")} <= told


def plain(value: Any) -> Any:
    """A vector's JSON value as msgpack gives it."""
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def test_another_msgpack_reader_sees_the_same_in_the_frames() -> None:
    for row in json.loads(text("tests/vectors/control.json"))["frames"]:
        frame = bytes.fromhex(row["frame"])
        assert int.from_bytes(frame[:2], "big") == len(frame) - 2
        number, id, body = msgpack.unpackb(frame[2:], strict_map_key=False)
        assert (number, id) == (row["type"], row["id"])
        wanted = plain(row["fields"])
        for key, value in body.items():
            if isinstance(value, dict):  # keys may be numbers, defaults are left out
                assert {str(k): v for k, v in value.items()}.items() <= wanted[key].items(), row["name"]
            elif key not in ("roster", "s"):
                assert value == wanted[key], (row["name"], key)


# ---------------------------------------------------------------- rollout


def test_the_guardrails_of_the_rollout_page_are_the_codes() -> None:
    def percent(cell: str) -> float:
        return float(cell.split()[0]) / 100

    told = {
        re.findall(r"`(\w+)`", cells[0])[0]: tuple(percent(cell) for cell in cells[1:])
        for cells in rows(section("docs/rollout.md", "How the gate decides"))
        if len(cells) == 5
    }
    wanted = {each.name: (each.slo, each.warn, each.bad, each.delta) for each in LIMITS}
    assert {name: pytest.approx(values) for name, values in wanted.items()} == told


def test_the_reasons_of_the_gate_are_told_by_precedence_with_their_verdict_and_status() -> None:
    told: list[tuple[str, str, int]] = []
    for cells in rows(section("docs/rollout.md", "How the gate decides")):
        if len(cells) == 3 and cells[0] != "none":
            verdict = re.findall(r"`(\w+)`", cells[1])[0]
            told += [(why, verdict, int(cells[2])) for why in re.findall(r"`(\w+)`", cells[0])]
    assert told == [(why.value, verdict.value, EXIT[verdict]) for why, verdict in PRECEDENCE.items()]


def test_every_field_of_a_plan_is_told() -> None:
    part = section("docs/rollout.md", "A plan")
    told = {span.removeprefix("rollout.") for cells in rows(part) for span in code("|".join(cells))}
    classes = (Rollout, Wave, Guardrail, Caps, Gate)
    fields = {field.name for cls in classes for field in fields_of_dataclass(cls)}
    assert fields <= told


def test_the_example_of_a_plan_is_one() -> None:
    plan = parse_plan(text("config/rollout.toml"), "config/rollout.toml")
    assert [rail.margin for rail in plan.guardrails] == [each.delta for each in LIMITS]


# ---------------------------------------------------------------- operations


def has_setting(path: str) -> bool:
    value: Any = Config()
    for name in path.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


@pytest.mark.parametrize("name", ["docs/operations.md", "docs/protocol.md", "docs/security.md", "README.md"])
def test_settings_in_the_text_exist(name: str) -> None:
    sections = "|".join(Config.__dataclass_fields__)
    spans = {span.partition(" ")[0] for span in code(text(name))}
    named = {span for span in spans if re.fullmatch(rf"(?:{sections})\.[a-z_]+", span)}
    named -= {"tls.pem", "events.lost", "stun.turn"}  # a file, a kind of event, a name in ALPN
    assert sorted(path for path in named if not has_setting(path)) == []


def test_settings_that_no_reload_changes_are_told() -> None:
    assert set(FROZEN) <= set(code(section("docs/operations.md", "Configure")))


def test_metrics_in_the_text_exist() -> None:
    named = set(re.findall(r"\brelay_[a-z_]+[a-z]\b", text("docs/operations.md")))
    exporter = metrics.Exporter(lambda: snapshot())
    exposed = set(re.findall(r"^# TYPE (\w+)", exporter.render()[0].decode(), re.M))
    exposed |= feed_families()
    families = exposed | {name.removesuffix("_total") for name in exposed}
    assert named - families == set()


def feed_families() -> set[str]:
    """What `relay feed` exports, by the names on the wire."""
    store = Store(replace(FeedConfig(), store=":memory:"))
    with contextlib.closing(store):
        config = StateConfig(keys=("00" * 32,))
        copier = StateCopier(config, SqliteStore(":memory:"), OsFiles())
        nodes = NodesFeed(Config(), SqliteStore(":memory:"), OsFiles())
        commands = CommandsFeed(Config(), SqliteStore(":memory:"), OsFiles())
        intake = Intake(store, lambda: None)
        server = MetricsServer(FeedCollector(intake, store, [], copier, nodes, commands))
        return set(re.findall(r"^# TYPE (\w+)", server.render()[0].decode(), re.M))


def test_the_example_that_verifies_a_webhook_knows_ours_from_others() -> None:
    [example] = blocks("docs/integrate.md", "python")
    space: dict[str, Any] = {}
    exec(compile(example, "docs/integrate.md", "exec"), space)
    old, new = bytes(32), bytes(range(32))
    given, body, now = format_secret(new).strip(), b'{"seq":1}', int(time.time())
    sent = signing.headers("a-1", now, body, [old, new])
    assert space["is_genuine"](given, sent, body)
    assert space["is_genuine"](format_secret(old).strip(), sent, body)
    assert not space["is_genuine"](format_secret(b"x" * 32).strip(), sent, body)
    assert not space["is_genuine"](given, sent, body + b" ")
    assert not space["is_genuine"](given, {**sent, "webhook-id": "a-2"}, body)
    assert not space["is_genuine"](given, signing.headers("a-1", now - 301, body, [new]), body)


def test_what_may_be_wrong_with_a_state_is_told() -> None:
    told = set(code(text("docs/state.md")))
    assert {each.value for each in Refusal} | {each.value for each in Serving} <= told


def snapshot() -> Snapshot:
    from relay.edge.lane import LaneCounters, RelayCounters, RepairCounters

    return Snapshot(
        "n",
        "r",
        "python",
        {},
        LaneCounters(),
        relays=RelayCounters(),
        repairs=RepairCounters(),
        certificate_until=1.0,
        talk=TalkCounters("control", {}, {}, {}, {}, {}, {}, {}, {}, 0.0, 0.0),
        standing=Standing("r", "control", "1", State.OK, 100.0, "", 1, 0.0, {}, ()),
        residence=Spread(RESIDENCE),
        canary=CanaryCounters({}, {}, 0, 0.0),
        rollout=StateCounters(1, "state", 0.0, {}),
        nodes=NodesCounters(1, 1, 0.0, {}),
        fleet=FleetCounters(0.0, 0, 0, {}, 0, Spread(AGES)),
        trunk_paths={"first": 1, "second": 1},
    )


def test_findings_of_health_are_all_told() -> None:
    worst = Facts(
        state="draining", lag_s=9, stats_age_s=99, free_descriptors=0, certificate_until=1.0, wall=2.0,
        health_age_s=99, issuers=0, datapath="python", wants_native=True, internal_errors=1, legs=9,
        max_legs=1, sinks_failing=("records", "events"), canary_silent_s=301.0,
        state_doubt="everyone gets control: expired", nodes_doubt="made 301 s ago", fleet_doubt="61 s",
    )  # fmt: skip
    found = {finding.name for finding in judge(worst, Config().health).findings}
    assert found <= set(code(section("docs/operations.md", "Metrics and health")))


def test_the_states_of_a_drain_are_told_in_order() -> None:
    told = [cells[0] for cells in rows(section("docs/operations.md", "Drain, stop, upgrade"))]
    assert [*told, "stopped"] == [state.value for state in DrainState]


# ---------------------------------------------------------------- the SDK's examples


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("docs")) as running:
        yield running


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    space: dict[str, Any] = {}
    exec(compile("\n".join(blocks("docs/sdk.md", "python")), "docs/sdk.md", "exec"), space)
    return space


async def other(rig: Rig, call: bytes, source: Any, sink: Any = None, cnf: bytes | None = None) -> str:
    """The second person, who accepts whatever comes."""
    trust = {"ca": rig.ca, "server_name": "localhost"}
    async with client.connect(rig.url, token=rig.token(call, 2), **trust) as session:
        peer = await session.join()
        await peer.accept()
        await peer.peer_accepted()
        await peer.talk(source, sink or client.CallbackSink(lambda pcm: None))
        return await peer.ended()


async def test_the_sdk_example_of_a_call_runs(rig: Rig, examples: dict[str, Any], tmp_path: Path) -> None:
    said, heard = tmp_path / "said.wav", tmp_path / "heard.wav"
    write_wav(said, silence(16_000, 400), 16_000)
    call = os.urandom(16)
    mine = examples["talk_once"](
        rig.url, rig.token(call, 1), str(said), str(heard), ca=rig.ca, server_name="localhost"
    )
    why, theirs = await asyncio.gather(mine, other(rig, call, client.ToneSource(440, 0.5)))
    assert (why, theirs) == ("completed", "completed")
    assert any(read_pcm(heard, 16_000))


async def test_the_sdk_example_of_a_cluster_runs(rig: Rig, examples: dict[str, Any]) -> None:
    now = int(time.time())
    one = nodelist.Node(id="relay-1", region="local", urls=(rig.url,), version="1")
    made = nodelist.NodeList(v=1, cluster="test", rev=1, issued_at=now, not_after=now + 60, nodes=(one,))
    document, keys = nodelist.seal(made, bytes(32)), [public_of(bytes(32))]
    trust = {"ca": rig.ca, "server_name": "localhost"}
    token = rig.token(os.urandom(16), 1)
    told = await examples["call_in_a_cluster"](document, keys, "test", token, **trust)
    assert rig.url.rpartition(":")[2] in told


async def test_the_sdk_example_of_an_answer_runs(rig: Rig, examples: dict[str, Any]) -> None:
    call = os.urandom(16)
    trust = {"ca": rig.ca, "server_name": "localhost"}
    async with client.connect(rig.url, token=rig.token(call, 1), **trust) as session:
        caller = await session.join()
        why = await examples["answer"](rig.url, rig.token(call, 2), **trust)
        assert (why, await caller.ended()) == ("busy", "busy")
    token = rig.token(os.urandom(16), 1)
    assert "no relay" in await examples["answer"](rig.url, token, server_name="nowhere.example", ca=rig.ca)


async def test_the_sdk_example_with_own_devices_runs(rig: Rig, examples: dict[str, Any]) -> None:
    call = os.urandom(16)
    trust = {"ca": rig.ca, "server_name": "localhost"}
    async with client.connect(rig.url, token=rig.token(call, 1), **trust) as session:
        mine = await session.join()
        peer = asyncio.create_task(other(rig, call, client.ToneSource(440, 0.3)))
        await mine.accept()
        await mine.peer_accepted()
        assert await examples["talk_with_devices"](mine, 0.2) > 10
        await mine.hangup()
        assert await peer == "completed"


async def test_the_sdk_example_of_survival_runs(rig: Rig, examples: dict[str, Any]) -> None:
    call, seed = os.urandom(16), os.urandom(32)
    mine = examples["survive"](
        rig.url, rig.token(call, 1, public_of(seed)), seed, ca=rig.ca, server_name="localhost"
    )
    stats, why = await asyncio.gather(mine, other(rig, call, client.ToneSource(440, 1.5)))
    assert stats["sent"] == 30
    assert why == "completed"


def test_the_names_in_the_sdk_guide_exist() -> None:
    spans = code(text("docs/sdk.md"))
    for owner in (client.Call, client.Session):
        kind = owner.__name__.lower()
        source = Path(str(__import__(owner.__module__, fromlist=["x"]).__file__)).read_text()
        for span in spans:
            for found in re.findall(rf"\b{kind}\.([a-z_]+)\b", span):
                assert hasattr(owner, found) or f"self.{found}" in source, f"{kind}.{found}"


def test_every_test_that_the_threat_table_names_exists() -> None:
    named = re.findall(
        r"`(tests/[\w/]+\.py)`: \*([^*]+)\*", section("docs/security.md", "Threats and guards")
    )
    assert len(named) == len(list(rows(section("docs/security.md", "Threats and guards"))))
    for path, title in named:
        assert re.search(rf"def test_{title.replace(' ', '_')}\(", text(path)), f"{path}: {title}"


def test_the_key_agreement_follows_from_the_formulas_of_the_protocol_document() -> None:
    """Section 7 computed again, with other code than the SDK's: HMAC and hashes alone."""
    call, ids = bytes(range(16)), (b"A" * 8, b"B" * 8)
    draws = iter(bytes([n]) * 32 for n in range(1, 9))
    identities = [Ed25519PrivateKey.from_private_bytes(bytes([90 + n]) * 32) for n in (0, 1)]
    runs = [
        agreement.Run(
            agreement.Parties(call, n, 1 - n),
            identities[n],
            lambda _: next(draws),
            own_id=ids[n],
            peer_id=ids[1 - n],
        )
        for n in (0, 1)
    ]
    [commit] = runs[0].start()
    [offer_r] = runs[1].on_blob(agreement.decode(commit))
    [reveal] = runs[0].on_blob(agreement.decode(offer_r))
    [confirm_r] = runs[1].on_blob(agreement.decode(reveal))
    [confirm_c] = runs[0].on_blob(agreement.decode(confirm_r))
    assert runs[1].on_blob(agreement.decode(confirm_c)) == []

    d, head = b"vrl-e2e-v1\0", 19
    commitment, right, left = commit[head:], offer_r[head:], reveal[head:]
    assert commit[:head] == bytes((1, 1, 0)) + ids[0] + ids[1]
    assert commitment == hashlib.sha256(d + b"commit" + left).digest()
    parts = (call, bytes((0, 1, 0)), ids[0], ids[1], commitment, right, left)
    t = hashlib.sha512(d + b"".join(len(part).to_bytes(2, "big") + part for part in parts)).digest()
    private = X25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    root = hmac.digest(bytes(32), private.exchange(X25519PublicKey.from_public_bytes(right[:32])), "sha512")

    def key(label: bytes, size: int) -> bytes:
        return hmac.digest(root, d + label + b"\0" + t + b"\1", "sha512")[:size]

    for n, run in enumerate(runs):
        assert run.keys is not None
        assert run.keys.send_base_key == key(b"base %d" % n, 64)
        assert run.keys.chain == key(b"chain", 32)
        assert run.keys.sas == f"{int.from_bytes(key(b'sas', 16), 'big') % 10**6:06}"
    for index, blob in ((1, confirm_r), (0, confirm_c)):
        mac, signature = blob[head : head + 32], blob[head + 32 :]
        assert mac == hmac.digest(key(b"mac", 32), b"confirm" + bytes((index,)) + t, "sha256")
        identities[index].public_key().verify(signature, d + b"identity" + bytes((index,)) + t)
    [chosen] = runs[0].choose()
    assert chosen[head:] == hmac.digest(key(b"mac", 32), b"chosen\0" + t, "sha256")
