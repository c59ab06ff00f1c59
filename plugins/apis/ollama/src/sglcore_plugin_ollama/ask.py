"""Bodies of /api/chat and /api/generate -> the bodies that the chat service takes, and its errors in Ollama's words."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.routes import RouteContext
from sglcore.contracts.services import TextService, Turn
from sglcore.errors import RequestError
from sglcore.request import INT32_MAX
from sglcore_plugin_ollama.fields import flag, record, text, unsupported, wrong
from sglcore_plugin_ollama.history import translate, with_images

# Ollama's names of options -> OpenAI's and SGLang's.
OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "num_predict": "max_tokens",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# How a model is loaded, which was settled when this server started.
INERT = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep"}
INERT |= {"use_mmap", "use_mlock", "low_vram", "numa", "f16_kv", "vocab_only"}
READ = {"model", "name", "messages", "prompt", "suffix", "system", "template", "raw", "images", "context", "format"}
READ |= {"options", "stream", "think", "tools", "keep_alive", "logprobs", "top_logprobs", "tenant", "shift", "truncate"}
EFFORTS = ("low", "medium", "high", "max")
SWITCHES = ("enable_thinking", "thinking")  # what templates call the switch for thoughts
LATEST = ":latest"
LONG_TEXT = 20_000  # characters; longer ones are tokenized in a thread

Body = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A request, understood. `body` None: the model is only to be loaded. `raw`: without template.

    model: as the client calls it. thoughts: whether they are shown.
    """

    body: Body | None
    model: str
    stream: bool
    raw: bool = False
    thoughts: bool = True


def model_of(given: Body) -> str:
    """What the client calls the model. Raises RequestError where it does not say."""
    name = text(given, "model") or text(given, "name")
    if not name:
        raise RequestError("`model` is missing.", param="model", remedy="Send it; /api/tags shows the name.")
    return name


def plain_name(asked: str, served: str) -> str:
    """A name without the tag that Ollama adds to those that have none."""
    return asked if asked == served else asked.removesuffix(LATEST)


def chat_ask(given: Body, context: RouteContext) -> Ask:
    """A body of /api/chat. Raises RequestError."""
    common, thoughts = _common(given, context)
    ask = Ask(None, model_of(given), flag(given, "stream", True), thoughts=thoughts)
    if given.get("messages", []) == []:
        return ask
    body = common | {"messages": translate(given["messages"])}
    if given.get("tools", []) != []:
        body["tools"] = given["tools"]
    return Ask(body, ask.model, ask.stream, thoughts=thoughts)


def generate_ask(given: Body, context: RouteContext) -> Ask:
    """A body of /api/generate. Raises RequestError."""
    for name, remedy in (
        ("template", "Leave it out: the model's own template is used, or with `raw` none."),
        ("context", "Use /api/chat, which takes the messages so far."),
    ):
        if given.get(name):
            raise unsupported(name, remedy)
    common, thoughts = _common(given, context)
    prompt, system, suffix = (text(given, name) for name in ("prompt", "system", "suffix"))
    raw = flag(given, "raw", False) or bool(suffix)
    ask = Ask(None, model_of(given), flag(given, "stream", True), raw, thoughts)
    images = given.get("images", [])
    if not prompt and not suffix and not images:
        return ask
    if raw:
        if images:
            raise unsupported("images", "Leave `raw` and `suffix` out.")
        body = common | {"prompt": prompt} | ({"suffix": suffix} if suffix else {})
        body.pop("chat_template_kwargs", None)
        body.pop("reasoning_effort", None)
    else:
        said = [{"role": "system", "content": system}] if system else []
        body = common | {"messages": [*said, {"role": "user", "content": with_images(prompt, images, "images")}]}
    return Ask(body, ask.model, ask.stream, raw, thoughts)


