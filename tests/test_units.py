"""The systemd units, judged by systemd itself."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from relay.config import Config

UNITS = Path(__file__).parent.parent / "systemd"
FILES = sorted(str(path) for path in UNITS.iterdir() if path.suffix in (".service", ".socket"))
EXPOSURE = 6  # tenths: 0.6 of 10

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
def test_the_service_is_barely_exposed() -> None:
    service = str(UNITS / "relay.service")
    done = run("security", "--offline=true", f"--threshold={EXPOSURE}", service)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's names have capitals
    parser.read(UNITS / name)
    return parser


def test_the_service_waits_at_least_as_long_as_the_drain_lasts() -> None:
    assert float(unit("relay.service")["Service"]["TimeoutStopSec"]) >= Config().drain.deadline_s


def test_the_service_lives_in_an_empty_network() -> None:
    service = unit("relay.service")["Service"]
    assert service["PrivateNetwork"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"


def test_default_paths_are_those_the_unit_makes() -> None:
    config = Config()
    service = unit("relay.service")["Service"]
    assert service["StateDirectory"] == "relay"
    assert config.records.path.startswith("/var/lib/relay/")
    assert config.events.spool.startswith("/var/lib/relay/")
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
