"""Geometry: the sizes that tables and pool agree on, from flags and from the memory there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sglcore.config import EngineConfig
from sglcore.engine import memory_plan
from sglcore.engine.model_files import context_length
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from sglcore.contracts.platforms import MeasuredPlatform
    from sglcore.engine.build import Loaded
    from sglcore.engine.memory_plan import MemoryPlan
    from sglcore.runner.runner import ModelRunner

log = logging.getLogger("sglcore.engine")

# Share of the memory free after loading that the KV pool takes where nothing is measured and no flag says otherwise.
POOL_SHARE = 0.5


@dataclass(frozen=True)
class Geometry:
    """graphs: numbers of rows whose decoding is captured."""

    rows: int
    context: int
    page_size: int
    pages: int
    graphs: tuple[int, ...] = ()
    memory: MemoryPlan | None = None

    @property
    def pages_per_row(self) -> int:
        return -(-self.context // self.page_size) + 1


MakeRunner = Callable[["Loaded", Geometry], "ModelRunner"]


def chunk_size(loaded: Loaded, config: EngineConfig) -> int:
    """Prompt tokens of a step."""
    chunk = config.chunked_prefill_size or loaded.decision.platform.chunked_prefill_size
    return chunk if chunk > 0 else 2**31 - 1


def geometry(loaded: Loaded, config: EngineConfig, make_runner: MakeRunner) -> Geometry:
    """Rows, context and pages. Raises ConfigError where the pool does not fit."""
    rows = config.max_running_requests or loaded.decision.platform.max_running_requests
    context = context_length(loaded.hf, config)
    empty = Geometry(rows, context, loaded.decision.demand.page_size, 0, graph_sizes(loaded, config, rows))
    per_token = sum(g.bytes_per_token(loaded.kv_dtype.itemsize) for g in loaded.groups)
    plan = _measured(loaded, config, empty, make_runner)
    if plan is not None:
        free, room = plan.kv, plan.kv // per_token
        log.info("Memory of the device:\n%s", "\n".join(plan.lines()))
    else:
        free = loaded.platform.free_memory()
        if loaded.group is not None:  # the tables of all ranks must be of one size
            free = loaded.launcher.launch(lambda: loaded.group.least(free)).wait()  # type: ignore[union-attr]
        room = int(free * (config.mem_fraction_static or POOL_SHARE)) // per_token
    tokens = config.max_total_tokens or min(room, rows * context)
    if tokens * per_token > free:
        raise ConfigError(
            f"{tokens} tokens of KV cache need {tokens * per_token / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free.",
            remedy="Lower --max-total-tokens.",
        )
    if loaded.kv_dtype.itemsize == 1:
        kept = "Keys and values are kept in %s: by the scales of the checkpoint where it holds some, else by 1.0"
        log.warning(kept, loaded.decision.kv_dtype)
    pages = tokens // empty.page_size
    if pages < 2:
        raise ConfigError(
            f"The KV pool would hold {tokens} tokens ({per_token} bytes each, {free / 2**20:.0f} MiB free).",
            remedy="Free memory, or set --max-total-tokens to at least two pages.",
        )
    return Geometry(rows, context, empty.page_size, pages, empty.graphs, plan)


def graph_sizes(loaded: Loaded, config: EngineConfig, rows: int) -> tuple[int, ...]:
    """Numbers of rows to capture; none where a flag or what was chosen does not allow it."""
    from sglcore.runner.graphs import sizes_up_to

    chosen = loaded.decision
    model = getattr(loaded.model, "graph_safe", chosen.model.graph_safe)  # one for any architecture learns it at load
    able = chosen.platform.graph and model and chosen.decoding.graph_safe and loaded.ops.graph_safe
    if config.disable_cuda_graph or not able or loaded.group is not None:
        return ()
    return tuple(sizes_up_to(min(rows, config.cuda_graph_max_bs or 512), config.cuda_graph_bs))


def _measured(loaded: Loaded, config: EngineConfig, empty: Geometry, make_runner: MakeRunner) -> MemoryPlan | None:
    """None where the platform has no memory of its own, or ranks would have to agree on what they measured."""
    if not hasattr(loaded.platform, "memory") or loaded.group is not None:
        return None
    platform = cast("MeasuredPlatform", loaded.platform)
    chunk, size = min(chunk_size(loaded, config), empty.rows * (empty.context - 1)), empty.page_size
    pages = memory_plan.pages_to_measure(empty.rows, chunk, size)
    runner = make_runner(loaded, Geometry(empty.rows, empty.context, size, pages))
    needed = memory_plan.measure(platform, runner, chunk, empty.context, size, len(empty.graphs))
    del runner  # what the libraries took meanwhile is counted now
    return memory_plan.plan(platform.memory(), *needed, config.mem_fraction_static)
