"""The contract reference, written from the code: `python -m sglcore.cli.contracts_page docs/contracts`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sglcore.cli.contracts_source import Class, Method, Module, read
from sglcore.contracts.families import FAMILIES, Family

MADE = "Generated from the code; do not edit. To write it anew: `python -m sglcore.cli.contracts_page docs/contracts`."

# How one of a family is chosen. Flags first: what is named is taken or refused, never replaced.
CHOSEN = {
    "models": "the architecture in the checkpoint's `config.json`; `--model-impl` narrows it",
    "attention": "`--attention-backend`; else by capability, then priority",
    "quant": "`--quantization`; else what the checkpoint's `quantization_config` says",
    "platforms": "`--device`; else the highest priority whose hardware is there",
    "ops": "capability and priority; all that fit are laid over the platform's own",
    "tool_parsers": "`--tool-call-parser`",
    "reasoning_parsers": "`--reasoning-parser`",
    "chat_formats": "not yet",
    "grammars": "not yet",
    "speculators": "not yet",
    "kv_tiers": "not yet",
    "kv_transfers": "not yet",
    "executors": "not yet",
    "weight_sources": "the model's name: exact names, then prefixes, then by order",
    "weight_formats": "`--load-format`; else the first that knows the files",
    "policies": "`--schedule-policy`",
    "logits_processors": "`custom_logit_processor` of a request",
    "routes": "all that the plan holds",
    "commands": "the command line: `sglcore` and the name",
    "metrics_sinks": "not yet",
    "hooks": "all that the plan holds",
}
SHARED = {
    "spec": "What all Specs have",
    "services": "Services that plugins are handed",
    "execution": "Getting work onto a device",
    "pages": "Pages on the move",
}
KITS = {
    "layers": (
        "The model author's kit",
        "attention",
        "embedding",
        "latent",
        "linear",
        "loading",
        "mlp",
        "moe",
        "norm",
        "rope",
        "rows",
    ),
    "parsing": ("The parser author's kit", "cut", "json_value", "call_object", "order"),
}
PROVISIONAL = "**Provisional.** A draft: this core does not use it yet, and it may still change without a new version."
NETWORK = "Faces the network: a plugin of this family from outside this repository is loaded only when it is named."

INDEX = f"""# Contracts

{MADE}

One page a family: what a plugin declares (its Spec), what it implements, and what it is handed. An entry point stands
in the family's group and leads to a Spec; see [Write a plugin](../write-a-plugin.md). How a family's version moves, and
what a plugin may rely on, is told in [Versions of the contract](../plugin-versions.md).

