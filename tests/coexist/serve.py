"""`relay serve` as it is, which on SIGUSR1 also tells what no metric does: losses that the relay believes in.

    python -c RUN LANE UPDATE_AFTER CONFIG      UPDATE_AFTER: packets under one key, 0: as shipped

`facts.json` beside the configuration: packets that the relay declared lost, in all and of each leg, those of
them that audio overtook between their number and their leaving, packets that it could not open, key updates
that it began, how late the machine let it run at worst.
Must never live here: changes of what the relay does, but for the limit of packets under one key, and that
nothing is repaired: each packet that is missing shall have its name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.recovery import QuicPacketRecovery

import relay.daemon
from relay.cli import main
from relay.edge.outbox import Outbox
from relay.edge.peer import Peer
from relay.quic.connection import RESERVED, RelayQuic

FACTS = "facts.json"
COUNTS: Counter[str] = Counter()
OVERTAKEN: defaultdict[int, set[int]] = defaultdict(set)  # packet numbers, by recovery
LOST: Counter[int] = Counter()  # but for those, by recovery
LOOK_S = 0.005
SENDING = threading.Event()
DAEMONS: list[relay.daemon.Daemon] = []


def watch_recovery() -> None:
    """Count packets declared lost (a congestion event) and packets sent again on a probe timeout.

    aioquic keeps packets that only acknowledge among them, which are not in flight (RFC 9002 section 2).
    What a client discards of them with a key phase is no loss; the clients do not count it either.
    """
    original = QuicPacketRecovery._on_packets_lost

    def on_packets_lost(self: QuicPacketRecovery, *, packets: Any, **rest: Any) -> None:
        taken = list(packets)
        is_loss = rest.get("congestion_event", True)
        if self.handshake_confirmed:
            numbers = {one.packet_number for one in taken if one.is_ack_eliciting}
            COUNTS["stack_lost" if is_loss else "stack_probed"] += len(numbers)
            if is_loss:
                COUNTS["stack_overtaken"] += len(numbers & OVERTAKEN[id(self)])
                LOST[id(self)] += len(numbers - OVERTAKEN[id(self)])
        original(self, packets=taken, **rest)

    QuicPacketRecovery._on_packets_lost = on_packets_lost


def watch_leaving() -> None:
    """Note packets that audio with higher numbers overtook between their number and their leaving.

    The lane's threads do not wait for the loop. A client that knows that we know of the higher numbers may
    never acknowledge what is below and came later (RFC 9000 section 13.2.4): it arrived, and counts as lost.
    """
    original = Outbox.transmit

    def transmit(self: Outbox, peer: Peer, now: float) -> None:
        SENDING.set()
        first = peer.quic._packet_number
        original(self, peer, now)
        following = peer.quic._packet_number
        numbers = range(following, following + RESERVED + 2)  # one of these is the next that audio gets
        if following > first and any(peer.quic.path.honest([(number, number + 1)]) for number in numbers):
            OVERTAKEN[id(peer.quic._loss)].update(range(first, following))

    Outbox.transmit = transmit


def watch_machine() -> None:
    """Note how late a thread of ours wakes up: whoever is not let run reads acknowledgements too late.

    The loop, however busy, lets a thread run after 5 ms (sys.getswitchinterval): more is the machine's.
    """

    def look() -> None:
        while True:
            due = time.monotonic() + LOOK_S
            time.sleep(LOOK_S)
            if SENDING.is_set():  # from the first packet on
                COUNTS["late_us"] = max(COUNTS["late_us"], round(1e6 * (time.monotonic() - due)))

    threading.Thread(target=look, daemon=True).start()


def watch_opening() -> None:
    """Count 1-RTT packets that aioquic was given and could not open with any key it had."""
    original = CryptoPair.decrypt_packet

    def decrypt_packet(self: CryptoPair, packet: bytes, offset: int, expected: int) -> Any:
        try:
            return original(self, packet, offset, expected)
        except CryptoError:
            if packet[0] < 0x80:
                COUNTS["stack_unopened"] += 1
            raise

    CryptoPair.decrypt_packet = decrypt_packet


def watch_updates(update_after: int) -> None:
    """Count key updates that the relay begins, after so many packets."""
    create, begin = RelayQuic.__init__, RelayQuic.update_keys

    def init(self: RelayQuic, **kwargs: Any) -> None:
        create(self, **kwargs)
        if update_after:
            self.path.update_after = update_after

    def update_keys(self: RelayQuic) -> None:
        COUNTS["key_updates"] += 1
        begin(self)

    RelayQuic.__init__ = init
    RelayQuic.update_keys = update_keys


def watch_daemon() -> None:
    """Keep hold of the daemon."""
    original = relay.daemon.Daemon.__init__

    def init(self: relay.daemon.Daemon, *args: Any, **kwargs: Any) -> None:
        DAEMONS.append(self)
        original(self, *args, **kwargs)

    relay.daemon.Daemon.__init__ = init


def write_facts(path: Path) -> None:
    """Whole or not at all: the reader waits for the name."""
    endpoint = DAEMONS[0].node.endpoint
    lost = endpoint.media_lost + sum(peer.quic.path.media_lost for peer in endpoint._by_leg.values())
    legs = {
        f"lost_of_leg_{leg}": LOST[id(peer.quic._loss)] + peer.quic.path.media_lost
        for leg, peer in endpoint._by_leg.items()
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**COUNTS, "media_lost": lost, **legs}))
    os.replace(new, path)


if __name__ == "__main__":
    lane, update_after, config = sys.argv[1:]
    watch_recovery()
    watch_leaving()
    watch_opening()
    watch_machine()
    watch_updates(int(update_after))
    watch_daemon()
    facts = Path(config).with_name(FACTS)
    signal.signal(signal.SIGUSR1, lambda *_: write_facts(facts))
    settings = ("--set", f'lane="{lane}"', "--set", "adapt.enabled=false")
    sys.exit(main(["serve", *settings, "--config", config]))
