"""Every sampling field through the whole engine, against Transformers' logits and a plain loop over one request.

The loop forces the engine's own answer through the reference and says at each position what may come next; the engine
runs many requests at once, in chunks, from cached prefixes, and under forced retraction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from parity.tiny import VOCAB, make
from sglcore.errors import RequestError
from sglcore.llm import LLM
from sglcore.runner.sampler import gumbel

GAP = 1e-4
NEW = 14
EOS = 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    shared = rng.integers(3, VOCAB, 24).tolist()
    return [shared[: 8 * (i % 4)] + rng.integers(3, VOCAB, 3 + 5 * (i % 3)).tolist() for i in range(count)]


@torch.inference_mode()
def scores(model: Any, prompt: list[int], answer: list[int], params: dict[str, Any]) -> torch.Tensor:
    """float32 [answer, vocab]: what the next token is drawn from at each place, by the documented order."""
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float().clone()
    for step in range(len(answer)):
        row, before = logits[step], answer[:step]
        repetition = params.get("repetition_penalty", 1.0)
        seen = torch.tensor(sorted({*prompt, *before}))
        row[seen] = torch.where(row[seen] > 0, row[seen] / repetition, row[seen] * repetition)
        counts = torch.bincount(torch.tensor(before, dtype=torch.int64), minlength=VOCAB)
        row -= counts * params.get("frequency_penalty", 0.0) + (counts > 0) * params.get("presence_penalty", 0.0)
        for token, bias in params.get("logit_bias", {}).items():
            row[token] += bias
        if step < params.get("min_new_tokens", 0):
            row[[EOS, *params.get("stop_token_ids", [])]] = float("-inf")
        if params.get("temperature", 1.0) > 0:
            row /= params.get("temperature", 1.0)
    return logits


def drawn(scores: torch.Tensor, prompt: int, params: dict[str, Any]) -> torch.Tensor:
    """The scores that argmax is taken of: filtered, with the noise of each position."""
    if params.get("temperature", 1.0) == 0:
        return scores
    ordered = scores.sort(-1, descending=True)
    rank = torch.arange(VOCAB)
    keep = (rank < params["top_k"]) if "top_k" in params else rank >= 0
    probs = ordered.values.softmax(-1) * keep
    probs = probs / probs.sum(-1, keepdim=True)
    keep = keep & (probs.cumsum(-1) - probs <= params.get("top_p", 1.0))
    keep &= probs >= params.get("min_p", 0.0) * probs[:, :1]
    allowed = torch.zeros_like(keep).scatter(-1, ordered.indices, keep)
    n = len(scores)
    noise = gumbel(torch.full((n,), params["seed"]), torch.arange(prompt, prompt + n), VOCAB)
    return (scores + noise).masked_fill(~allowed, float("-inf"))


CASES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.4},
    {"temperature": 0, "frequency_penalty": 1.5, "presence_penalty": 0.5},
    {"temperature": 0, "presence_penalty": -2.0, "repetition_penalty": 0.8},
    {"temperature": 0, "logit_bias": {7: 20.0, 9: -100.0}, "frequency_penalty": 2.0},
    {"temperature": 0, "logit_bias": {EOS: 60.0}, "min_new_tokens": 6},
    {"temperature": 0, "logit_bias": {11: 60.0}, "stop_token_ids": [11], "min_new_tokens": 3},
    {"temperature": 0.9, "seed": 11},
    {"temperature": 1.3, "seed": 12, "top_k": 12},
    {"temperature": 1.1, "seed": 13, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 0.8, "seed": 14, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
    {"temperature": 1.0, "seed": 15, "min_p": 0.1, "presence_penalty": 1.0},
]


def check(model: Any, prompt: list[int], answer: list[int], params: dict[str, Any]) -> int:
    """Positions; raises where the answer leaves what is allowed. Near-ties are let pass."""
    final = drawn(scores(model, prompt, answer, params), len(prompt), params)
    best = final.max(-1).values
    chosen = final.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
    wrong = torch.nonzero(best - chosen > GAP).flatten().tolist()
    assert not wrong, f"{params}: at {wrong}"
    stops = {EOS, *params.get("stop_token_ids", [])}
    assert len(answer) == NEW or answer[-1] in stops
    assert len(answer) > params.get("min_new_tokens", 0) or answer[-1] not in stops
    return len(answer)


@pytest.mark.parametrize(
    "flags",
    [
        {"chunked_prefill_size": 16, "page_size": 1, "disable_overlap_schedule": False},
        {"chunked_prefill_size": 512, "page_size": 16, "disable_overlap_schedule": True},
        {"max_total_tokens": 160, "disable_overlap_schedule": False},  # rows are retracted and seated again
        {"max_running_requests": 3, "disable_radix_cache": True},
    ],
    ids=["chunks", "pages", "retraction", "few seats"],
)
def test_all_fields_in_one_crowd(tiny, flags):
    path, model = tiny
    asked = prompts(len(CASES) * 2)
    params = [{"max_new_tokens": NEW, **case} for case in CASES * 2]
    with LLM(str(path), skip_tokenizer_init=True, **{"max_total_tokens": 4096, **flags}) as llm:
        if "max_total_tokens" in flags:
            llm.engine.scheduler.ratio.value = 0.1
        answers = llm.generate(asked, params)
        stats = llm.engine.stats()
        again = [llm.generate(p, s)[0]["output_ids"] for p, s in list(zip(asked, params, strict=True))[7:12]]
        llm.engine.scheduler.ledger.check()
    positions = sum(check(model, p, a["output_ids"], s) for p, a, s in zip(asked, answers, params, strict=True))
    assert positions > NEW * len(asked) / 2
    assert again == [a["output_ids"] for a in answers[7:12]]  # alone and in the crowd
    if "max_total_tokens" in flags:
        assert stats["retractions"] > 0


def test_branches_have_penalties_and_seeds_of_their_own(tiny):
    path, _model = tiny
    params = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 5, "repetition_penalty": 1.3, "ignore_eos": True}
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=2048) as llm:
        three = [a["output_ids"] for a in llm.generate(prompts(1)[0], params | {"n": 3})]
        one = llm.generate(prompts(1)[0], params)[0]["output_ids"]
    assert three[0] == one
    assert len({tuple(ids) for ids in three}) == 3


@pytest.mark.parametrize(
    "flags", [{"chunked_prefill_size": 7}, {"page_size": 16, "chunked_prefill_size": 512}], ids=str
)
@pytest.mark.parametrize("start", [0, 9, -1])
@pytest.mark.parametrize("params", [CASES[0], CASES[1], CASES[8], CASES[4]], ids=str)
def test_logprobs_equal_transformers(tiny, flags, start, params):
    """Of input and output, top-k and chosen ids, in chunks, behind a cached prefix, for three branches."""
    path, model = tiny
    prompt, ids = prompts(4)[3], (0, 5, 159)
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=4096, **flags) as llm:
        llm.generate(prompt, {"max_new_tokens": 2, "temperature": 0})  # the prompt is cached now
        answers = llm.generate(
            prompt,
            {"max_new_tokens": 6, "ignore_eos": True, **params, "n": 3},
            return_logprob=True,
            logprob_start_len=start,
            top_logprobs_num=4,
            token_ids_logprob=ids,
        )
    for answer in answers:
        output = answer["output_ids"]
        expected = scores(model, prompt, output, params).log_softmax(-1)
        compare(answer["meta_info"], "output", output, expected, ids)
        with torch.inference_mode():
            raw = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
        meta = answer["meta_info"]
        if start < 0:
            assert meta["input_token_logprobs"] == []
            continue
        assert [i for _, i, _ in meta["input_token_logprobs"]] == prompt[start:]
        if start == 0:
            assert meta["input_token_logprobs"][0][0] is None and meta["input_top_logprobs"][0] is None
        first = max(start, 1)
        shown = {k: v[first - start :] for k, v in meta.items() if k.startswith("input_")}
        compare(shown, "input", prompt[first:], raw[first - 1 : -1], ids)
        assert meta["cached_tokens"] <= first - 1


def compare(meta: dict[str, Any], which: str, tokens: list[int], expected: torch.Tensor, ids: tuple[int, ...]) -> None:
    for step, token in enumerate(tokens):
        logprob, shown, _ = meta[f"{which}_token_logprobs"][step]
        assert shown == token
        assert logprob == pytest.approx(expected[step, token].item(), abs=1e-4)
        best = expected[step].topk(4)
        assert [v for v, _, _ in meta[f"{which}_top_logprobs"][step]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [i for _, i, _ in meta[f"{which}_token_ids_logprobs"][step]] == list(ids)
        values = [v for v, _, _ in meta[f"{which}_token_ids_logprobs"][step]]
        assert values == pytest.approx(expected[step, list(ids)].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "flags", [{"chunked_prefill_size": 7}, {"max_total_tokens": 160}], ids=["chunks", "retraction"]
)
def test_hidden_states_equal_transformers(tiny, flags):
    path, model = tiny
    asked = prompts(8)
    params = {"max_new_tokens": NEW, "temperature": 0, "ignore_eos": True}
    with LLM(str(path), skip_tokenizer_init=True, **{"max_total_tokens": 4096, **flags}) as llm:
        llm.generate(asked, params)  # now all of it is cached
        llm.engine.scheduler.ratio.value = 0.1
        answers = llm.generate(asked, params, return_hidden_states=True)
    for prompt, answer in zip(asked, answers, strict=True):
        whole = prompt + answer["output_ids"]
        with torch.inference_mode():
            expected = model(torch.tensor([whole]), output_hidden_states=True).hidden_states[-1][0]
        first, *rest = answer["meta_info"]["hidden_states"]
        got = torch.tensor([*first, *rest])
        assert len(first) == len(prompt) and got.shape == (len(whole) - 1, expected.shape[1])
        assert torch.allclose(got, expected[:-1], atol=1e-4)


def test_hidden_states_have_bounds(tiny):
    path, _ = tiny
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=2048) as llm:
        for size, words in ((2**22, "16777216"), (0, "does not give hidden states")):
            llm.engine.hidden_size = size
            with pytest.raises(RequestError, match=words) as caught:
                llm.generate([5] * 9, {"max_new_tokens": 9}, return_hidden_states=True)
            assert caught.value.param == "return_hidden_states"


@pytest.mark.parametrize(
    "options, param",
    [
        ({"top_logprobs_num": 129}, "top_logprobs_num"),
        ({"top_logprobs_num": -1}, "top_logprobs_num"),
        ({"token_ids_logprob": [VOCAB]}, "token_ids_logprob"),
        ({"token_ids_logprob": [1] * 1025}, "token_ids_logprob"),
        ({"custom_logit_processor": "no_repeat"}, "custom_logit_processor"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(tiny, options, param):
    with LLM(str(tiny[0]), skip_tokenizer_init=True, max_total_tokens=512) as llm:
        with pytest.raises(RequestError) as caught:
            llm.generate([5, 6], {"max_new_tokens": 2}, return_logprob=True, **options)
        assert caught.value.param == param


def test_defaults_come_from_generation_config_unless_openai_is_asked_for(tiny, tmp_path):
    import json
    import shutil

    path = shutil.copytree(tiny[0], tmp_path / "model")
    given = {"do_sample": True, "temperature": 0.5, "top_k": 3, "repetition_penalty": 1.5, "eos_token_id": EOS}
    (path / "generation_config.json").write_text(json.dumps(given))
    params = {"max_new_tokens": NEW, "seed": 3, "ignore_eos": True}
    named = {"temperature": 0.5, "top_k": 3, "repetition_penalty": 1.5}
    answers = {}
    for defaults in ("model", "openai"):
        with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=512, sampling_defaults=defaults) as llm:
            answers[defaults] = [llm.generate([5, 6], p)[0]["output_ids"] for p in (params, params | named)]
    assert answers["model"][0] == answers["model"][1] == answers["openai"][1]
    assert answers["openai"][0] != answers["openai"][1]


@torch.inference_mode()
def poison(llm: LLM, token: int) -> None:
    """Make the model answer NaN wherever it reads `token`."""
    llm.engine.executor.model.embed.table[token] = float("nan")


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("plain", [True, False])
def test_a_row_with_nan_fails_alone_and_its_pages_serve_nobody(tiny, page_size, plain):
    path, model = tiny
    good = prompts(6, seed=3)
    bad = [*prompts(6, seed=3)[3][:30], 77, *range(10, 30)]
    params = {"max_new_tokens": NEW, "temperature": 0, "ignore_eos": True, "logit_bias": {77: -100.0}}
    flags = {"page_size": page_size, "disable_overlap_schedule": plain, "chunked_prefill_size": 16}
    good = [[i for i in p if i != 77] for p in good]
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=512, **flags) as llm:
        poison(llm, 77)
        tree = llm.engine.scheduler.ledger.tree
        for _ in range(3):  # again, through pages that the broken row has left behind
            failures = 0
            rids = [llm._submit(p, params) for p in (*good[:3], bad, *good[3:])]
            while not all(_ended(llm, rid) for rid in rids):
                llm._turn()
            for rid, prompt in zip(rids, [*good[:3], bad, *good[3:]], strict=True):
                if prompt is bad:
                    with pytest.raises(RequestError, match="NaN") as caught:
                        llm._done(rid)
                    assert caught.value.status == 500
                    failures += 1
                else:
                    check_greedy(model, prompt, llm._answers[rid][0].result()["output_ids"])
            llm._forget(rids)
            assert failures == 1
            cached = [int(t) for node in tree.nodes() for t in node.key]
            assert 77 not in cached
        llm.engine.scheduler.ledger.check()
        assert llm.engine.scheduler.ledger.held() == [0]


def _ended(llm: LLM, rid: str) -> bool:
    return rid in llm._ended


def check_greedy(model: Any, prompt: list[int], answer: list[int]) -> None:
    assert len(answer) == NEW
    check(model, prompt, answer, {"temperature": 0, "logit_bias": {77: -100.0}})


def test_no_repeat_ngram_equals_transformers(tiny):
    path, model = tiny
    asked = prompts(6, seed=9)
    params = {"max_new_tokens": 40, "temperature": 0, "custom_params": {"ngram_size": 2}, "ignore_eos": True}
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=260, disable_overlap_schedule=False) as llm:
        llm.engine.scheduler.ratio.value = 0.1
        answers = llm.generate(asked, params, custom_logit_processor="no_repeat_ngram")
        assert llm.engine.stats()["retractions"] > 0
    for prompt, answer in zip(asked, answers, strict=True):
        with torch.inference_mode():
            theirs = model.generate(
                torch.tensor([prompt]), max_new_tokens=40, do_sample=False, no_repeat_ngram_size=2, eos_token_id=None
            )
        assert answer["output_ids"] == theirs[0, len(prompt) :].tolist()
