"""What Ollama's clients ask about models, of a server that has one and keeps it."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from sglcore.contracts.routes import ModelInfo, RouteContext
from sglcore.errors import RequestError
from sglcore_plugin_ollama.ask import LATEST, plain_name

# The version of Ollama's API that this dialect speaks: clients look whether it is new enough for them.
VERSION = "0.12.6"
FOR_EVER = "2318-01-01T00:00:00Z"  # as Ollama writes it of a model that is never unloaded


def tagged(model: ModelInfo) -> str:
    """The model's name with a tag, which Ollama's clients expect."""
    return model.name if ":" in model.name.rpartition("/")[2] else model.name + LATEST


def check_model(asked: str, model: ModelInfo) -> None:
    """Raises RequestError 404 where another model is asked for."""
    if plain_name(asked, model.name) not in (model.name, model.path, "default"):
        raise RequestError(
            f"model {asked[:200]!r} not found: this server has {tagged(model)!r}",
            param="model",
            code="model_not_found",
            status=404,
        )


class Library:
    """The one model, as the endpoints show it. What is not known of it (size, file format) is 0 or empty."""

    def __init__(self, context: RouteContext) -> None:
        model = self._model = context.model
        self._context = context
        self._since = datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._digest = hashlib.sha256(f"{model.path}\n{model.created}".encode()).hexdigest()
        self._family = family_of(model)
        self._details = {
            "parent_model": "",
            "format": "",
            "family": self._family,
            "families": [self._family],
            "parameter_size": "",
            "quantization_level": "",
        }

    def tags(self) -> dict[str, Any]:
        """GET /api/tags."""
        return {"models": [self._card() | {"modified_at": self._since}]}

    def running(self) -> dict[str, Any]:
        """GET /api/ps."""
        stays = {"expires_at": FOR_EVER, "size_vram": 0, "context_length": self._model.context_length}
        return {"models": [self._card() | stays]}

    def show(self) -> dict[str, Any]:
        """POST /api/show."""
        model = self._model
        parameters = "\n".join(f"{name} {value}" for name, value in model.sampling_defaults.items())
        lines = [f"FROM {model.path}", *(f"PARAMETER {one}" for one in parameters.splitlines())]
        return {
            "license": "",
            "modelfile": "\n".join(lines) + "\n",
            "parameters": parameters,
            "template": "",
            "details": self._details,
            "model_info": {
                "general.architecture": self._family,
                "general.basename": model.name,
                f"{self._family}.context_length": model.context_length,
                f"{self._family}.vocab_size": model.vocab_size,
            },
            "capabilities": self._capabilities(),
            "modified_at": self._since,
        }

    def _capabilities(self) -> list[str]:
        config, text = self._context.config, self._context.text
        tools = config.tool_call_parser is not None and text is not None and text.reads_tools
        thinking = config.reasoning_parser is not None
        return ["completion", *(["tools"] if tools else []), *(["thinking"] if thinking else [])]

    def _card(self) -> dict[str, Any]:
        name = tagged(self._model)
        return {"name": name, "model": name, "size": 0, "digest": self._digest, "details": self._details}


def family_of(model: ModelInfo) -> str:
    """`llama` of LlamaForCausalLM."""
    first = model.architectures[0] if model.architectures else "unknown"
    return re.sub(r"(For[A-Z].*|Model|LMHeadModel)$", "", first).lower() or "unknown"
