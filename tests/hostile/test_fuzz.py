"""Every decoder of foreign bytes, fuzzed: a value or an error of ours, whatever comes.

`RELAY_FUZZ_SECONDS` says for how long in all; `RELAY_FUZZ_SEED` makes another run.
"""

from __future__ import annotations

import json

import pytest

from hostile.campaign import CAMPAIGN, SECONDS

DECODERS = {
    "relay.protocol": "frames varint structure sframe media datagram control stream token claims token-text"
    " command order ticket ticket-body cid demux long-header",
    "relay.edge": "edge-front edge-packet edge-frames edge-media",
    "relay.core": "engine-frame engine-stream engine-datagram engine-command",
    "relay.client": "client-blob client-keyring client-hello client-frame client-sealed client-plain"
    " client-media client-link client-call client-url",
    "relay.config": "config config-assign key-file",
}


@pytest.mark.timeout(SECONDS + 60)
def test_no_decoder_is_surprised() -> None:
    status, printed, errors = CAMPAIGN.result()
    assert printed, errors
    result = json.loads(printed)
    found = {row["name"]: row["failures"] for row in result["targets"] if row["failures"]}
    assert found == {}
    assert (status, result["ok"]) == (0, True)
    executed = {row["name"]: row["executed"] for row in result["targets"]}
    wanted = {name for names in DECODERS.values() for name in names.split()}
    assert wanted <= set(executed)
    assert min(executed.values()) >= 50
