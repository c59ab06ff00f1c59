"""What the flags say about the prefix cache, made into its parts."""

from __future__ import annotations

import time

from sglcore.config import EngineConfig
from sglcore.contracts.policies import EvictionOrder, EvictionSpec
from sglcore.engine.kv_publisher import KVPublisher, read_events_config
from sglcore.errors import ConfigError, PluginError
from sglcore.memory.events import KVEventLog
from sglcore.memory.eviction import ORDERS
from sglcore.memory.ledger import CacheOptions, KVLedger
from sglcore.plugins import Plugins


def check_cache(config: EngineConfig, plugins: Plugins) -> None:
    """Raises ConfigError or PluginError for flags of the cache that cannot be served; starts nothing."""
    read_events_config(config.kv_events_config)
    name = config.radix_eviction_policy
    if name not in ORDERS and not _is_order(name, plugins):
        raise ConfigError(
            f"--radix-eviction-policy {name!r} is no order of eviction.",
            remedy=f"Choose one of {', '.join(ORDERS)}, or a plugin's of family policies with an EvictionSpec.",
        )
    if _is_order(config.schedule_policy, plugins):
        raise ConfigError(
            f"--schedule-policy {config.schedule_policy!r} is an order of eviction, not of the waiting queue.",
            remedy="Give it to --radix-eviction-policy.",
        )


def _is_order(name: str, plugins: Plugins) -> bool:
    registry = plugins.registry("policies")
    return name in registry and isinstance(registry.spec(name), EvictionSpec)


def cache_options(config: EngineConfig, plugins: Plugins, page_size: int) -> CacheOptions:
    """The ledger's options. `check_cache` has passed."""
    keep = not config.disable_radix_cache
    wanted = keep and read_events_config(config.kv_events_config) is not None
    return CacheOptions(
        keep=keep,
        order=_order(config.radix_eviction_policy, plugins),
        tenant_share=config.radix_tenant_quota,
        events=KVEventLog(page_size) if wanted else None,
    )


def _order(name: str, plugins: Plugins) -> EvictionOrder:
    if name in ORDERS:
        return ORDERS[name]()
    registry = plugins.registry("policies")
    try:
        order: EvictionOrder = registry.spec(name).load()()
        order.rank  # noqa: B018
    except Exception as error:
        raise PluginError(
            f"{registry.entry(name)} failed while it was built: {type(error).__name__}: {error}",
            remedy="Choose another --radix-eviction-policy, or upgrade it.",
        ) from error
    return order


class CacheKeeper:
    """What is done for the cache beside the steps: events are sent, the books checked while the engine rests."""

    INTERVAL = 60.0  # seconds between two checks: each walks over all pages

    def __init__(self, ledger: KVLedger, config: EngineConfig | None = None) -> None:
        """Raises ConfigError where the event endpoints cannot be bound."""
        self._ledger = ledger
        self._checked = time.monotonic()
        events = read_events_config(config.kv_events_config) if config is not None else None
        self.publisher = KVPublisher(ledger.events, events) if events and ledger.events is not None else None

    @property
    def dropped(self) -> int:
        """Batches of events that found no room."""
        return self.publisher.dropped if self.publisher is not None else 0

    def publish(self) -> None:
        """Send what the cache has to tell."""
        if self.publisher is not None:
            self.publisher.publish()

    def rest(self) -> None:
        """Nothing runs or waits now. Raises LedgerImbalance under --strict-checks."""
        now = time.monotonic()
        if now - self._checked < self.INTERVAL:
            return
        self._ledger.settle()
        self._checked = time.monotonic()
        self.publish()

    def close(self) -> None:
        """End the sending. Idempotent."""
        if self.publisher is not None:
            self.publisher.close()
