from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from layers.plain import context
from sglcore.contracts.models import ForwardInputs
from sglcore.errors import ConfigError
from sglcore.layers.rope import RotaryEmbedding
from sglcore.layers.rope_scaling import rope_parameters

DIM = 16
LONG = {"short_factor": [1.0 + i / 10 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.5},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "yarn mscale": {
        "factor": 40.0,
        "original_max_position_embeddings": 32,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    "yarn attention": {
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 0.8,
        "truncate": False,
    },
    "longrope": {"original_max_position_embeddings": 32, **LONG},
    "longrope factor": {"original_max_position_embeddings": 32, "factor": 8.0, **LONG},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def config(name: str, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": name.split()[0], "rope_theta": 5000.0, **SCALINGS[name]}
    return {
        "hidden_size": 4 * DIM,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "rope_parameters": rope,
        **more,
    }


def inputs(positions: torch.Tensor, **extra: torch.Tensor) -> ForwardInputs:
    return ForwardInputs(positions, positions, None, None, None, extra=dict(extra))


def transformers_tables(settings: dict[str, Any], positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rotary = LlamaRotaryEmbedding(LlamaConfig(**settings))
    cos, sin = rotary(torch.zeros(1), positions[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half], sin[0, :, :half]


@pytest.mark.parametrize("length", [20, 300])
@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_tables_are_those_of_transformers(name: str, length: int) -> None:
    positions = torch.arange(length)
    ours = RotaryEmbedding(context(config(name)), DIM)(
        inputs(positions, sequence_lengths=torch.full((length,), length))
    )
    for got, want in zip(ours, transformers_tables(config(name), positions), strict=True):
        assert got.dtype == torch.float32
        if name == "dynamic" and length > 128:
            torch.testing.assert_close(got, want, rtol=0, atol=2e-5)  # the base is a float32 here, a float64 there
        else:
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_without_lengths_a_token_sees_a_sequence_that_ends_with_it(name: str) -> None:
    rotary = RotaryEmbedding(context(config(name)), DIM)
    positions = torch.tensor([3, 200, 31])
    got = rotary(inputs(positions))
    for i, position in enumerate(positions.tolist()):
        want = transformers_tables(config(name), torch.tensor([position]))
        torch.testing.assert_close(got[0][i], want[0][0], rtol=0, atol=2e-5)
        torch.testing.assert_close(got[1][i], want[1][0], rtol=0, atol=2e-5)


def test_rows_of_different_lengths_share_a_step() -> None:
    rotary = RotaryEmbedding(context(config("longrope")), DIM)
    positions, lengths = torch.tensor([5, 5]), torch.tensor([20, 100])
    both = rotary(inputs(positions, sequence_lengths=lengths))[0]
    for i in range(2):
        alone = rotary(inputs(positions[i : i + 1], sequence_lengths=lengths[i : i + 1]))[0]
        assert torch.equal(both[i], alone[0])
    assert not torch.equal(both[0], both[1])


def test_only_part_of_a_head_may_turn() -> None:
    settings = config("default", partial_rotary_factor=0.5)
    cos, _ = RotaryEmbedding(context(settings), DIM)(inputs(torch.arange(4)))
    assert cos.shape == (4, DIM // 4)
    want = 1.0 / (5000.0 ** (torch.arange(0, 8, 2).float() / 8))
    torch.testing.assert_close(cos[3], (3 * want).cos())


def test_the_old_form_of_the_config_means_the_same() -> None:
    new = config("llama3")
    old = {key: value for key, value in new.items() if key != "rope_parameters"}
    scaling = {key: value for key, value in new["rope_parameters"].items() if key not in ("rope_theta", "rope_type")}
    old |= {"rope_theta": 5000.0, "rope_scaling": {"type": "llama3", **scaling}}
    tables = [RotaryEmbedding(context(c), DIM)(inputs(torch.arange(99))) for c in (new, old)]
    assert torch.equal(tables[0][0], tables[1][0])
    assert rope_parameters({"rope_theta": 7.0, "rope_scaling": None})["rope_type"] == "default"
    assert rope_parameters({})["rope_theta"] == 10_000.0


def test_settings_by_layer_type() -> None:
    nested = {
        "rope_parameters": {
            "full": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
            "local": {"rope_theta": 1e4},
        }
    }
    assert rope_parameters(nested, "full")["rope_theta"] == 1e6
    assert rope_parameters(nested, "local")["rope_type"] == "default"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rope_parameters": {"rope_type": "spiral"}}, "'spiral'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor, high_freq_factor"),
        ({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "1 entries"),
        ({"partial_rotary_factor": 0.2}, "3 dimensions"),
    ],
)
def test_what_cannot_be_computed_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RotaryEmbedding(context(settings), DIM)
