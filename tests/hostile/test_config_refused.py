"""Every hostile configuration of the table: refused in one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import table_config as table
from relay.config import Config, load, parse, reloadable_changes
from relay.errors import ConfigError


@pytest.mark.parametrize("row", table.TEXTS, ids=lambda row: row.id)
def test_a_wrong_configuration_is_refused_by_key(row: table.Text) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(row.toml)
    assert caught.value.key == row.key
    assert row.says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", table.FILES, ids=lambda row: row.id)
def test_a_file_that_holds_no_configuration_is_refused_by_path(row: table.File, tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    if row.content is not None:
        path.write_bytes(row.content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.key == str(path)
    assert row.says in str(caught.value)


@pytest.mark.parametrize("row", table.RELOADS, ids=lambda row: row.id)
def test_what_running_calls_stand_on_does_not_change_under_them(row: table.Reload) -> None:
    with pytest.raises(ConfigError) as caught:
        reloadable_changes(Config(), parse(row.toml))
    assert caught.value.key == row.key
