"""The ZeroMQ link: a real socket, the real loop in a thread, a real asyncio client."""

from __future__ import annotations

import asyncio
import threading
import types

import pytest
import zmq

from engine.fakes import InlineExecutor
from scheduler.fake import build, run_alone
from sglcore.engine.engine import Engine
from sglcore.engine.link import ZmqClient, ZmqPort
from sglcore.engine.loop import EngineLoop
from sglcore.errors import EngineDead, RequestError
from sglcore.plugins import select
from sglcore.request import GenerateRequest, SamplingParams, pack_ids


def ask(rid: str, prompt: list[int], new: int = 5, n: int = 1) -> GenerateRequest:
    return GenerateRequest(rid=rid, input_ids=pack_ids(prompt), sampling=SamplingParams(max_new_tokens=new), n=n)


@pytest.fixture
def served(tmp_path):
    """An engine loop over a fake model, serving a socket in a thread."""
    address, wake = f"ipc://{tmp_path}/e", f"inproc://wake-{tmp_path.name}"
    scheduler, runner = build(context=512, pages=600)
    port = ZmqPort(address, wake=wake)
    loop = EngineLoop(Engine(scheduler, InlineExecutor(runner), overlap=True), port, select([], "none").hooks, {})
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield types.SimpleNamespace(address=address, loop=loop)
    push = zmq.Context.instance().socket(zmq.PUSH)
    push.connect(wake)
    push.send(b"")
    thread.join(10)
    assert not thread.is_alive()
    push.close()
    port.close()


async def drain(stream) -> None:
    async for _ in stream:
        pass


async def collect(client: ZmqClient, request: GenerateRequest) -> list[int]:
    return [t async for outputs in client.generate(request) for o in outputs for t in o.token_ids]


def test_many_requests_and_calls_at_once(served):
    async def main():
        client = ZmqClient(served.address)
        prompts = {f"r{i}": [i, i + 1, 2] for i in range(20)}
        answers = await asyncio.gather(*(collect(client, ask(r, p)) for r, p in prompts.items()))
        metrics = await client.call("metrics")
        await client.call("check")
        await client.close()
        return prompts, answers, metrics

    prompts, answers, metrics = asyncio.run(main())
    assert answers == [run_alone(p, 5) for p in prompts.values()]
    assert metrics["num_running_reqs"] == 0


def test_refusals_are_raised(served):
    async def main():
        client = ZmqClient(served.address)
        with pytest.raises(RequestError) as error:
            await collect(client, ask("a", []))
        with pytest.raises(RequestError, match="knows no call"):
            await client.call("no_such")
        await client.close()
        return error.value

    assert asyncio.run(main()).param == "input_ids"


def test_leaving_the_stream_aborts_in_the_engine(served):
    async def main():
        client = ZmqClient(served.address)
        stream = client.generate(ask("a", [1, 2], 400))
        async for _ in stream:
            break
        await stream.aclose()
        while (await client.call("metrics"))["num_running_reqs"]:
            pass
        aborted = (await client.call("metrics"))["aborted"]
        await client.call("check")
        await client.close()
        return aborted

    assert asyncio.run(main()) == 1


def test_two_clients_get_their_own(served):
    async def main():
        one, two = ZmqClient(served.address), ZmqClient(served.address)
        got = await asyncio.gather(collect(one, ask("x", [1], n=2)), collect(two, ask("y", [2])))
        await one.close()
        await two.close()
        return got

    first, second = asyncio.run(main())
    assert sorted(first) == sorted(run_alone([1], 5) * 2) and second == run_alone([2], 5)


def test_death_ends_everything_with_one_error(served):
    async def main():
        client = ZmqClient(served.address)
        stream = client.generate(ask("a", [1], 400))
        await anext(stream)
        threading.Thread(target=client.fail_from_thread, args=("It crashed.",)).start()
        with pytest.raises(EngineDead, match="crashed"):
            await drain(stream)
        assert not client.healthy
        with pytest.raises(EngineDead):
            await client.call("metrics")
        await client.close()

    asyncio.run(main())
    # the engine itself is alive here and still has the request: end it so that the fixture can stop
    served.loop.engine.abort("")
