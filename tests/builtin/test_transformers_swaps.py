"""What the fallback puts on the platform's kernels: each stand-in right, others left alone, and all of it told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from builtin.test_transformers_fallback import (
    BASE,
    CASES,
    Rows,
    checkpoint,
    close,
    context,
    expected,
    reference,
    tokens,
)
from sglcore.builtin.cpu_ops import CpuOps
from sglcore.builtin.transformers_fallback import TransformersModel
from sglcore.builtin.transformers_modules import JointLinear
from sglcore.builtin.transformers_rope import Rotation, plain_apply
from sglcore.builtin.transformers_swap_table import SwapTable
from sglcore.builtin.transformers_swaps import SWITCH, use_ops
from sglcore.errors import ConfigError
from sglcore.layers.reference import rotate

SIZE = 256


class PlainLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias, self.out_features = weight, bias, weight.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class PlainOps(CpuOps):
    """Counts matrices, and measures none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        self.shapes.append(tuple(weight.shape))
        return PlainLinear(weight, bias)


def loaded(name: str, **changes: Any) -> TransformersModel:
    model = TransformersModel(context({**BASE, **CASES[name]}, **{"ops": PlainOps(), **changes}))
    model.load_dummy(0)
    return model


def told(model: TransformersModel) -> dict[str, tuple[int, str | None]]:
    return {row["module"]: (row["count"], row["swapped_for"]) for row in model.model_modules}


def swapped(module: nn.Module, ops: Any = None, run: Any = None) -> SwapTable:
    return use_ops(module.eval().requires_grad_(False), ops or PlainOps(), run or (lambda: None))


@pytest.mark.parametrize("name", list(CASES))
def test_swapped_models_equal_transformers(name: str, tmp_path: Any) -> None:
    """Prompts, a chunk and single tokens, with everything swapped that can be."""
    config = {**BASE, **CASES[name]}
    model = reference(config)
    fallback = TransformersModel(context(config, ops=PlainOps()))
    fallback.load(checkpoint(model, tmp_path).items())
    a, b, rows = tokens(23, 1), tokens(17, 2), Rows(fallback)
    want_a, want_b = expected(model, a), expected(model, b)
    close(rows.step({"a": a[:20], "b": b[:9]}), torch.cat((want_a[:20], want_b[:9])))
    close(rows.step({"b": b[9:16], "a": a[20:21]}, [6, 7]), torch.stack((want_b[15], want_a[20])))
    for n in (21, 22):
        close(rows.step({"a": a[n : n + 1]}), want_a[n : n + 1])
    assert all(row["error"] is None or row["error"] < 2e-5 for row in fallback.model_modules if row["swapped_for"])


