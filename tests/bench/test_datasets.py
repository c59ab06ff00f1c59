"""Which requests a benchmark sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.scripted import tiny_text
from sglcore.bench.datasets import Ask, asks
from sglcore.bench.options import DatasetOptions
from sglcore.errors import ConfigError

TEXT = tiny_text()
TALKS = [
    {"conversations": [{"from": "human", "value": "hello world"}, {"from": "gpt", "value": "I am fine."}]},
    {"conversations": [{"from": "human", "value": "alone"}]},
    {
        "conversations": [
            {"from": "human", "value": "the quick brown fox " * 9},
            {"from": "gpt", "value": "the lazy dog"},
        ]
    },
    {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "too short a question"}]},
]


def made(as_ids: bool = False, **options: Any) -> list[Ask]:
    return asks(DatasetOptions(**options), TEXT, as_ids=as_ids)


def true_length(ask: Ask) -> int:
    return len(TEXT.encode(ask.prompt)) if isinstance(ask.prompt, str) else len(ask.prompt)


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize(("ratio", "least"), [(0.0, 1), (0.5, 20), (1.0, 40)])
def test_random_lengths_are_drawn_from_the_range_and_exact(as_ids: bool, ratio: float, least: int) -> None:
    found = made(
        as_ids,
        dataset_name="random-ids",
        num_prompts=40,
        random_input_len=40,
        random_output_len=40,
        random_range_ratio=ratio,
    )
    assert len(found) == 40
    assert all(ask.prompt_len == true_length(ask) for ask in found)
    assert all(least <= n <= 40 for ask in found for n in (ask.prompt_len, ask.output_len))
    assert (len({ask.prompt_len for ask in found}) == 1) == (ratio == 1.0)


def test_the_same_seed_gives_the_same_requests() -> None:
    options: dict[str, Any] = {"dataset_name": "random", "num_prompts": 6, "random_input_len": 20}
    assert made(seed=3, **options) == made(seed=3, **options) != made(seed=4, **options)


@pytest.mark.parametrize("as_ids", [False, True])
def test_groups_share_their_prefix_to_the_token(as_ids: bool) -> None:
    found = made(
        as_ids,
        dataset_name="generated-shared-prefix",
        gsp_num_groups=3,
        gsp_prompts_per_group=4,
        gsp_system_prompt_len=30,
        gsp_question_len=7,
        gsp_output_len=5,
    )
    assert {(a.prompt_len, a.output_len) for a in found} == {(37, 5)}
    ids = [a.prompt if as_ids else TEXT.encode(str(a.prompt)) for a in found]
    heads = [tuple(one[:30]) for one in ids]
    assert sorted(heads.count(head) for head in set(heads)) == [4, 4, 4]
    assert len({tuple(one) for one in ids}) == 12


@pytest.mark.parametrize("lines", [False, True])
def test_recorded_conversations(tmp_path: Path, lines: bool) -> None:
    file = tmp_path / "talks.json"
    file.write_text("\n".join(map(json.dumps, TALKS)) if lines else json.dumps(TALKS))
    options: dict[str, Any] = {"dataset_name": "custom" if lines else "sharegpt", "dataset_path": str(file)}
    found = made(**options)
    assert {a.prompt for a in found} == {"hello world", "the quick brown fox " * 9}
    assert all(a.prompt_len == true_length(a) for a in found)
    assert {a.output_len for a in made(sharegpt_output_len=7, **options)} == {7}
    longest = max(a.prompt_len for a in found)
    assert [a.prompt for a in made(sharegpt_context_len=longest, **options)] == ["hello world"]
    assert len(made(num_prompts=1, **options)) == 1
    assert all(isinstance(a.prompt, list) and true_length(a) == a.prompt_len for a in made(True, **options))


def test_turns_may_have_content_instead_of_value(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text(json.dumps({"conversations": [{"content": "hello world"}, {"content": "how are you?"}]}))
    assert [a.prompt for a in made(dataset_name="custom", dataset_path=str(file))] == ["hello world"]


def test_random_takes_its_words_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "talks.json"
    file.write_text(json.dumps(TALKS[:1]))
    found = made(
        dataset_name="random", dataset_path=str(file), num_prompts=3, random_input_len=30, random_range_ratio=1.0
    )
    assert all(str(a.prompt).startswith("hello world") and true_length(a) == a.prompt_len == 30 for a in found)


def test_prompts_in_the_chat_template() -> None:
    found = made(dataset_name="random", num_prompts=2, random_input_len=9, apply_chat_template=True)
    assert all(str(a.prompt).startswith("<|im_start|>user") and a.prompt_len == true_length(a) for a in found)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("[{", "no list of conversations"),
        ("nonsense", "no list of conversations"),
        ('[{"conversations": 3}]', "no list of conversations"),
        ("[]", "no conversation to ask"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "talks.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=told):
        made(dataset_path=str(file))


def test_nothing_is_downloaded() -> None:
    with pytest.raises(ConfigError, match="--dataset-path"):
        made(dataset_name="sharegpt")


def test_ids_and_a_template_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="Leave one out"):
        made(True, dataset_name="random", apply_chat_template=True)
