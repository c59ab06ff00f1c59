"""The tokenizer side of a Hugging Face model directory, read without torch or Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglcore.contracts.weights import TextAssets
from sglcore.errors import ConfigError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError naming the file where it is anything else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"File {path} cannot be read: {error.strerror or error}.", remedy="Check the path and its permissions."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"File {path} is not JSON: {error}.", remedy="Download or correct it.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"File {path} holds a {type(value).__name__}, not a JSON object.", remedy="Correct it.")
    return value


def read_text_assets(directory: Path) -> TextAssets:
    """tokenizer.json, chat template and special tokens, as far as the directory has them.

    Raises ConfigError naming a file that cannot be read.
    """
    tokenizer = directory / "tokenizer.json"
    config = _optional(directory / "tokenizer_config.json")
    content = _raw(tokenizer) if tokenizer.is_file() else None
    return TextAssets(
        tokenizer_json=content,
        directory=directory,
        chat_template=_chat_template(directory, config),
        special_tokens={**_special_tokens(config), **_special_tokens(_optional(directory / "special_tokens_map.json"))},
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    """A file of its own comes before tokenizer_config.json; of several named templates the default is taken."""
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        try:
            return jinja.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"File {jinja} cannot be read as UTF-8 text: {error}.", remedy="Correct it.") from None
    template = _optional(directory / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(source: dict[str, Any]) -> dict[str, str]:
    """Roles such as eos_token; a token is a string or an object with `content`."""
    tokens = {}
    for role, value in source.items():
        text = value.get("content") if isinstance(value, dict) else value
        if role.endswith("_token") and isinstance(text, str):
            tokens[role] = text
    return tokens


def _raw(path: Path) -> bytes:
    """A tokenizer's bytes as they are; whoever builds it parses them, so here they are only seen to be whole."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"File {path} cannot be read: {error.strerror or error}.", remedy="Check the path and its permissions."
        ) from None
    if not content.lstrip().startswith(b"{") or not content.rstrip().endswith(b"}"):
        raise ConfigError(
            f"File {path} ({len(content)} bytes) is not a whole JSON object.", remedy="Download or copy it again."
        )
    return content