def _common(given: Body, context: RouteContext) -> tuple[Body, bool]:
    """What both endpoints share, and whether thoughts are shown."""
    if given.get("logprobs"):
        raise unsupported("logprobs", "Use /v1/chat/completions.")
    body = _options(record(given.get("options", {}), "options"))
    body["model"] = plain_name(model_of(given), context.model.name)
    if "tenant" in given:
        body["tenant"] = given["tenant"]
    thinking = _thinking(given, body, context.text)
    form = given.get("format", "")
    if isinstance(form, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}
    elif form == "json":
        body["response_format"] = {"type": "json_object"}
    elif form != "":
        raise wrong("format", "json or a JSON schema")
    # The chat service counts what nobody reads; the prefix keeps a stranger from being taken for a field of OpenAI's.
    return body | {f"api.{name}": True for name in given if name not in READ}, thinking


def _options(options: Body) -> Body:
    body: Body = {}
    for name, value in options.items():
        if name in OPTIONS and not _no_option(name, value):
            body[OPTIONS[name]] = -1 if name == "top_k" and value == 0 else value
        elif name not in OPTIONS and name not in INERT:
            body[f"options.{name}"] = True
    return body


def _no_option(name: str, value: Any) -> bool:
    """Values that ask for nothing: no bound, a random seed, no stop strings."""
    free: dict[str, tuple[Any, ...]] = {"num_predict": (-2, -1, 0), "seed": (-1,), "stop": ([], "")}
    return type(value) is not bool and value in free.get(name, ())


def _thinking(given: Body, body: Body, service: TextService | None) -> bool:
    think = given.get("think")
    if think is None:
        return True
    if not isinstance(think, bool) and think not in EFFORTS:
        raise wrong("think", f"true, false, {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}")
    if isinstance(think, str):
        body["reasoning_effort"] = think
    variables = service.template_variables if service is not None else frozenset()
    if switches := [name for name in SWITCHES if name in variables]:
        body["chat_template_kwargs"] = dict.fromkeys(switches, think is not False)
    return think is not False


async def begin(context: RouteContext, ask: Ask) -> Turn:
    """The turn of an ask. `num_predict` is a bound, so one that the context cannot hold is cut down.

    Raises RequestError in Ollama's words.
    """
    assert ask.body is not None
    try:
        if ask.raw:
            return await context.chat.complete(await _sized(context, ask.body))
        return await _begin(context, ask.body)
    except RequestError as error:
        raise in_our_words(error) from None


async def _begin(context: RouteContext, body: Body) -> Turn:
    limit = body.get("max_tokens")
    free = {name: value for name, value in body.items() if name != "max_tokens"}
    if type(limit) is int and context.model.context_length <= limit <= INT32_MAX:
        return await context.chat.begin(free)
    try:
        return await context.chat.begin(body)
    except RequestError as error:
        if (error.code, error.param) != ("context_length_exceeded", "max_tokens"):
            raise
    return await context.chat.begin(free)


async def _sized(context: RouteContext, body: Body) -> Body:
    """A completion with its bound: /v1/completions has a small one of its own where none is given."""
    service, prompt = context.text, body["prompt"]
    limit = body.get("max_tokens", INT32_MAX)
    if service is None or type(limit) is not int:
        return body  # refused by the chat service
    whole = prompt + body.get("suffix", "")
    ids = service.encode(whole) if len(whole) <= LONG_TEXT else await asyncio.to_thread(service.encode, whole)
    if "suffix" not in body and ids:
        body = body | {"prompt": ids}
    spare = 0 if "suffix" not in body else 32  # the marks that a completion template sets around them
    return body | {"max_tokens": min(limit, max(context.model.context_length - len(ids) - spare, 1))}


def in_our_words(error: RequestError) -> RequestError:
    """The same refusal, its field and the fields in its text called as the client has called them."""
    return RequestError(
        re.sub(r"`([^`]*)`", lambda found: f"`{_ours(found[1])}`", error.message),
        param=None if error.param is None else _ours(error.param),
        code=error.code,
        status=error.status,
        remedy=error.remedy,
        retry_after=error.retry_after,
    )


_OURS = {theirs: f"options.{ours}" for ours, theirs in OPTIONS.items()}
_OURS |= {"response_format": "format", "reasoning_effort": "think"}


def _ours(name: str) -> str:
    head, bracket, tail = name.partition("[")
    return _OURS.get(head, head) + bracket + tail
