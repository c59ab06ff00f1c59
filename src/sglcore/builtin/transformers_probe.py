"""A trial run of a Transformers model that shows what its attention layers ask for, without a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from sglcore.builtin.transformers_architecture import one_line, refusal
from sglcore.builtin.transformers_attention import KWARG, AttentionCall, AttentionStep
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 3


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One attention layer as the probe saw it."""

    layer: int
    kv_heads: int
    head_dim: int
    window: int


@dataclass(slots=True)
class ProbeStep:
    """Answers attention calls with the query itself, so that positions show, and writes each one down."""

    seen: list[LayerShape] = field(default_factory=list)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """-> [tokens, heads, v_dim]. Raises ConfigError for shapes that the paged cache cannot hold."""
        heads, dim, v_dim = call.k.shape[1], call.k.shape[2], call.v.shape[2]
        if call.q.shape[2] != dim or v_dim > dim or call.v.shape[1] != heads or call.q.shape[1] % heads:
            shapes = f"q {tuple(call.q.shape)}, k {tuple(call.k.shape)}, v {tuple(call.v.shape)}"
            raise ConfigError(f"attention layer {call.layer} has shapes the paged cache cannot hold: {shapes}")
        self.seen.append(LayerShape(call.layer, heads, dim, call.window))
        return call.q[..., :v_dim].contiguous()  # [tokens, heads, v_dim]


@dataclass(slots=True)
class MixingStep(ProbeStep):
    """Answers with a sum of queries, keys and values, so that a change in any of them shows behind the attention."""

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """-> [tokens, heads, v_dim]."""
        heads, width = call.q.shape[1], call.v.shape[2]
        groups = heads // call.k.shape[1]
        k = call.k[..., :width].repeat_interleave(groups, 1)
        return call.q[..., :width] + 0.5 * k + 0.25 * call.v.repeat_interleave(groups, 1)


def trial(architecture: str, model: PreTrainedModel) -> Callable[[AttentionStep], torch.Tensor]:
    """What runs a few tokens as a decoding step does, with the given step for the attention -> logits.

    Inputs are made here and now. What is returned raises ConfigError naming the architecture where the model fails.
    """
    inputs = {"input_ids": _ids(model), "position_ids": _positions(model)}
    return lambda step: _run(architecture, model, step, **inputs)


def probe(architecture: str, model: PreTrainedModel) -> tuple[tuple[LayerShape, ...], int]:
    """Run a few tokens on the model's device, meta included -> (its attention layers, the width of its logits).

    Raises ConfigError naming the architecture if a layer bypasses the interface, comes twice or cannot be served.
    """
    step = ProbeStep()
    logits = _run(architecture, model, step, position_ids=_positions(model))
    text = model.config.get_text_config()
    _check_calls(architecture, text.num_hidden_layers, step.seen)
    _check_windows(architecture, getattr(text, "layer_types", None) or [], step.seen)
    return tuple(step.seen), logits.shape[-1]


def check_positions(architecture: str, model: PreTrainedModel) -> None:
    """Prove that the model counts positions from 0, as the engine does. Needs weights: logits are compared.

    Raises ConfigError for a model that counts otherwise when left to itself (RoBERTa counts from padding_idx + 1).
    """
    given = _run(architecture, model, ProbeStep(), position_ids=_positions(model))
    own = _run(architecture, model, ProbeStep())
    if not torch.allclose(given, own, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise refusal(architecture, "it does not count positions from 0")


def _positions(model: PreTrainedModel) -> torch.Tensor:
    return torch.arange(TOKENS, device=model.device).unsqueeze(0)


def _ids(model: PreTrainedModel) -> torch.Tensor:
    padding = model.config.get_text_config().pad_token_id  # some models give it a position of its own
    return torch.tensor([[i for i in range(TOKENS + 1) if i != padding][:TOKENS]], device=model.device)


def _run(architecture: str, model: PreTrainedModel, step: AttentionStep, **inputs: torch.Tensor) -> torch.Tensor:
    if "input_ids" not in inputs:
        inputs["input_ids"] = _ids(model)
    try:
        with torch.no_grad():
            return model(use_cache=False, **inputs, **{KWARG: step}).logits
    except ConfigError as error:
        raise refusal(architecture, error.message) from None
    except Exception as error:  # model code may raise anything
        raise refusal(architecture, f"a trial run failed ({one_line(error)})") from error


def _check_calls(architecture: str, count: int, seen: list[LayerShape]) -> None:
    indices = [shape.layer for shape in seen]
    if sorted(indices) != list(range(count)):
        raise refusal(
            architecture,
            f"its {count} layers made {len(indices)} calls to the attention interface, for layers {indices}; "
            "each layer must make one",
        )
    shapes = sorted({f"{shape.kv_heads} x {shape.head_dim}" for shape in seen})
    if len(shapes) > 1:
        raise refusal(architecture, f"its layers differ in KV heads x head size ({', '.join(shapes)})")


def _check_windows(architecture: str, layer_types: list[str], seen: list[LayerShape]) -> None:
    for shape in seen if layer_types else ():
        if (layer_types[shape.layer] == "sliding_attention") != bool(shape.window):
            raise refusal(architecture, f"layer {shape.layer} hides its window from the attention interface")
