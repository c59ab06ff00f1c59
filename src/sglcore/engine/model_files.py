"""From a model name to an opened checkpoint. No torch: the API side uses it too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sglcore.config import EngineConfig
from sglcore.contracts.spec import method_of
from sglcore.contracts.weights import Checkpoint, WeightSource
from sglcore.errors import ConfigError
from sglcore.plugins import Plugins

AUTO_FORMATS = ("auto", "dummy")
_ARCHITECTURE = re.compile(r"[A-Z][A-Za-z0-9_]*")  # no hub id (no slash), no name a plugin gave


def resolve_model(name: str, config: EngineConfig, plugins: Plugins) -> Path:
    """Files of model `name` on this machine. Raises ConfigError with the remedy."""
    source, rest = _source(name, plugins)
    return source.resolve(rest, revision=config.revision, download_dir=config.download_dir)


def _source(name: str, plugins: Plugins) -> tuple[WeightSource, str]:
    registry = plugins.registry("weight_sources")
    specs = sorted(registry.specs(), key=lambda s: (s.order, s.name))
    for spec in specs:
        for prefix in spec.prefixes:
            if name.startswith(prefix):
                return registry.factory(spec.name)(), name.removeprefix(prefix)
        if name in spec.names:
            return registry.factory(spec.name)(), name
    for spec in specs:
        if not spec.prefixes and not spec.names:
            source = registry.factory(spec.name)()
            if source.claims(name):
                return source, name
    known = sorted(n for s in specs for n in s.names)
    raise ConfigError(
        f"Model {name!r} is neither a file or directory here, nor a hub id like org/name, nor a name a plugin provides"
        f" ({', '.join(known) or 'none is installed'}).",
        remedy="Check the path, or pip install the plugin that provides the name.",
    )


def open_checkpoint(path: Path, load_format: str, plugins: Plugins) -> Checkpoint:
    """Open `path` with the format named, or the one that recognises it. Raises ConfigError."""
    registry = plugins.registry("weight_formats")
    if load_format not in AUTO_FORMATS:
        return registry.factory(load_format)().open(path)
    for _, weight_format in registry.candidates():
        if weight_format.detects(path):
            return weight_format.open(path)
    raise ConfigError(
        f"{path} is in none of the weight formats installed ({', '.join(sorted(registry))}).",
        remedy="A directory needs config.json and *.safetensors; a .gguf file needs sglcore-plugin-gguf.",
    )


def known_config(name: str, config: EngineConfig, plugins: Plugins) -> dict[str, Any]:
    """What `serve` would take for config.json of model `name`, or all that an architecture's name says.

    Weights are not downloaded for it. Raises ConfigError with the remedy.
    """
    named = {n for spec in plugins.registry("weight_sources").specs() for n in spec.names}
    if _ARCHITECTURE.fullmatch(name) and name not in named and not Path(name).exists():
        return overridden({"architectures": [name]}, config)
    source, rest = _source(name, plugins)
    resolve = method_of(source, WeightSource, "resolve_config")
    path = resolve(rest, revision=config.revision, download_dir=config.download_dir)
    return model_config(open_checkpoint(path, config.load_format, plugins), config)


def model_config(checkpoint: Checkpoint, config: EngineConfig) -> dict[str, Any]:
    """The checkpoint's config.json with `--json-model-override-args` over it."""
    return overridden(checkpoint.config, config)


def overridden(hf: dict[str, Any], config: EngineConfig) -> dict[str, Any]:
    """`hf` with `--json-model-override-args` over it. Raises ConfigError where those are no JSON object."""
    try:
        override = json.loads(config.json_model_override_args)
    except ValueError as error:
        raise ConfigError(f"--json-model-override-args is not JSON: {error}.") from None
    if not isinstance(override, dict):
        raise ConfigError("--json-model-override-args must be a JSON object.")
    return {**hf, **override}


def context_length(hf: dict[str, Any], config: EngineConfig) -> int:
    """Tokens a sequence may have: the flag, bounded by what the model was made for."""
    text = hf.get("text_config") or hf
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
    made_for = next((int(text[n]) for n in names if text.get(n)), 2048)
    wanted = config.context_length
    if wanted is None:
        return made_for
    if wanted > made_for:
        raise ConfigError(
            f"--context-length {wanted} is more than the {made_for} positions the model was made for.",
            remedy=f"Use at most {made_for}, or raise the model's own figure with --json-model-override-args.",
        )
    return wanted


def eos_token_ids(checkpoint: Checkpoint, hf: dict[str, Any]) -> tuple[int, ...]:
    """Every id that ends a sequence, of generation_config.json and config.json."""
    ids: set[int] = set()
    for source in (checkpoint.generation_config, hf, hf.get("text_config") or {}):
        value = source.get("eos_token_id")
        ids.update([value] if isinstance(value, int) else value or [])
    return tuple(sorted(ids))


def text_checkpoint(checkpoint: Checkpoint, config: EngineConfig, plugins: Plugins) -> Checkpoint:
    """Where the tokenizer comes from: `--tokenizer-path`, else the model's own checkpoint. Raises ConfigError."""
    if not config.tokenizer_path:
        return checkpoint
    return open_checkpoint(resolve_model(config.tokenizer_path, config, plugins), "auto", plugins)
