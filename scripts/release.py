"""What `scripts/release` does; run by it, in the project's virtual environment.

    sources --(twice)--> wheel --+--> Debian package      requirements.lock --> wheels of dependencies
                                 `--> bill of materials   what is known of their weaknesses (audit)

Must never live here: what is in the wheel (pyproject.toml), what an installation is (scripts/install).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load.report import Report, say

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache/release"
LOCK = ROOT / "requirements.lock"
LANE = "relay/_lane.abi3.so"
HEADER = "# Dependencies of the daemon, each file by its hash; `./scripts/release --lock` makes it anew.\n"
DEBIAN_PYTHON = (3, 11)  # of bookworm; the wheels of dependencies are for one minor version
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014", "linux")
SECONDS = 900.0

CONTROL = """\
Package: vrelay
Version: {version}
Architecture: {architecture}
Maintainer: The relay authors <relay@example.invalid>
Depends: python3 (>= {major}.{minor}), python3 (<< {major}.{next}), passwd, systemd
Section: net
Priority: optional
Installed-Size: {size}
Description: relay for end-to-end encrypted voice calls
 Carries voice between the people of a call over QUIC datagrams, and can never
 open it. Runs under systemd, with its sockets handed over.
"""
LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/vrelay")
from relay.cli import main

sys.exit(main())
"""
POSTINST = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
for each in relay-tls relay-canary; do
    getent group $each >/dev/null || groupadd --system $each
done
install -d -g relay-tls -m 0750 /etc/relay/tls
install -d -m 0700 /etc/relay/feed
[ -e /etc/relay/relay.key ] || /usr/bin/relay token keygen --cluster /etc/relay/relay.key >/dev/null
units="relay.socket relay-metrics.socket relay.service"
[ -n "$2" ] || systemctl -q enable $units
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if ! why=$(relay check-config --files --set cluster.key_file=/etc/relay/relay.key 2>&1 >/dev/null); then
    echo "relay: not started: ${why##*relay: }" >&2
    echo "relay: then: systemctl start $units" >&2
elif systemctl -q is-active relay.service; then
    echo "relay: the daemon runs the version before until: systemctl restart relay" >&2
else
    systemctl start $units
