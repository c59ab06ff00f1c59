"""Every sampling field of /generate and of the OpenAI dialects: what reaches the engine, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from server.client import events, http_client
from server.scripted import ScriptedEngine, output, says, server_context, tiny_text
from sglcore.plugins import discover
from sglcore.request import FinishReason, HiddenStates, SamplingParams, TokenLogprobs

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
PROCESSORS = discover("auto").registry("logits_processors")
MODEL = {"sampling_defaults": {"temperature": 0.6, "repetition_penalty": 1.1, "top_k": 0}}


async def post(path: str, body: dict[str, Any], engine: ScriptedEngine | None = None, **model: Any) -> Any:
    engine = engine or ScriptedEngine(says(TEXT, "the fox"))
    context = server_context(engine, TEXT, model=model)
    context.processors = PROCESSORS
    async with http_client(context) as client:
        return await client.post(path, json=body), engine


SHARED: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "frequency_penalty": -2,
    "presence_penalty": 2,
    "repetition_penalty": 1.5,
    "logit_bias": {"7": -100, "9": 1.5},
    "stop": ["x", "y"],
    "stop_token_ids": [3],
    "stop_regex": ["a+", r"\d"],
    "ignore_eos": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "no_stop_trim": True,
    "custom_params": {"ngram_size": 3},
}
EXPECTED = SamplingParams(
    max_new_tokens=9,
    min_new_tokens=2,
    temperature=0.7,
    top_p=0.9,
    top_k=5,
    min_p=0.1,
    frequency_penalty=-2,
    presence_penalty=2,
    repetition_penalty=1.5,
    logit_bias={7: -100.0, 9: 1.5},
    seed=11,
    stop=("x", "y"),
    stop_token_ids=(3,),
    stop_regex=("a+", r"\d"),
    ignore_eos=True,
    skip_special_tokens=False,
    spaces_between_special_tokens=False,
    no_stop_trim=True,
    custom_logit_processor="no_repeat_ngram",
    custom_params={"ngram_size": 3},
)


async def test_every_field_reaches_the_engine() -> None:
    assert set(SamplingParams.__struct_fields__) == set(msgspec.to_builtins(EXPECTED))  # none is a default
    own = {"max_new_tokens": 9, "min_new_tokens": 2, "sampling_seed": 11}
    body = {"text": "hello", "sampling_params": SHARED | own, "custom_logit_processor": "no_repeat_ngram"}
    answer, engine = await post("/generate", body)
    assert answer.status_code == 200, answer.text
    assert engine.requests[0].sampling == EXPECTED
    for path, prompt in (
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    ):
        fields = {"max_tokens": 9, "min_tokens": 2, "seed": 11, "custom_logit_processor": "no_repeat_ngram"}
        answer, engine = await post(path, prompt | SHARED | fields)
        assert answer.status_code == 200, answer.text
        assert engine.requests[0].sampling == EXPECTED


async def test_defaults_are_the_models_unless_the_client_says_otherwise() -> None:
    answer, engine = await post("/generate", {"text": "a"}, **MODEL)
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.repetition_penalty, sampling.top_k) == (0.6, 1.1, -1)
    body = {"text": "a", "sampling_params": {"temperature": 0, "repetition_penalty": 1}}
    answer, engine = await post("/generate", body, **MODEL)
    assert (engine.requests[0].sampling.temperature, engine.requests[0].sampling.repetition_penalty) == (0, 1)
    assert answer.status_code == 200


REFUSED: list[tuple[str, Any]] = [
    ("frequency_penalty", 2.01),
    ("presence_penalty", -2.01),
    ("repetition_penalty", 0),
    ("repetition_penalty", 2.01),
    ("repetition_penalty", "1"),
    ("logit_bias", {"400000": 1}),
    ("logit_bias", {"٣": 1}),
    ("logit_bias", {"1.5": 1}),
    ("logit_bias", {str(i): 0 for i in range(1025)}),
    ("min_new_tokens", -1),
    ("min_new_tokens", 10**12),
    ("min_new_tokens", 129),
    ("stop", ["x"] * 10_000),
    ("stop", [""]),
    ("stop_token_ids", [1] * 10_000),
    ("stop_regex", "a" * 513),
    ("stop_regex", ["a"] * 17),
    ("stop_regex", [""]),
    ("stop_regex", r"(a)\1"),
    ("stop_regex", "(" * 500),
    ("n", 0),
    ("n", 10**9),
    ("temperature", 1e5),
    ("top_p", -1),
    ("top_k", 2**31),
    ("sampling_seed", -(2**63) - 1),
    ("custom_params", [1]),
    ("custom_params", {"ngram_size": 2}),
]


@pytest.mark.parametrize("field, value", REFUSED, ids=lambda v: str(v)[:30])
async def test_what_is_out_of_bounds_is_refused_by_name(field: str, value: Any) -> None:
    answer, engine = await post("/generate", {"text": "a", "sampling_params": {field: value}})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["param"].startswith(f"sampling_params.{field}")
    assert f"sampling_params.{field}" in error["message"]
    assert len(error["message"]) < 1000
    assert engine.requests == []


@pytest.mark.parametrize("value", ["101", "-100.5", "1e300"])
async def test_a_bias_beyond_its_bounds_names_them(value: str) -> None:
    answer, _ = await post("/generate", {"text": "a", "sampling_params": {"logit_bias": {"1": float(value)}}})
    error = answer.json()["error"]
    assert error["param"].startswith("sampling_params.logit_bias") and "100" in error["message"]


@pytest.mark.parametrize(
    "body, param",
    [
        ({"token_ids_logprob": [10**6]}, "token_ids_logprob"),
        ({"token_ids_logprob": [-1]}, "token_ids_logprob[0]"),
        ({"token_ids_logprob": [1] * 1025}, "token_ids_logprob"),
        ({"token_ids_logprob": [1, [2]]}, "token_ids_logprob"),
        ({"token_ids_logprob": [[1], [2]]}, "token_ids_logprob"),
        ({"top_logprobs_num": 129}, "top_logprobs_num"),
        ({"custom_logit_processor": "no_repeat_ngrams"}, "custom_logit_processor"),
        ({"custom_logit_processor": "8004" * 10_000}, "custom_logit_processor"),
        ({"custom_logit_processor": "no_repeat_ngram"}, "sampling_params.custom_params"),
        ({"return_hidden_states": "yes"}, "return_hidden_states"),
    ],
)
async def test_fields_beside_the_sampling_params(body: dict[str, Any], param: str) -> None:
    answer, engine = await post("/generate", {"text": "a", "return_logprob": True} | body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert engine.requests == []


async def test_an_unknown_processor_is_told_the_names_near_it() -> None:
    answer, _ = await post("/generate", {"text": "a", "custom_logit_processor": "no_repeat_ngrams"})
    assert "no_repeat_ngram" in answer.json()["error"]["message"].replace("no_repeat_ngrams", "")


async def test_logprobs_of_chosen_tokens() -> None:
    def script(request: Any) -> list[Any]:
        first = TokenLogprobs(None, 5)
        one = TokenLogprobs(-1.0, 6, [], [(-3.0, 8), (-4.0, 9)])
        done = FinishReason("length")
        return [[output(request, [6], input_logprobs=[first, one], logprobs=[one], finish=done)]]

    body = {"input_ids": [5, 6], "return_logprob": True, "logprob_start_len": 0, "token_ids_logprob": [8, 9]}
    answer, engine = await post("/generate", body, ScriptedEngine(script))
    meta = answer.json()["meta_info"]
    assert engine.requests[0].token_ids_logprob == (8, 9)
    assert meta["input_token_ids_logprobs"] == [None, [[-3.0, 8, None], [-4.0, 9, None]]]
    assert meta["output_token_ids_logprobs"] == [[[-3.0, 8, None], [-4.0, 9, None]]]
    batch = body | {"input_ids": [[5, 6], [5, 6]], "token_ids_logprob": [[8, 9], None]}
    answer, engine = await post("/generate", batch, ScriptedEngine(script))
    assert [r.token_ids_logprob for r in engine.requests] == [(8, 9), ()]


def states(*rows: float) -> HiddenStates:
    import numpy as np

    return HiddenStates(2, np.array([[x, x + 0.5] for x in rows], "<f4").tobytes())


@pytest.mark.parametrize("stream", [False, True])
async def test_hidden_states_come_at_the_end(stream: bool) -> None:
    def script(request: Any) -> list[Any]:
        return [
            [output(request, [], hidden_states=states(1, 2))],
            [output(request, [6]), output(request, [], hidden_states=states(3))],
            [output(request, [7], finish=FinishReason("length"))],
        ]

    body = {"input_ids": [5, 6], "return_hidden_states": True, "stream": stream}
    answer, engine = await post("/generate", body, ScriptedEngine(script))
    assert engine.requests[0].return_hidden_states
    bodies = events(answer.content) if stream else [answer.json()]
    assert bodies[-1]["meta_info"]["hidden_states"] == [[[1.0, 1.5], [2.0, 2.5]], [3.0, 3.5]]
    assert all("hidden_states" not in one["meta_info"] for one in bodies[:-1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields, text, matched",
    [
        ({"stop_regex": "f."}, "the fo", "f."),
        ({"stop_regex": "f.", "stop": "ox"}, "the fo", "f."),
        ({"stop_regex": "x", "stop": "fox"}, "the ", "fox"),
        ({"stop_regex": ["zzz", "e "], "stop": "foxes"}, "the ", "e "),
    ],
)
async def test_stop_regex_ends_the_text(stream: bool, fields: dict[str, Any], text: str, matched: str) -> None:
    body = {"text": "a", "sampling_params": fields, "stream": stream}
    answer, _ = await post("/generate", body)
    last = events(answer.content)[-1] if stream else answer.json()
    assert last["text"] == text
    assert last["meta_info"]["finish_reason"] == {"type": "stop", "matched": matched}
