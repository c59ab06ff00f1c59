"""Rotary position embedding: cos and sin of a step's positions, computed once and shared by all layers."""

from __future__ import annotations

from typing import Any

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs
from sglcore.errors import ConfigError
from sglcore.layers.rope_scaling import dynamic, frequencies, longrope, rope_parameters

SEQUENCE_LENGTHS = "sequence_lengths"


class RotaryEmbedding:
    """Angles position * inverse frequency for the rotary part of each head.

    Reads `rope_parameters` of `ctx.config`, or the older `rope_theta` and `rope_scaling`, beside
    `partial_rotary_factor` and `max_position_embeddings`; `layer_type` picks one where the settings are nested by
    it. Raises ConfigError for a scaling that is unknown or lacks a number.

    Scalings that depend on the sequence's length (dynamic, longrope) take it from
    `inputs.extra["sequence_lengths"]`, int64 [tokens]: for each token its sequence's length as known so far
    (the whole prompt, while a prompt is computed in chunks). Without it, position + 1 stands in, which is
    exact for every token past the prompt and for prompts within the original length.
    """

    def __init__(self, ctx: BuildContext, head_dim: int, *, layer_type: str | None = None) -> None:
        self.parameters = rope_parameters(ctx.config, layer_type)
        self.dim = int(head_dim * self.parameters["partial_rotary_factor"])
        if self.dim < 2 or self.dim % 2:
            raise ConfigError(
                f"The rotary part of a head has {self.dim} dimensions; it must be even and at least 2.",
                remedy="Check head_dim and partial_rotary_factor in config.json.",
            )
        inverse, self.factor = frequencies(self.parameters, self.dim)
        self.inverse = inverse.to(ctx.device)  # [dim / 2]
        self.kind: str = self.parameters["rope_type"]
        self.long: torch.Tensor | None = None
        if self.kind == "longrope":
            self.long = longrope(self.parameters, self.dim, "long_factor")[0].to(ctx.device)

    def __call__(self, inputs: ForwardInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin), float32 [tokens, dim / 2] each."""
        angles = inputs.positions.float()[:, None] * self._inverse(inputs.positions, inputs.extra)
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.factor == 1.0 else (cos.mul_(self.factor), sin.mul_(self.factor))

    def _inverse(self, positions: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        """[dim / 2] where all tokens share it, else [tokens, dim / 2]."""
        if self.kind not in ("dynamic", "longrope"):
            return self.inverse
        lengths = extra.get(SEQUENCE_LENGTHS)
        if lengths is None:
            lengths = positions + 1
        if self.long is None:
            return dynamic(self.parameters, self.dim, lengths.float())
        beyond = lengths > self.parameters["original_max_position_embeddings"]
        return torch.where(beyond[:, None], self.long, self.inverse)
