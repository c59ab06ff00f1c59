"""From a config to the chosen plugins: what is on offer goes to the solver, what it chose is built and checked.

`negotiate` needs no torch; `serve`, `LLM` and `sglcore plugins explain` all call it, so they cannot differ.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sglcore.config import EngineConfig
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import KVGroup
from sglcore.contracts.ops import Ops
from sglcore.contracts.platforms import Platform
from sglcore.contracts.quant import QuantContext, QuantMethod
from sglcore.errors import ConfigError, PluginError
from sglcore.negotiation.constraints import FUSED_NAMES, OP_NAMES
from sglcore.negotiation.decision import Decision
from sglcore.negotiation.demand import Demand, demand_of, quantization_config
from sglcore.negotiation.rank import Offer
from sglcore.negotiation.solver import Solver
from sglcore.plugins import Plugins

if TYPE_CHECKING:
    import torch

FAMILIES = ("platforms", "models", "quant", "attention", "ops")


def negotiate(config: EngineConfig, hf: dict[str, Any], plugins: Plugins) -> Decision:
    """Platform, model, quantization, attention and ops for a model whose config.json is `hf`.

    Raises Refused (a ConfigError) with the first unmet constraint of every candidate, PluginError for an unknown name.
    """
    demand = demand_of(config, hf)
    if not demand.architectures:
        raise ConfigError(
            "The model's config.json names no `architectures`.", remedy='Add it, e.g. ["LlamaForCausalLM"].'
        )
    named = [("platforms", demand.device), ("quant", demand.quantization), ("attention", demand.attention)]
    for family, name in [*named, ("attention", demand.decode_attention)]:
        if name:
            plugins.registry(family).spec(name)
    for name in demand.architectures:
        if name in plugins.registry("models"):
            plugins.registry("models").entry(name)
    offers = {family: _offers(plugins, family, demand) for family in FAMILIES}
    return Solver(demand, offers, partial(_preferred, plugins)).solve()


def _offers(plugins: Plugins, family: str, demand: Demand) -> list[Offer]:
    """All registered names with their Specs, and those that cannot be used with the reason."""
    if family == "quant" and not (demand.quantization or demand.quant_method):
        return []
    registry = plugins.registry(family)
    found = {}
    for spec in registry.specs():
        entry = registry.entry(spec.name)
        found[spec.name] = Offer(spec.name, spec, entry.distribution, entry.version)
    for refusal in (*registry.broken, *plugins.refused, *plugins.left_out):
        entry = refusal.entry
        if entry.family == family and (family != "models" or entry.name in demand.architectures):
            offer = Offer(entry.name, None, entry.distribution, entry.version, refusal.reason)
            found.setdefault(entry.name, offer)
    return list(found.values())


def _preferred(plugins: Plugins, family: str, names: list[str]) -> str | None:
    """What the hooks say, where there is a hook for the family."""
    if family == "platforms":
        return cast("str | None", plugins.hooks.choose_platform(available=names))
    if family == "attention":
        return cast("str | None", plugins.hooks.choose_attention(fitting=names))
    return None


def build_platform(decision: Decision, plugins: Plugins) -> Platform:
    """The chosen platform. Raises ConfigError if it cannot run after all, PluginError if it is not what it declared."""
    import torch

    spec = decision.platform
    platform: Platform = plugins.registry("platforms").factory(spec.name)()
    if problem := platform.unavailable():
        raise ConfigError(f"Platform {spec.name}: {problem}", remedy="Choose another with --device.")
    if platform.device.type != spec.device:
        raise _lies(plugins, "platforms", spec.name, f"device {spec.device!r}", repr(platform.device.type))
    if decision.demand.dtype == "auto":
        wanted = platform.default_dtype(getattr(torch, decision.demand.stored))
        if wanted != getattr(torch, decision.dtype):
            raise _lies(plugins, "platforms", spec.name, f"the compute type {decision.dtype}", str(wanted))
    return platform


class OpsTable:
    """The ops a model is built from: the platform's own, some of them replaced. Implements `contracts.Ops`."""

    def __init__(self, own: Ops) -> None:
        self.graph_safe = own.graph_safe
        self.batch_invariant = own.batch_invariant
        for name in OP_NAMES:
            setattr(self, name, getattr(own, name))
        for name in FUSED_NAMES:
            if hasattr(own, name):
                setattr(self, name, getattr(own, name))


def build_ops(decision: Decision, platform: Platform, plugins: Plugins) -> Ops:
    """The platform's ops with the chosen plugins' kernels over them; safe and invariant as far as all of them are."""
    registry = plugins.registry("ops")
    table: Any = OpsTable(platform.ops())
    kernels = {name: registry.factory(name)() for name in sorted({name for _, name in decision.ops})}
    for op, name in decision.ops:
        setattr(table, op, getattr(kernels[name], op))
        table.graph_safe &= registry.spec(name).graph_safe
        table.batch_invariant &= registry.spec(name).batch_invariant
    return cast("Ops", table)


def build_quant(
    decision: Decision, hf: dict[str, Any], plugins: Plugins, ops: Ops, device: torch.device
) -> QuantMethod | None:
    """The chosen quantization method; None for a plain model."""
    import torch

    if decision.quant is None:
        return None
    context = QuantContext(config=quantization_config(hf), ops=ops, dtype=getattr(torch, decision.dtype), device=device)
    method: QuantMethod = plugins.registry("quant").factory(decision.quant.name)(context)
    return method


def check_attention(spec: AttentionSpec, groups: tuple[KVGroup, ...]) -> None:
    """What the built model really needs, against what the backend declares. Raises ConfigError."""
    for group in groups:
        latent = group.kind == "latent"
        if latent and not spec.mla:
            raise ConfigError(
                f"Attention backend {spec.name} has no mla, the model caches latents.",
                remedy="Choose another with --attention-backend.",
            )
        served, what = (spec.latent_dims, "latents of") if latent else (spec.head_dims, "head sizes")
        if served and group.head_dim not in served:
            raise ConfigError(
                f"Attention backend {spec.name} serves {what} {served}, the model has {group.head_dim}.",
                remedy="Choose another with --attention-backend.",
            )
        if group.window and not spec.sliding_window:
            raise ConfigError(
                f"Attention backend {spec.name} has no sliding_window, the model has one of {group.window} tokens.",
                remedy="Choose another with --attention-backend.",
            )


def _lies(plugins: Plugins, family: str, name: str, declared: str, got: str) -> PluginError:
    entry = plugins.registry(family).entry(name)
    return PluginError(
        f"{family} {name!r} of {entry.distribution} {entry.version} declares {declared}, but its code says {got}.",
        remedy=f"Upgrade {entry.distribution}, or choose another platform with --device.",
    )
