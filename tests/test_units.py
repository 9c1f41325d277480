"""The systemd units, judged by systemd itself."""

from __future__ import annotations

import argparse
import configparser
import re
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from relay.canary.call import LINGER_S, PATIENCE_S
from relay.commands import canary
from relay.config import Config
from relay.feed.program import SOCKET, STOP_S

UNITS = Path(__file__).parent.parent / "systemd"
# Templates are judged as an instance of a port.
FILES = sorted(
    str(path).replace("@.", "@8443.")
    for path in UNITS.iterdir()
    if path.suffix in (".service", ".socket", ".timer")
)
SERVICES = ("relay.service", "relay@.service")
EXPOSURE, TURN_EXPOSURE = 6, 12  # tenths: 0.6 of 10, and with sockets of its own
CANARY_EXPOSURE = 14  # it calls a relay wherever that is
FEED_EXPOSURE = 12  # it has the host's network

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=50, check=False
    )


@needs_systemd
def test_the_units_verify_without_a_word() -> None:
    done = run("verify", "--man=no", *FILES)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_the_service_is_barely_exposed(name: str) -> None:
    service = str(UNITS / name).replace("@.", "@8443.")
    done = run("security", "--offline=true", f"--threshold={EXPOSURE}", service)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@needs_systemd
def test_the_service_with_turn_is_hardly_more_exposed(tmp_path: Path) -> None:
    both = "".join((UNITS / name).read_text() for name in ("relay.service", "relay-turn.conf"))
    (tmp_path / "relay.service").write_text(both)
    done = run("security", "--offline=true", f"--threshold={TURN_EXPOSURE}", str(tmp_path / "relay.service"))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout.splitlines()[-1]


