"""Certificates that are no good: which are refused, when, and whether the line names file and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicpair import certificate
from relay.config import Config, TlsConfig
from relay.errors import ConfigError
from relay.papers import ended, read_certificate


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
