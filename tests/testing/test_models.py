"""The checks of the model kit are seen to fail, each on a model that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.models import ModelSpec
from sglcore.testing import ModelConformance
from testing.faults import checks, seen

TINY = {
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def suite(model: str, model_type: str = "llama", **config: Any) -> type[ModelConformance]:
    spec = ModelSpec(name="LlamaForCausalLM", factory=f"testing.broken_models:{model}")
    configs = {"tiny": {**TINY, **config}}
    return type(
        "Suite", (ModelConformance,), {"spec": spec, "model_type": model_type, "configs": configs, "length": 12}
    )


@pytest.fixture(scope="module")
def case() -> Any:
    return suite("Sound").reference(TINY)


FAULTS = [
    ("WrongLogits", "test_logits_match_transformers", "prompt of 12 tokens differ from Transformers': largest error"),
    ("HalfLogits", "test_logits_match_transformers", "logits are torch.bfloat16, not float32"),
    ("StartsAnewEachStep", "test_prefill_chunks_and_decoding_agree", "in chunks cut at 5, 11 differs"),
    (
        "LooksAtItsNeighbours",
        "test_a_row_does_not_depend_on_its_batch",
        "among other rows differs from the prompt alone",
    ),
    ("SortsItsSamples", "test_logits_of_the_wanted_positions_only", "sample_index picks other positions"),
    ("AlwaysSamples", "test_no_logits_where_none_are_wanted", "1 rows of logits where none were wanted"),
    (
        "DropsForeignWeights",
        "test_foreign_weights_are_refused",
        "has model.stranger.weight, and it is loaded all the same",
    ),
    ("TakesAnyShape", "test_foreign_weights_are_refused", r"has shape \[1, 32\], not \[53, 32\], and it is loaded"),
    ("InventsWeights", "test_missing_weights_are_refused", "lacks model.embed_tokens.weight, and it is loaded"),
    (
        "LosesAWeight",
        "test_every_tensor_shows_in_the_logits",
        "layers.1.self_attn.q_proj.weight is loaded but has no effect",
    ),
    ("ClaimsALayerMore", "test_declared_needs_are_the_real_ones", r"writes layers \[0, 1\].* groups have \[0, 1, 2\]"),
    ("SameDummyForEverySeed", "test_dummy_weights", "every seed gives the same model"),
]


@pytest.mark.parametrize("model, check, message", FAULTS)
def test_the_fault_is_seen(case: Any, model: str, check: str, message: str):
    seen(suite(model), check, message, case)


def test_a_window_that_is_not_declared_is_seen():
    hidden = suite("Windowed", "mistral", sliding_window=5)
    case = hidden.reference(hidden.configs["tiny"])
    seen(hidden, "test_declared_needs_are_the_real_ones", "uses sliding_window, but its Spec needs nothing", case)


def test_the_sound_one_passes_every_check(case: Any):
    for check in {check for _, check, _ in FAULTS}:
        getattr(suite("Sound")(), check)(case)


def test_every_check_is_seen_to_fail():
    elsewhere = {
        "test_the_spec_is_well_formed",
        "test_the_factory_loads",
        "test_the_probe_answers",
        "test_tensor_parallel_shards_equal_the_whole",  # test_tensor_parallel.py
    }
    assert {check for _, check, _ in FAULTS} == set(checks(ModelConformance)) - elsewhere
