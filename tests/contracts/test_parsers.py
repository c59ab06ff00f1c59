"""What parsers are handed."""

from __future__ import annotations

from dataclasses import replace

from sglcore.contracts.parsers import ParseContext


def test_ids_are_those_of_the_call_and_the_branch() -> None:
    context = ParseContext(key="a")
    ids = [context.call_id(0), context.call_id(1), replace(context, key="b").call_id(0)]
    assert len(set(ids)) == 3
    assert ids[0] == ParseContext(key="a").call_id(0)
    assert all(i.startswith("call_") and len(i) == 29 for i in ids)
