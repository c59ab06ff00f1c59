"""Build an engine from a config: platform, checkpoint, model, pool, runner, scheduler."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglcore.config import EngineConfig
from sglcore.contracts.attention import AttentionBackend
from sglcore.contracts.execution import Launcher, StepExecutor
from sglcore.contracts.models import BuildContext, KVGroup, Model
from sglcore.contracts.platforms import Platform, PlatformSpec
from sglcore.contracts.weights import Checkpoint
from sglcore.engine.choose import (
    Decisions,
    check_attention,
    choose_attention,
    choose_model,
    choose_ops,
    choose_platform,
)
from sglcore.engine.engine import Engine
from sglcore.engine.model_files import context_length, eos_token_ids, model_config, open_checkpoint
from sglcore.engine.phases import Phases
from sglcore.errors import ConfigError
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable
from sglcore.plugins import Plugins
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.scheduler import Limits, Scheduler

if TYPE_CHECKING:
    import torch

DTYPES = {"half": "float16", "float": "float32"}
# Share of the memory free after loading that the KV pool takes when no flag says otherwise.
POOL_SHARE = 0.5


@dataclass
class Loaded:
    """A model with its weights, on its platform: what several engines could be built around."""

    model: Model
    groups: tuple[KVGroup, ...]
    attention: AttentionBackend
    platform: Platform
    launcher: Launcher
    platform_spec: PlatformSpec
    dtype: torch.dtype
    hf: dict[str, Any]
    eos_ids: tuple[int, ...]
    decisions: Decisions


@dataclass
class Built:
    """An engine ready to run, and what to tell about it."""

    engine: Engine
    info: dict[str, Any]


@dataclass(frozen=True)
class Geometry:
    """Sizes that tables and pool agree on."""

    rows: int
    context: int
    page_size: int
    pages: int

    @property
    def pages_per_row(self) -> int:
        return -(-self.context // self.page_size) + 1


def build_engine(config: EngineConfig, path: Path, plugins: Plugins, phases: Phases) -> Built:
    """Everything from files to an engine. Raises ConfigError or PluginError before any request is taken."""
    return assemble(load_model(config, path, plugins, phases), config, plugins, phases)


def load_model(config: EngineConfig, path: Path, plugins: Plugins, phases: Phases) -> Loaded:
    """Choose platform, model and attention, then read the weights."""
    decisions = Decisions()
    _check_names(config, plugins)
    with phases.phase("import torch"):
        importlib.import_module("torch")
    with phases.phase("open model"):
        checkpoint = open_checkpoint(path, config.load_format, plugins)
        hf = model_config(checkpoint, config)
        spec, platform = choose_platform(config, plugins, decisions)
        dtype = _dtype(config, hf, platform)
    # Everything that touches the device happens on its one thread, loading too: a thread pool made for the
    # loading thread would otherwise stand beside that of the steps and slow them down.
    launcher = platform.launcher()
    try:
        with phases.phase("build model"):
            model, groups, attention = launcher.launch(
                lambda: _build_model(config, path, hf, plugins, decisions, platform, dtype)
            ).wait()
        with phases.phase("load weights") as report:
            launcher.launch(lambda: _load_weights(model, checkpoint, config, report)).wait()
    except BaseException:
        launcher.close()
        raise
    eos_ids = eos_token_ids(checkpoint, hf)
    return Loaded(model, groups, attention, platform, launcher, spec, dtype, hf, eos_ids, decisions)


def _check_names(config: EngineConfig, plugins: Plugins) -> None:
    """Names that are needed late are looked up early, so that a typing error costs no loading."""
    plugins.registry("policies").entry(config.schedule_policy)
    if config.attention_backend:
        plugins.registry("attention").entry(config.attention_backend)
    if config.device != "auto":
        plugins.registry("platforms").entry(config.device)


def assemble(loaded: Loaded, config: EngineConfig, plugins: Plugins, phases: Phases) -> Built:
    """Pool, runner, scheduler and loop around a loaded model."""
    with phases.phase("allocate KV pool"):
        geometry = _geometry(loaded, config)
        runner = _runner(loaded, geometry)
        scheduler = _scheduler(loaded, config, geometry, plugins)
    plain = config.disable_overlap_schedule
    overlap = loaded.platform_spec.overlap if plain is None else not plain
    return Built(Engine(scheduler, runner, overlap=overlap), _info(loaded, geometry, overlap, phases))


def warm_up(engine: Engine) -> None:
    """Run a short prompt through the whole path, so that lazy set-up is not the first client's to wait for."""
    ledger = engine.scheduler.ledger
    room = min(engine.scheduler.rows.context, ledger.total * ledger.page_size)
    if room < 3:
        return
    prompt = pack_ids([0] * min(8, room - 2))
    sampling = SamplingParams(max_new_tokens=2, ignore_eos=True)
    engine.add(GenerateRequest(rid="warm-up", input_ids=prompt, sampling=sampling, namespace="warm-up"))
    while engine.has_work:
        engine.step()
    engine.flush_cache()


