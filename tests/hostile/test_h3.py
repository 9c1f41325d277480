"""Every hostile HTTP/3 row of the table, against the real node with either lane."""

from __future__ import annotations

import pytest
from aioquic.h3 import connection
from aioquic.h3.connection import H3Connection

from h3net import PAGE, WebClient, open_session
from hostile import table_h3 as table
from hostile.scenes import Stage
from lanes import LANES
from relay.errors import ErrorCode


@pytest.fixture(params=LANES)
def stage(request: pytest.FixtureRequest) -> Stage:
    made = Stage(lane=request.param)
    made.endpoint.origins = (PAGE,)
    return made


@pytest.mark.parametrize("row", table.REQUESTS, ids=lambda row: row.id)
def test_a_request_is_answered_by_its_status_and_only_a_session_is_a_leg(
    row: table.Request, stage: Stage
) -> None:
    client = WebClient(stage)
    stream = client.request(list(row.headers), end=row.end)
    assert client.statuses == {stream: row.status}
    assert client.closed is None
    assert sum(stage.node.engine.legs.values()) == (row.status == 200)
    stage.run(6.0)
    assert (len(stage.endpoint), sum(stage.node.engine.legs.values())) == (0, 0)


@pytest.mark.parametrize("row", table.BREAKS, ids=lambda row: row.id)
def test_http_against_the_rules_closes_the_connection_with_its_code(row: table.Break, stage: Stage) -> None:
    client = WebClient(stage)
    assert client.http is not None
    row.act(client, client.http)
    client.flush()
    stage.run(0.5)
    assert client.closed == row.code
    assert stage.endpoint.internal_errors == 0
    stage.run(6.0)
    assert (len(stage.endpoint), sum(stage.node.engine.legs.values())) == (0, 0)


def test_a_stream_of_no_session_is_refused_with_the_drafts_code(stage: Stage) -> None:
    client = WebClient(stage)
    client.quic.send_stream_data(0, b"\x40\x41\x04hello")
    client.flush()
    stage.run(0.5)
    assert stage.endpoint._by_leg[1].quic._streams[0].sender._reset_error_code == 0x3994BD84


def test_a_client_whose_http_takes_no_datagrams_is_told_so(stage: Stage) -> None:
    client = WebClient(stage, datagrams=False)
    assert client.ask() == 200
    stage.run(0.5)
    assert client.capsules[3:7] == ErrorCode.DATAGRAM_REQUIRED.to_bytes(4, "big")
    assert client.closed == 0x100


def test_a_request_waits_for_the_settings_that_it_overtook(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(H3Connection, "_get_local_settings", lambda self: {})
    monkeypatch.setattr(connection, "encode_frame", lambda kind, body: b"")
    client = WebClient(stage)
    monkeypatch.undo()
    assert client.ask() is None
    client.quic.send_stream_data(2, b"\x04\x02\x33\x01")
    client.flush()
    stage.run(0.1)
    assert client.statuses == {0: 200}


def test_nobody_is_the_leg_of_a_page_that_never_says_hello(stage: Stage) -> None:
    client = open_session(stage)
    stage.run(5.0)
    assert client.capsules[3:7] == ErrorCode.AUTH_REQUIRED.to_bytes(4, "big")
