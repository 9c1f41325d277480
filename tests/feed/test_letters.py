"""Lines to letters, and their signatures against a vector of others."""

from __future__ import annotations

import base64
import hmac
import json
import typing

import pytest

from relay.config_feed import Kind, WebhookConfig
from relay.core.record import EventKind
from relay.errors import ConfigError
from relay.feed.letters import Event, pack, read
from relay.feed.signing import format_secret, headers, parse_secret
from relay.ops.events import LOST

LOG = "599b8e0cb04089fb"


def line(seq: int, kind: str = "call.ended") -> bytes:
    return (
        f'{{"v":1,"id":"{LOG}-{seq}","seq":{seq},"time":1.5,"node":"n","kind":"{kind}","data":{{"call":"é"}}}}'
    ).encode()


def events(*kinds: str) -> list[Event]:
    found = [read(line(seq, kind)) for seq, kind in enumerate(kinds, start=1)]
    return [event for event in found if event is not None]


def test_a_line_is_read_without_a_change() -> None:
    event = read(line(7))
    assert event == Event(LOG, 7, "call.ended", line(7))
    assert event.id == f"{LOG}-7"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b"\xff", line(7)[:40], line(7).replace(b'"seq":7', b'"seq":8'),
     line(7).replace(LOG.encode(), b"nothing"), line(7).replace(b'"seq":7', b'"seq":0'),
     line(7).replace(b'"kind":"call.ended",', b""), b'{"id":"' + b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_event_is_nothing(text: bytes) -> None:
    assert read(text) is None


def test_a_filter_lets_through_what_it_names_and_none_lets_through_all() -> None:
    three = events("call.ended", "report", "of.later.versions")
    some = WebhookConfig(events=("report",))
    assert [draft.kinds for draft in pack(three, some)] == ["report"]
    assert [draft.id for draft in pack(three, WebhookConfig())] == [f"{LOG}-{seq}" for seq in (1, 2, 3)]


def test_an_endpoint_of_an_issuer_gets_its_news_alone_and_none_of_the_node() -> None:
    lines = [
        json.dumps(json.loads(line(seq)) | more).encode()
        for seq, more in enumerate(({"issuer": "a"}, {"issuer": "b"}, {}, {"issuer": "a"}), start=1)
    ]
    four = [event for event in map(read, lines) if event is not None]
    assert [event.issuer for event in four] == ["a", "b", "", "a"]
    drafts = pack(four, WebhookConfig(issuers=("a",), batch=9))
    assert [(draft.id, draft.events) for draft in drafts] == [(f"{LOG}-1", 2)]
    assert [draft.events for draft in pack(four, WebhookConfig(issuers=("a", "b"), batch=9))] == [3]
    assert pack(four, WebhookConfig(issuers=("c",))) == []
    assert [draft.events for draft in pack(four, WebhookConfig(batch=9))] == [4]


def test_a_letter_of_one_is_the_event_itself_and_of_more_a_list() -> None:
    three = events("call.ended", "report", "report")
    assert [draft.body for draft in pack(three, WebhookConfig())] == [event.line for event in three]
    first, second = pack(three, WebhookConfig(batch=2))
    assert first.body == b"[" + three[0].line + b"," + three[1].line + b"]"
    assert second.body == b"[" + three[2].line + b"]"
    assert (first.id, first.events, first.kinds) == (f"{LOG}-1", 2, "call.ended,report")


def test_the_kinds_of_the_configuration_are_those_the_daemon_writes() -> None:
    assert set(typing.get_args(Kind)) == {kind.value for kind in EventKind} | {LOST}


# ---------------------------------------------------------------- signatures


def test_the_signature_is_that_of_the_other_implementations() -> None:
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "x")
    found = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_secrets_make_two_signatures() -> None:
    one, two = (
        base64.b64encode(hmac.digest(secret, b"a.5.body", "sha256")).decode()
        for secret in (b"1" * 24, b"2" * 24)
    )
    found = headers("a", 5, b"body", [b"1" * 24, b"2" * 24])
    assert found["webhook-signature"] == f"v1,{one} v1,{two}"


def test_a_secret_is_what_it_was_once_written() -> None:
    assert parse_secret(format_secret(b"\xfe" * 32), "x") == b"\xfe" * 32


@pytest.mark.parametrize(
    "text",
    ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!" * 9, "whsec_" + "A" * 100],
)
def test_what_is_no_secret_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(ConfigError, match="relay feed secret") as caught:
        parse_secret(text, "feed.webhooks[0].secret_file")
    assert caught.value.key == "feed.webhooks[0].secret_file"
    assert len(text) < 10 or text not in str(caught.value)
