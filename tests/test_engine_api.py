"""Engine, SGLang's offline API, on a tiny model: shapes, streams, concurrency, cancellation, and every way to end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglcore import LLM, Engine
from sglcore.engine.messages import Outputs
from sglcore.errors import ConfigError, EngineDead, RequestError
from sglcore.offline.boxes import BlockingBox
from sglcore.request import RequestOutput
from words import worded

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
MANY = {**GREEDY, "max_new_tokens": 200}
LONG = {**GREEDY, "max_new_tokens": 8000}  # seconds: not done when the test looks again, whatever else runs
LONGER = '{"max_position_embeddings": 9000}'
PROMPTS = [[i, i + 1, 7] for i in range(3, 13)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worded(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def shared(path: Path) -> Iterator[Engine]:
    with Engine(model_path=str(path), max_total_tokens=20_000, json_model_override_args=LONGER) as engine:
        yield engine


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    """The shared one, at rest before and after."""
    yield shared
    shared.continue_generation()
    wait_for(shared, num_running_reqs=0, num_queue_reqs=0)
    assert shared._thread._open == {} and shared._thread._replies == {}
    assert shared._thread.built.engine.scheduler.ledger.held() == [0]
    shared._thread.call("check")


@pytest.fixture
def own(path: Path) -> Iterator[Engine]:
    """One that the test may break."""
    engine = Engine(model_path=str(path), max_total_tokens=1024)
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def alone(path: Path) -> list[list[int]]:
    """What each of PROMPTS is answered, by LLM, one after another."""
    with LLM(str(path), max_total_tokens=4096) as llm:
        return [llm.generate(prompt, GREEDY)[0]["output_ids"] for prompt in PROMPTS]


def state(engine: Engine) -> dict[str, Any]:
    return engine.get_server_info()["internal_states"][0]


def wait_for(engine: Engine, **wanted: int) -> None:
    """Each look is a turn of the engine's loop."""
    end = time.monotonic() + 60
    while (found := {name: state(engine)[name] for name in wanted}) != wanted:
        assert time.monotonic() < end, f"{found}, not {wanted}"


async def waited(engine: Engine, **wanted: int) -> None:
    await asyncio.to_thread(lambda: wait_for(engine, **wanted))


def kept_waiting(engine: Engine) -> None:
    """Hold the engine still, so that what is sent now is certainly not done when the test goes on."""
    engine.pause_generation("in_place")


# -- shapes --


