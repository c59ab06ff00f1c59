"""SentencePiece BPE ("llama" in GGUF): merges recovered from scores, unknown characters spelled as bytes."""

from __future__ import annotations

from typing import Any

from sglcore_plugin_gguf.metadata import Metadata
from sglcore_plugin_gguf.vocabulary import CONTROL, UNKNOWN, Vocabulary, ids_by_text, stated_merges

SPACE = "\u2581"  # how a space is written inside tokens
_BYTE_TOKEN_LENGTH = len("<0x00>")


def sentencepiece_parts(meta: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    """normalizer, pre_tokenizer, decoder and model of a tokenizer.json."""
    gemma = meta.arch.startswith("gemma")
    prefix = not gemma and meta.flag("tokenizer.ggml.add_space_prefix", True)
    texts = [SPACE * len(text) if gemma and text and not text.strip(" ") else text for text in vocabulary.tokens]
    ids = ids_by_text(meta, texts)
    has_merges = meta.has("tokenizer.ggml.merges")
    merges = stated_merges(meta, ids) if has_merges else _merges(meta, vocabulary, ids, texts)
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE} if gemma else None,
        "pre_tokenizer": _pre_tokenizer(gemma, prefix),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _unknown(meta, vocabulary),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }


def _pre_tokenizer(gemma: bool, prefix: bool) -> dict[str, Any]:
    if gemma:
        return {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    scheme = "first" if prefix else "never"
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}


def _unknown(meta: Metadata, vocabulary: Vocabulary) -> str | None:
    index = meta.token_id("tokenizer.ggml.unknown_token_id")
    if index is None and UNKNOWN in vocabulary.types:
        index = vocabulary.types.index(UNKNOWN)
    return None if index is None or not vocabulary.tokens[index] else vocabulary.tokens[index]


def _merges(meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int], texts: list[str]) -> list[list[str]]:
    """Every way to join two tokens into a third, best token first.

    SentencePiece joins the pair whose result has the highest score; scores fall with the id, save in
    Gemma's files, where only the order of the tokens says which comes first.
    """
    scores = None if meta.arch.startswith("gemma") else meta.array("tokenizer.ggml.scores", len(texts))
    ranks = [-float(index) for index in range(len(texts))] if scores is None else scores.tolist()
    found: list[tuple[float, int, int, str, str]] = []
    for text, index in ids.items():
        if vocabulary.types[index] in (CONTROL, UNKNOWN) or len(text) < 2 or _is_byte(text):
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                found.append((-ranks[index], -cut, ids[left], left, right))
    found.sort(key=lambda merge: merge[:3])
    return [[left, right] for *_, left, right in found]


def _is_byte(text: str) -> bool:
    return len(text) == _BYTE_TOKEN_LENGTH and text.startswith("<0x") and text.endswith(">")
