"""`relay token`: key pairs, capability tokens, and a look inside one.

Must never live here: the format (relay/protocol/token.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import time
from typing import Any, Final

from relay.commands.terminal import Printer, Subcommands, declare, hex_bytes, read_text, write_secret
from relay.config import Config
from relay.errors import ConfigError
from relay.protocol import token
from relay.protocol.ids import CallId, Jti, PersonId, Sub
from relay.protocol.keys import KEY_SIZE, read_key, write_key
from relay.protocol.signed import public_of

ROLES: Final = {"peer": token.ROLE_PEER, "host": token.ROLE_HOST, "listener": token.ROLE_LISTENER}
PERMISSIONS: Final = {
    "send": token.MAY_SEND,
    "receive": token.MAY_RECEIVE,
    "e2e": token.MAY_E2E,
    "p2p": token.MAY_P2P,
    "turn": token.MAY_TURN,
    "moderate": token.MAY_MODERATE,
    "invite": token.MAY_INVITE,
}
AGES: Final = {
    "unknown": token.AGE_UNKNOWN,
    "under_16": token.AGE_UNDER_16,
    "16_17": token.AGE_16_17,
    "adult": token.AGE_ADULT,
}
PRIVATE: Final = ("age", "ru")
"""Claims that `inspect` shows only when asked: they are about a person, not about a call."""


def add(subcommands: Subcommands) -> None:
    """Declare `token keygen`, `token mint`, `token inspect`."""
    top = subcommands.add_parser("token", help="make keys, mint and inspect capability tokens")
    inner = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_keygen(inner)
    _add_mint(inner)
    inspect = declare(
        inner,
        "inspect",
        run_inspect,
        "show what a token allows",
        "relay token inspect a.tok\nrelay token inspect a.tok --public-key $(cat issuer.pub) --json",
    )
    inspect.add_argument("file", metavar="FILE", help='file with a token as text, "-" for standard input')
    inspect.add_argument("--public-key", metavar="HEX", help="issuer's key: check the signature too")
    inspect.add_argument("--all", action="store_true", help="show age band and person id as well")


def _add_keygen(inner: Subcommands) -> None:
    keygen = declare(
        inner,
        "keygen",
        run_keygen,
        "make an issuer's key pair, or a cluster's secret",
        "relay token keygen issuer.key\nrelay token keygen --cluster /etc/relay/relay.key",
    )
    keygen.add_argument("file", metavar="FILE", help="new file for the secret, mode 0600")
    keygen.add_argument("--cluster", action="store_true", help="a cluster secret: no public half")


def _add_mint(inner: Subcommands) -> None:
    mint = declare(
        inner,
        "mint",
        run_mint,
        "sign capability tokens for the people of one call",
        "relay token mint --key issuer.key --out a.tok --out b.tok\n"
        "relay token mint --key issuer.key --call 101112131415161718191a1b1c1d1e1f --role host --json",
    )
    mint.add_argument("--key", required=True, metavar="FILE", help="issuer's secret key file")
    mint.add_argument("--out", action="append", metavar="FILE", help="a token file; repeat for more people")
    mint.add_argument("--call", metavar="HEX", help="call id, 32 digits (a fresh one)")
    mint.add_argument("--sub", metavar="HEX", help="pseudonym in this call, 32 digits (a fresh one each)")
    mint.add_argument(
        "--audience", default=Config().node.cluster, help="node.cluster of the relay (%(default)s)"
    )
    mint.add_argument("--issuer", default="app", help="issuer's name (%(default)s)")
    mint.add_argument(
        "--ttl", type=int, default=120, metavar="S", help="valid for joining, seconds (%(default)s)"
    )
    mint.add_argument("--role", choices=ROLES, default="peer", help="(%(default)s)")
    mint.add_argument(
        "--may", default="send,receive,e2e", metavar="LIST", help=f"of {','.join(PERMISSIONS)} (%(default)s)"
    )
    mint.add_argument("--up", type=int, default=96, metavar="KBPS", help="uplink, kbit/s (%(default)s)")
    mint.add_argument("--down", type=int, default=192, metavar="KBPS", help="downlink, kbit/s (%(default)s)")
    mint.add_argument("--pps", type=int, default=120, help="uplink packets per second (%(default)s)")
    mint.add_argument(
        "--participants", type=int, default=2, metavar="N", help="size of the call (%(default)s)"
    )
    mint.add_argument("--host-admits", action="store_true", help="the host lets people in one by one")
    mint.add_argument("--tcp", action="store_true", help="may connect by WebSocket too")
    mint.add_argument("--relay-only", action="store_true", help="never show addresses to the other side")
    mint.add_argument("--age", choices=AGES, default="unknown", help="age band (%(default)s)")
    mint.add_argument("--contact", action="store_true", help="an accepted contact, not a stranger")
    mint.add_argument("--person", metavar="HEX", help="stable opaque id of the person or pair, 32 digits")
    mint.add_argument("--device-key", metavar="HEX", help="Ed25519 public key the holder must prove (cnf)")
    mint.add_argument("--minutes", type=int, metavar="N", help="longest call")
    mint.add_argument("--region", help="region of the call")
    mint.add_argument("--home", metavar="NODE", help="id of the node that decides about the call")


def run_keygen(arguments: argparse.Namespace, printer: Printer) -> int:
    """Write a secret; print what may be public."""
    secret = secrets.token_bytes(KEY_SIZE)
    write_secret(arguments.file, write_key(secret), "FILE")
    if arguments.cluster:
        printer.result(
            {"ok": True, "file": arguments.file}, f"wrote {arguments.file}; set cluster.key_file to it"
        )
        return 0
    public = public_of(secret)
    facts = {
        "ok": True,
        "file": arguments.file,
        "public_key": public.hex(),
        "kid": token.kid_of(public).hex(),
    }
    printer.result(
        facts,
        f"wrote {arguments.file} (secret); put this into the daemon's configuration:\n\n"
        f'[[tokens.issuers]]\nname = "app"\npublic_key = "{public.hex()}"',
    )
    return 0


def run_mint(arguments: argparse.Namespace, printer: Printer) -> int:
    """Write one token a file, or print one."""
    seed = read_key(read_text(arguments.key, "--key"), "--key")
    call = CallId(hex_bytes(arguments.call, 16, "--call") if arguments.call else secrets.token_bytes(16))
    files: list[str | None] = list(arguments.out or [None])
    if arguments.sub and len(files) > 1:
        raise ConfigError("--sub", "one pseudonym for several people", "leave it out, or mint one by one")
    minted = [_mint(arguments, call, seed, path) for path in files]
    facts = {"ok": True, "call": call.hex(), "tokens": minted}
    lines = [one["token"] if one["file"] is None else f"wrote {one['file']}" for one in minted]
    if arguments.out:
        lines.append(f"call {call.hex()}")
    printer.result(facts, "\n".join(lines))
    return 0


def _mint(arguments: argparse.Namespace, call: CallId, seed: bytes, path: str | None) -> dict[str, Any]:
    claims = _claims(arguments, call)
    text = token.to_text(token.mint(claims, seed))
    if path is not None:
        write_secret(path, text + "\n", "--out")
    return {"file": path, "sub": claims.sub.hex(), "jti": claims.jti.hex(), "exp": claims.exp, "token": text}


def _claims(arguments: argparse.Namespace, call: CallId) -> token.Claims:
    now = int(time.time())
    words = [word for word in arguments.may.split(",") if word]
    for word in words:
        if word not in PERMISSIONS:
            raise ConfigError("--may", f"{word!r} is no permission", f"of {', '.join(PERMISSIONS)}")
    if arguments.ttl < 1:
        raise ConfigError("--ttl", "is not positive", "write seconds, 120")
    return token.Claims(
        iss=arguments.issuer,
        aud=arguments.audience,
        sub=Sub(hex_bytes(arguments.sub, 16, "--sub") if arguments.sub else secrets.token_bytes(16)),
        cid=call,
        rol=ROLES[arguments.role],
        prm=sum({PERMISSIONS[word] for word in words}),
        iat=now,
        nbf=now,
        exp=now + arguments.ttl,
        jti=Jti(secrets.token_bytes(16)),
        lim=(arguments.up, arguments.down, arguments.pps, arguments.participants),
        gate=token.GATE_HOST_ADMITS if arguments.host_admits else token.GATE_PAIRWISE,
        net=token.NET_RELAY_ONLY * arguments.relay_only | token.NET_TCP_LEGS * arguments.tcp,
        ru=PersonId(hex_bytes(arguments.person, 16, "--person")) if arguments.person else None,
        dur=arguments.minutes * 60 if arguments.minutes else None,
        rgn=arguments.region,
        home=arguments.home,
        age=AGES[arguments.age],
        ctc=int(arguments.contact),
        cnf=hex_bytes(arguments.device_key, 32, "--device-key") if arguments.device_key else None,
    )


def run_inspect(arguments: argparse.Namespace, printer: Printer) -> int:
    """Print the claims; with a public key, whether the signature holds (exit 1 if not)."""
    raw = token.from_text(read_text(arguments.file, "FILE"))
    unverified = token.parse(raw)
    if arguments.public_key:
        public = hex_bytes(arguments.public_key, 32, "--public-key")
        claims = token.verify(raw, {token.kid_of(public): public})
        signature = "holds"
    else:
        claims = token.decode_claims(unverified.body)
        signature = "not checked"
    left = claims.exp - time.time()
    shown = {name: value for name, value in _json(claims).items() if arguments.all or name not in PRIVATE}
    facts = {
        "ok": True,
        "kid": unverified.kid.hex(),
        "bytes": len(raw),
        "signature": signature,
        "seconds_left": round(left),
        "claims": shown,
    }
    rows = [("kid", facts["kid"]), ("signature", signature), ("seconds left", facts["seconds_left"])]
    text = "\n".join(f"{name:14} {value}" for name, value in [*rows, *shown.items()])
    printer.result(facts, text)
    return 0


def _json(claims: token.Claims) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.hex()
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    named = {field.name: plain(getattr(claims, field.name)) for field in dataclasses.fields(claims)}
    return {name: value for name, value in named.items() if value is not None}
