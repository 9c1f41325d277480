"""The files and sockets TURN needs, and how each that cannot be had is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from quicpair import certificate
from relay.config import Config, TlsConfig
from relay.config_turn import RelayAddress, TurnConfig
from relay.edge.turn_server import read_context, read_secrets
from relay.errors import ConfigError

OPEN = TurnConfig(enabled=True, policy="open", addresses=(RelayAddress(bind="127.0.0.3"),))


def config(folder: Path, *texts: str | bytes) -> Config:
    """Open policy, with these texts in the files of the secrets."""
    names = ("secret_file", "previous_secret_file")
    for name, text in zip(names, texts, strict=False):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    files = {name: str(folder / name) for name in names[: max(1, len(texts))]}
    return Config(turn=dataclasses.replace(OPEN, **files))


def test_secrets_are_read_newest_first_without_their_line_ends(tmp_path: Path) -> None:
    made = config(tmp_path, "new" * 6 + "\n", "old" * 6)
    assert read_secrets(made) == (b"new" * 6, b"old" * 6)


def test_none_is_read_in_strict_policy_or_while_turn_is_off(tmp_path: Path) -> None:
    made = config(tmp_path)
    for changes in ({"policy": "strict"}, {"enabled": False}):
        assert read_secrets(dataclasses.replace(made, turn=dataclasses.replace(made.turn, **changes))) == ()


@pytest.mark.parametrize("text", ["", "x" * 15, "x" * 16 + "\n" + "y" * 16, b"\xff" * 20])
def test_a_secret_that_is_none_is_named_with_its_cure(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        read_secrets(config(tmp_path, "x" * 16, text))
    assert (caught.value.key, bool(caught.value.cure)) == ("turn.previous_secret_file", True)


def test_a_secret_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file") as caught:
        read_secrets(config(tmp_path))
    assert caught.value.key == "turn.secret_file"


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    good, key = certificate(tmp_path)
    assert read_context(Config(tls=TlsConfig(good, key)))
    for pair in ((good, good), (str(tmp_path / "none"), key)):
        with pytest.raises(ConfigError) as caught:
            read_context(Config(tls=TlsConfig(*pair)))
        assert caught.value.key == "tls"
