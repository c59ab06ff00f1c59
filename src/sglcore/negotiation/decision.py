"""What was chosen and why: the outcome of a negotiation, as a table, as JSON, and fit for strangers' eyes."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.quant import QuantSpec
from sglcore.errors import ConfigError
from sglcore.negotiation.demand import Demand

HEAD = ("FAMILY", "CANDIDATE", "FROM", "VERDICT")
SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
# In this order: a named secret with its value, a bare token, an absolute path.
_SECRETS = re.compile(r"(?i)\b([\w-]*(?:key|token|secret|password|bearer))\b(\s*[=:]\s*|\s+)(?=\S*[\d_])\S+")
_TOKENS = re.compile(r"\b(?:hf|sk|gh[a-z]|glpat)[-_][\w-]{8,}")
_PATHS = re.compile(r"""(?:file://|(?<![\w.:/])[~/]|\b[A-Za-z]:\\)[^\s,;'"()<>]+""")


@dataclass(frozen=True)
class Verdict:
    """On one candidate. state: "chosen", "fits" (and was outranked), "rejected".

    constraint: the name of the first one unmet, or of what decided. reason: the same in words.
    """

    family: str
    name: str
    distribution: str
    version: str
    state: str
    constraint: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """One choice. ops: (op, plugin whose kernel replaces the platform's). dtype, kv_dtype: torch's names."""

    platform: PlatformSpec
    model: ModelSpec
    attention: AttentionSpec
    quant: QuantSpec | None
    ops: tuple[tuple[str, str], ...]
    dtype: str
    kv_dtype: str
    demand: Demand
    verdicts: tuple[Verdict, ...]
    decode: AttentionSpec | None = None  # of steps of single tokens, where that is another backend

    @property
    def decoding(self) -> AttentionSpec:
        """Who serves steps of single tokens."""
        return self.decode or self.attention

    @property
    def choice(self) -> dict[str, Any]:
        """What was chosen, in names."""
        return {
            "platform": self.platform.name,
            "dtype": self.dtype,
            "model": self.model.name,
            "quantization": self.quant.name if self.quant else None,
            "attention": self.attention.name,
            "decode_attention": self.decoding.name,
            "kv_dtype": self.kv_dtype,
            "page_size": self.demand.page_size,
            "features": [feature for feature, _ in self.demand.features],
            "ops": dict(self.ops),
        }


class Refused(ConfigError):
    """No choice satisfies all constraints; `verdicts` are those reached."""

    def __init__(self, message: str, *, remedy: str = "", verdicts: tuple[Verdict, ...] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.verdicts = verdicts


def by_family(verdicts: Iterable[Verdict]) -> dict[str, list[dict[str, str]]]:
    """{family: its candidates as plain dicts}, in the order given."""
    table: dict[str, list[dict[str, str]]] = {}
    for verdict in verdicts:
        row = dict(vars(verdict))
        table.setdefault(row.pop("family"), []).append(row)
    return table


def public(decision: Decision) -> dict[str, Any]:
    """The choice and the table as `/server_info` shows them, redacted."""
    table = by_family(decision.verdicts)
    for rows in table.values():
        for row in rows:
            row["reason"] = redacted(row["reason"])
    return {"choice": decision.choice, **table}


def text(decisions: dict[str, Any]) -> str:
    """A table to read, of what `public` gives or of `by_family` with a "choice"."""
    lines = [HEAD]
    for family, rows in decisions.items():
        lines += [] if family == "choice" else [(family, r["name"], _owner(r), _verdict(r)) for r in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    shown = ["  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() for line in lines]
    if "choice" in decisions:
        shown.append("chosen: " + _choice(decisions["choice"]))
    return "\n".join(shown)


def line(decisions: dict[str, Any]) -> str:
    """The same in one line, for a log: the choice, then every candidate that was passed over with its reason."""
    table = [(family, row) for family, rows in decisions.items() if family != "choice" for row in rows]
    over = [f"{family} {row['name']} {_verdict(row)}" for family, row in table if row["state"] != "chosen"]
    return "; ".join([_choice(decisions["choice"]), *over])


def redacted(reason: str) -> str:
    """A plugin's words without paths of this machine, its user's name, keys and tokens."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= 6:
            reason = reason.replace(value, "***")
    reason = _PATHS.sub("<path>", _TOKENS.sub("***", _SECRETS.sub(r"\1\2***", reason)))
    return re.sub(rf"\b{re.escape(user)}\b", "<user>", reason) if (user := _user()) else reason


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such account
        return ""


def _owner(row: dict[str, str]) -> str:
    return f"{row['distribution']} {row['version']}".strip() or "-"


def _verdict(row: dict[str, str]) -> str:
    named = f" ({row['constraint']})" if row["constraint"] else ""
    return f"{row['state']}{named}{': ' if row['reason'] else ''}{row['reason']}"


def _choice(choice: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in choice.items())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items()) or "the platform's"
    return (", ".join(value) if isinstance(value, list) else str(value or "none")) or "none"
