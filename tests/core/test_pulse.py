from relay.core.pulse import LOOK_S, READY_S, RECONNECT_S, Pulse


def test_before_the_answer_nothing_is_decided_by_time():
    assert Pulse("phone").next_deadline() is None


def test_after_the_answer_the_beginning_is_settled_a_look_after_ten_seconds():
    pulse = Pulse("phone", answered_at=5.0)
    assert pulse.next_deadline() == 5.0 + READY_S + LOOK_S
    pulse.has_settled = True
    assert pulse.next_deadline() is None


def test_who_is_cut_off_has_ten_seconds_to_come_back():
    pulse = Pulse("phone", answered_at=5.0, has_settled=True, lost_at=50.0)
    assert pulse.next_deadline() == 50.0 + RECONNECT_S
    pulse.is_dropped = True
    assert pulse.next_deadline() is None


def test_a_call_is_ready_when_all_who_could_be_heard_were_in_time():
    pulse = Pulse("phone", answered_at=5.0, expected={0, 1}, first={0: 6.0})
    assert not pulse.is_ready()
    pulse.first[1] = 5.0 + READY_S + 0.1
    assert not pulse.is_ready()
    pulse.first[1] = 5.0 + READY_S
    assert pulse.is_ready()
    assert Pulse("phone", answered_at=5.0).is_ready()
