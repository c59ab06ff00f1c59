"""The plan of a device's memory: from what the largest steps took, or refused with what is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglcore.batch import Batch
from sglcore.contracts.platforms import DeviceMemory
from sglcore.engine import memory_plan
from sglcore.engine.memory_plan import GIB, GRAPH_BYTES, MemoryPlan
from sglcore.errors import ConfigError

WEIGHTS = 16 * GIB


class Card:
    """A device on which a step takes 1 MiB a token, and 3 MiB more a row that samples with logprobs."""

    def __init__(self) -> None:
        self.top = WEIGHTS
        self.steps: list[Batch] = []
        self.rows = SimpleNamespace(size=8, pages=[None, None])

    def memory(self) -> DeviceMemory:
        return DeviceMemory(total=80 * GIB, free=62 * GIB, used=WEIGHTS, peak=self.top, reserved=17 * GIB)

    def reset_peak(self) -> None:
        self.top = WEIGHTS

    def synchronize(self) -> None:
        pass

    def forward(self, batch: Batch) -> None:
        self.steps.append(batch)
        extra = sum(entry.logprobs >= 0 for entry in batch.entered)
        self.top = max(self.top, WEIGHTS + (batch.num_tokens + 3 * extra) * 2**20)

    def sample(self, batch: Batch) -> Any:
        return SimpleNamespace(wait=lambda: None)


def test_the_largest_steps_are_measured() -> None:
    card: Any = Card()
    costly, graphs = memory_plan.measure(card, card, chunk=500, context=201, page_size=16, graphs=3)
    assert costly == 500 * 2**20  # the prompts: more than eight rows with logprobs
    assert graphs == 8 * 2**20 + 3 * GRAPH_BYTES
    assert [step.counts.tolist() for step in card.steps] == [[1] * 8, [1] * 8, [200, 200, 100]]
    pages = memory_plan.pages_to_measure(8, 500, 16)
    for step in card.steps:
        given = [page for entry in step.entered for page in entry.pages[0].tolist()]
        assert len(set(given)) == len(given) and max(given) < pages
        assert all(len(entry.pages) == 2 for entry in step.entered)
    card.reset_peak()
    card.steps.clear()
    assert memory_plan.measure(card, card, chunk=8, context=201, page_size=1, graphs=0) == (8 * 4 * 2**20, 0)


def test_what_is_left_is_the_pools() -> None:
    now = Card().memory()
    plan = memory_plan.plan(now, 3 * GIB, 1 * GIB, None)
    assert plan.other == 1 * GIB
    assert plan.kv == 80 * GIB - 1 * GIB - WEIGHTS - 4 * GIB - plan.slack
    assert plan.total == sum(
        getattr(plan, part) for part in ("other", "weights", "activations", "graphs", "slack", "kv")
    )
    assert [line.split()[0] for line in plan.lines()] == [
        "weights",
        "kv",
        "activations",
        "graphs",
        "other",
        "slack",
        "total",
    ]
    shared = memory_plan.plan(now, 3 * GIB, 1 * GIB, 0.5)
    assert shared.kv == 40 * GIB - WEIGHTS - 1 * GIB


def test_too_little_is_told_with_numbers_and_flags() -> None:
    with pytest.raises(ConfigError, match="missing before the first token of KV cache") as caught:
        memory_plan.plan(DeviceMemory(16 * GIB, 1 * GIB, 15 * GIB, 15 * GIB, 15 * GIB), 2 * GIB, 0, None)
    assert "1.2 GiB are missing" in str(caught.value) and "--chunked-prefill-size" in str(caught.value)
    assert isinstance(memory_plan.plan(DeviceMemory(16 * GIB, 16 * GIB, 0, 0, 0), 0, 0, None), MemoryPlan)
