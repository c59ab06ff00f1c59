"""The reference page is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sglcore.server.openapi_page import page, whole_document

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
REMEDY = "write it anew: python -m sglcore.server.openapi_page > docs/reference/api.md"


def test_the_page_is_up_to_date() -> None:
    assert COMMITTED.read_text() == page(whole_document()), REMEDY


def test_the_page_has_every_operation_once() -> None:
    told = whole_document()
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` \|", page(told), re.MULTILINE)
    operations = [f"{method.upper()} {path}" for path, found in told["paths"].items() for method in found]
    assert sorted(rows) == sorted(operations)


def test_it_needs_no_torch() -> None:
    code = "import sys, sglcore.server.openapi_page as p; p.whole_document(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
