"""`relay nodes`: the node list: made, signed, put where nodes find it, shown; and a node's key for trunks.

    signed state's routes + announcements in the store --make, sign--> store, routes/nodes, or a file

Must never live here: what stands on a list (relay/region/making.py), stores.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import secrets
import time
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from relay.commands.desk import add_config, with_store
from relay.commands.terminal import Printer, Subcommands, declare, read_text, write_secret
from relay.config import Config, load
from relay.errors import ConfigError, RelayError
from relay.protocol.ids import Kid
from relay.protocol.keys import KEY_SIZE, read_key, write_key
from relay.protocol.signed import kid_of, public_of
from relay.protocol.trunk_proof import pin_of
from relay.region.making import Heard, decode, make, without_health
from relay.region.nodelist import ListError, NodeList, plain, seal, verify
from relay.region.routes import Routes, RoutesError, parse, strays
from relay.rollout.keys import BUCKET, HEALTH, NODES, ROUTES, STATE
from relay.rollout.lastgood import accepted
from relay.rollout.lastgood import parse as parse_state
from relay.rollout.lastgood_file import OsFiles, replace
from relay.rollout.store import StateStore

LOOK_S: Final = 1.0
"""Between two looks at the routes: who is marked `drain` is listed so at once, health at the pace asked."""
HOURS: Final = 24.0


def add(subcommands: Subcommands) -> None:
    """Declare `nodes` and what stands below it."""
    top = subcommands.add_parser("nodes", help="make and sign the node list, show the one that stands")
    inner = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    sign = declare(
        inner,
        "sign",
        run_sign,
        "make the node list of routes and of what nodes announced, sign it, put it into the store or a file",
        "relay nodes sign --key hub.key\n"
        "relay nodes sign --key hub.key --every 10\n"
        "relay nodes sign --key hub.key --routes routes.json --out /var/lib/relay-state/nodes",
        epilog="routes are those of the signed state in the store, unless --routes names a file\n",
    )
    sign.add_argument("--key", required=True, metavar="FILE", help="private key, of `relay token keygen`")
    sign.add_argument("--routes", metavar="FILE", help="JSON: region to relays (docs/state.md)")
    sign.add_argument("--out", metavar="FILE", help="write it there instead of into the store")
    sign.add_argument("--every", type=float, metavar="S", help="go on, with a new list each so many seconds")
    sign.add_argument("--hours", type=float, default=HOURS, help="how long a list holds (%(default)g)")
    sign.add_argument(
        "--without-health", action="store_true", help="for clients: who there is, not how they are"
    )
    show = declare(inner, "show", run_show, "show the list in the store, or in a file", "relay nodes show")
    show.add_argument("--file", metavar="FILE", help="this one, instead of the store's")
    trunk = declare(
        inner,
        "trunk-key",
        run_trunk_key,
        "make the key by which other nodes know this one, or show the pin of one",
        "relay nodes trunk-key --out /etc/relay/trunk.key\nrelay nodes trunk-key --show /etc/relay/trunk.key",
    )
    what = trunk.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", metavar="FILE", help="new file for the secret, mode 0600")
    what.add_argument("--show", metavar="FILE", help="a file that is there: its pin, and nothing is written")
    for parser in (sign, show):
        add_config(parser)


def run_sign(arguments: argparse.Namespace, printer: Printer) -> int:
    """Make, sign and put."""
    config = load(arguments.config)
    seed = read_key(read_text(arguments.key, "--key"), "--key")
    public = public_of(seed).hex()
    if public not in config.nodes.keys:
        cure = f"add {public}, or take another key"
        raise ConfigError("nodes.keys", "no node would take what this key signs", cure)
    if arguments.every is not None and arguments.every < LOOK_S:
        raise ConfigError("--every", f"{arguments.every:g} s is too often", f"{LOOK_S:g} at least")
    if not 0 < arguments.hours <= 24 * 365:
        raise ConfigError("--hours", "no list holds for so long", "for example 24")
    maker = _Maker(arguments, config, seed, printer)
    if arguments.routes is not None and arguments.out is not None:
        made = asyncio.run(maker.run(None))  # no store is needed, so none has to be there
    else:
        made = with_store(config.state, maker.run)
    facts = {"ok": True, "rev": made.rev, "nodes": len(made.nodes), "not_after": made.not_after}
    where = arguments.out or "the store"
    printer.result(facts, f"revision {made.rev} with {len(made.nodes)} nodes is in {where}")
    return 0


def run_show(arguments: argparse.Namespace, printer: Printer) -> int:
    """A table; with --json the list itself."""
    config = load(arguments.config)
    if arguments.file is not None:
        raw: bytes | None = read_text(arguments.file, "--file").encode()
    else:
        entry = with_store(config.state, lambda store: store.get(ROUTES, NODES))
        raw = entry.value if entry is not None else None
    if raw is None:
        raise RelayError("there is no node list in the store (`relay nodes sign` makes one)")
    listed = verify(raw, _keys(config))
    if printer.is_json:
        printer.result({"ok": True, "list": plain(listed)}, "")
        return 0
    age = max(0.0, time.time() - listed.issued_at)
    title = f"revision {listed.rev}, made {age:.0f} s ago"
    table = Table("node", "region", "variant", "version", "state", "score", "stress", "", title=title)
    for node in listed.nodes:
        how = node.health
        told = ("-", "-", "-") if how is None else (how.state, _text(how.score), f"{how.stress} %")
        leaves = "draining" if node.draining else ""
        table.add_row(node.id, node.region, node.variant, node.version, *told, leaves)
    Console().print(table)
    return 0


def run_trunk_key(arguments: argparse.Namespace, printer: Printer) -> int:
    """Write a secret, or read one; print what other nodes have to know of it."""
    path = arguments.out or arguments.show
    if arguments.out:
        seed = secrets.token_bytes(KEY_SIZE)
        write_secret(path, write_key(seed), "--out")
        told = f"wrote {path} (secret); set trunks.key to it. Others know it by this in trunks.nodes:"
    else:
        seed = read_key(read_text(path, "--show"), "--show")
        told = "The other nodes know it by this in trunks.nodes:"
    pin = pin_of(public_of(seed)).hex()
    row = f'{{ node = "NODE.ID", address = "HOST:PORT", pins = ["{pin}"] }}'
    printer.result({"ok": True, "file": path, "pin": pin}, f"{told}\n\n{row}")
    return 0


def read_routes(path: str) -> dict[str, Any]:
    """A file of routes. ConfigError: it cannot be read, or has a key that means nothing."""
    cure = "docs/state.md says what it may hold"
    try:
        raw = msgspec.json.decode(read_text(path, "--routes"), type=dict[str, Any])
        parse(raw)
    except (msgspec.DecodeError, RoutesError) as error:
        raise ConfigError("--routes", f"{path}: {error}", cure) from None
    if slips := strays(raw):
        raise ConfigError("--routes", f"{path}: {slips[0]} means nothing", cure)
    return raw


# ---------------------------------------------------------------- inside


class _Maker:
    """One hub's. A revision is the time in seconds: newer than any before, also after a store was lost."""

    def __init__(self, arguments: argparse.Namespace, config: Config, seed: bytes, printer: Printer) -> None:
        self._arguments = arguments
        self._config = config
        self._seed = seed
        self._printer = printer

    async def run(self, store: StateStore | None) -> NodeList:
        """Make one; with --every go on until stopped, whatever the store does meanwhile."""
        every = self._arguments.every
        routes = await self._routes(store)
        made = await self._make(store, routes)
        due = time.monotonic() + (every or 0.0)
        while every is not None:
            await asyncio.sleep(LOOK_S)
            try:
                found = await self._routes(store)
                if found != routes or time.monotonic() >= due:
                    made = await self._make(store, found)
                    routes, due = found, time.monotonic() + every
            except (RelayError, OSError) as error:
                self._printer.progress(f"relay: no new list: {error}")
        return made

    async def _make(self, store: StateStore | None, routes: Routes) -> NodeList:
        heard = await self._heard(store) if store is not None else {}
        out = self._arguments.out
        standing = await store.get(ROUTES, NODES) if store is not None and out is None else None
        before = standing.value if standing is not None else _file(out) if out is not None else None
        now = time.time()
        made = make(
            routes,
            heard,
            cluster=self._config.node.cluster,
            rev=max(int(now), self._revision(before) + 1),
            wall=now,
            life_s=3_600 * self._arguments.hours,
        )
        if self._arguments.without_health:
            made = without_health(made)
        raw = seal(made, self._seed)
        if out is not None:
            await asyncio.to_thread(replace, OsFiles(), out, raw)
        elif store is not None:
            expect = standing.revision if standing is not None else 0
            await store.put(ROUTES, NODES, raw, expect=expect, who=getpass.getuser(), why="nodes sign")
        return made

    async def _routes(self, store: StateStore | None) -> Routes:
        """As an operator signed them, or wrote them down here. RoutesError, RefusedError, ConfigError."""
        path = self._arguments.routes
        if path is not None:
            return parse(read_routes(path))
        assert store is not None  # else there is a file
        entry = await store.get(BUCKET, STATE)
        if entry is None:
            cure = "`relay state put --routes`, or name a file"
            raise ConfigError("--routes", "the store has no signed state", cure)
        keys = accepted(bytes.fromhex(key) for key in self._config.state.keys)
        return parse(parse_state(entry.value, keys).body.routes)

    @staticmethod
    async def _heard(store: StateStore) -> dict[str, Heard]:
        """What nodes announced that the store has not forgotten. What is no announcement is passed over."""
        heard = {}
        for key in await store.keys(HEALTH):
            entry = await store.get(HEALTH, key)
            told = decode(entry.value) if entry is not None else None
            if entry is not None and told is not None and told.node == key:
                heard[key] = Heard(told, time.time() - entry.ts)
        return heard

    def _revision(self, before: bytes | None) -> int:
        """Of the list that stands there; 0: none that anybody takes."""
        try:
            return verify(before, _keys(self._config)).rev if before is not None else 0
        except ListError:
            return 0


def _file(path: str) -> bytes | None:
    try:
        return OsFiles().read(path)
    except OSError:
        return None


def _keys(config: Config) -> dict[Kid, bytes]:
    publics = [bytes.fromhex(key) for key in config.nodes.keys]
    return {kid_of(public): public for public in publics}


def _text(score: int | None) -> str:
    return "-" if score is None else str(score)
