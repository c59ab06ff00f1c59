"""Prompts have exactly the length that was asked for, in the tokenizer's own count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.scripted import tiny_text
from sglcore.bench.tokenizers import open_text
from sglcore.bench.wording import Wording
from sglcore.errors import ConfigError
from sglcore.text.service import Text

TEXTS = {"tiny": tiny_text(), "demo": open_text("demo")}


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(TEXTS)), count=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_texts_of_random_ids_have_their_length(name: str, count: int, seed: int) -> None:
    text = TEXTS[name]
    wording = Wording(text, np.random.default_rng(seed))
    made, told = wording.text_of(wording.random_ids(count), count)
    assert told == count == len(text.encode(made))


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(sorted(TEXTS)), count=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_words_stay_what_they_are(name: str, count: int, seed: int) -> None:
    text = TEXTS[name]
    wording = Wording(text, np.random.default_rng(seed))
    ids = wording.word_ids(count)
    made, told = wording.words_of(ids)
    assert told == count
    assert text.encode(made, add_special_tokens=False) == ids


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_special_token_is_drawn(name: str) -> None:
    text = TEXTS[name]
    wording = Wording(text, np.random.default_rng(0))
    assert len(wording.ordinary) > 200
    assert not {text.decode([int(i)], skip_special_tokens=False) for i in wording.ordinary} & text.special_tokens
    assert len(wording.words) > 5


class Bos:
    """A tokenizer that puts a token in front, as many do."""

    def __init__(self, inner: Text) -> None:
        self.inner = inner
        self.special_tokens = inner.special_tokens
        self.token_bytes, self.decode = inner.token_bytes, inner.decode

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + self.inner.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_token_put_in_front_is_counted(count: int) -> None:
    tokens = Bos(TEXTS["tiny"])
    wording = Wording(tokens, np.random.default_rng(1))
    made, told = wording.text_of(wording.random_ids(count), count)
    assert told == count == len(tokens.encode(made))


class Nothing(Bos):
    """A tokenizer without tokens."""

    def __init__(self) -> None:
        super().__init__(TEXTS["tiny"])
        self.token_bytes = lambda token_id: b""


def test_a_tokenizer_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="no ordinary tokens"):
        Wording(Nothing(), np.random.default_rng(1)).random_ids(3)