def _dtype(config: EngineConfig, hf: dict[str, Any], platform: Platform) -> torch.dtype:
    import torch

    if config.dtype != "auto":
        return getattr(torch, DTYPES.get(config.dtype, config.dtype))
    stored = str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch.")
    return platform.default_dtype(getattr(torch, stored, torch.float32))


def _build_model(
    config: EngineConfig,
    path: Path,
    hf: dict[str, Any],
    plugins: Plugins,
    decisions: Decisions,
    platform: Platform,
    dtype: torch.dtype,
) -> tuple[Model, tuple[KVGroup, ...], AttentionBackend]:
    spec = choose_model(hf, config, plugins, decisions)
    device, dtype_name = platform.device.type, str(dtype).removeprefix("torch.")
    chosen = choose_attention(config, plugins, decisions, device=device, dtype=dtype_name, needs=spec.needs)
    attention = plugins.registry("attention").factory(chosen.name)()
    context = BuildContext(
        config=hf,
        ops=choose_ops(platform, plugins, decisions, device=device, dtype=dtype_name),
        attention=attention,
        dtype=dtype,
        device=platform.device,
        directory=str(path) if path.is_dir() else None,
        trust_remote_code=config.trust_remote_code,
    )
    model = plugins.registry("models").factory(spec.name)(context)
    groups = model.kv_groups()
    check_attention(chosen, groups)
    return model, groups, attention


def _load_weights(model: Model, checkpoint: Checkpoint, config: EngineConfig, report: Callable[[float], None]) -> None:
    if config.load_format == "dummy":
        model.load_dummy(config.random_seed)
    else:
        model.load(_reported(checkpoint, report))


def _reported(checkpoint: Checkpoint, report: Callable[[float], None]) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors, telling how far the reading is (by tensors of the largest layer count known)."""
    expected = max(int(checkpoint.config.get("num_hidden_layers") or 0) * 9 + 3, 1)
    for index, (name, tensor) in enumerate(checkpoint.tensors()):
        if index % 16 == 0:
            report(min(index / expected, 0.99))
        yield name, tensor


def _geometry(loaded: Loaded, config: EngineConfig) -> Geometry:
    rows = config.max_running_requests or loaded.platform_spec.max_running_requests
    context = context_length(loaded.hf, config)
    per_token = sum(g.bytes_per_token(loaded.dtype.itemsize) for g in loaded.groups)
    free = loaded.platform.free_memory()
    room = int(free * (config.mem_fraction_static or POOL_SHARE)) // per_token
    tokens = config.max_total_tokens or min(room, rows * context)
    if tokens * per_token > free:
        raise ConfigError(
            f"{tokens} tokens of KV cache need {tokens * per_token / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free.",
            remedy="Lower --max-total-tokens.",
        )
    pages = tokens // config.page_size
    if pages < 2:
        raise ConfigError(
            f"The KV pool would hold {tokens} tokens ({per_token} bytes each, {free / 2**20:.0f} MiB free).",
            remedy="Free memory, or set --max-total-tokens to at least two pages.",
        )
    return Geometry(rows=rows, context=context, page_size=config.page_size, pages=pages)


def _runner(loaded: Loaded, geometry: Geometry) -> StepExecutor:
    from sglcore.memory.pool import KVPool
    from sglcore.runner.runner import ModelRunner

    groups, device = loaded.groups, loaded.platform.device
    pool = KVPool(groups, [geometry.pages] * len(groups), geometry.page_size, loaded.dtype, device)
    return ModelRunner(
        loaded.model,
        loaded.attention,
        pool,
        groups,
        loaded.launcher,
        loaded.platform.ops(),
        rows=geometry.rows,
        pages_per_row=geometry.pages_per_row,
        page_size=geometry.page_size,
        device=device,
    )


def _scheduler(loaded: Loaded, config: EngineConfig, geometry: Geometry, plugins: Plugins) -> Scheduler:
    table = RowTable(geometry.rows, geometry.context, geometry.pages_per_row, len(loaded.groups))
    shares = [GroupPages(geometry.pages, g.window if g.kind == "window" else 0) for g in loaded.groups]
    ledger = KVLedger(shares, geometry.page_size, table, cache=not config.disable_radix_cache)
    chunk = config.chunked_prefill_size or loaded.platform_spec.chunked_prefill_size
    limits = Limits(
        chunk=chunk if chunk > 0 else 2**31 - 1,
        vocab_size=loaded.model.vocab_size,
        queued=config.max_queued_requests,
    )
    policy = plugins.registry("policies").factory(config.schedule_policy)()
    return Scheduler(ledger, table, policy, limits, loaded.eos_ids, config.random_seed)


def _info(loaded: Loaded, geometry: Geometry, overlap: bool, phases: Phases) -> dict[str, Any]:
    return {
        "context_length": geometry.context,
        "max_running_requests": geometry.rows,
        "max_total_num_tokens": geometry.pages * geometry.page_size,
        "page_size": geometry.page_size,
        "kv_groups": [{"kind": g.kind, "layers": len(g.layers), "window": g.window} for g in loaded.groups],
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "platform": loaded.platform_spec.name,
        "vocab_size": loaded.model.vocab_size,
        "overlap": overlap,
        "decisions": loaded.decisions.table,
        "start_phases": phases.times,
    }
