"""Byte-level BPE ("gpt2" in GGUF): which words text is cut into before merging, by pre-tokenizer name."""

from __future__ import annotations

from typing import Any

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.metadata import Metadata
from sglcore_plugin_gguf.vocabulary import CONTROL, USER_DEFINED, Vocabulary, ids_by_text, stated_merges

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_PUNCTUATION}|{_SPACES}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)

# name -> regular expression; None is GPT-2's own, which the ByteLevel step brings along. smollm is read as
# Transformers reads it. llama.cpp cuts digits off first, which gives other tokens only where two or more
# spaces or newlines stand before a digit: no merge of that vocabulary joins digits.
SPLITS: dict[str, str | None] = {
    "default": None, "gpt-2": None, "smollm": None,
    "llama3": _LLAMA3, "llama-v3": _LLAMA3, "llama-bpe": _LLAMA3, "smaug-bpe": _LLAMA3, "dbrx": _LLAMA3,
    "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}  # fmt: skip

# A whole word that is a token is taken as it is, without walking through its merges.
IGNORES_MERGES = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})
ADDS_BOS = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})
NORMALIZES_NFC = frozenset({"qwen2", "deepseek-r1-qwen"})


def byte_level_parts(meta: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    """normalizer, pre_tokenizer, decoder and model of a tokenizer.json."""
    pre = meta.text("tokenizer.ggml.pre", "default")
    if pre not in SPLITS:
        raise ConfigError(
            f"GGUF file {meta.path} uses pre-tokenizer {pre!r}; {', '.join(sorted(SPLITS))} are known.",
            remedy="Give the model's tokenizer directory with --tokenizer-path.",
        )
    ids = ids_by_text(meta, _spelled(vocabulary))
    return {
        "normalizer": {"type": "NFC"} if pre in NORMALIZES_NFC else None,
        "pre_tokenizer": _pre_tokenizer(SPLITS[pre]),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in IGNORES_MERGES,
            "vocab": ids,
            "merges": stated_merges(meta, ids),
        },
    }


def _pre_tokenizer(split: str | None) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": split is None}
    if split is None:
        return byte_level
    words = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [words, byte_level]}


def _spelled(vocabulary: Vocabulary) -> list[str]:
    """Texts in the byte alphabet. Added tokens keep their own text: they are matched before bytes are spelled."""
    spelling = byte_alphabet()
    alphabet = set(spelling)
    return [
        text
        if kind in (CONTROL, USER_DEFINED) or alphabet.issuperset(text)
        else "".join(spelling[byte] for byte in text.encode())
        for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in GPT-2's vocabularies: printable ones for themselves."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