def test_a_single_prompt_gives_one_answer_and_a_list_a_list(engine: Engine, alone: list[list[int]]) -> None:
    one = engine.generate("t3 t4 t7", GREEDY)
    assert one["output_ids"] == alone[0]
    assert one["text"].split() == [f"t{i}" for i in alone[0]]
    meta = one["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 8}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (3, 8)
    assert set(meta) == {
        "id",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cache_miss_reason",
        "weight_version",
        "e2e_latency",
    }
    assert engine.generate(input_ids=PROMPTS[0], sampling_params=GREEDY)["output_ids"] == alone[0]
    assert [a["output_ids"] for a in engine.generate(["t3 t4 t7"], GREEDY)] == alone[:1]
    assert [a["output_ids"] for a in engine.generate(input_ids=PROMPTS, sampling_params=GREEDY)] == alone
    assert engine.generate([]) == []


def test_ids_may_be_arrays_or_tuples(engine: Engine, alone: list[list[int]]) -> None:
    assert engine.generate(input_ids=np.array(PROMPTS[0]), sampling_params=GREEDY)["output_ids"] == alone[0]
    many = engine.generate(input_ids=tuple(map(tuple, PROMPTS[:2])), sampling_params=GREEDY)
    assert [a["output_ids"] for a in many] == alone[:2]


def test_branches_follow_their_prompt(engine: Engine) -> None:
    params = [{**GREEDY, "n": 2, "temperature": 1.5, "sampling_seed": 3}, GREEDY]
    answers = engine.generate(["t5", "t6"], params, rid=["a", "b"])
    assert [a["meta_info"]["id"] for a in answers] == ["a", "a", "b"]
    assert answers[0]["output_ids"] != answers[1]["output_ids"]
    assert len(engine.generate("t5", {**GREEDY, "n": 2})) == 2


def test_logprobs_are_those_of_llm(engine: Engine, path: Path) -> None:
    options: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    ours = engine.generate(input_ids=PROMPTS[0], sampling_params=GREEDY, token_ids_logprob=[4], **options)["meta_info"]
    with LLM(str(path), max_total_tokens=1024) as llm:
        theirs = llm.generate(PROMPTS[0], GREEDY, token_ids_logprob=[4], **options)[0]["meta_info"]
    names = [f"{side}_{what}" for side in ("input", "output") for what in ("token_logprobs", "top_logprobs")]
    for name in [*names, "output_token_ids_logprobs", "input_token_ids_logprobs"]:
        assert np.allclose(flat(ours[name]), flat(theirs[name]), atol=1e-4)
    assert len(ours["input_token_logprobs"]) == 3 and len(ours["output_top_logprobs"][0]) == 2
    wants = engine.generate(input_ids=PROMPTS[:2], sampling_params=GREEDY, return_logprob=[False, True])
    assert ["output_token_logprobs" in a["meta_info"] for a in wants] == [False, True]


def flat(nested: Any) -> list[float]:
    """All numbers of nested lists; null is 0."""
    if not isinstance(nested, list):
        return [float(nested or 0)]
    return [number for part in nested for number in flat(part)]


def test_no_new_token_gives_the_prompts_logprobs(engine: Engine) -> None:
    params = {"max_new_tokens": 0, "temperature": 0}
    answer = engine.generate(input_ids=PROMPTS[0], sampling_params=params, return_logprob=True, logprob_start_len=0)
    assert answer["output_ids"] == [] and len(answer["meta_info"]["input_token_logprobs"]) == 3


def test_a_stop_string_ends_one_of_a_batch(engine: Engine, alone: list[list[int]]) -> None:
    word = f"t{alone[0][5]}"
    cut, whole = engine.generate(input_ids=PROMPTS[:2], sampling_params=[{**LONG, "stop": [word]}, GREEDY])
    assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": word}
    assert cut["text"].split() == [f"t{i}" for i in alone[0][:5]]
    assert whole["output_ids"] == alone[1]


@pytest.mark.parametrize("branches", [1, 2])
def test_what_a_stop_string_ends_gives_its_seat_back_at_once(engine: Engine, branches: int) -> None:
    """Of a batch, and of a request whose other branch goes on."""
    wild = {**LONG, "temperature": 1.5, "sampling_seed": 3, "n": 2}
    prompt: dict[str, Any] = {"input_ids": PROMPTS[:2], "sampling_params": [LONG, LONG]}
    if branches == 2:
        prompt = {"input_ids": PROMPTS[0], "sampling_params": wild}
    first: dict[int, str] = {}
    for chunk in engine.generate(**prompt, stream=True):
        words = chunk["text"].split()
        if len(words) > 5:
            first.setdefault(chunk["index"], words[4])
        if len(first) == 2:
            break
    stopped = {**(wild if branches == 2 else LONG), "stop": [first[0]]}
    prompt["sampling_params"] = stopped if branches == 2 else [stopped, LONG]
    stream = engine.generate(**prompt, stream=True)
    assert any(chunk["index"] == 0 and chunk["meta_info"]["finish_reason"] for chunk in stream)
    wait_for(engine, num_running_reqs=1)  # while the other one goes on
    stream.close()


def test_hidden_states_and_processors_are_taken(engine: Engine) -> None:
    answer = engine.generate(input_ids=[5, 6], sampling_params=GREEDY, return_hidden_states=True)
    assert np.shape(answer["meta_info"]["hidden_states"][0]) == (2, 64)
    arguments = {"custom_params": {"ngram_size": 1}}
    found = engine.generate(
        input_ids=[5, 6],
        sampling_params={**GREEDY, "max_new_tokens": 60} | arguments,
        custom_logit_processor="no_repeat_ngram",
    )["output_ids"]
    assert len(set(found)) == len(found) == 60
    with pytest.raises(RequestError) as error:
        engine.generate("t5", custom_logit_processor="no_such")
    assert error.value.code == "unknown_logits_processor"


def test_a_session_goes_on_and_ends(engine: Engine, alone: list[list[int]]) -> None:
    session = engine.open_session(1000)
    first = engine.generate(input_ids=PROMPTS[0], sampling_params=GREEDY, session_params={"id": session}, rid="one")
    assert first["output_ids"] == alone[0]
    more = {"id": session, "rid": "one"}
    second = engine.generate(input_ids=[9], sampling_params=GREEDY, session_params=more)
    whole = engine.generate(input_ids=[*PROMPTS[0], *alone[0], 9], sampling_params=GREEDY)
    assert second["output_ids"] == whole["output_ids"]
    assert second["meta_info"]["prompt_tokens"] == 12
    engine.close_session(session)
    with pytest.raises(RequestError):
        engine.generate(input_ids=[9], sampling_params=GREEDY, session_params=more)
    with pytest.raises(RequestError, match="capacity_of_str_len"):
        engine.open_session(-1)


# -- streams --


def test_a_stream_grows_to_the_whole_answer(engine: Engine, alone: list[list[int]]) -> None:
    chunks = list(engine.generate("t3 t4 t7", GREEDY, stream=True))
    assert [c["output_ids"] for c in chunks][-1] == alone[0]
    assert all(a["output_ids"] == alone[0][: len(a["output_ids"])] for a in chunks)
    assert chunks[-1]["text"] == engine.generate("t3 t4 t7", GREEDY)["text"]
    assert "index" not in chunks[0] and len(chunks) > 1


def test_a_stream_of_several_has_indices(engine: Engine, alone: list[list[int]]) -> None:
    last = {c["index"]: c for c in engine.generate(input_ids=PROMPTS, sampling_params=GREEDY, stream=True)}
    assert [last[i]["output_ids"] for i in range(len(PROMPTS))] == alone


def test_a_stream_that_is_left_frees_everything(engine: Engine) -> None:
    stream = engine.generate("t5", LONG, stream=True)
    next(stream)
    kept_waiting(engine)
    assert state(engine)["num_running_reqs"] == 1
    stream.close()
    wait_for(engine, num_running_reqs=0)
    engine.generate("t5", LONG, stream=True)  # never begun: nothing to end
    assert engine._thread._open == {}


def test_stream_interval_gathers_tokens(path: Path) -> None:
    with Engine(str(path), max_total_tokens=512, stream_interval=4) as engine:
        sizes = [len(c["output_ids"]) for c in engine.generate("t5", {**GREEDY, "max_new_tokens": 9}, stream=True)]
    assert sizes[0] == 1 and sizes[-1] == 9
    assert all(b - a >= 4 for a, b in itertools.pairwise(sizes[:-1]))


# -- asyncio --


def test_async_calls_are_batched(engine: Engine, alone: list[list[int]]) -> None:
    async def main() -> list[list[int]]:
        kept_waiting(engine)
        tasks = [asyncio.create_task(engine.async_generate(input_ids=p, sampling_params=GREEDY)) for p in PROMPTS]
        await waited(engine, num_queue_reqs=len(PROMPTS))
        engine.continue_generation()
        return [answer["output_ids"] for answer in await asyncio.gather(*tasks)]

    before = state(engine)["steps"]
    assert asyncio.run(main()) == alone
    assert state(engine)["steps"] - before <= 12  # one after another it would be 80


def test_the_event_loop_goes_on_meanwhile(engine: Engine) -> None:
    async def main() -> int:
        task, turns = asyncio.create_task(engine.async_generate("t5", MANY)), 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(main()) > 200


def test_async_streams_side_by_side(engine: Engine, alone: list[list[int]]) -> None:
    async def collect(prompt: list[int]) -> list[int]:
        stream = await engine.async_generate(input_ids=prompt, sampling_params=GREEDY, stream=True)
        return [chunk async for chunk in stream][-1]["output_ids"]

    async def main() -> list[list[int]]:
        return await asyncio.gather(*map(collect, PROMPTS))

    assert asyncio.run(main()) == alone


def test_cancelling_a_task_aborts_its_request(engine: Engine) -> None:
    async def main() -> None:
        kept_waiting(engine)
        task = asyncio.create_task(engine.async_generate(["t5", "t6"], LONG))
        await waited(engine, num_queue_reqs=2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await waited(engine, num_queue_reqs=0)

    asyncio.run(main())


def test_cancelling_what_runs_and_what_streams(engine: Engine) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def consume() -> None:
            async for _ in await engine.async_generate("t5", LONG, stream=True):
                begun.set()

        task = asyncio.create_task(consume())
        await begun.wait()
        kept_waiting(engine)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await waited(engine, num_running_reqs=0)
        engine.continue_generation()
        left = await engine.async_generate("t6", LONG, stream=True)
        async for _ in left:
            break
        kept_waiting(engine)
        await left.aclose()
        await waited(engine, num_running_reqs=0)

    asyncio.run(main())


def test_a_timeout_of_the_caller_aborts(engine: Engine) -> None:
    async def main() -> None:
        kept_waiting(engine)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.async_generate("t5", LONG), 0.05)
        await waited(engine, num_queue_reqs=0)

    asyncio.run(main())


def test_a_storm_of_cancellations_leaves_the_others_right(engine: Engine, alone: list[list[int]]) -> None:
    chance = random.Random(5)

    async def one(index: int) -> list[int] | None:
        prompt = PROMPTS[index % len(PROMPTS)]
        if index % 2:
            return (await engine.async_generate(input_ids=prompt, sampling_params=GREEDY))["output_ids"]
        seen: list[int] = []
        async for chunk in await engine.async_generate(input_ids=prompt, sampling_params=GREEDY, stream=True):
            seen = chunk["output_ids"]
        return seen

    async def main() -> int:
        tasks = [asyncio.create_task(one(i)) for i in range(200)]
        victims = set(chance.sample(range(200), 100))
        for i in victims:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            tasks[i].cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        for i, answer in enumerate(told):
            if isinstance(answer, asyncio.CancelledError):
                assert i in victims
            else:
                assert answer == alone[i % len(PROMPTS)]
        return sum(isinstance(answer, asyncio.CancelledError) for answer in told)

    assert asyncio.run(main()) > 30


def test_an_interrupt_ends_a_blocking_call(engine: Engine) -> None:
    kept_waiting(engine)

    def interrupt() -> None:
        wait_for(engine, num_queue_reqs=1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        engine.generate("t5", LONG)
    thread.join()
    wait_for(engine, num_queue_reqs=0)


def test_inside_a_running_loop_everything_works(engine: Engine, alone: list[list[int]]) -> None:
    """As in a notebook, whose cells run in a loop."""

    async def cell() -> None:
        running = asyncio.create_task(engine.async_generate(input_ids=PROMPTS[1], sampling_params=GREEDY))
        await asyncio.sleep(0)
        assert engine.generate(input_ids=PROMPTS[0], sampling_params=GREEDY)["output_ids"] == alone[0]
        assert list(engine.generate("t3 t4 t7", GREEDY, stream=True))[-1]["output_ids"] == alone[0]
        assert engine.get_model_info()["is_generation"]
        assert (await running)["output_ids"] == alone[1]

    asyncio.run(cell())
    asyncio.run(cell())  # in another loop


def test_a_long_text_is_encoded_beside_the_loop(engine: Engine) -> None:
    async def main() -> None:
        with pytest.raises(RequestError) as error:
            await engine.async_generate("t5 " * 10_000, GREEDY)
        assert (error.value.param, error.value.code) == ("prompt", "context_length_exceeded")

    asyncio.run(main())


def test_a_loop_that_is_closed_with_calls_in_it_is_forgotten(engine: Engine) -> None:
    kept_waiting(engine)
    loop = asyncio.new_event_loop()
    task = loop.create_task(engine.async_generate("t5", GREEDY))
    loop.run_until_complete(waited(engine, num_queue_reqs=1))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    engine.continue_generation()
    wait_for(engine, num_running_reqs=0, num_queue_reqs=0)
    assert engine._thread._open == {}
    with pytest.raises(RuntimeError, match="loop is closed"):  # asyncio's; nothing is left to abort
        task.get_coro().close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_many_threads_at_once(engine: Engine, alone: list[list[int]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(engine.generate, input_ids=p, sampling_params=GREEDY) for p in PROMPTS * 4]
        assert [f.result()["output_ids"] for f in asked] == alone * 4


# -- steering --


@pytest.mark.parametrize(("target", "met"), [({"rid": "x_1"}, 1), ({"rid": "x"}, 2), ({"abort_all": True}, 2)])
def test_abort_ends_requests_by_id_prefix_or_all(engine: Engine, target: dict[str, Any], met: int) -> None:
    async def main() -> Any:
        kept_waiting(engine)
        task = asyncio.create_task(engine.async_generate(["t5", "t6"], GREEDY, rid="x"))
        await waited(engine, num_queue_reqs=2)
        assert await asyncio.to_thread(lambda: engine.abort_request(**target, abort_message="Enough.")) == met
        engine.continue_generation()
        return await task

    reasons = [a["meta_info"]["finish_reason"] for a in asyncio.run(main())]
    assert [r["type"] for r in reasons] == (["abort"] * 2 if met == 2 else ["length", "abort"])
    assert reasons[1]["message"] == "Enough."
    assert engine.abort("x") == 0
    with pytest.raises(RequestError, match="abort_all"):
        engine.abort_request()


def test_ids_are_honoured_and_not_shared(engine: Engine, alone: list[list[int]]) -> None:
    assert engine.generate("t5", GREEDY, rid="mine")["meta_info"]["id"] == "mine"
    with pytest.raises(RequestError) as error:
        engine.generate(["t5", "t6"], GREEDY, rid=["a", "a"])
    assert error.value.code == "duplicate_rid"
    stream = engine.generate("t5", LONG, rid="b", stream=True)
    next(stream)
    with pytest.raises(RequestError) as error:
        engine.generate("t6", GREEDY, rid="b")
    assert error.value.code == "duplicate_rid"
    stream.close()  # the next one under this id gets its own tokens only
    assert engine.generate(input_ids=PROMPTS[0], sampling_params=GREEDY, rid="b")["output_ids"] == alone[0]


def test_late_outputs_of_an_earlier_request_are_dropped(engine: Engine) -> None:
    kept_waiting(engine)
    thread, box = engine._thread, BlockingBox()
    call = engine._gathering("t5", GREEDY, None, False, {"rid": "z"})
    thread.submit(call.asks, box)
    epoch = thread._open["z"][0]
    for number in (epoch - 1, epoch):
        thread._hand_out(Outputs([RequestOutput("z", 0, [number % 100], epoch=number)]))
    thread._hand_out(Outputs([RequestOutput("nobody", 0, [1], epoch=epoch)]))
    assert [out.epoch for out in box.get()] == [epoch]
    thread.leave(BlockingBox(), ["z"], [])  # another's: nothing happens
    assert list(thread._open) == ["z"]
    thread.leave(box, call.rids, call.unfinished())
    wait_for(engine, num_queue_reqs=0)


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_a_pause_changes_no_token(engine: Engine, mode: str) -> None:
    whole = engine.generate("t5", MANY)["output_ids"]
    stream = engine.generate("t5", MANY, stream=True)
    next(stream)
    engine.pause_generation(mode)
    assert state(engine)["paused"]
    engine.continue_generation()
    assert list(stream)[-1]["output_ids"] == whole
    with pytest.raises(RequestError, match="mode"):
        engine.pause_generation("sideways")


def test_pausing_with_abort_ends_what_runs(engine: Engine) -> None:
    stream = engine.generate("t5", LONG, stream=True)
    next(stream)
    engine.pause_generation()
    assert list(stream)[-1]["meta_info"]["finish_reason"]["type"] == "abort"


def test_flushing(engine: Engine) -> None:
    prompt = list(range(3, 60))
    engine.generate(input_ids=prompt, sampling_params=GREEDY)
    assert engine.generate(input_ids=prompt, sampling_params=GREEDY)["meta_info"]["cached_tokens"] == 56
    engine.flush_cache()
    assert engine.generate(input_ids=prompt, sampling_params=GREEDY)["meta_info"]["cached_tokens"] == 0
    stream = engine.generate("t5", LONG, stream=True)
    next(stream)
    kept_waiting(engine)
    with pytest.raises(RequestError) as error:
        engine.flush_cache(timeout=0.06)
    assert error.value.code == "busy"
    stream.close()
    engine.flush_cache(timeout=5)


def test_what_is_told_about_it(engine: Engine, path: Path) -> None:
    info = engine.get_server_info()
    assert info["model_path"] == str(path) and info["max_total_num_tokens"] == 20_000
    assert info["plugin_plan"] and info["decisions"] and info["version"]
    assert engine.get_model_info()["vocab_size"] == 160


# -- refusals --


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "t5", "input_ids": [5]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["t5", ""]}, "prompt[1]"),
        ({"prompt": [5, 6]}, "prompt[0]"),
        ({"prompt": 5}, "prompt"),
        ({"input_ids": []}, "input_ids"),
        ({"input_ids": [5, 999]}, "input_ids"),
        ({"input_ids": [[5], [-1]]}, "input_ids[1]"),
        ({"input_ids": [5.0]}, "input_ids"),
        ({"input_ids": [5], "sampling_params": {"temprature": 1}}, "sampling_params.temprature"),
        ({"input_ids": [5], "sampling_params": {"temperature": float("nan")}}, "sampling_params.temperature"),
        ({"input_ids": [5], "sampling_params": {"max_new_tokens": 100_000}}, "sampling_params.max_new_tokens"),
        ({"input_ids": [5], "sampling_params": {"n": 1000}}, "sampling_params.n"),
        ({"input_ids": [5], "sampling_params": {"json_schema": "{}"}}, "sampling_params.json_schema"),
        ({"input_ids": [5], "sampling_params": [{}, {}]}, "sampling_params"),
        ({"input_ids": [5], "image_data": "x.png"}, "image_data"),
        ({"input_ids": [5], "lora_path": "x"}, "lora_path"),
        ({"input_ids": [5], "temperature": 0}, "temperature"),
        ({"input_ids": [5], "return_logprob": True, "logprob_start_len": 7}, "logprob_start_len"),
        ({"input_ids": [5], "return_logprob": True, "token_ids_logprob": [999]}, "token_ids_logprob"),
        ({"input_ids": [5], "timeout": -1}, "timeout"),
        ({"input_ids": [5], "session_params": {"id": "none"}}, "session_params.id"),
    ],
)
def test_refusals_name_the_argument_and_the_engine_goes_on(
    engine: Engine, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as error:
        engine.generate(**arguments)
    assert error.value.param == param
    with pytest.raises(RequestError) as again:
        asyncio.run(engine.async_generate(**arguments))
    assert str(again.value) == str(error.value)
    assert engine.generate("t5", GREEDY)["output_ids"]


def test_null_and_empty_ask_for_nothing(engine: Engine) -> None:
    nothing: dict[str, Any] = {"return_logprob": None, "image_data": None, "lora_path": "", "rid": None}
    assert engine.generate("t5", {**GREEDY, "stop": None}, **nothing)["output_ids"]


def test_one_bad_prompt_of_a_batch_ends_the_others(engine: Engine) -> None:
    with pytest.raises(RequestError) as error:
        engine.generate(["t5", "t6"], LONG, session_params={"id": "none"})
    assert error.value.param == "session_params.id"
    # refused by the engine itself, after the first prompt was taken in
    session = engine.open_session()
    with pytest.raises(RequestError):
        engine.generate(["t5", "t6"], [LONG, {**LONG, "n": 2}], session_params={"id": session})
    engine.close_session(session)


def test_encode_says_that_it_is_to_come(engine: Engine) -> None:
    with pytest.raises(RequestError, match="embedding model"):
        engine.encode("t5")
    with pytest.raises(RequestError, match="embedding model"):
        asyncio.run(engine.async_encode("t5"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"model_path": "demo", "page_sise": 2}, "Did you mean page_size"),
        ({"model_path": "demo", "page_size": 0}, "--page-size 0"),
        ({"model_path": "demo", "port": 30001}, "HTTP server, which Engine does not start"),
        ({"model_path": "demo", "dp_size": 2}, "known SGLang flag"),
        ({"model_path": "demo", "tp": 2, "tp_size": 2}, "given twice"),
        ({}, "No model was named"),
        ({"model_path": "/no/such/model"}, "/no/such/model"),
    ],
)
def test_bad_flags_are_refused_before_anything_loads(flags: dict[str, Any], told: str) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError) as error:
        Engine(**flags)
    assert told in str(error.value)
    assert threading.active_count() == before


