"""Which of two generations we are, and whose the sockets of an address are."""

import socket
from pathlib import Path

import pytest

from relay.edge.generation import Places, Slot
from relay.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "handover.sock")


def test_a_place_is_held_by_one_and_free_when_it_is_given_back(path: str):
    even = Slot.take(path, 0)
    assert even is not None
    assert Slot.take(path, 0) is None
    assert even.is_alone
    odd = Slot.take(path, 1)
    assert odd is not None
    assert not even.is_alone
    odd.release()
    assert even.is_alone
    even.release()
    again = Slot.take(path, 0)
    assert again is not None
    again.release()


def test_a_folder_that_is_not_there_names_the_setting(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        Slot.take(str(tmp_path / "no" / "such"), 0)
    assert caught.value.key == "listen.handover_socket"


def sockets(count: int) -> list[socket.socket]:
    return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]


def test_sockets_come_in_pairs_and_each_generation_reads_its_own():
    group = sockets(4)
    even, odd, all_ours = Places([group], 0), Places([group], 1), Places([group])
    assert even.own == [group[::2]]
    assert odd.own == [group[1::2]]
    assert all_ours.own == [group]
    even.close()
    assert all(sock.fileno() == -1 for sock in group)


def test_an_odd_number_of_sockets_cannot_serve_two_generations():
    group = sockets(3)
    with pytest.raises(ConfigError):
        Places([group], 0)
    Places([group]).close()
