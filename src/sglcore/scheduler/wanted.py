"""What a branch asked to be told beside its tokens: which positions of a step that concerns; and its seat's entry."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from sglcore.batch import NO_TOKENS, Batch, RowEntry, StepResult
from sglcore.request import Branch, RequestOutput
from sglcore.scheduler.outputs import output


def row_entry(branch: Branch, row: int, prefix: tuple[np.ndarray, ...]) -> RowEntry:
    """What the runner must know of a branch that takes a seat, the tokens so far only where something follows them."""
    request = branch.request
    asked = request.asked
    return RowEntry(
        row=row,
        sampling=asked.sampling,
        seed=request.seed,
        branch=branch.index,
        pages=prefix,
        logprobs=asked.top_logprobs if asked.return_logprob else -1,
        logprob_ids=asked.token_ids_logprob if asked.return_logprob else (),
        prompt=request.prompt_tokens,
        tokens=branch.tokens if asked.sampling.follows_tokens else NO_TOKENS,
    )


def first_owed(branch: Branch) -> int:
    """The first position whose result is still owed and so must be computed, not taken from the cache; -1: none.

    Of a prompt token's logprob that is the position before it.
    """
    prompt = branch.request.prompt_tokens
    owed = [branch.logprobs_from - 1] if 0 <= branch.logprobs_from < prompt else []
    owed += [branch.hidden_from] if branch.hidden_from >= 0 else []
    return min(owed, default=-1)


def hidden_states(
    asking: np.ndarray, seated: Sequence[Branch | None], rows: np.ndarray, starts: np.ndarray, counts: np.ndarray
) -> dict[int, int]:
    """For rows that asked (bool `asking` by seat): the offset of the first computed position not yet delivered."""
    wanted: dict[int, int] = {}
    if not asking.any():
        return wanted
    for i in np.flatnonzero(asking[rows]).tolist():
        start, end, branch = int(starts[i]), int(starts[i] + counts[i]), seated[int(rows[i])]
        assert branch is not None
        first = max(start, branch.hidden_from)
        if first < end:
            wanted[i] = first - start
            branch.hidden_from = end
    return wanted


def hidden_outputs(seated: Sequence[Branch | None], batch: Batch, result: StepResult) -> list[RequestOutput]:
    """What the step's hidden states tell the clients that asked."""
    outputs = []
    for i, states in result.hidden_states.items():
        branch = seated[int(batch.rows[i])]
        if branch is not None and branch.finish is None:
            outputs.append(msgspec.structs.replace(output(branch, []), hidden_states=states))
    return outputs
