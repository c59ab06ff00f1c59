"""A tokenizer.json of the `tokenizers` library, and the words around it, out of GGUF metadata.

Written as JSON directly: the file's vocabulary and merges are what the library's own format holds.
"""

from __future__ import annotations

import json
from typing import Any

from sglcore.contracts.weights import TextAssets
from sglcore.errors import ConfigError
from sglcore_plugin_gguf.byte_level import ADDS_BOS, byte_level_parts
from sglcore_plugin_gguf.metadata import Metadata
from sglcore_plugin_gguf.sentencepiece import sentencepiece_parts
from sglcore_plugin_gguf.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator", "mask": "mask"}


def text_assets(meta: Metadata) -> TextAssets:
    """Tokenizer, chat template and special tokens. Raises ConfigError where the file has no usable vocabulary."""
    vocabulary = Vocabulary.read(meta)
    template = meta.text("tokenizer.chat_template") if meta.has("tokenizer.chat_template") else None
    roles = {role: meta.token_id(f"tokenizer.ggml.{word}_token_id") for role, word in _ROLES.items()}
    special = {f"{role}_token": index for role, index in roles.items() if index is not None}
    document = _document(meta, vocabulary, frozenset(special.values()))
    return TextAssets(
        tokenizer_json=json.dumps(document, ensure_ascii=False).encode(),
        chat_template=template,
        special_tokens={role: vocabulary.tokens[index] for role, index in special.items()},
    )


def _document(meta: Metadata, vocabulary: Vocabulary, special: frozenset[int]) -> dict[str, Any]:
    kind = meta.text("tokenizer.ggml.model")
    if kind == "gpt2":
        parts = byte_level_parts(meta, vocabulary)
    elif kind == "llama":
        parts = sentencepiece_parts(meta, vocabulary)
    else:
        raise ConfigError(
            f"GGUF file {meta.path} has a tokenizer of kind {kind!r}; gpt2 and llama can be read.",
            remedy="Give the model's tokenizer directory with --tokenizer-path.",
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary, parts["model"]["vocab"], special),
        **parts,
        "post_processor": _post_processor(meta, vocabulary, kind),
    }


def _added_tokens(vocabulary: Vocabulary, ids: dict[str, int], special: frozenset[int]) -> list[dict[str, Any]]:
    """Tokens matched whole in text: control and unknown ones and those with a role as special, user-defined as plain.

    One that the model knows under another spelling (gemma's runs of spaces) is left to the merges.
    """
    return [
        {
            "id": index,
            "content": vocabulary.tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED or index in special,
        }
        for index, kind in enumerate(vocabulary.types)
        if (kind in (CONTROL, UNKNOWN, USER_DEFINED) or index in special) and ids.get(vocabulary.tokens[index]) == index
    ]


def _post_processor(meta: Metadata, vocabulary: Vocabulary, kind: str) -> dict[str, Any]:
    """BOS in front and EOS behind, as the file says; BOS by default where llama.cpp adds it by default."""
    pre = meta.text("tokenizer.ggml.pre", "default")
    adds_bos = meta.flag("tokenizer.ggml.add_bos_token", kind == "llama" or pre in ADDS_BOS)
    adds_eos = meta.flag("tokenizer.ggml.add_eos_token", False)
    front = _role_token(meta, vocabulary, "bos") if adds_bos else []
    back = _role_token(meta, vocabulary, "eos") if adds_eos else []

    def sequence(letter: str, type_id: int) -> list[dict[str, Any]]:
        ends = [[{"SpecialToken": {"id": text, "type_id": type_id}} for text, _ in side] for side in (front, back)]
        return [*ends[0], {"Sequence": {"id": letter, "type_id": type_id}}, *ends[1]]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in [*front, *back]},
    }


def _role_token(meta: Metadata, vocabulary: Vocabulary, role: str) -> list[tuple[str, int]]:
    index = meta.token_id(f"tokenizer.ggml.{role}_token_id")
    return [] if index is None else [(vocabulary.tokens[index], index)]
