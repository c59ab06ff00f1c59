"""The committed matrix is the generated one, and its cells are what the solver says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglcore.builtin.compute_specs import CPU, TORCH_ATTENTION
from sglcore.cli.matrix_page import asked, capabilities, in_tree, page, pair
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.plugins import IN_TREE, canonical, discover

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "matrix.md"


@pytest.fixture(autouse=True)
def whole_workspace() -> None:
    """The page is about all of this repository."""
    missing = IN_TREE - {canonical(entry.distribution) for entry in discover().entries}
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


def test_the_committed_page_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == page()


def test_every_in_tree_plugin_of_the_families_has_its_row() -> None:
    plugins, text = discover(), page()
    for family in ("attention", "models", "quant", "platforms", "ops"):
        for spec in in_tree(plugins, family):
            assert f"\n| `{spec.name}` |" in text


def test_cells_say_what_is_missing() -> None:
    odd = AttentionSpec(name="odd", factory="x:y", dtypes=("float32",), page_sizes=(1,), tensor_parallel=False)
    lines = asked([TORCH_ATTENTION, odd], [CPU]).splitlines()
    columns = [cell.strip(" `") for cell in lines[0].split("|")]
    row = dict(zip(columns, (cell.strip() for cell in lines[3].split("|")), strict=True))
    assert row["backend"] == "`odd` on cpu"
    assert (row["bfloat16"], row["--page-size 16"], row["--tp-size 2"]) == (
        "- `dtypes`",
        "- `page_sizes`",
        "- `tensor_parallel`",
    )
    assert row["soft_cap"] == "- `soft_cap`"
    assert "yes" in lines[2]
    needy = ModelSpec(name="X", factory="x:y", needs=("mla",))
    assert pair(needy, odd, CPU) == "- `mla`"
    assert pair(ModelSpec(name="Y", factory="x:y"), odd, CPU) == "float32"
    assert capabilities("quant", []).startswith("This repository has none")
