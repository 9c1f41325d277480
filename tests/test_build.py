"""What an installation from this tree holds: with cargo the native lane, without cargo the Python lane alone.

Built is a copy of what the repository holds, so that nothing left over from earlier builds slips in, with the
build back end of this environment and without a package index. What cargo made stays for the next run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from load.daemon import Daemon

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache"
LANE = "relay/_lane.abi3.so"
HAS_CARGO = shutil.which("cargo") is not None
IN_REPOSITORY = (ROOT / ".git").exists()
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on

pytestmark = pytest.mark.skipif(
    not IN_REPOSITORY or importlib.util.find_spec("setuptools_rust") is None,
    reason="needs the repository and setuptools-rust",
)


def copied(to: Path) -> Path:
    """The tree's files, changed or not yet committed ones too, with their times, so that cargo knows them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a deleted one is listed until that is committed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def built(kind: str, source: Path, env: Mapping[str, str]) -> tuple[Path, str]:
    """The file that the build back end of pyproject.toml makes of `source`, and what it said meanwhile.

    `kind`: wheel or sdist.
    """
    script = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    (source / "dist").mkdir(exist_ok=True)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=source, env=dict(env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    [made] = (source / "dist").iterdir()
    return made, done.stdout + done.stderr


def with_cargo() -> dict[str, str]:
    """This environment, and one place for what cargo makes."""
    return {"CARGO_TARGET_DIR": str(CACHE / "cargo"), "PYO3_PYTHON": sys.executable} | dict(os.environ)


def without_cargo(folder: Path) -> dict[str, str]:
    """This environment with nothing at all to be found by name."""
    folder.mkdir(exist_ok=True)
    left = {key: value for key, value in os.environ.items() if not key.startswith(("CARGO", "RUST"))}
    return left | {"PATH": str(folder)}


def installed(wheel: Path, folder: Path) -> Path:
    """The interpreter of a fresh environment with the wheel, that borrows this one's other packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "-q", "--python", str(python)]
    subprocess.run([*command, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # A plain line adds the folder, and not what its own .pth files add: the editable install of this tree.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("platlib") + "\n")
    return python


def serving(python: Path) -> Daemon:
    """`relay serve` of that environment, wherever the tests are run from."""
    relay = str(python.parent / "relay")
    script = f"import os, sys; os.execv({relay!r}, [{relay!r}, 'serve', '--config', sys.argv[1]])"
    return Daemon.start(command=("-c", script))


def status(daemon: Daemon, python: Path) -> dict[str, object]:
    """What `relay status --json` of that environment tells."""
    url = next(line["metrics"] for line in daemon.log() if line.get("message") == "serving")
    command = [str(python.parent / "relay"), "status", "--json", "--url", f"http://{url}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    facts: dict[str, object] = json.loads(said)
    return facts


def test_without_cargo_an_installation_serves_with_the_python_lane_and_says_so(tmp_path: Path) -> None:
    source = copied(tmp_path / "source")
    wheel, _ = built("wheel", source, without_cargo(tmp_path / "nothing"))
    assert LANE not in zipfile.ZipFile(wheel).namelist()
    python = installed(wheel, tmp_path / "env")
    with serving(python) as daemon:
        facts = status(daemon, python)
        assert (facts["ok"], facts["lane"]) == (True, "python")
        assert [line["level"] for line in daemon.log() if "native packet path" in line["message"]] == [
            "warning"
        ]
    where = "import relay; print(relay.__file__)"
    imported = subprocess.run(
        [str(python), "-P", "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert imported.stdout.startswith(str(tmp_path))


@pytest.mark.skipif(not HAS_CARGO, reason="no cargo here")
def test_with_cargo_and_no_crates_to_be_had_the_python_lane_is_installed_alone(tmp_path: Path) -> None:
    nowhere = {"CARGO_HOME": str(tmp_path / "home"), "CARGO_NET_OFFLINE": "true"}
    nowhere["CARGO_TARGET_DIR"] = str(tmp_path / "target")
    wheel, _ = built("wheel", copied(tmp_path / "source"), {**os.environ, **nowhere})
    assert LANE not in zipfile.ZipFile(wheel).namelist()


@pytest.mark.skipif(not HAS_CARGO, reason="no cargo here: no native lane to build")
@pytest.mark.timeout(600)  # the first time cargo compiles everything
def test_a_source_distribution_holds_the_crate_and_installs_the_native_lane(tmp_path: Path) -> None:
    folder = CACHE / "packages"  # always the same, and files keep their times: cargo compiles changes only
    shutil.rmtree(folder, ignore_errors=True)
    sdist, _ = built("sdist", copied(folder / "tree"), with_cargo())
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(folder, **SAFELY)
    crate = ROOT / "relay" / "lane"
    sources = [crate / "Cargo.toml", crate / "Cargo.lock", *crate.glob("src/**/*.rs")]
    assert {str(path.relative_to(ROOT)) for path in sources} <= names
    assert not {name for name in names if name.endswith((".so", ".rlib")) or "target/" in name}
    wheel, said = built("wheel", folder / sdist.name.removesuffix(".tar.gz"), with_cargo())
    assert LANE in zipfile.ZipFile(wheel).namelist(), said[said.find("error") :][:4000]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wheel.name.split("-")[2:4] == ["cp" + oldest.removeprefix(">=").replace(".", ""), "abi3"]
    python = installed(wheel, tmp_path / "env")
    with serving(python) as daemon:
        facts = status(daemon, python)
        assert (facts["ok"], facts["lane"]) == (True, "native")
        assert daemon.complaints() == []
    shutil.rmtree(folder)
