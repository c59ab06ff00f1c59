"""An engine around a model that computes nothing: real scheduler, page accounting, runner and sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sglcore.batch import Batch, StepResult
from sglcore.bench.options import StepOptions
from sglcore.config import EngineConfig
from sglcore.contracts.models import ForwardInputs, KVGroup, ModelSpec
from sglcore.engine.build import Built, Loaded, assemble
from sglcore.engine.phases import Phases
from sglcore.errors import ConfigError
from sglcore.negotiation.decision import Decision
from sglcore.negotiation.demand import Demand
from sglcore.plugins import Plugins

if TYPE_CHECKING:
    from collections.abc import Iterable

LAYERS, HEADS, WIDTH = 1, 1, 8  # of its cache: there is one, and it is small
SPEC = ModelSpec(name="StandIn", factory="sglcore.bench.stand_in:StandIn", summary="Computes nothing")


class StandIn:
    """Implements `contracts.Model`: its logits are all alike, so that sampling takes the first token."""

    def __init__(self, vocab_size: int, device: torch.device, rows: int) -> None:
        self.vocab_size = vocab_size
        self._logits = torch.zeros(rows, vocab_size, device=device)

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """One small group, whose pages are never written."""
        return (KVGroup(layers=tuple(range(LAYERS)), kv_heads=HEADS, head_dim=WIDTH),)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """There are no weights."""

    def load_dummy(self, seed: int) -> None:
        """There are no weights."""

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """[samples, vocab], a view that is the same at each step."""
        count = inputs.ids.shape[0] if inputs.sample_index is None else inputs.sample_index.shape[0]
        return self._logits[:count]


def context_of(options: StepOptions, life: int) -> int:
    """Tokens that the longest row may have."""
    return options.prompt_len + life + 2


def build(options: StepOptions, life: int, plugins: Plugins) -> Built:
    """The engine. Raises ConfigError for a platform or backend that there is not."""
    spec = plugins.registry("platforms").spec(options.device)
    attention_spec = plugins.registry("attention").spec(options.attention_backend)
    platform = plugins.registry("platforms").factory(options.device)()
    if problem := platform.unavailable():
        raise ConfigError(f"Platform {options.device}: {problem}", remedy="Choose another with --device.")
    context = context_of(options, life)
    rows = options.rows + options.arrivals
    config = EngineConfig(
        model_path="stand-in",
        max_running_requests=rows,
        max_total_tokens=(rows + 8) * (context + options.page_size),
        chunked_prefill_size=2048,
        disable_cuda_graph=True,
    )
    model = StandIn(options.vocab_size, platform.device, rows)
    decision = Decision(
        platform=spec,
        model=SPEC,
        attention=attention_spec,
        quant=None,
        ops=(),
        dtype="float32",
        kv_dtype="float32",
        demand=Demand(page_size=options.page_size),
        verdicts=(),
    )
    hf: dict[str, Any] = {"max_position_embeddings": context}
    attention = plugins.registry("attention").factory(options.attention_backend)()
    loaded = Loaded(
        model, model.kv_groups(), attention, platform, platform.launcher(), hf, (), decision, platform.ops()
    )
    return assemble(loaded, config, plugins, Phases())


def run_with(built: Built, batch: Batch) -> StepResult:
    """One step's forward pass and sampling, to its end."""
    executor = built.engine.executor
    executor.forward(batch)
    result: StepResult = executor.sample(batch).wait()
    return result
