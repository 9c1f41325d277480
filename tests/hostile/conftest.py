"""A run that will ask for the fuzz campaign's result begins with it."""

from __future__ import annotations

import pytest

from hostile.campaign import CAMPAIGN

TEST = "test_no_decoder_is_surprised"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Everything that will run is known."""
    if not session.config.option.collectonly and any(item.name == TEST for item in session.items):
        CAMPAIGN.begin()


def pytest_sessionfinish() -> None:
    """Whether or not the test was reached."""
    CAMPAIGN.abandon()
