"""How long a socket rests that cannot be read."""

from __future__ import annotations

from relay.edge.rest import Rest


def test_a_rest_doubles_up_to_the_longest_and_is_short_again_once_a_read_worked() -> None:
    rest = Rest()
    assert [round(1000 * rest.failed()) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 100, 100]
    rest.worked()
    assert rest.failed() == 0.001
