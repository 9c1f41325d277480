"""Which store a configuration names.

Must never live here: what a store does.
"""

from __future__ import annotations

from relay.config_state import StateConfig
from relay.rollout.store import StateStore


async def open_store(config: StateConfig) -> StateStore:
    """The store, which need not be there yet. ConfigError: nats-py is not installed."""
    if config.backend == "nats":
        from relay.rollout.store_nats import NatsStore  # an extra

        return await NatsStore.connect(config.servers, credentials=config.credentials)
    from relay.rollout.store_sqlite import SqliteStore

    return SqliteStore(config.store)
