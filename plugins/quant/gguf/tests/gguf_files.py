"""Small GGUF files for the tests, written with the reference package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, WIDTH, LAYERS = 256, 256, 4, 2, 64, 2

BYTE_LEVEL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level_vocabulary() -> tuple[list[str], list[str], list[int]]:
    """(tokens, merges, types): all bytes, a few merges, three control tokens."""
    from sglcore_plugin_gguf.byte_level import byte_alphabet

    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġ Ġ", "Ċ Ċ"]
    tokens = [*BYTE_LEVEL_TOKENS, *byte_alphabet(), *(merge.replace(" ", "") for merge in merges)]
    return tokens, merges, [3] * 3 + [1] * (len(tokens) - 3)


def sentencepiece_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """(tokens, scores, types): bytes, letters and a few words with falling scores."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz.,!"]
    words = ["▁t", "he", "▁the", "in", "▁a", "re", "▁w", "or", "▁wor", "ld", "▁world", "▁hello", "ll", "hell", "hello"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(words) + len(letters))]
    scores = [0.0] * 259 + [-float(n) for n in range(len(words))] + [-1000.0 - n for n in range(len(letters))]
    return tokens, scores, types


def shapes(arch: str, vocab: int) -> dict[str, tuple[int, ...]]:
    """GGUF tensor name -> shape, rows first."""
    result: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,),
            "attn_q": (HEADS * WIDTH, HIDDEN), "attn_k": (KV_HEADS * WIDTH, HIDDEN),
            "attn_v": (KV_HEADS * WIDTH, HIDDEN), "attn_output": (HIDDEN, HEADS * WIDTH),
            "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER),
        }  # fmt: skip
        if arch in ("qwen3", "gemma3"):
            parts |= {"attn_q_norm": (WIDTH,), "attn_k_norm": (WIDTH,)}
        if arch == "gemma3":
            parts |= {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
        result |= {f"blk.{layer}.{part}.weight": shape for part, shape in parts.items()}
        if arch == "qwen2":
            for part in ("attn_q", "attn_k", "attn_v"):
                result[f"blk.{layer}.{part}.bias"] = parts[part][:1]
    return result


def write_model(path: Path, arch: str = "llama", *, kind: str = "Q4_K", tokenizer: str = "gpt2", **extra: Any) -> Path:
    """A whole small model with random weights; matrices in `kind`, vectors in F32.

    extra: keys set on top, by full name with `__` for dots; a float, int, str, bool or an array for a tensor
    when the name starts with `tensor__`.
    """
    writer = gguf.GGUFWriter(path, arch)
    vocab = _add_tokenizer(writer, tokenizer)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(WIDTH)
    writer.add_value_length(WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500000.0)
    if arch == "gemma3":
        writer.add_sliding_window(64)
    _add_extra(writer, extra)
    rng = np.random.default_rng(0)
    for name, shape in shapes(arch, vocab).items():
        _add_tensor(writer, name, shape, kind, rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, kind: str) -> int:
    writer.add_tokenizer_model(kind)
    if kind == "gpt2":
        tokens, merges, types = byte_level_vocabulary()
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges(merges)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(0)
        writer.add_chat_template("{{ messages[0].content }}")
    else:
        tokens, scores, types = sentencepiece_vocabulary()
        writer.add_token_scores(scores)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    return len(tokens)


def _add_extra(writer: gguf.GGUFWriter, extra: dict[str, Any]) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in extra.items():
        name = key.replace("__", ".")
        if name.startswith("tensor."):
            writer.add_tensor(name.removeprefix("tensor."), value)
        else:
            writer.kv_data[0].pop(name, None)
            adders[type(value)](name, value)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: str, rng: np.random.Generator
) -> None:
    if len(shape) == 1 or kind == "F32":
        writer.add_tensor(name, rng.standard_normal(shape, np.float32))
        return
    quant = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quant]
    raw = rng.integers(0, 256, (shape[0], shape[1] // block * size), np.uint8)
    writer.add_tensor(name, raw, raw_dtype=quant)
