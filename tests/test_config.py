"""The configuration: defaults, the shipped file, and every way to get it wrong with the line it is told."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from relay import config as configuration
from relay import config_addresses, config_rules, settings
from relay.config import Config, IssuerConfig, PolicyRow, TokenConfig, load, parse, reloadable_changes, render
from relay.errors import ConfigError

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "config" / "relay.toml"

KEY_A = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
KEY_B = "13a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


def test_the_shipped_file_equals_the_defaults() -> None:
    assert load(SHIPPED) == Config()


def test_the_shipped_file_writes_out_and_explains_every_default() -> None:
    assert SHIPPED.read_text().endswith(render(Config()))


def test_the_example_in_the_shipped_file_works_once_uncommented() -> None:
    head = SHIPPED.read_text().split("\n\n")[0]
    example = "\n".join(line[4:] for line in head.splitlines() if line.startswith("#   "))
    text = example.replace("64 hexadecimal digits, printed by `relay token keygen`", KEY_A)
    assert parse(text).tokens.issuers == (IssuerConfig("app", KEY_A),)


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("") == Config()


def test_rendering_and_parsing_gives_the_same_tree() -> None:
    config = dataclasses.replace(
        Config(),
        lane="python",
        tokens=TokenConfig(issuers=(IssuerConfig("a", KEY_A), IssuerConfig("b", KEY_B)), skew_s=3),
        events=dataclasses.replace(Config().events, path='odd "quoted" \\ path\tü'),
    )
    assert parse(render(config)) == config


def _classes(cls: type) -> list[type]:
    found = [cls]
    for hint in settings.hints(cls).values():
        item = settings.item_class(hint)
        if item:
            found.append(item)
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found += _classes(hint)
    return found


@pytest.mark.parametrize("cls", _classes(Config), ids=lambda cls: cls.__name__)
def test_every_field_carries_its_documentation(cls: type) -> None:
    assert set(settings.docs(cls)) == {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize("cls", _classes(Config), ids=lambda cls: cls.__name__)
def test_every_class_of_the_tree_is_frozen(cls: type) -> None:
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]  # set by dataclass()


# What is wrong, the key the error names, a part of the problem, a part of the cure.
WRONG = [
    ("limits.leg=3", "limits.leg", "unknown key", "did you mean legs?"),
    ("limit.legs=3", "limit", "unknown key", "did you mean limits?"),
    ("zzz=3", "zzz", "unknown key", "known: adapt"),
    ("limits.legs=0", "limits.legs", ">= 1", "default is 10000"),
    ("limits.legs=10000001", "limits.legs", "<= 10000000", "default is 10000"),
    ('limits.legs="x"', "limits.legs", "got `str`", "default is 10000"),
    ("limits.legs=1.5", "limits.legs", "got `float`", "default is 10000"),
    ("limits.legs=true", "limits.legs", "got `bool`", "default is 10000"),
    ("limits.idle_s=nan", "limits.idle_s", "> 0.0", "default is 30.0"),
    ("limits.idle_s=inf", "limits.idle_s", "<= 86400.0", "default is 30.0"),
    ("limits.idle_s=-1", "limits.idle_s", "> 0.0", "default is 30.0"),
    ("limits.participants=33", "limits.participants", "<= 32", "default is 32"),
    ("limits.participants=1", "limits.participants", ">= 2", "default is 32"),
    ("limits=3", "limits", "is a section", "[limits]"),
    ("lane.x=3", "lane", "got `object`", '"auto"'),
    ("lane=nativ", "lane", "'nativ' is not a choice", "did you mean native?"),
    ("lane=3", "lane", "got `int`", '"auto"'),
    ("log.level=verbose", "log.level", "not a choice", "known: debug"),
    ("node.id=A B", "node.id", "1 to 32 of a-z", '"relay-1"'),
    ("node.server_id=65536", "node.server_id", "<= 65535", "default is 1"),
    ("policy=3", "policy", "got `int`", ""),
    ("policy=[3]", "policy[0]", "got `int`", ""),
    ('policy=[{age="adul"}]', "policy[0].age", "not a choice", "did you mean adult?"),
    ('policy=[{agee="adult"}]', "policy[0].agee", "unknown key", "did you mean age?"),
    ('clients.sdk=["A"]', "clients.sdk[0]", "1 to 16 of", ""),
    ("listen.udp=[]", "listen.udp", "names no address", "[::]:443"),
    ('listen.udp=["::1:443"]', "listen.udp[0]", "needs brackets", "[::1]:443"),
    ('listen.udp=["1.2.3.4"]', "listen.udp[0]", "not an address", "127.0.0.1:443"),
    ('listen.udp=["1.2.3.4:"]', "listen.udp[0]", "not an address", "127.0.0.1:443"),
    ('listen.udp=["1.2.3.4:65536"]', "listen.udp[0]", "not an address", "127.0.0.1:443"),
    ('listen.udp=["1.2.3.4:٣"]', "listen.udp[0]", "not an address", "127.0.0.1:443"),
    ('listen.udp=["[::]:1", "[::]:1"]', "listen.udp", "twice", "remove one"),
    ("listen.metrics=localhost", "listen.metrics", "not an address", "127.0.0.1:443"),
    ("tls.certificate=", "tls.certificate", "is empty", "PEM"),
    ("tls.key=", "tls.key", "is empty", "PEM"),
    ("cluster.key_file=", "cluster.key_file", "is empty", "keygen --cluster"),
    (
        "cluster.previous_key_file=/run/credentials/relay.service/relay.key",
        "cluster.previous_key_file",
        "same file",
        '""',
    ),
    ('tokens.issuers=[{public_key="ab"}]', "tokens.issuers[0].public_key", "64 lower-case", ""),
    ('tokens.issuers=[{name="a"}]', "tokens.issuers[0].public_key", "is not set", "keygen"),
    ('tokens.issuers=[{nam="a"}]', "tokens.issuers[0].nam", "unknown key", "did you mean name?"),
    (
        f'tokens.issuers=[{{public_key="{KEY_A}"}},{{public_key="{KEY_B}"}}]',
        "tokens.issuers",
        "share a name",
        "its own",
    ),
    (
        f'tokens.issuers=[{{name="a",public_key="{KEY_A}"}},{{name="b",public_key="{KEY_A}"}}]',
        "tokens.issuers",
        "stands there twice",
        "remove one",
    ),
    ("tokens.max_lifetime_s=30", "tokens.skew_s", "not below tokens.max_lifetime_s", "30"),
    ("limits.half_open=63", "limits.retry_above_half_open", "above limits.half_open", "63"),
    ("limits.ticket_every_s=90", "limits.ticket_every_s", "not below limits.ticket_ttl_s", "third"),
    ("limits.consent_s=61", "limits.consent_s", "above limits.accept_outlives_s", "60"),
    ("limits.removed_memory_s=89", "limits.removed_memory_s", "below limits.ticket_ttl_s", "90"),
    ("limits.control_burst=49", "limits.control_burst", "below limits.control_per_s", "50"),
    ("drain.grace_s=400", "drain.deadline_s", "shorter than", "411"),
    ("events.path=", "events.path", "is empty", "off"),
    ("events.spool=/var/lib/relay/events.jsonl", "events.spool", "same file", "another"),
    ("quality.good_from=3.5", "quality.fair_from", "above quality.good_from", "3.5"),
    ("quality.bad_below=3.2", "quality.bad_below", "above quality.poor_below", "3.1"),
    ("quality.mid_from_bps=24000", "quality.mid_from_bps", "above quality.high_from_bps", "20000"),
    ("quality.weight_up=0", "quality.weight_up", "> 0", "default is 0.4"),
    ("adapt.clean_below=0.02", "adapt.clean_below", "above adapt.lossy_from", "0.01"),
    ("adapt.up_s=41", "adapt.up_s", "above adapt.up_most_s", "8"),
    ("adapt.floor_s=0.5", "adapt.dark_s", "above adapt.floor_s", "0.5"),
    ("overload.clear_below=0.91", "overload.clear_below", "above overload.redundancy_from", "0.9"),
    ("overload.silence_from=1.5", "overload.silence_from", "above overload.calls_from", "1.0"),
    ("adapt.budget=1.5", "adapt.budget", "<= 1", "default is 1.0"),
    ("no equals sign", "no equals sign", "not an assignment", "section.key=value"),
    ("=3", "=3", "not an assignment", "section.key=value"),
]


@pytest.mark.parametrize(("assignment", "key", "problem", "cure"), WRONG, ids=[row[0][:40] for row in WRONG])
def test_a_wrong_value_is_refused_by_name_with_a_cure(
    assignment: str, key: str, problem: str, cure: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("", [assignment])
    assert caught.value.key == key
    assert problem in caught.value.problem
    assert cure in caught.value.cure
    assert "\n" not in str(caught.value)


def test_a_socket_for_events_needs_a_spool() -> None:
    with pytest.raises(ConfigError, match=r"events\.spool: is empty"):
        parse("", ["events.sink=socket", "events.spool="])


def _policy(*, without: int | None = None, **changed: object) -> str:
    rows = list(configuration.DEFAULT_POLICY)
    if without is not None:
        del rows[without]
    row = int(changed.pop("row", 0))  # type: ignore[call-overload]  # always an int here
    rows[row] = dataclasses.replace(rows[row], **changed)
    return render(dataclasses.replace(Config(), policy=tuple(rows)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_policy(without=7), "policy: no row for adult x stranger"),
        (_policy(row=0, contact="contact"), r"policy\[1\]: unknown x contact stands there twice"),
        (_policy(row=2, allow=True, max_minutes=5), r"policy\[2\]\.allow: people under 16"),
        (_policy(row=1, max_minutes=0), r"policy\[1\]\.max_minutes: 0 minutes"),
        (_policy(row=0, attachments=True), r"policy\[0\]: strangers"),
        (_policy(row=0, relay_only=False), r"policy\[0\]: strangers"),
    ],
)
def test_a_policy_table_with_a_hole_or_a_contradiction_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem.replace("adult x stranger", ".* x .*")):
        parse(text)


def test_policy_covers_every_age_band_and_contact_state() -> None:
    pairs = {(row.age, row.contact) for row in Config().policy}
    assert pairs == {(age, contact) for age in config_rules.AGES for contact in config_rules.CONTACTS}


def test_nobody_under_sixteen_is_allowed_by_default() -> None:
    assert [row.allow for row in Config().policy if row.age == "under_16"] == [False, False]


def test_rules_run_over_trees_made_in_code_too() -> None:
    with pytest.raises(ConfigError, match="policy: no row"):
        configuration.check(dataclasses.replace(Config(), policy=(PolicyRow(),)))


def test_an_assignment_takes_toml_or_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("[limits]\nlegs = 5\n")
    config = load(path, ["limits.legs=7", "node.id=berlin-2", 'listen.udp=["127.0.0.1:0"]', "records.path="])
    assert config.limits.legs == 7
    assert config.node.id == "berlin-2"
    assert config.listen.udp == ("127.0.0.1:0",)
    assert config.records.path == ""


def test_an_assignment_into_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lane\.x: lane is not a section"):
        parse('lane = "auto"', ["lane.x=1"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read: No such file"):
        load(tmp_path / "nothing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin.toml")


def test_a_syntax_error_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"configuration: not TOML: .*line 2"):
        parse("\nlegs = = 3")


def test_a_reload_takes_what_can_change_live() -> None:
    old = Config()
    new = parse("", ["limits.legs=7", "drain.grace_s=1", "tls.key=/x", 'log.level="debug"'])
    assert reloadable_changes(old, new) == ["tls.key", "limits.legs", "log.level", "drain.grace_s"]
    assert reloadable_changes(old, old) == []


@pytest.mark.parametrize(
    "assignment",
    ["lane=python", "node.id=b", 'listen.udp=["[::]:4433"]', "limits.queue_ms=60", "events.sink=off",
     "records.path=/x", "log.format=text"],
)  # fmt: skip
def test_a_reload_refuses_by_name_what_needs_a_restart(assignment: str) -> None:
    with pytest.raises(ConfigError, match="cannot change while running") as caught:
        reloadable_changes(Config(), parse("", [assignment]))
    assert caught.value.key == assignment.partition("=")[0]


def test_a_reload_may_change_an_issuers_limits_and_keys_but_not_where_its_events_go() -> None:
    rows = [IssuerConfig("app", KEY_A), IssuerConfig("app", KEY_B, KEY_A, joins_per_s=5)]
    old, new = (Config(tokens=TokenConfig((row,))) for row in rows)
    assert reloadable_changes(old, new) == ["tokens.issuers"]
    own = Config(tokens=TokenConfig((dataclasses.replace(rows[1], events="/x"),)))
    for one, other in ((new, own), (own, old)):
        with pytest.raises(ConfigError, match="where events go cannot change") as caught:
            reloadable_changes(one, other)
        assert caught.value.key == "tokens.issuers"


def test_a_reload_moves_no_key_to_where_its_spent_tokens_are_not_known() -> None:
    apart = Config(tokens=TokenConfig((IssuerConfig("app", KEY_A, apart=True),)))
    for row in (IssuerConfig("app", KEY_A), IssuerConfig("shop", KEY_A, apart=True)):
        for old, new in (
            (apart, Config(tokens=TokenConfig((row,)))),
            (Config(tokens=TokenConfig((row,))), apart),
        ):
            with pytest.raises(ConfigError, match="who is apart cannot change") as caught:
                reloadable_changes(old, new)
            assert caught.value.key == "tokens.issuers"
    rotated = IssuerConfig("app", KEY_B, KEY_A, apart=True)
    assert reloadable_changes(apart, Config(tokens=TokenConfig((rotated,)))) == ["tokens.issuers"]
    assert reloadable_changes(Config(), apart) == ["tokens.issuers"]


def test_every_live_and_frozen_name_exists() -> None:
    known = set(_leaves(Config()))
    for name in configuration.LIVE:
        assert any(leaf.startswith(name) for leaf in known), name
    assert set(configuration.FROZEN) <= known


def _leaves(tree: object, prefix: str = "") -> list[str]:
    found: list[str] = []
    for f in dataclasses.fields(tree):  # type: ignore[arg-type]  # always a dataclass here
        value = getattr(tree, f.name)
        inner = dataclasses.is_dataclass(value)
        found += _leaves(value, f"{prefix}{f.name}.") if inner else [prefix + f.name]
    return found


@pytest.mark.parametrize(
    ("text", "address"),
    [("[::]:443", ("::", 443)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("relay.example:9", ("relay.example", 9))],
)
def test_an_address_is_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert config_addresses.split_address(text, "listen.udp") == address


def test_no_default_is_infinite() -> None:
    for name in _leaves(Config()):
        value: object = Config()
        for part in name.split("."):
            value = getattr(value, part)
        assert not (isinstance(value, float) and math.isinf(value)), name


TURN_ON = "turn.enabled=true"
V4_ROW = 'turn.addresses=[{bind="192.0.2.1"}]'
URL = 'turn.urls=["turn:relay.example:3478"]'
TURN_WRONG: list[tuple[list[str], str, str]] = [
    ([TURN_ON], "turn.addresses", "is empty"),
    ([TURN_ON, V4_ROW], "turn.urls", "is empty"),
    ([TURN_ON, V4_ROW, "turn.policy=open"], "turn.secret_file", "is empty"),
    (
        [TURN_ON, V4_ROW, URL, "turn.secret_file=/x", "turn.previous_secret_file=/x"],
        "turn.previous_secret_file",
        "same file",
    ),
    (['turn.addresses=[{bind="127.1"}]'], "turn.addresses[0].bind", "not an IP address"),
    (["turn.addresses=[{}]"], "turn.addresses[0].bind", "not an IP address"),
    (['turn.addresses=[{bind="2001:DB8::1"}]'], "turn.addresses[0].bind", "not the canonical"),
    (['turn.addresses=[{bind="fe80::1%1"}]'], "turn.addresses[0].bind", "not the canonical"),
    (['turn.addresses=[{bind="::ffff:192.0.2.1"}]'], "turn.addresses[0].bind", "not the canonical"),
    (
        ['turn.addresses=[{bind="10.0.0.1", advertise="2001:db8::1"}]'],
        "turn.addresses[0].advertise",
        "another family",
    ),
    (['turn.addresses=[{bind="192.0.2.1"}, {bind="192.0.2.2"}]'], "turn.addresses", "two addresses"),
    (["turn.first_port=50000", "turn.last_port=49999"], "turn.first_port", "above turn.last_port"),
    (["turn.alternate=relay.example:3478"], "turn.alternate", "not an IP address"),
    (["turn.realm=relay"], "turn.realm", "exactly 4"),
    (["turn.longest_s=599"], "turn.longest_s", ">= 600"),
    ([TURN_ON, V4_ROW, URL, 'turn.tcp=["3478"]'], "turn.tcp[0]", "'3478'"),
    ([TURN_ON, V4_ROW, URL, 'turn.tls=["[::]:5349", "::1"]'], "turn.tls[1]", "'::1'"),
]


@pytest.mark.parametrize(
    ("assignments", "key", "problem"), TURN_WRONG, ids=[str(row[0]) for row in TURN_WRONG]
)
def test_a_wrong_setting_of_turn_is_refused_by_name(assignments: list[str], key: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("", assignments)
    assert (caught.value.key, problem in caught.value.problem) == (key, True), caught.value


def test_turn_can_be_switched_on_in_either_policy() -> None:
    both = 'turn.addresses=[{bind="10.0.0.1", advertise="192.0.2.1"}, {bind="2001:db8::1"}]'
    strict = parse("", [TURN_ON, both, URL, "turn.alternate=192.0.2.2:3478"])
    assert strict.turn.addresses[0].advertise == "192.0.2.1"
    assert parse(render(strict)) == strict
    assert parse("", [TURN_ON, V4_ROW, "turn.policy=open", "turn.secret_file=/x"]).turn.enabled


def test_turn_is_off_unless_asked_for_and_no_default_opens_private_networks() -> None:
    assert (Config().turn.enabled, Config().stun.open_binding) == (False, False)
    assert (Config().turn.policy, Config().turn.lab_allow_private_peers) == ("strict", False)


@pytest.mark.parametrize(
    "assignment", ["turn.kbps=64", "turn.streams=9", "turn.secret_file=/y", "stun.open_binding=true"]
)
def test_a_reload_may_change_limits_and_secrets_of_turn(assignment: str) -> None:
    assert reloadable_changes(Config(), parse("", [assignment])) == [assignment.partition("=")[0]]


@pytest.mark.parametrize(
    "assignment", ["turn.realm=vrl2", "turn.policy=open", "turn.lab_allow_private_peers=true"]
)
def test_a_reload_does_not_change_what_running_allocations_stand_on(assignment: str) -> None:
    with pytest.raises(ConfigError, match="cannot change while running"):
        reloadable_changes(Config(), parse("", [assignment]))


# ---------------------------------------------------------------- the state of rollouts


A_KEY, B_KEY = "ab" * 32, "cd" * 32


def _state(lines: str = "", keys: str = f'["{A_KEY}"]') -> str:
    return f'[state]\nfile = "/s/lastgood"\nkeys = {keys}\n{lines}\n'


def test_a_state_needs_a_key_and_takes_two() -> None:
    assert parse("").state.file == ""  # off
    assert parse(_state(keys=f'["{A_KEY}", "{B_KEY}"]')).state.keys == (A_KEY, B_KEY)
    assert parse(_state('backend = "nats"\nservers = ["tls://hub.example:4222"]')).state.backend == "nats"


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        (_state(keys="[]"), "state.keys", "relay token keygen"),
        (_state(keys=f'["{A_KEY}", "{A_KEY}"]'), "state.keys", "remove"),
        (_state(keys=f'["{A_KEY}", "{B_KEY}", "{"ef" * 32}"]'), "state.keys", "remove"),
        (_state(keys='["AB"]'), "state.keys[0]", ""),
        (_state('floor_file = "/s/lastgood"'), "state.floor_file", "another"),
        (_state('kill_file = "/s/lastgood.kill"'), "state.kill_file", "another"),
        (_state('store = "/s/lastgood"'), "state.store", "another"),
        (_state('store = ""'), "state.store", "name a file"),
        (_state('backend = "redis"'), "state.backend", "nats"),
        ('[state]\nbackend = "nats"', "state.servers", "4222"),
        (_state('backend = "nats"\nservers = ["http://x"]'), "state.servers[0]", "nats://"),
        (_state('backend = "nats"\nservers = ["nats://a:b@x"]'), "state.servers[0]", "credentials"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_the_state_is_refused_by_name(text: str, key: str, cure: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.key == key
    assert cure in caught.value.cure


# ---------------------------------------------------------------- the feed


HOOK = '{ name = "a", url = "https://a.example/x", secret_file = "/s" }'


def _feed(hook: str = HOOK, more: str = "") -> str:
    return f"[feed]\nwebhooks = [{hook}]\n{more}\n"


@pytest.mark.parametrize("url", ["https://a.example", "https://[2001:db8::1]:8443/x?y=1", "http://127.0.0.1:8080/",
                                 "http://[::1]/", "http://localhost:8080/x"])  # fmt: skip
def test_an_endpoint_is_https_anywhere_or_http_on_loopback(url: str) -> None:
    assert parse(_feed(HOOK.replace("https://a.example/x", url))).feed.webhooks[0].url == url


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        (_feed(HOOK.replace("https:", "http:")), "feed.webhooks[0].url", "https://"),
        (_feed(HOOK.replace("https:", "ftp:")), "feed.webhooks[0].url", "https://"),
        (_feed(HOOK.replace("a.example", "")), "feed.webhooks[0].url", "https://"),
        (_feed(HOOK.replace("a.example", "a:b@a.example")), "feed.webhooks[0].url", "signature"),
        (_feed(HOOK.replace("a.example", "a.example:99999")), "feed.webhooks[0].url", "https://"),
        (_feed(HOOK.replace("example/x", "example/é")), "feed.webhooks[0].url", "https://"),
        (_feed(HOOK.replace("/s", "")), "feed.webhooks[0].secret_file", "relay feed secret"),
        (_feed(HOOK.replace('"/s"', '"/s", previous_secret_file = "/s"')),
         "feed.webhooks[0].previous_secret_file", "leave it"),
        (_feed(f"{HOOK}, {HOOK}"), "feed.webhooks", "each its own"),
        (_feed(HOOK.replace('"/s"', '"/s", events = ["call.endet"]')),
         "feed.webhooks[0].events[0]", "call.ended"),
        (_feed(HOOK.replace('"/s"', '"/s", batch = 0')), "feed.webhooks[0].batch", ""),
        (_feed(HOOK.replace('"/s"', '"/s", bacth = 2')), "feed.webhooks[0].bacth", "batch"),
        (_feed(HOOK.replace('"/s"', '"/s", issuers = ["app"]')), "feed.webhooks[0].issuers", "is empty"),
        (_feed(HOOK.replace('"/s"', '"/s", issuers = ["ap"]'))
         + f'[[tokens.issuers]]\nname = "app"\npublic_key = "{KEY_A}"',
         "feed.webhooks[0].issuers", "mean app"),
        (_feed(more="retry_first_s = 9\nretry_most_s = 8"), "feed.retry_first_s", "at most 8"),
        (_feed(more='store = ""'), "feed.store", "name a file"),
        (_feed(more='metrics = "9465"'), "feed.metrics", "127.0.0.1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_the_feed_is_refused_by_name(text: str, key: str, cure: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.key == key
    assert cure in caught.value.cure


def test_a_reload_of_the_daemon_takes_any_change_of_the_feed() -> None:
    new = parse(_feed(more='store = "/elsewhere"\nmax_age_s = 5'))
    assert reloadable_changes(Config(), new) == ["feed.webhooks", "feed.store", "feed.max_age_s"]


# ---------------------------------------------------------------- the node list


def _nodes(keys: str = f'["{A_KEY}"]') -> str:
    return f'[nodes]\nfile = "/s/nodes"\nkeys = {keys}\n'


def test_a_node_list_needs_a_key_and_takes_two_and_may_change_live() -> None:
    assert parse("").nodes.file == ""  # off
    both = parse(_nodes(f'["{A_KEY}", "{B_KEY}"]'))
    assert both.nodes.keys == (A_KEY, B_KEY)
    assert reloadable_changes(Config(), both) == ["nodes.file", "nodes.keys"]


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        (_nodes("[]"), "nodes.keys", "relay token keygen"),
        (_nodes(f'["{A_KEY}", "{A_KEY}"]'), "nodes.keys", "remove"),
        ('[nodes]\nannounce = ["http://a:1", "https://a"]', "nodes.announce[1]", "9464"),
        ('[nodes]\nannounce = ["http://a:1/health"]', "nodes.announce[0]", "listen.metrics"),
        (_nodes() + _state().replace("/s/lastgood", "/s/nodes"), "nodes.file", "another"),
    ],
)
def test_a_node_list_that_could_not_work_is_refused(text: str, key: str, cure: str) -> None:
    with pytest.raises(ConfigError, match=cure) as caught:
        parse(text)
    assert caught.value.key == key


# ---------------------------------------------------------------- trunks


def _row(
    node: str = "iad-1", address: str = "192.0.2.1:443", pins: str = f'["{A_KEY}"]', second: str = ""
) -> str:
    more = f', second = "{second}"' if second else ""
    return f'{{ node = "{node}", address = "{address}", pins = {pins}{more} }}'


def _trunks(*rows: str, key: str = "/k") -> str:
    return f'[trunks]\nkey = "{key}"\nnodes = [{", ".join(rows)}]\n'


def test_trunks_are_off_and_take_nodes_with_an_address_and_up_to_two_pins() -> None:
    off = parse("").trunks
    assert (off.key, off.nodes) == ("", ())
    both = f'["{A_KEY}", "{B_KEY}"]'
    on = parse(_trunks(_row(pins=both), _row("fra-1", "[2001:db8::1]:4433", f'["{"ef" * 32}"]')))
    assert [(row.node, row.address) for row in on.trunks.nodes] == [
        ("iad-1", "192.0.2.1:443"),
        ("fra-1", "[2001:db8::1]:4433"),
    ]
    assert on.trunks.nodes[0].pins == (A_KEY, B_KEY)
    assert on.trunks.nodes[0].second == ""
    two = parse(_trunks(_row(second="192.0.2.1:4433")))
    assert two.trunks.nodes[0].second == "192.0.2.1:4433"
    assert parse(render(two)) == two
    assert parse(render(on)) == on
    with pytest.raises(ConfigError, match="cannot change while running"):
        reloadable_changes(Config(), on)


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        (_trunks(_row(), key=""), "trunks.key", "relay nodes trunk-key --out"),
        (_trunks(), "trunks.nodes", "pins"),
        (_trunks('{ address = "192.0.2.1:443" }'), "trunks.nodes[0].node", "node.id"),
        (_trunks(_row("IAD 1")), "trunks.nodes[0].node", "1 to 32 of"),
        (_trunks(_row(address="iad-1.example:443")), "trunks.nodes[0].address", "192.0.2.1"),
        (_trunks(_row(address="2001:db8::1:443")), "trunks.nodes[0].address", "brackets"),
        (_trunks(_row(address="192.0.2.1")), "trunks.nodes[0].address", "with a port"),
        (_trunks(_row(address="192.0.2.1:0")), "trunks.nodes[0].address", "listen.udp"),
        (_trunks(_row(address="[::ffff:192.0.2.1]:443")), "trunks.nodes[0].address", "canonical"),
        (_trunks(_row(pins="[]")), "trunks.nodes[0].pins", "relay nodes trunk-key --show"),
        (_trunks(_row(pins=f'["{A_KEY}", "{A_KEY}"]')), "trunks.nodes[0].pins", "two for a rotation"),
        (_trunks(_row(pins='["AB"]')), "trunks.nodes[0].pins[0]", "64 lower-case"),
        (_trunks(_row(), _row(address="192.0.2.2:443", pins=f'["{B_KEY}"]')), "trunks.nodes[1].node", "keep"),
        (_trunks(_row(), _row("fra-1", pins=f'["{B_KEY}"]')), "trunks.nodes[1].address", "keep one"),
        (_trunks(_row(), _row("fra-1", "192.0.2.2:443")), "trunks.nodes[1].pins", "a key of its own"),
        (_trunks(*[_row(f"n{n}", f"192.0.2.1:{n + 1}") for n in range(1025)]), "trunks.nodes", "1024"),
        (_trunks(_row().replace("pins", "pin")), "trunks.nodes[0].pin", "pins"),
        (_trunks(_row(second="192.0.2.1:443")), "trunks.nodes[0].second", "another carrier"),
        (_trunks(_row(second="iad-1.example:443")), "trunks.nodes[0].second", "192.0.2.1"),
        (_trunks(_row(second="192.0.2.9:0")), "trunks.nodes[0].second", "listen.udp"),
        (
            _trunks(_row(second="192.0.2.2:443"), _row("fra-1", "192.0.2.2:443", f'["{B_KEY}"]')),
            "trunks.nodes[0].second",
            "keep one",
        ),
        (
            _trunks(
                _row(second="192.0.2.9:443"),
                _row("fra-1", "192.0.2.2:443", f'["{B_KEY}"]', second="192.0.2.9:443"),
            ),
            "trunks.nodes[1].second",
            "keep one",
        ),
    ],
)
def test_trunks_that_could_not_work_are_refused(text: str, key: str, cure: str) -> None:
    with pytest.raises(ConfigError, match=cure) as caught:
        parse(text)
    assert caught.value.key == key


def test_standbys_need_the_commands_of_the_fleet() -> None:
    """What ends a call must reach who takes it up, or two who both want it could go on there."""
    with pytest.raises(ConfigError, match="ended by command") as caught:
        parse("[nodes]\nstandbys = true")
    assert caught.value.key == "nodes.standbys"
    both = parse('[nodes]\nstandbys = true\ncommands = "/c/commands"')
    assert (both.nodes.standbys, both.nodes.commands) == (True, "/c/commands")
    assert reloadable_changes(Config(), both) == ["nodes.standbys", "nodes.commands"]


@pytest.mark.parametrize("other", [_nodes(), _state()])
def test_the_file_of_commands_is_no_other_file(other: str) -> None:
    path = "/s/nodes" if "nodes" in other else "/s/lastgood.kill"
    nodes = other if "[nodes]" in other else f"{other}[nodes]\n"
    with pytest.raises(ConfigError, match="another") as caught:
        parse(f'{nodes}commands = "{path}"\n')
    assert caught.value.key == "nodes.commands"
