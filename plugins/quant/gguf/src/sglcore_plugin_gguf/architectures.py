"""What GGUF calls the llama family's parts, and what Hugging Face calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)\.(weight|bias)")

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LLAMA_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA3_PARTS = {
    **_LLAMA_PARTS,
    **_QK_NORMS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Architecture:
    """hf_class, model_type: for the config. parts: GGUF part of a layer -> Hugging Face part.

    permutes_qk: q and k rows are stored with their rotary halves interleaved. norm_shift: see `Wanted.shift`.
    """

    hf_class: str
    model_type: str
    parts: dict[str, str]
    permutes_qk: bool = False
    norm_shift: float = 0.0

    def hf_name(self, name: str) -> str | None:
        """Hugging Face parameter name of a GGUF tensor; None where there is none."""
        if name in _TOP:
            return _TOP[name]
        match = _BLOCK.fullmatch(name)
        if match is None or match[2] not in self.parts:
            return None
        return f"model.layers.{int(match[1])}.{self.parts[match[2]]}.{match[3]}"


# GGUF files of Mistral models say `llama`.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "llama", _LLAMA_PARTS, permutes_qk=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2", _LLAMA_PARTS),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", {**_LLAMA_PARTS, **_QK_NORMS}),
    "gemma3": Architecture("Gemma3ForCausalLM", "gemma3_text", _GEMMA3_PARTS, norm_shift=-1.0),
}
