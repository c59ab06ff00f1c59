"""The tokenizer that a benchmark counts with. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglcore.config import EngineConfig
from sglcore.contracts.weights import TextAssets
from sglcore.engine.model_files import open_checkpoint, resolve_model
from sglcore.errors import ConfigError
from sglcore.plugins import discover
from sglcore.text.service import Text

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def open_text(name: str) -> Text:
    """Tokenizer and chat template of a model, or of a folder with tokenizer.json alone. Raises ConfigError."""
    folder = Path(name)
    if (folder / "tokenizer.json").is_file() and not (folder / "config.json").is_file():
        return Text(_bare(folder))
    config = EngineConfig(model_path=name)
    plugins = discover()
    try:
        checkpoint = open_checkpoint(resolve_model(name, config, plugins), "auto", plugins)
    except ConfigError as error:
        raise ConfigError(
            f"No tokenizer for {name!r}: {error}", remedy="Name a model or a folder with --tokenizer."
        ) from None
    return Text(checkpoint.text_assets())


def _bare(folder: Path) -> TextAssets:
    try:
        settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    except FileNotFoundError:
        settings = {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}/tokenizer_config.json cannot be read: {error}.") from None
    tokens = {role: _content(settings[role]) for role in SPECIAL if settings.get(role)}
    template = settings.get("chat_template")
    return TextAssets(
        (folder / "tokenizer.json").read_bytes(),
        directory=folder,
        chat_template=template if isinstance(template, str) else None,
        special_tokens=tokens,
    )


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)
