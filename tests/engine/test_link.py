"""The ZeroMQ link: a real socket, the real loop in a thread, a real asyncio client."""

from __future__ import annotations

import asyncio
import threading
import types

import msgspec
import pytest
import zmq

from engine.fakes import InlineExecutor
from scheduler.fake import build, run_alone
from sglcore.engine.client import ZmqClient
from sglcore.engine.engine import Engine
from sglcore.engine.link import ZmqPort
from sglcore.engine.loop import EngineLoop
from sglcore.engine.messages import Abort, Outputs, Submit, ToEngine
from sglcore.errors import EngineDead, RequestError
from sglcore.plugins import select
from sglcore.request import FinishReason, GenerateRequest, RequestOutput, SamplingParams, pack_ids


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
        threading.Thread(target=client.from_thread, args=(client.fail, "It crashed.")).start()
        with pytest.raises(EngineDead, match="crashed"):
            await drain(stream)
        assert not client.healthy
        with pytest.raises(EngineDead):
            await client.call("metrics")
        await client.close()

    asyncio.run(main())
    # the engine itself is alive here and still has the request: end it so that the fixture can stop
    served.loop.engine.abort("")


@pytest.fixture
def bare(tmp_path):
    """A client's address and the bare socket behind it, on which a test plays the engine."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 10_000)
    socket.bind(f"ipc://{tmp_path}/bare")
    yield types.SimpleNamespace(address=f"ipc://{tmp_path}/bare", socket=socket)
    socket.close()
    context.term()


async def submitted(client: ZmqClient, bare, rid: str):
    """A stream that is waiting for its first outputs, the client's identity, and the request as it was sent."""
    task = asyncio.create_task(collect(client, ask(rid, [1])))
    await asyncio.sleep(0)
    while not await asyncio.to_thread(bare.socket.poll, 10_000):
        pass
    identity, frame = bare.socket.recv_multipart()
    return task, identity, msgspec.msgpack.decode(frame, type=ToEngine)


def answer(message: Submit, token: int, finish: FinishReason | None) -> bytes:
    request = message.request
    return msgspec.msgpack.encode(Outputs([RequestOutput(request.rid, 0, [token], finish, epoch=request.epoch)]))


def test_an_abort_does_not_swallow_the_signal_that_an_answer_is_there(bare):
    async def main():
        client = ZmqClient(bare.address)
        task, identity, message = await submitted(client, bare, "a")
        bare.socket.send_multipart((identity, answer(message, 7, FinishReason("length"))))
        assert client._socket.underlying and zmq.Socket.shadow(client._socket.underlying).poll(10_000)
        client._send_now(Abort("other", exact=True))  # before the event loop has seen the answer
        got = await asyncio.wait_for(task, 10)
        await client.close()
        return got

    assert asyncio.run(main()) == [7]


def test_outputs_of_an_earlier_request_with_the_same_id_are_dropped(bare):
    async def main():
        client = ZmqClient(bare.address)
        task, identity, old = await submitted(client, bare, "a")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert msgspec.msgpack.decode(bare.socket.recv_multipart()[1], type=ToEngine) == Abort("a", exact=True, kept=0)
        task, _, new = await submitted(client, bare, "a")
        bare.socket.send_multipart((identity, answer(old, 1, None)))
        bare.socket.send_multipart((identity, answer(new, 2, FinishReason("length"))))
        got = await asyncio.wait_for(task, 10)
        await client.close()
        return got

    assert asyncio.run(main()) == [2]


def test_an_unreadable_message_ends_streams_instead_of_hanging_them(bare):
    async def main():
        client = ZmqClient(bare.address)
        task, identity, _ = await submitted(client, bare, "a")
        bare.socket.send_multipart((identity, b"\xc1"))
        with pytest.raises(EngineDead, match="cannot be read"):
            await asyncio.wait_for(task, 10)
        await client.close()

    asyncio.run(main())


def test_an_unreadable_message_does_not_harm_the_engine(served):
    async def main():
        client = ZmqClient(served.address)
        await client._socket.send(b"\xc1")
        await client._socket.send_multipart((b"\x81", b"\xc1"))
        got = await collect(client, ask("a", [1, 2]))
        await client.close()
        return got

    assert asyncio.run(main()) == run_alone([1, 2], 5)


def test_a_client_that_is_gone_leaves_nothing_and_is_heard_no_more(served):
    async def main():
        gone, other = ZmqClient(served.address, identity="one"), ZmqClient(served.address)
        streams = [gone.generate(ask(rid, [1, 2], 400)) for rid in ("a", "ab")]
        for stream in streams:
            await anext(stream)
        kept = other.generate(ask("abc", [3], 400))
        await anext(kept)
        assert await other.call("leave", client="one") == 2
        assert (await other.call("metrics"))["num_running_reqs"] == 1
        await gone._send(Submit(ask("late", [1], 400)))
        assert (await other.call("metrics"))["num_running_reqs"] == 1
        assert await other.call("leave", client="one") == 0
        await kept.aclose()
        await asyncio.gather(*(drain(stream) for stream in streams))
        await gone.close()
        await other.close()

    asyncio.run(main())


def test_what_was_refused_is_not_aborted(bare):
    """An abort would cut what a session keeps of an earlier request under the same id."""

    async def main():
        client = ZmqClient(bare.address)
        task, identity, _ = await submitted(client, bare, "a")
        refusal = RequestOutput("a", 0, [], FinishReason("error", message="No.", status=400), epoch=1)
        bare.socket.send_multipart((identity, msgspec.msgpack.encode(Outputs([refusal]))))
        with pytest.raises(RequestError, match="No"):
            await asyncio.wait_for(task, 10)
        assert not await asyncio.to_thread(bare.socket.poll, 200)
        await client.close()

    asyncio.run(main())
