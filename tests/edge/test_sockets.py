"""Sockets that a unit hands over, that were kept from before a restart, or that are made."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from relay.config import ListenConfig
from relay.edge import manager, tcp, udp
from relay.edge.manager import Handed
from relay.edge.sockets import KEPT_UDP, KEPT_WEB, METRICS, PUBLIC, Sockets
from relay.errors import ConfigError

SMALL: Any = {"receive_buffer": 65_536, "send_buffer": 65_536, "metrics": ""}


def at(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def test_what_a_socket_unit_hands_over_is_taken_and_nothing_is_made() -> None:
    (public,) = udp.bind("127.0.0.1:0", ListenConfig(**SMALL))
    web, metrics = tcp.bind("127.0.0.1:0", "web"), tcp.bind("127.0.0.1:0", "metrics")
    handed = Handed({PUBLIC: [public, web], METRICS: [metrics]})
    sockets = Sockets(handed, ListenConfig(udp=("127.0.0.1:0",), web=("127.0.0.1:0",), **SMALL))
    assert (sockets.udp, sockets.web) == ([public], [web])
    for _ in range(2):  # it can be let go of and taken again
        serves = sockets.open_metrics()
        assert serves is not None
        assert serves.getsockname() == metrics.getsockname()
        serves.close()
    assert sockets.are_handed
    assert sockets.are_fixed
    assert handed.close() == []
    for sock in (public, web, metrics):
        sock.close()


def test_the_address_of_metrics_is_bound_when_it_is_wanted_and_not_before() -> None:
    listen = ListenConfig(udp=("127.0.0.1:0",), **(SMALL | {"metrics": "127.0.0.1:0"}))
    sockets = Sockets(Handed(), listen)
    found = sockets.open_metrics()
    assert found is not None
    with tcp.bind("127.0.0.1:0", "metrics") as other:
        taken = Sockets(Handed(), dataclasses.replace(listen, metrics=at(other)))
        with pytest.raises(ConfigError, match=r"listen\.metrics"):
            taken.open_metrics()
    assert Sockets(Handed(), dataclasses.replace(listen, udp=(), metrics="")).open_metrics() is None
    for sock in (found, *sockets.udp, *taken.udp):
        sock.close()


def test_kept_sockets_are_served_on_with_the_packets_that_waited_in_them() -> None:
    before = Sockets(Handed(), ListenConfig(udp=("127.0.0.1:0",), web=("127.0.0.1:0",), **SMALL))
    [old], [web] = before.udp, before.web
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"meanwhile", old.getsockname())
    listen = ListenConfig(udp=(at(old),), web=(at(web),), **SMALL)
    after = Sockets(Handed({f"{KEPT_UDP}0": [old], KEPT_WEB: [web]}), listen)
    assert (after.udp, after.web, after.were_kept) == ([old], [web], 2)
    assert not after.are_handed
    assert old.recv(20) == b"meanwhile"
    old.close()
    web.close()


def test_the_generation_before_gives_all_of_its_sockets_and_what_was_kept_is_let_go() -> None:
    listen = ListenConfig(udp=("127.0.0.1:0",), web=("127.0.0.1:0",), lanes=2, **SMALL)
    old = Sockets(Handed(), listen, generations=2)
    assert (len(old.udp), old.are_fixed) == (4, True)
    (kept,) = Sockets(Handed(), ListenConfig(udp=("127.0.0.1:0",), **SMALL)).udp
    listen = dataclasses.replace(listen, udp=(at(kept),))
    before = {"udp": old.udp, "web": old.web}
    new = Sockets(Handed({f"{KEPT_UDP}0": [kept]}), listen, generations=2, before=before, may_make=False)
    assert (new.groups, new.web, new.were_kept, new.are_fixed) == (old.groups, old.web, 0, True)
    assert kept.fileno() == -1
    for sock in (*new.udp, *new.web):
        sock.close()


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_bound_beside_a_generation_that_gives_nothing(count: int) -> None:
    other = Sockets(Handed(), ListenConfig(udp=("127.0.0.1:0",), **SMALL), generations=2)
    listen = ListenConfig(udp=(at(other.udp[0]),), **SMALL)
    kept = {f"{KEPT_UDP}{position}": [sock] for position, sock in enumerate(other.udp)}
    with pytest.raises(ConfigError, match="does not answer"):
        Sockets(Handed(dict(list(kept.items())[:count])), listen, generations=2, may_make=False)
    again = Sockets(Handed(kept), listen, generations=2, may_make=False)
    assert again.udp == other.udp
    for sock in again.udp:
        sock.close()


def test_an_address_that_is_no_longer_wanted_is_let_go() -> None:
    (old,) = Sockets(Handed(), ListenConfig(udp=("127.0.0.1:0",), **SMALL)).udp
    after = Sockets(Handed({f"{KEPT_UDP}0": [old]}), ListenConfig(udp=("127.0.0.1:0",), **SMALL))
    assert old.fileno() == -1
    assert after.were_kept == 0
    after.udp[0].close()


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 2), (2, 1)])
def test_kept_sockets_follow_the_number_of_lanes(before: int, after: int) -> None:
    old = Sockets(Handed(), ListenConfig(udp=("127.0.0.1:0",), lanes=before, **SMALL)).udp
    listen = ListenConfig(udp=(at(old[0]),), lanes=after, **SMALL)
    kept = {f"{KEPT_UDP}{position}": [sock] for position, sock in enumerate(old)}
    sockets = Sockets(Handed(kept), listen)
    assert sockets.udp[:before] == old[:after]
    assert (len(sockets.udp), sockets.were_kept) == (after, min(before, after))
    assert len({at(sock) for sock in sockets.udp}) == 1
    for sock in {*sockets.udp, *old}:
        sock.close()


def test_only_what_we_made_is_given_to_the_manager_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    web = tcp.bind("127.0.0.1:0", "web")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        sockets = Sockets(Handed({PUBLIC: [web]}), ListenConfig(udp=("127.0.0.1:0",), **SMALL))
        sockets.keep()
        assert listener.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=kept-udp-0"
        data, descriptors, _, _ = socket.recv_fds(listener, 100, 4)
        assert data.startswith(b"FDSTORE=1\nFDNAME=kept-udp-0")
        assert os.path.sameopenfile(descriptors[0], sockets.udp[0].fileno())
        assert listener.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=kept-web"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(100)
        os.close(descriptors[0])
    for sock in (*sockets.udp, web):
        sock.close()


def test_kept_sockets_come_back_in_the_order_in_which_they_were_bound() -> None:
    listen = ListenConfig(udp=("127.0.0.1:0", "127.0.0.2:0"), lanes=12, **SMALL)
    old = Sockets(Handed(), listen).groups
    rows = list(enumerate(zip(*old, strict=True)))
    kept = {f"{KEPT_UDP}{position}": list(row) for position, row in reversed(rows)}
    after = Sockets(Handed(kept), dataclasses.replace(listen, udp=tuple(at(group[0]) for group in old)))
    assert after.groups == old
    for sock in after.udp:
        sock.close()


def test_what_is_kept_already_is_not_sent_again_and_what_goes_is_let_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Sockets(Handed(), ListenConfig(udp=("127.0.0.1:0",), lanes=3, **SMALL)).udp
    listen = ListenConfig(udp=(at(old[0]),), lanes=3, **SMALL)
    # The second was lost: the third is the second from now on.
    sockets = Sockets(Handed({f"{KEPT_UDP}0": old[:1], f"{KEPT_UDP}2": old[2:]}), listen)
    told: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(manager, "store", lambda name, fds: told.append((name, list(fds))))
    sockets.keep_udp()
    assert told[0] == (f"{KEPT_UDP}2", [])
    assert sorted(told[1:]) == [
        (f"{KEPT_UDP}1", [old[2].fileno()]),
        (f"{KEPT_UDP}2", [sockets.udp[2].fileno()]),
    ]
    told.clear()
    sockets.keep_udp()
    assert told == []
    every = sockets.udp
    sockets.groups = [every[:2]]
    sockets.keep_udp()
    assert told == [(f"{KEPT_UDP}2", [])]
    for sock in {*every, *old}:
        sock.close()
