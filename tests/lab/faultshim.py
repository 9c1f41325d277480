"""The lab's hand on what libc tells one process: errors of its UDP sockets, its wall clock (faultshim.c).

    shim = Shim(folder)                  compiled by gcc, all quiet
    [sys.executable, ...] with shim.environment
    shim.set(send_errno=errno.ENOBUFS, send_every=2)      ... shim.set(send_errno=0)
    shim.get("refused")                  how often it did

The native lane, CPython and Rust's library all ask libc, so that nothing of the daemon is changed. Must never
live here: what ought to follow.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
FIELDS: Final = (
    "send_errno",
    "send_every",
    "recv_errno",
    "wall_offset",
    "wall_fails",
    "sends",
    "refused",
    "unread",
    "clockless",
)
_WORD: Final = struct.Struct("=q")


class Shim:
    """One shared library and one page that it obeys."""

    def __init__(self, folder: Path) -> None:
        library, page = folder / "faults.so", folder / "faults.page"
        built = subprocess.run(
            ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            raise RuntimeError(f"gcc: {built.stderr.strip()}")
        page.write_bytes(bytes(mmap.PAGESIZE))
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.environment = {"LD_PRELOAD": str(library), "RELAY_FAULTS": str(page)}

    def set(self, **values: int) -> None:
        """From now on."""
        for name, value in values.items():
            _WORD.pack_into(self._page, _WORD.size * FIELDS.index(name), value)

    def get(self, name: str) -> int:
        """A field as it is now."""
        (value,) = _WORD.unpack_from(self._page, _WORD.size * FIELDS.index(name))
        return int(value)

    def quiet(self) -> None:
        """Nothing fails, the clock is right; what was counted starts anew."""
        self.set(**dict.fromkeys(FIELDS, 0))
