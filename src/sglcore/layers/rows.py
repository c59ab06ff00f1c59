"""Which rows of a step go on after the last layer's attention."""

from __future__ import annotations

import torch

from sglcore.contracts.models import ForwardInputs


def sampled_rows(inputs: ForwardInputs, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Those rows of each [tokens, ...] whose logits are wanted, in the order of `sample_index`."""
    index = inputs.sample_index
    return tensors if index is None else tuple(tensor.index_select(0, index) for tensor in tensors)


def last_rows(inputs: ForwardInputs, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What of each [tokens, ...] goes on behind the last attention: `sampled_rows`, or all.

    There no token sees another any more, and what a prompt's tokens but the last would become, nobody reads. All rows
    where hidden states are wanted too, which stand at other tokens.
    """
    return tensors if inputs.hidden_index is not None else sampled_rows(inputs, *tensors)