@needs_systemd
def test_the_canary_is_hardly_more_exposed_than_that() -> None:
    service = str(UNITS / "relay-canary.service")
    done = run("security", "--offline=true", f"--threshold={CANARY_EXPOSURE}", service)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_feed_is_hardly_more_exposed_than_its_network_makes_it() -> None:
    done = run(
        "security", "--offline=true", f"--threshold={FEED_EXPOSURE}", str(UNITS / "relay-feed.service")
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout.splitlines()[-1]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's names have capitals
    parser.read(UNITS / name)
    return parser


def test_the_service_waits_at_least_as_long_as_the_drain_lasts() -> None:
    assert float(unit("relay.service")["Service"]["TimeoutStopSec"]) >= Config().drain.deadline_s


@pytest.mark.parametrize(
    "name", sorted(path.name for path in UNITS.glob("relay*.s*") if "canary" not in path.name)
)
def test_nobody_is_kept_from_starting_it_again_at_once(name: str) -> None:
    assert unit(name)["Unit"]["StartLimitIntervalSec"] == "0"


def test_a_hung_daemon_is_given_up_and_started_within_ten_seconds() -> None:
    service = unit("relay.service")["Service"]
    spans = [service[name] for name in ("WatchdogSec", "TimeoutAbortSec", "RestartSec")]
    seconds = sum(float(span[:-2]) / 1000 if span.endswith("ms") else float(span) for span in spans)
    last_proof, start = 1.25, 0.7  # the one may have come so long after the harm, the other takes that
    assert seconds + last_proof + start < 10


def test_the_service_lives_in_an_empty_network() -> None:
    service = unit("relay.service")["Service"]
    assert service["PrivateNetwork"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"


def test_turn_gets_a_network_but_not_the_one_behind_the_box() -> None:
    service = unit("relay-turn.conf")["Service"]
    assert service["PrivateNetwork"] == "no"
    assert service["RestrictAddressFamilies"].split() == ["AF_UNIX", "AF_INET", "AF_INET6"]
    denied = [
        ip_network(word) for line in _lines("relay-turn.conf", "IPAddressDeny") for word in line.split()
    ]
    for text in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1", "fd00::1"):
        assert any(ip_address(text) in network for network in denied), text
    assert not any(ip_address(text) in network for network in denied for text in ("8.8.8.8", "2606:4700::1"))


def _lines(name: str, key: str) -> list[str]:
    rows = (line.partition("=") for line in (UNITS / name).read_text().splitlines())
    return [value for found, _, value in rows if found == key]


def test_default_paths_are_those_the_unit_makes() -> None:
    config = Config()
    service = unit("relay.service")["Service"]
    assert service["StateDirectory"] == "relay"
    assert config.records.path.startswith("/var/lib/relay/")
    assert config.events.spool.startswith("/var/lib/relay/")
    assert config.qlog.path.startswith("/var/lib/relay/")
    assert service["RuntimeDirectory"] == "relay"
    assert config.listen.command_socket.startswith("/run/relay/")
    assert service["LoadCredential"].partition(":")[0] == Path(config.cluster.key_file).name
    assert config.cluster.key_file.startswith("/run/credentials/relay.service/")


def test_socket_units_name_what_the_daemon_looks_for() -> None:
    assert unit("relay.socket")["Socket"]["FileDescriptorName"] == "public"
    assert unit("relay.socket")["Socket"]["ListenStream"] == "[::]:443"
    metrics = unit("relay-metrics.socket")["Socket"]
    assert metrics["FileDescriptorName"] == "metrics"
    assert metrics["ListenStream"] == Config().listen.metrics


def test_an_instance_is_the_service_with_names_of_its_own_and_nothing_else_differs() -> None:
    def settings(name: str) -> set[str]:
        lines = (UNITS / name).read_text().replace("\\\n", "").splitlines()
        return {line for line in lines if not line.startswith("#")}

    one, many = (settings(name) for name in SERVICES)
    own = {
        "Description",
        "Requires",
        "Wants",
        "After",
        "ExecStart",
        "ExecReload",
        "Sockets",
        "User",
        "LoadCredential",
        "RuntimeDirectory",
        "StateDirectory",
    }
    assert {line.partition("=")[0] for line in one ^ many} == own


def test_no_path_of_an_instance_is_another_daemons() -> None:
    words = unit("relay@.service")["Service"]["ExecStart"].replace("\\\n", " ").split()
    assigned = {word.partition("=")[0] for word in words if "=%" in word}
    assert assigned == {
        "cluster.key_file",
        "listen.command_socket",
        "records.path",
        "events.path",
        "events.spool",
        "qlog.path",
    }


def test_the_canary_writes_where_the_daemon_looks_and_is_over_before_it_is_given_up() -> None:
    service = unit("relay-canary.service")["Service"]
    words = service["ExecStart"].split()
    assert words[words.index("--out") + 1] == Config().health.canary_file
    folder = str(Path(Config().health.canary_file).parent)
    assert service["ReadWritePaths"] == f"-{folder}"
    assert service["ExecStartPre"].split()[-1] == folder
    # Of a dynamic user it would lie below /run/private, which is closed to the daemon, if it is kept.
    assert "RuntimeDirectory" not in service
    key = words[words.index("--key") + 1]
    assert (key, service["LoadCredential"].partition(":")[0]) == ("%d/canary.key", "canary.key")
    default = canary_parser().get_default("seconds")
    assert default + 4 * PATIENCE_S < float(service["TimeoutStartSec"])
    timer = unit("relay-canary.timer")["Timer"]
    assert default + LINGER_S + float(timer["RandomizedDelaySec"]) < 60


def canary_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser()
    inner = top.add_subparsers()
    canary.add(inner)
    return inner.choices["canary"]


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_no_dynamic_user_has_the_name_of_a_group_that_stands(name: str) -> None:
    install = (UNITS.parent / "scripts/install").read_text()
    groups = set(re.findall(r"\b(?:group|canaries)=(\S+)", install))
    assert groups == {"relay-tls", "relay-canary"}
    service = unit(name)["Service"]
    assert service["DynamicUser"] == "yes"
    assert service.get("User", name.removesuffix(".service")) not in groups


def test_nothing_enables_the_canary_by_itself() -> None:
    root = UNITS.parent
    for name in ("scripts/install", "scripts/release.py"):
        enabling = [line for line in (root / name).read_text().splitlines() if "enable" in line]
        assert enabling
        assert not any("canary" in line for line in enabling), name


def test_the_feed_is_somebody_else_with_paths_of_its_own() -> None:
    service, config = unit("relay-feed.service")["Service"], Config()
    daemon = unit("relay.service")["Service"]
    assert service["DynamicUser"] == "yes"
    assert service["User"] != daemon["User"]
    assert config.feed.store.startswith(f"/var/lib/{service['StateDirectory']}/")
    assert service["StateDirectory"] != daemon["StateDirectory"]
    assert "relay.key" not in service["LoadCredential"]
    assert float(service["TimeoutStopSec"]) > STOP_S + 5
    assert config.feed.metrics != config.listen.metrics


def test_the_daemon_may_write_to_the_feeds_socket_and_others_may_not() -> None:
    sock = unit("relay-feed.socket")["Socket"]
    assert sock["FileDescriptorName"] == SOCKET
    assert sock["SocketMode"] == "0660"
    assert sock["SocketGroup"] in unit("relay.service")["Service"]["SupplementaryGroups"].split()
    path = sock["ListenStream"].replace("%t", "/run")
    assert f'path = "{path}"' in (UNITS.parent / "docs/operations.md").read_text()


def test_an_installation_does_not_enable_the_feed_and_a_removal_takes_it_away() -> None:
    install = (UNITS.parent / "scripts/install").read_text()
    enabled = [line for line in install.splitlines() if "systemctl -q enable" in line]
    assert len(enabled) == 1
    assert "feed" not in enabled[0]
    removal = install.partition("remove_units() {")[2].partition("\n}\n")[0]
    assert all(removal.count(f"relay-feed.{kind}") == 2 for kind in ("socket", "service"))
