"""Rules that span several keys of the configuration, each a function that raises or returns.

`RULES` is run by relay/config.py over every tree before anyone sees it. Must never live here: ranges of a
single key (they stand at the field), files, behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config import Config

AGES: Final = ("unknown", "under_16", "16_17", "adult")
CONTACTS: Final = ("stranger", "contact")


def split_address(text: str, key: str) -> tuple[str, int]:
    """`[v6]:port` or `v4:port` -> (host, port); ConfigError names `key`. Port 0 means: any free one."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(key, f"{text!r}: an IPv6 address needs brackets", "write [::1]:443")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(key, f"{text!r} is not an address with a port", "write 127.0.0.1:443 or [::]:443")
    return host, int(port)


def _check_addresses(config: Config) -> None:
    if not config.listen.udp:
        raise ConfigError("listen.udp", "names no address", 'write ["[::]:443"]')
    for position, text in enumerate(config.listen.udp):
        split_address(text, f"listen.udp[{position}]")
    if len(set(config.listen.udp)) != len(config.listen.udp):
        raise ConfigError("listen.udp", "names an address twice", "remove one")
    for position, text in enumerate(config.listen.web):
        split_address(text, f"listen.web[{position}]")
    if len(set(config.listen.web)) != len(config.listen.web):
        raise ConfigError("listen.web", "names an address twice", "remove one")
    if config.listen.metrics:
        split_address(config.listen.metrics, "listen.metrics")


def _check_origins(config: Config) -> None:
    for position, text in enumerate(config.listen.web_origins):
        try:
            parts = urlsplit(text)
            is_whole = f"{parts.scheme}://{parts.netloc}" == text == text.lower() and bool(parts.hostname)
        except ValueError:
            is_whole = False
        if not is_whole or parts.scheme not in ("https", "http") or "@" in text:
            raise ConfigError(
                f"listen.web_origins[{position}]",
                f"{text!r} is not an origin",
                'write it as a browser does: "https://app.example", no path and no slash at the end',
            )


def _check_policy(config: Config) -> None:
    wanted = {(age, contact) for age in AGES for contact in CONTACTS}
    seen: set[tuple[str, str]] = set()
    for position, row in enumerate(config.policy):
        where = f"policy[{position}]"
        if (row.age, row.contact) in seen:
            raise ConfigError(
                where, f"{row.age} x {row.contact} stands there twice", "keep one row for each pair"
            )
        seen.add((row.age, row.contact))
        if row.age == "under_16" and row.allow:
            raise ConfigError(f"{where}.allow", "people under 16 are never admitted", "write false")
        if row.allow and row.max_minutes == 0:
            raise ConfigError(
                f"{where}.max_minutes", "0 minutes for someone who is allowed", "write 1 to 1440"
            )
        if row.contact == "stranger" and (row.attachments or not row.relay_only):
            raise ConfigError(
                where,
                "strangers talk through the relay only and send no attachments",
                "relay_only = true, attachments = false",
            )
    missing = sorted(wanted - seen)
    if missing:
        raise ConfigError(
            "policy", f"no row for {missing[0][0]} x {missing[0][1]}", "one row for each of the eight"
        )


def _check_issuers(config: Config) -> None:
    names = [issuer.name for issuer in config.tokens.issuers]
    keys = [issuer.public_key for issuer in config.tokens.issuers]
    if len(set(names)) != len(names):
        raise ConfigError("tokens.issuers", "two issuers share a name", "give each its own")
    if len(set(keys)) != len(keys):
        raise ConfigError("tokens.issuers", "a public key stands there twice", "remove one")
    for position, key in enumerate(keys):
        if key == "0" * 64:
            raise ConfigError(
                f"tokens.issuers[{position}].public_key", "is not set", "print one with `relay token keygen`"
            )


def _check_order(config: Config) -> None:
    limits, drain = config.limits, config.drain
    ordered: tuple[tuple[bool, str, str, str], ...] = (
        (
            limits.retry_above_half_open <= limits.half_open,
            "limits.retry_above_half_open",
            "is above limits.half_open: Retry would never start",
            f"at most {limits.half_open}",
        ),
        (
            limits.ticket_every_s < limits.ticket_ttl_s,
            "limits.ticket_every_s",
            "is not below limits.ticket_ttl_s: legs would be left without a ticket",
            "about a third of it",
        ),
        (
            limits.consent_s <= limits.accept_outlives_s,
            "limits.consent_s",
            "is above limits.accept_outlives_s",
            f"at most {limits.accept_outlives_s}",
        ),
        (
            limits.ticket_ttl_s <= limits.removed_memory_s,
            "limits.removed_memory_s",
            "is below limits.ticket_ttl_s: a removed participant's ticket would work again",
            f"at least {limits.ticket_ttl_s}",
        ),
        (
            limits.tcp_per_source <= limits.tcp_connections,
            "limits.tcp_per_source",
            "is above limits.tcp_connections",
            f"at most {limits.tcp_connections}",
        ),
        (
            limits.control_per_s <= limits.control_burst,
            "limits.control_burst",
            "is below limits.control_per_s",
            f"at least {limits.control_per_s}",
        ),
        (
            config.tokens.skew_s < config.tokens.max_lifetime_s,
            "tokens.skew_s",
            "is not below tokens.max_lifetime_s",
            "30",
        ),
        (
            drain.grace_s + drain.smear_s + drain.close_s <= drain.deadline_s,
            "drain.deadline_s",
            "is shorter than grace_s + smear_s + close_s",
            f"at least {drain.grace_s + drain.smear_s + drain.close_s}",
        ),
    )
    for holds, key, problem, cure in ordered:
        if not holds:
            raise ConfigError(key, problem, cure)


