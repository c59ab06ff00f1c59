"""/v1/score and /v1/rerank over a scripted engine, and the endpoints whose kind of model is not served."""

from __future__ import annotations

import math
from typing import Any

import pytest

from server.client import http_client
from server.scripted import ScriptedEngine, output, server_context, tiny_text
from sglcore.request import FinishReason, GenerateRequest, TokenLogprobs
from sglcore.server.rerank import is_judge
from sglcore.server.scoring import softmax

pytestmark = pytest.mark.asyncio
JUDGE = """<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can
 only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ instruct | default("Find what answers") }}
<Query>: {{ messages[0].content }}
<Document>: {{ messages[1].content }}<|im_end|>
<|im_start|>assistant
"""
JUDGE = JUDGE.replace("can\n only", "can only")
TEXT = tiny_text()
SCORE, RERANK = "/v1/score", "/v1/rerank"


def likes(request: GenerateRequest) -> list[Any]:
    """The more `x` (token) a prompt holds, the likelier is the first label."""
    prompt = request.token_ids().tolist()
    best = prompt.count(TEXT.encode("x")[0]) / 10
    ids = [(math.log(0.1 + best if i == 0 else 0.1), token) for i, token in enumerate(request.token_ids_logprob)]
    told = [TokenLogprobs(-1.0, 5, [], ids)]
    return [[output(request, [5], logprobs=told, finish=FinishReason("length"))]]


async def post(path: str, body: dict[str, Any], template: str | None = None, **context: Any) -> tuple[Any, Any]:
    engine = ScriptedEngine(likes)
    text = tiny_text(template) if template else TEXT
    async with http_client(server_context(engine, text, **context)) as client:
        return await client.post(path, json=body), engine


async def test_scores_of_texts() -> None:
    body = {"query": "ab", "items": ["", "x", "xxx"], "label_token_ids": [7, 9]}
    answer, engine = await post(SCORE, body)
    told = answer.json()
    assert told["object"] == "scoring" and told["model"] == "tiny"
    assert [[round(value, 6) for value in row] for row in told["scores"]] == [[0.1, 0.1], [0.2, 0.1], [0.4, 0.1]]
    assert [TEXT.decode(r.token_ids().tolist()) for r in engine.requests] == ["ab", "abx", "abxxx"]
    for request in engine.requests:
        assert request.token_ids_logprob == (7, 9) and request.sampling.max_new_tokens == 1
        assert request.sampling.greedy and not request.sampling.penalized  # the model's own distribution
    assert told["usage"]["prompt_tokens"] == sum(len(r.token_ids()) for r in engine.requests)


async def test_shares_and_order() -> None:
    body = {"query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [7, 9, 7], "apply_softmax": True}
    answer, engine = await post(SCORE, body | {"item_first": True})
    rows = answer.json()["scores"]
    assert [r.token_ids().tolist() for r in engine.requests] == [[3, 1, 2], [4, 5, 1, 2]]
    assert all(len(row) == 3 and abs(sum(row) - 1) < 1e-9 and row[0] == row[2] for row in rows)
    assert softmax([-math.inf, -math.inf]) == [0.5, 0.5]


async def test_one_item_may_stand_alone() -> None:
    answer, _ = await post(SCORE, {"query": "ab", "items": "x", "label_token_ids": [7]})
    assert [[round(value, 6) for value in row] for row in answer.json()["scores"]] == [[0.2]]


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"items": []}, "items"),
        ({"items": ["a", [1]]}, "items"),
        ({"items": [[1]]}, "items"),
        ({"query": [1], "items": [["a"]]}, "items[0]"),
        ({"query": [1], "items": [[10**6]]}, "items[0]"),
        ({"query": [10**6], "items": [[1]]}, "query"),
        ({"query": [1] * 200, "items": [[1] * 200]}, "items[0]"),
        ({"query": "", "items": [""]}, "items[0]"),
        ({"items": ["a"] * 1025}, "items"),
        ({"items": ["the " * 3000]}, "items[0]"),
        ({"label_token_ids": []}, "label_token_ids"),
        ({"label_token_ids": [-1]}, "label_token_ids[0]"),
        ({"label_token_ids": [10**6]}, "label_token_ids"),
        ({"label_token_ids": "yes"}, "label_token_ids"),
        ({"apply_softmax": "yes"}, "apply_softmax"),
        ({"model": "other"}, "model"),
        ({"model": "tiny:adapter"}, "model"),
    ],
)
async def test_scores_that_are_refused(fields: dict[str, Any], param: str) -> None:
    answer, engine = await post(SCORE, {"query": "ab", "items": ["x"], "label_token_ids": [7]} | fields)
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["param"] == param, answer.text
    assert engine.requests == []


