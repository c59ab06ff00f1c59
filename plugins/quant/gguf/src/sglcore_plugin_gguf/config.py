"""A Hugging Face config.json and generation_config.json out of GGUF metadata."""

from __future__ import annotations

from typing import Any

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.architectures import ARCHITECTURES, Architecture
from sglcore_plugin_gguf.cursor import broken
from sglcore_plugin_gguf.metadata import Metadata
from sglcore_plugin_gguf.reader import Header
from sglcore_plugin_gguf.rope import rope_scaling
from sglcore_plugin_gguf.shapes import check_shapes

# Tokens that end a turn under a name of their own; older files carry no eot or eom key.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
CONTROL = 3  # tokenizer.ggml.token_type of special tokens


def architecture_of(meta: Metadata) -> Architecture:
    """The architecture of a file. Raises ConfigError where it is not one of the known."""
    if meta.arch not in ARCHITECTURES:
        raise ConfigError(
            f"GGUF file {meta.path} holds architecture {meta.arch!r}; {', '.join(ARCHITECTURES)} can be read.",
            remedy="Use the model's safetensors files instead.",
        )
    if meta.has("{arch}.expert_count") and meta.values[f"{meta.arch}.expert_count"] != 0:
        raise ConfigError(
            f"GGUF file {meta.path} is a mixture of experts, which cannot be read from GGUF.",
            remedy="Use the model's safetensors files instead.",
        )
    return ARCHITECTURES[meta.arch]


def model_config(header: Header, meta: Metadata) -> dict[str, Any]:
    """config.json content, `architectures` included. Raises ConfigError naming a missing or impossible key."""
    arch = architecture_of(meta)
    heads = meta.count("{arch}.attention.head_count")
    head_dim = _head_dim(meta, heads)
    theta = meta.number("{arch}.rope.freq_base", 1e6 if meta.arch == "gemma3" else 10000.0)
    config = {
        "architectures": [arch.hf_class],
        "model_type": arch.model_type,
        "vocab_size": _vocab_size(header),
        "hidden_size": meta.count("{arch}.embedding_length"),
        "intermediate_size": meta.count("{arch}.feed_forward_length"),
        "num_hidden_layers": meta.count("{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.count("{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": meta.count("{arch}.context_length"),
        "rms_norm_eps": meta.number("{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(header, meta, theta, head_dim),
        "tie_word_embeddings": header.tensor("output.weight") is None,
        "bos_token_id": meta.token_id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.token_id("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta.token_id("tokenizer.ggml.padding_token_id"),
    }
    config |= _gemma3_part(meta, head_dim) if meta.arch == "gemma3" else _llama_part(header)
    check_shapes(header, arch, config)
    return config


def generation_config(meta: Metadata) -> dict[str, Any]:
    """generation_config.json content: every id that ends an answer, BOS and padding where known."""
    ends = {meta.token_id(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")} - {None}
    tokens = meta.texts("tokenizer.ggml.tokens")
    types = meta.array("tokenizer.ggml.token_type", len(tokens))
    for text in TURN_ENDS:
        index = tokens.index(text) if text in tokens else None
        if index is not None and (types is None or types[index] == CONTROL):
            ends.add(index)
    ids = {
        "eos_token_id": sorted(i for i in ends if i is not None) or None,
        "bos_token_id": meta.token_id("tokenizer.ggml.bos_token_id"),
        "pad_token_id": meta.token_id("tokenizer.ggml.padding_token_id"),
    }
    return {key: value for key, value in ids.items() if value is not None}


def _head_dim(meta: Metadata, heads: int) -> int:
    hidden = meta.count("{arch}.embedding_length")
    whole = hidden // heads or 1
    default = meta.count("{arch}.rope.dimension_count", whole) if meta.arch == "llama" else whole
    head_dim = meta.count("{arch}.attention.key_length", default)
    if meta.count("{arch}.attention.value_length", head_dim) != head_dim or head_dim % 2:
        raise broken(meta.path, f"heads of {head_dim} for keys are odd or differ from those for values")
    return head_dim


def _vocab_size(header: Header) -> int:
    embedding = header.tensor("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise broken(header.path, "it has no two-dimensional tensor 'token_embd.weight'")
    return embedding.shape[0]


def _llama_part(header: Header) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "attention_bias": header.tensor("blk.0.attn_q.bias") is not None,
        "mlp_bias": header.tensor("blk.0.ffn_gate.bias") is not None,
    }


def _gemma3_part(meta: Metadata, head_dim: int) -> dict[str, Any]:
    layers = meta.count("{arch}.block_count")
    hidden, heads = meta.count("{arch}.embedding_length"), meta.count("{arch}.attention.head_count")
    # The 27B model (62 layers) alone scales scores by the width a head would have without head_dim.
    scalar = hidden // heads if layers == 62 else head_dim
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": meta.count("{arch}.attention.sliding_window"),
        "sliding_window_pattern": 6,  # five local layers, then a global one; not in the metadata
        "rope_local_base_freq": meta.number("{arch}.rope.freq_base_swa", 10000.0),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
