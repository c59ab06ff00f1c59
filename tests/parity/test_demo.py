"""Four corners of the matrix on the demo model, a real one: greedy equals Transformers, sampled equals alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from parity.test_matrix import AXES, alone, check, run
from sglcore.config import EngineConfig
from sglcore.engine.model_files import open_checkpoint, resolve_model
from sglcore.plugins import discover

DEMO_GAP = 1e-3  # near-ties of this model's float32 logits
NEW = 10
#       radix chunk page overlap retract preempt n
CELLS = [
    (True, 16, 1, True, True, False, 1),
    (True, 512, 16, False, False, True, 3),
    (False, 16, 16, True, False, False, 3),
    (False, 512, 1, False, True, False, 1),
]


@pytest.fixture(scope="module")
def reference() -> Any:
    """Transformers' model of the same weights."""
    plugins = discover()
    config = EngineConfig(model_path="demo")
    checkpoint = open_checkpoint(resolve_model("demo", config, plugins), "auto", plugins)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**checkpoint.config), dtype=torch.float32
    )
    missing, unexpected = model.load_state_dict(dict(checkpoint.tensors()), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def calm(reference: Any) -> Any:
    return alone("demo", reference.config.vocab_size, NEW)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: "-".join(map(str, c)))
def test_the_demo_model_in_four_corners(reference: Any, calm: Any, cell: tuple) -> None:
    vocab, n = reference.config.vocab_size, cell[AXES.index("n")]
    total = check(reference, calm, run("demo", cell, vocab, NEW), DEMO_GAP, n, vocab, NEW)
    assert total.positions > 0
    assert total.wrong == 0, total
    assert total.excused <= max(1, total.positions // 1000), total
