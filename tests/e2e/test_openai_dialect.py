"""OpenAI's dialect on the demo model, by two API workers: responses that both know, and scores against Transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch

from e2e.server import Server, running
from e2e.test_api_workers import Pinned, one_each, pid_of, wait_until
from parity.test_demo import reference as reference  # a fixture

ASK = "What is the capital of France?"
# Long enough to be met at work, whatever the machine.
LONG: dict[str, Any] = {"input": "Count.", "background": True, "ignore_eos": True, "max_output_tokens": 1500}
PATH = "/v1/responses"


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with running("demo", "--port", "0", "--api-workers", "2") as server:
        yield server


@pytest.fixture
def workers(served: Server) -> Iterator[tuple[Pinned, Pinned]]:
    pair = one_each(served)
    yield pair
    for client in pair:
        client.close()


def status(client: httpx.Client, name: str) -> str:
    return str(client.get(f"{PATH}/{name}").json()["status"])


def test_a_response_made_by_one_worker_is_known_to_the_other(workers: tuple[Pinned, Pinned]) -> None:
    one, two = workers
    made = one.post(PATH, json={"input": ASK, "temperature": 0}).json()
    assert "Paris" in made["output"][0]["content"][0]["text"]
    assert two.get(f"{PATH}/{made['id']}").json() == made
    asked = {"previous_response_id": made["id"], "input": "And of Spain?", "temperature": 0}
    following = two.post(PATH, json=asked).json()
    assert following["status"] == "completed"
    assert following["usage"]["input_tokens"] > made["usage"]["input_tokens"] + made["usage"]["output_tokens"]
    assert two.get(f"{PATH}/{made['id']}/input_items").json()["data"][0]["content"][0]["text"] == ASK
    assert two.delete(f"{PATH}/{made['id']}").status_code == 200
    assert one.get(f"{PATH}/{made['id']}").status_code == 404


@pytest.mark.parametrize("same", [True, False])
def test_a_background_response_is_cancelled_by_any_worker(workers: tuple[Pinned, Pinned], same: bool) -> None:
    one, two = workers
    begun = one.post(PATH, json=LONG).json()
    wait_until(lambda: status(two, begun["id"]) == "in_progress")
    cancelled = (one if same else two).post(f"{PATH}/{begun['id']}/cancel").json()
    assert cancelled["status"] == "cancelled" and status(one, begun["id"]) == "cancelled"


def test_a_background_response_ends_by_itself(workers: tuple[Pinned, Pinned]) -> None:
    one, two = workers
    begun = one.post(PATH, json={"input": ASK, "temperature": 0, "background": True}).json()
    wait_until(lambda: status(two, begun["id"]) == "completed")
    done = two.get(f"{PATH}/{begun['id']}").json()
    assert "Paris" in done["output"][0]["content"][0]["text"]


@pytest.mark.asyncio
async def test_the_official_client(served: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=60) as client:
        async with client.responses.stream(model="demo", input=ASK, temperature=0) as stream:
            said = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert "".join(said) == final.output_text == "The capital of France is Paris."
        assert len(said) >= 6 and final.usage is not None and final.usage.output_tokens == 8


def test_scores_are_those_of_transformers(served: Server, reference: Any) -> None:
    labels = [17, 4321, 260, 9]
    query, items = [3, 7, 11, 500], [[21], [22, 23, 24], [4, 4, 4, 4, 4]]
    with torch.no_grad():
        logits = [reference(torch.tensor([query + item])).logits[0, -1].log_softmax(-1)[labels] for item in items]
    body = {"query": query, "items": items, "label_token_ids": labels}
    with httpx.Client(base_url=served.url, timeout=60) as client:
        plain = client.post("/v1/score", json=body).json()["scores"]
        shares = client.post("/v1/score", json=body | {"apply_softmax": True}).json()["scores"]
    expected = torch.stack(logits)
    torch.testing.assert_close(torch.tensor(plain).log(), expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(torch.tensor(shares), expected.softmax(-1), atol=1e-3, rtol=1e-3)


def test_hidden_states_and_meta_info(served: Server, reference: Any) -> None:
    body = {"prompt": [3, 7, 11, 500], "max_tokens": 1, "temperature": 0, "return_hidden_states": True}
    with httpx.Client(base_url=served.url, timeout=60) as client:
        choice = client.post("/v1/completions", json=body | {"return_token_ids": True}).json()["choices"][0]
    with torch.no_grad():
        hidden = reference.model(torch.tensor([body["prompt"]])).last_hidden_state[0, -1]
    torch.testing.assert_close(torch.tensor(choice["hidden_states"]), hidden, atol=2e-2, rtol=1e-2)
    assert choice["token_ids"] == [int(reference.lm_head(hidden).argmax())]


def test_what_a_dead_worker_worked_on_has_failed(served: Server) -> None:
    one, two = one_each(served)
    begun = one.post(PATH, json=LONG).json()
    wait_until(lambda: status(two, begun["id"]) == "in_progress")
    pid_of(served, one).kill()
    wait_until(lambda: status(two, begun["id"]) == "failed")
    failed = two.get(f"{PATH}/{begun['id']}").json()
    assert failed["error"]["code"] == "server_error"
    for client in (one, two):
        client.close()
