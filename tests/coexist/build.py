"""Builds the client on quinn with cargo, once, into .cache/coexist. Must never live here: what it is for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CRATE = Path(__file__).parent / "quinn"
TARGET = Path(os.environ.get("RELAY_COEXIST_TARGET", Path(__file__).parents[2] / ".cache" / "coexist"))


class NoCargoError(Exception):
    """There is no cargo on this machine."""


def quinn_client() -> Path:
    """The program, built if need be: from what cargo has fetched before, else with a fetch.

    NoCargoError without cargo, CalledProcessError when the build fails.
    """
    cargo = shutil.which("cargo")
    if cargo is None:
        raise NoCargoError
    command = [cargo, "build", "--quiet", "--locked", "--manifest-path", str(CRATE / "Cargo.toml")]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    if subprocess.run([*command, "--offline"], env=environment, capture_output=True, check=False).returncode:
        subprocess.run(command, env=environment, check=True)
    return TARGET / "debug" / "coexist-quinn"
