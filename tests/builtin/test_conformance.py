"""The built-in plugins pass what every stranger's plugin must."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sglcore.builtin.compute_specs import CPU
from sglcore.builtin.weight_specs import HUB, LOCAL, SAFETENSORS
from sglcore.testing import (
    InitConformance,
    PlatformConformance,
    WeightFormatConformance,
    WeightSourceConformance,
)


class TestInit(InitConformance):
    distribution = "sglcore"


class TestCpuPlatform(PlatformConformance):
    spec = CPU


class TestLocalSource(WeightSourceConformance):
    spec = LOCAL
    known = ("/no/such/path", "./here")

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
        (folder / "model").mkdir()
        return str(folder / "model"), folder / "model"


class TestHubSource(WeightSourceConformance):
    spec = HUB
    known = ("org/model",)

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
        import huggingface_hub

        (folder / "model.safetensors").touch()
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
        return "org/model", folder


class TestSafetensorsFormat(WeightFormatConformance):
    spec = SAFETENSORS
    text = True

    def write(self, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        tensors = {
            "model.embed_tokens.weight": torch.randn(7, 4),
            "model.norm.weight": torch.ones(4, dtype=torch.bfloat16),
            "lm_head.weight": torch.randn(7, 4).half(),
        }
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 4}')
        (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {}}}')
        return folder, tensors
