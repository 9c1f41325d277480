"""`relay state`: sign the state of rollouts and put it into its store, kill a rollout, show what stands.

Must never live here: what a state means (relay/rollout/lastgood.py), stores.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

import msgspec

from relay.commands.desk import add_by, add_config, by, date, with_store
from relay.commands.nodes import read_routes
from relay.commands.terminal import Printer, Subcommands, declare, read_text
from relay.config import load
from relay.config_state import StateConfig
from relay.errors import ConfigError, LocalError, RelayError
from relay.protocol.keys import read_key
from relay.protocol.signed import public_of
from relay.rollout.keys import BUCKET, LIVES, STATE, kill_key, killed_id
from relay.rollout.lastgood import LIFE_S, Body, Offer, RefusedError, accepted, parse, seal
from relay.rollout.store import Entry, StateStore

CLOSED: Final = "none"


def add(subcommands: Subcommands) -> None:
    """Declare `state` and what stands below it."""
    top = subcommands.add_parser("state", help="sign the state of rollouts, put it into its store, show it")
    inner = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    put = declare(
        inner,
        "put",
        run_put,
        "sign a state and put it into the store, for all boxes",
        "relay state put --key operator.key --rollout offer.json --why 'step 2: 5 %'\n"
        "relay state put --key operator.key --why 'the same for another week'\n"
        "relay state put --key operator.key --rollout none --why 'all done'",
        epilog="what is not given stays as it stands in the store\n",
    )
    put.add_argument("--key", required=True, metavar="FILE", help="private key, of `relay token keygen`")
    put.add_argument("--rollout", metavar="FILE", help=f'JSON: id, salt, shares; "{CLOSED}": no rollout')
    put.add_argument("--routes", metavar="FILE", help="JSON: region to relays")
    put.add_argument("--days", type=float, default=LIFE_S / 86_400, help="how long it holds (%(default)g)")
    put.add_argument("--rev", type=int, metavar="N", help="its revision (one more than the newest)")
    kill = declare(
        inner,
        "kill",
        run_kill,
        "switch a rollout off on all boxes at once, or lift that with --off",
        "relay state kill relay-0.4 --why 'calls break'\nrelay state kill relay-0.4 --off --why mended",
        epilog="needs no key: it only narrows\n",
    )
    kill.add_argument("id", metavar="ID", help="id of the rollout")
    kill.add_argument("--off", action="store_true", help="take the kill back")
    show = declare(inner, "show", run_show, "show what stands in the store", "relay state show")
    prepare = declare(
        inner,
        "prepare",
        run_prepare,
        'make the buckets of backend "nats"; again changes nothing',
        "relay state prepare --hub --leaf fra --leaf ams\nrelay state prepare --leaf hub",
        epilog="at the hub once, and again for a new leaf; at each leaf once, naming the hub\n",
    )
    prepare.add_argument("--hub", action="store_true", help="the server is the hub; --leaf: all its leaves")
    prepare.add_argument("--leaf", action="append", default=[], metavar="DOMAIN", help="JetStream domain")
    for parser in (put, kill, show, prepare):
        add_config(parser)
    for parser in (put, kill):
        add_by(parser)


def run_put(arguments: argparse.Namespace, printer: Printer) -> int:
    """Sign and put."""
    config = load(arguments.config).state
    seed = read_key(read_text(arguments.key, "--key"), "--key")
    public = public_of(seed).hex()
    if public not in config.keys:
        cure = f"add {public}, or take another key"
        raise ConfigError("state.keys", "no box would take what this key signs", cure)
    given = _given(arguments)

    async def work(store: StateStore) -> Body:
        standing = await store.get(BUCKET, STATE)
        before = _body(standing, config) if arguments.rev is None else None
        body = _next(before, given, arguments.rev, arguments.days)
        expect = standing.revision if standing is not None else 0
        await store.put(BUCKET, STATE, seal(body, seed), expect=expect, **by(arguments))
        return body

    try:
        body = with_store(config, work)
    except LocalError as error:
        raise ConfigError("--rollout", str(error), "docs/state.md says what it may hold") from None
    facts = {"ok": True, **_facts(body)}
    printer.result(facts, f"revision {body.rev} is in the store, until {date(body.not_after)}")
    return 0


def run_kill(arguments: argparse.Namespace, printer: Printer) -> int:
    """Kill, or take it back."""
    config = load(arguments.config).state

    async def work(store: StateStore) -> None:
        standing = await store.get(BUCKET, kill_key(arguments.id))
        expect = standing.revision if standing is not None else 0
        value = LIVES if arguments.off else b"true"
        await store.put(BUCKET, kill_key(arguments.id), value, expect=expect, **by(arguments))

    with_store(config, work)
    done = "is no longer killed" if arguments.off else "is killed: boxes see it within seconds"
    printer.result({"ok": True, "id": arguments.id, "killed": not arguments.off}, f"{arguments.id} {done}")
    return 0


def run_show(arguments: argparse.Namespace, printer: Printer) -> int:
    """Everything of interest, for people too as JSON: it is what is signed."""
    config = load(arguments.config).state

    async def work(store: StateStore) -> tuple[Entry | None, list[str]]:
        state = await store.get(BUCKET, STATE)
        return state, sorted([id async for id in _killed(store)])

    entry, kills = with_store(config, work)
    facts: dict[str, Any] = {"ok": True, "state": None, "kills": kills}
    if entry is not None:
        facts["state"] = _facts(_body(entry, config)) | {"who": entry.who, "why": entry.why, "at": entry.ts}
    printer.result(facts, msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
    return 0


def run_prepare(arguments: argparse.Namespace, printer: Printer) -> int:
    """Make buckets."""
    config = load(arguments.config).state
    if config.backend != "nats":
        raise ConfigError("state.backend", 'is "file", which needs no buckets', 'write backend = "nats"')
    if not arguments.hub and len(arguments.leaf) != 1:
        raise ConfigError("--leaf", "name the hub's JetStream domain, once", "or give --hub at the hub")
    from relay.rollout.store_nats import NatsStore

    async def work(store: StateStore) -> None:
        assert isinstance(store, NatsStore)
        await (store.make_hub(arguments.leaf) if arguments.hub else store.make_leaf(arguments.leaf[0]))

    with_store(config, work)
    printer.result({"ok": True}, "the buckets are there")
    return 0


# ---------------------------------------------------------------- inside


async def _killed(store: StateStore) -> Any:
    """Ids of rollouts that the store kills now."""
    for key in await store.keys(BUCKET):
        id = killed_id(key)
        entry = await store.get(BUCKET, key) if id is not None else None
        if entry is not None and entry.value.strip() != LIVES:
            yield id


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the files say. ConfigError names the option."""
    found: dict[str, Any] = {}
    if arguments.routes is not None:
        found["routes"] = read_routes(arguments.routes)
    path = arguments.rollout
    if path == CLOSED:
        found["rollout"] = None
    elif path is not None:
        try:
            found["rollout"] = msgspec.json.decode(read_text(path, "--rollout"), type=Offer)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            cure = "docs/state.md says what it may hold"
            raise ConfigError("--rollout", f"{path}: {error}", cure) from None
    return found


def _body(entry: Entry | None, config: StateConfig) -> Body | None:
    """What stands there. RelayError: nobody can tell."""
    if entry is None:
        return None
    try:
        return parse(entry.value, accepted(bytes.fromhex(key) for key in config.keys)).body
    except RefusedError as error:
        raise RelayError(
            f"what stands in the store does not count: {error} (`put` with --rev goes over it)"
        ) from None


def _next(before: Body | None, given: dict[str, Any], rev: int | None, days: float) -> Body:
    now = int(time.time())
    if rev is None:
        rev = before.rev + 1 if before is not None else 1
    kept = {"rollout": before.rollout, "routes": before.routes} if before is not None else {"rollout": None}
    return Body(rev, now, now + round(days * 86_400), **(kept | given))


def _facts(body: Body | None) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(body) if body is not None else {}
    return found
