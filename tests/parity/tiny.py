"""Tiny random models, made on the spot through Transformers' own configs and saved as ordinary directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 160
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA_LIKE: dict[str, Any] = {
    **COMMON,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA_LIKE),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA_LIKE, head_dim=16),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=256, n_embd=64, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
    ),
}


# Of other shapes: a sliding window (served natively), and a mixture of experts (served by the fallback).
MATRIX: dict[str, Any] = {
    "llama": CONFIGS["llama"],
    "mistral": lambda: transformers.MistralConfig(**LLAMA_LIKE, head_dim=16, sliding_window=24),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **LLAMA_LIKE, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48
    ),
}


def make(name: str, folder: Path) -> tuple[Path, Any]:
    """(directory, Transformers model in float32) of a tiny random `name`; weights large enough for varied answers."""
    torch.manual_seed(sum(map(ord, name)))
    model = transformers.AutoModelForCausalLM.from_config((CONFIGS | MATRIX)[name](), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    path = folder / name
    model.save_pretrained(path)
    return path, model
