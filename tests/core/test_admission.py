import dataclasses

import pytest

from pair import ADULT, CHILD, CLUSTER, ISSUER, KEY, KID, PUBLIC, WALL, World
from relay.config import Config, IssuerConfig, LimitsConfig, TokenConfig
from relay.core import admission
from relay.core.admission import Admission, Budget, Proof
from relay.core.tenants import Tenants
from relay.errors import ErrorCode, PeerError
from relay.protocol import signed, token
from relay.protocol.ids import Kid, PersonId
from tenancy import BERT, KIDS

NONCE = bytes(32)
IDS = World().call()
QUIC = Proof("quic")


def judge(entries: int = 100) -> Admission:
    tokens = TokenConfig(replay_entries=entries)
    return Admission(CLUSTER, tokens, {KID: PUBLIC}, Tenants(Config(tokens=tokens)))


def refusal(one: Admission, raw: bytes, proof: Proof = QUIC, wall: float = WALL) -> ErrorCode:
    with pytest.raises(PeerError) as caught:
        one.judge(raw, proof, 0.0, wall)
    return caught.value.code


def proven(claims: token.Claims) -> Proof:
    return Proof("quic", NONCE, token.pop_sign(KEY, NONCE, claims.sub, claims.cid))


def test_a_good_token_is_admitted_by_the_key_that_signed_it():
    claims = IDS.claims()
    verdict = judge().judge(token.mint(claims, ISSUER), QUIC, 0.0, WALL)
    assert verdict == (claims, KID)


NOW = int(WALL)
FAULTS = [
    ({"aud": "elsewhere"}, ErrorCode.TOKEN_AUDIENCE),
    ({"exp": NOW - 30, "iat": NOW - 100, "nbf": NOW - 100}, ErrorCode.TOKEN_EXPIRED),
    ({"exp": NOW + 301}, ErrorCode.TOKEN_INVALID),
    ({"exp": NOW, "iat": NOW}, ErrorCode.TOKEN_INVALID),
    ({"iat": NOW + 31, "exp": NOW + 60}, ErrorCode.TOKEN_INVALID),
    ({"nbf": NOW + 31}, ErrorCode.TOKEN_INVALID),
    ({"key": True}, ErrorCode.POP_FAILED),
    ({"age": CHILD}, ErrorCode.FORBIDDEN),
]


@pytest.mark.parametrize(("changes", "code"), FAULTS, ids=lambda value: str(value)[:40])
def test_each_claim_wrong_once_has_its_code_and_does_not_spend_the_token(changes, code):
    one = judge()
    assert refusal(one, IDS.token(**changes)) is code
    assert len(one.spent) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 29, "iat": NOW - 100, "nbf": NOW - 100},
        {"exp": NOW + 300},
        {"iat": NOW + 30, "nbf": NOW + 30},
    ],
)
def test_clocks_may_differ_by_30_seconds_and_tokens_live_5_minutes(changes):
    judge().judge(IDS.token(**changes), QUIC, 0.0, WALL)


def test_of_two_faults_the_earlier_check_speaks():
    """aud before times, times before revocation, revocation before pop, pop before jti, jti before age."""
    one = judge()
    expired = {"exp": NOW - 60, "iat": NOW - 100}
    assert refusal(one, IDS.token(aud="x", **expired)) is ErrorCode.TOKEN_AUDIENCE
    person = PersonId(bytes(16))
    one.revoke(KID, jti=None, person=person, kid=None, now=0.0, wall=WALL)
    assert refusal(one, IDS.token(ru=person, **expired)) is ErrorCode.TOKEN_EXPIRED
    assert refusal(one, IDS.token(ru=person, key=True)) is ErrorCode.FORBIDDEN
    used = IDS.claims()
    one.judge(token.mint(used, ISSUER), QUIC, 0.0, WALL)
    assert refusal(one, IDS.token(jti=used.jti, key=True)) is ErrorCode.POP_FAILED
    assert refusal(one, IDS.token(jti=used.jti, age=CHILD)) is ErrorCode.TOKEN_REPLAYED
    assert refusal(one, IDS.token(age=CHILD), Proof("ws")) is ErrorCode.FORBIDDEN
    assert refusal(one, b"V2" + IDS.token(aud="x")[2:]) is ErrorCode.TOKEN_INVALID


