"""The page and its data over HTTP: what is served, under which headers, to whom, and what is never told."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from server.client import http_client
from server.scripted import ScriptedEngine, server_context, tiny_text
from sglcore.errors import EngineDead
from sglcore.server.context import ServerContext
from sglcore.server.ui.page import address, page_files

pytestmark = pytest.mark.asyncio
KEY, ADMIN = "user-key-123456", "admin-key-123456"
STATS: dict[str, Any] = {
    "num_running_reqs": 3,
    "num_queue_reqs": 2,
    "num_queue_tokens": 70,
    "gen_throughput": 41.5,
    "cache_hit_rate": 0.25,
    "max_total_num_tokens": 1600,
    "num_used_tokens": 400,
    "free_pages": 50,
    "cached_pages": 40,
    "paused": False,
    "steps": 9,
    "prefix_cache": {"asked_tokens": 100, "hit_tokens": 25, "tenants": 7},
}
TREE = [[-1, 32, 5, 1], [0, 16, 2, 0], [0, 48, 0, 0]]


class Counting(ScriptedEngine):
    """Counts its calls; `slow` holds up their answers."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.asked: list[dict[str, Any]] = []
        self.slow: asyncio.Event | None = None
        self.calls |= {"info": {"page_size": 16}, "metrics": dict(STATS), "prefix_tree": TREE}

    async def call(self, name: str, **arguments: Any) -> Any:
        self.counts[name] = self.counts.get(name, 0) + 1
        self.asked.append(arguments)
        if self.slow is not None:
            await self.slow.wait()
        return await super().call(name, **arguments)


def context(engine: ScriptedEngine | None = None, **config: Any) -> ServerContext:
    return server_context(engine or Counting(), tiny_text(), **config)


async def get(path: str, on: ServerContext | None = None, **headers: str) -> httpx.Response:
    async with http_client(on or context()) as client:
        return await client.get(path, headers=headers)


def paths() -> list[str]:
    return [address(name) for name in page_files()]


async def test_the_page_is_small_and_asks_nothing_of_others() -> None:
    files = page_files()
    assert {"index.html", "app.css", "app.js", "theme.js", "icon.svg"} <= set(files)
    assert sum(len(data) for data in files.values()) < 120_000
    for name, data in files.items():
        text = data.decode()
        outside = set(re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z0-9./-]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not outside, (name, outside)
        sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
        assert not re.search(sinks, text), name
    index = files["index.html"].decode()
    assert "style=" not in index
    assert not re.search(r"\son[a-z]+=", index)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", index))
    assert "<style" not in index


async def test_files_that_the_page_names_are_there() -> None:
    files = page_files()
    for name, data in files.items():
        text = data.decode()
        named = re.findall(r'(?:src|href)="ui/([^"]+)"', text) + re.findall(r'from "\./([^"]+)"', text)
        assert set(named) <= set(files), name
    symbols = set(re.findall(r'id="i-([a-z]+)"', files["index.html"].decode()))
    used = {name for data in files.values() for name in re.findall(r"icon(?:Button)?\(\"([a-z]+)\"", data.decode())}
    assert used
    assert used <= symbols


@pytest.mark.parametrize("path", paths())
async def test_every_file_is_public_under_strict_headers(path: str) -> None:
    answer = await get(path, context(api_key=KEY, admin_api_key=ADMIN))
    assert answer.status_code == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    ending = path.rpartition(".")[2] if "." in path else "html"
    assert answer.headers["content-type"].split(";")[0] == kind[ending]
    again = await get(path, **{"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await get(path, **{"if-none-match": '"another"'})).status_code == 200


async def test_no_other_file_is_served() -> None:
    for path in ("/ui/page.py", "/ui/../page.py", "/ui/%2e%2e/page.py", "/ui/", "/ui", "/index.html", "/ui/index.html"):
        assert (await get(path)).status_code == 404, path


async def test_no_ui() -> None:
    off = context(no_ui=True)
    for path in (*paths(), "/ui/engine"):
        assert (await get(path, off)).status_code == 404, path
    assert (await get("/v1/models", off)).status_code == 200


async def test_the_snapshot() -> None:
    answer = await get("/ui/engine")
    assert answer.headers["cache-control"] == "no-store"
    state = answer.json()
    assert state["kv"] == {"total": 1600, "held": 400, "free": 800, "cached": 400}
    assert (state["num_running_reqs"], state["num_queue_reqs"], state["gen_throughput"]) == (3, 2, 41.5)
    assert state["tree"] == {
        "columns": ["parent", "tokens", "hits", "in_use"],
        "rows": TREE,
        "cached_tokens": 640,
    }
    assert state["cache"] == {"asked_tokens": 100, "hit_tokens": 25}
    assert (state["live"], state["not_ready"], state["engine_restarts"]) == (True, None, 0)
    assert "error" not in state


async def test_the_snapshot_asks_for_a_key() -> None:
    locked = context(api_key=KEY, admin_api_key=ADMIN)
    assert (await get("/ui/engine", locked)).status_code == 401
    assert (await get("/ui/engine", locked, authorization="Bearer wrong")).status_code == 401
    seen = await get("/ui/engine", locked, authorization=f"Bearer {KEY}")
    assert seen.status_code == 200
    assert KEY not in seen.text
    assert ADMIN not in seen.text


async def test_many_viewers_cost_the_engine_one_question() -> None:
    engine = Counting()
    engine.slow = asyncio.Event()
    async with http_client(context(engine)) as client:
        asked = [asyncio.create_task(client.get("/ui/engine")) for _ in range(20)]
        while not engine.counts:
            await asyncio.sleep(0)
        engine.slow.set()
        answers = await asyncio.gather(*asked)
        assert {answer.text for answer in answers} == {(await client.get("/ui/engine")).text}
    assert engine.counts == {"info": 1, "metrics": 1, "prefix_tree": 1}
    assert engine.asked[-1]["most"] <= 128


async def test_a_viewer_who_leaves_takes_nothing_from_others() -> None:
    engine = Counting()
    engine.slow = asyncio.Event()
    async with http_client(context(engine)) as client:
        first, second = (asyncio.create_task(client.get("/ui/engine")) for _ in range(2))
        while not engine.counts:
            await asyncio.sleep(0)
        first.cancel()
        engine.slow.set()
        assert (await second).json()["num_running_reqs"] == 3


async def test_an_engine_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.server.engine_view.AGE", 0.0)
    engine = Counting()
    async with http_client(context(engine)) as client:
        assert "error" not in (await client.get("/ui/engine")).json()
        engine.calls["metrics"] = EngineDead("It died.")
        engine.healthy = False
        broken = (await client.get("/ui/engine")).json()
        assert broken["error"] == "It died."
        assert broken["live"] is False
        assert broken["kv"]["total"] == 1600  # as last seen
        engine.calls["metrics"], engine.healthy = dict(STATS), True
        assert "error" not in (await client.get("/ui/engine")).json()


async def test_an_engine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.server.engine_view.ENGINE_SECONDS", 0.05)
    engine = Counting()
    engine.slow = asyncio.Event()
    state = (await get("/ui/engine", context(engine))).json()
    assert state["error"] == "The engine does not answer."
    assert "kv" not in state


async def test_more_nodes_than_asked_for_are_cut() -> None:
    engine = Counting()
    engine.calls["prefix_tree"] = [[-1, 1, 0, 0]] * 5000
    answer = await get("/ui/engine", context(engine))
    assert len(answer.json()["tree"]["rows"]) <= 128
    assert len(answer.content) < 8192
