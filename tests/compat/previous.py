"""The version before this one, as test data: its Python code and its configuration, packed from one commit.

    python tests/compat/previous.py COMMIT     pack that commit in place of the one there

A clone of CI may be shallow, so it stands in the tree: `previous.tar.xz`, a third of a megabyte, bytes as git
has them; the archive names its commit. Without the crate: the daemon of then runs here on the Python lane,
its SDK has no other. Must never live here: what is tested with it.
"""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

ARCHIVE = Path(__file__).with_name("previous.tar.xz")
CONFIG = "config/relay.toml"
WHAT = ("relay", CONFIG, ":(exclude)relay/lane")


def packed(commit: str, root: Path) -> bytes:
    """The tar of that commit, as git writes it. CalledProcessError when there is no such commit here."""
    command = ["git", "-C", str(root), "archive", "--format=tar", commit, "--", *WHAT]
    return subprocess.run(command, capture_output=True, check=True).stdout


def unpacked() -> bytes:
    """The tar that stands there."""
    return lzma.decompress(ARCHIVE.read_bytes())


def commit() -> str:
    """Of which commit that is."""
    with tarfile.open(ARCHIVE) as archive:
        return archive.pax_headers["comment"]


def files(tar: bytes) -> dict[str, bytes]:
    """Each file of a tar by its name."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        opened = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in opened.items() if file is not None}


def unpack(folder: Path) -> Path:
    """Its tree, to be put first on a program's PYTHONPATH."""
    for name, data in files(unpacked()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def run_by(tree: Path, command: Sequence[str]) -> list[str]:
    """The command, with that tree's `relay` and no other."""
    return ["/usr/bin/env", f"--chdir={tree}", f"PYTHONPATH={tree}", *command]


if __name__ == "__main__":
    tar = packed(sys.argv[1], Path(__file__).parents[2])
    ARCHIVE.write_bytes(lzma.compress(tar, preset=9 | lzma.PRESET_EXTREME))
    print(f"{ARCHIVE.name}: {commit()}, {ARCHIVE.stat().st_size} bytes")
