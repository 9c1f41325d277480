"""How a subcommand speaks: facts on standard output, progress and errors on standard error.

Must never live here: what is said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from relay.errors import ConfigError

Run = Callable[[argparse.Namespace, "Printer"], int]
Subcommands = Any
"""What argparse's add_subparsers returns; its class is private there."""


class Printer:
    """Prints for people, or one JSON object for machines."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json

    def result(self, facts: Mapping[str, Any], text: str) -> None:
        """The outcome: `facts` for machines, `text` for people."""
        _write(json.dumps(facts, ensure_ascii=False) if self.is_json else text)

    def progress(self, text: str) -> None:
        """What is going on; never on standard output."""
        print(text, file=sys.stderr, flush=True)

    def error(self, text: str, *, key: str | None = None) -> None:
        """One line that says what is wrong; `key` names the setting, option or code."""
        if self.is_json:
            _write(json.dumps({"ok": False, "error": text, "key": key}, ensure_ascii=False))
        print(f"relay: {text}", file=sys.stderr, flush=True)


def declare(
    subcommands: Subcommands,
    name: str,
    run: Run,
    help: str,
    examples: str,
    *,
    epilog: str = "",
    is_below: bool = False,
) -> argparse.ArgumentParser:
    """Add a subcommand with --json, its examples, and the function that does it.

    `is_below`: it stands below one that has --json itself, and leaves be what was said there.
    """
    parser: argparse.ArgumentParser = subcommands.add_parser(
        name,
        help=help,
        description=help[:1].upper() + help[1:] + ".",
        epilog=f"examples:\n{_indented(examples)}\n\n{epilog}exit status: 0 done, 1 failed, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = argparse.SUPPRESS if is_below else False
    parser.add_argument(
        "--json", action="store_true", default=default, help="print one JSON object for machines"
    )
    parser.set_defaults(run=run)
    return parser


def read_text(path: str, option: str) -> str:
    """A small text file, or standard input for "-". ConfigError names the option."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(option, f"{path}: {error.strerror}", "name a readable file") from None
    except UnicodeDecodeError:
        raise ConfigError(option, f"{path}: not text", "name a text file") from None


def write_secret(path: str, text: str, option: str) -> None:
    """A new file only its owner can read. ConfigError if there is one already."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            option, f"{path} exists already", "name a new file, nothing is overwritten"
        ) from None
    except OSError as error:
        raise ConfigError(option, f"{path}: {error.strerror}", "name a file in a writable folder") from None


def hex_bytes(text: str, size: int, option: str) -> bytes:
    """An id of `size` bytes written in hexadecimal. ConfigError names the option."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise ConfigError(option, f"is not {size * 2} hexadecimal digits", f"for example {'0f' * size}")
    return value


def _write(text: str) -> None:
    """One line in one piece, so that several processes may share a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())
