"""An `ok` that would not be true yet waits, and what follows it on its leg; after a second it is none."""

from relay.core import events as ev
from relay.core.trunk_answers import Answers
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.messages import Ended, Err, Ok, Pong

OK = ev.SendStream(1, control.encode(Ok(), 7))
LONG = ev.SendStream(1, control.encode(Ok(), 70_000))
ENDED = ev.SendStream(1, control.encode(Ended(c=bytes(16), why="completed")))
CLOSE = ev.CloseLeg(1, ErrorCode.NO_ERROR)
OTHER = ev.SendStream(2, control.encode(Pong(t=1)))
KEYS = frozenset({3, 4})


def test_with_nothing_to_wait_for_all_passes():
    answers = Answers()
    assert answers.on_letters([OK, CLOSE, OTHER], frozenset(), 0.0) == (OK, CLOSE, OTHER)
    assert (len(answers), answers.next_deadline(), answers.due(set(), 9.0)) == (0, None, ())


def test_an_ok_waits_for_all_closings_with_what_follows_it_on_its_leg():
    answers = Answers()
    assert answers.on_letters([CLOSE, OK, ENDED, OTHER], KEYS, 10.0) == (CLOSE, OTHER)
    assert answers.on_letters([CLOSE], frozenset(), 10.1) == ()
    assert (len(answers), answers.next_deadline()) == (1, 11.0)
    assert answers.due({4, 9}, 10.9) == ()
    assert answers.due({9}, 10.9) == (OK, ENDED, CLOSE)
    assert answers.next_deadline() is None


def test_after_a_second_it_is_to_be_asked_again():
    answers = Answers()
    answers.on_letters([LONG, CLOSE], KEYS, 10.0)
    first, second = answers.due(KEYS, 11.0)
    assert isinstance(first, ev.SendStream)
    frame = control.decode(first.data[2:])
    assert isinstance(frame.body, Err)
    assert (frame.id, frame.body.code, frame.body.retry_ms) == (70_000, ErrorCode.INTERNAL, 1000)
    assert second == CLOSE
    assert len(answers) == 0


def test_a_leg_that_is_lost_hears_nothing_of_it():
    answers = Answers()
    answers.on_letters([OK], KEYS, 10.0)
    answers.on_lost(1)
    answers.on_lost(2)
    assert answers.due(set(), 20.0) == ()
