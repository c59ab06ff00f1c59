"""The requests of a benchmark: prompts with the length of prompt and answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sglcore.bench.options import DatasetOptions
from sglcore.bench.wording import Wording
from sglcore.errors import ConfigError
from sglcore.text.service import Text

LEAST = 2  # tokens; recorded turns below it are noise


@dataclass(frozen=True)
class Ask:
    """One request. prompt: a text, or token ids. prompt_len, output_len: tokens."""

    prompt: str | list[int]
    prompt_len: int
    output_len: int


def asks(options: DatasetOptions, text: Text, *, as_ids: bool = False) -> list[Ask]:
    """The requests that `options` ask for, the same for the same seed. as_ids: prompts are token ids.

    Raises ConfigError for a file that is missing or holds nothing to ask.
    """
    if options.apply_chat_template and as_ids:
        raise ConfigError("--apply-chat-template gives texts, --tokenize-prompt wants ids.", remedy="Leave one out.")
    dice = np.random.default_rng(options.seed)
    wording = Wording(text, dice)
    if options.dataset_name == "generated-shared-prefix":
        found = shared_prefix(options, wording, as_ids)
    elif options.dataset_name in ("random", "random-ids"):
        found = random_asks(options, wording, as_ids)
    else:
        found = recorded(options, text, dice, as_ids)
    if options.apply_chat_template:
        found = [_in_template(ask, text) for ask in found]
    if not found:
        raise ConfigError(
            f"{options.dataset_path} holds no conversation to ask.",
            remedy="Raise --sharegpt-context-len, or give another --dataset-path.",
        )
    return found


def random_asks(options: DatasetOptions, wording: Wording, as_ids: bool) -> list[Ask]:
    """Lengths drawn evenly; random takes its words from the dataset's file where one is given, else all is drawn."""
    source: Iterator[list[int]] | None = None
    if options.dataset_name == "random" and options.dataset_path:
        turns = [prompt for prompt, _ in conversations(options.dataset_path)]
        tokens = [ids for turn in turns[: options.num_prompts] if (ids := wording.tokens.encode(turn))]
        source = itertools.cycle(tokens) if tokens else None
    found = []
    for _ in range(options.num_prompts):
        prompt_len = _drawn(wording.dice, options.random_input_len, options.random_range_ratio)
        output_len = _drawn(wording.dice, options.random_output_len, options.random_range_ratio)
        ids = wording.random_ids(prompt_len) if source is None else _repeated(next(source), prompt_len)
        if as_ids:
            found.append(Ask(ids, prompt_len, output_len))
        else:
            prompt, length = wording.text_of(ids, prompt_len)
            found.append(Ask(prompt, length, output_len))
    return found


def shared_prefix(options: DatasetOptions, wording: Wording, as_ids: bool) -> list[Ask]:
    """Groups of requests that begin with the same words, shuffled together."""
    found = []
    own = 0 if as_ids else wording.added
    for _ in range(options.gsp_num_groups):
        system = wording.word_ids(max(options.gsp_system_prompt_len - own, 1))
        for _ in range(options.gsp_prompts_per_group):
            ids = system + wording.word_ids(options.gsp_question_len)
            prompt, length = (ids, len(ids)) if as_ids else wording.words_of(ids)
            found.append(Ask(prompt, length, options.gsp_output_len))
    return [found[i] for i in wording.dice.permutation(len(found))]


def recorded(options: DatasetOptions, text: Text, dice: np.random.Generator, as_ids: bool) -> list[Ask]:
    """First question and answer of recorded conversations, shuffled; those outside the lengths wanted are left out."""
    if not options.dataset_path:
        raise ConfigError(
            f"--dataset-name {options.dataset_name} needs a file; nothing is downloaded.",
            remedy="Name one with --dataset-path, or take --dataset-name random.",
        )
    turns = list(conversations(options.dataset_path))
    found: list[Ask] = []
    for i in dice.permutation(len(turns)):
        question, answer = turns[i]
        ids = text.encode(question)
        output_len = options.sharegpt_output_len or len(text.encode(answer, add_special_tokens=False))
        total = len(ids) + output_len
        short = len(ids) < LEAST or output_len < LEAST
        if not short and total <= (options.sharegpt_context_len or total):
            found.append(Ask(ids if as_ids else question, len(ids), output_len))
        if len(found) == options.num_prompts:
            break
    return found


class _Turn(msgspec.Struct):
    value: str = ""
    content: str = ""


class _Conversation(msgspec.Struct):
    conversations: list[_Turn] = []
    conversation: list[_Turn] = []


def conversations(path: str) -> Iterable[tuple[str, str]]:
    """(question, answer) of each conversation of two turns or more.

    The file is a JSON array (ShareGPT) or JSON lines (custom) of objects with `conversations`, a list of turns whose
    text is in `value` or `content`. Raises ConfigError.
    """
    try:
        content = Path(path).read_bytes()
        if content.lstrip()[:1] == b"[":
            entries = msgspec.json.decode(content, type=list[_Conversation])
        else:
            entries = msgspec.json.Decoder(_Conversation).decode_lines(content)
    except OSError as error:
        raise ConfigError(f"--dataset-path {path} cannot be read: {error.strerror}.") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"--dataset-path {path} is no list of conversations: {error}.") from None
    for entry in entries:
        turns: list[Any] = entry.conversations or entry.conversation
        if len(turns) >= 2:
            yield turns[0].value or turns[0].content, turns[1].value or turns[1].content


def _in_template(ask: Ask, text: Text) -> Ask:
    rendered = text.render_chat([{"role": "user", "content": ask.prompt}])
    return Ask(rendered, len(text.encode(rendered)), ask.output_len)


def _drawn(dice: np.random.Generator, most: int, ratio: float) -> int:
    return int(dice.integers(max(int(most * ratio), 1), most + 1))


def _repeated(ids: list[int], count: int) -> list[int]:
    return (ids * -(-count // len(ids)))[:count]
