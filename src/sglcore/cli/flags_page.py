"""The flag reference, written from the code: `python -m sglcore.cli.flags_page > docs/reference/flags.md`."""

from __future__ import annotations

import sys

from sglcore.cli.flags import ALIASES, PREFIX, Flag, flags_of
from sglcore.cli.known_flags import NEUTRAL, ON, SPELLINGS
from sglcore.cli.known_table import GROUPS, Group
from sglcore.config import EngineConfig
from sglcore.server_config import ServerConfig

HEAD = f"""# Flags

Generated from the code; do not edit. To write it anew: `python -m sglcore.cli.flags_page > docs/reference/flags.md`.

`sglcore serve` takes all flags of this page, `sglcore generate` and `sglcore chat` those of the engine; `LLM(...)`
takes those of the engine as keywords, with underscores. Names and meanings are SGLang's. Plugins add their own flags,
which `sglcore serve --help` lists.

A value comes from the first of these that gives one:

1. the command line: `--page-size 16`;
2. the config file, `--config serve.yaml` or `{PREFIX}CONFIG=serve.yaml`: a YAML mapping of flag names, with dashes or
   underscores, to values: `page-size: 16`;
3. the environment: `{PREFIX}` and the name in capitals with underscores, `{PREFIX}PAGE_SIZE=16`. An empty variable
   counts as not set; booleans are `true`, `false`, `1` or `0`;
4. the default.

A boolean flag takes no value on the command line; its `--no-` form switches it off where a file or variable has
switched it on. Flags of the server in a file or variable are skipped by the commands that do not have them.
"""

KNOWN_HEAD = """## Known, not yet

SGLang's flags that sglcore does not support yet. Giving one is an error that names it, so that nothing is ignored
silently. Where a value is shown as accepted, the flag may be given with exactly that value, which asks for what sglcore
does anyway.
"""


def page() -> str:
    """The whole page, in Markdown."""
    engine = flags_of(EngineConfig)
    names = {flag.name for flag in engine}
    server = [flag for flag in flags_of(ServerConfig) if flag.name not in names]
    parts = [HEAD, "## Supported: engine\n", _table(engine), "## Supported: server\n", _table(server), KNOWN_HEAD]
    parts += [_known(group) for group in GROUPS]
    return "\n".join(parts)


def _table(flags: list[Flag] | tuple[Flag, ...]) -> str:
    rows = ["| Flag | Takes | Default | Meaning |", "|---|---|---|---|"]
    for flag in flags:
        options = [flag.option, *(f"--{a}" for a, target in ALIASES.items() if target == flag.name)]
        spelled = ", ".join(f"`{o}`" for o in options)
        rows.append(f"| {spelled} | {_cell(flag.takes)} | {_default(flag)} | {_cell(flag.help)} |")
    return "\n".join(rows) + "\n"


def _default(flag: Flag) -> str:
    if flag.name == "model_path":
        return "(required)"
    if flag.switch:
        return "on" if flag.default else "off"
    return "" if flag.default is None else f"`{flag.default}`"


def _known(group: Group) -> str:
    lines = [f"### {group.what[0].upper()}{group.what[1:]}\n"]
    if group.remedy:
        lines.append(f"{group.remedy}\n")
    for name in group.flags:
        others = [f"`--{spelling}`" for spelling, target in SPELLINGS.items() if target == name]
        also = f" (also {', '.join(others)})" if others else ""
        lines.append(f"- `--{name}`{also}{_accepted(name)}")
    return "\n".join(lines) + "\n"


def _accepted(name: str) -> str:
    if name not in NEUTRAL:
        return ""
    value, reason = NEUTRAL[name]
    return f": accepted{'' if value == ON else f' as `{value}`' if value else ' when empty'}, {reason}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
