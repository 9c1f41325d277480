"""Nothing secret or personal in a log line, whatever the caller passes; no flood; no second line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from enum import Enum

import pytest

from relay.config import LogConfig
from relay.errors import ErrorCode, LocalError
from relay.ops.logs import JsonFormatter, Logs, RateLimit, TextFormatter, message, safe
from relay.protocol.address import Address
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sid, Sub

SECRET = bytes(range(0x40, 0x60))


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (SECRET, "<32 bytes>"),
        (bytearray(SECRET), "<32 bytes>"),
        (memoryview(SECRET), "<32 bytes>"),
        (CallId(SECRET[:16]), "CallId(4041…)"),
        (Sub(SECRET[:16]), "Sub(4041…)"),
        (Jti(SECRET[:16]), "Jti(4041…)"),
        (Kid(SECRET[:8]), "Kid(4041…)"),
        (Sid(SECRET[:16]), "Sid(4041…)"),
        (PersonId(SECRET[:16]), "PersonId(…)"),
        (Address("192.0.2.77", 4000), "Address(192.0.2.0/24)"),
        (Address("2001:db8:1:2::77", 4000), "Address(2001:db8:1::/48)"),
        (ErrorCode.CALL_FULL, "call_full"),
        (Colour.RED, "red"),
        (OSError("connect to 192.0.2.77"), "OSError"),
        (LocalError("our own words"), "our own words"),
        (object(), "<object>"),
        ("text", "text"),
        (3, 3),
        (2.5, 2.5),
        (None, None),
        (True, True),
    ],
)
def test_a_value_is_shown_by_its_type(value: object, shown: object) -> None:
    assert safe(value) == shown


def test_values_inside_values_are_shown_by_their_type_too() -> None:
    value = {"who": (Address("192.0.2.77", 1), [SECRET]), Sub(SECRET[:16]): {3}}
    assert safe(value) == {"who": ["Address(192.0.2.0/24)", ["<32 bytes>"]], "Sub(4041…)": [3]}


def test_long_text_is_cut() -> None:
    assert safe("x" * 600) == "x" * 512 + "…"


def record(template: object, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("t").makeRecord("t", logging.INFO, "f.py", 1, template, args, None)
    vars(made).update(extra)
    return made


def test_arguments_of_a_template_are_made_safe() -> None:
    assert message(record("key %s of %s", SECRET, Address("192.0.2.77", 1))) == (
        "key <32 bytes> of Address(192.0.2.0/24)"
    )
    assert message(record("%(key)s", {"key": SECRET})) == "<32 bytes>"
    assert message(record("100 %")) == "100 %"
    assert message(record(SECRET)) == "<32 bytes>"


def test_json_lines_carry_message_and_fields() -> None:
    line = json.loads(JsonFormatter().format(record("call %s", CallId(SECRET[:16]), legs=2, key=SECRET)))
    assert line["message"] == "call CallId(4041…)"
    assert (line["legs"], line["key"], line["level"], line["from"]) == (2, "<32 bytes>", "info", "t")
    assert line["time"].endswith("+00:00")


def failing() -> logging.LogRecord:
    try:
        try:
            raise OSError("cannot reach 192.0.2.77:4000")
        except OSError as error:
            raise LocalError("our own words") from error
    except LocalError as error:
        made = record("it failed")
        made.exc_info = (type(error), error, error.__traceback__)
        return made


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_names_places_and_never_values(formatter: logging.Formatter) -> None:
    text = formatter.format(failing())
    assert "LocalError: our own words" in text
    assert "OSError" in text
    assert "test_logs.py" in text
    assert "192.0.2.77" not in text


def test_a_line_end_inside_a_value_makes_no_second_line() -> None:
    made = record("who: %s", "a\nlevel=error forged", note="b\nc")
    assert "\n" not in TextFormatter().format(made)
    assert "\n" not in JsonFormatter().format(made)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_template_has_a_budget_and_the_next_minute_says_what_was_left_out() -> None:
    clock = Clock()
    limit = RateLimit(2, clock)
    assert [limit.filter(record("same %d", n)) for n in range(5)] == [True, True, False, False, False]
    assert limit.filter(record("other"))
    assert limit.suppressed == 3
    clock.now = 60.0
    late = record("same %d", 9)
    assert limit.filter(late)
    assert vars(late)["suppressed"] == 3
    again = record("same %d", 10)
    assert limit.filter(again)
    assert "suppressed" not in vars(again)


def test_the_memory_of_templates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ops.logs.MAX_KINDS", 10)
    limit = RateLimit(1, Clock())
    for number in range(100):
        limit.filter(record(f"template {number}"))
    assert len(vars(limit)["_seen"]) <= 10


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    logging.captureWarnings(False)


def test_the_process_logs_as_configured(stream: io.StringIO) -> None:
    logs = Logs(LogConfig(level="warning", format="json"), stream)
    logging.getLogger("relay.x").info("quiet")
    logging.getLogger("relay.x").warning("key %s", SECRET)
    logging.getLogger("quic").warning("Peer 192.0.2.77")  # the QUIC stack's own words
    logs.configure(LogConfig(level="info"))
    logging.getLogger("relay.x").info("loud")
    logs.close()
    told = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert told == ["key <32 bytes>", "loud"]


def test_a_broken_template_prints_none_of_its_values(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    Logs(LogConfig(), stream)
    template = "%d %d"
    logging.getLogger("relay.x").warning(template, "192.0.2.77")
    assert "192.0.2.77" not in stream.getvalue() + capsys.readouterr().err
