"""The constraints of each family in the order they are tried. Every unmet one is said in words, with the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.contracts.ops import OpsSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.quant import QuantSpec
from sglcore.contracts.spec import Spec
from sglcore.negotiation.demand import Demand

OP_NAMES = ("linear", "embedding", "rms_norm", "add_rms_norm", "silu_mul", "argmax", "rope")
FUSED_NAMES = ("draw", "moe", "penalise", "route")  # which a table may lack
STEPS = ("prefill", "decode", "mixed")  # a step of the scheduler may be any of them


@dataclass(frozen=True)
class Unmet:
    """A constraint that is not met. constraint: its name, that of the Spec's field where there is one."""

    constraint: str
    text: str


@dataclass(frozen=True)
class Setting:
    """What is settled before model and attention are chosen. dtype, kv_dtype: torch's names, never "auto"."""

    demand: Demand
    device: str
    dtype: str
    kv_dtype: str
    quant: QuantSpec | None = None

    @property
    def kv_differs(self) -> bool:
        """Whether keys and values are kept in another type than the compute type."""
        return self.kv_dtype != self.dtype


def platform_unmet(spec: PlatformSpec, setting: Setting) -> Iterator[Unmet]:
    """Of an available platform: a refusal, because another device is never taken in its place."""
    yield from _type(spec.dtypes, setting.dtype)
    if setting.kv_differs and setting.kv_dtype not in spec.kv_dtypes:
        yield _kv(spec.kv_dtypes, setting.kv_dtype)
    yield from _features(spec, setting.demand)


def quant_unmet(spec: QuantSpec, setting: Setting) -> Iterator[Unmet]:
    """Of a method for the checkpoint's quantization, or for a plain checkpoint if the flag names it."""
    ask = setting.demand
    if ask.quant_method and ask.quant_method not in spec.methods:
        reads = ", ".join(spec.methods) or "plain checkpoints only"
        yield Unmet("methods", f"reads {reads}, not {ask.quant_method}")
    if not ask.quant_method and not spec.online:
        yield Unmet("online", "does not quantize a plain checkpoint while loading")
    yield from _where(spec.platforms, spec.dtypes, setting)
    yield from _listed("bits", spec.bits, ask.bits, "reads weights of {} bits, not of {}")
    yield from _listed("group_sizes", spec.group_sizes, ask.group_size, "reads groups of {}, not of {}")
    if ask.moe and not spec.moe:
        yield Unmet("moe", "serves no model with experts")
    if setting.kv_differs and spec.kv_dtypes and setting.kv_dtype not in spec.kv_dtypes:
        yield _kv(spec.kv_dtypes, setting.kv_dtype)
    yield from _features(spec, ask)
    yield from probe_unmet(spec)


def model_unmet(spec: ModelSpec, setting: Setting) -> Iterator[Unmet]:
    """Of a model that serves the architecture."""
    impl = setting.demand.model_impl
    if impl == ("sglcore" if spec.fallback else "transformers"):
        yield Unmet("model_impl", f"--model-impl {impl} was given")
    yield from _where(spec.platforms, spec.dtypes, setting)
    if setting.quant is not None and not spec.quantization:
        yield Unmet("quantization", f"has no quantization (for {setting.quant.name})")
    yield from _features(spec, setting.demand)
    yield from probe_unmet(spec)


def attention_unmet(spec: AttentionSpec, setting: Setting, needs: tuple[str, ...]) -> Iterator[Unmet]:
    """Of a backend for a model that needs `needs`."""
    ask = setting.demand
    yield from _where(spec.platforms, spec.dtypes, setting)
    yield from _listed("head_dims", spec.head_dims, ask.head_dim, "serves head sizes {}, the model has {}")
    yield from _listed("page_sizes", spec.page_sizes, ask.page_size, "needs a page size of {}, not {}")
    if setting.kv_differs and setting.kv_dtype not in spec.kv_dtypes:
        yield _kv(spec.kv_dtypes, setting.kv_dtype)
    for need in needs:
        if need not in ask.unneeded and not getattr(spec, need, False):
            yield Unmet(need, f"has no {need}")
    if "mla" in needs:
        yield from _listed("latent_dims", spec.latent_dims, ask.latent_dim, "serves latents of {}, the model has {}")
    for step in STEPS:
        if not getattr(spec, step):
            yield Unmet(step, f"serves no {step} steps")
    yield from _features(spec, ask)
    yield from probe_unmet(spec)


def ops_unmet(spec: OpsSpec, setting: Setting) -> Iterator[Unmet]:
    """Of kernels laid over the platform's own."""
    yield from _where(spec.platforms, spec.dtypes, setting)
    if not spec.provides:
        yield Unmet("provides", "provides no op")
    if strange := [name for name in spec.provides if name not in (*OP_NAMES, *FUSED_NAMES)]:
        yield Unmet("provides", f"provides {strange[0]}, which is no op of this core")
    yield from probe_unmet(spec)


def probe_unmet(spec: Spec) -> Iterator[Unmet]:
    """What the plugin's own probe says; a probe that fails counts as a no."""
    try:
        problem = spec.problem()
    except Exception as error:
        problem = f"its probe {spec.probe} failed: {type(error).__name__}: {error}"
    if problem:
        yield Unmet("probe", problem)


def _where(platforms: tuple[str, ...], dtypes: tuple[str, ...], setting: Setting) -> Iterator[Unmet]:
    if platforms and setting.device not in platforms:
        yield Unmet("platforms", f"runs on {', '.join(platforms)}, not on {setting.device}")
    yield from _type(dtypes, setting.dtype)


def _type(dtypes: tuple[str, ...], dtype: str) -> Iterator[Unmet]:
    if dtypes and dtype not in dtypes:
        yield Unmet("dtypes", f"computes in {', '.join(dtypes)}, not in {dtype}")


def _listed(name: str, allowed: tuple[int, ...], value: int, text: str) -> Iterator[Unmet]:
    """`value` 0 is not known, and an empty list allows any."""
    if value and allowed and value not in allowed:
        yield Unmet(name, text.format(", ".join(map(str, allowed)), value))


def _kv(kv_dtypes: tuple[str, ...], wanted: str) -> Unmet:
    kept = ", ".join(("the compute type", *kv_dtypes)) if kv_dtypes else "the compute type only"
    return Unmet("kv_dtypes", f"keeps keys and values in {kept}, not in {wanted}")


def _features(spec: Spec, demand: Demand) -> Iterator[Unmet]:
    for feature, asked_by in demand.features:
        if not getattr(spec, feature, False):
            yield Unmet(feature, f"has no {feature} (for {asked_by})")