def test_a_token_is_used_once_and_again_only_with_its_key():
    one = judge()
    raw = IDS.token()
    one.judge(raw, QUIC, 0.0, WALL)
    assert refusal(one, raw) is ErrorCode.TOKEN_REPLAYED
    claims = IDS.claims(key=True)
    bound = token.mint(claims, ISSUER)
    one.judge(bound, proven(claims), 0.0, WALL)
    one.judge(bound, proven(claims), 0.0, WALL)
    assert refusal(one, bound) is ErrorCode.POP_FAILED


def test_a_token_that_is_not_ours_to_spend_is_judged_and_stays_unused():
    one, raw = judge(), IDS.token(home="fra-1")
    for _ in range(2):
        one.judge(raw, QUIC, 0.0, WALL, is_ours=lambda claims: claims.home != "fra-1")
    assert len(one.spent) == 0
    assert refusal(one, raw[:-1] + bytes(1)) is ErrorCode.TOKEN_INVALID
    one.judge(raw, QUIC, 0.0, WALL)
    assert refusal(one, raw) is ErrorCode.TOKEN_REPLAYED


def test_a_spent_token_stays_spent_when_the_clock_jumps_either_way():
    one = judge()
    raw = IDS.token()
    one.judge(raw, QUIC, 0.0, WALL)
    one.judge(IDS.token(exp=NOW + 3700, iat=NOW + 3600, nbf=NOW + 3600), QUIC, 1.0, WALL + 3600)
    assert refusal(one, raw) is ErrorCode.TOKEN_REPLAYED
    with pytest.raises(PeerError):
        one.judge(raw, QUIC, 200.0, WALL)


def test_a_token_forgotten_after_its_end_stays_expired_when_the_clock_is_set_back():
    one = judge()
    raw = IDS.token(exp=NOW + 120)
    one.judge(raw, QUIC, 0.0, WALL)
    one.judge(IDS.token(exp=NOW + 250), QUIC, 156.0, WALL + 156)
    assert len(one.spent) == 1  # the first id is forgotten: its token has expired
    assert refusal(one, raw, wall=WALL + 116) is ErrorCode.TOKEN_EXPIRED
    one.judge(IDS.token(exp=NOW + 121), QUIC, 156.0, WALL + 116)  # others are not touched by that


def test_a_revoked_token_stays_out_when_the_clock_is_set_back():
    one = judge()
    claims = IDS.claims(exp=NOW + 300)
    one.revoke(KID, jti=claims.jti, person=None, kid=None, now=0.0, wall=WALL)
    with pytest.raises(PeerError):
        one.judge(IDS.token(exp=NOW + 130), QUIC, 500.0, WALL + 500)
    assert not one.revoked.of("").knows(claims.jti, 500.0, WALL + 500)
    assert refusal(one, token.mint(claims, ISSUER), wall=WALL + 200) is ErrorCode.TOKEN_EXPIRED


def test_a_full_replay_store_admits_nobody_new_and_heals_with_time():
    one = judge(entries=1)
    one.judge(IDS.token(), QUIC, 0.0, WALL)
    assert refusal(one, IDS.token()) is ErrorCode.OVERLOADED
    later = IDS.claims(iat=NOW + 151, nbf=NOW + 151, exp=NOW + 200)
    one.judge(token.mint(later, ISSUER), QUIC, 151.0, WALL + 151)


def test_a_proof_must_be_there_and_verify():
    claims = IDS.claims(key=True)
    good = proven(claims)
    assert admission.check_pop(claims, good)
    assert not admission.check_pop(IDS.claims(), QUIC)
    for bad in (
        Proof("quic", NONCE, None),
        Proof("quic", None, good.signature),
        Proof("quic", NONCE, bytes(64)),
    ):
        with pytest.raises(PeerError) as caught:
            admission.check_pop(claims, bad)
        assert caught.value.code is ErrorCode.POP_FAILED
    assert admission.check_pop(claims, Proof("quic", bound=claims.cnf))


