"""Tokens, their types and the merges of a GGUF file, checked for consistency."""

from __future__ import annotations

from dataclasses import dataclass

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.cursor import broken
from sglcore_plugin_gguf.metadata import Metadata

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


@dataclass(frozen=True)
class Vocabulary:
    """tokens: text by id. types: a type by id, NORMAL where the file says nothing."""

    tokens: list[str]
    types: list[int]

    @classmethod
    def read(cls, meta: Metadata) -> Vocabulary:
        """Raises ConfigError where the file holds no tokens or the types do not fit them."""
        tokens = meta.texts("tokenizer.ggml.tokens")
        if not tokens:
            raise ConfigError(
                f"GGUF file {meta.path} holds no tokenizer.",
                remedy="Give the model's tokenizer directory with --tokenizer-path.",
            )
        types = meta.array("tokenizer.ggml.token_type", len(tokens))
        return cls(tokens, [NORMAL] * len(tokens) if types is None else [int(kind) for kind in types.tolist()])


def ids_by_text(meta: Metadata, texts: list[str]) -> dict[str, int]:
    """text -> id; of equal texts the first keeps it. Raises ConfigError where ids would run out of step."""
    ids: dict[str, int] = {}
    for index, text in enumerate(texts):
        ids.setdefault(text, index)
    if "" in ids and len(texts) > 1:
        del ids[""]
    if not ids:
        raise broken(meta.path, "all tokens of its vocabulary are empty")
    return ids


def stated_merges(meta: Metadata, ids: dict[str, int]) -> list[list[str]]:
    """Merges as pairs, in order. Raises ConfigError where one names a token that does not exist."""
    merges = []
    for number, merge in enumerate(meta.texts("tokenizer.ggml.merges")):
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise broken(meta.path, f"merge {number} ({merge[:40]!r}) names a token outside the vocabulary")
        merges.append([left, right])
    return merges
