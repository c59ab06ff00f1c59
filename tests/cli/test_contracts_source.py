"""Reading contracts from their source: which words describe a field, which methods there are."""

from __future__ import annotations

from sglcore.cli.contracts_source import Attribute, entries, parse

SOURCE = '''
"""A module."""

@dataclass(frozen=True)
class Thing(Spec):
    """A thing.

    one, two: of both. three: of three;
        on a second line. four: no field.

    The end.
    """

    one: int
    two: dict[str, int] = field(default_factory=dict)
    three: Literal["a", "b"] = "a"
    five: str = "#"  # what # follows
    # above
    six: int

    def call(
        self, x: int
    ) -> str:
        """Call it."""
        return ""

    @optional
    async def wait(self) -> None: ...

    def _hidden(self): ...

Either = Thing | Other

class _Hidden: ...
'''


def test_descriptions_are_found_in_lines_and_behind_full_stops():
    prose, found = entries("Head.\n\na, b: one;\nc: two. a: b", ["a", "b", "c"])
    assert prose == "Head."
    assert found == {"a": "b", "b": "one", "c": "two"}
    assert entries("Names: a colon, b: another.", ["b"]) == ("Names: a colon, b: another.", {})
    assert entries("a: text", []) == ("a: text", {})


def test_fields_have_type_default_and_description():
    (thing,) = parse(SOURCE).classes
    assert thing.attributes == (
        Attribute("one", "int", "", "of both"),
        Attribute("two", "dict[str, int]", "{}", "of both"),
        Attribute("three", 'Literal["a", "b"]', '"a"', "of three; on a second line. four: no field"),
        Attribute("five", "str", '"#"', "what # follows"),
        Attribute("six", "int", "", "above"),
    )
    assert thing.text == "A thing.\n\nThe end."
    assert thing.bases == ("Spec",) and not thing.protocol


def test_signatures_are_those_of_the_source():
    module = parse(SOURCE)
    call, wait = module.classes[0].methods
    assert call.signature == "def call(\n    self, x: int\n) -> str"
    assert (call.text, call.decorators) == ("Call it.", ())
    assert wait.signature == "async def wait(self) -> None" and wait.decorators == ("optional",)
    assert module.unions == {"Either": "Thing | Other"}
    assert module.text == "A module."
