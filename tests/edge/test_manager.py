"""Ready notes, watchdog and inherited sockets, against a real datagram socket and real descriptors."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from descriptors import none_left
from relay.edge import manager


@pytest.mark.parametrize("abstract", [False, True])
def test_a_note_arrives_at_the_manager(tmp_path: Path, abstract: bool) -> None:
    name = f"@relay-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        assert manager.notify("READY=1", "STATUS=here", environ={"NOTIFY_SOCKET": name})
        assert listener.recv(100) == b"READY=1\nSTATUS=here"


def test_a_note_arrives_where_no_descriptor_is_left(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(environ["NOTIFY_SOCKET"])
        assert manager.notify("READY=1", environ=environ)
        with none_left():
            with pytest.raises(OSError, match="Too many open files"):
                socket.socket()
            assert manager.notify("WATCHDOG=1", environ=environ)
        assert [listener.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]


def test_without_a_manager_nothing_is_sent() -> None:
    assert not manager.notify("READY=1", environ={})


def test_a_manager_that_went_away_is_no_error(tmp_path: Path) -> None:
    assert not manager.notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(environ: dict[str, str], interval: float | None) -> None:
    assert manager.watchdog_interval(environ) == interval


def test_inherited_sockets_come_by_name_and_the_variables_go(monkeypatch: pytest.MonkeyPatch) -> None:
    first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    second = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    lowest = 200
    for offset, sock in enumerate((first, second)):
        os.dup2(sock.fileno(), lowest + offset)
        sock.close()
    monkeypatch.setattr(manager, "FIRST_FD", lowest)
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "public:metrics"}
    found = manager.inherited(environ)
    assert environ == {}
    assert [sock.type for sock in found.sockets["public"]] == [socket.SOCK_DGRAM]
    assert [sock.type for sock in found.sockets["metrics"]] == [socket.SOCK_STREAM]
    assert not os.get_inheritable(found.sockets["public"][0].fileno())
    [public] = found.take("public")
    assert found.close() == ["metrics"]
    assert public.fileno() >= 0
    public.close()


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    assert manager.inherited({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == manager.Handed()


def test_what_is_no_socket_comes_back_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = os.memfd_create("state")
    os.write(memory, b"kept")
    lowest = 210
    os.dup2(memory, lowest)
    os.close(memory)
    monkeypatch.setattr(manager, "FIRST_FD", lowest)
    found = manager.inherited(
        {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "state-lane"}
    )
    [kept] = found.take_files("state-lane")
    assert os.pread(kept, 10, 0) == b"kept"
    assert found.close() == []
    os.close(kept)


def test_what_is_stored_goes_as_descriptors_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kept,
    ):
        listener.bind(path)
        assert manager.store("kept-udp", [kept.fileno()], environ={"NOTIFY_SOCKET": path})
        assert listener.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=kept-udp"
        data, descriptors, _, _ = socket.recv_fds(listener, 100, 4)
        assert data == b"FDSTORE=1\nFDNAME=kept-udp\nFDPOLL=0"
        [copy] = descriptors
        assert os.path.sameopenfile(copy, kept.fileno())
        os.close(copy)
        assert manager.store("kept-udp", [], environ={"NOTIFY_SOCKET": path})
        assert listener.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=kept-udp"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(100)


def test_nothing_is_stored_without_a_manager() -> None:
    assert not manager.store("kept-udp", [0], environ={})


def test_a_manager_that_does_not_read_never_holds_the_daemon_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(path)
        told = [manager.notify("STATUS=busy", environ={"NOTIFY_SOCKET": path}) for _ in range(2_000)]
    assert told[0]
    assert not told[-1]
