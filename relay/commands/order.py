"""`relay command`: sign one order and hand it to a daemon.

Must never live here: the format (relay/protocol/command.py), the socket (relay/ops/commands.py).
"""

from __future__ import annotations

import argparse
import base64
import secrets
import time
from typing import Any

from relay.commands.terminal import Printer, Subcommands, declare, hex_bytes, read_text
from relay.config import Config, load
from relay.ops.commands import send
from relay.protocol import command
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
    """Declare `command end|mute|remove|block|revoke`."""
    top = subcommands.add_parser("command", help="sign an order and send it to a running daemon")
    inner = top.add_subparsers(dest="op", metavar="ORDER", required=True)
    for op, help, needed, optional, undoable in ORDERS:
        sample = " ".join(f"{_flag(name)} {'0f' * _size(name)}" for name in needed or optional[:1])
        parser = declare(inner, op, run, help, f"relay command {op} --key issuer.key {sample}")
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
        parser.add_argument("--config", metavar="FILE", help="daemon's configuration: where its socket is")
        parser.add_argument("--socket", metavar="PATH", help="the socket itself, instead of --config")
        parser.add_argument(
            "--ttl", type=int, default=30, metavar="S", help="valid for, seconds (%(default)s)"
        )
        parser.add_argument(
            "--print", action="store_true", help="print the signed line instead of sending it"
        )


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Sign, send, tell the answer; 1 when the daemon refused."""
    seed = read_key(read_text(arguments.key, "--key"), "--key")
    raw = command.mint(_order(arguments), seed)
    if arguments.print:
        text = base64.b64encode(raw).decode()
        printer.result({"ok": True, "line": text}, text)
        return 0
    answer = send(_socket(arguments), raw)
    text = "done" if answer.get("ok") else f"refused: {answer.get('name')} {answer.get('message')}"
    printer.result(answer, text)
    return 0 if answer.get("ok") else 1


def _order(arguments: argparse.Namespace) -> command.Command:
    now = int(time.time())
    values: dict[str, Any] = {}
    for name, (kind, _) in OPTIONS.items():
        text = getattr(arguments, name, None)
        if text is not None:
            values[FIELDS.get(name, name)] = kind(hex_bytes(text, _size(name), _flag(name)))
    return command.Command(
        op=arguments.op,
        on=not getattr(arguments, "off", False),
        iat=now,
        exp=now + arguments.ttl,
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
