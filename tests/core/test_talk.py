import pytest

from pair import World
from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol import control, datagram

THREE = (512, 512, 500, 3)


@pytest.fixture
def world() -> World:
    return World()


def trio(world: World, **changes):
    ids = world.call()
    people = [world.client(ids.token(lim=THREE, **changes)).enter() for _ in range(3)]
    for one in people:
        one.accept()
    return people


def refused(answer) -> ErrorCode:
    assert answer.fatal is False
    return ErrorCode(answer.code)


def test_before_both_accepted_keys_pass_and_nothing_else(world):
    ann, bob = world.pair()
    assert isinstance(ann.e2e(k=0, b=b"offer"), control.Ok)
    assert bob.last(control.E2e) == control.E2e(c=bob.cid, k=0, b=b"offer", p=0)
    for k in (1, 2):
        assert refused(ann.e2e(k=k)) is ErrorCode.FORBIDDEN
    ann.accept()
    assert refused(ann.e2e(k=1)) is ErrorCode.FORBIDDEN
    bob.accept()
    for k in (1, 2):
        assert isinstance(ann.e2e(k=k), control.Ok)
    assert [message.k for message in bob.all(control.E2e)] == [0, 1, 2]


def test_keys_reach_every_ringing_device(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    phone = world.client(ids.token()).enter()
    tablet = world.client(ids.token(sub=phone.sub)).enter()
    ann.e2e(to=1)
    assert (len(phone.all(control.E2e)), len(tablet.all(control.E2e))) == (1, 1)


def test_a_caller_who_is_alone_speaks_to_nobody(world):
    ann = world.client(world.call().token()).enter()
    assert isinstance(ann.e2e(k=1), control.Ok)
    assert refused(ann.e2e(to=1)) is ErrorCode.NOT_IN_CALL
    assert refused(ann.e2e(to=0)) is ErrorCode.NOT_IN_CALL


def test_a_named_one_gets_it_alone_and_an_empty_seat_is_nobody(world):
    ann, bob, cid = trio(world)
    ann.e2e(k=1, to=2)
    assert (len(bob.all(control.E2e)), len(cid.all(control.E2e))) == (0, 1)
    bob.hangup()
    assert refused(ann.e2e(to=1)) is ErrorCode.NOT_IN_CALL


def test_strangers_send_each_other_no_attachment(world):
    ann, bob = world.talking(ctc=0)
    assert refused(ann.e2e(k=2)) is ErrorCode.FORBIDDEN
    assert isinstance(ann.e2e(k=1), control.Ok)
    assert bob.all(control.E2e)[-1].k == 1


def test_the_lower_contact_of_a_pair_counts(world):
    ids = world.call()
    ann, bob = world.client(ids.token(ctc=1)).enter(), world.client(ids.token(ctc=0)).enter()
    ann.accept()
    bob.accept()
    assert refused(ann.e2e(k=2)) is ErrorCode.FORBIDDEN


def test_a_strangers_blobs_share_64_kib_refilled_slowly(world):
    ann, bob = world.talking(ctc=0)
    for _ in range(8):
        assert isinstance(ann.e2e(b=bytes(8192)), control.Ok)
    answer = ann.e2e(b=bytes(256))
    assert (refused(answer), answer.retry_ms) == (ErrorCode.RATE_LIMITED, 1000)
    assert len(bob.all(control.E2e)) == 8
    world.run(1)
    assert isinstance(ann.e2e(b=bytes(256)), control.Ok)


def test_contacts_have_no_such_bucket(world):
    ann, _ = world.talking()
    for _ in range(20):
        assert isinstance(ann.e2e(b=bytes(8192)), control.Ok)


def test_without_the_permission_no_blob_passes(world):
    ann, bob = world.talking(prm=3)
    assert refused(ann.e2e()) is ErrorCode.FORBIDDEN
    assert not bob.all(control.E2e)


def test_a_blob_to_a_blocker_vanishes_without_a_word(world):
    ann, bob, cid = trio(world)
    bob.block(0)
    assert isinstance(ann.e2e(k=1), control.Ok)
    assert (len(bob.all(control.E2e)), len(cid.all(control.E2e))) == (0, 1)
    assert world.engine.counters["dropped", "blocked"] == 1


def entry(p: int, n: int = 90, lost: int = 10) -> control.RrEntry:
    return control.RrEntry(p=p, hi=n + lost, n=n, lost=lost, jit=50, plc=40)


def test_reception_reports_are_passed_on_and_kept_for_the_record(world):
    ann, bob = world.talking()
    report = control.Rr(c=ann.cid, s=(entry(1), entry(0), entry(7)))
    assert isinstance(ann.ask(report), control.Ok)
    assert bob.last(control.Rr) == report
    ann.hangup()
    first, second = world.records[0].participants
    assert first.quality == {"loss": 0.1, "jitter_ms": 5.0, "concealed_ms": 40.0, "late": 0.0}
    assert second.quality == {}


def test_reports_before_the_accept_reach_nobody(world):
    ann, bob = world.pair()
    ann.ask(control.Rr(c=ann.cid, s=(entry(1),)))
    assert not bob.all(control.Rr)


def test_of_reports_by_datagram_the_newest_wins(world):
    ann, bob = world.talking()
    for seq, n in ((5, 50), (4, 40), (5, 50), (6, 60)):
        body = control.Rr(c=ann.cid, s=(entry(1, n=n),))
        data = datagram.encode_datagram(datagram.NewestWins(control.Rr.TYPE, seq, body))
        world.feed(ev.DatagramReceived(ann.leg, data))
    assert [report.s[0].n for report in bob.all(control.Rr)] == [50, 60]


def test_stars_and_reports_become_events(world):
    ann, bob = world.talking()
    assert isinstance(ann.ask(control.Feedback(c=ann.cid, stars=4)), control.Ok)
    assert isinstance(ann.ask(control.Report(c=ann.cid, p=1, reason="abuse")), control.Ok)
    stars, report = world.events[-2:]
    call, sub = ann.cid.hex(), ann.sub.hex()
    assert (stars.kind, stars.data) == ("feedback", {"call": call, "sub": sub, "stars": 4})
    assert report.data == {"call": call, "sub": sub, "peer": bob.sub.hex(), "reason": "abuse"}


def test_stars_during_a_call_are_in_its_record_and_later_ones_are_told_apart(world):
    ann, bob = world.talking()
    assert isinstance(ann.ask(control.Feedback(c=ann.cid, stars=4)), control.Ok)
    ann.hangup()
    assert [one.quality.get("stars") for one in world.records[0].participants] == [4.0, None]
    assert not any(isinstance(output, ev.Rated) for output in world.outputs)
    assert isinstance(bob.ask(control.Feedback(c=bob.cid, stars=2)), control.Ok)
    assert ev.Rated(bob.cid.hex(), bob.sub.hex(), 2) in world.outputs


def test_a_report_of_nobody_is_refused_and_too_many_are_limited(world):
    ann, _ = world.talking()
    assert refused(ann.ask(control.Report(c=ann.cid, p=9, reason="x"))) is ErrorCode.NOT_IN_CALL
    answers = [ann.ask(control.Report(c=ann.cid, p=1, reason="x")) for _ in range(7)]
    assert refused(answers[-1]) is ErrorCode.RATE_LIMITED
    assert answers[-1].retry_ms == 10_000
    assert world.kinds().count("report") == 6


def test_a_report_just_after_the_call_still_finds_its_person(world):
    ann, bob = world.talking()
    bob.hangup()
    assert isinstance(ann.ask(control.Report(c=ann.cid, p=1, reason="abuse")), control.Ok)
    assert world.events[-1].data["peer"] == bob.sub.hex()
