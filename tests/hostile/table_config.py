"""Hostile or careless configuration: what refuses to start, and the key that is named.

    Text    a configuration file                -> key, and a word of the problem
    File    a path that holds no configuration  -> word of the problem
    Reload  a file that comes by SIGHUP         -> key that cannot change

Must never live here: how a row is acted out (test_config_refused.py).
"""

from __future__ import annotations

from typing import NamedTuple

KEY = "ab" * 32


class Text(NamedTuple):
    """TOML, the dotted key that is named, and what its problem or cure says."""

    id: str
    toml: str
    key: str
    says: str


def _rows(*changed: str) -> str:
    """A policy with one row for each pair, but for what `changed` puts in the place of the first."""
    pairs = [
        (age, contact)
        for age in ("unknown", "under_16", "16_17", "adult")
        for contact in ("stranger", "contact")
    ]
    rows = [
        f'{{ age = "{age}", contact = "{contact}", allow = false, max_minutes = 0, relay_only = true,'
        " attachments = false }"
        for age, contact in pairs
    ]
    return "policy = [" + ", ".join([*changed, *rows[1:]]) + "]"


def _row(age: str = "unknown", contact: str = "stranger", **more: object) -> str:
    cells = {"allow": "false", "max_minutes": 0, "relay_only": "true", "attachments": "false"} | more
    return (
        f'{{ age = "{age}", contact = "{contact}", '
        + ", ".join(f"{k} = {v}" for k, v in cells.items())
        + " }"
    )


def _issuer(name: str = "app", key: str = KEY) -> str:
    return f'[[tokens.issuers]]\nname = "{name}"\npublic_key = "{key}"\n'


