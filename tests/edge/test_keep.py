"""What outlives a crash: records whole or the ones before, places given once, marks noted in time."""

from __future__ import annotations

import os
import random

import pytest

from lanes import LANES, make_lane
from relay.edge.cells import Cells
from relay.edge.keep import FIRST, LEG_BYTES, Keep
from relay.edge.marks import BLOCK, STEP
from relay.quic.space import Lent, PathState

CALL = bytes(range(16))


def file(size: int) -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd


def lent(port: int = 1) -> Lent:
    keys = bytes(16), bytes(12), bytes(16)
    return Lent(
        0, 0, keys, keys, (bytes(16), bytes(12)), b"", b"h" * 8, b"p" * 8, ("::1", port), 0, (3, 0.025)
    )


@pytest.fixture
def fd() -> int:
    return file(Cells.room(8, 100))


def test_a_record_is_what_was_written_last(fd: int) -> None:
    cells = Cells(fd, 0, 8, 100)
    for data in (b"one", b"two", b"", b"four"):
        cells.write(3, data)
        assert Cells(fd, 0, 8, 100).read(3) == data
    assert list(Cells(fd, 0, 8, 100).all()) == [(3, b"four")]


def test_a_write_cut_short_at_any_byte_leaves_the_record_before(fd: int) -> None:
    cells = Cells(fd, 0, 8, 100)
    cells.write(0, b"before")
    before = os.pread(fd, 4096, 0)
    cells.write(0, b"the record after")
    after = os.pread(fd, 4096, 0)
    changed = [at for at in range(4096) if before[at] != after[at]]
    for cut in range(len(changed)):
        torn = bytearray(before)
        for at in changed[:cut]:
            torn[at] = after[at]
        os.pwrite(fd, torn, 0)
        assert Cells(fd, 0, 8, 100).read(0) in (b"before", b"the record after")
    assert Cells(fd, 0, 8, 100).read(0) == b"before"


def test_a_file_of_noise_holds_nothing_and_raises_nothing(fd: int) -> None:
    rng = random.Random(7)
    for _ in range(50):
        os.pwrite(fd, rng.randbytes(os.fstat(fd).st_size), 0)
        assert list(Cells(fd, 0, 8, 100).all()) == []


def test_what_does_not_fit_is_refused(fd: int) -> None:
    cells = Cells(fd, 0, 8, 100)
    for number, data in ((0, bytes(101)), (8, b"x"), (-1, b"x")):
        with pytest.raises(ValueError, match="does not fit"):
            cells.write(number, data)


def test_holes_of_the_file_are_neither_read_nor_filled() -> None:
    keep = Keep.make(10_000, 5_000)
    place = keep.take(77)
    keep.lend(77, "quic", lent(), [b"h" * 8])
    keep.call(CALL, b"call")
    again = Keep.of(keep.fd)
    assert [record.leg for record, _, _ in again.legs()] == [77]
    assert list(again.calls()) == [(CALL, b"call")]
    assert again.place(77) == place
    assert os.fstat(keep.fd).st_blocks * 512 < 64 * 1024


def test_what_was_lent_comes_back_as_it_was() -> None:
    keep = Keep.make(8, 2)
    keep.take(1)
    keep.lend(1, "wt", lent(443), [b"a" * 8, b"b" * 8])
    keep.heard(1, 12.5)
    again = Keep.of(keep.fd)
    [(record, used, came)] = list(again.legs())
    assert (record.leg, record.transport, record.ids) == (1, "wt", [b"a" * 8, b"b" * 8])
    assert record.lent._replace(address=("::1", 443)) == lent(443)
    assert (used, came) == (0, 0)
    assert again.heard_at(1) == 12.5


@pytest.mark.parametrize("generation", [None, 0, 1])
def test_it_says_which_of_two_generations_wrote_it(generation: int | None) -> None:
    keep = Keep.make(8, 2)
    assert keep.generation is None
    keep.generation = generation
    keep.beat(2.5)
    again = Keep.of(keep.fd)
    assert (again.generation, again.beaten) == (generation, 2.5)


def test_a_place_is_given_again_only_when_its_leg_is_forgotten() -> None:
    keep = Keep.make(FIRST + 2, 1)
    assert keep.take(1) != keep.take(2)
    assert keep.take(1) == keep.place(1)
    assert keep.take(3) is None
    assert keep.full == 1
    keep.lend(3, "quic", lent(), [])  # without a place nothing is kept of it
    keep.forget(1)
    assert keep.take(3) is not None
    again = Keep.of(keep.fd)
    assert list(again.legs()) == []
    assert again.take(9) is not None


def test_a_call_that_is_over_makes_room_for_another() -> None:
    keep = Keep.make(4, 1)
    keep.call(CALL, b"one")
    keep.call(b"2" * 16, b"no room")
    assert keep.full == 1
    keep.call(CALL, b"")
    keep.call(b"2" * 16, b"two")
    keep.call(b"3" * 16, b"")  # nobody knew it
    assert list(Keep.of(keep.fd).calls()) == [(b"2" * 16, b"two")]


def test_a_leg_whose_record_is_too_large_is_not_kept_half() -> None:
    keep = Keep.make(4, 1)
    keep.take(1)
    keep.lend(1, "quic", lent(), [bytes(20)] * (LEG_BYTES // 20))
    assert keep.full == 1
    assert list(Keep.of(keep.fd).legs()) == []


def test_another_file_is_not_taken_for_one_of_ours() -> None:
    for fd in (file(0), file(4096), Keep.make(2, 1).fd):
        if os.fstat(fd).st_size > 4096:
            os.pwrite(fd, b"\xff", 0)
        with pytest.raises(ValueError, match="no file of ours"):
            Keep.of(fd)


def numbers(lane: str) -> tuple[Keep, PathState]:
    keep = Keep.make(8, 1)
    made = make_lane(lane)
    made.use_marks(keep.fd, keep.count)
    path = made.open_path(1)
    place = keep.take(1)
    assert place is not None
    path.keep(place)
    return keep, path


@pytest.mark.parametrize("lane", LANES)
def test_no_number_is_used_before_it_was_noted(lane: str) -> None:
    keep, path = numbers(lane)
    place = keep.place(1)
    assert place is not None
    rng = random.Random(3)
    highest = 0
    for _ in range(3_000):
        first = path.reserve(rng.randrange(1, 65))
        used, _ = keep.marks.read(place)
        highest = first + rng.randrange(1, 5)
        assert highest <= used <= highest + BLOCK + 65
        path.settle(highest)
    assert highest > BLOCK


@pytest.mark.parametrize("lane", LANES)
def test_what_came_is_noted_often_enough_for_a_number_of_one_byte(lane: str) -> None:
    keep, path = numbers(lane)
    place = keep.place(1)
    assert place is not None
    for number in range(1, 500):
        path.expected = number
    _, came = keep.marks.read(place)
    assert 0 <= 499 - came <= STEP


@pytest.mark.parametrize("lane", LANES)
def test_there_are_no_places_but_those_of_the_file(lane: str) -> None:
    keep, path = numbers(lane)
    with pytest.raises(ValueError, match="no such place"):
        path.keep(keep.count)
