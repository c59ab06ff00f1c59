"""Transformers' attention interface on top of the paged cache.

Transformers lets a model call an attention function registered by name (`AttentionInterface`, see the
Transformers guide "Attention Interface"). The function here finds what it needs for the step in a keyword
argument that travels through the model's `**kwargs`; there is no ambient state. No mask function is
registered under the name: Transformers then builds no mask at all and skips its packed-sequence
detection, which would cost a device synchronisation a step. Causality, ragged rows and windows
are the backend's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional

from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend
    from sglcore.contracts.models import ForwardInputs

NAME = "sglcore"
KWARG = "sglcore_step"
UNSET = object()


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What one attention layer asked for. q [tokens, heads, dim]; k, v [tokens, kv_heads, dim]."""

    layer: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    window: int
    soft_cap: float
    sinks: torch.Tensor | None


class AttentionStep(Protocol):
    """Answers the attention calls of one forward pass."""

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """-> [tokens, heads, v_dim]."""
        ...


@dataclass(slots=True)
class PagedStep:
    """Serves the calls of one step from the paged cache; counts them."""

    backend: AttentionBackend
    inputs: ForwardInputs
    calls: int = 0

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Write the step's keys and values, then attend. -> [tokens, heads, v_dim]."""
        self.calls += 1
        meta, kv = self.inputs.attn, self.inputs.kv
        # Latent-attention models have values narrower than keys; the cache has one width, so they are padded.
        narrow = call.k.shape[-1] - call.v.shape[-1]
        v = functional.pad(call.v, (0, narrow)) if narrow else call.v
        self.backend.write_kv(call.layer, call.k, v, kv, meta)
        out = self.backend.attend(
            call.layer,
            call.q,
            kv,
            meta,
            scale=call.scale,
            window=call.window,
            soft_cap=call.soft_cap,
            sinks=call.sinks,
        )
        return out[..., : call.v.shape[-1]] if narrow else out


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: Any = UNSET,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function that Transformers calls. query, key, value [1, heads, tokens, dim] -> [1, tokens, heads, dim].

    Raises ConfigError where a model asks for something that the paged cache cannot do.
    """
    layer: Any = getattr(module, "layer_idx", None)
    step: Any = kwargs.get(KWARG)
    _check(module, attention_mask, is_causal, layer, step, query.shape[0])
    window = getattr(module, "sliding_window", None) if sliding_window is UNSET else sliding_window
    call = AttentionCall(
        layer=layer,
        q=_by_token(query).contiguous(),
        k=_by_token(key),
        v=_by_token(value),
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=int(window or 0),
        soft_cap=float(softcap or 0.0),
        sinks=s_aux,
    )
    return step.attend(call).unsqueeze(0), None


def _by_token(x: torch.Tensor) -> torch.Tensor:
    by_token = x[0].transpose(0, 1)  # [1, heads, tokens, dim] -> [tokens, heads, dim]
    return by_token if by_token.stride(-1) == 1 else by_token.contiguous()


def _check(module: torch.nn.Module, mask: Any, is_causal: bool | None, layer: Any, step: Any, batch: int) -> None:
    if step is None:
        raise ConfigError("its layers do not pass keyword arguments on to their attention")
    if not isinstance(layer, int):
        raise ConfigError(f"its {type(module).__name__} does not know its layer number")
    if mask is not None:
        raise ConfigError("it adds a mask or bias of its own to the attention scores")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal:
        raise ConfigError("its attention is not causal")
    if batch != 1:
        raise ConfigError(f"its attention splits the step's tokens into a batch of {batch}")


def install() -> None:
    """Register the attention function with Transformers under `NAME`; harmless when repeated."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, paged_attention)
