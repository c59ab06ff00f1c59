from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from sglcore.builtin.processor_specs import NO_REPEAT_NGRAM
from sglcore.errors import RequestError
from sglcore.testing import LogitsProcessorConformance
from sglcore.testing.logits_processors import VOCAB, array


class TestNoRepeatNGram(LogitsProcessorConformance):
    spec = NO_REPEAT_NGRAM
    arguments = ({"ngram_size": 1}, {"ngram_size": 2}, {"ngram_size": 3, "window_size": 8, "whitelist_token_ids": [5]})
    refused = (
        {},
        {"ngram_size": 0},
        {"ngram_size": 257},
        {"ngram_size": 1.5},
        {"ngram_size": 2, "window_size": -1},
        {"ngram_size": 2, "whitelist_token_ids": [-1]},
        {"ngram_size": 2, "whitelist_token_ids": [1] * 5000},
        {"ngram_size": 2, "other": 1},
    )

    def forbidden(self, arguments, prompt, tokens=()):
        processor = self.make()
        logits = torch.zeros(1, VOCAB)
        state = processor.begin(arguments, array(list(prompt)), array(list(tokens)))
        processor.apply(logits, torch.tensor([0]), [state])
        return set(torch.nonzero(logits[0].isinf()).flatten().tolist())

    @pytest.mark.parametrize("size", [1, 2, 3, 4])
    def test_it_forbids_what_transformers_forbids(self, size):
        rng = np.random.default_rng(size)
        theirs = transformers.NoRepeatNGramLogitsProcessor(size)
        for _ in range(50):
            ids = rng.integers(0, 5, rng.integers(1, 12)).tolist()
            expected = theirs(torch.tensor([ids]), torch.zeros(1, VOCAB))
            assert self.forbidden({"ngram_size": size}, ids[:1], ids[1:]) == set(
                torch.nonzero(expected[0].isinf()).flatten().tolist()
            )

    def test_a_window_forgets_and_a_whitelist_lets_pass(self):
        ids = [1, 2, 9, 9, 1, 3, 1]
        assert self.forbidden({"ngram_size": 2}, ids) == {2, 3}
        assert self.forbidden({"ngram_size": 2, "window_size": 4}, ids) == {3}
        assert self.forbidden({"ngram_size": 2, "whitelist_token_ids": [2]}, ids) == {3}

    def test_a_refusal_names_field_and_bound(self):
        with pytest.raises(RequestError, match="256") as caught:
            self.spec.check({"ngram_size": 999})
        assert caught.value.param == "ngram_size"
