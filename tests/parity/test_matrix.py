"""The matrix: whatever cache, chunking, pages, loop, retraction, preemption and branching do, tokens stay the same.

Greedy tokens are checked against Transformers under the parity rule, sampled ones against the same request alone.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from parity.reference import Parity, compare
from parity.test_parity import TINY_GAP, covering, prompts
from parity.tiny import MATRIX, VOCAB, make
from sglcore.llm import LLM
from sglcore.request import GenerateRequest, SamplingParams, pack_ids

AXES = ("radix", "chunk", "page", "overlap", "retract", "preempt", "n")
CELLS = list(itertools.product([True, False], [16, 512], [1, 16], [True, False], [True, False], [True, False], [1, 3]))
COVERING = covering(CELLS)
REQUESTS, NEW = 8, 20
Answers = dict[tuple[str, int], list[int]]


def requests(n: int, vocab: int = VOCAB, new: int = NEW) -> list[GenerateRequest]:
    """Half greedy, half sampled with a seed."""
    found = []
    for number, prompt in enumerate(prompts(REQUESTS, vocab, seed=3)):
        sampled: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 50 + number} if number % 2 else {}
        sampling = SamplingParams(**({"max_new_tokens": new, "temperature": 0, "ignore_eos": True} | sampled))
        found.append(GenerateRequest(rid=f"r{number}", input_ids=pack_ids(prompt), sampling=sampling, n=n))
    return found


def flags_of(cell: tuple, vocab: int = VOCAB, new: int = NEW) -> dict[str, Any]:
    """The engine's flags for a cell; a pool for little more than the longest request where rows must be retracted."""
    radix, chunk, page, overlap, retract, preempt, n = cell
    longest = max(len(r.input_ids) // 4 + new for r in requests(n, vocab, new))
    tight = (longest + (16 if preempt else 80)) // 16 * 16 + 16
    return {
        "disable_radix_cache": not radix,
        "chunked_prefill_size": chunk,
        "page_size": page,
        "disable_overlap_schedule": not overlap,
        "max_total_tokens": tight if retract else 8192,
        "max_running_requests": 6 if preempt else 32,
        "enable_priority_scheduling": preempt,
        "skip_tokenizer_init": True,
    }


def drive(llm: LLM, asked: list[GenerateRequest], preempt: bool) -> Answers:
    """Tokens by (request, branch). With `preempt` the later half comes once the first runs, and goes before it."""
    engine, answers = llm.engine, {}
    half = len(asked) // 2 if preempt else len(asked)

    def add(some: list[GenerateRequest], priority: int | None) -> None:
        for request in some:
            fields = {name: getattr(request, name) for name in request.__struct_fields__}
            engine.add(GenerateRequest(**(fields | {"priority": priority})))

    def step() -> None:
        for out in engine.step():
            assert out.finish is None or out.finish.type == "length", out.finish
            answers.setdefault((out.rid, out.branch), []).extend(out.token_ids)

    add(asked[:half], 0 if preempt else None)
    for _ in range(6):
        step()
    add(asked[half:], 100)
    while engine.has_work:
        step()
    engine.scheduler.ledger.check()
    assert engine.scheduler.ledger.held() == [0]
    return answers


def squeeze(llm: LLM, cell: tuple) -> None:
    """Make the scheduler take in more than fits, so that retraction must happen and not only queueing."""
    if cell[AXES.index("retract")]:
        llm.engine.scheduler.ratio.value = 0.0
        llm.engine.scheduler.ratio.step = lambda: None
        llm.engine.scheduler.ratio.raise_up = lambda: None


def run(path: Any, cell: tuple, vocab: int = VOCAB, new: int = NEW) -> Answers:
    """One cell, twice, so that the cache is used; asserts that what the cell forces has happened."""
    preempt, n = cell[AXES.index("preempt")], cell[AXES.index("n")]
    with LLM(str(path), **flags_of(cell, vocab, new)) as llm:
        squeeze(llm, cell)
        first = drive(llm, requests(n, vocab, new), preempt)
        assert drive(llm, requests(n, vocab, new), preempt) == first, "the second round, on a warm cache, differs"
        counts = llm.engine.scheduler.counts
    assert (counts["retractions"] > 0) or not cell[AXES.index("retract")], counts
    assert (counts["preemptions"] > 0) == preempt, counts
    return first


def alone(path: Any, vocab: int = VOCAB, new: int = NEW) -> Answers:
    """Each sampled request by itself, with nothing cached."""
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=8192, disable_radix_cache=True) as llm:
        answers: Answers = {}
        for request in requests(3, vocab, new):
            if request.sampling.greedy:
                continue  # Transformers is its measure
            answers |= drive(llm, [request], preempt=False)
    return answers


def check(model: Any, calm: Answers, got: Answers, gap: float, n: int, vocab: int = VOCAB, new: int = NEW) -> Parity:
    total = Parity()
    for request in requests(n, vocab, new):
        prompt = request.token_ids().tolist()
        for branch in range(n):
            answer = got[request.rid, branch]
            assert len(answer) == new
            if request.sampling.greedy:
                total += compare(model, prompt, answer, gap)
            else:
                assert answer == calm[request.rid, branch], f"{request.rid}[{branch}] sampled otherwise than alone"
    return total


@pytest.fixture(scope="module", params=list(MATRIX))
def tiny(request, tmp_path_factory):
    path, model = make(request.param, tmp_path_factory.mktemp("models"))
    return path, model, alone(path)


def verify(tiny: tuple, cell: tuple) -> None:
    path, model, calm = tiny
    total = check(model, calm, run(path, cell), TINY_GAP, cell[AXES.index("n")])
    assert total.wrong == 0, total
    assert total.share <= 0.001, total


@pytest.mark.parametrize("cell", COVERING, ids=lambda c: "-".join(map(str, c)))
def test_a_covering_set_of_settings(tiny, cell):
    verify(tiny, cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: "-".join(map(str, c)))
def test_every_setting(tiny, cell):
    verify(tiny, cell)
