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

from relay.config_addresses import canonical_family, split_address
from relay.config_nodes import check_nodes
from relay.config_state_rules import check_state
from relay.config_trunks import check_trunks
from relay.errors import ConfigError
from relay.settings import suggestion

if TYPE_CHECKING:
    from relay.config import Config

AGES: Final = ("unknown", "under_16", "16_17", "adult")
CONTACTS: Final = ("stranger", "contact")


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
    issuers = config.tokens.issuers
    names = [issuer.name for issuer in issuers]
    keys = [key for issuer in issuers for key in (issuer.public_key, issuer.previous_public_key) if key]
    if len(set(names)) != len(names):
        raise ConfigError("tokens.issuers", "two issuers share a name", "give each its own")
    if len(set(keys)) != len(keys):
        raise ConfigError("tokens.issuers", "a public key stands there twice", "remove one")
    for position, issuer in enumerate(issuers):
        where = f"tokens.issuers[{position}]"
        if issuer.public_key == "0" * 64:
            raise ConfigError(f"{where}.public_key", "is not set", "print one with `relay token keygen`")
        for rate in ("joins", "commands"):
            if getattr(issuer, f"{rate}_burst") and not getattr(issuer, f"{rate}_per_s"):
                cure = f"set {rate}_per_s, or leave it out"
                raise ConfigError(f"{where}.{rate}_burst", f"does nothing without {rate}_per_s", cure)
    reserved = sum(issuer.reserved_percent for issuer in issuers)
    if reserved > 100:
        raise ConfigError("tokens.issuers", f"reserved_percent adds up to {reserved}", "at most 100")
    for position, issuer in enumerate(issuers):
        if issuer.canary and issuer.apart:
            where = f"tokens.issuers[{position}].apart"
            raise ConfigError(where, "a canary meets no people of others anyway", "leave it out")
    _check_issuers_events(config)


def _check_issuers_events(config: Config) -> None:
    """An issuer's own place for events is nobody else's."""
    events = config.events
    spools = {f"{events.spool}.{issuer.name}" for issuer in config.tokens.issuers if issuer.events}
    taken = {events.path, events.spool, *spools}
    for position, issuer in enumerate(config.tokens.issuers):
        where = f"tokens.issuers[{position}].events"
        if not issuer.events:
            continue
        if issuer.canary:
            raise ConfigError(where, "a canary's calls are told to nobody", "leave it out")
        if events.sink == "off":
            raise ConfigError(where, 'is set, but events.sink is "off"', 'events.sink = "file" or "socket"')
        if not events.spool:
            raise ConfigError("events.spool", "is empty, and an issuer has events of its own", "name a file")
        if issuer.events in taken:
            raise ConfigError(where, f"{issuer.events} is in use already", "name another path")
        taken.add(issuer.events)


def check_issuers_reload(old: Config, new: Config) -> None:
    """ConfigError for what of issuers a reload cannot change."""
    homes = _homes(old), _homes(new)
    if any(homes[0][key] != homes[1][key] for key in homes[0].keys() & homes[1].keys()):
        # What its tokens spent is remembered there: elsewhere they would admit once more.
        raise ConfigError("tokens.issuers", "who is apart cannot change while running", "restart the daemon")
    if _own_events(old) != _own_events(new):
        raise ConfigError(
            "tokens.issuers", "where events go cannot change while running", "restart the daemon"
        )


def _homes(config: Config) -> dict[str, str]:
    """Public keys, and the name of their issuer if it is apart."""
    return {
        key: issuer.name if issuer.apart else ""
        for issuer in config.tokens.issuers
        for key in (issuer.public_key, issuer.previous_public_key)
        if key
    }


def _own_events(config: Config) -> dict[str, str]:
    """Issuers with a place for events of their own, and the place."""
    return {issuer.name: issuer.events for issuer in config.tokens.issuers if issuer.events}


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


def _check_turn(config: Config) -> None:
    turn = config.turn
    families: list[int] = []
    for position, address in enumerate(turn.addresses):
        where = f"turn.addresses[{position}]"
        families.append(canonical_family(address.bind, f"{where}.bind"))
        outside = address.advertise and canonical_family(address.advertise, f"{where}.advertise")
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
        canonical_family(host, "turn.alternate")


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


def _check_overload(config: Config) -> None:
    for lower, upper in pairwise(("clear_below", "redundancy_from", "silence_from", "calls_from")):
        most = getattr(config.overload, upper)
        if getattr(config.overload, lower) > most:
            raise ConfigError(f"overload.{lower}", f"is above overload.{upper}", f"at most {most}")


def _check_url(url: str, key: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("https", "http") or not url.isascii() or not url.isprintable():
        raise ConfigError(key, "is not a URL", "write https://backend.example/relay-events")
    if parts.username is not None or parts.fragment or " " in url:
        raise ConfigError(key, "has a user, a fragment or a space in it", "the signature says who we are")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError(key, "http is for loopback only: others could read and change it", "write https://")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_feed(config: Config) -> None:
    feed = config.feed
    names = [webhook.name for webhook in feed.webhooks]
    if len(set(names)) != len(names):
        raise ConfigError("feed.webhooks", "two webhooks share a name", "give each its own")
    for position, webhook in enumerate(feed.webhooks):
        where = f"feed.webhooks[{position}]"
        _check_url(webhook.url, f"{where}.url")
        known = [issuer.name for issuer in config.tokens.issuers]
        strange = [name for name in webhook.issuers if name not in known]
        if strange:
            cure = suggestion(strange[0], known) if known else "tokens.issuers is empty"
            raise ConfigError(f"{where}.issuers", f"no issuer is called {strange[0]}", cure)
        if not webhook.secret_file:
            raise ConfigError(f"{where}.secret_file", "is empty", "make one with `relay feed secret FILE`")
        if webhook.secret_file == webhook.previous_secret_file:
            raise ConfigError(
                f"{where}.previous_secret_file", "is the same file as secret_file", 'leave it ""'
            )
    if feed.retry_first_s > feed.retry_most_s:
        raise ConfigError("feed.retry_first_s", "is above feed.retry_most_s", f"at most {feed.retry_most_s}")
    if not feed.store:
        raise ConfigError("feed.store", "is empty", "name a file")
    if feed.metrics:
        split_address(feed.metrics, "feed.metrics")


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
    _check_overload,
    _check_turn_is_whole,
    _check_feed,
    check_state,
    check_nodes,
    check_trunks,
)