def test_aliases_and_flags_that_ask_for_nothing_are_taken(path: Path) -> None:
    flags: dict[str, Any] = {"tp": 1, "dp_size": 1, "port": 30000, "enable_mixed_chunk": True, "log_level": "error"}
    flags |= {"served_model_name": "tiny", "weight_version": "v7"}
    with Engine(model=str(path), max_total_tokens=256, **flags) as engine:
        info, answer = engine.get_model_info(), engine.generate(input_ids=[1], sampling_params={"max_new_tokens": 1})
    assert (info["served_model_name"], info["weight_version"]) == ("tiny", "v7")
    assert answer["meta_info"]["weight_version"] == "v7"


def test_a_start_that_fails_late_leaves_nothing(path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="max-total-tokens"):
        Engine(str(path), max_total_tokens=1)
    assert threading.active_count() == before


def test_without_a_tokenizer_ids_go_in_and_out(path: Path, alone: list[list[int]]) -> None:
    with Engine(str(path), skip_tokenizer_init=True, max_total_tokens=512) as engine:
        answer = engine.generate(input_ids=PROMPTS[0], sampling_params=GREEDY)
        assert answer["output_ids"] == alone[0] and "text" not in answer
        for arguments in ({"prompt": "t5"}, {"input_ids": [5], "sampling_params": {"stop": ["x"]}}):
            with pytest.raises(ConfigError, match="tokenizer"):
                engine.generate(**arguments)


