"""From a stream of named checkpoint tensors to parameters: a table of slots, each filled once.

A model is the union of its layers' slot tables. A slot copies its tensor's shard away and lets go of it, and a
linear layer hands its weight to the platform as soon as its last part is in: the peak is one copy of the
weights plus one layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from sglcore.errors import ConfigError

SHOWN = 5  # names listed in an error

# As vLLM's and SGLang's dummy weights are spread, so that figures can be held against theirs: what a GPU draws, and
# with it its clock, depends on the values it multiplies.
SPREAD = 1e-3


@dataclass(slots=True, frozen=True)
class Slot:
    """Where one checkpoint tensor goes.

    shape: of the whole tensor in the checkpoint, before sharding. put: copies what this rank keeps.
    mean: what dummy values scatter around (1 for norm weights). dtype: what the checkpoint must hold; None takes any.
    span: (lowest, highest) of dummy values, where they may not scatter freely.
    stands_for: names of the slots that this one fills at once, where a checkpoint holds their tensors as one.
    optional: a checkpoint may lack it, and dummy weights do.
    """

    shape: tuple[int, ...]
    put: Callable[[torch.Tensor], None]
    mean: float = 0.0
    dtype: torch.dtype | None = None
    span: tuple[float, float] | None = None
    stands_for: tuple[str, ...] = ()
    optional: bool = False


def load(tensors: Iterable[tuple[str, torch.Tensor]], slots: dict[str, Slot], *, ignore: tuple[str, ...] = ()) -> None:
    """Consume `tensors` once, in any order, filling every slot.

    ignore: regular expressions (full match) of checkpoint names that the model derives by itself.
    Raises ConfigError naming tensors that are unknown, missing, given twice or of another shape.
    """
    skipped = re.compile("|".join(f"(?:{pattern})" for pattern in ignore)) if ignore else None
    filled: set[str] = set()
    for name, tensor in tensors:
        slot = slots.get(name)
        if slot is None:
            if skipped is None or skipped.fullmatch(name) is None:
                raise _unknown(name, slots)
            continue
        _check(name, tensor, slot, filled)
        slot.put(tensor)
        filled.add(name)
        filled.update(slot.stands_for)
        del tensor
    if missing := _missing(slots, filled):
        needed = sum(not slot.optional for slot in slots.values())
        raise ConfigError(
            f"The checkpoint lacks {len(missing)} of the {needed} tensors that its config.json asks for: "
            f"{_list(missing)}.",
            remedy="Check that every file of the checkpoint is there and that config.json belongs to it.",
        )


def load_dummy(
    slots: dict[str, Slot], seed: int, *, spread: float = SPREAD, device: torch.device | None = None
) -> None:
    """Fill every slot with values spread evenly around its mean, the same for any number of ranks.

    device: where they are drawn, the CPU unless given; the values of one kind of device are not those of another. A
    GPU draws its own in seconds where the CPU takes minutes.
    """
    generator = torch.Generator(device or "cpu").manual_seed(seed)
    for name in sorted(name for name, slot in slots.items() if not slot.stands_for and not slot.optional):
        slots[name].put(_dummy(slots[name], spread, generator))


def _dummy(slot: Slot, spread: float, generator: torch.Generator) -> torch.Tensor:
    if slot.dtype is not None and not slot.dtype.is_floating_point:
        limits = torch.iinfo(slot.dtype)
        low, high = slot.span or (max(limits.min, -(2**31)), min(limits.max, 2**31 - 1))
        whole = torch.randint(int(low), int(high) + 1, slot.shape, generator=generator, device=generator.device)
        return whole.to(slot.dtype)
    values = torch.empty(slot.shape, device=generator.device)
    if slot.span is not None:
        values.uniform_(*slot.span, generator=generator)
    else:
        values.uniform_(slot.mean - spread, slot.mean + spread, generator=generator)
    return values if slot.dtype is None else values.to(slot.dtype)


def copy_into(target: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """A `put` that copies to `target`, converting dtype and device on the way."""

    def put(tensor: torch.Tensor) -> None:
        target.copy_(tensor)

    return put


def _missing(slots: dict[str, Slot], filled: set[str]) -> list[str]:
    """Names that are not filled: of slots with one that stands for them its name alone, where all of them are empty."""
    whole = {name for name, slot in slots.items() if slot.stands_for and filled.isdisjoint(slot.stands_for)}
    told = {part for name in whole for part in slots[name].stands_for}
    return [
        name
        for name, slot in slots.items()
        if name in whole or not (name in filled or name in told or slot.stands_for or slot.optional)
    ]


def _check(name: str, tensor: torch.Tensor, slot: Slot, filled: set[str]) -> None:
    if name in filled or not filled.isdisjoint(slot.stands_for):
        raise ConfigError(
            f"The checkpoint holds the tensor {name} twice.",
            remedy="Remove the stray weight file from the model directory.",
        )
    alone = not slot.shape and tensor.numel() == 1  # one number is written as [] or as [1]
    if tuple(tensor.shape) != slot.shape and not alone:
        raise ConfigError(
            f"The tensor {name} has shape {list(tensor.shape)} in the checkpoint; config.json asks for "
            f"{list(slot.shape)}.",
            remedy="config.json and the weights must come from the same model.",
        )
    if slot.dtype is not None and tensor.dtype != slot.dtype:
        raise ConfigError(
            f"The tensor {name} holds {tensor.dtype} in the checkpoint; the quantization method reads {slot.dtype}.",
            remedy="config.json's quantization_config and the weights must come from the same model.",
        )


def _unknown(name: str, slots: dict[str, Slot]) -> ConfigError:
    parent = name.rpartition(".")[0]
    near = [known for known in slots if known.rpartition(".")[0] == parent] or list(slots)
    return ConfigError(
        f"The checkpoint holds a tensor that this model has no place for: {name} (known there: {_list(near)}).",
        remedy="config.json and the weights must come from the same model; a quantized checkpoint needs a format "
        "or quantization plugin that reads it.",
    )


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
