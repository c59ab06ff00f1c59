"""A model's chat template, run in the one sandbox of the code base.

A template is code from whoever published the model. It runs in Jinja's immutable sandbox, configured as Hugging Face
chat templates expect, with three bounds on top: the size of its source, the size of the text it builds, and the CPU
time it takes. A breach or any complaint of the template is a RequestError about `messages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError, meta, nodes

from sglcore.errors import ConfigError, RequestError
from sglcore.text.chat_messages import normalize_messages
from sglcore.text.sandbox import ChatSandbox, OverBudget

MAX_SOURCE = 1 << 20  # characters
MAX_RENDERED = 64 << 20  # characters
MAX_SECONDS = 5.0  # of CPU
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})
CONTINUE_MARK = "\u2063\u2063continue here\u2063\u2063"


class ChatTemplate:
    """One compiled template; `render` may be called from any thread.

    `variables` are the extra names the template reads, which a request may set; `reads_tools` says that it shows the
    tools it is given; `wants_parts` says that it walks
    through a message's content parts itself. Raises ConfigError if the source is too long or not Jinja.
    """

    def __init__(
        self, source: str, special_tokens: dict[str, str] | None = None, *, seconds: float = MAX_SECONDS
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise ConfigError(
                f"The chat template has {len(source)} characters, more than the {MAX_SOURCE} allowed.",
                remedy="Give a shorter one with --chat-template FILE.",
            )
        self._special = dict(special_tokens or {})
        self._seconds = seconds
        self._sandbox = ChatSandbox(max_length=MAX_RENDERED)
        try:
            tree = self._sandbox.parse(source)
            read = meta.find_undeclared_variables(tree)
            self.variables = read - RESERVED - set(self._special)
            self.reads_tools = "tools" in read
            self.wants_parts = _walks_content(tree)
            self._template = self._sandbox.guarded(tree)
        except (TemplateError, RecursionError) as error:
            raise ConfigError(
                f"The chat template is not valid Jinja: {error}.",
                remedy="Give another one with --chat-template FILE.",
            ) from None

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt text for `messages` (OpenAI's shape).

        With `continue_final_message` the text ends where the last message's content ends, so that the model goes on
        with it. Names the template does not read are ignored. Raises RequestError.
        """
        chat = normalize_messages(messages, keep_parts=self.wants_parts)
        if continue_final_message:
            _mark_end(chat)
        context = {k: v for k, v in variables.items() if k in self.variables} | self._special
        context |= {"messages": chat, "tools": tools, "documents": documents}
        context["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        text = self._run(context)
        return _cut_at_mark(text) if continue_final_message else text

    def _run(self, context: dict[str, Any]) -> str:
        try:
            with self._sandbox.budget(self._seconds):
                return "".join(self._bounded(self._template.generate(context)))
        except OverBudget as error:
            raise RequestError(
                f"The chat template gave up on these messages: {error}.",
                param="messages",
                remedy="Send fewer or shorter messages.",
            ) from None
        except RecursionError:
            raise RequestError("The chat template recurses too deeply on these messages.", param="messages") from None
        # A template is arbitrary code over a client's data: any failure in it is about this request alone.
        except Exception as error:
            raise RequestError(
                f"The chat template refused these messages: {str(error).rstrip('.') or type(error).__name__}.",
                param="messages",
                remedy="Check the roles, their order and their content.",
            ) from None

    def _bounded(self, pieces: Iterator[str]) -> Iterator[str]:
        length = 0
        for piece in pieces:
            length += len(piece)
            self._sandbox.check_length(length)
            yield piece


def _mark_end(chat: list[dict[str, Any]]) -> None:
    """Put the mark behind the text that the model shall continue."""
    last = chat[-1]
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + CONTINUE_MARK
    elif isinstance(content, list) and content and "text" in content[-1]:
        content[-1] = {**content[-1], "text": content[-1]["text"] + CONTINUE_MARK}
    else:
        raise RequestError("The last message has no text to continue.", param="continue_final_message")


def _cut_at_mark(text: str) -> str:
    end = text.rfind(CONTINUE_MARK)
    if end < 0:
        raise RequestError("The chat template drops the end of the last message.", param="continue_final_message")
    return text[:end]


def _is_content(node: nodes.Node | None, aliases: set[str]) -> bool:
    if isinstance(node, nodes.Filter | nodes.Getitem | nodes.Getattr):
        named = node.arg if isinstance(node, nodes.Getitem) else None
        if (isinstance(named, nodes.Const) and named.value == "content") or getattr(node, "attr", None) == "content":
            return True
        return isinstance(named, nodes.Slice) and _is_content(node.node, aliases)
    return isinstance(node, nodes.Name) and node.name in aliases


def _walks_content(tree: nodes.Template) -> bool:
    """Whether some loop goes over `message.content`, by that name or one it was assigned to."""
    aliases = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, aliases):
            aliases.add(assign.target.name)
    return any(_is_content(loop.iter, aliases) for loop in tree.find_all(nodes.For))
