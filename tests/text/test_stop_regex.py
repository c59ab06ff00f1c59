from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglcore.errors import RequestError
from sglcore.text.stop_regex import LOOKBACK, StopRegex


def run(sources: list[str], chunks: list[str]) -> tuple[str, str | None]:
    finder = StopRegex(sources)
    return "".join(finder.push(chunk) for chunk in chunks), finder.matched


def first_end(source: str, text: str) -> str:
    """The definition: the shortest beginning of the text that holds a match."""
    return next((text[:end] for end in range(1, len(text) + 1) if re.search(source, text[:end], re.ASCII)), text)


SOURCES = ["a+b", "ab|ba", r"\bab", r"b$", "é.ü", "^a", r"[ab]{3}", r"\$", "(a|b)*é"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOURCES), st.text("abéü$ ", max_size=12), st.data())
def test_any_chunking_ends_at_the_first_complete_match(source, text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    got, matched = run([source], chunks)
    assert got == first_end(source, text)
    assert (matched == source) == bool(re.search(source, got, re.ASCII))


def test_the_first_of_several_counts():
    assert run(["b+", "a"], ["xx", "ya", "b"]) == ("xxya", "a")
    assert run(["a", ".a"], ["xa"]) == ("xa", "a")


def test_what_follows_is_swallowed():
    finder = StopRegex(["stop"])
    assert [finder.push(x) for x in ("a st", "op it", " more")] == ["a st", "op", ""]


@pytest.mark.parametrize("chunk", [1, 7, 3 * LOOKBACK])
def test_long_texts_forget_their_beginning(chunk):
    filler = "x" * (2 * LOOKBACK)
    for source, text, expected in [
        ("ax+b", f"a{filler}b", None),
        ("ax+b", f"{filler}axxb more", f"{filler}axxb"),
        ("^x", f"y{filler}", None),
    ]:
        got, matched = run([source], [text[i : i + chunk] for i in range(0, len(text), chunk)])
        assert got == (expected or text)
        assert (matched is None) == (expected is None)


@pytest.mark.parametrize("source", ["(", "(?=a)b", r"(a)\1", "a**", "((a{500}){500}){500}", "\ud800"])
def test_what_re2_cannot_take_is_refused(source):
    with pytest.raises(RequestError) as caught:
        StopRegex([source])
    assert caught.value.param == "stop_regex"


def test_a_pattern_made_to_backtrack_takes_no_longer_than_others():
    text = ["a" * 8] * 500
    started = time.process_time()
    assert run(["(a*)*(a*)*(a*)*b"], text)[1] is None
    assert time.process_time() - started < 2  # a backtracking engine needs longer than the age of the universe
