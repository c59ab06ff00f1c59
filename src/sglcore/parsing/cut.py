"""Cutting text at marker strings."""

from __future__ import annotations

import re
from functools import lru_cache


def cut(text: str, marks: tuple[str, ...]) -> tuple[str, str, str]:
    """(before, mark, rest): `text` cut at the first of `marks` in it.

    Where none is complete, `mark` is "" and `rest` the end of the text that may yet become one: put what comes next
    behind it and cut again. Of two marks one of which holds the other, the inner one counts.
    """
    marks, pattern = _compiled(marks)
    found = pattern.search(text)
    if found:
        return text[: found.start()], found[0], text[found.end() :]
    longest = max(map(len, marks), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        end = text[-length:]
        if any(mark.startswith(end) for mark in marks):
            return text[:-length], "", end
    return text, "", ""


@lru_cache(maxsize=128)
def _compiled(marks: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """The marks that hold no other one, so that the first to begin is also the first to end; and their pattern."""
    own = tuple(m for m in marks if m and not any(other and other != m and other in m for other in marks))
    return own, re.compile("|".join(map(re.escape, own)) or r"(?!)")
