from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglcore.config import EngineConfig
from sglcore.contracts.policies import EvictionSpec, PolicySpec
from sglcore.engine.cache import CacheKeeper, cache_options, check_cache
from sglcore.errors import ConfigError, LedgerImbalance, PluginError
from sglcore.memory.eviction import FirstInFirstOut, LeastFrequentlyUsed
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable


class Newest:
    """An order that a plugin might bring."""

    def rank(self, run: object) -> int:
        return 0


class NoOrder:
    pass


SPECS = {
    "newest": EvictionSpec(name="newest", factory=f"{__name__}:Newest"),
    "broken": EvictionSpec(name="broken", factory=f"{__name__}:NoOrder"),
    "fcfs": PolicySpec(name="fcfs", factory=f"{__name__}:NoOrder"),
}


class Policies(dict):
    def spec(self, name: str) -> PolicySpec:
        return self[name]

    def entry(self, name: str) -> str:
        return f"policies {name} of a-plugin 1"


PLUGINS = SimpleNamespace(registry=lambda family: Policies(SPECS))


def config(**flags: object) -> EngineConfig:
    return EngineConfig(model_path="x", **flags)


def ledger(*, strict: bool = False) -> KVLedger:
    return KVLedger([GroupPages(8)], 1, RowTable(2, 8, 9, 1), strict=strict)


@pytest.mark.parametrize(
    ("name", "made"), [("lfu", LeastFrequentlyUsed), ("fifo", FirstInFirstOut), ("newest", Newest)]
)
def test_orders_by_name_and_of_plugins(name, made):
    flags = config(radix_eviction_policy=name)
    check_cache(flags, PLUGINS)
    assert type(cache_options(flags, PLUGINS, 1).order) is made


def test_what_is_no_order_is_refused_before_anything_starts():
    for name in ("oldest", "fcfs"):
        with pytest.raises(ConfigError, match="lru, lfu, fifo, priority"):
            check_cache(config(radix_eviction_policy=name), PLUGINS)
    with pytest.raises(ConfigError, match="radix-eviction-policy"):
        check_cache(config(schedule_policy="newest"), PLUGINS)
    with pytest.raises(ConfigError, match="kv-events-config"):
        check_cache(config(kv_events_config="[]"), PLUGINS)
    with pytest.raises(PluginError, match="a-plugin 1"):
        cache_options(config(radix_eviction_policy="broken"), PLUGINS, 1)


def test_events_are_kept_only_where_somebody_gets_them():
    wanted = '{"endpoint": "tcp://127.0.0.1:1"}'
    assert cache_options(config(kv_events_config=wanted), PLUGINS, 1).events is not None
    assert cache_options(config(kv_events_config=wanted, disable_radix_cache=True), PLUGINS, 1).events is None
    assert cache_options(config(), PLUGINS, 1).events is None


def test_the_books_are_checked_at_rest_but_not_at_every_rest(monkeypatch):
    books = ledger()
    keeper = CacheKeeper(books)
    checks: list[int] = []
    monkeypatch.setattr(books, "settle", lambda: checks.append(1))
    monkeypatch.setattr(keeper, "INTERVAL", 60.0)
    keeper.rest()
    assert not checks  # not before the interval is over
    monkeypatch.setattr(keeper, "INTERVAL", 0.0)
    keeper.rest()
    assert len(checks) == 1


def test_an_imbalance_at_rest_is_counted_or_raised(monkeypatch):
    monkeypatch.setattr(CacheKeeper, "INTERVAL", 0.0)
    for strict in (False, True):
        books = ledger(strict=strict)
        books.allocators[0].take(1)  # a page nobody has
        keeper = CacheKeeper(books)
        if strict:
            with pytest.raises(LedgerImbalance):
                keeper.rest()
        else:
            keeper.rest()
            assert (books.stats()["imbalances"], books.stats()["quarantined_pages"]) == (1, 1)
