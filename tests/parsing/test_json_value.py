"""The JSON reader against Python's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglcore.parsing import JsonValue
from sglcore.parsing.json_value import MAX_DEPTH

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
QUICK = settings(max_examples=300, deadline=None, database=None, derandomize=True)


def read(text: str, size: int | None = None) -> tuple[int, str, bool, bool]:
    """Where reading stopped, what it gave, and whether it is done or broken."""
    value, out, at = JsonValue(), "", 0
    size = size or len(text) or 1
    for start in range(0, len(text), size):
        end, told = value.feed(text[start : start + size])
        out += told
        at = start + end
        if value.done or value.broken:
            break
    return at, out, value.done, value.broken


@QUICK
@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 7))
def test_json_is_read_to_its_end(value: Any, indent: int | None, ascii_only: bool, size: int) -> None:
    text = json.dumps([value], indent=indent, ensure_ascii=ascii_only)
    assert read(text + "] tail", size) == (len(text), text, True, False)


@QUICK
@given(st.text(alphabet='{}[]:,"\\ \n0123456789.eE+-utrfalsn', max_size=24), st.integers(1, 5))
def test_what_is_read_and_what_is_not_is_what_python_says(text: str, size: int) -> None:
    at, out, done, broken = read(f"[{text}")
    assert read(f"[{text}", size) == (at, out, done, broken)
    try:
        json.loads(f"[{text}", strict=False)
        right = True
    except ValueError:
        right = False
    if right:
        assert done
        assert json.loads(out) == json.loads(f"[{text}", strict=False)
    elif done:
        json.loads(out)
        assert at < len(text) + 1


@pytest.mark.parametrize(
    "text, at",
    [
        ("[1,]", 3),
        ('{"a":1,}', 7),
        ("[01]", 2),
        ("[1.]", 3),
        ("[-]", 2),
        ("[1e+]", 4),
        ("[.5]", 1),
        ("[True]", 1),
        ("[tru]", 4),
        ("['a']", 1),
        ('["\\x"]', 3),
        ('["\\u12g4"]', 6),
        ("{a:1}", 1),
        ('{"a" 1}', 5),
        ("[1 2]", 3),
        ("[NaN]", 1),
        ("}", 0),
    ],
)
def test_it_breaks_at_the_character_that_is_wrong(text: str, at: int) -> None:
    assert read(text) == (at, text[:at], False, True)


def test_control_characters_in_strings_are_escaped() -> None:
    _, out, done, _ = read('["a\nb\tc\x01"]')
    assert done
    assert out == '["a\\nb\\tc\\u0001"]'


def test_a_bare_number_ends_at_the_next_character() -> None:
    assert read("12.5,") == (4, "12.5", True, False)
    assert read("12.5") == (4, "12.5", False, False)


def test_depth_is_bounded() -> None:
    assert read("[" * MAX_DEPTH)[3] is False
    assert read("[" * (MAX_DEPTH + 1)) == (MAX_DEPTH, "[" * MAX_DEPTH, False, True)
