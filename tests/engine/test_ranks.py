"""Tensor-parallel ranks: real processes, the delta channel, and what happens when one of them goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from parity import tiny
from sglcore import LLM
from sglcore.batch import Batch, RowEntry
from sglcore.engine.feed import decode_batch, encode_batch
from sglcore.errors import ConfigError, EngineDead
from sglcore.plugins import discover
from sglcore.request import SamplingParams

FLAGS = {"skip_tokenizer_init": True, "max_total_tokens": 1024, "chunked_prefill_size": 16, "page_size": 4}
PROMPTS = [[1, 2, 3], [5, 6] * 20, [7] * 9, [11, 12, 13, 14]]
SAMPLING = [
    {"max_new_tokens": 24, "ignore_eos": True, "temperature": 0},
    {"max_new_tokens": 12, "temperature": 0},
    {"max_new_tokens": 16, "temperature": 0.9, "top_p": 0.9, "seed": 7, "ignore_eos": True, "repetition_penalty": 1.2},
    {
        "max_new_tokens": 16,
        "temperature": 1.0,
        "seed": 8,
        "ignore_eos": True,
        "logit_bias": {9: 3.0},
        "presence_penalty": 1,
    },
]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_a_batch_survives_the_channel():
    batch = Batch(
        serial=7,
        rows=ints(3, 1),
        starts=ints(0, 9),
        counts=ints(2, 1),
        from_table=np.array([False, True]),
        samples=np.array([True, True]),
        token_ids=ints(5, 6),
        entered=[RowEntry(3, SamplingParams(temperature=0.5, stop_token_ids=(4,)), 2**62 - 1, 1, (ints(8), ints()), 2)],
        left=[0],
        new_pages=((ints(3), ints(0), ints(8)), (ints(), ints(), ints())),
        input_logprobs={0: (1, ints(6, 9))},
    )
    back = decode_batch(encode_batch(batch))
    assert back.serial == 7 and back.left == [0]
    assert back.entered[0].sampling == batch.entered[0].sampling and back.entered[0].seed == 2**62 - 1
    for name in ("rows", "starts", "counts", "from_table", "samples", "token_ids"):
        ours, theirs = getattr(batch, name), getattr(back, name)
        assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()
    assert [[a.tolist() for a in group] for group in back.new_pages] == [[[3], [0], [8]], [[], [], []]]
    assert back.input_logprobs[0][0] == 1 and back.input_logprobs[0][1].tolist() == [6, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make("llama", tmp_path_factory.mktemp("tp"))[0]


def answers(model: Path, **flags) -> list:
    with LLM(str(model), **FLAGS, **flags) as llm:
        found = llm.generate(PROMPTS, SAMPLING, return_logprob=True, top_logprobs_num=2)
        llm.generate(PROMPTS[1], SAMPLING[0])  # on a cached prefix
        again = llm.generate(PROMPTS, SAMPLING)
        assert [a["output_ids"] for a in again] == [a["output_ids"] for a in found]
        return [(a["output_ids"], [p[0] for p in a["meta_info"]["output_token_logprobs"]]) for a in found]


@pytest.mark.parametrize("plain", [True, False])
def test_two_ranks_answer_as_one(model: Path, plain: bool):
    one = answers(model, disable_overlap_schedule=plain)
    two = answers(model, disable_overlap_schedule=plain, tp_size=2)
    for (ids, logprobs), (ids2, logprobs2) in zip(one, two, strict=True):
        assert ids == ids2
        assert logprobs == pytest.approx(logprobs2, abs=1e-4)


def test_every_rank_loads_the_same_plan(model: Path):
    with LLM(str(model), **FLAGS, tp_size=2) as llm:
        assert [r["rank"] for r in llm.info["ranks"]] == ["1"]
        assert llm.info["ranks"][0]["plugin_plan"] == discover().plan().digest
        assert llm.info["tp_size"] == 2


def test_a_rank_that_dies_ends_the_engine_and_leaves_nothing(model: Path):
    with LLM(str(model), **FLAGS, tp_size=2) as llm:
        (rank,) = [c for c in psutil.Process().children() if "sglcore.engine.follower" in " ".join(c.cmdline())]
        os.kill(rank.pid, signal.SIGKILL)
        rank.wait(20)
        with pytest.raises(EngineDead):
            llm.generate([1, 2, 3], {"max_new_tokens": 40, "ignore_eos": True})
    left = [c for c in psutil.Process().children() if "sglcore.engine.follower" in " ".join(c.cmdline())]
    assert left == []


def test_heads_that_do_not_divide_are_refused_and_no_process_stays(model: Path):
    with pytest.raises(ConfigError, match="cannot be split evenly over 3"):
        LLM(str(model), **FLAGS, tp_size=3)
    assert not [c for c in psutil.Process().children() if "sglcore.engine.follower" in " ".join(c.cmdline())]