def test_table_of_llama(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sglcore.models"):
        model = loaded("llama")
    assert told(model) == {
        "LlamaMLP": (3, "linear(gate, up), silu_mul, linear"),
        "LlamaAttention: q_proj, k_proj, v_proj": (3, "one linear"),
        "LlamaAttention: apply_rotary_pos_emb": (3, "rope"),
        "Embedding": (1, "embedding"),
        "Linear": (4, "linear"),
        "LlamaRMSNorm": (7, "rms_norm"),
    }
    assert sorted(model.ctx.ops.shapes) == sorted([(64, 32), (32, 32), (96, 32), (32, 48)] * 3 + [(97, 32)])
    (record,) = caplog.records
    lines = record.getMessage().splitlines()
    assert lines[1].split() == ["module", "count", "swapped", "for", "verified", "error"]
    assert any("LlamaRMSNorm" in line and "rms_norm" in line and " 7 " in line for line in lines)


def test_joint_projections_equal_separate_ones() -> None:
    ids = tokens(12, 9)
    joint = Rows(loaded("qwen2")).step({"a": ids})
    separate = Rows(TransformersModel(context({**BASE, **CASES["qwen2"]}), replace_modules=False))
    separate.harness.model.load_dummy(0)
    close(joint, separate.step({"a": ids}))


def test_bfloat16_stays_within_rounding() -> None:
    model = loaded("llama", dtype=torch.bfloat16)
    assert told(model)["LlamaAttention: apply_rotary_pos_emb"] == (3, "rope")
    assert all(row["error"] < 2e-2 for row in model.model_modules)


def test_other_forms_are_left_alone() -> None:
    found = told(loaded("gemma3"))
    assert found["Gemma3RMSNorm"] == (19, None), "its weight counts from 1"
    assert found["Gemma3MLP: gate_proj, up_proj"] == (3, "one linear") and "Gemma3MLP" not in found, "it is GELU's"
    found = told(loaded("cohere"))
    assert found["CohereAttention: apply_rotary_pos_emb"] == (3, None), "it turns neighbours, not halves"
    assert found["CohereLayerNorm"] == (4, None)
    assert told(loaded("gpt-oss"))["GptOssAttention: apply_rotary_pos_emb"] == (3, None)


def test_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    model = loaded("llama")
    assert model.ctx.ops.shapes == [] and model.model_modules == []
    assert type(model.module.model.layers[0].self_attn.q_proj) is nn.Linear


class Norm(nn.Module):
    def __init__(self, form: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.form, self.eps = form, 1e-6
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(SIZE, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        if self.form == "centred":
            wide = wide - wide.mean(-1, keepdim=True)
        mean = wide.square().mean(-1, keepdim=True)
        root = mean.sqrt() + self.eps if self.form == "outside" else (mean + self.eps).sqrt()
        weight = self.weight + 1e-4 if self.form == "off by little" else self.weight
        return weight * (wide / root).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["plain", "centred", "outside", "off by little"])
def test_a_norm_is_swapped_only_where_it_is_that_norm(form: str, dtype: torch.dtype) -> None:
    table = swapped(nn.Sequential(Norm(form, dtype)))
    (row,) = table.rows()
    nearly = form == "off by little" and dtype == torch.bfloat16  # its weight cannot tell
    assert (row["swapped_for"] == "rms_norm") is (form == "plain") or nearly


class WrongOps(PlainOps):
    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        return super().linear(weight * 1.01, bias)


class SpoilingOps(PlainOps):
    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        return super().linear(weight.mul_(2), bias)


class FailingOps(PlainOps):
    def rope(self, *args: Any) -> Any:
        raise RuntimeError("no such shape")


def test_a_kernel_that_is_wrong_is_not_used() -> None:
    model = loaded("llama", ops=WrongOps())
    found = told(model)
    assert found["LlamaMLP"] == (3, None) and found["Linear"] == (22, None)
    assert found["LlamaAttention: q_proj, k_proj, v_proj"] == (3, None)
    ids = tokens(9, 3)
    plain = TransformersModel(context({**BASE, **CASES["llama"]}), replace_modules=False)
    plain.load_dummy(0)
    close(Rows(model).step({"a": ids}), Rows(plain).step({"a": ids}))


def test_a_kernel_that_spoils_the_weights_is_named() -> None:
    with pytest.raises(ConfigError, match=rf"changed its weights.*{SWITCH}=0"):
        swapped(nn.Sequential(nn.Linear(8, 8)), SpoilingOps())


def test_a_kernel_that_fails_is_not_used() -> None:
    model = loaded("llama", ops=FailingOps())
    assert told(model)["LlamaAttention: apply_rotary_pos_emb"] == (3, None)
    assert "forward" not in model.module.model.layers[0].self_attn.__dict__
    assert next(r["error"] for r in model.model_modules if "rotary" in r["module"]) is None


class Pair(nn.Module):
    """Two maps, of one tensor or of two."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.a, self.b, self.apart = nn.Linear(8, 5), nn.Linear(8, 3), apart

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.a(x), self.b(x + 1 if self.apart else x)), -1)


@pytest.mark.parametrize("apart", [False, True])
def test_maps_are_joined_only_where_they_share_their_input(apart: bool) -> None:
    model, x = nn.Sequential(Pair(apart)), torch.randn(4, 8)
    wanted = model(x)
    table = swapped(model, run=lambda: model(x))
    assert [r["swapped_for"] for r in table.rows()] == (["linear"] if apart else ["one linear"])
    torch.testing.assert_close(model(x), wanted)


def test_joint_map_is_right_in_any_order() -> None:
    layers = [nn.Linear(8, n).requires_grad_(False) for n in (4, 6, 2)]
    joint = JointLinear(PlainOps(), layers)
    x, y = torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    for index, given in [(0, x), (0, x), (2, x), (1, y), (0, x), (1, x), (2, x), (2, y), (1, y), (0, y)]:
        torch.testing.assert_close(joint.part(index, given), layers[index](given))
    assert joint._x is None and not joint._parts, "nothing may be kept between steps"


def test_rotation_leaves_the_modelling_file_alone() -> None:
    from transformers.models.llama import modeling_llama

    plain = modeling_llama.apply_rotary_pos_emb
    attention = loaded("llama").module.model.layers[0].self_attn
    assert modeling_llama.apply_rotary_pos_emb is plain
    assert attention.forward.__func__ is not modeling_llama.LlamaAttention.forward
    assert plain_apply(attention) is None and plain_apply(modeling_llama.LlamaAttention(attention.config, 0)) is plain


def test_rotation_takes_the_usual_call_only() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as plain

    rotation = Rotation(CpuOps(), plain)
    half = torch.randn(2, 1, 5, 4)
    cos, sin = torch.cat((half, half), -1)
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    for _ in range(2):
        for got, x in zip(rotation(q, k, cos, sin), (q, k), strict=True):
            torch.testing.assert_close(got[0].transpose(0, 1), rotate(x[0].transpose(0, 1), *half[:, 0]))
    assert rotation.turned == 2 and rotation.apart < 1e-6
    del cos, sin, got, x
    assert len(rotation._tables) == 0
    cos, sin = torch.cat((half, half), -1)
    turned = q.transpose(1, 2), k.transpose(1, 2)
    for got, want in zip(rotation(*turned, cos, sin, unsqueeze_dim=2), rotation(q, k, cos, sin), strict=True):
        torch.testing.assert_close(got.transpose(1, 2), want)
    assert rotation.turned == 3


def test_logits_go_where_they_are_wanted() -> None:
    rows = Rows(loaded("llama"))
    ids = tokens(6, 4)
    want = rows.step({"a": ids})
    row = rows.harness.row(8)
    inputs = rows.harness.inputs([(row, ids)])
    inputs.logits = torch.empty(6, 97, dtype=torch.bfloat16)
    assert rows.harness.model.forward(inputs) is inputs.logits
    torch.testing.assert_close(inputs.logits, want.bfloat16())
