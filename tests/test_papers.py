"""Certificates and keys that are no good: which are refused, when, whether the line names file and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicpair import certificate
from relay.config import Config, NodeConfig, TlsConfig
from relay.config_trunks import TrunkNode, TrunksConfig
from relay.errors import ConfigError
from relay.papers import ended, read_certificate, read_trunk_key
from relay.protocol import trunk_proof
from relay.protocol.keys import write_key
from relay.protocol.signed import public_of


def config(folder: Path, name: str, days: float) -> Config:
    return Config(tls=TlsConfig(*certificate(folder, name, days)))


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    chain, _ = certificate(tmp_path, "one")
    _, key = certificate(tmp_path, "two")
    with pytest.raises(ConfigError) as error:
        read_certificate(Config(tls=TlsConfig(chain, key)))
    assert error.value.key == "tls.key"
    assert str(error.value).startswith("tls.key: does not belong to tls.certificate (")


def test_which_of_two_files_cannot_be_read_is_named(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    bad = tmp_path / "bad.pem"
    for text in ("", "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=r"^tls\.certificate: holds none that can be read \(PEM"):
            read_certificate(Config(tls=TlsConfig(str(bad), key)))
        with pytest.raises(ConfigError, match=r"^tls\.key: cannot be used: "):
            read_certificate(Config(tls=TlsConfig(chain, str(bad))))


def test_one_that_has_ended_replaces_none_that_serves(tmp_path: Path) -> None:
    serving, _ = read_certificate(config(tmp_path, "good", 30))
    with pytest.raises(ConfigError, match=r"^tls\.certificate: ended at .* UTC \(renew it, then reload\)$"):
        read_certificate(config(tmp_path, "old", -2), serving)


def test_a_fresh_one_replaces_one_that_has_ended(tmp_path: Path) -> None:
    serving, _ = read_certificate(config(tmp_path, "old", -2))
    fresh, _ = read_certificate(config(tmp_path, "good", 30), serving)
    assert ended(serving) is not None
    assert ended(fresh) is None


def test_the_one_that_serves_may_end_and_other_settings_still_be_read(tmp_path: Path) -> None:
    papers = config(tmp_path, "old", -2)
    serving, _ = read_certificate(papers)
    again, _ = read_certificate(papers, serving)
    assert ended(again) is not None


# ---------------------------------------------------------------- the key for trunks


SEED = bytes(range(32))
PIN = trunk_proof.pin_of(public_of(SEED)).hex()


def with_trunks(folder: Path, *rows: TrunkNode, mode: int = 0o600) -> Config:
    path = folder / "trunk.key"
    path.write_text(write_key(SEED))
    path.chmod(mode)
    return Config(node=NodeConfig(id="fra-1"), trunks=TrunksConfig(str(path), rows))


def test_the_key_for_trunks_is_read_where_one_is_named(tmp_path: Path) -> None:
    iad = TrunkNode("iad-1", "192.0.2.1:443", ("ab" * 32,))
    fra = TrunkNode("fra-1", "192.0.2.2:443", ("cd" * 32, PIN))
    assert read_trunk_key(Config()) is None
    assert read_trunk_key(with_trunks(tmp_path, iad)) == SEED
    assert read_trunk_key(with_trunks(tmp_path, iad, fra, mode=0o640)) == SEED


def test_a_key_for_trunks_that_is_none_or_not_secret_is_refused(tmp_path: Path) -> None:
    config = with_trunks(tmp_path, mode=0o644)
    with pytest.raises(ConfigError, match=r"^trunks\.key: .*anybody on this machine may read it \(chmod 600"):
        read_trunk_key(config)
    Path(config.trunks.key).chmod(0o600)
    Path(config.trunks.key).write_text("none")
    with pytest.raises(ConfigError, match=r"^trunks\.key: "):
        read_trunk_key(config)
    Path(config.trunks.key).unlink()
    with pytest.raises(ConfigError, match=r"^trunks\.key: .*No such file.*relay nodes trunk-key --out FILE"):
        read_trunk_key(config)


def test_a_list_that_names_this_node_by_another_key_is_refused(tmp_path: Path) -> None:
    config = with_trunks(tmp_path, TrunkNode("fra-1", "192.0.2.2:443", ("cd" * 32,)))
    with pytest.raises(ConfigError, match=rf"^trunks\.nodes\[0\]\.pins: .*write {PIN}\)$"):
        read_trunk_key(config)
