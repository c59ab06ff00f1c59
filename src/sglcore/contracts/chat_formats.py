"""Chat formats: messages to prompt in code, where no template will do. Provisional: drafted, not yet called.

A checkpoint's own Jinja template is used wherever there is one. A chat format is for models whose prompt cannot be
written as a template, or whose template is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    from sglcore.contracts.services import TextService


@dataclass(frozen=True, kw_only=True)
class ChatFormatSpec(Spec):
    """A format. `factory(context: ChatFormatContext) -> ChatFormat`, once per API process; imports no torch.

    architectures: taken without being named for checkpoints of these architectures that have no template.
    roles: roles of messages that it renders; a request with another is refused by name.
    tools: renders tool definitions, calls and results.
    arguments: names that `chat_template_kwargs` may set.
    stops: strings that end an answer; added to those of the request.
    tool_parser: registered name of the tool parser that reads what the model then writes; "" for none.
    reasoning_parser: likewise for reasoning.
    """

    architectures: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("system", "user", "assistant")
    tools: bool = False
    arguments: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    tool_parser: str = ""
    reasoning_parser: str = ""


@dataclass(frozen=True)
class ChatFormatContext:
    """What a format is built with.

    text: the model's tokenizer. Its `render_chat` may be used, where there is a template to build upon.
    config: the checkpoint's config.json.
    options: the plugin's own settings, from its flags (`EngineConfig.extras`).
    """

    text: TextService
    config: Mapping[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


class ChatFormat(Protocol):
    """Renders conversations. Lives in an API process; may be called in worker threads, several at once: no state."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **arguments: Any,
    ) -> str | list[int]:
        """The prompt: text, which is tokenized without adding special tokens, or token ids.

        messages: in OpenAI's shape, checked (roles as declared, content a string or a list of parts); read only.
        tools: OpenAI's function definitions. add_generation_prompt: end where the assistant's answer begins.
        continue_final_message: the last message is the answer's beginning and is left open. arguments: those the spec
        names. A client's text must not turn into special tokens: a format that can prevent it returns ids. Raises
        RequestError with the field for what cannot be rendered.
        """
        ...
