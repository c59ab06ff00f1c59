from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_model
from sglcore_plugin_gguf.format import GGUFFormat
from tokenizers import Tokenizer

from sglcore.contracts.weights import TextAssets
from sglcore.errors import ConfigError

PIECES = [
    " ", "  ", "\n", "\n\n", "\t", "1", "23", "a", "hello", " world", "'s", "'S", "é", "日本", "🙂", ".", "...", "\r\n",
    "the ", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x0A>", "▁", "\u00a0",
    "x_y = {1: 'ß'}",
]  # fmt: skip


def corpus() -> list[str]:
    """Texts of all kinds: this source, random mixes of awkward pieces, random characters."""
    rng = random.Random(7)
    source = Path(__file__).read_text(encoding="utf-8")
    mixes = ["".join(rng.choices(PIECES, k=rng.randint(1, 30))) for _ in range(800)]
    ranges = [(1, 127), (128, 0x2FFF), (0x3000, 0xD7FF), (0x1F300, 0x1FAFF)]
    noise = ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 40))) for _ in range(800)]
    return ["", source, *mixes, *noise]


def built(path: Path) -> tuple[Tokenizer, TextAssets]:
    assets = GGUFFormat().open(path).text_assets()
    assert assets.tokenizer_json is not None
    return Tokenizer.from_str(assets.tokenizer_json.decode()), assets


def assert_equals_transformers(path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, assets = built(path)
    reference: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in corpus():
        ids = reference(text).input_ids
        assert tokenizer.encode(text).ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids), text
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True), text
    assert assets.chat_template == reference.chat_template
    stated = {role: text for role, text in reference.special_tokens_map.items() if role in assets.special_tokens}
    assert assets.special_tokens == stated


def test_byte_level_equals_transformers(tmp_path: Path) -> None:
    assert_equals_transformers(write_model(tmp_path / "m.gguf"))


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "tekken"])
def test_pre_tokenizers_equal_transformers(tmp_path: Path, pre: str) -> None:
    extra = {"tokenizer__ggml__pre": pre, "tokenizer__ggml__add_bos_token": pre != "gpt-2"}
    assert_equals_transformers(write_model(tmp_path / "m.gguf", **extra))


def test_sentencepiece_equals_transformers(tmp_path: Path) -> None:
    assert_equals_transformers(write_model(tmp_path / "m.gguf", tokenizer="llama"))


def test_the_demo_model_equals_transformers() -> None:
    source = pytest.importorskip("sglcore_plugin_demo.source").DemoSource()
    try:
        path = source.resolve("demo", revision=None, download_dir=None)
    except ConfigError as error:
        pytest.skip(str(error))
    assert_equals_transformers(path)


def test_qwen2_digits_stand_alone_and_text_is_composed(tmp_path: Path) -> None:
    tokenizer, _ = built(write_model(tmp_path / "m.gguf", tokenizer__ggml__pre="qwen2"))
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids
    words = tokenizer.pre_tokenizer.pre_tokenize_str("a12 b's\n\n3")
    assert [word for word, _ in words] == ["a", "1", "2", "Ġb", "'s", "ĊĊ", "3"]


def test_bos_and_eos_are_added_as_the_file_says(tmp_path: Path) -> None:
    plain, _ = built(write_model(tmp_path / "m.gguf"))
    ids = plain.encode("hello").ids
    both = {"tokenizer__ggml__add_bos_token": True, "tokenizer__ggml__add_eos_token": True}
    tokenizer, assets = built(write_model(tmp_path / "n.gguf", **both))
    assert tokenizer.encode("hello").ids == [1, *ids, 0]
    assert tokenizer.encode("hello", add_special_tokens=False).ids == ids
    assert assets.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"}


def test_unknown_kinds_are_refused_by_name(tmp_path: Path) -> None:
    checkpoint = GGUFFormat().open(write_model(tmp_path / "m.gguf", tokenizer__ggml__pre="poro"))
    with pytest.raises(ConfigError, match=r"pre-tokenizer 'poro'.*--tokenizer-path"):
        checkpoint.text_assets()
    checkpoint = GGUFFormat().open(write_model(tmp_path / "n.gguf", tokenizer__ggml__model="rwkv"))
    with pytest.raises(ConfigError, match="tokenizer of kind 'rwkv'"):
        checkpoint.text_assets()
