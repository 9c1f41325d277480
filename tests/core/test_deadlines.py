from relay.core.deadlines import Deadlines


def test_the_nearest_deadline_comes_first_and_ties_keep_their_order():
    deadlines = Deadlines()
    deadlines.set("late", 3.0)
    deadlines.set("first", 1.0)
    deadlines.set("second", 1.0)
    assert deadlines.next() == 1.0
    assert [deadlines.pop(5.0) for _ in range(4)] == ["first", "second", "late", None]
    assert deadlines.next() is None


def test_nothing_pops_before_its_time():
    deadlines = Deadlines()
    deadlines.set("a", 2.0)
    assert deadlines.pop(1.999) is None
    assert deadlines.pop(2.0) == "a"


def test_setting_again_replaces_and_none_forgets():
    deadlines = Deadlines()
    deadlines.set("a", 1.0)
    deadlines.set("a", 5.0)
    deadlines.set("a", 5.0)
    deadlines.set("b", 2.0)
    deadlines.set("b", None)
    deadlines.set("never", None)
    assert len(deadlines) == 1
    assert deadlines.pop(4.0) is None
    assert deadlines.pop(5.0) == "a"


def test_a_key_that_moves_all_the_time_costs_no_memory():
    deadlines = Deadlines()
    for turn in range(10_000):
        deadlines.set("a", float(turn))
    assert len(deadlines._heap) < 200
    assert deadlines.next() == 9999.0