def _check_files(config: Config) -> None:
    if config.cluster.previous_key_file and config.cluster.previous_key_file == config.cluster.key_file:
        raise ConfigError("cluster.previous_key_file", "is the same file as key_file", 'leave it ""')
    if not config.cluster.key_file:
        raise ConfigError("cluster.key_file", "is empty", "make one with `relay token keygen --cluster`")
    for key, value in (("tls.certificate", config.tls.certificate), ("tls.key", config.tls.key)):
        if not value:
            raise ConfigError(key, "is empty: QUIC always shows a certificate", "name a PEM file")
    events = config.events
    if events.sink != "off" and not events.path:
        raise ConfigError(
            "events.path", f'is empty, but events.sink is "{events.sink}"', 'name a path, or sink = "off"'
        )
    if events.sink == "socket" and not events.spool:
        raise ConfigError("events.spool", "is empty: a socket needs a spool", "name a file")
    if events.sink != "off" and events.path == events.spool:
        raise ConfigError("events.spool", "is the same file as events.path", "name another")


def _canonical_family(text: str, key: str) -> int:
    """4 or 6. ConfigError unless the address is spelled the one way it can be, without a scope."""
    try:
        ip = ip_address(text)
    except ValueError:
        raise ConfigError(key, f"{text!r} is not an IP address", "write 192.0.2.1 or 2001:db8::1") from None
    if str(ip) != text or "%" in text or (ip.version == 6 and ip.ipv4_mapped is not None):
        raise ConfigError(key, f"{text!r} is not the canonical spelling", "write 192.0.2.1 or 2001:db8::1")
    return ip.version


def _check_turn(config: Config) -> None:
    turn = config.turn
    families: list[int] = []
    for position, address in enumerate(turn.addresses):
        where = f"turn.addresses[{position}]"
        families.append(_canonical_family(address.bind, f"{where}.bind"))
        outside = address.advertise and _canonical_family(address.advertise, f"{where}.advertise")
        if outside and outside != families[-1]:
            raise ConfigError(
                f"{where}.advertise", "is of another family than bind", "one row for each family"
            )
    if len(set(families)) != len(families):
        raise ConfigError(
            "turn.addresses", "two addresses of one family", "keep one IPv4 and one IPv6 at most"
        )
    if turn.first_port > turn.last_port:
        raise ConfigError("turn.first_port", "is above turn.last_port", f"at most {turn.last_port}")
    if turn.alternate:
        host, _ = split_address(turn.alternate, "turn.alternate")
        _canonical_family(host, "turn.alternate")


def _check_turn_is_whole(config: Config) -> None:
    """What TURN needs once it is on."""
    turn = config.turn
    if not turn.enabled:
        return
    if not turn.addresses:
        raise ConfigError(
            "turn.addresses", "is empty, but turn.enabled is true", 'add { bind = "192.0.2.1" }'
        )
    for key, addresses in (("turn.tcp", turn.tcp), ("turn.tls", turn.tls)):
        for position, text in enumerate(addresses):
            split_address(text, f"{key}[{position}]")
    if turn.policy == "strict" and not turn.urls:
        raise ConfigError("turn.urls", "is empty: clients could not be told", "turn:relay.example:3478")
    if turn.policy == "open" and not turn.secret_file:
        raise ConfigError("turn.secret_file", 'is empty, but turn.policy is "open"', "name a file")
    if turn.secret_file and turn.secret_file == turn.previous_secret_file:
        raise ConfigError("turn.previous_secret_file", "is the same file as secret_file", 'leave it ""')


def _check_quality(config: Config) -> None:
    quality = config.quality
    rising = ("bad_below", "poor_below", "fair_from", "good_from")
    for lower, upper in pairwise(rising):
        if getattr(quality, lower) > getattr(quality, upper):
            raise ConfigError(
                f"quality.{lower}", f"is above quality.{upper}", f"at most {getattr(quality, upper)}"
            )
    if quality.mid_from_bps > quality.high_from_bps:
        raise ConfigError(
            "quality.mid_from_bps", "is above quality.high_from_bps", f"at most {quality.high_from_bps}"
        )


_ADAPT_RISES: Final = (
    ("clean_below", "lossy_from"),
    ("heavy_below", "heavy_from"),
    ("queue_clear_ms", "queue_ms"),
    ("queue_ms", "deep_queue_ms"),
    ("dark_s", "floor_s"),
    ("up_s", "up_most_s"),
    ("low_bps", "mid_bps"),
    ("mid_bps", "high_bps"),
    ("playout_ms", "heavy_playout_ms"),
    ("heavy_age_ms", "heavy_playout_ms"),
)


def _check_adapt(config: Config) -> None:
    for lower, upper in _ADAPT_RISES:
        most = getattr(config.adapt, upper)
        if getattr(config.adapt, lower) > most:
            raise ConfigError(f"adapt.{lower}", f"is above adapt.{upper}", f"at most {most}")


RULES: Final[tuple[Callable[[Config], None], ...]] = (
    _check_addresses,
    _check_origins,
    _check_policy,
    _check_issuers,
    _check_order,
    _check_files,
    _check_turn,
    _check_quality,
    _check_adapt,
    _check_turn_is_whole,
)
