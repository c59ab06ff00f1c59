"""The offline API on a tiny model: batches, branches, stop strings, streaming, refusals."""

from __future__ import annotations

import itertools
import shutil

import pytest

from sglcore import LLM, SamplingParams
from sglcore.errors import ConfigError, RequestError
from words import worded


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return worded(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def llm(path):
    with LLM(str(path), max_total_tokens=4096) as llm:
        yield llm


GREEDY = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}


def test_one_or_many_strings_or_ids(llm):
    one = llm.generate("t5 t6 t7", GREEDY)[0]
    many = llm.generate([[5, 6, 7], "t5 t6 t7"], [GREEDY, GREEDY])
    assert one["output_ids"] == many[0]["output_ids"] == many[1]["output_ids"]
    assert one["text"].split() == [f"t{i}" for i in one["output_ids"]]
    assert one["meta_info"]["finish_reason"] == {"type": "length", "length": 8}
    assert one["meta_info"]["e2e_latency"] > 0


def test_a_stop_string_ends_its_branch_and_not_its_sisters(llm):
    params = {"temperature": 1.5, "max_new_tokens": 12, "ignore_eos": True, "seed": 3, "n": 4}
    whole = llm.generate([5, 6, 7], params)
    word = whole[0]["text"].split()[3]
    cut = llm.generate([5, 6, 7], {**params, "stop": [word]})
    assert cut[0]["meta_info"]["finish_reason"] == {"type": "stop", "matched": word}
    for before, after in zip(whole, cut, strict=True):
        kind = after["meta_info"]["finish_reason"]["type"]
        assert kind in ("stop", "length")
        assert before["text"].startswith(after["text"].strip())
    assert not llm.engine.has_work or llm.generate([1], GREEDY)
    assert llm.engine.scheduler.ledger.held() == [0]


def test_streaming_grows_and_leaving_early_frees(llm):
    texts = [a["text"] for a in llm.stream("t5 t6", GREEDY)]
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
    stream = llm.stream("t5 t6", {**GREEDY, "max_new_tokens": 200})
    next(stream)
    stream.close()
    assert llm.engine.scheduler.running == 0
    assert llm.engine.scheduler.ledger.held() == [0]


def test_chat_uses_the_template(llm):
    messages = [{"role": "user", "content": "t5 t6"}, {"role": "assistant", "content": "t7"}]
    assert llm.chat(messages, GREEDY)["output_ids"] == llm.generate("t5 t6 t7", GREEDY)[0]["output_ids"]


def test_cache_flush(llm):
    llm.generate([list(range(3, 60))], GREEDY)
    assert llm.generate([list(range(3, 60))], GREEDY)[0]["meta_info"]["cached_tokens"] == 56
    llm.flush_cache()
    assert llm.generate([list(range(3, 60))], GREEDY)[0]["meta_info"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], {}, "input_ids"),
        ([999], {}, "input_ids"),
        ([5], {"max_new_tokens": 10_000}, "max_new_tokens"),
        ([5], {"temprature": 1}, "temprature"),
        ([5], {"top_k": "many"}, "top_k"),
        ([5], {"temperature": float("nan")}, "temperature"),
        ([5], {"temperature": -1}, "temperature"),
        ([5], {"top_p": 0}, "top_p"),
        ([5], {"logit_bias": {5: float("inf")}}, "logit_bias[...]"),
        ([5], {"logit_bias": {10**6: 1.0}}, "logit_bias"),
        ([5], {"presence_penalty": float("nan")}, "presence_penalty"),
        ([5], {"min_new_tokens": 200}, "min_new_tokens"),
        ([2**40], {}, "input_ids[0]"),
        ([-1], {}, "input_ids[0]"),
        ([5], {"n": 1000}, "n"),
    ],
)
def test_refusals_name_the_field_and_the_engine_goes_on(llm, prompt, params, param):
    with pytest.raises(RequestError) as error:
        llm.generate([prompt], params)
    assert error.value.param == param
    assert llm.generate([5, 6], GREEDY)


def test_bad_options_are_refused_before_anything_loads(path):
    with pytest.raises(ConfigError, match="page-size"):
        LLM(str(path), page_size=0)
    with pytest.raises(ConfigError, match="page_sise"):
        LLM(str(path), page_sise=2)


def test_dummy_weights_need_no_weight_file(path, tmp_path):
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    with LLM(str(tmp_path), load_format="dummy", skip_tokenizer_init=True, max_total_tokens=512) as llm:
        assert len(llm.generate([5, 6], GREEDY)[0]["output_ids"]) == 8
        with pytest.raises(ConfigError, match="tokenizer"):
            llm.generate("text", GREEDY)


def test_sampling_params_are_exported():
    assert SamplingParams(temperature=0).greedy


@pytest.mark.parametrize("shorter", [3, 4])  # it ends in its own turn or in its neighbour's
def test_streams_side_by_side_both_end(llm, shorter):
    alone = [llm.generate([i], GREEDY)[0]["output_ids"] for i in (5, 6)]
    streams = [llm.stream([5], GREEDY), llm.stream([6], {**GREEDY, "max_new_tokens": shorter})]
    last: list = [None, None]
    for _ in range(40):
        for i, stream in enumerate(streams):
            last[i] = next(stream, last[i])
    assert [next(stream, "ended") for stream in streams] == ["ended", "ended"]
    assert [a["output_ids"] for a in last] == [alone[0], alone[1][:shorter]]


def test_an_error_of_one_stream_is_not_anothers(llm):
    good, bad = llm.stream([5], GREEDY), llm.stream([10**6], GREEDY)
    next(good)
    with pytest.raises(RequestError):
        list(bad)
    assert len(list(good)[-1]["output_ids"]) == 8


def test_a_batch_with_one_bad_prompt_leaves_nothing_running(llm):
    with pytest.raises(RequestError):
        llm.generate([[5], [6]], [{**GREEDY, "max_new_tokens": 200}, {"no_such": 1}])
    assert not llm.engine.has_work and not llm._port.inbox and not llm._answers


def test_cache_flush_after_a_stop_string(llm):
    word = llm.generate([5, 6, 7], GREEDY)[0]["text"].split()[2]
    llm.generate([5, 6, 7], {**GREEDY, "max_new_tokens": 100, "stop": [word]})
    llm.flush_cache()


def test_tokenizer_path_is_obeyed(path, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(path, other)
    text = (other / "tokenizer.json").read_text().replace('"t5"', '"hello"')
    (other / "tokenizer.json").write_text(text)
    with LLM(str(path), tokenizer_path=str(other), max_total_tokens=512) as llm:
        assert llm.text.encode("hello") == [5]
