"""Which platform, model and attention backend: by name if the user gave one, else by constraint match.

Nothing falls back silently: whatever cannot serve is reported with the first constraint it fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from sglcore.config import EngineConfig
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import KVGroup, ModelSpec
from sglcore.contracts.ops import Ops, OpsSpec
from sglcore.contracts.platforms import Platform, PlatformSpec
from sglcore.errors import ConfigError
from sglcore.plugins import Plugins


@dataclass
class Decisions:
    """What was chosen in each family, and why the others were not: {family: [(name, verdict)]}."""

    table: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def note(self, family: str, name: str, verdict: str) -> None:
        self.table.setdefault(family, []).append((name, verdict))


def choose_platform(config: EngineConfig, plugins: Plugins, decisions: Decisions) -> tuple[PlatformSpec, Platform]:
    """The platform named by --device, or the best one whose hardware is here."""
    registry = plugins.registry("platforms")
    if config.device != "auto":
        platform = registry.factory(config.device)()
        problem = platform.unavailable()
        if problem:
            raise ConfigError(f"--device {config.device}: {problem}")
        decisions.note("platforms", config.device, "chosen by --device")
        return registry.spec(config.device), platform
    built = {}
    for spec in sorted(registry.specs(), key=lambda s: -s.priority):
        platform = registry.factory(spec.name)()
        problem = platform.unavailable()
        if problem:
            decisions.note("platforms", spec.name, problem)
        else:
            built[spec.name] = platform
    if not built:
        raise ConfigError(
            "No platform can run here: " + "; ".join(f"{n}: {v}" for n, v in decisions.table["platforms"])
        )
    name = plugins.hooks.choose_platform(available=list(built)) or next(iter(built))
    decisions.note("platforms", name, "chosen")
    return registry.spec(name), built[name]


def choose_model(hf: dict[str, Any], config: EngineConfig, plugins: Plugins, decisions: Decisions) -> ModelSpec:
    """The native plugin of the checkpoint's architecture, else the Transformers fallback."""
    registry = plugins.registry("models")
    architectures = hf.get("architectures") or []
    if not architectures:
        raise ConfigError(
            "The model's config.json names no `architectures`.", remedy='Add it, e.g. ["LlamaForCausalLM"].'
        )
    if config.model_impl != "transformers":
        for name in architectures:
            if name in registry and not registry.spec(name).fallback:
                decisions.note("models", name, "chosen: native")
                return registry.spec(name)
            decisions.note("models", name, "no native plugin installed")
    fallback = next((s for s in registry.specs() if s.fallback), None)
    if config.model_impl == "sglcore" or fallback is None:
        raise ConfigError(
            f"No installed plugin serves {architectures[0]}.",
            remedy="Install its sglcore-plugin, or allow the fallback with --model-impl auto.",
        )
    decisions.note("models", fallback.name, "chosen: fallback")
    return fallback


def choose_attention(
    config: EngineConfig, plugins: Plugins, decisions: Decisions, *, device: str, dtype: str, needs: tuple[str, ...]
) -> AttentionSpec:
    """The backend named by --attention-backend, or the one of highest priority that fits."""
    registry = plugins.registry("attention")
    verdicts = {s.name: _unmet(s, device, dtype, config.page_size, needs) for s in registry.specs()}
    for name, verdict in verdicts.items():
        decisions.note("attention", name, verdict or "fits")
    if config.attention_backend:
        spec = registry.spec(config.attention_backend)
        if verdicts[spec.name]:
            raise ConfigError(f"--attention-backend {spec.name}: {verdicts[spec.name]}")
        return spec
    fitting = [n for n, verdict in verdicts.items() if verdict is None]
    if not fitting:
        raise ConfigError(
            "No attention backend fits: " + "; ".join(f"{n}: {v}" for n, v in verdicts.items()),
            remedy="Change --page-size or --dtype, or install another backend.",
        )
    named = plugins.hooks.choose_attention(fitting=fitting)
    return registry.spec(named or max(fitting, key=lambda n: registry.spec(n).priority))


OP_NAMES = ("linear", "embedding", "rms_norm", "add_rms_norm", "silu_mul", "argmax", "rope")


class OpsTable:
    """The ops a model is built from: the platform's own, some of them replaced. Implements `contracts.Ops`."""

    def __init__(self, own: Ops) -> None:
        self.graph_safe = own.graph_safe
        self.batch_invariant = own.batch_invariant
        for name in OP_NAMES:
            setattr(self, name, getattr(own, name))


def choose_ops(platform: Platform, plugins: Plugins, decisions: Decisions, *, device: str, dtype: str) -> Ops:
    """The platform's ops, with those of plugins that fit laid over them, the highest priority last."""
    registry = plugins.registry("ops")
    table: Any = OpsTable(platform.ops())
    for spec in sorted(registry.specs(), key=lambda s: s.priority):
        verdict = _unmet_ops(spec, device, dtype)
        decisions.note("ops", spec.name, verdict or f"chosen for {', '.join(spec.provides)}")
        if verdict is None:
            kernels = registry.factory(spec.name)()
            for name in spec.provides:
                setattr(table, name, getattr(kernels, name))
    return cast("Ops", table)


def _unmet_ops(spec: OpsSpec, device: str, dtype: str) -> str | None:
    if spec.platforms and device not in spec.platforms:
        return f"runs on {', '.join(spec.platforms)}, not on {device}"
    if spec.dtypes and dtype not in spec.dtypes:
        return f"computes in {', '.join(spec.dtypes)}, not in {dtype}"
    return spec.problem()


def check_attention(spec: AttentionSpec, groups: tuple[KVGroup, ...]) -> None:
    """What the built model really needs, against what the backend declares. Raises ConfigError."""
    for group in groups:
        if spec.head_dims and group.head_dim not in spec.head_dims:
            raise ConfigError(
                f"Attention backend {spec.name} serves head sizes {spec.head_dims}, the model has {group.head_dim}.",
                remedy="Choose another with --attention-backend.",
            )


def _unmet(spec: AttentionSpec, device: str, dtype: str, page_size: int, needs: tuple[str, ...]) -> str | None:
    """The first constraint the backend fails, in words; None if it fits."""
    if spec.platforms and device not in spec.platforms:
        return f"runs on {', '.join(spec.platforms)}, not on {device}"
    if spec.dtypes and dtype not in spec.dtypes:
        return f"computes in {', '.join(spec.dtypes)}, not in {dtype}"
    if spec.page_sizes and page_size not in spec.page_sizes:
        return f"needs a page size of {', '.join(map(str, spec.page_sizes))}, not {page_size}"
    missing = [n for n in needs if not getattr(spec, n, False)]
    return f"has no {missing[0]}" if missing else spec.problem()
