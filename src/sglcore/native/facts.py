"""What is told about a running engine: its model, its configuration with the secrets masked, its version."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import msgspec

from sglcore.config import EngineConfig
from sglcore.contracts.routes import ModelInfo
from sglcore.native.answer import WEIGHT_VERSION

SECRET = re.compile(r"key|token$|secret|password|credential", re.IGNORECASE)
MASK = "********"
SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")


def model_info(config: EngineConfig, model: ModelInfo, weight_version: str = WEIGHT_VERSION) -> dict[str, Any]:
    """The body of `/model_info`."""
    return {
        "model_path": model.path,
        "tokenizer_path": config.tokenizer_path or model.path,
        "served_model_name": model.name,
        "is_generation": True,
        "preferred_sampling_params": None,
        "default_sampling_params": model.sampling_defaults,
        "weight_version": weight_version,
        "model_type": model.model_type,
        "load_format": config.load_format,
        "tool_call_parser": getattr(config, "tool_call_parser", None),
        "reasoning_parser": getattr(config, "reasoning_parser", None),
        "disaggregation_mode": "null",
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "architectures": list(model.architectures),
        "max_model_len": model.context_length,
        "vocab_size": model.vocab_size,
    }


def redacted(config: EngineConfig) -> dict[str, Any]:
    """The configuration with everything that looks like a secret masked, in plugins' options as well."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    for name in SECRETS:
        if plain.get(name) is not None:
            plain[name] = MASK
    plain["extras"] = _masked(plain.get("extras", {}))
    return plain


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: MASK if v is not None and SECRET.search(str(k)) else _masked(v) for k, v in value.items()}
    return [_masked(v) for v in value] if isinstance(value, list) else value


def version() -> str:
    """The installed sglcore's, "unknown" where it is not installed."""
    try:
        return importlib.metadata.version("sglcore")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
