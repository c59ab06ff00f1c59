"""A DeepSeek-V2 (arXiv:2405.04434) written with `sglcore.layers`, for tests of latent attention; default rope only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup, ModelSpec
from sglcore.layers.embedding import LMHead, VocabEmbedding
from sglcore.layers.latent import LatentAttention, halves_of_pairs, latent_group
from sglcore.layers.linear import Linear, Part, RowParallelLinear
from sglcore.layers.loading import Slot, load, load_dummy
from sglcore.layers.mlp import GatedMLP
from sglcore.layers.moe import MixtureOfExperts
from sglcore.layers.norm import RMSNorm
from sglcore.layers.rope import RotaryEmbedding

SPEC = ModelSpec(
    name="DeepseekV2ForCausalLM",
    factory="parity.deepseek_v2:DeepseekV2ForCausalLM",
    needs=("mla",),
    tensor_parallel=True,
    graph_safe=True,
)
LORA_EPS = 1e-6  # of the norms inside of attention, whatever config.json says of the others


class Queries:
    """From hidden states to each head's query, through a low rank where the config has one."""

    def __init__(self, ctx: BuildContext, hidden: int, low: int | None, out: int) -> None:
        self.low = low
        if low is None:
            self.direct = Linear(ctx, hidden, [Part("q_proj", out, ctx.tp_size)])
        else:
            self.down = Linear(ctx, hidden, [Part("q_a_proj", low)])
            self.norm = RMSNorm(ctx, low, LORA_EPS)
            self.up = Linear(ctx, low, [Part("q_b_proj", out, ctx.tp_size)])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.direct(x) if self.low is None else self.up(self.norm(self.down(x)))

    def slots(self, prefix: str) -> dict[str, Slot]:
        if self.low is None:
            return self.direct.slots(prefix)
        return self.down.slots(prefix) | self.norm.slots(f"{prefix}q_a_layernorm") | self.up.slots(prefix)


class Experts:
    """Routed experts beside shared ones, which every token takes."""

    def __init__(self, ctx: BuildContext) -> None:
        c = ctx.config
        hidden, inner = c["hidden_size"], c["moe_intermediate_size"]
        self.routed = MixtureOfExperts(
            ctx, hidden, inner, experts=c["n_routed_experts"], k=c["num_experts_per_tok"], normalise=False
        )
        self.shared = GatedMLP(ctx, hidden, inner * c["n_shared_experts"])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.routed(x) + self.shared(x)

    def slots(self, prefix: str) -> dict[str, Slot]:
        return self.routed.slots(prefix) | self.shared.slots(f"{prefix}shared_experts.")


class Layer:
    def __init__(self, ctx: BuildContext, index: int) -> None:
        c = ctx.config
        hidden, eps = c["hidden_size"], c["rms_norm_eps"]
        heads, self.rank, self.rope_dim = c["num_attention_heads"], c["kv_lora_rank"], c["qk_rope_head_dim"]
        self.nope = c["qk_nope_head_dim"]
        size = self.nope + self.rope_dim
        self.prefix = f"model.layers.{index}."
        self.input_norm = RMSNorm(ctx, hidden, eps)
        self.queries = Queries(ctx, hidden, c["q_lora_rank"], heads * size)
        self.down = Linear(ctx, hidden, [Part("kv_a_proj_with_mqa", self.rank + self.rope_dim)])
        self.latent_norm = RMSNorm(ctx, self.rank, LORA_EPS)
        self.attention = LatentAttention(
            ctx, index, heads=heads, rank=self.rank, nope=self.nope, value=c["v_head_dim"], scale=size**-0.5
        )
        self.out = RowParallelLinear(ctx, heads * c["v_head_dim"], hidden, "o_proj")
        self.post_norm = RMSNorm(ctx, hidden, eps)
        dense = index < c["first_k_dense_replace"]
        self.mlp: GatedMLP | Experts = GatedMLP(ctx, hidden, c["intermediate_size"]) if dense else Experts(ctx)
        self.rope: Callable[..., tuple[torch.Tensor, torch.Tensor]] = ctx.ops.rope

    def __call__(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], inputs: ForwardInputs
    ) -> torch.Tensor:
        h, tokens = self.input_norm(x), x.shape[0]
        q = self.queries(h).view(tokens, self.attention.heads, -1)
        latent, k_rope = self.down(h).split((self.rank, self.rope_dim), 1)
        q_rope, k_rope = halves_of_pairs(q[..., self.nope :]), halves_of_pairs(k_rope)
        q_rope, k_rope = self.rope(q_rope, k_rope[:, None], *rotary)
        out = self.attention(q[..., : self.nope], q_rope, self.latent_norm(latent), k_rope[:, 0], inputs)
        x = x + self.out(out.reshape(tokens, -1))
        return x + self.mlp(self.post_norm(x))

    def slots(self) -> dict[str, Slot]:
        own = f"{self.prefix}self_attn."
        return {
            **self.input_norm.slots(f"{self.prefix}input_layernorm"),
            **self.queries.slots(own),
            **self.down.slots(own),
            **self.latent_norm.slots(f"{own}kv_a_layernorm"),
            **self.attention.slots(own),
            **self.out.slots(own),
            **self.post_norm.slots(f"{self.prefix}post_attention_layernorm"),
            **self.mlp.slots(f"{self.prefix}mlp."),
        }


class DeepseekV2ForCausalLM:
    """Implements `contracts.Model`."""

    def __init__(self, ctx: BuildContext) -> None:
        c = ctx.config
        self.group = latent_group(c["num_hidden_layers"], c["kv_lora_rank"], c["qk_rope_head_dim"])
        self.vocab_size = c["vocab_size"]
        self.embed = VocabEmbedding(ctx, self.vocab_size, c["hidden_size"])
        self.rotary = RotaryEmbedding(ctx, c["qk_rope_head_dim"])
        self.layers = [Layer(ctx, index) for index in range(c["num_hidden_layers"])]
        self.norm = RMSNorm(ctx, c["hidden_size"], c["rms_norm_eps"])
        self.head = LMHead(ctx, self.vocab_size, c["hidden_size"])

    def kv_groups(self) -> tuple[KVGroup, ...]:
        return (self.group,)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        load(tensors, self.slots())

    def load_dummy(self, seed: int) -> None:
        load_dummy(self.slots(), seed)

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        x, rotary = self.embed(inputs.ids), self.rotary(inputs)
        for layer in self.layers:
            x = layer(x, rotary, inputs)
        return self.head(self.norm(x), inputs.sample_index, out=inputs.logits)

    def slots(self) -> dict[str, Slot]:
        table = self.embed.slots("model.embed_tokens")
        for layer in self.layers:
            table |= layer.slots()
        return table | self.norm.slots("model.norm") | self.head.slots("lm_head")
