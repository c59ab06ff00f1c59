"""Build an engine from a config: platform, checkpoint, model, pool, runner, scheduler."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.config import EngineConfig
from sglcore.contracts.attention import AttentionBackend
from sglcore.contracts.execution import Collectives, Launcher, Rendezvous, StepExecutor
from sglcore.contracts.logits_processors import ProcessorContext
from sglcore.contracts.models import BuildContext, KVGroup, Model
from sglcore.contracts.ops import Ops
from sglcore.contracts.platforms import Platform, PlatformSpec
from sglcore.contracts.weights import Checkpoint
from sglcore.engine.cache import CacheKeeper, cache_options, check_cache
from sglcore.engine.engine import Engine
from sglcore.engine.feed import FedExecutor
from sglcore.engine.geometry import Geometry, chunk_size, geometry
from sglcore.engine.model_files import eos_token_ids, model_config, open_checkpoint
from sglcore.engine.phases import Phases
from sglcore.engine.processors import Processors
from sglcore.engine.ranks import Ranks
from sglcore.engine.split_attention import SplitAttention
from sglcore.errors import ConfigError
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable
from sglcore.negotiation.choose import build_ops, build_platform, build_quant, check_attention, negotiate
from sglcore.negotiation.decision import Decision, public
from sglcore.plugins import Plugins
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.scheduler import Limits, PriorityRules, Scheduler, SessionLimits

if TYPE_CHECKING:
    import torch

    from sglcore.runner.runner import ModelRunner


@dataclass
class Loaded:
    """A model with its weights, on its platform: what several engines could be built around."""

    model: Model
    groups: tuple[KVGroup, ...]
    attention: AttentionBackend
    platform: Platform
    launcher: Launcher
    hf: dict[str, Any]
    eos_ids: tuple[int, ...]
    decision: Decision
    ops: Ops
    group: Collectives | None = None

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of the pool's keys and values."""
        return _dtype(self.decision.kv_dtype)


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose headers were read, and the plugins that will serve it; nothing is built yet."""

    checkpoint: Checkpoint
    hf: dict[str, Any]
    decision: Decision


@dataclass
class Built:
    """An engine ready to run, and what to tell about it."""

    engine: Engine
    info: dict[str, Any]


def build_engine(config: EngineConfig, path: Path, plugins: Plugins, phases: Phases) -> Built:
    """Everything from files to an engine. Raises ConfigError or PluginError before any request is taken."""
    opened = open_model(config, path, plugins, phases)  # first: a refusal needs neither torch nor ranks
    ranks = Ranks(config, path, plugins.plan()) if config.tp_size > 1 else None
    try:
        loaded = load_model(opened, config, path, plugins, phases, ranks)
        return assemble(loaded, config, plugins, phases, ranks)
    except BaseException:
        if ranks is not None:
            ranks.stop()
        raise


def build_follower(
    config: EngineConfig,
    path: Path,
    plugins: Plugins,
    phases: Phases,
    rendezvous: Rendezvous,
    on_joining: Callable[[], None],
) -> ModelRunner:
    """The runner of a rank above 0: the same model, its shard, and tables of the same size."""
    opened = open_model(config, path, plugins, phases)
    loaded = load_model(opened, config, path, plugins, phases, Invited(rendezvous, on_joining))
    return _runner(loaded, geometry(loaded, config, _runner))


class Meeting(Protocol):
    """How this process comes to a rendezvous: rank 0 has started the others, they were started."""

    @property
    def rendezvous(self) -> Rendezvous: ...

    def meet(self) -> None:
        """Called right before joining."""
        ...


@dataclass(frozen=True)
class Invited:
    """The side of a rank that was started."""

    rendezvous: Rendezvous
    meet: Callable[[], None]


def open_model(config: EngineConfig, path: Path, plugins: Plugins, phases: Phases) -> Opened:
    """Read headers and choose all plugins; no torch. Raises ConfigError or PluginError."""
    plugins.registry("policies").entry(config.schedule_policy)  # needed late, looked up early
    check_cache(config, plugins)
    with phases.phase("open model"):
        checkpoint = open_checkpoint(path, config.load_format, plugins)
        hf = model_config(checkpoint, config)
        return Opened(checkpoint, hf, negotiate(config, hf, plugins))


def load_model(
    opened: Opened,
    config: EngineConfig,
    path: Path,
    plugins: Plugins,
    phases: Phases,
    meeting: Meeting | None = None,
) -> Loaded:
    """Build what was chosen, meet the other ranks if there are any, then read the weights."""
    checkpoint, hf, decision = opened.checkpoint, opened.hf, opened.decision
    with phases.phase("import torch"):
        importlib.import_module("torch")
    platform = build_platform(decision, plugins)
    # Everything that touches the device happens on its one thread, loading too: a thread pool made for the
    # loading thread would otherwise stand beside that of the steps and slow them down.
    launcher = platform.launcher()
    group: Collectives | None = None
    try:
        if meeting is not None:
            group = _join(platform, decision.platform, launcher, meeting)
        with phases.phase("build model"):
            model, groups, attention, ops = launcher.launch(
                lambda: _build_model(opened, config, path, plugins, platform, group)
            ).wait()
        with phases.phase("load weights") as report:
            launcher.launch(lambda: _load_weights(model, checkpoint, config, platform.device, report)).wait()
    except BaseException:
        launcher.close()
        raise
    eos_ids = eos_token_ids(checkpoint, hf)
    return Loaded(model, groups, attention, platform, launcher, hf, eos_ids, decision, ops, group)


def _join(platform: Platform, spec: PlatformSpec, launcher: Launcher, meeting: Meeting) -> Collectives:
    """Meet the other ranks on the device thread. Raises ConfigError where the platform knows no ranks."""
    if not hasattr(platform, "join"):
        raise ConfigError(
            f"Platform {spec.name} serves one rank, --tp-size {meeting.rendezvous.size} was asked for.",
            remedy="Start with --tp-size 1.",
        )
    meeting.meet()
    return launcher.launch(lambda: platform.join(meeting.rendezvous)).wait()


def assemble(
    loaded: Loaded, config: EngineConfig, plugins: Plugins, phases: Phases, ranks: Ranks | None = None
) -> Built:
    """Pool, runner, scheduler and loop around a loaded model; with ranks, once all of them are ready."""
    with phases.phase("allocate KV pool"):
        sizes = geometry(loaded, config, _runner)
        own = _runner(loaded, sizes)
        scheduler = _scheduler(loaded, config, sizes, plugins)
    with phases.phase("capture graphs"):
        own.capture_first()
    runner: StepExecutor = own
    plain = config.disable_overlap_schedule
    overlap = loaded.decision.platform.overlap if plain is None else not plain
    info = _info(loaded, sizes, overlap, phases)
    if ranks is not None:
        with phases.phase("ranks ready"):
            info["ranks"] = ranks.wait_ready()
        runner = FedExecutor(runner, ranks)
    keeper = CacheKeeper(scheduler.ledger, config)
    processors = _processors(loaded, config, plugins, scheduler)
    engine = Engine(
        scheduler, runner, overlap=overlap, keeper=keeper, processors=processors, hidden_size=_hidden_size(loaded)
    )
    return Built(engine, info)


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


def _dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def _build_model(
    opened: Opened,
    config: EngineConfig,
    path: Path,
    plugins: Plugins,
    platform: Platform,
    group: Collectives | None,
) -> tuple[Model, tuple[KVGroup, ...], AttentionBackend, Ops]:
    decision, hf = opened.decision, opened.hf
    attention: AttentionBackend = plugins.registry("attention").factory(decision.attention.name)()
    if decision.decode is not None:
        attention = SplitAttention(attention, plugins.registry("attention").factory(decision.decode.name)())
    ops = build_ops(decision, platform, plugins)
    context = BuildContext(
        config=hf,
        ops=ops,
        attention=attention,
        dtype=_dtype(decision.dtype),
        device=platform.device,
        quant=build_quant(decision, hf, plugins, ops, platform.device),
        directory=str(path) if path.is_dir() else None,
        trust_remote_code=config.trust_remote_code,
        tp_rank=group.rank if group else 0,
        tp_size=group.size if group else 1,
        all_reduce=group.all_reduce if group else None,
    )
    model = plugins.registry("models").factory(decision.model.name)(context)
    groups = model.kv_groups()
    for spec in (decision.attention, decision.decoding):
        check_attention(spec, groups)
    return model, groups, attention, ops


def _load_weights(
    model: Model,
    checkpoint: Checkpoint,
    config: EngineConfig,
    device: torch.device,
    report: Callable[[float], None],
) -> None:
    if config.load_format == "dummy":
        with device:  # drawn where they are wanted
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


def _runner(loaded: Loaded, geometry: Geometry) -> ModelRunner:
    from sglcore.memory.pool import KVPool
    from sglcore.runner.runner import ModelRunner

    groups, device = loaded.groups, loaded.platform.device
    pool = KVPool(groups, [geometry.pages] * len(groups), geometry.page_size, loaded.kv_dtype, device)
    return ModelRunner(
        loaded.model,
        loaded.attention,
        pool,
        groups,
        loaded.launcher,
        loaded.ops,
        rows=geometry.rows,
        pages_per_row=geometry.pages_per_row,
        page_size=geometry.page_size,
        device=device,
        group=loaded.group,
        eos_ids=loaded.eos_ids,
        spare=geometry.pages,
        graph_sizes=geometry.graphs,
        dtype=_dtype(loaded.decision.dtype),
    )


def _hidden_size(loaded: Loaded) -> int:
    """Of a model that gives hidden states, else 0."""
    size = (loaded.hf.get("text_config") or loaded.hf).get("hidden_size") or loaded.hf.get("n_embd") or 1
    return int(size) if loaded.decision.model.hidden_states else 0


def _processors(loaded: Loaded, config: EngineConfig, plugins: Plugins, scheduler: Scheduler) -> Processors:
    device, rows = loaded.platform.device, scheduler.rows
    context = ProcessorContext(loaded.model.vocab_size, loaded.eos_ids, device, dict(config.extras))
    registry = plugins.registry("logits_processors")
    return Processors(registry, context, plugins.hooks.faults, lambda row: rows.tokens[row, : rows.length[row]])


def _scheduler(loaded: Loaded, config: EngineConfig, geometry: Geometry, plugins: Plugins) -> Scheduler:
    table = RowTable(geometry.rows, geometry.context, geometry.pages_per_row, len(loaded.groups))
    shares = [GroupPages(geometry.pages, g.window if g.kind == "window" else 0) for g in loaded.groups]
    options = cache_options(config, plugins, geometry.page_size)
    ledger = KVLedger(shares, geometry.page_size, table, cache=options, strict=config.strict_checks)
    limits = Limits(
        chunk=chunk_size(loaded, config),
        vocab_size=loaded.model.vocab_size,
        queued=config.max_queued_requests,
        queued_tokens=config.max_queued_tokens,
        overtakes=config.schedule_max_overtakes,
        timeout=config.request_timeout,
        priority=_priority(config),
        sessions=SessionLimits(config.max_sessions, config.max_session_tokens, config.session_timeout or None),
    )
    policy = plugins.registry("policies").factory(config.schedule_policy)()
    return Scheduler(ledger, table, policy, limits, loaded.eos_ids, config.random_seed)


def _priority(config: EngineConfig) -> PriorityRules:
    return PriorityRules(
        enabled=config.enable_priority_scheduling,
        low_first=config.schedule_low_priority_values_first,
        threshold=config.priority_scheduling_preemption_threshold,
        default=config.default_priority_value,
        ageing=config.priority_ageing,
        refuse=config.abort_on_priority_when_disabled,
    )


def _info(loaded: Loaded, geometry: Geometry, overlap: bool, phases: Phases) -> dict[str, Any]:
    return {
        "context_length": geometry.context,
        "max_running_requests": geometry.rows,
        "max_total_num_tokens": geometry.pages * geometry.page_size,
        "page_size": geometry.page_size,
        "kv_groups": [{"kind": g.kind, "layers": len(g.layers), "window": g.window} for g in loaded.groups],
        "dtype": loaded.decision.dtype,
        "kv_cache_dtype": loaded.decision.kv_dtype,
        "platform": loaded.decision.platform.name,
        "vocab_size": loaded.model.vocab_size,
        "overlap": overlap,
        "graph_sizes": list(geometry.graphs),
        "model_modules": getattr(loaded.model, "model_modules", None),
        "memory": vars(geometry.memory) if geometry.memory else None,
        "tp_size": loaded.group.size if loaded.group else 1,
        "decisions": public(loaded.decision),
        "start_phases": phases.times,
    }
