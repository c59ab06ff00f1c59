"""The start of an engine in this process, in two steps: what needs no torch, and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sglcore.config import EngineConfig
from sglcore.contracts.routes import ModelInfo
from sglcore.engine.adjust import adjusted
from sglcore.engine.model_files import (
    context_length,
    eos_token_ids,
    model_config,
    open_checkpoint,
    resolve_model,
    text_checkpoint,
)
from sglcore.engine.phases import Phases, Progress
from sglcore.engine.sampling import sampling_defaults
from sglcore.plugins import Plugins, Selection, discover
from sglcore.text.service import Text

if TYPE_CHECKING:
    from sglcore.engine.build import Built


@dataclass(frozen=True)
class Opened:
    """A model that was found and whose headers were read. `text`: None under skip_tokenizer_init."""

    config: EngineConfig
    plugins: Plugins
    path: Path
    text: Text | None
    model: ModelInfo

    def start(self, tell: Callable[[Progress], None] | None = None) -> Built:
        """Load the model and build the engine, in the thread that will drive it: a CPU's thread pool stays with the
        thread that loads. Raises ConfigError or PluginError."""
        from sglcore.engine.build import build_engine  # with torch, which comes only now

        built = build_engine(self.config, self.path, self.plugins, Phases(tell))
        built.info["plugin_plan"] = self.plugins.plan().digest
        try:
            self.plugins.hooks.on_engine_start(info=built.info)
        except BaseException:
            self.stop(built)
            raise
        return built

    def stop(self, built: Built) -> None:
        """Tell the plugins and free the engine's memory. Called once, when nothing steps any more."""
        try:
            self.plugins.hooks.on_engine_stop(info=built.info)
        finally:
            built.engine.close()


def open_model(
    config: EngineConfig,
    given: Iterable[str],
    plugin_set: Plugins | None = None,
    *,
    name: str | None = None,
    chat_template: str | None = None,
) -> Opened:
    """Find plugins and model, and read what needs no torch.

    given: the flags that the user gave. plugin_set: what they select of the installed plugins, where somebody has
    looked already. Raises ConfigError or PluginError.
    """
    given = set(given)
    plugins = plugin_set
    if plugins is None:
        plugins = discover(Selection.of(config, given))
        plugins.report()
    config = adjusted(config, given, plugins)
    path = resolve_model(config.model_path, config, plugins)
    checkpoint = open_checkpoint(path, config.load_format, plugins)
    hf = model_config(checkpoint, config)
    text = None
    if not config.skip_tokenizer_init:
        assets = text_checkpoint(checkpoint, config, plugins).text_assets()
        text = Text(assets, chat_template_path=chat_template, eos_token_ids=eos_token_ids(checkpoint, hf))
    model = ModelInfo(
        name=name or config.model_path,
        path=config.model_path,
        architectures=tuple(hf.get("architectures") or ()),
        context_length=context_length(hf, config),
        vocab_size=int((hf.get("text_config") or hf).get("vocab_size", 0)),
        created=int(time.time()),
        sampling_defaults=sampling_defaults(config, checkpoint.generation_config),
    )
    return Opened(config, plugins, path, text, model)
