"""Cutting at markers, whatever the chunks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglcore.parsing import cut


@pytest.mark.parametrize(
    "text, marks, expected",
    [
        ("a<x>b", ("<x>",), ("a", "<x>", "b")),
        ("a<x>b<y>", ("<y>", "<x>"), ("a", "<x>", "b<y>")),
        ("a<", ("<x>",), ("a", "", "<")),
        ("a<x", ("<y>", "<x>"), ("a", "", "<x")),
        ("<<x", ("<x>",), ("<", "", "<x")),
        ("a<z>", ("<x>",), ("a<z>", "", "")),
        ("", ("<x>",), ("", "", "")),
        ("abc", (), ("abc", "", "")),
        ("abc", ("", "b"), ("a", "b", "c")),
        ("a.*c", (".*",), ("a", ".*", "c")),
        ("a<xx>", ("<xx>", "<x"), ("a", "<x", "x>")),
        ("abc", ("abc", "b"), ("a", "b", "c")),
    ],
)
def test_cut(text: str, marks: tuple[str, ...], expected: tuple[str, str, str]) -> None:
    assert cut(text, marks) == expected


def pieces(chunks: list[str], marks: tuple[str, ...]) -> list[str]:
    """Texts and marks, in turn."""
    out, buffer = [""], ""
    for chunk in chunks:
        buffer += chunk
        while True:
            before, mark, buffer = cut(buffer, marks)
            out[-1] += before
            if not mark:
                break
            out += [mark, ""]
    out[-1] += buffer
    return out


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
    st.text("ab<>", max_size=20),
    st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3).map(tuple),
    st.integers(1, 6),
)
def test_chunks_do_not_matter_and_nothing_is_lost(text: str, marks: tuple[str, ...], size: int) -> None:
    whole = pieces([text], marks)
    assert "".join(whole) == text
    assert pieces(re.findall(f".{{1,{size}}}", text), marks) == whole
