"""A tokenizer of words t0, t1, ... for tiny models: the text of an answer is its token ids."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from parity.tiny import VOCAB, make

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


def worded(folder: Path) -> Path:
    """The directory of a tiny Llama with such a tokenizer and a chat template that writes what was said."""
    path, _ = make("llama", folder)
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return path
