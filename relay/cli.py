"""The command `relay`: which subcommands there are, and how errors are told.

Exit status: 0 done; 1 it was tried and failed; 2 wrong usage or configuration. With --json the last line on
standard output is one JSON object, also for an error: {"ok": false, "error": ..., "key": ...}. Must never
live here: what a subcommand does (relay/commands/).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from relay import __version__
from relay.commands.terminal import Printer
from relay.errors import ConfigError, PeerError, RelayError

DONE = 0
FAILED = 1
USAGE = 2

ABOUT = "Carries end-to-end encrypted voice between the people of a call, and can never open it."
EPILOG = """\
examples:
  relay token keygen issuer.key                     a key pair for your back end
  relay check-config /etc/relay/relay.toml          what the daemon would say about it
  relay serve --config /etc/relay/relay.toml        the daemon itself
  relay token mint --key issuer.key --out a.tok --out b.tok
  relay call --url quic://127.0.0.1:4433 --token-file a.tok --in a.wav --out heard.wav
  relay command end --key issuer.key --call 101112131415161718191a1b1c1d1e1f
  relay status
  relay explain 101112131415                        what happened in a call
  relay qlog 101112131415                           trace one that runs
  relay feed status                                 how far webhooks are
  relay state show                                  what stands in the store of rollouts' state
  relay nodes show                                  the signed node list
  relay drain                                       ask the daemon to leave, and watch it
  relay rollout plan rollout.toml                   is this plan of a rollout right?
  relay rollout status                              how far rollouts are
  relay canary --url quic://relay.example --key canary.key      does a call work?

exit status: 0 done, 1 tried and failed, 2 wrong usage or configuration
"""


# Subcommand -> the module of relay.commands that declares it, in the order of --help.
MODULES: Final = {
    "serve": "node",
    "check-config": "node",
    "call": "call",
    "token": "token",
    "command": "order",
    "records": "records",
    "explain": "explain",
    "qlog": "qlog",
    "status": "status",
    "drain": "drain",
    "rollout": "rollout",
    "canary": "canary",
    "feed": "feed",
    "state": "state",
    "nodes": "nodes",
    "demo": "demo",
}


def parser(subcommand: str | None = None) -> argparse.ArgumentParser:
    """The whole command line; or, if it is known, of this subcommand only.

    The others' modules cost 150 ms to import, by which a daemon would be ready later.
    """
    top = argparse.ArgumentParser(
        prog="relay", description=ABOUT, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"relay {__version__}")
    subcommands = top.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    named = MODULES.get(subcommand or "")
    for module in dict.fromkeys([named] if named else MODULES.values()):
        import_module(f"relay.commands.{module}").add(subcommands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(words[0] if words else None).parse_args(words)
    printer = Printer(is_json=bool(getattr(arguments, "json", False)))
    try:
        return int(arguments.run(arguments, printer))
    except ConfigError as error:
        printer.error(str(error), key=error.key)
        return USAGE
    except PeerError as error:
        printer.error(error.message, key=error.code.name)
        return FAILED
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (RelayError, OSError) as error:
        printer.error(_told(error))
        return FAILED
    except KeyboardInterrupt:
        printer.error("interrupted")
        return FAILED


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
