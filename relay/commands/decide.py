"""`relay rollout decide --state`: what the boxes of a region answer now, by the code that they answer with.

Must never live here: what follows from a state (relay/rollout/mandate.py).
"""

from __future__ import annotations

import argparse
import re
import time

from relay.commands.terminal import Printer
from relay.config_state import PUBLIC_KEY
from relay.errors import ConfigError
from relay.rollout.lastgood import RefusedError, State, accepted, parse, stand
from relay.rollout.lastgood_file import OsFiles, kills_of
from relay.rollout.mandate import Mandate


def decide_now(arguments: argparse.Namespace, printer: Printer) -> int:
    """May they call, and which variant does a call get? ConfigError for what cannot be asked."""
    if arguments.pct is not None:
        raise ConfigError("--pct", "a state has its shares", "leave it out, or ask a plan: --plan")
    if not re.fullmatch("[0-9a-f]{32}", arguments.unit):
        cure = "a person's `ru`, or a call's id"
        raise ConfigError("--unit", "is not 32 lower-case hexadecimal digits", cure)
    state, problem = _read(arguments)
    standing = stand(state, time.time(), kills_of(OsFiles(), (f"{arguments.state}.kill",)))
    mandate = Mandate.of(standing, arguments.without)
    unit = bytes.fromhex(arguments.unit)
    person = unit if mandate.is_open else None
    why = mandate.closed(person, arguments.group, arguments.region)
    facts = {
        "ok": True,
        "revision": standing.revision,
        "serving": standing.serving.value,
        "problem": problem,
        "rollout": mandate.offer.id if mandate.offer is not None else None,
        "kind": mandate.offer.kind if mandate.offer is not None else None,
        "region": arguments.region,
        "may_call": why is None,
        "why": why.value if why is not None else "",
        "decision": None,
    }
    told = f"revision {standing.revision} ({standing.serving.value}): "
    told += "may call" if why is None else f"may not call: {why.value}"
    if mandate.offer is not None:
        decision = mandate.decide(unit, arguments.group, arguments.region)
        facts["decision"] = decision.facts()
        told += f"; {decision.variant.value} of {mandate.offer.id} ({decision.rule.value})"
    printer.result(facts, told)
    return 0


def _read(arguments: argparse.Namespace) -> tuple[State | None, str]:
    """The state, and "" or why there is none that counts."""
    if not arguments.key or len(arguments.key) > 2:
        raise ConfigError("--key", "name the public key that signs the state, or two", "as in state.keys")
    for key in arguments.key:
        if not re.fullmatch(PUBLIC_KEY, key):
            raise ConfigError("--key", "is not 64 lower-case hexadecimal digits", "as in state.keys")
    try:
        raw = OsFiles().read(arguments.state)
    except OSError as error:
        raise ConfigError("--state", f"{arguments.state}: {error.strerror}", "name the signed file") from None
    if raw is None:
        return None, "there is no such file"
    try:
        return parse(raw, accepted(bytes.fromhex(key) for key in arguments.key)), ""
    except RefusedError as error:
        return None, error.why.value
