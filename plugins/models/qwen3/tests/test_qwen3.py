from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from sglcore_plugin_qwen3.shape import ExpertShape, Qwen3Shape
from sglcore_plugin_qwen3.spec import QWEN3, QWEN3_MOE

from sglcore.errors import ConfigError
from sglcore.testing import InitConformance, ModelConformance

SMALL: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {
    **SMALL,
    "num_hidden_layers": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}
PARTS = ("gate_proj", "up_proj")


class TestInit(InitConformance):
    distribution = "sglcore-plugin-qwen3"


class TestQwen3(ModelConformance):
    spec = QWEN3
    model_type = "qwen3"
    configs: ClassVar[dict[str, dict[str, Any]]] = {
        "plain": SMALL,
        "tied": {**SMALL, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
        "biased": {**SMALL, "attention_bias": True},
        "windows": {**SMALL, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    }


class TestQwen3Moe(ModelConformance):
    spec = QWEN3_MOE
    model_type = "qwen3_moe"
    configs: ClassVar[dict[str, dict[str, Any]]] = {
        "plain": EXPERTS,
        "raw weights, windows": {**EXPERTS, "norm_topk_prob": False, "use_sliding_window": True, "sliding_window": 7},
        "some layers dense": {**EXPERTS, "num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
    }

    def test_experts_one_by_one_are_the_merged_ones(self) -> None:
        """Published checkpoints name each expert's tensors."""
        case = self.reference(EXPERTS)
        prompt = self.tokens(case, self.length)
        results = []
        for stored in (self.checkpoint(case[1]), one_by_one(self.checkpoint(case[1]))):
            model = self.build(case, load=False)
            model.load(iter(stored))
            harness = self.harness(model)
            results.append(harness.run([(harness.row(len(prompt)), prompt)])[0])
        assert torch.equal(*results)

    def test_a_missing_expert_is_named(self) -> None:
        """Alone, and not for what stands in its place."""
        case = self.reference(EXPERTS)
        lost = "model.layers.1.mlp.experts.3.up_proj.weight"
        stored = [pair for pair in one_by_one(self.checkpoint(case[1])) if pair[0] != lost]
        with pytest.raises(ConfigError, match=f"lacks 1 of .*: {lost}"):
            self.build(case, load=False).load(iter(stored))
        whole = "model.layers.1.mlp.experts.gate_up_proj"
        stored = [*one_by_one(self.checkpoint(case[1])), *(t for t in self.checkpoint(case[1]) if t[0] == whole)]
        with pytest.raises(ConfigError, match=f"{whole} twice"):
            self.build(case, load=False).load(iter(stored))


def one_by_one(stored: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    """The same checkpoint with a tensor for each expert's matrix."""
    found: list[tuple[str, torch.Tensor]] = []
    for name, tensor in stored:
        prefix, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for expert, both in enumerate(tensor):
                halves = zip(PARTS, both.chunk(2), strict=True)
                found += [(f"{prefix}.{expert}.{part}.weight", half) for part, half in halves]
        elif last == "down_proj":
            found += [(f"{prefix}.{expert}.down_proj.weight", matrix) for expert, matrix in enumerate(tensor)]
        else:
            found.append((name, tensor))
    return found


def test_logits_are_written_where_the_step_wants_them() -> None:
    kit = TestQwen3Moe()
    case = kit.reference(EXPERTS)
    model = kit.build(case)
    harness = kit.harness(model)
    prompt = kit.tokens(case, 8)
    want = harness.run([(harness.row(8), prompt)])[0][-1:]
    inputs = harness.inputs([(harness.row(8), prompt)], [7])
    inputs.logits = torch.full((1, model.vocab_size), float("nan"))
    with torch.inference_mode():
        got = model.forward(inputs)
    assert got.data_ptr() == inputs.logits.data_ptr()
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_key_value_heads": 4}, "does not divide"),
        ({"vocab_size": None}, "vocab_size"),
        ({"layer_types": ["full_attention"]}, "1 layer_types for 3"),
        ({"layer_types": ["linear_attention"] * 3}, "linear_attention"),
    ],
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Qwen3Shape.dense({**SMALL, **change})


def test_experts_are_read_under_both_names_and_must_be_there() -> None:
    renamed = {key: value for key, value in EXPERTS.items() if key != "num_experts"}
    assert ExpertShape.read({**renamed, "num_local_experts": 4}) == ExpertShape.read(EXPERTS)
    with pytest.raises(ConfigError, match="num_experts"):
        ExpertShape.read(renamed)
