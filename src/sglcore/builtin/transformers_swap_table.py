"""What was swapped in a loaded Transformers model, for logs and `server_info`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LEFT = "left as it is"


@dataclass(slots=True)
class Line:
    """count modules of a kind were swapped for `to`; error: the largest that was seen, a share of a row's largest."""

    module: str
    to: str
    count: int = 0
    error: float = 0.0


@dataclass(slots=True)
class SwapTable:
    """What was swapped, by kind of module and stand-in."""

    found: dict[tuple[str, str], Line] = field(default_factory=dict)

    def add(self, module: str, to: str, off: float) -> None:
        """One more."""
        line = self.found.setdefault((module, to), Line(module, to))
        line.count += 1
        line.error = max(line.error, off)

    def rows(self) -> list[dict[str, Any]]:
        """For `server_info`: module, swapped_for (None where it was left), count, error (None: it failed)."""
        return [
            {
                "module": line.module,
                "count": line.count,
                "swapped_for": None if line.to == LEFT else line.to,
                "error": line.error if line.error < float("inf") else None,
            }
            for line in self.found.values()
        ]

    def lines(self) -> list[str]:
        """The same for people."""
        cells = [("module", "count", "swapped for", "verified error")]
        cells += [(x.module, str(x.count), x.to, _shown(x)) for x in self.found.values()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _shown(line: Line) -> str:
    return f"{line.error:.1e}" if line.error < float("inf") else "it failed"
