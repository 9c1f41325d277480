import pytest

from pair import ADULT, CHILD, TEEN, UNKNOWN, World
from relay.config import DEFAULT_POLICY, PolicyRow
from relay.core.policy import OPEN, PolicyTable, Terms, contact_of, refuse_children
from relay.errors import ErrorCode, PeerError

TABLE = PolicyTable(DEFAULT_POLICY)
IDS = World().call()
AGES = {"unknown": UNKNOWN, "under_16": CHILD, "16_17": TEEN, "adult": ADULT}


def person(age: int, ctc: int):
    return IDS.claims(age=age, ctc=ctc)


@pytest.mark.parametrize("row", DEFAULT_POLICY, ids=lambda row: f"{row.age}-{row.contact}")
def test_each_row_of_the_table_decides_for_its_own(row):
    claims = person(AGES[row.age], 1 if row.contact == "contact" else 0)
    terms = TABLE.alone(claims)
    assert terms == Terms(row.allow, row.max_minutes, row.relay_only, row.attachments)
    if row.allow:
        assert TABLE.meet(claims, []) == terms
    else:
        with pytest.raises(PeerError) as caught:
            TABLE.meet(claims, [])
        assert caught.value.code is ErrorCode.FORBIDDEN


def test_of_a_pair_the_lower_contact_counts_for_both():
    terms = TABLE.pair(person(ADULT, 1), person(ADULT, 0))
    assert terms == Terms(allow=True, minutes=60, relay_only=True, attachments=False)
    assert TABLE.pair(person(ADULT, 1), person(ADULT, 1)) == Terms(True, 720, False, True)


def test_of_a_pair_the_stricter_row_wins_field_by_field():
    assert TABLE.pair(person(ADULT, 1), person(TEEN, 1)) == Terms(True, 240, True, True)
    assert not TABLE.pair(person(ADULT, 0), person(TEEN, 1)).allow


def test_a_newcomer_must_be_allowed_with_everybody_present():
    present = [person(ADULT, 1), person(TEEN, 1)]
    assert TABLE.meet(person(ADULT, 1), present).minutes == 240
    with pytest.raises(PeerError) as caught:
        TABLE.meet(person(ADULT, 0), present)
    assert caught.value.code is ErrorCode.FORBIDDEN


def test_no_table_can_admit_children_or_let_strangers_out_of_the_relay():
    lax = PolicyTable(
        [PolicyRow(age, ctc, True, 60, False, True) for age in AGES for ctc in ("stranger", "contact")]
    )
    assert not lax.alone(person(CHILD, 1)).allow
    stranger = lax.alone(person(ADULT, 0))
    assert stranger.relay_only
    assert not stranger.attachments


def test_people_under_16_are_refused_before_any_table():
    with pytest.raises(PeerError) as caught:
        refuse_children(person(CHILD, 1))
    assert caught.value.code is ErrorCode.FORBIDDEN
    refuse_children(person(TEEN, 0))


def test_terms_of_nobody_change_nothing():
    terms = Terms(True, 5, True, False)
    assert OPEN.and_also(terms) == terms.and_also(OPEN) == terms
    assert OPEN.and_also(OPEN).minutes is None


def test_only_an_accepted_contact_is_one():
    assert [contact_of(person(ADULT, ctc)) for ctc in (0, 1)] == [0, 1]
