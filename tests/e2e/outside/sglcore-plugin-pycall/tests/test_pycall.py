"""The parser against the conformance kit."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from hypothesis import strategies as st
from sglcore_plugin_pycall.literal import PythonLiteral
from sglcore_plugin_pycall.spec import SPEC

from sglcore.testing import ToolParserConformance
from sglcore.testing.parsers import Transcript


class TestPyCall(ToolParserConformance):
    spec = SPEC
    transcripts = {
        "a footnote": Transcript("As said in [1] and [now].", content="As said in [1] and [now]."),
        "positional": Transcript("[now(1)]", content="[now(1)]"),
        "cut off": Transcript("[now(a=[1, 2", cut_off='{"a": [1'),
        "broken": Transcript("[now(a='x' 'y')]", cut_off='{"a": "x"', content="'y')]"),
    }

    def keys(self) -> st.SearchStrategy[str]:
        return st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        return f"[{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"


GOOD = [
    r"'it\'s \x41\u00e9\n'",
    '"say \\"x\\" \\d"',
    "[1, 2.5, -3, 1_000, 0x1f, .5, 1., 2e3]",
    "{'a': {'b': [True, None]}, 'c': [],}",
    "[ ]",
    "False",
]


@pytest.mark.filterwarnings("ignore:invalid escape")
@pytest.mark.parametrize("source", GOOD)
def test_a_literal_is_told_as_json_however_it_comes(source: str) -> None:
    whole, pieces = PythonLiteral(), PythonLiteral()
    at, told = whole.feed(source + ")")
    joined = "".join(pieces.feed(char)[1] for char in source + ")")
    assert whole.done and at == len(source)
    assert told == joined
    assert json.loads(told) == ast.literal_eval(source)


@pytest.mark.parametrize("source", ["1e999", "007", "oops", "(1, 2)", "{1: 2}", "{'a' 1}", "[1 2]", r"'\xZZ'", "[1}"])
def test_what_is_no_literal_breaks(source: str) -> None:
    literal = PythonLiteral()
    literal.feed(source + ")")
    assert literal.broken
    assert not literal.done
