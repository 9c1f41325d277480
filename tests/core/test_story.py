from relay.core.story import FIRST, MOST, Kind, Story


def test_lines_tell_seconds_since_the_call_began():
    story = Story(1000.0)
    story.add(1000.0, Kind.LEG, "quic")
    story.add(1002.5, Kind.ACCEPTED)
    assert story.lines() == ((0.0, "leg", "quic"), (2.5, "accepted", ""))


def test_what_is_told_late_stands_where_it_happened():
    story = Story(0.0)
    story.add(5.0, Kind.AWAY)
    story.add(3.0, Kind.HEARD, "1.0 s after the answer")
    assert [kind for _, kind, _ in story.lines()] == ["heard", "away"]


def test_a_long_story_keeps_its_beginning_and_its_end():
    story = Story(0.0)
    for second in range(MOST + 10):
        story.add(float(second), Kind.WAY, str(second))
    times = [int(at) for at, _, _ in story.lines()]
    assert len(times) == MOST
    assert times[:FIRST] == list(range(FIRST))
    assert times[-1] == MOST + 9
    assert story.left_out == 10
