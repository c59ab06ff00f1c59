"""FlashInfer as an attention backend: which wrapper serves a step, and what is kept from one step to the next."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sglcore.contracts.attention import AttentionBatch, KVView
from sglcore.errors import ConfigError, PluginError
from sglcore_plugin_flashinfer import device as devices
from sglcore_plugin_flashinfer import modules
from sglcore_plugin_flashinfer.latents import LatentRun, LatentVariant
from sglcore_plugin_flashinfer.numbers import Numbers, Variant, numbers_of
from sglcore_plugin_flashinfer.workspace import LIMIT, Workspace, decode_bytes, prefill_bytes, usual_bytes
from sglcore_plugin_flashinfer.wrappers import DecodeRun, FreshRun, PrefillRun, tensor_cores

if TYPE_CHECKING:
    from sglcore.contracts.models import KVGroup

PREFILL = "SGLCORE_FLASHINFER_PREFILL"  # environment variable
CHOICES = ("auto", "fa2", "fa3")
UNCAPTURED = 64  # decode wrappers kept for numbers of rows that no graph holds
LEAST_INDICES = 1 << 16
Run = DecodeRun | FreshRun | PrefillRun | LatentRun


@dataclass(slots=True)
class Shared:
    """What the steps of one KV group have in common. indices: int32, the pages of all rows of the step at hand."""

    indices: torch.Tensor
    decode: dict[tuple[Variant, int], DecodeRun] = field(default_factory=dict)
    prefill: dict[Variant, PrefillRun] = field(default_factory=dict)
    fresh: dict[Variant, FreshRun] = field(default_factory=dict)
    latent: dict[tuple[LatentVariant, bool], LatentRun] = field(default_factory=dict)  # and whether for single tokens


@dataclass(slots=True)
class GroupStep:
    """One step of one KV group.

    built: its page indices were written. runs: planned, by what a layer asks for and whether it has `new`. new: keys
    and values of the layer at hand, [tokens, kv_heads, dim], where the step's rows have none but these.
    """

    batch: AttentionBatch
    shared: Shared
    indices: torch.Tensor
    numbers: Numbers
    decode: bool
    first: int  # the layer that comes first
    built: bool = False
    runs: dict[tuple[Variant | LatentVariant, bool], Run] = field(default_factory=dict)
    new: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass(slots=True)
class Step:
    """What `plan` returns. layers: attention layer -> its group."""

    groups: tuple[GroupStep, ...]
    layers: dict[int, GroupStep]


class FlashInferAttention:
    """Implements `contracts.AttentionBackend`, `RopeWriter`, `LatentBackend` and `GraphBackend` with FlashInfer's paged
    wrappers.

    Steps of single tokens take the decode wrapper in its graph mode, one a number of rows, so that the step that warms
    up and the one that is captured are the same; all others take the prefill wrapper. Wrappers are planned when the
    first layer attends, which is when heads, scale, window and cap are known.
    """

    def __init__(self, flashinfer: Any = None, kernels: Any = None) -> None:
        self._flashinfer = modules.import_flashinfer() if flashinfer is None else flashinfer
        self._loading = modules.Loading(self._flashinfer)
        self._workspace = Workspace()
        self._shared: dict[KVGroup, Shared] = {}
        self._prefill = os.environ.get(PREFILL, "auto")
        if self._prefill not in CHOICES:
            raise ConfigError(f"{PREFILL} is {self._prefill!r}.", remedy=f"It may be {', '.join(CHOICES)}.")
        if kernels is None:
            from sglcore_plugin_flashinfer.kernels import TritonKernels

            kernels = TritonKernels()
        self._kernels = kernels

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Step:
        """One `GroupStep` a KV group; nothing is queued yet."""
        groups = tuple(self._group(batch) for batch in batches)
        return Step(groups, {layer: group for group in groups for layer in group.batch.group.layers})

    def refresh(self, meta: Step, batches: tuple[AttentionBatch, ...]) -> None:
        """Plan the captured wrappers for the coming rows; the page indices are written by the replay itself."""
        with torch.inference_mode():
            for group, batch in zip(meta.groups, batches, strict=True):
                group.numbers = numbers_of(batch)
                for run in group.runs.values():
                    self._plan(group, run)
                    if isinstance(run, DecodeRun):
                        run.captured = True

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Step) -> None:
        """Store k, v [tokens, kv_heads, head_dim] at their slots, in one kernel."""
        group = meta.layers[layer]
        self._indices(group, layer)
        k, v = _by_value(k), _by_value(v)
        self._kernels.write_kv(k, v, *kv.layer(layer), group.batch.slots)
        group.new = (k, v) if group.numbers.fresh else None

    def rope_write(
        self,
        layer: int,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        heads: int,
        kv: KVView,
        meta: Step,
        *,
        q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """See `contracts.RopeWriter`; one kernel for norm, rotation and write. The rotated keys also take the place of
        the others in `qkv` where the step reads them there."""
        group = meta.layers[layer]
        self._indices(group, layer)
        pool, slots, fresh = kv.layer(layer), group.batch.slots, group.numbers.fresh
        q = self._kernels.rope_write(
            qkv, cos.contiguous(), sin.contiguous(), heads, pool, slots, (q_norm, k_norm), eps, keep=fresh
        )
        kv_heads = (qkv.shape[1] - heads) // 2
        group.new = (qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]) if fresh else None
        return q

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        kv: KVView,
        meta: Step,
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q [tokens, heads, head_dim] -> the same shape, contiguous. Sinks are not declared."""
        group = meta.layers[layer]
        keys, values = kv.layer(layer)
        if not group.built:
            self._indices(group, layer)
        window = _narrowest(window, group.batch.group.window)
        asked = (q.shape[1], keys.shape[2], q.shape[2], keys.shape[1], q.dtype, keys.dtype, scale, window, soft_cap)
        variant = Variant(*asked)
        new, group.new = group.new, None
        run = group.runs.get((variant, new is not None))
        if run is None:
            run = self._prepare(group, variant, fresh=new is not None)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if new is not None and isinstance(run, FreshRun):
            run.run(_by_value(q), *new, out)
        else:
            assert isinstance(run, DecodeRun | PrefillRun)
            run.wrapper.run(_by_value(q), (keys, values), out=out)
        return out

    def write_latent(self, layer: int, latent: torch.Tensor, rope: torch.Tensor, kv: KVView, meta: Step) -> None:
        """Store latent [tokens, rank] and rope [tokens, rope_dim] side by side at their slots, in one kernel."""
        group = meta.layers[layer]
        self._indices(group, layer)
        self._kernels.write_latent(_by_value(latent), _by_value(rope), kv.latent(layer), group.batch.slots)

    def attend_latent(
        self,
        layer: int,
        q_latent: torch.Tensor,
        q_rope: torch.Tensor,
        kv: KVView,
        meta: Step,
        *,
        scale: float,
    ) -> torch.Tensor:
        """q_latent [tokens, heads, rank], q_rope [tokens, heads, rope_dim] -> [tokens, heads, rank], contiguous."""
        group, pool = meta.layers[layer], kv.latent(layer)
        if not group.built:
            self._indices(group, layer)
        sizes = (q_latent.shape[1], q_latent.shape[2], q_rope.shape[2], pool.shape[1])
        variant = LatentVariant(*sizes, q_latent.dtype, pool.dtype, scale)
        run = group.runs.get((variant, False))
        if run is None:
            run = self._prepare_latent(group, variant)
        assert isinstance(run, LatentRun)
        out = torch.empty(q_latent.shape, dtype=q_latent.dtype, device=q_latent.device)
        run.run(_by_value(q_latent), _by_value(q_rope), pool, out)
        return out

    def _group(self, batch: AttentionBatch) -> GroupStep:
        numbers = numbers_of(batch)
        shared = self._shared_by(batch)
        return GroupStep(
            batch, shared, shared.indices, numbers, decode=batch.max_q_len == 1, first=min(batch.group.layers)
        )

    def _shared_by(self, batch: AttentionBatch) -> Shared:
        """Of the batch's group, with room for the pages of this step and of any replay over the same page table."""
        size = batch.page_table.shape[0] * batch.page_table.shape[1]
        shared = self._shared.get(batch.group)
        if shared is None or shared.indices.numel() < size:
            room = 1 << (max(size, LEAST_INDICES) - 1).bit_length()
            indices = torch.zeros(room, dtype=torch.int32, device=batch.page_table.device)
            for run in () if shared is None else shared.decode.values():
                run.settle()  # a captured step keeps its own, with the buffer it was captured with
            grown = Shared(indices)
            if shared is not None:
                grown.prefill, grown.fresh, grown.latent = shared.prefill, shared.fresh, shared.latent
            shared = self._shared[batch.group] = grown
        return shared

    def _indices(self, group: GroupStep, layer: int) -> None:
        """Write the step's page indices before its first layer: in each pass over the layers, captured or not."""
        if group.built and layer != group.first:
            return
        batch = group.batch
        self._kernels.fill_indices(batch.kv_lens, batch.page_table, batch.page_size, group.indices)
        group.built = True

    def _prepare(self, group: GroupStep, variant: Variant, *, fresh: bool) -> Run:
        """The wrapper for what a layer asks for, planned for this step."""
        capturing = devices.capturing(group.indices.device)
        run: Run
        if group.decode:
            run = self._decode_run(group, variant, capturing)
            kernel = "fa2" if tensor_cores(variant) else "decode"
        else:
            run, kernel = self._prefill_run(group, variant, capturing, fresh)
        if not capturing:  # else the pass that warmed up has planned it, for the same rows
            with self._loading.of(kernel, variant):
                self._plan(group, run)
        group.runs[variant, fresh] = run
        return run

    def _prepare_latent(self, group: GroupStep, variant: LatentVariant) -> LatentRun:
        """As `_prepare`, over latents."""
        device, kept, key = group.indices.device, group.shared.latent, (variant, group.decode)
        capturing, kernel = devices.capturing(device), self._latent_kernel(variant, device)
        if capturing and not (group.decode and key in kept):
            raise PluginError(
                "flashinfer: only steps of single tokens can be captured, and only such as were run before."
            )
        run = kept.get(key)
        if run is None:
            run = kept[key] = LatentRun(self._flashinfer, variant, kernel, device, decode=group.decode)
        if not capturing:
            with self._loading.of(kernel, variant):
                self._plan(group, run)
        group.runs[variant, False] = run
        return run

    def _plan(self, group: GroupStep, run: Run) -> None:
        if isinstance(run, PrefillRun | LatentRun):
            run.plan(group.numbers, group.indices)
        else:
            run.plan(group.numbers)

    def _decode_run(self, group: GroupStep, variant: Variant, capturing: bool) -> DecodeRun:
        rows, kept = group.numbers.rows, group.shared.decode
        run = kept.get((variant, rows))
        if run is None:
            if capturing:
                raise PluginError("flashinfer: a step is captured that was not run before.")
            _drop_oldest(kept)
            size = decode_bytes(variant, rows, tensor_cores(variant), devices.multiprocessors(group.indices.device))
            workspace = self._room(variant, size, group.indices.device)
            run = DecodeRun(self._flashinfer, variant, rows, group.indices, workspace)
            kept[variant, rows] = run
        run.captured |= capturing
        return run

    def _prefill_run(
        self, group: GroupStep, variant: Variant, capturing: bool, fresh: bool
    ) -> tuple[FreshRun | PrefillRun, str]:
        if capturing:
            raise PluginError("flashinfer: only steps of single tokens can be captured, this one has prompts.")
        device = group.indices.device
        kernel = self._prefill_kernel(variant, device)
        if fresh and kernel == "fa3" and variant.kv_dtype == variant.dtype:
            whole = group.shared.fresh.get(variant)
            if whole is None:
                whole = FreshRun(self._flashinfer, variant, kernel, self._room(variant, 0, device))
                group.shared.fresh[variant] = whole
            return whole, kernel
        run = group.shared.prefill.get(variant)
        if run is None:
            size = prefill_bytes(variant, devices.multiprocessors(device))
            split = kernel == "fa3" or size <= LIMIT  # fa3 never splits
            workspace = self._room(variant, size if kernel == "fa2" and split else 0, device)
            run = PrefillRun(self._flashinfer, variant, kernel, split, workspace)
            group.shared.prefill[variant] = run
        return run, kernel

    def _room(self, variant: Variant, size: int, device: torch.device) -> torch.Tensor:
        """The workspace, of `size` bytes at least and in any case as large as is usual."""
        usual = usual_bytes(variant, tensor_cores(variant), devices.multiprocessors(device))
        return self._workspace.at_least(max(size, usual), device)

    def _latent_kernel(self, variant: LatentVariant, device: torch.device) -> str:
        """ "fa2" or "fa3": the latter on Hopper, unless only the other need not be compiled or was asked for."""
        if self._prefill == "fa2" or not devices.is_hopper(device):
            return "fa2"
        there = {k: modules.source(self._flashinfer, k, variant) != modules.COMPILED for k in ("fa2", "fa3")}
        return "fa3" if self._prefill == "fa3" or there["fa3"] or not there["fa2"] else "fa2"

    def _prefill_kernel(self, variant: Variant, device: torch.device) -> str:
        """ "fa2" or "fa3": the latter on Hopper for plain masks, unasked only where it need not be compiled."""
        if self._prefill == "fa2" or not variant.plain or not devices.is_hopper(device):
            return "fa2"
        there = modules.source(self._flashinfer, "fa3", variant) != modules.COMPILED
        return "fa3" if there or self._prefill == "fa3" else "fa2"


def _drop_oldest(kept: dict[tuple[Variant, int], DecodeRun]) -> None:
    """Let the oldest wrapper go that no graph holds, where there are many."""
    loose = [key for key, run in kept.items() if not run.captured]
    if len(loose) >= UNCAPTURED:
        kept.pop(loose[0]).settle()


def _by_value(x: torch.Tensor) -> torch.Tensor:
    """x with the values of a head side by side, copied only if they are not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _narrowest(window: int, other: int) -> int:
    """The smaller of two windows, where 0 is none."""
    return min(window, other) if window and other else window or other
