"""Native programs of the benches: built once into .cache/, and what Debian has to add for that.

    generator()  the load generator (tests/load/native/src, Rust)
    trunk()      two lanes with a trunk between them (relay/lane/examples/trunk.rs)
    forward(), flood()  C programs beside it
    turnserver()  coturn, installed if it is absent

A machine where something cannot be had gets SystemExit with a sentence that says what and how to cure it.
Must never live here: running what was built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from load import report

SOURCES = Path(__file__).parent / "native"
LANE = Path(__file__).parents[2] / "relay" / "lane"
CACHE = Path(__file__).parents[2] / ".cache" / "load"
C_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


def _run(what: str, command: list[str], **named: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **named}, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _debian(package: str, why: str) -> None:
    """Install a Debian package; SystemExit with the cure when that is not possible."""
    report.say(f"installing {package} ({why})")
    apt = shutil.which("apt-get")
    if apt is None:
        raise SystemExit(f"{package} is missing ({why}) and there is no apt-get: install it by hand")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([apt, "update", "-q"], capture_output=True, env={**os.environ, **quiet}, check=False)
    _run(
        f"installing {package} ({why}; as root: apt-get install {package})",
        [apt, "install", "-q", "-y", "--no-install-recommends", package],
        **quiet,
    )


def _compile(name: str, *libraries: str) -> Path:
    source, target = SOURCES / f"{name}.c", CACHE / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("no C compiler found: apt-get install gcc")
        CACHE.mkdir(parents=True, exist_ok=True)
        _run(f"building {source.name}", [compiler, *C_FLAGS, str(source), "-o", str(target), *libraries])
    return target


def _build(what: str, manifest: Path, *options: str) -> Path:
    """Build with cargo; the folder of what was built."""
    cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo" / "bin"))
    if cargo is None:
        raise SystemExit(f"no cargo found, which builds {what}: install Rust (rustup.rs)")
    target = CACHE / "target"
    command = [cargo, "build", "--release", "--locked", "--manifest-path", str(manifest), *options]
    _run(f"building {what}", command, CARGO_TARGET_DIR=str(target))
    return target / "release"


def generator() -> Path:
    """The load generator."""
    return _build("the load generator", SOURCES / "Cargo.toml") / "relay-load"


def trunk() -> Path:
    """Two lanes, a trunk between them and the far ends of their legs."""
    options = ("--no-default-features", "--example", "trunk")
    return _build("two lanes and their far ends", LANE / "Cargo.toml", *options) / "examples" / "trunk"


def forward() -> Path:
    """The bare forwarders."""
    if not Path("/usr/include/openssl/evp.h").exists() and not (CACHE / "forward").exists():
        _debian("libssl-dev", "the forwarder with OpenSSL is built with it")
    return _compile("forward", "-lcrypto", "-lpthread")


def flood() -> Path:
    """The sender of spoofed first packets."""
    return _compile("flood")


def turnserver() -> Path:
    """coturn's server."""
    found = shutil.which("turnserver")
    if found is None:
        _debian("coturn", "the peer that the relay is compared with")
        found = shutil.which("turnserver")
    if found is None:
        raise SystemExit("coturn is installed, but there is no turnserver in the PATH")
    return Path(found)


def version_of_turnserver() -> str:
    """What the package says of itself."""
    command = ["dpkg-query", "-W", "-f=${Version}", "coturn"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