async def test_an_abort_gives_no_scores() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, [], finish=FinishReason("abort", message="No."))]])
    async with http_client(server_context(engine, TEXT)) as client:
        answer = await client.post(SCORE, json={"query": "a", "items": ["x"], "label_token_ids": [7]})
    assert answer.status_code == 503 and "No." in answer.json()["error"]["message"]


def judge_words() -> Any:
    """A text service for which yes and no are single tokens."""
    text = tiny_text(JUDGE)
    encode = text.encode
    words = {"yes": [300], "no": [301]}
    text.encode = lambda given, **how: words.get(given) or encode(given, **how)  # type: ignore[method-assign]
    return text


async def rank(body: dict[str, Any]) -> tuple[Any, Any]:
    engine = ScriptedEngine(likes)
    context = server_context(engine, judge_words(), model={"context_length": 1024})
    async with http_client(context) as client:
        return await client.post(RERANK, json=body), engine


async def test_documents_are_ranked() -> None:
    answer, engine = await rank({"query": "q", "documents": ["a", "xxx", "x"], "instruct": "Find it"})
    rows = answer.json()
    assert [(row["index"], row["document"]) for row in rows] == [(1, "xxx"), (2, "x"), (0, "a")]
    assert rows[0]["score"] > rows[1]["score"] > rows[2]["score"]
    assert all(0 < row["score"] < 1 and row["meta_info"]["prompt_tokens"] > 10 for row in rows)
    assert engine.requests[0].token_ids_logprob == (300, 301)
    prompt = TEXT.decode(engine.requests[1].token_ids().tolist())
    assert "<Instruct>: Find it\n<Query>: q\n<Document>: xxx" in prompt
    answer, _ = await rank({"query": "q", "documents": ["a", "xxx"], "top_n": 1, "return_documents": False})
    assert [sorted(row) for row in answer.json()] == [["index", "meta_info", "score"]]


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"documents": []}, "documents"),
        ({"documents": [{"text": "x"}]}, "documents[0]"),
        ({"documents": ["x"] * 1025}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"documents": ["the " * 5000]}, "documents[0]"),
    ],
)
async def test_rankings_that_are_refused(fields: dict[str, Any], param: str) -> None:
    answer, engine = await rank({"query": "q", "documents": ["x"]} | fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
    assert engine.requests == []


async def test_what_is_no_reranker_says_so() -> None:
    for template in (None, JUDGE):  # a template alone is not enough: here yes and no are several tokens
        answer, _ = await post(RERANK, {"query": "q", "documents": ["x"]}, template)
        error = answer.json()["error"]
        assert answer.status_code == 400 and (error["param"], error["code"]) == ("model", "wrong_model_kind")
    assert not is_judge(None) and not is_judge("{{ messages }}") and is_judge(JUDGE)


@pytest.mark.parametrize(
    "path, wanted", [("/v1/embeddings", "embedding model"), ("/v1/classify", "classification model")]
)
async def test_endpoints_of_other_kinds_of_models_say_which(path: str, wanted: str) -> None:
    for given in ("text", ["a", "b"], [1, 2], [[1], [2]]):
        answer, _ = await post(path, {"input": given, "model": "tiny"})
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["code"] == "wrong_model_kind" and error["param"] == "model"
        assert wanted in error["message"] and "LlamaForCausalLM" in error["message"]
    for body, param in (
        ({}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[10**6]]}, "input[0]"),
        ({"input": ["a"] * 1025}, "input"),
        ({"input": "a", "model": "other"}, "model"),
    ):
        answer, _ = await post(path, body)
        assert 400 <= answer.status_code < 500 and answer.json()["error"]["param"] == param, answer.text
    if path == "/v1/embeddings":
        for fields in ({"encoding_format": "hex"}, {"dimensions": 0}):
            answer, _ = await post(path, {"input": "a"} | fields)
            assert answer.json()["error"]["param"] in fields
