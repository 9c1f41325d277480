"""All runs of the key agreement in a call, and the media keys that come out of them.

Several devices of one person may ring, each with a run of its own; the one that takes the call says so
(`CHOSEN`) and is the one we seal for. What arrives is tried with the keys of every finished run that fits the
KID, so that the first words of the chosen device are not lost while its message is under way. Must never live
here: sockets, clocks (`now` is an argument).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.client.agreement import (
    MAX_RUNS,
    RUN_ID_SIZE,
    AgreedKeys,
    Blob,
    Draw,
    Kind,
    Parties,
    Progress,
    Run,
    decode,
)
from relay.client.e2ee import OpenKey, SealKey
from relay.errors import ErrorCode, PeerError
from relay.protocol.media import kid_of

OLD_KEY_S: Final = 10.0  # an epoch's key opens late packets this long after the next one is agreed
_MAX_EPOCH: Final = 255
_NOBODY: Final = bytes(RUN_ID_SIZE)


@dataclass(slots=True)
class _Entry:
    run: Run
    opener: OpenKey | None = None
    expires_at: float | None = None


class KeyRing:
    """The keys of one 1:1 call. `peer` arguments are participant indexes."""

    def __init__(self, call: bytes, own_index: int, identity: Ed25519PrivateKey, draw: Draw) -> None:
        self._call = call
        self._own = own_index
        self._identity = identity
        self._draw = draw
        self._id = draw(RUN_ID_SIZE)
        self._entries: dict[tuple[int, bytes, int], _Entry] = {}
        self._runs_begun: dict[int, int] = {}
        self._sealer: SealKey | None = None
        self._sealing_for: Run | None = None

    # ------------------------------------------------------------ agreement

    def meet(self, peer: int) -> list[bytes]:
        """Somebody is there (again): what to send to them first. The committer waits for their hello."""
        if Parties(self._call, self._own, peer).is_committer:
            return []
        return [Blob(Kind.HELLO, 0, self._id, _NOBODY, b"").encode()]

    def on_blob(self, peer: int, raw: bytes) -> list[bytes]:
        """Take an agreement message from `peer`, return the answers. PeerError: a proven lie, or garbage."""
        blob = decode(raw)
        if blob.target not in (self._id, _NOBODY):
            return []  # meant for another device of ours
        key = (peer, blob.sender, blob.epoch)
        entry = self._entries.get(key)
        if entry is None:
            run = self._begin(peer, blob)
            if run is None:
                return []
            entry = self._entries[key] = _Entry(run)
            if run.parties.is_committer:
                return run.start()
        answers = entry.run.on_blob(blob)
        self._refresh(entry)
        return answers

    def rekey(self, peer: int) -> list[bytes]:
        """Begin the next epoch with the device we talk to. Empty if there is nothing to build on."""
        current = self.best(peer)
        if current is None or current.keys is None or current.epoch >= _MAX_EPOCH:
            return []
        epoch = current.epoch + 1
        if not current.parties.is_committer:
            return [Blob(Kind.HELLO, epoch, self._id, current.peer_id, b"").encode()]
        run = self._new_run(peer, current.peer_id, epoch, current.keys)
        self._entries[peer, current.peer_id, epoch] = _Entry(run)
        return run.start()

    def choose(self, peer: int) -> list[bytes]:
        """This device takes the call: say so to every device of the peer that finished a run with us."""
        return [blob for entry in self._of(peer) for blob in entry.run.choose()]

    def best(self, peer: int) -> Run | None:
        """The run we seal for: the newest epoch with the device that took the call.

        None while several devices ring and none has: sealing for the wrong one would be lost words.
        """
        newest: dict[bytes, Run] = {}
        chosen: list[bytes] = []
        for entry in self._of(peer):
            run = entry.run
            if run.progress is Progress.DONE:
                newest[run.peer_id] = run
                if run.chosen:
                    chosen.append(run.peer_id)
        if chosen:
            return newest[chosen[-1]]
        return next(iter(newest.values())) if len(newest) == 1 else None

    def has_failed(self, peer: int) -> bool:
        """True if a run ended in a lie and none succeeded."""
        failed = any(entry.run.progress is Progress.FAILED for entry in self._of(peer))
        return failed and self.best(peer) is None

    def keys(self, peer: int) -> AgreedKeys | None:
        """The agreed keys in use with `peer`."""
        best = self.best(peer)
        return best.keys if best else None

    def path_secret(self, peer: int, epoch: int | None = None) -> tuple[int, bytes] | None:
        """(epoch, secret of the direct path) with the device we talk to: of that epoch, or the newest."""
        best = self.best(peer)
        if best is None:
            return None
        wanted = best.epoch if epoch is None else epoch
        entry = self._entries.get((peer, best.peer_id, wanted))
        keys = entry.run.keys if entry is not None and entry.run.progress is Progress.DONE else None
        return None if keys is None else (wanted, keys.path)

    def base_keys(self) -> list[bytes]:
        """Every base key known here, both directions. For tests that look for them where they must not be."""
        agreed = [entry.run.keys for entry in self._entries.values() if entry.run.keys]
        return [key for keys in agreed for key in (keys.send_base_key, keys.receive_base_key)]

    # ------------------------------------------------------------ media keys

    def sealer(self, peer: int) -> SealKey | None:
        """The key that seals what we say to `peer`, or None before the agreement is done."""
        run = self.best(peer)
        if run is None or run.keys is None:
            return None
        if run is not self._sealing_for or self._sealer is None:
            kid = kid_of(self._own, run.epoch, group=False)
            before = self._sealer
            first = before.next_ctr if before and before.kid == kid else 0
            self._sealer = SealKey(run.keys.suite, run.keys.send_base_key, kid, first)
            self._sealing_for = run
        return self._sealer

    def open(self, peer: int, kid: int, ctr: int, aad: bytes, ciphertext: bytes, now: float) -> bytes | None:
        """Plaintext; None for a replay. PeerError NOT_IN_CALL: no key fits; BAD_ENCODING: none opens it."""
        self._expire(now)
        tried = False
        for entry in reversed(self._of(peer)):
            if entry.opener is None or entry.opener.kid != kid:
                continue
            tried = True
            try:
                plaintext = entry.opener.open(ctr, aad, ciphertext)
            except PeerError:
                continue
            if plaintext is not None:
                self._retire(entry, now)
            return plaintext
        if tried:
            raise PeerError(ErrorCode.BAD_ENCODING, "media does not open", fatal=False)
        raise PeerError(ErrorCode.NOT_IN_CALL, "no key for this sender and epoch", fatal=False)

    # ------------------------------------------------------------ inside

    def _of(self, peer: int) -> list[_Entry]:
        return [entry for (who, _, _), entry in self._entries.items() if who == peer]

    def _begin(self, peer: int, blob: Blob) -> Run | None:
        """A run opens with a hello (we commit) or a commit (we offer); anything else has lost its run."""
        is_committer = Parties(self._call, self._own, peer).is_committer
        if blob.kind is not (Kind.HELLO if is_committer else Kind.COMMIT):
            return None
        if blob.epoch:
            before = self._entries.get((peer, blob.sender, blob.epoch - 1))
            if before is None or before.run.progress is not Progress.DONE:
                return None
            return self._new_run(peer, blob.sender, blob.epoch, before.run.keys)
        begun = self._runs_begun.get(peer, 0)
        if begun >= MAX_RUNS:
            raise PeerError(ErrorCode.RATE_LIMITED, "too many key agreements in one call", fatal=False)
        self._runs_begun[peer] = begun + 1
        return self._new_run(peer, blob.sender, 0, None)

    def _new_run(self, peer: int, peer_id: bytes, epoch: int, previous: AgreedKeys | None) -> Run:
        parties = Parties(self._call, self._own, peer)
        return Run(
            parties,
            self._identity,
            self._draw,
            own_id=self._id,
            peer_id=peer_id,
            epoch=epoch,
            previous=previous,
        )

    @staticmethod
    def _refresh(entry: _Entry) -> None:
        """A side that holds the keys may hear media before the last confirmation: it opens only when DONE."""
        run = entry.run
        if entry.opener is None and run.progress is Progress.DONE and run.keys is not None:
            kid = kid_of(run.parties.peer_index, run.epoch, group=False)
            entry.opener = OpenKey(run.keys.suite, run.keys.receive_base_key, kid)

    def _retire(self, heard: _Entry, now: float) -> None:
        """The peer speaks in this epoch: the keys of earlier ones with the same device begin to expire."""
        for entry in self._of(heard.run.parties.peer_index):
            older = entry.run.peer_id == heard.run.peer_id and entry.run.epoch < heard.run.epoch
            if older and entry.expires_at is None:
                entry.expires_at = now + OLD_KEY_S

    def _expire(self, now: float) -> None:
        gone = [key for key, entry in self._entries.items() if entry.expires_at and entry.expires_at <= now]
        for key in gone:
            del self._entries[key]
