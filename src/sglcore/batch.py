"""Batch: one step's plan as plain integers; the only thing between who decides and who does.

Prefill, chunk, decode and (later) verify are the same thing with other counts. A batch carries
only what changed since the last step: rows that entered, pages that were added, rows that left.
The runner keeps its own tables, on every rank alike, so a batch can be printed, encoded and sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sglcore.request import FinishReason, HiddenStates, SamplingParams, TokenLogprobs

NO_TOKENS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class RowEntry:
    """A branch takes a seat: what the runner must know once, not each step.

    `pages[g]` are the page numbers group g has for it so far, the cached prefix included.
    """

    row: int
    sampling: SamplingParams
    seed: int
    branch: int
    pages: tuple[np.ndarray, ...]  # G x int32 [pages]
    logprobs: int = -1  # -1 none, k >= 0: logprob of the sampled token plus the top k
    logprob_ids: tuple[int, ...] = ()  # tokens whose logprobs are wanted beside it
    prompt: int = 0  # tokens of the prompt
    tokens: np.ndarray = field(default_factory=lambda: NO_TOKENS)  # all so far, where `sampling.follows_tokens`


@dataclass(slots=True)
class Batch:
    """The plan of one step over R rows, in order; all arrays int32 unless said.

    Row r computes tokens at positions starts[r] .. starts[r] + counts[r] - 1. Where `from_table[r]`
    the (single) input id is the last token the device sampled for the row, unknown here; elsewhere
    the ids stand in `token_ids`, rows one after another. `samples[r]` says that the row's last
    position yields a token. Pages are reserved for all positions named here.
    """

    serial: int
    rows: np.ndarray  # [R]
    starts: np.ndarray  # [R]
    counts: np.ndarray  # [R]
    from_table: np.ndarray  # bool [R]
    samples: np.ndarray  # bool [R]
    token_ids: np.ndarray  # [sum of counts where not from_table]
    entered: list[RowEntry] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    new_pages: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...] = ()  # per group: row, index, page
    # index in batch -> (offset of the first wanted position among this row's counts, the prompt token that
    # follows each position from there on): asks for the prompt's own logprobs
    input_logprobs: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)
    # index in batch -> offset among this row's counts from which on hidden states are wanted
    hidden_states: dict[int, int] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def idle(self) -> bool:
        """Nothing to compute; still a step, so that replicas sharing collectives stay in step."""
        return len(self.rows) == 0


@dataclass(slots=True)
class StepResult:
    """What came back from the device for one batch.

    `tokens[r]` is what row r sampled (-1 where it did not sample); a row may one day commit more
    than one, so `num_tokens[r]` says how many columns count. `finite[r]` is False where the row's
    logits held NaN or inf, or something else went wrong with this row alone: then `failed` says what.
    """

    tokens: np.ndarray  # [R, k] int32
    num_tokens: np.ndarray  # [R] int32
    finite: np.ndarray  # bool [R]
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)  # by index in batch
    input_logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)  # by index in batch
    hidden_states: dict[int, HiddenStates] = field(default_factory=dict)  # by index in batch
    failed: dict[int, FinishReason] = field(default_factory=dict)  # by index in batch, of rows that are not finite