fi
"""
PRERM = """\
#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
units="relay-canary.timer relay-canary.service relay.socket relay-metrics.socket relay.service"
feed="relay-feed.socket relay-feed.service"
# One transaction: a packet must not start a service again between the two.
[ ! -d /run/systemd/system ] || systemctl stop $units $feed 'relay@*' 'relay-metrics@*'
systemctl -q disable $units $feed
rm -f /etc/systemd/system/*.wants/relay@*.* /etc/systemd/system/*.wants/relay-metrics@*.*
"""
POSTRM = """\
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
rm -rf /run/relay-canary
[ "$1" = purge ] || exit 0
rm -rf /etc/relay /var/lib/relay /var/lib/private/relay /var/lib/relay-[0-9]* /var/lib/private/relay-[0-9]*
rm -rf /var/lib/relay-feed /var/lib/private/relay-feed
for each in relay-tls relay-canary; do
    ! getent group $each >/dev/null || groupdel $each
done
"""


class ReleaseError(Exception):
    """A step failed; says which and why."""


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """What a command printed. ReleaseError if it failed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(words[:6])}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def epoch() -> str:
    """The time of the last commit as this run began, which all files are given."""
    return run("git", "log", "-1", "--format=%ct").strip()


def sources(to: Path) -> Path:
    """What the repository holds now, uncommitted changes too, and nothing that a build left behind."""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def build_wheel(folder: Path, target: Path, tree: Path) -> Path:
    """The wheel of a copy of `tree`, built in `folder`; what cargo makes goes to `target`.

    ReleaseError if the lane is not in it.
    """
    source = Path(shutil.copytree(tree, folder / "source"))
    # The crates' sources lie where this user's cargo keeps them; ours are named from their folder on.
    flags = f"--remap-path-prefix={os.environ.get('CARGO_HOME', Path.home() / '.cargo')}=/cargo"
    env = {
        "SOURCE_DATE_EPOCH": epoch(),
        "CARGO_TARGET_DIR": str(target),
        "RUSTFLAGS": f"{os.environ.get('RUSTFLAGS', '')} {flags}".strip(),
        "PYO3_PYTHON": sys.executable,
    }
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder)
    run(*command, source, env=env)
    [wheel] = folder.glob("*.whl")
    if LANE not in zipfile.ZipFile(wheel).namelist():
        raise ReleaseError(f"{wheel.name} has no native lane: does `cargo build` work in relay/lane?")
    return wheel


def fetch(to: Path) -> None:
    """The wheels of all dependencies, for Debian's interpreter, as the lock names them."""
    machine = os.uname().machine
    major, minor = DEBIAN_PYTHON
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")]
    versions = (
        "--python-version",
        f"{major}.{minor}",
        "--implementation",
        "cp",
        "--abi",
        f"cp{major}{minor}",
    )
    rest = ("--abi", "abi3", "--abi", "none", "--only-binary=:all:", "--require-hashes", "-r", LOCK)
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", to, *platforms, *versions, *rest)


def lay_out(wheels: Sequence[Path], to: Path) -> None:
    """These wheels as one folder that an interpreter can import from, compiled."""
    major, minor = DEBIAN_PYTHON
    machine = os.uname().machine
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")]
    target = ("--target", to, "--python-version", f"{major}.{minor}", "--implementation", "cp")
    flags = ("--no-index", "--no-deps", "--no-compile", "--only-binary=:all:", *platforms, *target)
    run(sys.executable, "-m", "pip", "install", "-q", *flags, *wheels)
    shutil.rmtree(to / "bin", ignore_errors=True)
    for note in to.glob("*.dist-info/direct_url.json"):  # where this machine had the wheel
        note.unlink()
    # Checked by nobody: what dpkg installed does not change, and no start looks at a thousand times.
    compiler = (sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    run(*compiler, "-s", to, "-p", "/usr/lib/vrelay", to, env={"PYTHONHASHSEED": "0"})


def build_package(wheels: Sequence[Path], version: str, work: Path, to: Path) -> Path:
    """The Debian package. Its bytes depend on the sources alone."""
    if sys.version_info[:2] != DEBIAN_PYTHON:
        raise ReleaseError(f"compiled files need Python {DEBIAN_PYTHON}, as Debian has it")
    root = work / "package"
    lay_out(wheels, root / "usr/lib/vrelay")
    files: dict[str, tuple[str, int]] = {"usr/bin/relay": (LAUNCHER, 0o755)}
    for unit in sorted((ROOT / "systemd").iterdir()):
        where = "usr/share/relay" if unit.suffix == ".conf" else "lib/systemd/system"
        files[f"{where}/{unit.name}"] = (unit.read_text(), 0o644)
    for doc in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"):
        files[f"usr/share/doc/relay/{doc.name}"] = (doc.read_text(), 0o644)
    files["usr/share/doc/vrelay/copyright"] = ((ROOT / "LICENSE").read_text(), 0o644)
    files["etc/relay/relay.toml"] = ((ROOT / "config/relay.toml").read_text(), 0o644)
    for name, script in (("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)):
        files[f"DEBIAN/{name}"] = (script, 0o755)
    files["DEBIAN/conffiles"] = ("/etc/relay/relay.toml\n", 0o644)
    for name, (text, mode) in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(mode)
    laid = sorted(path for path in root.rglob("*") if path.is_file() and "DEBIAN" not in path.parts)
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in laid)
    (root / "DEBIAN/md5sums").write_text("".join(sums))
    architecture = run("dpkg", "--print-architecture").strip()
    major, minor = DEBIAN_PYTHON
    size = sum(path.stat().st_size for path in laid) // 1024
    numbers = {"major": major, "minor": minor, "next": minor + 1, "size": size}
    (root / "DEBIAN/control").write_text(
        CONTROL.format(version=version, architecture=architecture, **numbers)
    )
    made = to / f"vrelay_{version}_{architecture}.deb"
    command = ("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, made)
    run(*command, env={"SOURCE_DATE_EPOCH": epoch()})
    return made


def tool(name: str) -> Path:
    """A program of the extra `release`, which has an environment of its own."""
    home = CACHE / "tools"
    if not (home / ".complete").exists():
        say("installing what makes the bill of materials and audits (once) ...")
        run(sys.executable, "-m", "venv", "--clear", home)
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        run(home / "bin/pip", "install", "-q", *extras["release"])
        (home / ".complete").touch()
    return home / "bin" / name


def crates() -> list[dict[str, Any]]:
    """Of the native lane, as the bill of materials names them: what Cargo.lock holds beside ourselves."""
    lock = tomllib.loads((ROOT / "relay/lane/Cargo.lock").read_text())
    return [
        {
            "type": "library",
            "bom-ref": f"crate:{crate['name']}@{crate['version']}",
            "name": crate["name"],
            "version": crate["version"],
            "purl": f"pkg:cargo/{crate['name']}@{crate['version']}",
            "hashes": [{"alg": "SHA-256", "content": crate["checksum"]}],
        }
        for crate in lock["package"]
        if "checksum" in crate
    ]


def bill_of_materials(wheels: Sequence[Path], own: Path, work: Path, to: Path) -> int:
    """CycloneDX 1.6: what the wheel needs, with the crates that are compiled into it; how many parts."""
    home = work / "installed"
    run(sys.executable, "-m", "venv", "--without-pip", home)
    site = next((home / "lib").glob("python3*/site-packages"))
    run(sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, *wheels)
    command = (
        tool("cyclonedx-py"),
        "environment",
        "--output-reproducible",
        "--sv",
        "1.6",
        home / "bin/python",
    )
    bill = json.loads(run(*command))
    bill["components"] = sorted(
        [*bill["components"], *crates()], key=lambda part: (part["name"], part["version"])
    )
    for part in bill["components"]:
        if part["name"] == "vrelay":
            part["hashes"] = [{"alg": "SHA-256", "content": digest(own)}]
            part.pop("externalReferences", None)  # where this machine had the wheel
    to.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")
    return len(bill["components"])


