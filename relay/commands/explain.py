"""`relay explain`: what happened in one call, leg by leg. Must never live here: what a record holds."""

from __future__ import annotations

import argparse
import datetime
from typing import Any, Final

from relay.commands.node import DEFAULT_PATH
from relay.commands.records import records_path
from relay.commands.terminal import Printer, Subcommands, declare
from relay.config import load
from relay.errors import ConfigError
from relay.ops import history, qlogs
from relay.protocol.ids import reference

FEWEST: Final = 8  # digits; of fewer a busy node has several calls each day
WHOLE: Final = 32
LEFT_OUT: Final = ("loss", "jitter_ms", "concealed_ms", "late", "direct_s")
"""What a client said of itself, before the relay's own estimate."""


def add(subcommands: Subcommands) -> None:
    """Declare it."""
    parser = declare(
        subcommands,
        "explain",
        run,
        "tell what happened in one call, leg by leg",
        "relay explain 101112131415\nrelay explain 101112131415161718191a1b1c1d1e1f --json",
    )
    parser.add_argument(
        "call",
        metavar="CALL",
        help="the call's id, or its reference: the first digits, as logs and clients say",
    )
    parser.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
    parser.add_argument("--file", metavar="FILE", help="the records file itself, instead of --config")


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Print every record that the reference fits; 1 if there is none."""
    digits = parse_reference(arguments.call)
    with history.database(records_path(arguments), create=False) as connection:
        calls = history.query(connection, reference=digits)
    folder = "" if arguments.file else load(arguments.config).qlog.path
    if not calls:
        traces = "".join(f"; its qlog: {path}" for path in qlogs.found(folder, digits))
        printer.error(
            f"no record of a call {digits}: it still runs, is erased, or was at another node{traces}"
        )
        return 1
    for call in calls:
        call["qlogs"] = qlogs.found(folder, call["call"])
    printer.result({"ok": True, "calls": calls}, "\n\n".join(map(told, calls)))
    return 0


def parse_reference(text: str) -> str:
    """The first digits of a call's id, or all of them. ConfigError if it is something else."""
    digits = text.lower()
    if not FEWEST <= len(digits) <= WHOLE or set(digits) - set("0123456789abcdef"):
        cure = f"{FEWEST} to {WHOLE} hexadecimal digits, for example 101112131415"
        raise ConfigError("CALL", "is no call's reference", cure)
    return digits


def told(call: dict[str, Any]) -> str:
    """One call for people."""
    began = datetime.datetime.fromtimestamp(call["started_at"], datetime.UTC)
    answered, ended = call["answered_at"], call["ended_at"]
    rang = (ended if answered is None else answered) - call["started_at"]
    talk = "was not answered" if answered is None else f"talked {ended - answered:.1f} s"
    why = call["outcome"] + (f" ({call['reason']})" if call["reason"] else "")
    why += ", a canary" if call["canary"] else ""
    why += f", {call['variant']} of {call['rollout'] or 'a rollout'}" if call["variant"] else ""
    lines = [
        f"call {reference(bytes.fromhex(call['call']))} at {call['node']} in {call['region']}",
        f"{began:%Y-%m-%d %H:%M:%S} UTC: rang {rang:.1f} s, {talk}, {why}",
    ]
    for person in call["participants"]:
        lines += ["", *_person(person, call["started_at"])]
    if call["qlogs"]:
        lines += ["", *(f"qlog {path}" for path in call["qlogs"])]
    return "\n".join(lines)


def _person(person: dict[str, Any], began: float) -> list[str]:
    client = " ".join(value for value in person["client"].values() if value)
    said = "accepted" if person["accepted"] else "never accepted"
    lines = [f"participant {person['index']} ({client or 'unknown client'}), {said}"]
    story = [*person["story"], [person["left_at"] - began, "ended", person["why"]]]
    if not person["story"]:
        story.insert(0, [person["joined_at"] - began, "joined", "an older version kept no more"])
    for at, kind, detail in story:
        lines.append(f"  {at:8.1f} s  {kind}{': ' if detail else ''}{detail}")
    lines.append(f"  sent      {_sent(person)}")
    heard = {name: value for name, value in person["quality"].items() if name not in LEFT_OUT}
    if heard:
        lines.append("  heard     " + ", ".join(f"{name} {value:g}" for name, value in heard.items()))
    if person["quality"].get("direct_s"):
        lines.append(f"  directly  {person['quality']['direct_s']:g} s past the relay")
    return lines


def _sent(person: dict[str, Any]) -> str:
    came, lost = person["received"], person["lost"]
    share = f" ({100 * lost / (came + lost):.1f} %)" if came + lost else ""
    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(person["dropped"].items()) if count)
    return f"{came} packets came, {lost} lost on the way{share}; dropped: {dropped or 'none'}"
