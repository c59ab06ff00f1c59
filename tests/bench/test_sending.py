"""Requests are timed by what arrives, and sent at their hours."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglcore.bench.backends import BACKENDS, NativeReader, OpenAIReader, Reader, Wish
from sglcore.bench.datasets import Ask
from sglcore.bench.http_client import Failed
from sglcore.bench.metrics import Outcome
from sglcore.bench.sending import arrivals, read_events, send_all

DONE = b"data: [DONE]\n\n"


def native(text: str, tokens: int) -> bytes:
    return b"data: " + msgspec.json.encode({"text": text, "meta_info": {"completion_tokens": tokens}}) + b"\n\n"


def read(pieces: Sequence[tuple[float, bytes]], reader: Reader) -> Outcome:
    """Each piece arrives at its time; the stream ends with the last."""
    now = 0.0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal now
        for now, piece in pieces:  # noqa: B007
            yield piece

    outcome = Outcome(4)
    asyncio.run(read_events(stream(), reader, outcome, lambda: now))
    return outcome


def test_times_of_a_native_stream() -> None:
    reader = NativeReader()
    pieces = [(0.5, native("a", 1)), (0.8, native("a b", 2)), (1.4, native("a b c d", 4)), (1.5, DONE)]
    found = read(pieces, reader)
    assert found.ttft == 0.5
    assert found.itl == pytest.approx([0.3, 0.3, 0.3])  # the last two tokens came together and share the time
    assert found.latency == 1.5
    assert (reader.tokens, reader.text()) == (4, "a b c d")


def test_tokens_that_come_with_the_first_one_have_no_gap() -> None:
    assert read([(0.5, native("a b", 3)), (0.9, native("a b", 3)), (1.0, DONE)], NativeReader()).itl == [0.0, 0.0]


def test_times_of_an_openai_stream() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"content": "yes"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 7}},
    ]
    reader = OpenAIReader()
    pieces = [(i + 1.0, b"data: " + msgspec.json.encode(e) + b"\r\n\r\n") for i, e in enumerate(events)]
    found = read([*pieces, (6.0, DONE)], reader)
    assert (found.ttft, found.itl, found.latency) == (2.0, [1.0], 6.0)
    assert (reader.tokens, reader.text()) == (7, "hmyes")


def test_a_completion_in_one_piece() -> None:
    reader = OpenAIReader()
    reader.event(msgspec.json.encode({"choices": [{"text": "abc"}], "usage": {"completion_tokens": 2}}))
    assert (reader.tokens, reader.text()) == (2, "abc")


STREAM = b": ping\n\n" + native("é", 1) + native("é🎉", 2) + native("é🎉x", 3) + DONE


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cutting_of_the_stream_reads_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = NativeReader()
    found = read([(1.0, STREAM[a:b]) for a, b in itertools.pairwise(edges)], reader)
    assert (reader.tokens, reader.text(), len(found.itl)) == (3, "é🎉x", 2)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (native("a", 1), "ended before"),
        (DONE, "no token"),
        (b'data: {"error": {"message": "too long"}}\n\n' + DONE, "too long"),
    ],
)
def test_a_stream_that_is_no_answer(stream: bytes, told: str) -> None:
    for reader in (NativeReader(), OpenAIReader()):
        if isinstance(reader, OpenAIReader) and told == "ended before":
            stream = b'data: {"choices": [{"text": "a"}]}\n\n'
        with pytest.raises(Failed, match=told):
            read([(1.0, stream)], reader)


def test_arrivals_are_a_poisson_process() -> None:
    dice = np.random.default_rng(0)
    assert arrivals(3, float("inf"), dice) == [0.0, 0.0, 0.0]
    hours = arrivals(4001, 8.0, dice)
    gaps = np.diff(hours)
    assert hours[0] == 0 and gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.06)
    assert gaps.std() == pytest.approx(1 / 8, rel=0.1)  # as large as the mean: exponential


def test_no_more_are_open_than_allowed_and_answers_keep_their_order() -> None:
    open_now, most, heard = 0, 0, []

    async def one(ask: Ask) -> Outcome:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        for _ in range(ask.output_len):
            await asyncio.sleep(0)
        open_now -= 1
        return Outcome(ask.prompt_len)

    todo = [Ask("", i, 9 - i) for i in range(9)]
    outcomes = asyncio.run(send_all(one, todo, [0.0] * 9, 3, heard.append))
    assert [o.prompt_len for o in outcomes] == list(range(9))
    assert most == 3 and len(heard) == 9


def test_requests_wait_for_their_hour() -> None:
    sent = []

    async def one(ask: Ask) -> Outcome:
        sent.append(asyncio.get_running_loop().time())
        return Outcome(ask.prompt_len)

    asyncio.run(send_all(one, [Ask("", 1, 1)] * 3, [0.0, 0.05, 0.1], None, lambda outcome: None))
    assert sent[1] - sent[0] >= 0.04 and sent[2] - sent[0] >= 0.09


WISH = Wish("m", stream=True, ignore_eos=True, logprobs=True, extra={"temperature": 0.5})


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_bodies(name: str) -> None:
    backend = BACKENDS[name]
    body = backend.body(Ask("hi", 2, 5), WISH)
    assert body["stream"] is True and body["temperature"] == 0.5
    if backend.path == "/generate":
        assert body["text"] == "hi" and body["return_logprob"] is True
        assert body["sampling_params"] == {"temperature": 0.0, "max_new_tokens": 5, "ignore_eos": True}
        assert backend.body(Ask([1, 2], 2, 5), WISH)["input_ids"] == [1, 2]
        return
    assert (body["model"], body["max_tokens"], body["logprobs"]) == ("m", 5, True)
    assert body["stream_options"] == {"include_usage": True}
    assert ("ignore_eos" in body) == (not name.startswith("openai"))
    assert body["messages"][0]["content"] == "hi" if "chat" in name else body["prompt"] == "hi"
