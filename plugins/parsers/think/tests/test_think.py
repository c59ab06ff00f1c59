"""The parser against the conformance kit, and what is its own."""

from __future__ import annotations

import pytest
from sglcore_plugin_think.spec import DEEPSEEK_R1, QWEN3, QWEN3_THINKING

from sglcore.contracts.parsers import ParseContext, ReasoningDelta, TextDelta
from sglcore.testing.parsers import ReasoningParserConformance, Transcript


class TestQwen3(ReasoningParserConformance):
    spec = QWEN3
    transcripts = {
        "empty thought": Transcript("<think>\n\n</think>\n\nYes.", content="Yes."),
        "space before": Transcript("\n<think>Hm.</think>Yes.", reasoning="Hm.", content="Yes."),
        "tags later on": Transcript("Use <think>x</think>.", content="Use <think>x</think>."),
        "a second thought": Transcript("<think>a</think>b<think>c</think>", reasoning="a", content="b<think>c</think>"),
        "half a tag inside": Transcript("<think>a </thin b</think>c", reasoning="a </thin b", content="c"),
        "cut off in the closing tag": Transcript("<think>a\n</thi", reasoning="a\n</thi"),
        "cut off in the opening tag": Transcript("<thi", content="<thi"),
    }

    def thought(self, text: str) -> str:
        return f"<think>\n{text}\n</think>\n\n"


class TestDeepSeekR1(ReasoningParserConformance):
    spec = DEEPSEEK_R1
    inside = True
    transcripts = {
        "with the opening tag": Transcript("<think>\nHm.\n</think>\n\nYes.", reasoning="Hm.", content="Yes."),
        "only space": Transcript(" \n"),
    }

    def thought(self, text: str) -> str:
        return f"{text}\n</think>\n\n"


@pytest.mark.parametrize(
    "spec, prompt, reasoning",
    [
        (QWEN3, "<|im_start|>assistant\n", ""),
        (QWEN3, "<|im_start|>assistant\n<think>\n", "a"),
        (QWEN3, "<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        (QWEN3_THINKING, "<|im_start|>assistant\n", "a"),
        (QWEN3_THINKING, "<|im_start|>assistant\n<think>\n", "a"),
        (QWEN3_THINKING, "<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
    ],
)
def test_the_prompt_may_have_opened_or_closed_the_thought(spec, prompt: str, reasoning: str) -> None:
    parser = spec.load()(ParseContext(prompt=prompt))
    events = [*parser.feed("a"), *parser.finish()]
    assert events == [ReasoningDelta("a") if reasoning else TextDelta("a")]
