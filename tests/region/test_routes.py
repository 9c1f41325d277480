"""What signed routes say, and which of them cannot be read."""

from math import inf
from typing import Any

import pytest

from relay.region import routes
from relay.region.routes import (
    FAR,
    NEAR,
    RoutesError,
    distances,
    home,
    is_left,
    keep_days,
    parse,
    rules_of,
    strays,
    within,
)

URLS = {"urls": ["quic://fra-1.example:443", "https://fra-1.example"]}
RAW: dict[str, Any] = {
    "fra": {
        "relays": {"fra-1": URLS, "fra-2": {**URLS, "drain": True, "variant": "relay-0.4"}},
        "near": ["ams"],
    },
    "ams": {"relays": {"ams-1": URLS}, "drain": True},
    "sin": {"relays": {}},
}


def test_regions_and_their_relays_are_read() -> None:
    read = parse(RAW)
    one, two = read["fra"].relays.values()
    assert (one.urls, one.variant, one.drain) == (tuple(URLS["urls"]), "control", False)
    assert (two.variant, two.drain) == ("relay-0.4", True)
    assert parse({}) == {}


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ({"fra": {"relays": ["fra-1"]}}, "$"),
        ({"fra": {}}, "$"),
        ({"fra": {"relays": {"fra-1": {"urls": []}}}}, "urls"),
        ({"fra": {"relays": {"fra-1": {"urls": ["http://x"]}}}}, "urls"),
        ({"fra": {"relays": {"fra 1": URLS}}}, "key"),
        ({"fra": {"relays": {"fra-1": {**URLS, "drain": 1}}}}, "drain"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(raw: dict[str, Any], place: str) -> None:
    with pytest.raises(RoutesError, match=r"^routes: .*does not fit") as caught:
        parse(raw)
    assert place in str(caught.value)


def test_a_node_stands_in_one_region() -> None:
    with pytest.raises(RoutesError, match="two regions"):
        parse({"fra": {"relays": {"a": URLS}}, "ams": {"relays": {"a": URLS}}})


def test_what_a_later_version_added_is_passed_over_and_can_be_named() -> None:
    raw = {"fra": {"relays": {"a": {**URLS, "drian": True}}, "weight": 2}}
    assert not is_left(parse(raw), "a")
    assert strays(raw) == ["fra.weight", "fra.a.drian"]
    assert strays(RAW) == []


@pytest.mark.parametrize(
    ("node", "left"), [("fra-1", False), ("fra-2", True), ("ams-1", True), ("elsewhere", False)]
)
def test_a_node_is_left_when_it_or_its_region_is_marked(node: str, left: bool) -> None:
    assert is_left(parse(RAW), node) is left


def test_a_node_is_found_by_its_region() -> None:
    assert home(parse(RAW), "ams-1") == "ams"
    assert home(parse(RAW), "elsewhere") is None


def test_home_is_nearest_then_what_is_near_then_all_else_alike() -> None:
    assert distances(parse(RAW), "fra") == {"fra": 0.0, "ams": NEAR, "sin": FAR}
    assert distances(parse(RAW), "ams") == {"ams": 0.0, "fra": FAR, "sin": FAR}
    assert distances(parse(RAW), "gru")["gru"] == 0.0
    assert routes.NEAR < routes.FAR


# ---------------------------------------------------------------- rules


def ruled(**regions: dict[str, Any]) -> dict[str, Any]:
    return {name: {"relays": {}, "rules": rules} for name, rules in regions.items()}


def rules(*to: str, keep_in: tuple[str, ...], days: float = 30) -> dict[str, Any]:
    return {"may_leave_to": list(to), "keep_in": list(keep_in), "keep_days": days}


EU = ("fra", "ams")
RULED = ruled(
    fra=rules("ams", keep_in=EU, days=30),
    ams=rules("fra", keep_in=EU, days=7),
    iad=rules("fra", "ams", keep_in=("iad", *EU), days=1),
    sin=rules(keep_in=("sin",), days=90),
)


def test_rules_say_where_calls_may_be_and_how_long_who_may_have_them_keeps_what() -> None:
    read = parse({**RULED, "gru": {"relays": {}}})
    assert within(read, "fra") == {"fra", "ams"}
    assert within(read, "sin") == {"sin"}
    assert within(read, "gru") is within(read, "elsewhere") is None
    found = rules_of(read, "fra")
    assert found is not None
    assert (found.keep_in, found.keep_days) == (EU, 30)
    assert {name: keep_days(read, name) for name in read} == {
        "fra": 1, "ams": 1, "iad": 1, "sin": 90, "gru": inf
    }  # fmt: skip
    assert keep_days(parse(ruled(fra=rules("ams", keep_in=EU), ams=RULED["ams"]["rules"])), "fra") == 7


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (ruled(fra=rules("ams", keep_in=("fra",)), ams=RULED["ams"]["rules"]), "add ams to keep_in of fra"),
        (ruled(fra=rules(keep_in=("ams",))), "add fra to keep_in of fra"),
        (ruled(fra=rules("amz", keep_in=("fra", "amz"))), "amz, which has no rules of its own"),
        (
            ruled(
                fra=rules("ams", keep_in=EU),
                ams=rules("sin", keep_in=("ams", "sin")),
                sin=RULED["sin"]["rules"],
            ),
            "take sin out of may_leave_to of ams, or allow it to fra",
        ),
    ],
)
def test_rules_that_would_not_hold_are_refused_with_what_to_write(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(RoutesError, match=told):
        parse(raw)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"may_leave_to": ["ams"], "keep_in": ["fra"]}, "rules"),
        (rules(keep_in=()), "keep_in"),
        (rules(keep_in=("fra",), days=0), "keep_days"),
        (rules("a b", keep_in=("fra",)), "may_leave_to"),
    ],
)
def test_rules_that_do_not_fit_are_named_by_their_place(wrong: dict[str, Any], place: str) -> None:
    with pytest.raises(RoutesError, match=r"^routes: .*does not fit") as caught:
        parse(ruled(fra=wrong))
    assert place in str(caught.value)


def test_a_slip_in_rules_can_be_named() -> None:
    raw = ruled(fra={**rules(keep_in=("fra",)), "keep_day": 3})
    parse(raw)
    assert strays(raw) == ["fra.rules.keep_day"]
    assert strays({"fra": {"relays": {}, "rules": None}}) == []
