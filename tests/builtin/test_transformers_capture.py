"""Whether the fallback's step may be captured: told by watching one, and heeded by the engine."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from builtin.test_transformers_fallback import BASE, CASES, context
from sglcore.builtin.transformers_capture import hindrance
from sglcore.builtin.transformers_fallback import TransformersModel
from sglcore.config import EngineConfig
from sglcore.engine.geometry import graph_sizes

CPU = torch.device("cpu")
MOE = {"qwen3-moe", "mixtral", "gpt-oss", "deepseek-v3"}
X = torch.arange(6.0)
STEPS: dict[str, tuple[Any, str]] = {
    "if": (lambda: 1 if X.max() > 3 else 0, "reads a value"),
    "item": (lambda: X.sum().item(), "reads a value"),
    "list": (lambda: X.tolist(), "reads a value"),
    "numpy": (lambda: X.numpy(), "reads a value"),
    "nonzero": (lambda: X.nonzero(), "size depends on values"),
    "where": (lambda: torch.where(X > 2), "size depends on values"),
    "mask": (lambda: X[X > 2], "mask"),
    "put": (lambda: X.clone().__setitem__(X > 2, torch.zeros(3)), "mask"),
    "unique": (lambda: X.unique(), "size depends on values"),
    "random": (lambda: torch.rand_like(X), "random"),
    "data": (lambda: torch.tensor([1, 2]), "host's data"),
    "list as index": (lambda: X[[0, 2]], "host's data"),
    "new": (lambda: X.new_tensor([1.0]), "host's data"),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_what_a_capture_does_not_survive(name: str) -> None:
    step, why = STEPS[name]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert why in (hindrance(nn.Identity(), CPU, step) or "")


def test_a_tensor_on_another_device() -> None:
    found = hindrance(nn.Identity(), torch.device("meta"), lambda: torch.zeros(3))
    assert "another device than meta" in (found or "")


def test_what_it_survives() -> None:
    at = torch.zeros(1, dtype=torch.int64)

    def step() -> None:
        x = nn.functional.dropout(X, 0.5, training=False).view(2, 3)
        y = torch.cat((x, x), -1)[:, at] + torch.arange(2) * 2.0
        nn.functional.silu(y @ y.t()).masked_fill(y > 1, 0.0).index_select(0, at).softmax(-1)
        torch.where(y > 0, y, torch.full((), -1.0))

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert hindrance(nn.Identity(), CPU, step) is None


@pytest.mark.parametrize("name", list(CASES))
def test_dense_decoders_may_be_captured(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = TransformersModel(context({**BASE, **CASES[name]}))
    assert model.graph_safe is False, "nothing is known before there are weights"
    with caplog.at_level(logging.INFO, "sglcore.models"), torch.inference_mode():
        model.load_dummy(0)
    assert model.graph_safe is (name not in MOE)
    assert ("is not captured" in caplog.text) is (name in MOE)


def test_the_engine_asks_the_model_before_its_spec() -> None:
    def sizes(declared: bool, **said: bool) -> tuple[int, ...]:
        spec = SimpleNamespace(graph=True, graph_safe=True)
        decision = SimpleNamespace(
            platform=spec, attention=spec, decoding=spec, model=SimpleNamespace(graph_safe=declared)
        )
        model = SimpleNamespace(**said)
        loaded: Any = SimpleNamespace(decision=decision, model=model, ops=SimpleNamespace(graph_safe=True), group=None)
        return graph_sizes(loaded, EngineConfig(model_path="x"), 4)

    assert sizes(True) == sizes(False, graph_safe=True) == sizes(True, graph_safe=True) == (1, 2, 4)
    assert sizes(False) == sizes(True, graph_safe=False) == sizes(False, graph_safe=False) == ()