TEXTS = [
    Text("no TOML", "= = =", "configuration", "not TOML"),
    Text("a key that stands there twice", "[node]\nid = 'a'\nid = 'b'", "configuration", "not TOML"),
    Text(
        "a WebSocket address without a port", "[listen]\nweb = ['192.0.2.1']", "listen.web[0]", "with a port"
    ),
    Text(
        "a WebSocket address twice",
        "[listen]\nweb = ['[::]:443', '[::]:443']",
        "listen.web",
        "names an address twice",
    ),
    Text(
        "an origin with a path",
        "[listen]\nweb_origins = ['https://app.example/']",
        "listen.web_origins[0]",
        "is not an origin",
    ),
    Text("every origin", "[listen]\nweb_origins = ['*']", "listen.web_origins[0]", "is not an origin"),
    Text(
        "an origin of another scheme",
        "[listen]\nweb_origins = ['file://x']",
        "listen.web_origins[0]",
        "is not an origin",
    ),
    Text(
        "an origin in capitals",
        "[listen]\nweb_origins = ['https://App.example']",
        "listen.web_origins[0]",
        "is not an origin",
    ),
    Text(
        "a share of TCP above the whole",
        "[limits]\ntcp_connections = 100",
        "limits.tcp_per_source",
        "is above limits.tcp_connections",
    ),
    Text("an unknown section", "[nodd]\nid = 'a'", "nodd", "did you mean node?"),
    Text("a misspelt key", "[limits]\nhelo_s = 5", "limits.helo_s", "did you mean hello_s?"),
    Text("a key of another section", "[node]\nretention_days = 5", "node.retention_days", "known:"),
    Text("a value in place of a section", "limits = 5", "limits", "is a section"),
    Text("text in place of a number", "[limits]\nlegs = 'many'", "limits.legs", "expected `int`"),
    Text("a yes in place of a number", "[limits]\nlegs = true", "limits.legs", "expected `int`"),
    Text("a half leg", "[limits]\nlegs = 0.5", "limits.legs", "expected `int`"),
    Text("no legs at all", "[limits]\nlegs = 0", "limits.legs", ">= 1"),
    Text("less than nothing", "[limits]\nhandshake_s = -1", "limits.handshake_s", "> 0"),
    Text("for ever", "[limits]\nidle_s = inf", "limits.idle_s", "86400"),
    Text("no number at all", "[limits]\nidle_s = nan", "limits.idle_s", ""),
    Text("33 participants", "[limits]\nparticipants = 33", "limits.participants", "<= 32"),
    Text(
        "keys used beyond the limit of AES-GCM",
        "[limits]\nkey_update_packets = 8388609",
        "limits.key_update_packets",
        "<= 8388608",
    ),
    Text("a lane nobody built", "lane = 'rust'", "lane", "is not a choice"),
    Text("a node name with a line end", '[node]\nid = "a\\nb"', "node.id", "a-z"),
    Text("a node name that labels could not carry", "[node]\nid = 'a\"}'", "node.id", "a-z"),
    Text("no address to listen on", "[listen]\nudp = []", "listen.udp", "names no address"),
    Text("an IPv6 address without brackets", "[listen]\nudp = ['::1:443']", "listen.udp[0]", "brackets"),
    Text("port 65536", "[listen]\nudp = ['127.0.0.1:65536']", "listen.udp[0]", "not an address"),
    Text(
        "a port in other digits",
        "[listen]\nudp = ['127.0.0.1:\u0664\u0664']",
        "listen.udp[0]",
        "not an address",
    ),
    Text("the same address twice", "[listen]\nudp = ['[::]:1', '[::]:1']", "listen.udp", "twice"),
    Text("no certificate", "[tls]\ncertificate = ''", "tls.certificate", "is empty"),
    Text("no cluster key", "[cluster]\nkey_file = ''", "cluster.key_file", "is empty"),
    Text(
        "the cluster key as its own predecessor",
        "[cluster]\nkey_file = '/a'\nprevious_key_file = '/a'",
        "cluster.previous_key_file",
        "same file",
    ),
    Text("an issuer key of zeros", _issuer(key="0" * 64), "tokens.issuers[0].public_key", "is not set"),
    Text(
        "an issuer key of 31 bytes", _issuer(key="ab" * 31), "tokens.issuers[0].public_key", "64 lower-case"
    ),
    Text(
        "an issuer's previous key that is another's",
        _issuer("a") + _issuer("b", "cd" * 32) + f'previous_public_key = "{KEY}"\n',
        "tokens.issuers",
        "twice",
    ),
    Text(
        "a burst without a rate",
        _issuer() + "joins_burst = 5\n",
        "tokens.issuers[0].joins_burst",
        "joins_per_s",
    ),
    Text(
        "more reserved than there is",
        _issuer("a") + "reserved_percent = 60\n" + _issuer("b", "cd" * 32) + "reserved_percent = 41\n",
        "tokens.issuers",
        "adds up to 101",
    ),
    Text(
        "a canary that is apart",
        _issuer() + "canary = true\napart = true\n",
        "tokens.issuers[0].apart",
        "anyway",
    ),
    Text(
        "events of a canary",
        _issuer() + 'canary = true\nevents = "/x"\n',
        "tokens.issuers[0].events",
        "told to nobody",
    ),
    Text(
        "an issuer's events where there are none",
        _issuer() + 'events = "/x"\n[events]\nsink = "off"\n',
        "tokens.issuers[0].events",
        "events.sink",
    ),
    Text(
        "an issuer's events in another's file",
        _issuer("a") + 'events = "/x"\n' + _issuer("b", "cd" * 32) + 'events = "/x"\n',
        "tokens.issuers[1].events",
        "in use",
    ),
    Text(
        "an issuer's events in the spool of another",
        _issuer("a")
        + 'events = "/x"\n'
        + _issuer("b", "cd" * 32)
        + 'events = "/var/lib/relay/events.spool.a"\n',
        "tokens.issuers[1].events",
        "in use",
    ),
    Text(
        "an issuer's events without a spool",
        _issuer() + 'events = "/x"\n[events]\nspool = ""\n',
        "events.spool",
        "is empty",
    ),
    Text("an issuer key twice", _issuer("a") + _issuer("b"), "tokens.issuers", "twice"),
    Text("an issuer name twice", _issuer("a") + _issuer("a", "cd" * 32), "tokens.issuers", "share a name"),
    Text(
        "tokens that live for a day", "[tokens]\nmax_lifetime_s = 86400", "tokens.max_lifetime_s", "<= 3600"
    ),
    Text(
        "clocks that may differ by a token's life",
        "[tokens]\nmax_lifetime_s = 60\nskew_s = 60",
        "tokens.skew_s",
        "below",
    ),
    Text(
        "a Retry that would never start",
        "[limits]\nretry_above_half_open = 600",
        "limits.retry_above_half_open",
        "never start",
    ),
    Text(
        "tickets that lapse before the next",
        "[limits]\nticket_every_s = 90",
        "limits.ticket_every_s",
        "without a ticket",
    ),
    Text(
        "removed people forgotten before their tickets",
        "[limits]\nremoved_memory_s = 60",
        "limits.removed_memory_s",
        "work again",
    ),
    Text("consent that outlives the accept", "[limits]\nconsent_s = 61", "limits.consent_s", "above"),
    Text("a burst below the rate", "[limits]\ncontrol_burst = 10", "limits.control_burst", "below"),
    Text(
        "people under 16 admitted",
        _rows(_row(), _row("under_16", "stranger", allow="true", max_minutes=5)),
        "policy[1].allow",
        "never admitted",
    ),
    Text("strangers who send attachments", _rows(_row(attachments="true")), "policy[0]", "strangers"),
    Text("strangers who see addresses", _rows(_row(relay_only="false")), "policy[0]", "strangers"),
    Text("a call of no minutes", _rows(_row(allow="true")), "policy[0].max_minutes", "0 minutes"),
    Text("a policy with a gap", _rows(), "policy", "no row for unknown x stranger"),
    Text("a policy that says two things", _rows(_row(), _row()), "policy[1]", "twice"),
    Text("an age band nobody has", _rows(_row(age="old")), "policy[0].age", "is not a choice"),
    Text("a drain that ends before it begins", "[drain]\ndeadline_s = 20", "drain.deadline_s", "shorter"),
    Text(
        "events into the spool's own file", "[events]\npath = '/a'\nspool = '/a'", "events.spool", "same file"
    ),
    Text("events to nowhere", "[events]\npath = ''", "events.path", "is empty"),
]


class File(NamedTuple):
    """What stands at the path (None: nothing), and the word that says so."""

    id: str
    content: bytes | None
    says: str


FILES = [
    File("a path where nothing is", None, "No such file"),
    File("a file that is no UTF-8", b"\xff\xfe", "not UTF-8"),
    File("a file of zeros", bytes(100), "not TOML"),
]


class Reload(NamedTuple):
    """A key that sizes a socket, a file or the lane."""

    id: str
    toml: str
    key: str


RELOADS = [
    Reload("another cluster name", "[node]\ncluster = 'other'", "node.cluster"),
    Reload("another address", "[listen]\nudp = ['[::]:9']", "listen.udp"),
    Reload("another lane", "lane = 'python'", "lane"),
    Reload("another WebSocket address", "[listen]\nweb = ['[::]:443']", "listen.web"),
    Reload("longer queues on TCP", "[limits]\nqueue_tcp_ms = 300", "limits.queue_tcp_ms"),
    Reload("longer queues", "[limits]\nqueue_frames = 9", "limits.queue_frames"),
    Reload("records elsewhere", "[records]\npath = '/elsewhere'", "records.path"),
]
