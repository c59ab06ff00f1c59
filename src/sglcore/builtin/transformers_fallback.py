"""Any Hugging Face causal language model, one forward call a step, on the paged cache.

Transformers supplies the architecture; its attention layers call `transformers_attention.paged_attention`,
which works on the step's ragged rows. Neither a cache object of Transformers nor a mask is made.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sglcore.builtin.transformers_architecture import one_line, refusal, resolve
from sglcore.builtin.transformers_attention import KWARG, NAME, PagedStep, install
from sglcore.builtin.transformers_capture import hindrance
from sglcore.builtin.transformers_probe import MixingStep, ProbeStep, check_positions, probe, trial
from sglcore.builtin.transformers_rope import pin_rope
from sglcore.builtin.transformers_swaps import SWITCH, switched_on, use_ops
from sglcore.contracts.models import KVGroup
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from sglcore.contracts.models import BuildContext, ForwardInputs
log = logging.getLogger("sglcore.models")
T = TypeVar("T")

PADDING_WARNING = "warn_if_padding_and_no_attention_mask"


class TransformersModel:
    """A `Model` around a Transformers causal language model.

    Built without memory for weights: a probe on the meta device shows each attention layer's shapes. The same
    probe on the loaded model proves that every layer still comes through the interface, once.
    forward_calls, attention_calls: how often the model and its attention layers ran since loading.
    graph_safe: whether `forward` may be captured; False until there are weights to try it with.
    model_modules: which of its modules the platform's kernels stand in for (`SwapTable.rows`).
    """

    graph_safe = False

    def __init__(self, ctx: BuildContext, *, replace_modules: bool = True) -> None:
        """replace_modules: run known modules on `ctx.ops`, see `transformers_swaps`; the environment may forbid it.

        Raises ConfigError for an architecture that cannot be served.
        """
        self.ctx = ctx
        self.replace_modules = replace_modules and switched_on()
        self.model_modules: list[dict[str, Any]] = []
        self.forward_calls = 0
        self.attention_calls = 0
        with quiet():
            install()
            self.architecture, self.config, self.model_class = resolve(ctx)
            skeleton = self._skeleton()
            self.layers, self.vocab_size = probe(self.architecture, skeleton)
        self.takes_index = "logits_to_keep" in inspect.signature(skeleton.forward).parameters
        self.module: PreTrainedModel | None = None

    def _skeleton(self) -> PreTrainedModel:
        """The model without memory. bfloat16, because the meta kernels of expert layers know no other type."""
        try:
            with torch.device("meta"):
                skeleton = self._from_config(torch.bfloat16)
        except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError) as error:
            raise refusal(self.architecture, f"Transformers cannot build it ({one_line(error)})") from error
        if not _names_positions(skeleton):
            raise refusal(self.architecture, "its forward takes no position_ids")
        return skeleton.eval()

    def _from_config(self, dtype: torch.dtype) -> PreTrainedModel:
        config = type(self.config).from_dict(self.config.to_dict())  # Transformers writes into what it is given
        config.use_cache = False
        model = self.model_class._from_config(config, dtype=dtype, attn_implementation=NAME)
        return _settle(model)

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """One group with every layer; sliding windows are applied by `attend`, the cache keeps all positions."""
        first = self.layers[0]
        layers = tuple(sorted(shape.layer for shape in self.layers))
        return (KVGroup(layers=layers, kv_heads=first.kv_heads, head_dim=first.head_dim),)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Consume (Hugging Face name, tensor) pairs; tied and converted weights as Transformers knows them.

        Raises ConfigError naming missing, unknown or misshapen tensors.
        """
        with quiet():
            try:
                loaded: Any = self.model_class.from_pretrained(
                    None,
                    config=self.config,
                    state_dict=dict(tensors),
                    dtype=self.ctx.dtype,
                    attn_implementation=NAME,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are reported, and refused below by name
                )
            except RuntimeError as error:
                raise ConfigError(f"The checkpoint does not fit {self.architecture}: {one_line(error)}.") from error
            model, info = loaded
            self._check_names(info)
            self._finish(_settle(model))

    def load_dummy(self, seed: int) -> None:
        """Random weights as Transformers initialises the architecture, from `seed`, drawn on the context's device."""
        device = self.ctx.device
        others = {} if device.type in ("cpu", "meta") else {"devices": [device], "device_type": device.type}
        with quiet(), device, torch.random.fork_rng(**(others or {"devices": []})):
            torch.manual_seed(seed)
            self._finish(self._from_config(self.ctx.dtype))

    def _check_names(self, info: dict[str, Any]) -> None:
        found = {
            "missing": sorted(info["missing_keys"]),
            "unknown": sorted(name for name in info["unexpected_keys"] if not name.endswith(".inv_freq")),
            "misshapen": sorted(f"{n} {list(has)}, not {list(wants)}" for n, has, wants in info["mismatched_keys"]),
        }
        problems = [f"{len(names)} {kind} ({_few(names)})" for kind, names in found.items() if names]
        if problems:
            raise ConfigError(
                f"The checkpoint does not fit {self.architecture}: tensors {' and '.join(problems)}.",
                remedy="Check that config.json and the weight files belong together and are complete.",
            )

    def _finish(self, model: PreTrainedModel) -> None:
        torch.nn.Module.to(model, self.ctx.device)
        model.eval().requires_grad_(False)
        if self.replace_modules:
            self._swap(model)
        layers, width = self._told(lambda: probe(self.architecture, model))
        check_positions(self.architecture, model)
        if layers != self.layers or width != self.vocab_size:
            raise refusal(self.architecture, "the loaded model differs in shape from the one its config describes")
        decode = trial(self.architecture, model)
        why = hindrance(model, self.ctx.device, lambda: decode(ProbeStep()))
        self.graph_safe = why is None
        if why is not None:
            log.info("%s is not captured: %s.", self.architecture, why)
        self.module = model

    def _swap(self, model: PreTrainedModel) -> None:
        """Put kernels in the place of known modules, and tell of it."""
        table = use_ops(model, self.ctx.ops, lambda: trial(self.architecture, model)(MixingStep()))
        self.model_modules = table.rows()
        log.info("Modules of %s:\n%s", self.architecture, "\n".join(table.lines()))

    def _told(self, run: Callable[[], T]) -> T:
        """What `run` returns; where it fails on swapped modules, the error names the way round them."""
        try:
            return run()
        except ConfigError as error:
            if not self.model_modules:
                raise
            raise ConfigError(error.message, remedy=f"{error.remedy} {SWITCH}=0 leaves its modules alone.") from error

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """One call for all rows of the step -> logits float32 [samples, vocab]."""
        if self.module is None:
            raise ConfigError(f"{self.architecture} has no weights yet.", remedy="Call load or load_dummy first.")
        step = PagedStep(self.ctx.attention, inputs)
        index = inputs.sample_index
        # Kernels need not take zero rows: a step without samples computes one and drops it.
        keep = index.new_zeros(1, dtype=torch.int64) if index is not None and not len(index) else index
        options: dict[str, Any] = {KWARG: step, "use_cache": False}
        if inputs.hidden_index is not None:
            options["output_hidden_states"] = True
        if keep is not None and self.takes_index:
            options["logits_to_keep"] = keep
        with torch.no_grad():
            output = self.module(input_ids=inputs.ids[None], position_ids=inputs.positions[None], **options)
            logits = output.logits[0]  # [samples or tokens, vocab]
            if keep is not None and not self.takes_index:
                logits = logits[keep]
            if inputs.hidden_index is not None:
                inputs.extra["hidden_states"] = output.hidden_states[-1][0].index_select(0, inputs.hidden_index)
            self.forward_calls += 1
            self.attention_calls += step.calls
            logits = logits[: logits.shape[0] if index is None else len(index)]
            return logits.float() if inputs.logits is None else inputs.logits.copy_(logits)


def _text(config: PreTrainedConfig) -> Any:
    return config.get_text_config()


def _settle(model: PreTrainedModel) -> PreTrainedModel:
    """Switch off what would make a row depend on its neighbours, or read values back from the device in a step."""
    text = _text(model.config)
    pin_rope(model, getattr(text, "max_position_embeddings", None) or 0)
    for module in model.modules():
        if hasattr(module, PADDING_WARNING):
            module.__dict__[PADDING_WARNING] = _no_warning
    return model


def _no_warning(*args: Any) -> None:
    """Stands in for Transformers' search for padding in every input; rows here have none."""


def _names_positions(model: PreTrainedModel) -> bool:
    forwards = (model.forward, model.base_model.forward)
    return any("position_ids" in inspect.signature(forward).parameters for forward in forwards)


def _few(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, and {len(names) - limit} more"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Transformers silent and off the network's progress bars for the length of a build; restores its settings."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