def audit() -> tuple[int, list[str], str]:
    """How many dependencies were judged, known weaknesses, and what to say of those that were not judged."""
    command = [
        tool("pip-audit"),
        "--require-hashes",
        "--disable-pip",
        "-r",
        LOCK,
        "-f",
        "json",
        "--progress-spinner=off",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    try:
        parts = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return 0, [], f"pip-audit gave no answer: {done.stderr.strip()[-300:]}"
    judged = [part for part in parts if "skip_reason" not in part]
    known = [f"{part['name']} {one['id']}" for part in judged for one in part["vulns"]]
    missing = len(parts) - len(judged)
    return len(judged), known, f"{missing} of {len(parts)} could not be looked up" if missing else ""


def lock() -> int:
    """Make requirements.lock anew."""
    flags = (
        "--generate-hashes",
        "--strip-extras",
        "--no-header",
        "--no-emit-index-url",
        "--no-emit-find-links",
    )
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "lock"
        run(tool("pip-compile"), "-q", "--upgrade", *flags, "-o", made, "pyproject.toml")
        text = made.read_text().replace(
            f"# via vrelay ({ROOT}/pyproject.toml)", "# via vrelay (pyproject.toml)"
        )
    LOCK.write_text(HEADER + text)
    return 0


def main() -> int:
    """Build, compare, write down; the exit status."""
    parser = argparse.ArgumentParser(prog="release")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER")
    given = parser.parse_args()
    if given.lock:
        return lock()
    report = Report("release", seed=0, quick=given.once)
    given.out = given.out.resolve()
    shutil.rmtree(given.out, ignore_errors=True)
    (given.out / "wheels").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="relay-release-") as name:
        work = Path(name)
        say("the wheel ...")
        (work / "one").mkdir()
        tree = sources(work / "tree")  # once: somebody may go on working
        wheel = Path(
            shutil.copy2(build_wheel(work / "one", ROOT / ".cache/cargo-release", tree), given.out / "wheels")
        )
        version = wheel.name.split("-")[1]
        say("the wheels of what it needs ...")
        fetch(given.out / "wheels")
        wheels = sorted((given.out / "wheels").glob("*.whl"))
        locked = sum("==" in line for line in LOCK.read_text().splitlines())
        report.bar("locked dependencies without a wheel", locked + 1 - len(wheels), "==", 0)
        say("the Debian package ...")
        package = build_package(wheels, version, work / "one", given.out)
        if not given.once:
            say("both again, in another folder ...")
            (work / "two").mkdir()
            (work / "again").mkdir()
            again = build_wheel(work / "two", work / "cargo", tree)
            report.bar("two wheels that differ", int(digest(again) != digest(wheel)), "==", 0)
            second = build_package(
                [again if each == wheel else each for each in wheels], version, work / "two", work / "again"
            )
            report.bar("two packages that differ", int(digest(second) != digest(package)), "==", 0)
        if not given.once:
            say("the bill of materials ...")
            bill = given.out / f"vrelay-{version}.cdx.json"
            parts = bill_of_materials(wheels, wheel, work, bill)
            report.bar("parts in the bill of materials", parts, ">=", len(wheels))
            say("the audit ...")
            judged, known, unsaid = audit()
            if judged:
                report.bar("known weaknesses of dependencies", len(known), "==", 0)
            report.detail(
                audit={"python": {"judged": judged, "known": known, "not_done": unsaid}, "crates": NO_CRATES}
            )
            if unsaid:
                say(f"  not audited: {unsaid}")
    lines = [
        f"{digest(path)}  {path.relative_to(given.out)}\n"
        for path in sorted(given.out.rglob("*"))
        if path.is_file()
    ]
    (given.out / "SHA256SUMS").write_text("".join(lines))
    report.detail(out=str(given.out), wheel=digest(wheel), package=digest(package), version=version)
    return report.finish(as_json=given.json)


NO_CRATES = "not audited: the advisories of crates are no package of a registry"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReleaseError as error:
        say(f"release: {error}")
        sys.exit(1)
