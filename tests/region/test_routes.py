"""What signed routes say, and which of them cannot be read."""

from typing import Any

import pytest

from relay.region import routes
from relay.region.routes import FAR, NEAR, RoutesError, distances, home, is_left, parse, strays

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
