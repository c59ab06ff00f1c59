"""The API reference, written from the document: `python -m sglcore.server.openapi_page > docs/reference/api.md`.

It is that of a server with all dialects of this repository and no keys set.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sglcore.contracts.routes import ModelInfo
from sglcore.errors import EngineDead
from sglcore.plugins import discover
from sglcore.request import GenerateRequest, RequestOutput
from sglcore.server.app import build_app
from sglcore.server.context import ServerContext
from sglcore.server.openapi import document
from sglcore.server.openapi_shapes import JSON
from sglcore.server.plugin_routes import plugin_routes
from sglcore.server_config import ServerConfig

HEAD = """# The API

Generated from the code; do not edit. To write it anew: `python -m sglcore.server.openapi_page > docs/reference/api.md`.

Every endpoint of a server with all dialects of this repository. The same, with the schema of every body and answer, is
served as an OpenAPI document at `/openapi.json`, and to read at `/docs`; see [the OpenAPI document](../openapi.md).

A *key* is sent as `Authorization: Bearer KEY`. `user` endpoints ask for it where the server has an `--api-key`; `admin`
endpoints ask for the `--admin-api-key`, or where there is none, for the API key.

Fields in bold must be there; `?name` is one of the query.
"""
KEYS = {"userKey": "user", "adminKey": "admin"}


class NoEngine:
    """Stands where routes expect an engine; they ask it nothing before a request comes."""

    healthy = False

    def generate(self, request: GenerateRequest) -> AsyncIterator[list[RequestOutput]]:
        raise EngineDead("")

    async def abort(self, rid: str, message: str = "") -> int:
        raise EngineDead("")

    async def call(self, name: str, **arguments: Any) -> Any:
        raise EngineDead("")

    def end_branch(self, rid: str, branch: int) -> None:
        raise EngineDead("")


def whole_document() -> dict[str, Any]:
    """The document of such a server, without one."""
    config = ServerConfig(model_path="model")
    model = ModelInfo("model", "model", (), context_length=1, vocab_size=1, created=0, sampling_defaults={})
    context = ServerContext(config, NoEngine(), None, model)
    app = build_app(context, plugin_routes(discover("auto"), context))
    return document(app.state.entries, config)


def page(told: dict[str, Any]) -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for tag in told["tags"]:
        parts += [f"## {tag['name']}\n", _table(told, tag["name"])]
        parts += [_told(told, *operation) for operation in _operations(told, tag["name"])]
    return "\n".join(part for part in parts if part)


def _operations(told: dict[str, Any], tag: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
        if tag in operation["tags"]
    ]


def _table(told: dict[str, Any], tag: str) -> str:
    rows = ["| Endpoint | Key | What it does | Answers | Refuses |", "|---|---|---|---|---|"]
    for path, method, operation in _operations(told, tag):
        cells = [
            f"`{method.upper()} {path}`",
            _key(operation),
            operation["summary"],
            _answers(operation),
            ", ".join(status for status in operation["responses"] if status >= "400"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _key(operation: dict[str, Any]) -> str:
    return next((KEYS[name] for way in operation["security"] for name in way if name in KEYS), "none")


def _takes(told: dict[str, Any], operation: dict[str, Any]) -> str:
    """Names of the body's fields and of the query's; those that must be there in bold."""
    found = []
    body = operation.get("requestBody")
    for schema in _flat(told, body["content"][JSON]["schema"]) if body else ():
        must = schema.get("required", ()) if body and body["required"] else ()
        found += [f"**`{name}`**" if name in must else f"`{name}`" for name in schema.get("properties", ())]
    query = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
    found += [f"`?{name}`" for name in query if f"`{name}`" not in found]
    return ", ".join(dict.fromkeys(found))


def _flat(told: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in schema:
        return [told["components"]["schemas"][schema["$ref"].rpartition("/")[2]]]
    return [one for part in schema["anyOf"] for one in _flat(told, part)] if "anyOf" in schema else [schema]


def _answers(operation: dict[str, Any]) -> str:
    kinds = {
        kind for status, told in operation["responses"].items() if status < "300" for kind in told.get("content", ())
    }
    return ", ".join(f"`{kind}`" for kind in sorted(kinds))


def _told(told: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    """What there is to say of one endpoint below its table."""
    takes = _takes(told, operation)
    parts = [operation["description"] + "\n"] if "description" in operation else []
    parts += [f"Takes {takes}.\n"] if takes else []
    parts += [_example(path, method, operation)]
    return "\n".join([f"### {method.upper()} {path}\n", *(part for part in parts if part)]) if any(parts) else ""


def _example(path: str, method: str, operation: dict[str, Any]) -> str:
    example = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("example")
    if example is None:
        return ""
    head = [f"curl http://localhost:30000{path}", f"-X {method.upper()}", '-H "Content-Type: application/json"']
    head += ['-H "Authorization: Bearer $KEY"'] if _key(operation) != "none" else []
    body = msgspec.json.encode(example).decode()
    return f"```bash\n{' '.join(head)} \\\n  -d '{body}'\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page(whole_document()))