def test_revoked_tokens_persons_and_keys_are_refused_until_pardoned():
    one = judge()
    claims = IDS.claims(ru=PersonId(b"p" * 16))
    marks = {"jti": claims.jti, "person": claims.ru, "kid": KID}
    codes = {"jti": ErrorCode.TOKEN_INVALID, "person": ErrorCode.FORBIDDEN, "kid": ErrorCode.TOKEN_INVALID}
    for name, value in marks.items():
        mark = {"jti": None, "person": None, "kid": None} | {name: value}
        one.revoke(KID, **mark, now=0.0, wall=WALL)
        assert refusal(one, token.mint(claims, ISSUER)) is codes[name]
        one.pardon(KID, **mark)
    one.judge(token.mint(claims, ISSUER), QUIC, 0.0, WALL)


def test_revocations_have_a_ceiling_and_say_so():
    one = judge()
    one.revoked.ceiling = 0
    with pytest.raises(PeerError) as caught:
        one.revoke(KID, jti=None, person=None, kid=Kid(bytes(8)), now=0.0, wall=WALL)
    assert caught.value.code is ErrorCode.OVERLOADED
    assert not one.revoked_keys


def test_tcp_legs_need_the_tokens_leave():
    one = judge()
    assert refusal(one, IDS.token(), Proof("ws")) is ErrorCode.TRANSPORT_DENIED
    assert refusal(one, IDS.token(), Proof("tls")) is ErrorCode.TRANSPORT_DENIED
    one.judge(IDS.token(net=token.NET_TCP_LEGS), Proof("ws"), 0.0, WALL)


def test_a_grant_is_cut_to_what_the_node_gives_anyone():
    limits = LimitsConfig(max_up_kbps=100, max_down_kbps=200, max_pps=50)
    assert admission.budget_of(IDS.claims(lim=(64, 64, 20, 2)), limits) == Budget(64_000, 64_000, 20)
    assert admission.budget_of(IDS.claims(lim=(10**6, 10**6, 10**6, 2)), limits) == Budget(
        100_000, 200_000, 50
    )


def test_a_reload_changes_issuers_and_times_and_forgets_nothing():
    one = judge()
    raw = IDS.token(age=ADULT)
    one.judge(raw, QUIC, 0.0, WALL)
    one.on_config(dataclasses.replace(TokenConfig(), replay_entries=7), {KID: PUBLIC})
    assert refusal(one, raw) is ErrorCode.TOKEN_REPLAYED
    assert one.spent.ceiling == 7
    one.on_config(TokenConfig(), {})
    assert refusal(one, IDS.token()) is ErrorCode.TOKEN_INVALID


def limited(**more) -> Admission:
    """One whose first issuer has these settings, and a second one that is apart."""
    rows = (
        IssuerConfig("a", PUBLIC.hex(), **more),
        IssuerConfig("b", signed.public_of(BERT).hex(), apart=True),
    )
    tokens = TokenConfig(rows)
    keys = {KID: PUBLIC, KIDS[BERT]: signed.public_of(BERT)}
    return Admission(CLUSTER, tokens, keys, Tenants(Config(tokens=tokens)))


def test_the_issuers_limits_come_last_and_count_newcomers_alone():
    one = limited(joins_per_s=1)
    one.judge(IDS.token(), QUIC, 0.0, WALL, is_new=True)
    late = IDS.token()
    with pytest.raises(PeerError) as caught:
        one.judge(late, QUIC, 0.0, WALL, is_new=True)
    assert (caught.value.code, len(one.spent)) == (ErrorCode.RATE_LIMITED, 1)
    assert refusal(one, IDS.token(age=CHILD)) is ErrorCode.FORBIDDEN
    one.judge(late, QUIC, 0.0, WALL)  # who is here already, with a newer token


def test_keys_are_revoked_and_pardoned_by_their_own_tenant_alone():
    one = limited()
    marks = {"jti": None, "person": None, "kid": KID}
    for change in (one.pardon, lambda by, **what: one.revoke(by, **what, now=0.0, wall=WALL)):
        with pytest.raises(PeerError) as caught:
            change(KIDS[BERT], **marks)
        assert caught.value.code is ErrorCode.FORBIDDEN
    one.revoke(KID, **marks, now=0.0, wall=WALL)
    assert refusal(one, IDS.token()) is ErrorCode.TOKEN_INVALID
