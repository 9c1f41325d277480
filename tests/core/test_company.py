"""The open policy: whoever knows the secret is somebody, and the deny rules are all there is."""

from __future__ import annotations

from relay.config_turn import TurnConfig
from relay.core.company import Budget, OpenCompany, Owner
from relay.core.credentials import UserName
from relay.protocol.ids import CallId

ANN, BOB = Owner(None, b"1:ann"), Owner(None, b"1:bob")


def test_each_user_name_is_somebody_who_may_reach_anybody() -> None:
    company = OpenCompany(TurnConfig(kbps=64, pps=50))
    assert company.owner_of(b"1:ann", UserName(1, b"ann")) == ANN
    assert company.is_here(ANN)
    assert bytes(4) in company.reach(ANN)
    assert company.may_meet(ANN, BOB)
    assert company.budget(ANN) == Budget(64_000, 50)


def test_an_owner_is_printed_without_a_name() -> None:
    assert repr(ANN) == "Owner(user)"
    assert repr(Owner(CallId(bytes(16)), b"ann")) == "Owner(call)"


def test_nobody_in_particular_holds_what_the_open_policy_lets_be_had() -> None:
    company = OpenCompany(TurnConfig())
    holders = [company.charge(owner) for owner in (ANN, BOB)]
    assert holders == ["", ""]
    company.release("")