# -- ends --


def open_calls(engine: Engine) -> tuple[list[asyncio.Task[Any]], threading.Thread, list[BaseException]]:
    """Two awaiting tasks (one of them streams) and a blocked thread, none of which can finish."""
    errors: list[BaseException] = []

    def block() -> None:
        try:
            engine.generate("t7", GREEDY)
        except BaseException as error:
            errors.append(error)

    async def stream() -> None:
        async for _ in await engine.async_generate("t6", GREEDY, stream=True):
            pass

    thread = threading.Thread(target=block)
    thread.start()
    return [asyncio.create_task(engine.async_generate("t5", GREEDY)), asyncio.create_task(stream())], thread, errors


def test_when_the_engine_fails_nobody_hangs(own: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("no such kernel")

    async def main() -> None:
        own.pause_generation("in_place")
        tasks, thread, errors = open_calls(own)
        await waited(own, num_queue_reqs=3)
        monkeypatch.setattr(own._thread.built.engine, "step", broken)
        own.continue_generation()
        told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        await asyncio.to_thread(thread.join, 30)
        for error in [*told, *errors]:
            assert isinstance(error, EngineDead) and "no such kernel" in str(error)
        assert len(errors) == 1

    asyncio.run(main())
    assert not own.alive
    for later in (lambda: own.generate("t5"), own.flush_cache, lambda: own.abort(abort_all=True)):
        with pytest.raises(EngineDead, match="no such kernel"):
            later()
    own.shutdown()
    assert not own._thread._thread.is_alive()


def test_a_control_call_that_waits_hears_of_the_end(own: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise SystemError("the books are gone")

    monkeypatch.setattr(own._thread.built.engine.scheduler, "abort", broken)
    with pytest.raises(EngineDead, match="the books are gone"):
        own.abort("x")


def test_shutdown_gives_the_memory_back(own: Engine) -> None:
    own.generate("t5", {"max_new_tokens": 2})
    kept = [weakref.ref(part) for part in (own._thread.built.engine.executor, own._thread.built.engine.scheduler)]
    assert all(ref() is not None for ref in kept)
    own.shutdown()
    assert [ref() for ref in kept] == [None, None]


def test_shutdown_ends_what_is_open(own: Engine) -> None:
    async def main() -> None:
        own.pause_generation("in_place")
        tasks, thread, errors = open_calls(own)
        await waited(own, num_queue_reqs=3)
        own.shutdown()
        told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        await asyncio.to_thread(thread.join, 30)
        for error in [*told, *errors]:
            assert isinstance(error, EngineDead) and "shut down" in str(error)
        assert len(errors) == 1

    asyncio.run(main())
    own.shutdown()
    with pytest.raises(EngineDead, match="shut down"):
        own.generate("t5")


def test_two_engines_in_one_process(path: Path, alone: list[list[int]]) -> None:
    async def main(one: Engine, two: Engine) -> None:
        asked = [e.async_generate(input_ids=PROMPTS, sampling_params=GREEDY, rid="same") for e in (one, two)]
        for answers in await asyncio.gather(*asked):
            assert [a["output_ids"] for a in answers] == alone

    with Engine(str(path), max_total_tokens=1024) as one:
        with Engine(str(path), max_total_tokens=1024, page_size=16) as two:
            asyncio.run(main(one, two))
        assert one.alive and not two.alive
        assert one.generate("t3 t4 t7", GREEDY)["output_ids"] == alone[0]


def test_one_that_is_dropped_ends_its_thread(path: Path) -> None:
    engine = Engine(str(path), max_total_tokens=256)
    thread = engine._thread._thread
    assert thread.is_alive()
    del engine
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_a_forked_child_is_told_so(engine: Engine) -> None:
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            engine.generate(input_ids=[5], sampling_params=GREEDY)
        except EngineDead as error:
            os.write(writes, str(error).encode())
        finally:
            os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    told = os.read(reads, 4096).decode()
    os.close(reads)
    assert f"runs in process {os.getpid()}" in told and "Make the Engine in the process" in told
    assert engine.generate("t5", GREEDY)["output_ids"]


# -- in processes of their own --

SCRIPT = """
from sglcore import Engine
import sys
assert "torch" not in sys.modules
engine = Engine(model_path={path!r}, max_total_tokens=512, tp_size={tp})
print(engine.generate(input_ids=[3, 4, 7], sampling_params={params!r})["output_ids"])
"""


@pytest.mark.parametrize("tp", [1, 2])
def test_a_script_needs_no_main_guard_and_no_shutdown(
    path: Path, tmp_path: Path, alone: list[list[int]], tp: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(path=str(path), tp=tp, params=GREEDY))
    done = run([str(script)])
    assert done.stdout.splitlines() == [str(alone[0])]


CELLS = """
from sglcore import Engine
engine = Engine(model_path={path!r}, max_total_tokens=512)
print(engine.generate("t3 t4 t7", {params!r})["output_ids"])
answer = await engine.async_generate("t3 t4 t7", {params!r})
print(answer["output_ids"])
print([c["output_ids"] async for c in await engine.async_generate("t3 t4 t7", {params!r}, stream=True)][-1])
engine.shutdown()
exit()
"""


def test_cells_of_a_notebook(path: Path, alone: list[list[int]]) -> None:
    """Python's own asyncio console runs each line in a loop that is running, as a notebook does its cells."""
    done = run(["-m", "asyncio"], CELLS.format(path=str(path), params=GREEDY))
    assert done.stdout.replace(">>> ", "").split("\n").count(str(alone[0])) == 3, done.stdout + done.stderr


def run(arguments: list[str], cells: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=cells, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
