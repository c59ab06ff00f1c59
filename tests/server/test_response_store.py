"""Who keeps responses: bounds, what a dead process leaves, and the way over the link."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sglcore.server.conversation import Conversation
from sglcore.server.response_store import DistantResponses, LocalResponses, ResponseKeeper, SharedResponses

pytestmark = pytest.mark.asyncio


def record(status: str = "in_progress", **fields: Any) -> bytes:
    return json.dumps({"response": {"status": status, **fields}}).encode()


async def test_the_oldest_go_first() -> None:
    keeper = ResponseKeeper(3)
    for name in "abcd":
        keeper.put("", name, name.encode(), running=False)
    assert [keeper.get(name) for name in "abcd"] == [None, b"b", b"c", b"d"]
    keeper.put("", "b", b"again", running=False)
    keeper.put("", "e", b"e", running=False)
    assert [keeper.get(name) for name in "bcde"] == [b"again", None, b"d", b"e"]


async def test_bytes_are_bounded() -> None:
    keeper = ResponseKeeper(100, max_bytes=10)
    keeper.put("", "a", b"x" * 6, running=False)
    keeper.put("", "b", b"x" * 4, running=False)
    assert len(keeper) == 2
    keeper.put("", "c", b"x" * 5, running=False)
    assert keeper.get("a") is None and len(keeper) == 2
    keeper.put("", "b", b"x" * 11, running=False)  # larger than all: not kept, nor what it replaces
    assert keeper.get("b") is None and keeper.get("c") == b"x" * 5
    assert keeper.delete("c") and not keeper.delete("c")
    keeper.put("", "d", b"x" * 10, running=False)
    assert keeper.get("d") == b"x" * 10  # what was deleted takes no room


async def test_a_store_of_none_keeps_none() -> None:
    store = LocalResponses(0)
    await store.put("a", b"x")
    assert await store.get("a") is None


async def test_what_a_dead_process_worked_on_has_failed() -> None:
    keeper = ResponseKeeper(10)
    keeper.put("one", "a", record(), running=True)
    keeper.put("two", "b", record(), running=True)
    keeper.put("one", "c", record(), running=True)
    keeper.put("one", "c", record("completed"), running=False)
    keeper.runner_gone("one")
    states = [json.loads(keeper.get(name) or b"")["response"] for name in "abc"]
    assert [state["status"] for state in states] == ["failed", "in_progress", "completed"]
    assert states[0]["error"]["code"] == "server_error" and keeper.runner("a") is None


class Linked:
    """A parent and two workers, their messages delivered at once."""

    def __init__(self) -> None:
        self.shared = SharedResponses(10, lambda name: self.parents.get(name))
        self.stores: dict[str, DistantResponses] = {}
        self.parents: dict[str, Conversation] = {}
        for name in ("one", "two"):
            self._link(name)

    def _link(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        worker: Conversation
        parent = Conversation(
            lambda data: loop.call_soon(worker.take, data) and None,
            {"responses": lambda **asked: self.shared.asked(name, **asked)},
        )
        store: DistantResponses
        worker = Conversation(
            lambda data: loop.call_soon(parent.take, data) and None,
            {"stop_response": lambda name: store.stop(name)},
        )
        self.stores[name] = store = DistantResponses(10, worker)
        self.parents[name] = parent


async def test_workers_share_what_is_kept() -> None:
    linked = Linked()
    one, two = linked.stores["one"], linked.stores["two"]
    await one.put("a", b"\x00\xff")
    assert await two.get("a") == b"\x00\xff"
    assert await two.get("b") is None
    assert await two.delete("a") is True and await one.delete("a") is False


@pytest.mark.parametrize("asker", ["one", "two"])
async def test_a_response_is_stopped_where_it_runs(asker: str) -> None:
    linked = Linked()
    one = linked.stores["one"]
    stopped = []

    async def stop(name: str) -> None:
        stopped.append(name)
        await one.put(name, record("cancelled"))

    one.stop = stop
    await one.put("a", record(), running=True)
    async with asyncio.timeout(20):
        assert await linked.stores[asker].cancel("a") == record("cancelled")
        assert await linked.stores[asker].cancel("a") == record("cancelled")
        assert await linked.stores[asker].cancel("unknown") is None
    assert stopped == ["a"]


async def test_a_response_whose_process_is_gone_is_not_asked_for() -> None:
    linked = Linked()
    await linked.stores["one"].put("a", record(), running=True)
    del linked.parents["one"]
    linked.shared.keeper.runner_gone("one")
    async with asyncio.timeout(20):
        found = await linked.stores["two"].cancel("a")
    assert json.loads(found or b"")["response"]["status"] == "failed"


async def test_a_process_that_ends_while_it_is_asked_does_not_hold_up_the_asker() -> None:
    linked = Linked()
    one = linked.stores["one"]
    asked = asyncio.Event()

    async def stop(name: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    one.stop = stop
    await one.put("a", record(), running=True)
    cancelling = asyncio.create_task(linked.stores["two"].cancel("a"))
    async with asyncio.timeout(20):
        await asked.wait()
        linked.parents["one"].close()
        assert await cancelling == record()
