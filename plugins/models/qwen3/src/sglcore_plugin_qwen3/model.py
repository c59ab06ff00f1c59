"""Qwen3 (arXiv:2505.09388): Llama's blocks with a norm over each query and key head, dense or a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup
from sglcore.layers.attention import Attention
from sglcore.layers.embedding import LMHead, VocabEmbedding
from sglcore.layers.linear import RowParallelLinear, qkv_linear
from sglcore.layers.loading import Slot, load, load_dummy
from sglcore.layers.mlp import GatedMLP
from sglcore.layers.moe import MixtureOfExperts
from sglcore.layers.norm import RMSNorm
from sglcore.layers.rope import RotaryEmbedding
from sglcore.layers.rows import last_rows, sampled_rows
from sglcore_plugin_qwen3.shape import ExpertShape, Qwen3Shape

FeedForward = GatedMLP | MixtureOfExperts


class Qwen3Layer:
    """One block; x and the residual stream are kept apart so that each add fuses with the norm behind it."""

    def __init__(self, ctx: BuildContext, shape: Qwen3Shape, index: int, mlp: FeedForward) -> None:
        hidden, heads, kv_heads, dim = shape.hidden, shape.heads, shape.kv_heads, shape.head_dim
        self.prefix = f"model.layers.{index}."
        self.input_norm = RMSNorm(ctx, hidden, shape.eps)
        self.qkv = qkv_linear(ctx, hidden, heads, kv_heads, dim, bias=shape.bias)
        self.q_norm, self.k_norm = RMSNorm(ctx, dim, shape.eps), RMSNorm(ctx, dim, shape.eps)
        self.attention = Attention(ctx, index, scale=dim**-0.5, window=shape.windows[index])
        self.out = RowParallelLinear(ctx, heads * dim, hidden, "o_proj", bias=shape.bias)
        self.post_norm = RMSNorm(ctx, hidden, shape.eps)
        self.mlp = mlp
        self.head_dim = dim
        self.heads, self.kv_heads, _ = (size // dim for size in self.qkv.sizes)  # of this rank

    def __call__(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        inputs: ForwardInputs,
        *,
        last: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x normed, residual, both [tokens, hidden] -> what to add to the residual, and the residual.

        Of the last layer only the rows that `last_rows` keeps.
        """
        tokens = x.shape[0]
        qkv = self.qkv(x).view(tokens, -1, self.head_dim)  # [tokens, heads + 2 kv_heads, dim]
        x = self.attention.rotary(
            qkv,
            rotary,
            inputs,
            self.heads,
            self.kv_heads,
            q_norm=self.q_norm.weight,
            k_norm=self.k_norm.weight,
            eps=self.q_norm.eps,
        )
        x = x.view(tokens, -1)
        if last:
            x, residual = last_rows(inputs, x, residual)
        x = self.out(x)
        x, residual = self.post_norm.add(x, residual)
        return self.mlp(x), residual

    def slots(self) -> dict[str, Slot]:
        """All checkpoint tensors of the block."""
        return {
            **self.input_norm.slots(f"{self.prefix}input_layernorm"),
            **self.qkv.slots(f"{self.prefix}self_attn."),
            **self.q_norm.slots(f"{self.prefix}self_attn.q_norm"),
            **self.k_norm.slots(f"{self.prefix}self_attn.k_norm"),
            **self.attention.slots(f"{self.prefix}self_attn."),
            **self.out.slots(f"{self.prefix}self_attn."),
            **self.post_norm.slots(f"{self.prefix}post_attention_layernorm"),
            **self.mlp.slots(f"{self.prefix}mlp."),
        }


class Qwen3ForCausalLM:
    """Implements `contracts.Model`."""

    def __init__(self, ctx: BuildContext) -> None:
        shape = Qwen3Shape.dense(ctx.config)
        self._build(ctx, shape, lambda index: GatedMLP(ctx, shape.hidden, shape.intermediate))

    def _build(self, ctx: BuildContext, shape: Qwen3Shape, mlp: Callable[[int], FeedForward]) -> None:
        self.shape = shape
        self.vocab_size = shape.vocab
        self.device = ctx.device
        self.embed = VocabEmbedding(ctx, shape.vocab, shape.hidden)
        self.rotary = RotaryEmbedding(ctx, shape.head_dim)
        self.layers = [Qwen3Layer(ctx, shape, index, mlp(index)) for index in range(shape.layers)]
        self.norm = RMSNorm(ctx, shape.hidden, shape.eps)
        self.head = LMHead(ctx, shape.vocab, shape.hidden, tied_to=self.embed if shape.tied else None)

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """One group: every layer keeps all positions, also under a sliding window."""
        layers, kv_heads = tuple(range(len(self.layers))), self.layers[0].kv_heads
        return (KVGroup(layers=layers, kv_heads=kv_heads, head_dim=self.shape.head_dim),)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Consume the checkpoint once. Raises ConfigError naming missing or unknown tensors."""
        load(tensors, self.slots(), ignore=(r"lm_head\.weight",) if self.shape.tied else ())

    def load_dummy(self, seed: int) -> None:
        """Small seeded random weights."""
        load_dummy(self.slots(), seed, device=self.device)

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """-> logits float32 [samples, vocab]."""
        residual = self.embed(inputs.ids)
        rotary = self.rotary(inputs)
        x = self.layers[0].input_norm(residual)
        following = [layer.input_norm for layer in self.layers[1:]]
        for layer, norm in zip(self.layers, [*following, None], strict=True):
            x, residual = layer(x, residual, rotary, inputs, last=norm is None)
            if norm is not None:
                x, residual = norm.add(x, residual)
        if (index := inputs.hidden_index) is not None:
            states = self.norm.add(x.index_select(0, index), residual.index_select(0, index))[0]
            inputs.extra["hidden_states"] = states
            x, residual = sampled_rows(inputs, x, residual)
        return self.head(self.norm.add(x, residual)[0], out=inputs.logits)

    def slots(self) -> dict[str, Slot]:
        """The checkpoint's tensors and where they go."""
        table = self.embed.slots("model.embed_tokens")
        for layer in self.layers:
            table |= layer.slots()
        return table | self.norm.slots("model.norm") | self.head.slots("lm_head")


class Qwen3MoeForCausalLM(Qwen3ForCausalLM):
    """The same with a mixture of experts in the place of the MLP, in the layers that have one."""

    def __init__(self, ctx: BuildContext) -> None:
        shape, moe = Qwen3Shape.moe(ctx.config), ExpertShape.read(ctx.config)

        def mlp(index: int) -> FeedForward:
            if not moe.sparse[index]:
                return GatedMLP(ctx, shape.hidden, shape.intermediate)
            return MixtureOfExperts(ctx, shape.hidden, moe.inner, experts=moe.experts, k=moe.k, normalise=moe.normalise)

        self._build(ctx, shape, mlp)
