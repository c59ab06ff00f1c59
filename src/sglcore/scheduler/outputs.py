"""Outputs: what a branch tells its client."""

from __future__ import annotations

from sglcore.request import Branch, FinishReason, RequestOutput, TokenLogprobs


def output(
    branch: Branch,
    tokens: list[int],
    finish: FinishReason | None = None,
    logprobs: list[TokenLogprobs] | None = None,
    input_logprobs: list[TokenLogprobs] | None = None,
) -> RequestOutput:
    """One output of `branch`, with its counters so far."""
    return RequestOutput(
        rid=branch.request.asked.rid,
        branch=branch.index,
        token_ids=tokens,
        finish=finish,
        prompt_tokens=branch.request.prompt_tokens,
        cached_tokens=max(branch.cached, 0),
        logprobs=logprobs,
        input_logprobs=input_logprobs,
        retractions=branch.retractions,
        queue_time=max(branch.started_at - branch.queued_at, 0.0),
        epoch=branch.request.asked.epoch,
        cache_miss=branch.cache_miss,
    )


Stamp = tuple[str, int, int, int, int, float, int, int]


def stamp(branch: Branch) -> Stamp:
    """What all outputs of a branch have in common while it keeps its seat; `stamped` makes them from it."""
    request = branch.request
    queued = max(branch.started_at - branch.queued_at, 0.0)
    cached, epoch = max(branch.cached, 0), request.asked.epoch
    miss, tries = branch.cache_miss, branch.retractions
    return (request.asked.rid, branch.index, request.prompt_tokens, cached, tries, queued, epoch, miss)


def stamped(stamps: list[Stamp], tokens: list[int]) -> list[RequestOutput]:
    """One token each, the common case: the same as `output` of each branch, at a quarter of its cost.

    By position, in the order of `RequestOutput`: by name each would cost half as much again.
    """
    return [
        RequestOutput(rid, branch, [token], None, prompt, cached, None, None, retractions, queued, epoch, miss)
        for (rid, branch, prompt, cached, retractions, queued, epoch, miss), token in zip(stamps, tokens, strict=True)
    ]