Which plugin is taken, where several could serve: the one that a flag names; else the one that the config file names;
else one that declares to replace another; else the built-in ones; last, among models, the Transformers fallback. The
same name from two distributions is an error that names both. What was named and cannot serve is an error, too: nothing
else steps in for it.
"""


def pages() -> dict[str, str]:
    """File name -> content of every page."""
    written = {"index.md": index_page(), "shared.md": shared_page(), "hooks.md": hooks_page()}
    written |= {f"{name}.md": kit_page(name) for name in KITS}
    return written | {f"{f.name}.md": family_page(f) for f in FAMILIES.values() if f.spec}


def index_page() -> str:
    """All families with version and state."""
    rows = ["| Family | What | API | State |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        state = "provisional" if family.provisional else "in use"
        rows.append(f"| [{family.name}]({family.name}.md) | {family.what} | {_versions(family)} | {state} |")
    more = "What several families use: [Spec, services, execution and pages](shared.md). What authors build with:\n"
    more += "[the layers of a model](layers.md) and [the parts of a parser](parsing.md).\n"
    return "\n".join([INDEX, *rows, "", more])


def family_page(family: Family) -> str:
    """One family: its group and state, its Spec, then the other classes of its module."""
    home, spec = family.spec.split(":")
    module = read(home.removeprefix("sglcore.contracts."))
    others = tuple(_stem(f) for f in FAMILIES.values() if f is not family and f.spec.startswith(f"{home}:"))
    shown = [c for c in module.classes if not c.name.startswith(others)]
    shown.sort(key=lambda c: c.name != spec)
    unions = [f"## {name}\n\n```python\n{name} = {text}\n```\n" for name, text in module.unions.items()]
    return "\n".join([_head(family, module), *(_class(c) for c in shown), *unions])


def hooks_page() -> str:
    """The hook specifications."""
    module = read("../hookspecs")
    hooks = [m for m in module.functions if any(d.startswith("hookspec") for d in m.decorators)]
    more = "[Hooks](../hooks.md) tells how to implement one, and more about each.\n"
    return "\n".join([_head(FAMILIES["hooks"], module), more, *(_hook(m) for m in hooks)])


def shared_page() -> str:
    """The modules that belong to no family."""
    parts = [f"# Shared contracts\n\n{MADE}\n"]
    for name, title in SHARED.items():
        module = read(name)
        parts.append(f"{title}: `sglcore.contracts.{name}`. {_prose(module.text)}\n")
        parts += [_class(c) for c in module.classes]
        parts += [_function(f) for f in module.functions]
    return "\n".join(parts)


def kit_page(kit: str) -> str:
    """What a kit offers, module by module; its constructors stand with their classes."""
    title, *modules = KITS[kit]
    parts = [f"# {title}: `sglcore.{kit}`\n\n{MADE}\n\n{_prose(read(f'../{kit}/__init__').text)}\n"]
    for name in modules:
        module = read(f"../{kit}/{name}")
        parts.append(f"## sglcore.{kit}.{name}\n\n{_prose(module.text)}\n")
        parts += [_deeper(_class(c)) for c in module.classes]
        parts += [_deeper(_function(f)) for f in module.functions]
    return "\n".join(parts)


def _deeper(text: str) -> str:
    """A section one level below."""
    return re.sub(r"^##", "###", text, flags=re.M)


def _stem(family: Family) -> str:
    return family.spec.partition(":")[2].removesuffix("Spec")


def _versions(family: Family) -> str:
    return str(family.version) if family.oldest == family.version else f"{family.oldest} to {family.version}"


def _head(family: Family, module: Module) -> str:
    groups = ", ".join(f"`{group}`" for group, _ in family.groups)
    leads = f"a Spec, `{family.spec}`" if family.spec else "a module"
    notes = [PROVISIONAL] * family.provisional + [NETWORK] * family.network
    lines = [
        f"# {family.name}: {family.what}\n",
        f"{MADE}\n",
        f"- Entry-point group: {groups}; leads to {leads}",
        f"- API version: {family.version}; this core reads {_versions(family)}",
        f"- Chosen by: {CHOSEN[family.name]} ([precedence](index.md))\n",
        *(f"{note}\n" for note in notes),
    ]
    return "\n".join([*lines, f"{_prose(module.text)}\n"])


def _class(shown: Class) -> str:
    parts = [f"## {shown.name}\n", f"{_kind(shown)}\n"]
    if shown.text:
        parts.append(f"{_prose(shown.text)}\n")
    if shown.attributes:
        parts.append("\n".join(_attribute(a.name, a.type, a.default, a.text) for a in shown.attributes) + "\n")
    parts += [_function(m, shown.name) for m in shown.methods]
    return "\n".join(parts)


def _kind(shown: Class) -> str:
    """In a few words what sort of class it is."""
    bases = [b for b in shown.bases if b != "Protocol"]
    frozen = any("frozen=True" in d for d in shown.decorators)
    kind = "Protocol" if shown.protocol else "Frozen dataclass" if frozen else "Class"
    if not shown.protocol and not frozen and any(d.startswith("dataclass") for d in shown.decorators):
        kind = "Dataclass"
    extends = ", ".join("[Spec](shared.md#spec)" if b == "Spec" else f"`{b}`" for b in bases)
    return f"*{kind}{f', extends {extends}' if extends else ''}.*"


def _attribute(name: str, type_: str, default: str, text: str) -> str:
    code = f"{name}: {type_}" + (f" = {default}" if default else "")
    return f"- `{code}`" + (f": {_escape(text)}" if text else "")


def _function(method: Method, owner: str = "") -> str:
    title = f"### {owner}.{method.name}" if owner else f"## {method.name}"
    notes = [f"*{word}.*\n" for word in ("Optional", "Property") if word.lower() in method.decorators]
    text = [f"{_prose(method.text)}\n"] if method.text else []
    return "\n".join([f"{title}\n", f"```python\n{method.signature}\n```\n", *notes, *text])


def _hook(method: Method) -> str:
    options = next(d for d in method.decorators if d.startswith("hookspec"))
    first = "The first answer that is not `None` counts.\n" if "firstresult=True" in options else ""
    old = "**Deprecated**: implementing it warns.\n" if "warn_on_impl" in options else ""
    return _function(method) + "".join(f"\n{note}" for note in (first, old) if note)


def _prose(text: str) -> str:
    """A docstring as Markdown: blank lines around lists and blocks are its own."""
    return "\n".join(_escape(line) for line in text.strip().splitlines())


def _escape(text: str) -> str:
    """`<` before a letter would be taken for markup, except in code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"<(?=[A-Za-z/])", "&lt;", part) for part in parts)


def write(folder: Path) -> None:
    """Write all pages into `folder`, and remove pages of families that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    written = pages()
    for path in folder.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
