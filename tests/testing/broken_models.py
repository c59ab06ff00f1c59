"""Llamas that each break one promise of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from sglcore_plugin_llama.model import LlamaForCausalLM as Sound
from sglcore_plugin_llama.model import MistralForCausalLM

from sglcore.contracts.models import ForwardInputs, KVGroup

Windowed = MistralForCausalLM
Tensors = Iterable[tuple[str, torch.Tensor]]


class WrongLogits(Sound):
    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        return super().forward(inputs) * 1.001


class HalfLogits(Sound):
    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        return super().forward(inputs).bfloat16()


class StartsAnewEachStep(Sound):
    """Counts positions from the step's own beginning: right for whole prompts only."""

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        positions = inputs.positions - inputs.positions[0]
        return super().forward(replace(inputs, positions=positions))


class LooksAtItsNeighbours(Sound):
    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        logits = super().forward(inputs)
        return logits + 1e-3 * inputs.ids.float().mean()


class SortsItsSamples(Sound):
    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        index = inputs.sample_index
        return super().forward(replace(inputs, sample_index=None if index is None else index.sort()[0]))


class AlwaysSamples(Sound):
    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        index = inputs.sample_index
        wanted = index.new_zeros(1) if index is not None and not len(index) else index
        return super().forward(replace(inputs, sample_index=wanted))


class DropsForeignWeights(Sound):
    def load(self, tensors: Tensors) -> None:
        known = self.slots()
        super().load((n, t) for n, t in tensors if n in known)


class TakesAnyShape(Sound):
    def load(self, tensors: Tensors) -> None:
        slots = self.slots()
        super().load(
            (n, t if n not in slots or tuple(t.shape) == slots[n].shape else torch.zeros(slots[n].shape))
            for n, t in tensors
        )


class InventsWeights(Sound):
    def load(self, tensors: Tensors) -> None:
        super().load(self._completed(dict(tensors)))

    def _completed(self, given: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        yield from given.items()
        needed = {name: slot for name, slot in self.slots().items() if not slot.optional}
        yield from ((name, torch.zeros(slot.shape)) for name, slot in needed.items() if name not in given)


class LosesAWeight(Sound):
    """Reads every tensor, and puts zeros in place of one."""

    def load(self, tensors: Tensors) -> None:
        super().load((n, t * 0 if n == "model.layers.1.self_attn.q_proj.weight" else t) for n, t in tensors)


class ClaimsALayerMore(Sound):
    def kv_groups(self) -> tuple[KVGroup, ...]:
        (group,) = super().kv_groups()
        return (replace(group, layers=(*group.layers, len(group.layers))),)


class SameDummyForEverySeed(Sound):
    def load_dummy(self, seed: int) -> None:
        super().load_dummy(0)
