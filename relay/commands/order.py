"""`relay command`: sign one order, and hand it to a daemon or, by the store, to all of the fleet.

Must never live here: the format (relay/protocol/command.py), the socket (relay/ops/commands.py), the fleet's
way (order_fleet.py).
"""

from __future__ import annotations

import argparse
import base64
import secrets
import time
from typing import Any, Final

from relay.commands.desk import who
from relay.commands.node import DEFAULT_PATH
from relay.commands.terminal import Printer, Subcommands, declare, hex_bytes, read_text
from relay.config import Config, load
from relay.errors import ConfigError
from relay.ops.commands import send
from relay.protocol import command, dispatch
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sub
from relay.protocol.keys import read_key

OPTIONS: dict[str, tuple[type, str]] = {
    "call": (CallId, "call id"),
    "sub": (Sub, "pseudonym of the person"),
    "peer": (Sub, "pseudonym of the other person"),
    "token_id": (Jti, "id (jti) of a token"),
    "person": (PersonId, "stable id (ru) of a person"),
    "key_id": (Kid, "id of an issuer's key"),
}
FIELDS = {"call": "cid", "token_id": "jti", "person": "ru", "key_id": "kid"}
TTL_S: Final = 30
FLEET_TTL_S: Final = 300
"""The longest there is: a node that was away, or is started again, obeys it as long."""
WAIT_S: Final = 2.0
EPILOG: Final = (
    "with --fleet: exit status 0 a node obeyed and the others have nobody whom it is about, 1 one refused\n"
    "it or none has the call, 3 not all answered in time; it holds at all of them once they hear of it\n"
)

# Name, what it does, options it needs, options it may have, whether it can be undone.
ORDERS: tuple[tuple[command.Op, str, tuple[str, ...], tuple[str, ...], bool], ...] = (
    ("end", "end a call", ("call",), (), False),
    ("mute", "mute a person at the relay, or lift it with --off", ("call", "sub"), (), True),
    ("remove", "remove a person from a call", ("call", "sub"), (), False),
    (
        "block",
        "keep two people from hearing each other, or lift it with --off",
        ("sub", "peer"),
        ("call",),
        True,
    ),
    (
        "revoke",
        "refuse a token, a person or an issuer's key from now on",
        (),
        ("token_id", "person", "key_id"),
        False,
    ),
)


def add(subcommands: Subcommands) -> None:
    """Declare `command end|mute|remove|block|revoke|send`."""
    top = subcommands.add_parser("command", help="sign an order, send it to a daemon or to all of the fleet")
    inner = top.add_subparsers(dest="op", metavar="ORDER", required=True)
    for op, help, needed, optional, undoable in ORDERS:
        sample = " ".join(f"{_flag(name)} {'0f' * _size(name)}" for name in needed or optional[:1])
        first = f"relay command {op} --key issuer.key {sample}"
        parser = declare(inner, op, run, help, f"{first}\n{first} --fleet", epilog=EPILOG)
        for name in (*needed, *optional):
            parser.add_argument(
                _flag(name),
                dest=name,
                metavar="HEX",
                required=name in needed,
                help=f"{OPTIONS[name][1]}, {2 * _size(name)} digits",
            )
        if undoable:
            parser.add_argument("--off", action="store_true", help="undo it")
        parser.add_argument("--key", required=True, metavar="FILE", help="issuer's secret key file")
        _add_way(parser)
        parser.add_argument(
            "--ttl", type=int, metavar="S", help=f"valid for, seconds ({TTL_S}; with --fleet {FLEET_TTL_S})"
        )
        parser.add_argument(
            "--print", action="store_true", help="print the signed line instead of sending it"
        )
    sample = "relay command send --fleet line.txt\nrelay command send --fleet - < line.txt"
    parser = declare(inner, "send", run_send, "send a line that was signed elsewhere", sample, epilog=EPILOG)
    parser.add_argument("line", metavar="FILE", help='what --print printed, "-" for standard input')
    _add_way(parser)


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Sign, send, tell the answer; 1 when the daemon refused."""
    seed = read_key(read_text(arguments.key, "--key"), "--key")
    raw = command.mint(_order(arguments), seed)
    if arguments.print:
        text = base64.b64encode(raw).decode()
        printer.result({"ok": True, "line": text}, text)
        return 0
    return _send(arguments, printer, raw)


def run_send(arguments: argparse.Namespace, printer: Printer) -> int:
    """Send, tell the answer. PeerError: the line is none."""
    return _send(arguments, printer, dispatch.from_text(read_text(arguments.line, "FILE").encode()))


def _send(arguments: argparse.Namespace, printer: Printer, raw: bytes) -> int:
    if arguments.fleet:
        return _give(arguments, printer, raw)
    answer = send(_socket(arguments), raw)
    text = "done" if answer.get("ok") else f"refused: {answer.get('name')} {answer.get('message')}"
    printer.result(answer, text)
    return 0 if answer.get("ok") else 1


def _give(arguments: argparse.Namespace, printer: Printer, raw: bytes) -> int:
    from relay.commands import order_fleet  # pulls in aiohttp, which sending to one daemon does not need

    if arguments.socket:
        raise ConfigError("--socket", "is one daemon's, and --fleet means all", "leave one of them out")
    if not 0 < arguments.wait <= 60:
        raise ConfigError("--wait", f"{arguments.wait:g} s is not above 0 and at most 60", "for example 2")
    config = load(arguments.config or DEFAULT_PATH)
    why = f"relay command {arguments.op}"
    outcome = order_fleet.give(config, raw, arguments.wait, who(arguments), why)
    printer.result(outcome.facts(), outcome.text())
    return outcome.status


def _add_way(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="daemon's configuration: its socket, or the store")
    parser.add_argument("--socket", metavar="PATH", help="the socket itself, instead of --config")
    parser.add_argument(
        "--fleet", action="store_true", help="give it to all nodes, by the store of [state]; say who obeyed"
    )
    parser.add_argument(
        "--wait", type=float, default=WAIT_S, metavar="S", help="for all nodes' answers (%(default)g)"
    )
    parser.add_argument("--who", default="", metavar="NAME", help="for --fleet: who does it (your name)")


def _order(arguments: argparse.Namespace) -> command.Command:
    now = int(time.time())
    values: dict[str, Any] = {}
    for name, (kind, _) in OPTIONS.items():
        text = getattr(arguments, name, None)
        if text is not None:
            values[FIELDS.get(name, name)] = kind(hex_bytes(text, _size(name), _flag(name)))
    ttl = arguments.ttl if arguments.ttl is not None else FLEET_TTL_S if arguments.fleet else TTL_S
    return command.Command(
        op=arguments.op,
        on=not getattr(arguments, "off", False),
        iat=now,
        exp=now + ttl,
        id=Jti(secrets.token_bytes(16)),
        **values,
    )


def _socket(arguments: argparse.Namespace) -> str:
    if arguments.socket:
        return str(arguments.socket)
    config = load(arguments.config) if arguments.config else Config()
    return config.listen.command_socket


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _size(name: str) -> int:
    return 8 if name == "key_id" else 16
