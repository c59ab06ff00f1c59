"""A server over an engine that answers everything at once, for requests in bulk."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from server.dialects import Live, script
from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, HiddenStates, RequestOutput, TokenLogprobs

SIZE = 4  # of hidden states
STATS = {"num_running_reqs": 0, "num_used_tokens": 0, "max_total_num_tokens": 4096, "free_pages": 1024}
CALLS = {
    "info": {"page_size": 4, "decisions": []},
    "metrics": STATS,
    "prefix_tree": [[-1, 4, 1, 0]],
    "open_session": "session-1",
    "close_session": None,
    "pause_generation": None,
    "continue_generation": None,
    "flush_cache": {"success": True},
    "freeze_gc": 1,
    "set_internal_state": None,
    "stop_profile": {"writing": False, "error": "", "path": "", "steps": 0},
    "slow_down": RequestError("Not here."),
}


def fuzz_server(**flags: Any) -> Live:
    """A live one; every branch says something, with whatever was asked for beside it."""
    live = Live(**flags)
    live.engine.script = answered
    live.engine.calls |= CALLS
    return live


def answered(request: GenerateRequest) -> list[list[RequestOutput]]:
    """The scripted answer, with logprobs of the ids asked for and hidden states."""
    return [[_full(request, output) for output in step] for step in script(request)]


def _full(request: GenerateRequest, output: RequestOutput) -> RequestOutput:
    fields: dict[str, Any] = {}
    if request.return_logprob:
        ids = [(-1.5 - i, token) for i, token in enumerate(request.token_ids_logprob)]
        fields["logprobs"] = [_with_ids(one, ids) for one in output.logprobs or ()]
        if output.input_logprobs:
            fields["input_logprobs"] = [_with_ids(one, ids) for one in output.input_logprobs]
    if request.return_hidden_states:
        fields["hidden_states"] = HiddenStates(SIZE, np.zeros((len(output.token_ids), SIZE), "<f4").tobytes())
    return msgspec.structs.replace(output, **fields)


def _with_ids(one: TokenLogprobs, ids: list[tuple[float, int]]) -> TokenLogprobs:
    return msgspec.structs.replace(one, ids=[] if one.logprob is None else ids)
