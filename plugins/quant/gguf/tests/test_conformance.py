from __future__ import annotations

from pathlib import Path

import gguf
import torch
from gguf_files import write_model
from sglcore_plugin_gguf.spec import SPEC

from sglcore.testing import InitConformance, WeightFormatConformance

# qwen3 has no permuted heads, so that tensors come back as they are.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hugging_face_name(name: str) -> str:
    """`blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`."""
    *place, part, kind = name.split(".")
    return ".".join(["model.layers", place[1], NAMES[part], kind] if place else [NAMES[part], kind])


class TestInit(InitConformance):
    distribution = "sglcore-plugin-gguf"


class TestGGUFFormat(WeightFormatConformance):
    spec = SPEC
    text = True

    def write(self, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        path = write_model(folder / "tiny.gguf", "qwen3", kind="F32")
        stored = {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(path).tensors}
        return path, {hugging_face_name(name): torch.from_numpy(data) for name, data in stored.items()}
