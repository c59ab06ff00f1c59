"""Logits processors: change logits before sampling, by registered name.

A request carries a processor's name (`custom_logit_processor`) and JSON arguments (`custom_params`), never code. The
processor is called once per step for all rows that use it, with tensors, and not once per row or token. It is built
when the first request asks for it. An exception in it fails one request: where a call for several rows raises, it is
repeated row by row (with the logits as they were, with states made by `begin`) to find which; each is counted under the
distribution's name, and the client sees a 500 without its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.contracts.spec import Spec, load_address

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, kw_only=True)
class LogitsProcessorSpec(Spec):
    """A processor. `factory(context: ProcessorContext) -> LogitsProcessor`, once, in the engine process of the rank
    that samples, when the first request names it.

    arguments: JSON schema of the arguments object, for documentation and clients. {} says no more than "an object".
    validator: `package.module:function` of a function in a light module, `(arguments: Mapping) -> None`, that raises
        RequestError for arguments that cannot be used. Called through `check`; "" accepts any object.
    keeps_best: never changes which token is likeliest; greedy rows that ask for no logprobs are spared it.
    needs_tokens: its state follows the generated tokens, so `accept` is called; where False it is not.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    validator: str = ""
    keeps_best: bool = False
    needs_tokens: bool = True

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise RequestError if a request's arguments cannot be used. Called in the API process for each request that
        names the processor, before it is submitted; imports the validator's module, which takes no torch."""
        if self.validator:
            load_address(self.validator)(arguments)


@dataclass(frozen=True)
class ProcessorContext:
    """What a processor is built with.

    vocab_size: columns of the logits.
    eos_ids: tokens that end a text.
    device: where the logits are.
    options: the plugin's own settings, from its flags (`EngineConfig.extras`).
    """

    vocab_size: int
    eos_ids: tuple[int, ...]
    device: torch.device
    options: dict[str, Any] = field(default_factory=dict)


class LogitsProcessor(Protocol):
    """Changes logits. Lives in the engine process; rows are independent of each other and of the batch they are in.

    What a row needs is in its state, an object of the processor's own that the core keeps with the branch and never
    looks into. It is a function of (arguments, prompt, tokens): `begin` with the tokens so far gives the state that
    `accept` would have led to, which is how a branch goes on after a retraction or in a restarted engine.
    """

    def begin(self, arguments: Mapping[str, Any], prompt: np.ndarray, tokens: np.ndarray) -> Any:
        """The state of a branch that takes a seat. Loop thread.

        arguments: as checked by the spec. prompt: int32 [prompt tokens]. tokens: int32 [generated so far], empty at
        first. Both are views, valid for the call. A RequestError ends this request only, with its message.
        """
        ...

    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        """Change `logits` float32 [all rows, vocab] in place, only in the rows named. Device thread, once per step.

        rows: int64 [n] on the device, indices into logits. states: n of them, in the order of rows. Must not wait for
        the device nor read logits on the host. -inf forbids a token; a row must keep one that is finite. Runs after
        penalties and biases and before `min_new_tokens`, grammar masks, temperature and filters.
        """
        ...

    def accept(self, states: Sequence[Any], tokens: np.ndarray) -> None:
        """tokens int32 [n] were committed, one for each state. Loop thread, once per step; before the `apply` of the
        rows' next step, in the overlapped loop too. A row that commits several tokens stands there several times."""
        ...
