from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, WIDTH, write_model
from sglcore_plugin_gguf.format import GGUFCheckpoint, GGUFFormat

from sglcore.errors import ConfigError


def opened(tmp_path: Path, arch: str = "llama", **extra: Any) -> GGUFCheckpoint:
    return GGUFFormat().open(write_model(tmp_path / "m.gguf", arch, **extra))


def test_llama_config(tmp_path: Path) -> None:
    config = opened(tmp_path).config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (HIDDEN, INNER, LAYERS)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (
        HEADS,
        KV_HEADS,
        WIDTH,
    )
    assert (config["max_position_embeddings"], config["rope_theta"], config["rope_scaling"]) == (512, 500000.0, None)
    assert config["rms_norm_eps"] == pytest.approx(1e-6)
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 0)


def test_an_output_tensor_unties_the_embeddings(tmp_path: Path) -> None:
    vocab = opened(tmp_path).config["vocab_size"]
    config = opened(tmp_path, tensor__output__weight=np.zeros((vocab, HIDDEN), np.float32)).config
    assert config["tie_word_embeddings"] is False


def test_generation_config_has_every_end(tmp_path: Path) -> None:
    # <|im_end|> (2) is known by its name, eot and eom by their keys.
    generation = opened(tmp_path, tokenizer__ggml__eot_token_id=5, tokenizer__ggml__eom_token_id=7).generation_config
    assert generation == {"eos_token_id": [0, 2, 5, 7], "bos_token_id": 1}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"type": "none"}, None),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 128},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_rope_scaling(tmp_path: Path, extra: dict[str, Any], expected: dict[str, Any] | None) -> None:
    keys = {f"qwen2__rope__scaling__{key}": value for key, value in extra.items()}
    assert opened(tmp_path, "qwen2", **keys).config["rope_scaling"] == expected


@pytest.mark.parametrize(("factor", "high", "original"), [(8.0, 4.0, 8192), (32.0, 4.0, 8192), (4.0, 8.0, 2048)])
def test_llama3_scaling_is_recovered_from_its_frequencies(
    tmp_path: Path, factor: float, high: float, original: int
) -> None:
    frequencies = 500000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    smooth = np.clip((original * frequencies / (2 * math.pi) - 1) / (high - 1), 0, 1)
    divisors = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    assert opened(tmp_path, tensor__rope_freqs__weight=divisors).config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


@pytest.mark.parametrize(
    "divisors", [np.ones(WIDTH // 2), np.linspace(1, 9, WIDTH // 2) ** 2, np.full(WIDTH // 2, np.nan)]
)
def test_frequencies_of_another_kind_are_refused(tmp_path: Path, divisors: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"'rope_freqs.weight' are not a llama3 rope scaling"):
        opened(tmp_path, tensor__rope_freqs__weight=divisors.astype(np.float32))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama__rope__scaling__type": "longrope"}, "rope scaling 'longrope'"),
        ({"llama__attention__head_count": 0}, "'llama.attention.head_count' is 0, not an integer from 1"),
        ({"llama__rope__freq_base": math.nan}, "'llama.rope.freq_base' is nan, not a positive number"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"tokenizer__ggml__eos_token_id": 10**6}, "eos_token_id' is 1000000, not a token id below"),
        ({"llama__attention__value_length": 32}, "differ from those for values"),
    ],
)
def test_impossible_values_are_named(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, **extra)


def test_unknown_architectures_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="architecture 'mamba'; llama, qwen2, qwen3, gemma3 can be read"):
        opened(tmp_path, "mamba")
