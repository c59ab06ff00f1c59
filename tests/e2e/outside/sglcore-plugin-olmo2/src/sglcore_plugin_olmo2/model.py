"""OLMo 2 (arXiv:2501.00656): norms stand behind the blocks, and over all queries and all keys of a token."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup
from sglcore.errors import ConfigError
from sglcore.layers.attention import Attention
from sglcore.layers.embedding import LMHead, VocabEmbedding
from sglcore.layers.linear import RowParallelLinear, qkv_linear
from sglcore.layers.loading import Slot, load, load_dummy
from sglcore.layers.mlp import GatedMLP
from sglcore.layers.norm import RMSNorm
from sglcore.layers.rope import RotaryEmbedding

Angles = tuple[torch.Tensor, torch.Tensor]  # cos, sin, float32 [tokens, head_dim / 2]


class Olmo2Attention:
    """The norms of queries and keys see all heads at once, so the heads cannot be split over ranks."""

    def __init__(self, ctx: BuildContext, layer: int, heads: int, kv_heads: int, head_dim: int) -> None:
        hidden, eps = ctx.config["hidden_size"], ctx.config["rms_norm_eps"]
        bias = ctx.config.get("attention_bias", False)
        self.head_dim = head_dim
        self.qkv = qkv_linear(ctx, hidden, heads, kv_heads, head_dim, bias=bias)
        self.out = RowParallelLinear(ctx, heads * head_dim, hidden, "o_proj", bias=bias)
        self.q_norm = RMSNorm(ctx, heads * head_dim, eps)
        self.k_norm = RMSNorm(ctx, kv_heads * head_dim, eps)
        self.rope = ctx.ops.rope
        self.attend = Attention(ctx, layer, scale=head_dim**-0.5)

    def __call__(self, x: torch.Tensor, angles: Angles, inputs: ForwardInputs) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        tokens = x.shape[0]
        q, k, v = self.qkv(x).split(self.qkv.sizes, dim=-1)
        heads = (part.view(tokens, -1, self.head_dim) for part in (self.q_norm(q), self.k_norm(k), v))
        q, k, v = heads
        q, k = self.rope(q, k, *angles)
        return self.out(self.attend(q, k, v, inputs).view(tokens, -1))

    def slots(self, prefix: str) -> dict[str, Slot]:
        """Four projections and two norms below `prefix`, which ends in a dot."""
        norms = self.q_norm.slots(f"{prefix}q_norm") | self.k_norm.slots(f"{prefix}k_norm")
        return norms | self.qkv.slots(prefix) | self.out.slots(prefix)


class Olmo2Layer:
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, ctx: BuildContext, attention: Olmo2Attention) -> None:
        hidden, eps = ctx.config["hidden_size"], ctx.config["rms_norm_eps"]
        self.attention = attention
        self.mlp = GatedMLP(ctx, hidden, ctx.config["intermediate_size"])
        self.behind_attention = RMSNorm(ctx, hidden, eps)
        self.behind_mlp = RMSNorm(ctx, hidden, eps)

    def __call__(self, x: torch.Tensor, angles: Angles, inputs: ForwardInputs) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        x = x + self.behind_attention(self.attention(x, angles, inputs))
        return x + self.behind_mlp(self.mlp(x))

    def slots(self, prefix: str) -> dict[str, Slot]:
        """All tensors below `prefix`, which ends in a dot."""
        norms = self.behind_attention.slots(f"{prefix}post_attention_layernorm")
        norms |= self.behind_mlp.slots(f"{prefix}post_feedforward_layernorm")
        return norms | self.attention.slots(f"{prefix}self_attn.") | self.mlp.slots(f"{prefix}mlp.")


class Olmo2:
    """Implements `sglcore.contracts.models.Model`."""

    def __init__(self, ctx: BuildContext) -> None:
        config = ctx.config
        if ctx.tp_size > 1:
            raise ConfigError(
                f"OLMo 2 normalizes queries over all heads, which cannot be split over {ctx.tp_size} ranks.",
                remedy="Use a tensor-parallel size of 1.",
            )
        hidden, heads, count = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or hidden // heads
        self.vocab_size: int = config["vocab_size"]
        self.tied: bool = config.get("tie_word_embeddings", False)
        self.embed = VocabEmbedding(ctx, self.vocab_size, hidden)
        self.head = LMHead(ctx, self.vocab_size, hidden, tied_to=self.embed if self.tied else None)
        self.rotary = RotaryEmbedding(ctx, head_dim)
        self.layers = [Olmo2Layer(ctx, Olmo2Attention(ctx, layer, heads, kv_heads, head_dim)) for layer in range(count)]
        self.norm = RMSNorm(ctx, hidden, config["rms_norm_eps"])
        self.groups = (KVGroup(layers=tuple(range(count)), kv_heads=kv_heads, head_dim=head_dim),)

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """Full attention in every layer."""
        return self.groups

    def slots(self) -> dict[str, Slot]:
        """Every tensor of the checkpoint, by its Hugging Face name."""
        table = self.embed.slots("model.embed_tokens") | self.norm.slots("model.norm") | self.head.slots("lm_head")
        for index, layer in enumerate(self.layers):
            table |= layer.slots(f"model.layers.{index}.")
        return table

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """A tied head may stand in the checkpoint once more."""
        load(tensors, self.slots(), ignore=(r"lm_head\.weight",) if self.tied else ())

    def load_dummy(self, seed: int) -> None:
        """Random values."""
        load_dummy(self.slots(), seed)

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """-> logits float32 [samples, vocab]."""
        x = self.embed(inputs.ids)
        angles = self.rotary(inputs)
        for layer in self.layers:
            x = layer(x, angles, inputs)
        return self.head(self.norm(x), inputs.sample_index)
