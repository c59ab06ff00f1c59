"""The tensors a model must have, against those the file has."""

from __future__ import annotations

from typing import Any

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.architectures import Architecture
from sglcore_plugin_gguf.cursor import broken
from sglcore_plugin_gguf.reader import Header
from sglcore_plugin_gguf.rope import FREQS_TENSOR

Shape = tuple[int, ...]


def check_shapes(header: Header, arch: Architecture, config: dict[str, Any]) -> None:
    """Raise ConfigError where a tensor is missing, is foreign to the architecture, or has another shape."""
    if config["num_hidden_layers"] > len(header.tensors):
        raise broken(header.path, f"{len(header.tensors)} tensors are too few for {config['num_hidden_layers']} layers")
    wanted = _expected(arch, config)
    found = {entry.name: entry for entry in header.tensors}
    for name in wanted:
        if name not in found:
            raise broken(header.path, f"tensor {name!r} of {config['num_hidden_layers']} layers is missing")
    for name, entry in found.items():
        if name == FREQS_TENSOR:
            continue
        shape = _expected_of(name, wanted)
        if shape is None or arch.hf_name(name) is None:
            raise ConfigError(
                f"GGUF file {header.path}: tensor {name!r} ({entry.kind.name}) is not part of {arch.hf_class}.",
                remedy="Use the model's safetensors files instead.",
            )
        if entry.shape != shape:
            raise broken(header.path, f"tensor {name!r} has shape {entry.shape}, but the metadata implies {shape}")


def _expected_of(name: str, wanted: dict[str, Shape]) -> Shape | None:
    """Shape of a tensor: a bias has one value per row of its weight; `output.weight` equals the embedding."""
    if name == "output.weight":
        return wanted["token_embd.weight"]
    if name.endswith(".bias"):
        rows = wanted.get(name.removesuffix(".bias") + ".weight")
        return rows[:1] if rows and len(rows) == 2 else None
    return wanted.get(name)


def _expected(arch: Architecture, config: dict[str, Any]) -> dict[str, Shape]:
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    matrices: dict[str, Shape] = {
        "attn_q": (query, hidden),
        "attn_k": (key, hidden),
        "attn_v": (key, hidden),
        "attn_output": (hidden, query),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
        "attn_q_norm": (width,),
        "attn_k_norm": (width,),
    }
    shapes: dict[str, Shape] = {
        "token_embd.weight": (config["vocab_size"], hidden),
        "output_norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        for part in arch.parts:
            shapes[f"blk.{layer}.{part}.weight"] = matrices.get(part, (hidden,))
    return shapes
