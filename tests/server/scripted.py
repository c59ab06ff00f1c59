"""An EngineClient whose answers the test writes, and the other parts a server needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.weights import TextAssets
from sglcore.errors import RequestError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput, TokenLogprobs
from sglcore.server import ServerContext
from sglcore.server_config import ServerConfig
from sglcore.text.service import Text

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "hello world, how are you? I am fine.",
    "été à Zürich 🎉 日本語",
]
HANG = "hang"

Step = list[RequestOutput]


def tiny_tokenizer() -> bytes:
    """tokenizer.json of a byte-level BPE trained on the spot; a few hundred tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer.to_str().encode()


TOKENIZER = tiny_tokenizer()


def tiny_text(template: str | None = CHATML) -> Text:
    return Text(TextAssets(TOKENIZER, chat_template=template, special_tokens={"eos_token": "<|im_end|>"}))


class ScriptedEngine:
    """Answers with `script(request)`: a list of steps, HANG among them to wait for ever, or an exception to raise."""

    def __init__(self, script: Callable[[GenerateRequest], Iterable[Any]] | None = None) -> None:
        self.script = script or (lambda request: [])
        self.requests: list[GenerateRequest] = []
        self.left: list[str] = []  # requests whose iterator was left before its end
        self.aborts: list[str] = []
        self.hanging = asyncio.Event()
        self.released = asyncio.Event()
        self.gone = asyncio.Event()
        self.calls: dict[str, Any] = {"info": {"steps": 3}, "metrics": {}, "flush_cache": {"success": True}}
        self.healthy = True

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Step, None]:
        self.requests.append(request)
        ended = False
        try:
            for step in self.script(request):
                if isinstance(step, Exception):
                    raise step
                if step == HANG:
                    self.hanging.set()
                    await self.released.wait()
                else:
                    await asyncio.sleep(0)
                    yield step
            ended = True
        finally:
            if not ended:
                self.left.append(request.rid)
                self.gone.set()

    async def abort(self, rid: str, message: str = "") -> int:
        self.aborts.append(rid)
        return sum(r.rid.startswith(rid) for r in self.requests)

    async def call(self, name: str, **arguments: Any) -> Any:
        answer = self.calls.get(name, RequestError(f"no call {name}"))
        if isinstance(answer, Exception):
            raise answer
        return answer


def output(request: GenerateRequest, ids: list[int], branch: int = 0, **fields: Any) -> RequestOutput:
    prompt = len(request.token_ids())
    return RequestOutput(request.rid, branch, ids, prompt_tokens=prompt, **{"cached_tokens": 2, **fields})


def says(
    text: Text, answer: str, *, finish: FinishReason | None = None, end: int | None = None
) -> Callable[[GenerateRequest], list[Step]]:
    """A script: every branch says `answer`, one token a step, as far as max_new_tokens lets it."""
    ids = text.encode(answer)

    def script(request: GenerateRequest) -> list[Step]:
        limit = request.sampling.max_new_tokens
        tokens = [*ids, *([end] if end is not None else [])][:limit]
        full = finish or FinishReason("stop", end)
        last = full if len(tokens) == len(ids) + (end is not None) else FinishReason("length")
        return [
            [
                output(
                    request,
                    [token],
                    branch,
                    finish=last if i == len(tokens) - 1 else None,
                    **logprobs(request, i, token),
                )
                for branch in range(request.n)
            ]
            for i, token in enumerate(tokens)
        ]

    return script


def logprobs(request: GenerateRequest, step: int, token: int) -> dict[str, Any]:
    """Made-up logprobs that tell apart tokens and ranks."""
    if not request.return_logprob:
        return {}
    top = [(-0.5 - rank, rank + 10) for rank in range(request.top_logprobs)]
    fields: dict[str, Any] = {"logprobs": [TokenLogprobs(-0.25 * (step + 1), token, top)]}
    if step == 0 and request.logprob_start >= 0:
        prompt = request.token_ids().tolist()[request.logprob_start :]
        first = request.logprob_start == 0
        fields["input_logprobs"] = [
            TokenLogprobs(None if first and i == 0 else -1.0 - i, t, [] if first and i == 0 else top)
            for i, t in enumerate(prompt)
        ]
    return fields


def model_info(vocab_size: int, **fields: Any) -> ModelInfo:
    values: dict[str, Any] = {
        "name": "tiny",
        "path": "org/tiny-model",
        "architectures": ("LlamaForCausalLM",),
        "context_length": 256,
        "vocab_size": vocab_size,
        "created": 1_700_000_000,
        "sampling_defaults": {},
    }
    return ModelInfo(**(values | fields))


def server_context(
    engine: ScriptedEngine, text: Text | None, *, model: dict[str, Any] | None = None, **config: Any
) -> ServerContext:
    vocab = Tokenizer.from_buffer(TOKENIZER).get_vocab_size()
    return ServerContext(
        ServerConfig(model_path="org/tiny-model", **config), engine, text, model_info(vocab, **(model or {}))
    )
