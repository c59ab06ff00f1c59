"""A tiny random OLMo 2 checkpoint with a tokenizer of bytes, which answers every chat with one scripted call.

Its weights are random but for a chain of tokens: each of them is embedded far out in a direction of its own, and that
direction's logit is the next one's. So the chain, which begins with the token that ends every chat prompt, is
certain, and everything else is what a random model says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
CALL = ["[get_weather(", "city=", "'Bern'", ", days=", "[1, 2]", ")]"]
CHAIN = ["<|assistant|>", *CALL, "<|end|>"]
HIDDEN = 64
TEMPLATE = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Call them as [func_name1(params_name1=params_value1, ...)].{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and those of the chain."""
    made = Tokenizer(models.BPE({char: index for index, char in enumerate(BYTES)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    made.add_tokens([AddedToken(text, normalized=False) for text in CALL])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def make(folder: Path) -> Any:
    """Write the checkpoint; returns Transformers' model in float32."""
    text = tokenizer()
    config = Olmo2Config(
        vocab_size=len(text),
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    torch.manual_seed(11)
    model = Olmo2ForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            center = 0.0 if parameter.dim() > 1 else 1.0
            parameter.normal_(center, 0.25)
        ids = text.convert_tokens_to_ids(CHAIN)
        directions = torch.linalg.qr(torch.randn(HIDDEN, len(CHAIN) - 1)).Q.t()  # [links, hidden], orthonormal
        model.model.embed_tokens.weight[ids[:-1]] = 40 * directions
        model.lm_head.weight[ids[1:]] = 2 * directions
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    return model
