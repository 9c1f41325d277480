"""`relay call`: one side of a call, from an audio file or a tone into a WAV file, with live statistics.

Must never live here: the call itself (relay/client/).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from relay.commands.terminal import Printer, Subcommands, declare, read_text
from relay.errors import ConfigError, RelayError
from relay.protocol.keys import read_key
from relay.protocol.token import from_text

LOOK = 0.25  # seconds between two looks at the statistics


def add(subcommands: Subcommands) -> None:
    """Declare `call`."""
    parser = declare(
        subcommands,
        "call",
        run,
        "be one side of a call: send an audio file, write what is heard",
        "relay call --url quic://127.0.0.1:4433 --token-file a.tok --in a.wav --out heard-by-a.wav\n"
        "relay call --url quic://relay.example:443 --token-file b.tok --tone 440 --seconds 10 --json\n"
        "relay call --url quic://relay.example:443 --token-file b.tok --decline busy",
    )
    parser.add_argument(
        "--url", required=True, help="quic://host:port, wss://host:port/vrl/1 or tls://host:port"
    )
    parser.add_argument(
        "--token-file", required=True, metavar="FILE", help='token as text, "-" for standard input'
    )
    parser.add_argument("--in", dest="source", metavar="FILE", help="audio file to send (WAV, Opus, ...)")
    parser.add_argument("--tone", type=float, metavar="HZ", help="send a tone instead of a file")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long the tone lasts (until hung up)")
    parser.add_argument("--out", dest="sink", metavar="FILE", help="WAV file for what is heard")
    parser.add_argument(
        "--linger", type=float, default=1.0, metavar="S", help="wait for silence after (%(default)s)"
    )
    parser.add_argument("--device-key", metavar="FILE", help="secret key whose public half the token names")
    parser.add_argument(
        "--identity", metavar="FILE", help="secret key that names us to the other side (a fresh one)"
    )
    parser.add_argument(
        "--ca", metavar="FILE", help="PEM file of the relay's CA, or its own certificate to pin"
    )
    parser.add_argument(
        "--server-name", metavar="NAME", help="name in the relay's certificate, if not the host"
    )
    parser.add_argument("--insecure", action="store_true", help="do not check the relay's certificate")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="S", help="for the other to accept (%(default)s)"
    )
    parser.add_argument("--decline", choices=("busy", "declined", "permission"), help="say no instead")
    parser.add_argument(
        "--rebind-after", type=float, metavar="S", help="move to another UDP port in mid-call"
    )


@dataclass
class Outcome:
    """What `run` tells at the end."""

    call: str = ""
    reference: str = ""
    sas: str | None = None
    why: str = "failed"
    has_talked: bool = False
    stats: dict[str, Any] | None = None

    @property
    def is_ok(self) -> bool:
        """Talked, and the end was nobody's fault."""
        return self.has_talked and self.why == "completed"


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Call; 0 if both talked and hung up, or if the decline was taken."""
    if arguments.source and arguments.tone:
        raise ConfigError("--tone", "stands beside --in", "choose one")
    if arguments.sink == arguments.source and arguments.sink:
        raise ConfigError("--out", "is the same file as --in", "name another file")
    outcome = Outcome()
    with contextlib.suppress(KeyboardInterrupt):  # hung up by hand: `_call` has said good-bye already
        asyncio.run(_call(arguments, printer, outcome))
    ok = outcome.is_ok or (bool(arguments.decline) and outcome.why == "declined_by_us")
    facts = {
        "ok": ok,
        "call": outcome.call,
        "reference": outcome.reference,
        "why": outcome.why,
        "sas": outcome.sas,
        "out": arguments.sink,
        "stats": outcome.stats,
    }
    printer.result(facts, _told(outcome, arguments.sink))
    return 0 if ok else 1


async def _call(arguments: argparse.Namespace, printer: Printer, outcome: Outcome) -> None:
    from relay import client  # pulls in QUIC, which no other subcommand needs

    token = from_text(read_text(arguments.token_file, "--token-file"))
    source, sink = _audio(arguments)
    async with client.connect(
        arguments.url,
        token=token,
        pop_seed=_key(arguments.device_key, "--device-key"),
        identity=_key(arguments.identity, "--identity"),
        ca=arguments.ca,
        insecure=arguments.insecure,
        server_name=arguments.server_name,
        client=client.ClientInfo(sdk="py", app="relay-cli", os=_system(), dev="desktop"),
    ) as session:
        call = await session.join()
        outcome.call, outcome.reference = call.id.hex(), call.reference
        if arguments.decline:
            await call.decline(arguments.decline)
            outcome.why = "declined_by_us"
            return
        try:
            await _talk(arguments, printer, outcome, session, call, source, sink)
        except client.CallEndedError as error:
            outcome.why = error.why
        except asyncio.CancelledError:  # Ctrl-C: the other side shall know at once
            await call.hangup()
            raise
        finally:
            outcome.stats = call.stats().as_dict()
            outcome.why = call.why or outcome.why


async def _talk(
    arguments: argparse.Namespace,
    printer: Printer,
    outcome: Outcome,
    session: Any,
    call: Any,
    source: Any,
    sink: Any,
) -> None:
    await call.accept()
    printer.progress("accepted; waiting for the other side ...")
    try:
        async with asyncio.timeout(arguments.wait):
            await call.peer_accepted()
    except TimeoutError:
        await call.hangup()
        raise RelayError(f"nobody accepted within {arguments.wait:g} s") from None
    outcome.sas = call.sas
    outcome.has_talked = True
    printer.progress(f"talking; both sides must read the same digits: {call.sas}")
    helpers = [asyncio.create_task(_watch(call, printer.is_json))]
    if arguments.rebind_after is not None:
        helpers.append(asyncio.create_task(_rebind(session, printer, arguments.rebind_after)))
    try:
        await call.talk(source, sink, linger_s=arguments.linger)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
    await call.hangup()


async def _rebind(session: Any, printer: Printer, after: float) -> None:
    await asyncio.sleep(after)
    printer.progress(f"moved to local port {await session.rebind()}")


async def _watch(call: Any, is_json: bool) -> None:
    """Live statistics on standard error, for people at a terminal."""
    if is_json or not sys.stderr.isatty():
        return
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            stats = call.stats()
            table = Table("round trip", "sent", "received", "lost", "late", "recovered", "buffer")
            rtt = "-" if stats.rtt_ms is None else f"{stats.rtt_ms:.1f} ms"
            counts = [str(n) for n in (stats.sent, stats.received, stats.lost, stats.late, stats.recovered)]
            table.add_row(rtt, *counts, f"{stats.jitter_target_ms:.0f} ms")
            live.update(table, refresh=True)
            await asyncio.sleep(LOOK)


def _audio(arguments: argparse.Namespace) -> tuple[Any, Any]:
    from relay import client

    if arguments.source:
        try:
            source: Any = client.FileSource(arguments.source)
        except (OSError, client.CodecError) as error:
            raise ConfigError("--in", f"{arguments.source}: {error}", "name an audio file") from None
    elif arguments.tone:
        source = client.ToneSource(arguments.tone, arguments.seconds)
    else:
        source = client.PcmSource(bytes(640), repeat=True)  # 20 ms of silence, until somebody hangs up
    if arguments.sink:
        return source, client.WavSink(arguments.sink)
    return source, client.CallbackSink(lambda pcm: None)


def _key(path: str | None, option: str) -> bytes | None:
    return None if path is None else read_key(read_text(path, option), option)


def _system() -> str:
    return {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")


def _told(outcome: Outcome, sink: str | None) -> str:
    text = f"call {outcome.reference} {outcome.why}" if outcome.reference else f"call {outcome.why}"
    if outcome.stats:
        stats = outcome.stats
        text += ": " + ", ".join(f"{name} {stats[name]}" for name in ("sent", "received", "lost", "late"))
    return text + (f"; heard: {sink}" if sink and outcome.has_talked else "")
